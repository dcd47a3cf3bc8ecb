"""The gallery leaves no loss out, and its kinks are where the derivative jumps."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from bench.gallery import __main__ as gallery, chart
from bench.gallery.curve import lines
from bench.gallery.table import CURVES
from tests.cases import CASES

pytestmark = pytest.mark.usefixtures("lenient_promotion")


def test_every_loss_has_a_curve():
    assert {case.name for case in CASES} == set(CURVES)


@pytest.mark.exhaustive
@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES)
def test_derivatives_jump_at_the_kinks_and_nowhere_else(curve):
    for variant, line in zip(curve.variants, lines(curve, 2000), strict=True):
        assert np.all(np.isfinite(line.losses))
        (at_kinks,) = np.nonzero(np.isnan(line.derivatives))
        assert len(at_kinks) == len(curve.kinks(**variant))
        height = np.ptp(np.delete(line.derivatives, at_kinks))
        jumps = line.derivatives[at_kinks + 1] - line.derivatives[at_kinks - 1]
        assert np.all(np.abs(jumps) > 0.2 * height)
        # Between two kinks, neighbours hardly differ.
        steps = np.abs(np.diff(line.derivatives))
        assert np.nanmax(steps) <= 0.05 * height


def test_a_picture_is_drawn(tmp_path, capsys):
    file = tmp_path / "gallery.png"
    gallery.main(["huber", "hinge", "--picture", str(file)])
    assert file.read_bytes().startswith(b"\x89PNG")
    assert "2 losses" in capsys.readouterr().out


def test_an_unknown_loss_is_named(capsys):
    with pytest.raises(SystemExit):
        gallery.main(["hubert"])
    assert "hubert" in capsys.readouterr().err


def test_a_figure_is_the_same_at_each_call_and_has_its_scheme_s_colours():
    light, again, dark = (
        chart.svg(CURVES["hinge"], s) for s in (chart.LIGHT, chart.LIGHT, chart.DARK)
    )
    assert light == again
    assert ElementTree.fromstring(light).tag.endswith("svg")
    assert chart.LIGHT.colours[0] in light and chart.LIGHT.colours[0] not in dark
    assert chart.DARK.colours[0] in dark
