"""The notebooks are committed as `make notebooks WRITE=1` leaves them."""

import json
import pathlib
import re

import pytest

NOTEBOOKS = sorted((pathlib.Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
MACHINE_PATH = re.compile(r"(?<![\w.:/])/(?:work|root|home|tmp|Users)\b")


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem, scope="module")
def notebook(request):
    return json.loads(request.param.read_text())


def code_cells(notebook):
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def outputs(notebook):
    return [output for cell in code_cells(notebook) for output in cell["outputs"]]


def test_there_are_notebooks():
    assert NOTEBOOKS


def test_it_was_executed_from_top_to_bottom(notebook):
    counts = [cell["execution_count"] for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1)) != []


def test_it_shows_no_error_and_no_warning(notebook):
    kinds = {output.get("name", output["output_type"]) for output in outputs(notebook)}
    assert kinds <= {"stdout", "display_data", "execute_result"}


def test_it_begins_with_its_title(notebook):
    texts = ["".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "markdown"]
    titles = re.findall(r"^# .+", "\n\n".join(texts), re.MULTILINE)
    assert notebook["cells"][0]["cell_type"] == "markdown"
    assert titles == [texts[0].splitlines()[0]]


def test_it_holds_nothing_of_the_machine_that_executed_it(notebook):
    texts = [cell["source"] for cell in notebook["cells"]]
    for output in outputs(notebook):
        texts.append(output.get("text", []))
        texts += [text for kind, text in output.get("data", {}).items() if "image/" not in kind]
    assert [text for text in texts if MACHINE_PATH.search("".join(text))] == []
    assert set(notebook["metadata"]) == {"kernelspec", "language_info"}
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert notebook["metadata"]["language_info"] == {"name": "python"}
    assert [cell["metadata"] for cell in notebook["cells"]] == [{}] * len(notebook["cells"])
