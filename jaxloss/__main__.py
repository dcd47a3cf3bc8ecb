"""The demonstration, `python -m jaxloss`: does weighting the rare classes help?

A small Flax NNX classifier learns scikit-learn's handwritten digits, four of the ten thinned to
a tenth, twice: with the mean cross-entropy and with its class-weighted mean. Initial weights and
batches are the same both times. Half of the digits, not thinned, are held out and judge both.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

import jaxloss

# Extras are imported inside functions: without them, --help and the advice must still work.
EXTRAS = ("flax", "matplotlib", "optax", "rich", "sklearn")
if TYPE_CHECKING:
    from flax import nnx
    from rich.table import Table

CLASSES = 10
THINNED = (3, 5, 8, 9)  # the digits most easily taken for one another
KEPT = 0.1  # of a thinned class's training digits
BATCH = 64
CHECKS = 60  # how often, about, a training stops to score the held-out digits

Objective = Callable[[jax.Array, ArrayLike], jax.Array]


class Digits(NamedTuple):
    """Images, 64 brightnesses in [0, 1] a row, and their labels, 0 to 9."""

    images: np.ndarray
    labels: np.ndarray
    held_out_images: np.ndarray
    held_out_labels: np.ndarray


class Curves(NamedTuple):
    """What one training measured at each check; the last check is after the last step."""

    steps: np.ndarray  # (checks,)
    losses: np.ndarray  # (checks,), the mean over the steps since the check before
    recalls: np.ndarray  # (checks, classes), on the held-out digits

    @property
    def balanced_accuracy(self) -> np.ndarray:
        """The mean of the classes' recalls."""
        return self.recalls.mean(axis=1)


def load_imbalanced_digits(seed: int) -> Digits:
    """Splits the digits into stratified halves and thins four classes of the training half."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images, labels = (images / 16).astype(np.float32), labels.astype(np.int32)
    training, held_out = train_test_split(
        np.arange(len(labels)), test_size=0.5, stratify=labels, random_state=seed
    )
    kept = []
    for digit in range(CLASSES):
        rows = training[labels[training] == digit]  # already in random order
        kept.append(rows[: round(KEPT * len(rows))] if digit in THINNED else rows)
    rows = np.concatenate(kept)
    return Digits(images[rows], labels[rows], images[held_out], labels[held_out])


def make_objectives(training_labels: np.ndarray) -> dict[str, Objective]:
    """Makes the two objectives: a class's weight is inverse to its share of the labels."""
    counts = np.bincount(training_labels, minlength=CLASSES)
    # Their mean over the training set is 1.
    class_weights = jnp.asarray(len(training_labels) / (CLASSES * counts), jnp.float32)
    plain = jaxloss.mean(jaxloss.cross_entropy)
    weighted = jaxloss.mean(jaxloss.weighted(jaxloss.cross_entropy))

    def class_weighted(logits: jax.Array, labels: ArrayLike) -> jax.Array:
        return weighted(logits, labels, weights=class_weights[labels])

    return {"plain": plain, "class-weighted": class_weighted}


def make_classifier(seed: int) -> nnx.Sequential:
    """Makes a perceptron with one hidden layer."""
    from flax import nnx

    rngs = nnx.Rngs(seed)
    return nnx.Sequential(
        nnx.Linear(64, 32, rngs=rngs), nnx.relu, nnx.Linear(32, CLASSES, rngs=rngs)
    )


def recall_per_class(predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Measures what share of each class's examples was recognised."""
    return np.array([np.mean(predictions[labels == digit] == digit) for digit in range(CLASSES)])


def train(
    objective: Objective,
    digits: Digits,
    batches: np.ndarray,
    seed: int,
    watch: Callable[[np.ndarray], Iterable[np.ndarray]],
) -> Curves:
    """Trains a fresh classifier with Adam and scores it on the way.

    Args:
        objective: The loss of a batch, from its logits and labels.
        digits: The data.
        batches: The training digits of each step, row numbers of shape `(steps, BATCH)`.
        seed: Of the initial weights.
        watch: Hands on the batches one by one and shows how far the training is.

    Returns:
        The training loss and the held-out recalls over the steps.
    """
    import optax
    from flax import nnx

    model = make_classifier(seed)
    optimizer = nnx.Optimizer(model, optax.adam(1e-3), wrt=nnx.Param)

    @nnx.jit
    def update(
        model: nnx.Sequential,
        optimizer: nnx.Optimizer[nnx.Sequential],
        images: ArrayLike,
        labels: ArrayLike,
    ) -> jax.Array:
        loss, gradient = nnx.value_and_grad(lambda model: objective(model(images), labels))(model)
        optimizer.update(model, gradient)
        return loss

    @nnx.jit
    def predict(model: nnx.Sequential, images: ArrayLike) -> jax.Array:
        return model(images).argmax(axis=-1)

    interval = max(1, len(batches) // CHECKS)
    steps, losses, recalls, since_check = [], [], [], []
    for step, batch in enumerate(watch(batches), start=1):
        since_check.append(update(model, optimizer, digits.images[batch], digits.labels[batch]))
        if (len(batches) - step) % interval == 0:
            predictions = np.asarray(predict(model, digits.held_out_images))
            steps.append(step)
            losses.append(np.mean(since_check))
            recalls.append(recall_per_class(predictions, digits.held_out_labels))
            since_check = []
    return Curves(np.array(steps), np.array(losses), np.array(recalls))


def compare(digits: Digits, steps: int, seed: int) -> dict[str, Curves]:
    """Trains once with each objective, under a progress bar."""
    from rich.progress import Progress

    batches = np.random.default_rng(seed).integers(len(digits.labels), size=(steps, BATCH))
    curves = {}
    with Progress() as progress:
        for name, objective in make_objectives(digits.labels).items():
            watch = functools.partial(progress.track, description=f"{name:>14}")
            curves[name] = train(objective, digits, batches, seed, watch)
    return curves


def mark(digit: int, note: str) -> str:
    """Names a digit, with a note if it is one of the thinned."""
    return f"{digit}{note}" if digit in THINNED else f"{digit}"


def tabulate(digits: Digits, curves: dict[str, Curves]) -> Table:
    """Lays out the final scores on the held-out digits, in percent."""
    from rich.table import Table

    plain, weighted = curves.values()
    gaps = 100 * (weighted.balanced_accuracy - plain.balanced_accuracy)
    widest = np.abs(gaps).argmax()
    held_out = len(digits.held_out_labels)
    table = Table(
        title=f"In percent, on {held_out} held-out digits, after {plain.steps[-1]} steps",
        caption=f"The balanced accuracies differed most at step {plain.steps[widest]}, "
        f"by {gaps[widest]:+.1f}.",
    )
    table.add_column("")
    for header in ("trained on", *curves, "difference"):
        table.add_column(header, justify="right")

    def add_row(name: str, count: int, before: float, after: float) -> None:
        scores = f"{100 * before:.1f}", f"{100 * after:.1f}", f"{100 * (after - before):+.1f}"
        table.add_row(name, str(count), *scores)

    accuracies = plain.balanced_accuracy[-1], weighted.balanced_accuracy[-1]
    add_row("balanced accuracy", len(digits.labels), *accuracies)
    table.add_section()
    recalls = zip(plain.recalls[-1], weighted.recalls[-1], strict=True)
    for digit, pair in enumerate(recalls):
        count = int(np.count_nonzero(digits.labels == digit))
        add_row(f"recall of {mark(digit, ', thinned')}", count, *pair)
    return table


def draw(curves: dict[str, Curves], path: Path) -> None:
    """Draws both trainings and their final recalls into a picture."""
    from matplotlib.figure import Figure  # not pyplot: a figure of our own needs no display

    figure = Figure(figsize=(13, 4.5), layout="constrained")
    thinned = ", ".join(map(str, THINNED))
    figure.suptitle(f"Handwritten digits, with a tenth of {thinned} to train on", x=0.01, ha="left")
    loss, accuracy, recall = figure.subplots(1, 3)
    for shift, (name, curve) in zip((-0.2, 0.2), curves.items(), strict=True):
        loss.plot(curve.steps, curve.losses, label=name)
        accuracy.plot(curve.steps, 100 * curve.balanced_accuracy)
        recall.bar(np.arange(CLASSES) + shift, 100 * curve.recalls[-1], width=0.4)
    loss.set(title="Training digits", xlabel="step", ylabel="loss, each its own", yscale="log")
    accuracy.set(title="Held-out digits", xlabel="step", ylabel="balanced accuracy (%)")
    recall.set(title="Held-out digits, last step", xlabel="digit (* thinned)", ylabel="recall (%)")
    recall.set_xticks(range(CLASSES), [mark(digit, "*") for digit in range(CLASSES)])
    for axes in (loss, accuracy, recall):
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    figure.legend(loc="outside upper right", ncols=len(curves))
    figure.savefig(path, dpi=120)


def whole_number(text: str, least: int) -> int:
    """Reads a whole number that fits 32 bits, as scikit-learn's seeds must."""
    if not text.isdecimal() or not least <= int(text) < 2**32:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to 2**32-1")
    return int(text)


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Reads the command line; `None` stands for the program's own."""
    parser = argparse.ArgumentParser("python -m jaxloss", description=str(__doc__).split("\n\n")[1])
    count, natural = (functools.partial(whole_number, least=least) for least in (1, 0))
    parser.add_argument(
        "--steps",
        type=count,
        default=2000,
        help="optimizer steps of each training (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=natural,
        default=0,
        help="of split, batches and weights (default: %(default)s)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("jaxloss-demo"),
        help="directory for the picture (default: %(default)s)",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Runs the demonstration."""
    options = parse_arguments(arguments)
    missing = [name for name in EXTRAS if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f"python -m jaxloss needs {', '.join(missing)}: pip install 'jaxloss[demo]'")
    try:
        options.out.mkdir(parents=True, exist_ok=True)  # now, and not after the training
    except OSError as error:
        sys.exit(f"python -m jaxloss cannot make the directory of --out: {error}")
    from rich.console import Console

    digits = load_imbalanced_digits(options.seed)
    curves = compare(digits, options.steps, options.seed)
    Console().print(tabulate(digits, curves))
    picture = options.out / "digits.png"
    draw(curves, picture)
    print(f"The curves: {picture}")


if __name__ == "__main__":
    main()
