"""The bench's accuracy certificate: its truths, its errors, and that it leaves no loss out."""

import mpmath
import numpy as np
import pytest

from bench.accuracy import __main__ as certificate, formulas
from bench.accuracy.measure import Results, errors, of_jax
from bench.accuracy.regimes import Draw
from bench.accuracy.rows import ROWS
from bench.accuracy.truths import Truth, direction, truth
from tests.cases import CASES, PRIMITIVES

pytestmark = [pytest.mark.optimized, pytest.mark.xdist_group("certificate")]


def test_every_loss_and_primitive_has_a_row():
    names = {row.name.removeprefix("primitives.").split(",")[0] for row in ROWS}
    assert {case.name for case in (*CASES, *PRIMITIVES)} <= names
    assert len({row.name for row in ROWS}) == len(ROWS)


def test_every_regime_has_numbers():
    for row in ROWS:
        for regime, sampler in row.regimes.items():
            if row.exact is not None:
                continue
            first, *others = sampler(Draw(np.random.default_rng(0), 8, np.dtype(np.float64)))
            assert len(first) == 8 and np.all(np.isfinite(first)), (row.name, regime)
            assert all(len(other) == 8 for other in others), (row.name, regime)


def test_truths_are_those_of_the_closed_form():
    rng = np.random.default_rng(0)
    logits, labels = 3 * rng.normal(size=(5, 4)), rng.integers(0, 4, 5)
    known = truth(formulas.cross_entropy, (logits, labels), 8, True)
    p = np.exp(logits) / np.sum(np.exp(logits), 1, keepdims=True)
    along = direction((4,))
    expected = (
        -np.log(p[np.arange(5), labels]),
        p - np.eye(4)[labels],
        p * (along - np.sum(p * along, 1, keepdims=True)),
    )
    for found, closed in zip(known, expected, strict=True):
        np.testing.assert_allclose(found.sum(-1), closed, rtol=1e-13, atol=1e-15)
        # To twice as many digits: the second part is what the first leaves.
        assert np.all(np.abs(found[..., 1]) <= np.spacing(np.abs(found[..., 0])) / 2)


def test_truths_keep_the_last_tail_and_know_a_kink():
    known = truth(
        formulas.cross_entropy, (np.array([[600.0, 0.0]] * 2), np.zeros(2, int)), 8, False
    )
    with mpmath.workdps(400):
        tail = float(mpmath.exp(-600))
    np.testing.assert_allclose(known.value[:, 0], [tail, tail], rtol=1e-15)
    np.testing.assert_allclose(known.gradient[..., 0], [[-tail, tail]] * 2, rtol=1e-15)
    known = truth(formulas.absolute_error, (np.array([1.0, 2.0]), np.array([1.0, 1.0])), 2, False)
    np.testing.assert_array_equal(known.gradient[:, 0], [np.nan, 1])


def of_values(ours, exact, dtype=np.float32):
    """The errors of values alone."""
    ours, exact = np.asarray(ours, dtype), np.asarray(exact, np.float64)
    known = np.stack([exact, np.zeros_like(exact)], -1)
    results = Results(ours, ours, None)
    found = errors(ROWS[0], results, Truth(known, known, None), (), np.dtype(dtype))
    return found["value"].tolist()


def test_errors_are_in_units_in_the_last_place():
    one = np.float32(1)
    above = np.nextafter(one, np.float32(2))
    assert of_values([one, above, np.nextafter(one, np.float32(0))], [1, 1, 1]) == [0, 1, 0.5]
    assert of_values([4 * above], [4]) == [1]
    assert of_values([np.nan], [1]) == [np.inf]
    # What the dtype cannot hold is infinite, and nothing else is.
    assert of_values([np.inf, -np.inf], [1e39, 1e39])[0] == 0
    assert of_values([np.inf, -np.inf], [1e39, 1e39])[1] > 1e6
    # Neither a subnormal truth nor that of a kink counts.
    assert of_values([0.0, 3.0], [1e-40, np.nan]) == []
    assert of_values([1.0], [0.0]) == [2**23]


def test_what_misses_and_what_is_worse():
    def cell(value, of_torch=1.0):
        part = {"value": {"largest": value, "median": 0.0}}
        theirs = {"value": {"largest": of_torch, "median": 0.0}}
        name = {"loss": "cross_entropy", "regime": "benign", "dtype": "float32"}
        return name | {"ours": part, "torch": theirs}

    assert certificate.misses([cell(0.9)]) == []
    [behind] = certificate.misses([cell(1.5)])
    assert "1.5 is over torch's 1" in behind
    over, _ = certificate.misses([cell(2.5)])
    assert "2.5 is over 2.0" in over
    assert "not a number" in certificate.misses([cell(np.inf)])[0]
    assert certificate.worse([cell(1.5)], [cell(1.4)]) == []
    assert len(certificate.worse([cell(2.5)], [cell(1.4)])) == 1
    assert len(certificate.worse([cell(np.inf)], [cell(1.4)])) == 1
    assert len(certificate.worse([cell(1.0)], [])) == 1


def test_a_row_is_measured(x64):
    row = next(row for row in ROWS if row.name == "huber")
    cell = certificate.measured(row, "tiny errors", "float32", 1, ("ours", "optax"))
    assert cell["ours"]["gradient"]["largest"] <= 1
    # Optax subtracts 1 and adds it again.
    assert cell["optax"]["gradient"]["largest"] > 1e6
    assert of_jax(row.ours, (np.zeros(2), np.ones(2))).value.dtype == np.float64
