"""Cutoffs by the model of costs: the cheapest there are, and quicker than a usual choice."""

import itertools
import re

import jax
import numpy as np
import pytest

from jaxloss._adaptive_softmax import AdaptiveSoftmax
from jaxloss._cutoffs import Costs, measure_costs, optimal_cutoffs


def zipf(classes, exponent=1.0):
    return 1 / np.arange(1, classes + 1) ** exponent


def cost(cutoffs, counts, features, div_value, tokens, costs):
    """The formula, product by product."""

    def layer(tokens, features, classes):
        operations = max(costs.least, tokens * features * classes)
        return costs.fixed + costs.per_operation * operations + costs.per_score * tokens * classes

    shares = counts / counts.sum()
    total = layer(tokens, features, cutoffs[0] + len(cutoffs))
    bounds = itertools.pairwise((*cutoffs, len(counts)))
    for n, (start, end) in enumerate(bounds, 1):
        inner = int(features // div_value**n)
        inside = tokens * shares[start:end].sum()
        total += costs.per_operation * max(costs.least, inside * features * inner)
        total += layer(inside, inner, end - start)
    return total


@pytest.mark.parametrize("clusters", [1, 2, 3])
@pytest.mark.parametrize(
    "costs",
    [Costs(0, 1, 0), Costs(50, 1, 3, 200), Costs(0, 0, 1)],
    ids=["products", "all", "scores"],
)
def test_they_are_the_cheapest(clusters, costs, rng):
    for counts in (zipf(15), np.sort(rng.uniform(size=15))[::-1], np.ones(15)):
        problem = {"div_value": 2.0, "tokens": 10, "costs": costs}
        found = optimal_cutoffs(counts, 16, clusters=clusters, **problem)
        assert len(found) == clusters and all(type(cutoff) is int for cutoff in found)
        every = itertools.combinations(range(1, 15), clusters)
        least = min(cost(cutoffs, counts, 16, **problem) for cutoffs in every)
        np.testing.assert_allclose(cost(found, counts, 16, **problem), least, rtol=1e-12)


def test_the_number_of_clusters_is_the_cheapest_too():
    counts = zipf(200)
    for fixed in (0.0, 1e4, 1e7):
        problem = {"div_value": 2.0, "tokens": 10, "costs": Costs(fixed, 1, 3)}
        found = optimal_cutoffs(counts, 16, **problem)
        each = [optimal_cutoffs(counts, 16, clusters=n, **problem) for n in (1, 2, 3, 4)]
        least = min(cost(cutoffs, counts, 16, **problem) for cutoffs in each)
        np.testing.assert_allclose(cost(found, counts, 16, **problem), least, rtol=1e-12)
        if fixed == 1e7:
            assert len(found) == 1


@pytest.mark.parametrize("classes", [50_000, 1_000_000])
def test_of_many_classes_nothing_near_is_much_cheaper(classes):
    counts = zipf(classes)
    found = optimal_cutoffs(counts, 512)
    problem = {"div_value": 4.0, "tokens": 2048, "costs": Costs(2e-4, 3e-11, 2.5e-9)}
    least = cost(found, counts, 512, **problem)
    for factors in itertools.product((0.97, 1.0, 1.03), repeat=len(found)):
        near = tuple(int(cutoff * factor) for cutoff, factor in zip(found, factors, strict=True))
        assert cost(near, counts, 512, **problem) > 0.999 * least
    assert least < cost((2000, 10000), counts, 512, **problem)


def test_the_parameters_take_them():
    found = optimal_cutoffs(zipf(300), 32)
    assert AdaptiveSoftmax.init(jax.random.key(0), 32, 300, found).cutoffs == found


def test_measured_costs_are_costs():
    costs = measure_costs(tokens=128)
    assert costs.fixed > 0 and costs.per_operation > 0 and costs.per_score >= 0
    assert len(optimal_cutoffs(zipf(1000), 64, costs=costs)) in (1, 2, 3)


BAD_CALLS = {
    "optimal_cutoffs: tokens must be at least 1, got 0": (
        ValueError,
        lambda: optimal_cutoffs([2.0, 1.0], 8, tokens=0),
    ),
    "optimal_cutoffs: div_value must be positive, got 0": (
        ValueError,
        lambda: optimal_cutoffs([2.0, 1.0], 8, div_value=0),
    ),
    "optimal_cutoffs: counts must decrease, the most frequent class first, got 1 and then 2 at "
    "index 1; sort them, order = np.argsort(-counts)": (
        ValueError,
        lambda: optimal_cutoffs([1.0, 2.0], 8),
    ),
    "optimal_cutoffs: counts must have the shape (classes,), of two classes at least, got (2, 2)": (
        ValueError,
        lambda: optimal_cutoffs(np.ones((2, 2)), 8),
    ),
    "of two classes at least, got (1,)": (ValueError, lambda: optimal_cutoffs([1.0], 8)),
    "optimal_cutoffs: counts must be finite, at least 0, and not all 0": (
        ValueError,
        lambda: optimal_cutoffs(np.zeros(4), 8),
    ),
    "optimal_cutoffs: counts must be an array of real numbers, got str 'x'": (
        TypeError,
        lambda: optimal_cutoffs("x", 8),
    ),
    "optimal_cutoffs: features must be an integer, got float 8.0": (
        TypeError,
        lambda: optimal_cutoffs([2.0, 1.0], 8.0),
    ),
    "optimal_cutoffs: there must be at least one cluster, fewer than the 2 classes": (
        ValueError,
        lambda: optimal_cutoffs([2.0, 1.0], 64, clusters=2),
    ),
    "with features // div_value features, got clusters None, features 2": (
        ValueError,
        lambda: optimal_cutoffs([2.0, 1.0], 2),
    ),
    "optimal_cutoffs: each cluster must have a feature at least": (
        ValueError,
        lambda: optimal_cutoffs([3.0, 2.0, 1.0], 8, clusters=2),
    ),
    "measure_costs: tokens must be at least 1, got 0": (
        ValueError,
        lambda: measure_costs(tokens=0),
    ),
}


@pytest.mark.usefixtures("without_annotations")
@pytest.mark.parametrize("message", BAD_CALLS)
def test_a_bad_call_says_what_came_and_what_was_expected(message):
    error, call = BAD_CALLS[message]
    with pytest.raises(error, match=re.escape(message)):
        call()
