"""The peers, and inputs that they and we are given alike."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="make parity installs PyTorch")


@pytest.fixture(autouse=True)
def peers_promote(lenient_promotion):
    """Optax relies on promotion."""


@pytest.fixture
def values():
    """One array for each name that the README's tables use."""
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(5), 16)
    labels = rng.integers(0, 5, 16)
    logits = rng.normal(size=(16, 5)) * 3
    return {
        "x": rng.normal(size=(16, 5)) * 2,
        "y": rng.normal(size=(16, 5)) * 2,
        "y01": rng.integers(0, 2, (16, 5)).astype(float),
        "probs": rng.uniform(0.01, 0.99, (16, 5)),
        "weights": rng.uniform(0.5, 2, (16, 5)),
        "class_weights": rng.uniform(0.5, 2, 5),
        "logits": logits,
        "log_probs": np.log(rng.dirichlet(np.ones(5), 16)),
        "labels": labels,
        "one_hot": np.eye(5)[labels],
        "some_ignored": np.where(rng.uniform(size=16) < 0.3, -100, labels),
        "probabilities": probabilities,
        "image_logits": rng.normal(size=(2, 5, 3, 4)) * 3,
        "image_labels": rng.integers(0, 5, (2, 3, 4)),
    }
