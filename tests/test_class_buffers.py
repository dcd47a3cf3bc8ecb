"""Buffers keep the newest of each class, and draw all classes that have any equally often."""

import collections
import functools
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint
import pytest

import jaxloss
from jaxloss import ClassBuffers
from tests.helpers import exhaustive

CLASSES, CAPACITY = 4, 5
EXAMPLE = {"image": jnp.zeros((2, 3), jnp.bfloat16), "number": (jnp.zeros((), jnp.int32), None)}

push = jax.jit(ClassBuffers.push)
sample = jax.jit(ClassBuffers.sample, static_argnames="n")


def empty(classes=CLASSES, capacity=CAPACITY):
    return ClassBuffers.init(EXAMPLE, classes, capacity)


def numbered(start, size):
    """A batch of examples that can be told apart."""
    numbers = jnp.arange(start, start + size, dtype=jnp.int32)
    images = jnp.broadcast_to(numbers[:, None, None], (size, 2, 3)).astype(jnp.bfloat16)
    return {"image": images, "number": (numbers, None)}


def contents(buffers):
    """The numbers in each buffer, the oldest first."""
    numbers = np.asarray(buffers.examples["number"][0])
    rows = []
    for row, size, end in zip(
        numbers, np.asarray(buffers.sizes), np.asarray(buffers.ends), strict=True
    ):
        rows.append(np.roll(row, -end)[-size:].tolist() if size else [])
    return rows


def deques(batches, classes=CLASSES, capacity=CAPACITY):
    """The same by Python's own ring buffers."""
    kept = [collections.deque(maxlen=capacity) for _ in range(classes)]
    for number, label in enumerate(itertools.chain(*batches)):
        if 0 <= label < classes:
            kept[label].append(number)
    return [list(row) for row in kept]


def filled(batches, classes=CLASSES, capacity=CAPACITY):
    buffers, start = empty(classes, capacity), 0
    for labels in batches:
        buffers = push(buffers, numbered(start, len(labels)), jnp.asarray(labels))
        start += len(labels)
    return buffers


def stacked(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


BATCHES = {
    "fewer than the capacity": [[0, 1, 0, 3]],
    "exactly the capacity": [[2] * 5],
    "wrapping by one": [[2] * 5, [2]],
    "wrapping within a batch": [[1, 1, 1], [1, 0, 1, 1, 1]],
    "one batch of more than the capacity": [[3] * 13],
    "the same, on top of others": [[3, 3, 0], [3, 0] * 8 + [3], [3]],
    "no class": [[-1, 0, 4, 0, 100, -4, -5, 1], [2**31 - 1, -(2**31), 2]],
    "an empty batch": [[0, 1], [], [2]],
}


@pytest.mark.parametrize("name", BATCHES)
def test_the_newest_stay_and_the_oldest_go(name):
    batches = [np.array(labels, np.int32) for labels in BATCHES[name]]
    assert contents(filled(batches)) == deques(batches)


def test_any_batches(rng):
    sizes = (7, 1, 30, 7, 1, 30, 7)
    for _ in range(5):
        batches = [rng.integers(-2, CLASSES + 2, size).astype(np.int32) for size in sizes]
        buffers = filled(batches)
        assert contents(buffers) == deques(batches)
        # What is not told apart by contents: nothing is torn.
        images, numbers = buffers.examples["image"], buffers.examples["number"][0]
        np.testing.assert_array_equal(images[..., 0, 0], numbers.astype(jnp.bfloat16))
        np.testing.assert_array_equal(images, np.broadcast_to(images[..., :1, :1], images.shape))


@pytest.mark.parametrize("capacity", [1, 3, *exhaustive(100)])
@pytest.mark.parametrize("classes", [1, *exhaustive(7), 300])
def test_any_sizes(classes, capacity, rng):
    batches = [rng.integers(0, classes, 20).astype(np.int32) for _ in range(3)]
    buffers = filled(batches, classes, capacity)
    assert (buffers.classes, buffers.capacity) == (classes, capacity)
    assert contents(buffers) == deques(batches, classes, capacity)


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.uint32])
def test_labels_of_other_dtypes_name_the_same_classes(dtype):
    labels = jnp.array([0, 3, 4, 100, 3]).astype(dtype)
    assert contents(push(empty(), numbered(0, 5), labels)) == [[0], [], [], [1, 4]]
    # 44 + 256 is no int8; were it counted in one, it would be 44.
    assert push(empty(300), numbered(0, 2), jnp.array([44, 7]).astype(dtype)).sizes.sum() == 2


def test_wide_labels_of_numpy_do_not_wrap():
    labels = np.array([2**32, 2**32 + 1, -(2**32), 1])
    assert contents(empty().push(numbered(0, 4), labels)) == [[], [3], [], []]


def test_the_order_within_a_batch_is_irrelevant_to_counts(rng):
    labels = rng.integers(0, CLASSES, 12).astype(np.int32)
    sizes = {tuple(np.asarray(filled([rng.permutation(labels)]).sizes)) for _ in range(10)}
    assert sizes == {tuple(np.minimum(np.bincount(labels, minlength=CLASSES), CAPACITY))}


def test_structure_and_dtypes_stay():
    def described(tree):
        return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)

    pushed = push(empty(), numbered(0, 3), jnp.array([0, 1, 1]))
    assert described(pushed) == described(empty())
    drawn, labels = sample(pushed, jax.random.key(0), n=6)
    assert described(drawn) == described(numbered(0, 6))
    assert labels.shape == (6,) and labels.dtype == jnp.int32


def test_with_x64_the_numbers_are_the_same(x64):
    buffers = push(empty(), numbered(0, 3), jnp.array([0, 1, 1], jnp.int64))
    assert contents(buffers) == [[0], [1, 2], [], []]
    assert buffers.sizes.dtype == buffers.ends.dtype == jnp.int32
    assert sample(buffers, jax.random.key(0), n=6)[1].dtype == jnp.int32


def test_only_shapes_and_dtypes_of_the_example_count():
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), EXAMPLE)
    ones = jax.tree.map(jnp.ones_like, EXAMPLE)
    for example in (shapes, ones):
        buffers = ClassBuffers.init(example, CLASSES, CAPACITY)
        jax.tree.map(np.testing.assert_array_equal, buffers, empty())


def test_numpy_float64_is_stored_as_jax_computes():
    buffers = ClassBuffers.init(np.zeros(3), 2, 4).push(np.ones((2, 3)), np.array([0, 1]))
    assert buffers.examples.dtype == jnp.float32


@pytest.mark.parametrize(
    ("present", "n"), [((0, 1, 2, 3), 8), ((0, 1, 2, 3), 10), ((1, 3), 7), ((2,), 5), ((0, 3), 1)]
)
def test_classes_that_are_present_are_drawn_equally(present, n):
    # Of very different frequencies.
    labels = np.repeat(np.array(present), [1 + 40 * (i == 0) for i in range(len(present))])
    buffers = filled([labels.astype(np.int32)])
    seen = np.zeros(CLASSES)
    for seed in range(30):
        _, labels = sample(buffers, jax.random.key(seed), n=n)
        # Within any run of rows too.
        for start in range(n):
            counts = np.bincount(labels[start:], minlength=CLASSES)
            assert set(np.flatnonzero(counts)) <= set(present)
            counts = counts[list(present)]
            assert counts.max() - counts.min() <= 1
        seen += np.bincount(labels, minlength=CLASSES)
    # Who has one more is chance's doing, not always the same class's.
    if n % len(present):
        assert (seen[list(present)] > 30 * (n // len(present))).all()


def test_what_is_drawn_was_stored_under_its_label():
    buffers = filled([np.array([0, 3, 3, 1, 3, 1, 3, 3, 3], np.int32)])
    kept = contents(buffers)
    drawn, labels = sample(buffers, jax.random.key(0), n=300)
    for number, label in zip(np.asarray(drawn["number"][0]), np.asarray(labels), strict=True):
        assert number in kept[label]
    # And each of them is drawn some time.
    assert set(np.asarray(drawn["number"][0]).tolist()) == set(itertools.chain(*kept))


def test_draws_within_a_class_are_uniform():
    buffers = filled([np.zeros(5, np.int32)])
    drawn, _ = sample(buffers, jax.random.key(1), n=5000)
    counts = np.bincount(drawn["number"][0])
    # Chi-squared of four degrees of freedom: beyond 23.5 once in ten thousand; the key is fixed.
    assert np.sum((counts - 1000) ** 2 / 1000) < 23.5


def test_without_examples_labels_are_no_class_and_the_loss_leaves_them_out():
    drawn, labels = sample(empty(), jax.random.key(0), n=3)
    np.testing.assert_array_equal(labels, [-1, -1, -1])
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(drawn))
    loss = jaxloss.mean(jaxloss.ignoring(jaxloss.cross_entropy, -1))
    value, gradient = jax.value_and_grad(loss)(jnp.ones((3, CLASSES)), labels)
    assert value == 0 and not np.any(gradient)


def test_drawn_labels_that_are_no_class_are_not_stored():
    drawn, labels = sample(empty(), jax.random.key(0), n=3)
    jax.tree.map(np.testing.assert_array_equal, push(empty(), drawn, labels), empty())


def test_in_a_scan(rng):
    labels = rng.integers(-1, CLASSES, (6, 8)).astype(np.int32)
    examples = stacked([numbered(8 * i, 8) for i in range(6)])

    @jax.jit
    def run(buffers, keys):
        def step(buffers, batch):
            examples, labels, key = batch
            buffers = buffers.push(examples, labels)
            return buffers, buffers.sample(key, 4)[1]

        return jax.lax.scan(step, buffers, (examples, labels, keys))

    buffers, drawn = run(empty(), jax.random.split(jax.random.key(0), 6))
    assert contents(buffers) == deques(labels)
    for step, row in enumerate(np.asarray(drawn)):
        assert set(row) <= set(labels[: step + 1].ravel()) - {-1}


def test_under_vmap(rng):
    """Several buffers at once, such as one for each model of an ensemble."""
    labels = rng.integers(-1, CLASSES + 1, (3, 12)).astype(np.int32)
    each = [numbered(0, 12)] * 3
    keys = jax.random.split(jax.random.key(0), 3)
    many = jax.jit(jax.vmap(ClassBuffers.push))(stacked([empty()] * 3), stacked(each), labels)
    draws = jax.jit(jax.vmap(functools.partial(ClassBuffers.sample, n=5)))(many, keys)
    for i in range(3):
        one = push(empty(), each[i], labels[i])
        jax.tree.map(
            np.testing.assert_array_equal, one, jax.tree.map(lambda leaf, i=i: leaf[i], many)
        )
        draw = sample(one, keys[i], n=5)
        jax.tree.map(
            np.testing.assert_array_equal, draw, jax.tree.map(lambda leaf, i=i: leaf[i], draws)
        )


def structs(tree):
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)


@pytest.mark.optimized
def test_donated_buffers_are_stored_into_in_place():
    buffers = ClassBuffers.init(jnp.zeros(64), 10, 1000)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(buffers))
    batch = jnp.ones((256, 64)), jnp.zeros(256, jnp.int32)
    donated = jax.jit(ClassBuffers.push, donate_argnums=0)
    memory = donated.lower(*structs((buffers, *batch))).compile().memory_analysis()
    assert memory.alias_size_in_bytes == size
    assert memory.temp_size_in_bytes < 0.01 * size
    donated(buffers, *batch)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(buffers))


@pytest.mark.optimized
def test_a_scan_of_donated_buffers_copies_none():
    buffers = ClassBuffers.init(jnp.zeros(64), 10, 1000)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(buffers))
    batches = jnp.ones((8, 32, 64)), jnp.zeros((8, 32), jnp.int32)

    def run(buffers, batches, key):
        def step(buffers, batch):
            buffers = buffers.push(*batch)
            return buffers, buffers.sample(key, 16)

        return jax.lax.scan(step, buffers, batches)

    program = jax.jit(run, donate_argnums=0).lower(*structs((buffers, batches, jax.random.key(0))))
    memory = program.compile().memory_analysis()
    assert memory.alias_size_in_bytes == size
    assert memory.temp_size_in_bytes < 0.02 * size


def test_a_checkpoint_brings_them_back(tmp_path):
    buffers = filled([np.array([0, 3, 3, 3, 3, 3, 3, 1], np.int32)])
    with orbax.checkpoint.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / "buffers", buffers)
        checkpointer.wait_until_finished()
        restored = checkpointer.restore(tmp_path / "buffers", jax.eval_shape(empty))
    assert isinstance(restored, ClassBuffers)
    jax.tree.map(np.testing.assert_array_equal, restored, buffers)
    assert contents(push(restored, numbered(8, 1), jnp.array([3])))[3] == [3, 4, 5, 6, 8]


def test_checked_finds_a_label_that_is_neither_a_class_nor_left_out():
    checked = jaxloss.checked(push)
    assert contents(checked(empty(), numbered(0, 2), jnp.array([-1, 3]))) == [[], [], [], [1]]
    message = (
        "ClassBuffers.push: labels must be classes from 0 to 3, got 4 at index (1,); to leave an "
        "example out, give it the label -1."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        checked(empty(), numbered(0, 2), jnp.array([-1, 4]))
    with pytest.raises(ValueError, match="got 255 at index"):
        checked(empty(), numbered(0, 2), jnp.array([0, 255], jnp.uint8))


LABELS = jnp.zeros(2, jnp.int32)
VECTORS = ClassBuffers.init(jnp.zeros(3), 2, 4)
BAD_CALLS = {
    "ClassBuffers.init: classes must be at least 1, got 0": (
        ValueError,
        lambda: ClassBuffers.init(jnp.zeros(3), 0, 4),
    ),
    "ClassBuffers.init: capacity must be an integer, got float 4.0": (
        TypeError,
        lambda: ClassBuffers.init(jnp.zeros(3), 2, 4.0),
    ),
    "ClassBuffers.init: example must have an array at least, got dict {}": (
        ValueError,
        lambda: ClassBuffers.init({}, 2, 4),
    ),
    "ClassBuffers.push: labels must be integers (class indices), got float32 of shape (2,)": (
        TypeError,
        lambda: VECTORS.push(jnp.zeros((2, 3)), jnp.zeros(2)),
    ),
    "ClassBuffers.push: labels must have the shape (batch,), got (2, 1)": (
        ValueError,
        lambda: VECTORS.push(jnp.zeros((2, 3)), LABELS[:, None]),
    ),
    "ClassBuffers.push: labels must have the shape (batch,), got ()": (
        ValueError,
        lambda: VECTORS.push(jnp.zeros(3), 0),
    ),
    "ClassBuffers.push: examples must have the shape (2, 3), one example for each of the 2 "
    "labels, got (3,)": (ValueError, lambda: VECTORS.push(jnp.zeros(3), LABELS)),
    "ClassBuffers.push: examples['image'] must have the shape (2, 2, 3), one example": (
        ValueError,
        lambda: empty().push(numbered(0, 3), LABELS),
    ),
    "ClassBuffers.push: examples must be float32, as it was to init, got bfloat16": (
        TypeError,
        lambda: VECTORS.push(jnp.zeros((2, 3), jnp.bfloat16), LABELS),
    ),
    "ClassBuffers.push: examples must have the structure that init was given, "
    "PyTreeDef(*), got PyTreeDef((*,))": (
        ValueError,
        lambda: VECTORS.push((jnp.zeros((2, 3)),), LABELS),
    ),
    "ClassBuffers.push: a batch times the classes must be less than 2^32, got 65536 examples and "
    "65536 classes; push fewer at a time.": (
        ValueError,
        lambda: jax.eval_shape(
            ClassBuffers.push,
            jax.eval_shape(lambda: ClassBuffers.init(jnp.zeros(3), 2**16, 1)),
            jax.ShapeDtypeStruct((2**16, 3), jnp.float32),
            jax.ShapeDtypeStruct((2**16,), jnp.int32),
        ),
    ),
    "ClassBuffers.sample: n must be at least 1, got 0": (
        ValueError,
        lambda: VECTORS.sample(jax.random.key(0), 0),
    ),
    "ClassBuffers.sample: n must be an integer, got int32 of shape (); under jit, "
    "bind it with functools.partial or mark it static.": (
        TypeError,
        lambda: jax.jit(ClassBuffers.sample)(VECTORS, jax.random.key(0), 3),
    ),
}


@pytest.mark.usefixtures("without_annotations")
@pytest.mark.parametrize("message", BAD_CALLS)
def test_a_bad_call_says_what_came_and_what_was_expected(message):
    error, call = BAD_CALLS[message]
    with pytest.raises(error, match=re.escape(message)):
        call()
