"""The demonstration runs, draws, and says what it lacks."""

import importlib.util
import subprocess
import sys

import pytest

from jaxloss import __main__ as demo


def test_a_short_run_ends_with_a_table_and_a_picture(tmp_path, capsys, lenient_promotion):
    demo.main(["--steps", "12", "--seed", "3", "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    for text in ("balanced accuracy", "recall of 9, thinned", "class-weighted", "digits.png"):
        assert text in printed
    picture = (tmp_path / "digits.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 20_000


def test_without_the_extras_it_says_what_to_install(monkeypatch, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in ("flax", "rich") else find(name)
    )
    with pytest.raises(SystemExit) as stop:
        demo.main(["--out", str(tmp_path)])
    assert stop.value.code == "python -m jaxloss needs flax, rich: pip install 'jaxloss[demo]'"


@pytest.mark.parametrize("arguments", [["--steps", "0"], ["--seed", "-1"], ["--colour", "red"]])
def test_bad_options_are_refused(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        demo.main(arguments)
    assert stop.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_help():
    run = subprocess.run(
        [sys.executable, "-m", "jaxloss", "--help"], capture_output=True, text=True, check=True
    )
    for option in ("--steps", "--seed", "--out"):
        assert option in run.stdout
