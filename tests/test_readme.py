"""The README's examples print what they say."""

import pathlib
import re
import subprocess
import sys

import pytest

README = (pathlib.Path(__file__).parent.parent / "README.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_prints_what_its_comments_say(example):
    # In a process of its own, as it would be pasted: without the suite's strictness.
    run = subprocess.run(
        [sys.executable, "-c", example], capture_output=True, text=True, check=True
    )
    printed = run.stdout.splitlines()
    expected = re.findall(r"^ *print\(.*\)  # (.*)$", example, re.MULTILINE)
    assert len(printed) == len(expected) > 0
    for line, comment in zip(printed, expected, strict=True):
        assert numbers(comment)[: len(numbers(line))] == pytest.approx(numbers(line), rel=1e-6)


def numbers(text):
    return [float(number) for number in re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", text)]
