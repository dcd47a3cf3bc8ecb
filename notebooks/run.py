"""Executes the notebooks: `make notebooks`, or `make notebooks WRITE=1` to keep what they show."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, DeadKernelError
from nbformat import NotebookNode
from traitlets.config import Config

HERE = Path(__file__).parent
# A notebook should take less than two minutes on two cores. How long it takes elsewhere is printed
# and nothing more: machines that run CI can be three times slower, and a limit would fail by
# chance. What hangs does fail, after the seconds that a single cell is given.
CELL_TIMEOUT = 600
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def execute(file: Path) -> NotebookNode:
    """The notebook with the outputs of a fresh kernel, which starts where Jupyter would start it.

    No times of execution and no versions of the kernel, so that a diff shows what has changed.
    """
    notebook = nbformat.read(file, as_version=4)
    NotebookClient(
        notebook,
        timeout=CELL_TIMEOUT,
        kernel_name="python3",
        resources={"metadata": {"path": str(HERE)}},
        record_timing=False,
        coalesce_streams=True,
        # Kernels warn when others on the machine could listen.
        config=Config({"KernelManager": {"transport_encryption": "auto"}}),
    ).execute()
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
    return notebook


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, help="all, if none is named")
    parser.add_argument("--write", action="store_true", help="the outputs into the files")
    options = parser.parse_args(arguments)
    failed = []
    for file in options.files or sorted(HERE.glob("*.ipynb")):
        start = time.perf_counter()
        try:
            notebook = execute(file)
            if options.write:
                nbformat.write(notebook, file)
        except (CellControlSignal, DeadKernelError) as error:  # too long a cell is the former too
            failed.append(file.name)
            print(f"{file.name}:\n{error}", file=sys.stderr)
        result = "FAILED" if file.name in failed else "passed"
        print(f"{result}  {time.perf_counter() - start:6.1f} s  {file.name}", flush=True)
    if failed:
        sys.exit(f"notebooks that failed: {', '.join(failed)}")


if __name__ == "__main__":
    main(sys.argv[1:])
