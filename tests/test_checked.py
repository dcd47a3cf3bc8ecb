"""What a checked program says of bad values, and that an unchecked one has nothing of it."""

import concurrent.futures
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec as P

import jaxloss
from jaxloss import (
    accumulated_value_and_grad,
    checked,
    ignoring,
    masked,
    mean,
    microbatched,
    pooled,
    weighted,
    weighted_sum,
)
from tests.cases import BASE, OF_EACH_KIND, each
from tests.cases.policy import takes_labels

LOGITS = jnp.zeros((4, 3))
LABELS = jnp.array([0, 1, 7, -1])
GOOD = jnp.array([0, 1, 2, 0])
CE = mean(jaxloss.cross_entropy)
COMPLAINT = "cross_entropy: labels must be classes from 0 to 2, got 7 at index (2,); leave such"


def says(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}")


def scanned(logits, labels):
    def step(total, labels):
        return total + CE(logits, labels), None

    return jax.lax.scan(step, 0.0, jnp.stack([GOOD, labels]))[0]


def in_shards(logits, labels):
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    loss = mean(jaxloss.cross_entropy, axis_name="data")
    return jax.shard_map(loss, mesh=mesh, in_specs=P("data"), out_specs=P())(logits, labels)


PROGRAMS = {
    "alone": CE,
    "losses": jaxloss.cross_entropy,
    "jit": jax.jit(CE),
    "grad of jit": jax.grad(jax.jit(CE)),
    "value_and_grad": jax.jit(jax.value_and_grad(CE)),
    "hessian": jax.jit(jax.hessian(CE)),
    "jvp": jax.jit(lambda z, y: jax.jvp(lambda z: CE(z, y), (z,), (z,))),
    "vmap of grad": jax.jit(
        lambda z, y: jax.vmap(jax.grad(CE))(jnp.stack([z, z]), jnp.stack([GOOD, y]))
    ),
    "scan": jax.jit(scanned),
    "grad of scan": jax.jit(jax.grad(scanned)),
    "checkpoint": jax.jit(jax.grad(jax.checkpoint(CE))),
    "shard_map": jax.jit(in_shards),
    "checked inside": lambda z, y: mean(checked(jaxloss.cross_entropy))(z, y),
    "checked twice": checked(jax.jit(CE)),
    "constants": lambda z, y: CE(np.zeros((4, 3)), np.array([0, 1, 7, -1])),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_transformation_is_looked_through(name):
    """Also those that were traced before without checks; and a good batch passes unchanged."""
    program = PROGRAMS[name]
    if name not in ("constants", "checked inside", "checked twice"):
        expected = program(LOGITS, GOOD)
        jax.tree.map(np.testing.assert_array_equal, checked(program)(LOGITS, GOOD), expected)
    # The shards see their own indices.
    index = COMPLAINT if name != "shard_map" else COMPLAINT.replace("(2,)", "(0,)")
    with says(index):
        checked(program)(LOGITS, LABELS)
    # And it is over when it is over.
    if name not in ("checked inside", "checked twice"):
        jax.block_until_ready(program(LOGITS, LABELS))


@pytest.mark.filterwarnings("ignore")  # JAX reports the callback's error on its own account too.
def test_under_a_jit_around_it_the_error_is_jaxs():
    run = jax.jit(checked(CE))
    assert run(LOGITS, GOOD) == CE(LOGITS, GOOD)
    with pytest.raises(jax.errors.JaxRuntimeError, match=re.escape(COMPLAINT)):
        jax.block_until_ready(run(LOGITS, LABELS))


BAD = {
    "negative": (jaxloss.nll, [jnp.log(jnp.full((1, 2), 0.5)), np.array([-1])],
                 "nll: labels must be classes from 0 to 1, got -1 at index (0,)"),
    "narrow": (jaxloss.cross_entropy, [jnp.zeros((1, 300)), np.array([-1], np.int8)],
               "cross_entropy: labels must be classes from 0 to 299, got -1 at index (0,)"),
    "image": (lambda z, y: jaxloss.cross_entropy(z, y, axis=1),
              [np.zeros((2, 3, 2)), np.array([[0, 0], [0, 3]])],
              "cross_entropy: labels must be classes from 0 to 2, got 3 at index (1, 1)"),
    "list": (jaxloss.multilabel_margin, [LOGITS[:2], np.array([[0, -1, 9], [0, 3, -1]])],
             "multilabel_margin: labels must be classes from 0 to 2, got 3 at index (1, 1)"),
    "blank": (jaxloss.ctc, [LOGITS[None], np.array([[1, 0]])],
              "ctc: labels must be classes from 0 to 2 other than 0, got 0 at index (0, 1)"),
    "length": (lambda z, y: jaxloss.ctc(z, y, frame_lengths=np.array([5])),
               [LOGITS[None], np.array([[1, 2]])],
               "ctc: frame_lengths must be lengths from 0 to 4, got 5 at index (0,)"),
    "probability": (jaxloss.binary_cross_entropy, [np.array([0.5, 1.5]), np.ones(2)],
                    "binary_cross_entropy: predictions must be probabilities, in [0, 1], got 1.5 "
                    "at index (1,)"),
    "binary target": (jaxloss.sigmoid_focal, [np.zeros(2), np.array([0, 2])],
                      "sigmoid_focal: targets must be probabilities, in [0, 1], got 2.0 at index "
                      "(1,)"),
    "overlap": (lambda p, t: jaxloss.dice(p, t, axes=(1,)), [-np.ones((1, 2)), np.ones((1, 2))],
                "dice: predictions must be probabilities, in [0, 1], got -1.0 at index (0, 0)"),
    "class probability": (jaxloss.cross_entropy, [LOGITS[:1], np.array([[-0.5, 1.5, 0.0]])],
                          "cross_entropy: targets must be probabilities, in [0, 1], got -0.5 at "
                          "index (0, 0)"),
    "distribution": (jaxloss.cross_entropy, [LOGITS[:2], np.array([[0.5, 0.5, 0], [1, 1, 0]])],
                     "cross_entropy: targets must be probabilities that sum to 1 over axis 1, got "
                     "2.0 at index (1,)"),
    "sparse distribution": (jaxloss.sparsemax, [LOGITS[:1], np.ones((1, 3))],
                            "sparsemax: targets must be probabilities that sum to 1 over axis 1"),
    "log distribution": (jaxloss.kl_divergence, [LOGITS[:1], np.array([[1.0, 0, 0]])],
                         "kl_divergence: log_probs must be log-probabilities whose exponentials "
                         "sum to 1 over axis 1, got 3.0 at index (0,); of scores take "
                         "jax.nn.log_softmax"),
    "logits for log_probs": (jaxloss.nll, [LOGITS, GOOD],
                             "nll: log_probs must be log-probabilities whose exponentials sum"),
    "sign": (jaxloss.hinge, [np.zeros(3), np.array([1, -1, 0])],
             "hinge: signs must be 1 or -1, got 0.0 at index (2,); convert labels of 0 and 1"),
    "scalar": (jaxloss.hinge, [0.0, 2], "hinge: signs must be 1 or -1, got 2.0; convert"),
    "option": (lambda z, y: jaxloss.binary_cross_entropy_with_logits(z, y, pos_weight=jnp.nan),
               [np.zeros(2), np.ones(2)], "binary_cross_entropy_with_logits: pos_weight must be"),
    "weak type": (lambda x: jaxloss.squared_error(jnp.where(x > 0, 1.0, jnp.nan), 0 * x),
                  [np.array([1.0, 0.0], np.float32)],
                  "squared_error: predictions must be numbers, got nan at index (1,)"),
    "weight": (lambda x, w: mean(weighted(jaxloss.huber))(x, x, weights=w),
               [np.ones(2), np.array([1, np.nan])],
               "weighted(huber): weights must be numbers, got nan at index (1,)"),
    "primitive": (jaxloss.primitives.logsumexp, [jnp.array([0.0, jnp.nan])],
                  "logsumexp: logits must be numbers, got nan at index (1,)"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_value_is_named(name):
    loss, arrays, message = BAD[name]
    with says(message):
        jax.block_until_ready(checked(jax.jit(lambda arrays: loss(*arrays)))(arrays))


@each(BASE, quick=OF_EACH_KIND)
def test_a_nan_or_label_that_should_not_be_there_is_named_and_good_input_is_not(case, rng):
    arrays = [jnp.asarray(a) for a in case.arrays(rng, np.float32)]
    run = checked(jax.jit(case.bound))
    jax.block_until_ready(run(*arrays))
    for n, name in enumerate(list(inspect.signature(case.loss).parameters)[: len(arrays)]):
        if arrays[n].dtype != jnp.float32:
            continue
        place = tuple(length - 1 for length in arrays[n].shape)
        bad = [a.at[place].set(jnp.nan) if m == n else a for m, a in enumerate(arrays)]
        with says(f"{case.name}: {name} must be numbers, got nan at index {place}; mask it out"):
            run(*bad)
    if takes_labels(case):
        *others, labels = arrays
        with says(f"{case.name}: labels must be classes from 0 to"):
            run(*others, labels.at[(0,) * labels.ndim].set(-100))


@pytest.mark.exhaustive
def test_what_is_left_out_is_not_looked_at():
    """A mask, an ignored label, a weight of 0; in steps and sums too. What is left in, is."""
    where = jnp.array([True, True, False, False])
    poisoned = LOGITS.at[2:].set(jnp.nan)
    weights = jnp.where(where, 1.0, 0.0)
    checked(mean(masked(jaxloss.cross_entropy)))(poisoned, LABELS, where=where)
    checked(mean(weighted(jaxloss.cross_entropy)))(poisoned, LABELS, weights=weights)
    checked(mean(masked(weighted(jaxloss.cross_entropy))))(
        poisoned, LABELS, weights=jnp.where(where, 1.0, jnp.nan), where=where
    )
    both = ignoring(ignoring(jaxloss.cross_entropy, 7), -1)
    checked(jax.grad(mean(both)))(poisoned, LABELS)
    mean(masked(checked(jaxloss.cross_entropy)))(poisoned, LABELS, where=where)
    checked(mean(microbatched(both, 2)))(poisoned, LABELS)
    checked(mean(weighted_sum({"both": both}, {"both": 1.0})))(poisoned, LABELS)
    targets = jnp.array([[1.0, 0.0, 0.0]] * 2 + [[9.0, 9.0, 9.0]] * 2)
    checked(mean(masked(jaxloss.cross_entropy)))(poisoned, targets, where=where)
    signs = jnp.array([1, -1, 0, 0])
    checked(mean(masked(jaxloss.hinge)))(LOGITS[:, 0], signs, where=where)
    with says(COMPLAINT):
        checked(mean(ignoring(jaxloss.cross_entropy, -1)))(LOGITS, LABELS)
    with says("hinge: signs must be 1 or -1, got 0.0 at index (2,)"):
        checked(mean(masked(jaxloss.hinge)))(LOGITS[:, 0], signs, where=~where)


@pytest.mark.exhaustive
def test_masks_of_several_calls_and_wrappers():
    """A jitted loss is traced once for all masks; vmapped, reshaped and nested ones are as good."""
    first = jnp.array([True, True, False, False])
    probabilities, targets = jnp.full(4, 0.5), jnp.array([1.0, 1.0, 3.0, 1.0])
    loss = checked(mean(masked(jax.jit(jaxloss.binary_cross_entropy))))
    loss(probabilities, targets, where=first)
    with says("binary_cross_entropy: targets must be probabilities, in [0, 1], got 3.0 at"):
        loss(probabilities, targets, where=~first)
    signs = jnp.array([1, -1, 0, 0])
    hinge = checked(mean(masked(jax.jit(jaxloss.hinge))))
    hinge(probabilities, signs, where=first)
    hinge(probabilities, signs[::-1], where=~first)
    for wrapped in (
        jax.vmap(jaxloss.hinge),
        lambda p, s: jaxloss.hinge(p.reshape(2, 2), s.reshape(2, 2)).reshape(4),
        lambda p, s: weighted(jaxloss.hinge)(p, s, weights=jnp.ones(4)),
    ):
        checked(mean(masked(wrapped)))(probabilities, signs, where=first)
    rows = jnp.array([[1.0, 0.0, 0.0]] * 2 + [[9.0, 9.0, 9.0]] * 2)
    checked(mean(masked(jax.vmap(jaxloss.cross_entropy))))(LOGITS, rows, where=first)
    half = jnp.log(jnp.full((4, 3), 1 / 3)).astype(jnp.bfloat16)
    checked(mean(masked(jaxloss.kl_divergence)))(half, rows.astype(jnp.bfloat16), where=first)


@pytest.mark.exhaustive
def test_threads_do_not_wait_or_speak_for_each_other():
    """A checked loss that another thread calls for a checked function; and two at a time."""
    with concurrent.futures.ThreadPoolExecutor(4) as pool:

        def elsewhere(logits, labels):
            return pool.submit(checked(CE), logits, labels).result(timeout=60)

        assert checked(elsewhere)(LOGITS, GOOD) == CE(LOGITS, GOOD)
        with says(COMPLAINT):
            checked(elsewhere)(LOGITS, LABELS)
        good = checked(mean(jaxloss.huber))
        calls = [pool.submit(checked(jax.jit(CE)), LOGITS, LABELS) for _ in range(8)]
        calls += [pool.submit(good, LOGITS, LOGITS) for _ in range(8)]
        complaints = [call.exception(timeout=60) for call in calls]
    assert all(COMPLAINT in str(complaint) for complaint in complaints[:8])
    assert complaints[8:] == 8 * [None]


def test_a_function_that_is_checked_anew_is_not_traced_anew():
    traces = []

    def loss(logits, labels):
        traces.append(logits)
        return CE(logits, labels)

    jitted = jax.jit(loss)
    for _ in range(3):
        checked(jitted)(LOGITS, GOOD)
    assert len(traces) == 1


@pytest.mark.exhaustive
def test_tolerances_are_those_of_the_dtype():
    rows = jnp.array([[0.5, 0.501, 0.0]])
    with says("cross_entropy: targets must be probabilities that sum to 1"):
        checked(jaxloss.cross_entropy)(LOGITS[:1], rows)
    checked(jaxloss.cross_entropy)(LOGITS[:1], rows.astype(jnp.bfloat16))
    many = jnp.full((1, 2048), 1 / 2048, jnp.float16)
    checked(jaxloss.cross_entropy)(many, many)


def test_steps_are_looked_through():
    """Every second example is of one step, so that the index is that within it."""
    message = COMPLAINT.replace("(2,)", "(1,)")
    with says(message):
        checked(jax.jit(jax.grad(mean(microbatched(jaxloss.cross_entropy, 2)))))(LOGITS, LABELS)

    def losses(scale, logits, labels):
        return pooled(jaxloss.cross_entropy)(scale * logits, labels)

    with says(message):
        checked(accumulated_value_and_grad(losses, 2))(1.0, LOGITS, LABELS)


@pytest.mark.exhaustive
def test_groups_are_no_classes():
    """Labels of examples that are compared with each other may be any numbers."""
    labels = jnp.array([90, 90, -80, -80])
    checked(jaxloss.supervised_contrastive)(jnp.eye(4), labels)
    checked(jaxloss.nt_xent)(jnp.eye(4), labels)


def test_other_errors_pass_and_checking_ends_with_them(without_annotations):
    with pytest.raises(ValueError, match="must have the same shape"):
        checked(jaxloss.huber)(jnp.ones(2), jnp.ones(3))
    assert np.isnan(CE(LOGITS, LABELS))


@each(BASE, quick=OF_EACH_KIND)
def test_an_unchecked_program_has_nothing_of_it(case, rng, monkeypatch):
    """Its gradient is, to the letter, that of a library that has no checks."""
    arrays = case.arrays(rng, np.float32)
    checked(jax.jit(case.bound))(*arrays)

    def program():
        # Another function each time, lest a cached trace answer for both.
        gradient = jax.grad(lambda first: jnp.sum(case(first, *arrays[1:])))
        return jax.jit(gradient).lower(arrays[0]).as_text()

    after_a_check = program()
    for name in ("report", "distributions"):
        monkeypatch.setattr(f"jaxloss._checked.{name}", lambda *args, **options: None)
    assert program() == after_a_check
