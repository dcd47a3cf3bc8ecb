"""The peers, and inputs that they and we are given alike."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="make parity installs PyTorch")
torch.set_num_threads(1)  # The arrays are small, and the tests run side by side.


@pytest.fixture(autouse=True)
def peers_promote(lenient_promotion):
    """Optax relies on promotion."""


@pytest.fixture(scope="session")
def values():
    """One array for each name that the README's tables use."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 16)
    label_lists = np.stack([rng.permutation(5) for _ in range(16)])
    label_lists[np.arange(16), rng.integers(0, 5, 16)] = -1
    classes = rng.uniform(size=(16, 5)) < 0.5
    classes[np.arange(16), labels] = True
    y01 = rng.integers(0, 2, (16, 5))
    true_masks = np.eye(5)[rng.integers(0, 5, (2, 3, 4))]
    mask_weights = 1 / (true_masks.sum((0, 1, 2)) ** 2 + 1e-7)
    frame_lengths, word_lengths = np.array([6, 8, 7]), np.array([1, 3, 2])
    return {
        "x": rng.normal(size=(16, 5)) * 2,
        "y": rng.normal(size=(16, 5)) * 2,
        "y01": y01.astype(float),
        "binary": y01,
        "signs": rng.choice([-1.0, 1.0], (16, 5)),
        "row_signs": rng.choice([-1.0, 1.0], 16),
        "probs": rng.uniform(0.01, 0.99, (16, 5)),
        "weights": rng.uniform(0.5, 2, (16, 5)),
        "class_weights": rng.uniform(0.5, 2, 5),
        "logits": rng.normal(size=(16, 5)) * 3,
        "log_probs": np.log(rng.dirichlet(np.ones(5), 16)),
        "labels": labels,
        "label_lists": label_lists,
        "one_hot": np.eye(5)[labels],
        "classes": classes,
        "some_ignored": np.where(rng.uniform(size=16) < 0.3, -100, labels),
        "probabilities": rng.dirichlet(np.ones(5), 16),
        "relevance": rng.integers(0, 4, (16, 5)).astype(float),
        "kernel": rng.normal(size=(7, 5)),
        "counts": rng.uniform(0.1, 6, (16, 5)),
        "rates": rng.uniform(0.3, 5, (16, 5)),
        "variances": rng.uniform(0.02, 3, (16, 5)),
        "anchors": rng.normal(size=(16, 5)) * 2,
        "positives": np.sum(labels[:, None] == labels, 1) - 1.0,
        "image_logits": rng.normal(size=(2, 5, 3, 4)) * 3,
        "image_labels": rng.integers(0, 5, (2, 3, 4)),
        "mask": rng.normal(size=(2, 3, 4)),
        "true_mask": true_masks[..., 0],
        "masks": rng.normal(size=(2, 3, 4, 5)),
        "true_masks": true_masks,
        "mask_weights": np.broadcast_to(mask_weights, (2, 5)),
        "frames": rng.normal(size=(3, 8, 6)) * 2,
        "frame_lengths": frame_lengths,
        "frame_paddings": (np.arange(8) >= frame_lengths[:, None]).astype(float),
        "words": rng.integers(1, 6, (3, 3)),
        "word_lengths": word_lengths,
        "word_paddings": (np.arange(3) >= word_lengths[:, None]).astype(float),
    }
