"""What the bench asks of compiled programs, and when its check fails."""

import pytest

from bench.compiled.goals import GOALS, misses, worse

pytestmark = pytest.mark.optimized


def cell(**ours):
    found = {"bytes": 1500, "kernels": 3, "temporaries": 0} | ours
    return {"loss": "huber", "target": "h100", "dtype": "float32", "inputs": 1000, "ours": found}


@pytest.mark.parametrize(
    "more, said",
    [
        ({"bytes": 1520}, "traffic 1.52 is over 1.5"),
        ({"kernels": 4}, "kernels 4 is over 3"),
        ({"temporaries": 20}, "temporaries 0.02 is over 0"),
    ],
)
def test_the_check_names_what_grew(more, said):
    assert worse([cell()], [cell()]) == []
    assert worse([cell(**more)], [cell()]) == [f"h100, float32, huber: {said}"]
    assert worse([cell()], [cell(**more)]) == []
    assert worse([cell(**more)], []) == ["h100, float32, huber: has not been compiled before"]


def test_a_program_that_is_refused_is_worse_than_one_that_was_not():
    refused = cell() | {"ours": {"refused": "out of memory"}}
    assert worse([refused], [cell()]) == ["h100, float32, huber: out of memory"]
    assert worse([refused], [refused]) == worse([cell()], [refused]) == []
    assert misses(refused) == ["out of memory"]


def test_misses_are_of_the_goal_and_of_optax():
    assert misses(cell()) == []
    assert misses(cell(kernels=4)) == ["kernels 4 is over 3"]
    theirs = {"bytes": 1200, "kernels": 9, "temporaries": 0}
    assert misses(cell() | {"optax": theirs}) == ["traffic 1.5 is over 1.2 of Optax"]
    assert GOALS.keys() >= {"huber", "cross_entropy", "cosine_distance", "ctc"}
