"""The table of cases: one row per loss and option, run through every law of the suite.

Formulas are plain float64 maths, with none of the library's care: `formula` for autodiff, and
`gradient`, with respect to the first argument, by hand from a textbook. Samples are smooth points.
"""

import pytest

from tests.cases.binary import BINARY
from tests.cases.case import Case as Case
from tests.cases.classification import CLASSIFICATION
from tests.cases.large import LARGE, STATISTICS
from tests.cases.pairs import PAIRS
from tests.cases.primitives import ELEMENTS
from tests.cases.regression import REGRESSION
from tests.cases.sequences import SEQUENCES

CASES = (*REGRESSION, *BINARY, *CLASSIFICATION, *PAIRS, *SEQUENCES, *LARGE)

PRIMITIVES = (*ELEMENTS, *STATISTICS)

# One row for each loss: the others differ in options alone, which are traced no differently.
BASE = tuple({case.name: case for case in reversed(CASES)}.values())[::-1]

# A few, where the loss itself makes no difference.
OF_EACH_KIND = tuple(
    case
    for case in CASES
    if case.id
    in {
        *("huber", "binary_cross_entropy_with_logits", "hinge", "cross_entropy", "dice"),
        *("cross_entropy-axis", "multilabel_margin", "kl_divergence", "triplet_margin"),
    }
)

# One row for each loss, those of primitives, and not the slowest to compile.
QUICK = tuple(case for case in (*BASE, *PRIMITIVES) if case.name != "ctc")

# Differentiated in a few modes: those of each kind are in all modes, and the slowest have tests of
# their own.
SLOW = {"linear_cross_entropy", "linear_statistics", "adaptive_softmax", "supervised_contrastive"}
IN_FEWER_MODES = tuple(
    case
    for case in QUICK
    if case not in OF_EACH_KIND and case.name not in SLOW and "-axis" not in case.id
)


def each(cases, quick=QUICK):
    """The decorator of a test of each row; those that are not quick are marked as exhaustive."""
    assert all(isinstance(case, Case) for case in quick)
    rows = []
    for case in cases:
        # One process runs all tests of a row, and traces its programs once.
        marks = [pytest.mark.xdist_group(case.id)]
        marks += [] if case in quick else [pytest.mark.exhaustive]
        rows.append(pytest.param(case, id=case.id, marks=marks))
    return pytest.mark.parametrize("case", rows)
