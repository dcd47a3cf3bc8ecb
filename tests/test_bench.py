"""The bench: its table leaves no loss out, its peers compute the same, its reports are right."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss
from bench import __main__ as bench, report, rules, speed
from bench.losses import LOSSES
from tests.cases import CASES
from tests.helpers import quick_jit

pytestmark = pytest.mark.optimized

WITH_A_PEER = [loss for loss in LOSSES if loss.optax is not None]


def test_every_loss_has_a_row():
    names = {loss.name.split(",")[0] for loss in LOSSES}
    assert {case.name for case in CASES} <= names
    assert len({loss.name for loss in LOSSES}) == len(LOSSES)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.name)
def test_inputs_are_as_announced(loss):
    size = loss.sizes[0]
    drawn = jax.eval_shape(lambda: loss.arrays(*size, jnp.bfloat16))
    announced = loss.shapes(*size, jnp.bfloat16)
    same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), drawn, announced)
    assert jax.tree.all(same)


@pytest.mark.exhaustive
@pytest.mark.parametrize("loss", WITH_A_PEER, ids=lambda loss: loss.name)
def test_optax_computes_the_same(loss, lenient_promotion):
    arrays = loss.arrays(*loss.sizes[0], jnp.float32)
    ours, theirs = quick_jit(lambda arrays: (loss.mean(*arrays), jnp.mean(loss.optax(*arrays))))(
        arrays
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_a_run_is_written_read_compared_and_drawn(tmp_path, capsys, lenient_promotion):
    written = tmp_path / "times.json"
    wanted = ["huber", "--largest", "12", "--rounds", "2", "--peers", "Optax", "floor"]
    bench.main([*wanted, "--dtypes", "float32", "--json", str(written)])
    assert "huber" in capsys.readouterr().out
    rows = json.loads(written.read_text())["rows"]
    # Two sizes and two works, each ours, Optax's and the floor's.
    assert len(rows) == 2 * 2 * 3
    assert all(row["ms"] > 0 for row in rows)
    again = ["--read", str(written), "--against", str(written), "--pictures", str(tmp_path)]
    bench.main(again)
    assert {"ratios.png", "sizes.png", "temporaries.png"} <= {f.name for f in tmp_path.iterdir()}


def test_a_cell_that_fails_is_not_the_end_of_the_run():
    def refuse(*arrays):
        raise MemoryError("out of memory")

    loss = dataclasses.replace(WITH_A_PEER[0], optax=refuse)
    cell = speed.Cell(loss, loss.sizes[0], "float32", "value")
    rows = {row["library"]: row for row in speed.measured(cell, [speed.OPTAX], 2)}
    assert rows[speed.OPTAX]["error"] == "MemoryError: out of memory"
    assert rows[speed.OURS]["ms"] > 0


def row(library, loss="huber", size="2^24", elements=2**24, **figures):
    kind = {"dtype": "float32", "work": report.GRADIENT}
    return {"library": library, "loss": loss, "size": size, "elements": elements} | kind | figures


def ours_of(ratio, spread=0.01):
    return {"ours of it": ratio, "low": ratio - spread, "high": ratio + spread}


def test_what_was_to_be_reached_is_held_to_its_limit():
    cells = report.by_cell(
        [
            row(speed.OURS, **{"temporary bytes": 2**24}),
            row(speed.OPTAX, **ours_of(0.59)),
            row(speed.TORCH, **ours_of(0.71)),
            row(speed.OURS, loss="ctc", size="8192 x 64", **{"temporary bytes": 0}),
            row(speed.TORCH, loss="ctc", size="8192 x 64", **ours_of(1.5)),
        ]
    )
    found = {(r["loss"], r["of"]): r["is"] <= r["limit"] for r in report.reached(cells)}
    assert found == {
        ("huber", speed.OPTAX): True,
        ("huber", speed.TORCH): False,
        ("huber", "the input's bytes"): False,
        ("ctc", speed.TORCH): False,
    }


def test_a_knee_is_where_an_element_costs_half_as_much_again():
    costs = {2**14: 9.0, 2**16: 1.0, 2**18: 1.2, 2**20: 1.6, 2**22: 1.6}
    rows = [row(speed.OURS, elements=n, size=n, ms=cost * n / 1e6) for n, cost in costs.items()]

    def knee(*more):
        table = report.growth(report.by_cell([*rows, *more]), "float32")
        return list(table.columns[-1].cells)

    assert knee() == ["2^20"]
    rows[3]["temporary bytes"] = 5e6
    assert knee() == ["2^20: 5 MB held"]
    # The floor's cost per element rises later, or there too.
    for after, expected in ((2**22, "2^20: 5 MB held"), (2**20, "2^20: memory, as for the floor")):
        of_floor = {n: 2.0 if n >= after else 1.0 for n in costs}
        floors = [
            row(speed.FLOOR, elements=n, size=n, ms=cost * n / 1e6) for n, cost in of_floor.items()
        ]
        assert knee(*floors) == [expected]


def test_torch_compile_is_timed_at_the_largest_size_alone(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        speed, "measured", lambda cell, peers, rounds: asked.append((cell.size[0], peers)) or []
    )
    monkeypatch.setattr(speed, "bandwidth", lambda: 1.0)
    bench.main(["huber", "--largest", "12", "--json", str(tmp_path / "none.json")])
    assert {size for size, peers in asked} == {2**10, 2**12}
    assert {size for size, peers in asked if speed.COMPILED in peers} == {2**12}


def test_the_last_of_each_loss_is_what_the_report_calls_its_largest():
    losses = [loss for loss in LOSSES if loss.name.startswith("cross_entropy")]
    cells = list(speed.cells(losses, ["float32"], [report.GRADIENT], range(2**30)))
    last = [cell.key["size"] for cell in speed.last_of_each(cells)]
    rows = [cell.key | {"library": speed.OURS} for cell in cells]
    assert last == [size for _, size, *_ in report.largest(report.by_cell(rows))]
    assert last == ["2048 x 32000", "4096 x 4096"]


def test_only_ratios_whose_quartiles_part_are_a_change():
    then = report.by_cell([row(speed.OPTAX, **ours_of(0.5)), row(speed.TORCH, **ours_of(0.5))])
    now = report.by_cell([row(speed.OPTAX, **ours_of(0.51)), row(speed.TORCH, **ours_of(0.6))])
    assert list(report.compared(now, then).columns[4].cells) == [speed.TORCH]


def test_a_gradient_without_its_rule_is_that_of_the_formula():
    [smooth] = [rule for name, rule in rules.rules().items() if name == "_robust._smooth_l1"]
    errors = jnp.array([0.5, -3.0])

    def summed():
        """A new function, which JAX has not traced before."""
        return lambda errors: jnp.sum(jaxloss.huber(errors, jnp.zeros(2)))

    with rules.watched(used := set()):
        ruled = jax.grad(summed())(errors)
    assert smooth in used
    assert "name=_smooth_l1" in str(jax.make_jaxpr(summed())(errors))
    with rules.without(smooth):
        assert "name=_smooth_l1" not in str(jax.make_jaxpr(summed())(errors))
        plain = jax.grad(summed())(errors)
    np.testing.assert_allclose(plain, ruled, rtol=1e-6)


def test_on_an_edge_a_gradient_without_its_rule_is_another():
    """At coinciding numbers JAX's derivative of |x| is 1, and ours is 0."""
    loss = dataclasses.replace(WITH_A_PEER[0], ours=jaxloss.absolute_error)
    edges = rules.edges_of(loss.arrays(*loss.sizes[0], jnp.float32))
    assert edges.keys() == {*rules.EDGES, "equal"}

    def gradient(edge):
        return jax.grad(lambda *arrays: jnp.sum(loss.ours(*arrays)))(*edges[edge])

    [absolute] = [rule for name, rule in rules.rules().items() if name.endswith("._absolute")]
    ruled = {edge: gradient(edge) for edge in edges}
    with rules.without(absolute):
        plain = {edge: gradient(edge) for edge in edges}
    assert [edge for edge in edges if rules.differ(ruled[edge], plain[edge])] == ["equal"]


def test_every_rule_has_a_loss_that_uses_it():
    assert set(rules.rules().values()) <= set(rules.users())
