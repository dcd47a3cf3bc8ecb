"""PyTorch's losses of large vocabularies, as calls to be timed."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np


def calls_of_torch(
    hidden: np.ndarray, kernel: np.ndarray, labels: np.ndarray, cutoffs: Sequence[int]
) -> dict[str, Callable[[], Any] | None]:
    """PyTorch's own; None where it is not installed, or too old."""
    try:
        import torch

        chunked = torch.nn.LinearCrossEntropyOptions
    except (ImportError, AttributeError):
        return {"PyTorch: missing": None}
    on_gpu = torch.cuda.is_available() and jax.default_backend() == "gpu"
    device = "cuda" if on_gpu else "cpu"
    torch.set_num_threads(os.cpu_count() or 1)
    states = torch.tensor(hidden, device=device, requires_grad=True)
    weight = torch.tensor(kernel.T.copy(), device=device, requires_grad=True)
    targets = torch.tensor(labels, device=device).long()

    def gradient(loss: Callable[[], Any], parameters: list[Any]) -> Callable[[], None]:
        def run() -> None:
            for parameter in (states, *parameters):
                parameter.grad = None
            loss().backward()
            if on_gpu:
                torch.cuda.synchronize()

        return run

    def linear(options: Any) -> Callable[[], None]:
        function = torch.nn.functional.linear_cross_entropy
        return gradient(lambda: function(states, weight, targets, options=options), [weight])

    calls: dict[str, Callable[[], Any] | None] = {
        "PyTorch, plain": linear(None),
        "PyTorch, chunks": linear(chunked()),
        "PyTorch, chunks of 512": linear(chunked(batch_chunk_size=512, chunking_method=None)),
    }
    module = torch.nn.AdaptiveLogSoftmaxWithLoss(*kernel.shape, list(cutoffs)).to(device)
    parameters = list(module.parameters())
    calls["PyTorch, adaptive"] = gradient(lambda: module(states, targets).loss, parameters)
    return calls
