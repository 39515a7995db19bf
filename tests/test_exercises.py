"""Checks say what is right, what is missing and by how much an answer is off; pages put solutions beneath exercises."""

import re

import nbformat
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from book import pages
from facealign_lite.exercises import MISSING, RIGHT, WRONG, check, verdict


def unfilled():
    raise NotImplementedError


@pytest.mark.parametrize("found, wanted, within", [
    (3, 3, 0), (1.05, 1, 0.1), ([1, 2], np.array([1, 2]), 0), (torch.tensor([[1.0]], requires_grad=True), [[1]], 0),
    ("jaw", "jaw", 0), (True, True, 0), ([np.nan, np.inf], [np.nan, np.inf], 0), ([], [], 0), (range(3), [0, 1, 2], 0)])
def test_what_is_right(found, wanted, within, capsys):
    assert verdict(lambda: found, wanted, within) == f"{RIGHT}."
    check(lambda: found, wanted, within)
    assert capsys.readouterr().out == f"{RIGHT}.\n"


@pytest.mark.parametrize("found, wanted, says", [
    (3.5, 3, "3.5 came back, off by 0.5 where 0.1 is allowed"), (None, 3, "returned nothing"),
    ([[1, 2], [3, 9]], [[1, 2], [3, 4]], r"at \[1, 1\], 9 came back, off by 5"),
    ([1, 2], [1, 2, 3], r"shape \(2,\), wanted is \(3,\)"), ("3", 3, "a str"), (3, "jaw", "3 came back"),
    (np.nan, 1, "off by inf"), (1, np.nan, "off by inf"), (np.inf, -np.inf, "off by inf"),
    ({"a": 1}, 1, "a dict"), (False, True, "off by 1"), (1j, 1, "a complex")])
def test_what_is_not(found, wanted, says):
    text = verdict(lambda: found, wanted, 0.1)
    assert text.startswith(WRONG) and re.search(says, text)


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(0, 1e6))
def test_a_number_is_right_exactly_within_what_is_allowed(found, wanted, within):
    assert verdict(lambda: found, wanted, within).startswith(RIGHT) == (abs(found - wanted) <= within)


def test_a_function_not_filled_is_no_error_and_other_errors_are_the_readers():
    assert verdict(unfilled, 1).startswith(MISSING)
    with pytest.raises(ZeroDivisionError):
        verdict(lambda: 1 / 0, 1)
    for within in (-1, np.nan):
        with pytest.raises(ValueError, match="within must not be negative"):
            verdict(lambda: 1, 1, within)
    with pytest.raises(ValueError, match="wanted must be"):
        verdict(lambda: 1, object())


STUB = "def twice(x):\n    raise NotImplementedError"
SOLUTION = "## 1\nAdd.\n\n```python\ndef twice(x):\n    return x + x\n```\n\nSo.\n"
CHECK = "check(lambda: twice(4), 8)"


@pytest.fixture
def chapter(tmp_path, monkeypatch):
    """Writes a notebook with one exercise and its file of solutions."""
    monkeypatch.setattr(pages, "SOLUTIONS", tmp_path)

    def write(text="**1. Doubles.** Fill in.", stub=STUB, check=CHECK, solution=SOLUTION):
        cells = [new_markdown_cell("# A chapter", id="title"), new_markdown_cell(text, id="exercise-1"),
                 new_code_cell(stub, id="stub-1")] + ([new_code_cell(check, id="check-1")] if check else [])
        path = tmp_path / "07_lines.ipynb"
        nbformat.write(new_notebook(cells=cells), path)
        (tmp_path / "07_lines.md").write_text(solution)
        return path
    return write


def test_a_page_shows_exercise_stub_folded_solution_and_check(chapter):
    cells = pages.page(chapter()).cells
    assert [cell.id for cell in cells] == [
        "title", "start-1", "exercise-1", "end-1", "stub-1", "unsolved-1", "open-1", "before-1", "solution-1",
        "behind-1", "close-1", "check-1"]
    by = {cell.id: cell for cell in cells}
    assert by["start-1"].source.startswith("```{exercise-start} 7.1 Doubles\n:label: exercise-07-1\n")
    assert by["exercise-1"].source == "Fill in."
    assert by["open-1"].source.startswith("```{solution-start} exercise-07-1\n")
    assert by["unsolved-1"].source == by["check-1"].source == CHECK
    assert by["unsolved-1"].metadata.tags == ["remove-cell"]
    # run as Python, from top to bottom: first nothing is answered, then it is right
    said, space = [], {"check": lambda *a: said.append(verdict(*a))}
    for cell in cells:
        if cell.cell_type == "code":
            exec(cell.source, space)
    assert [text[:5] for text in said] == [MISSING[:5], RIGHT[:5]]


def test_a_chapter_without_stubs_is_its_page(chapter):
    path = chapter()
    pages.file(path).unlink()
    nb = nbformat.read(path, 4)
    nb.cells = nb.cells[:1]
    nbformat.write(nb, path)
    assert pages.page(path) == nb


@pytest.mark.parametrize("broken, says", [
    ({"text": "Fill in."}, r"must begin with '\*\*1. Title"),
    ({"text": "**2. Doubles.** Fill in."}, "exercise 1 must begin"),
    ({"check": None}, "exercise 1 has no check"), ({"solution": ""}, r"exercises \['1'\], but solutions \[\]"),
    ({"solution": "## 1\nAdd.\n"}, "one block of Python, got 0"),
    ({"solution": "## 2\n```python\n```\n"}, "but solutions")])
def test_what_is_incomplete_is_refused(chapter, broken, says):
    with pytest.raises(ValueError, match=says):
        pages.page(chapter(**broken))


def test_a_stub_that_passes_and_a_solution_that_does_not_are_faults(chapter):
    nb = pages.page(chapter())
    by = {cell.id: cell for cell in nb.cells}

    def run(unsolved, solved):
        for name, text in (("unsolved-1", unsolved), ("check-1", solved)):
            by[name].outputs = [new_output("stream", name="stdout", text=text)] if text else []
        return pages.faults(nb)
    assert run(f"{MISSING}: fill\n", f"{RIGHT}.\n{RIGHT}.\n") == []
    assert run(f"{RIGHT}.\n", f"{RIGHT}.\n") == [f"unsolved-1: '{RIGHT}.'"]
    assert run(f"{MISSING}: fill\n", f"{RIGHT}.\n{WRONG}: 3\n") == [f"check-1: '{WRONG}: 3'"]
    assert run("", "") == ["unsolved-1: ''", "check-1: ''"]
