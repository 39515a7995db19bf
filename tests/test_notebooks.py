"""Every notebook runs from top to bottom in a fresh kernel, through papermill, and is kept in git without outputs."""

import re
import subprocess
import sys

import nbformat
import pytest
import yaml

from book.executed import ROOT, NotebookError, is_fresh, notebooks, run

BY_NAME = pytest.mark.parametrize("path", notebooks(), ids=lambda p: p.stem)


def test_chapters_are_numbered_and_in_the_book():
    names = [path.stem for path in notebooks()]
    numbers = [int(name[:2]) for name in names]                # chapters of the plan that are not written leave gaps
    assert numbers[:4] == [0, 1, 2, 3] and numbers == sorted(set(numbers)) and numbers[-1] <= 15
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text())
    listed = [chapter["file"] for part in contents["parts"] for chapter in part["chapters"]]
    assert [entry for entry in listed if entry.startswith("notebooks/")] == [f"notebooks/{name}" for name in names]


@pytest.mark.notebook
@BY_NAME
def test_runs(path):
    """A kept run counts while its fingerprint (notebook, library, records, pins) fits: `make book` made it just now."""
    if not is_fresh(path):
        try:
            run(path)
        except NotebookError as error:
            pytest.fail(str(error), pytrace=False)
    assert is_fresh(path), "a file of the library changed while the notebook ran: run it again"


@BY_NAME
def test_is_stripped(path):
    done = subprocess.run([sys.executable, "-m", "nbstripout", "--keep-id", "--verify", str(path)], check=False)
    assert done.returncode == 0, f"holds outputs: nbstripout --keep-id notebooks/{path.name}"


@BY_NAME
def test_has_exercises_with_hidden_solutions_that_run(path):
    cells = nbformat.read(path, 4).cells
    assert len({cell.id for cell in cells}) == len(cells)
    headings = [re.search(r"^#+ .*[Ee]xercise", c.source, re.M) if c.cell_type == "markdown" else None for c in cells]
    exercises = [i for i, heading in enumerate(headings) if heading]
    assert exercises, "a chapter ends with exercises"
    solutions = [c for c in cells[exercises[0]:] if c.cell_type == "code" and c.source.strip()]
    assert any({"hide-input", "hide-cell"} & set(c.metadata.get("tags", [])) for c in solutions)
