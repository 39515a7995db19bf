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


def test_pictures_of_a_solution_have_words(chapter):
    drawn = SOLUTION.replace("```python\n", "```python\n# Picture: two lines,\n#   one steeper.\n# not this\n", 1)
    for text, wanted in ((drawn, {"mystnb": {"image": {"alt": "two lines, one steeper."}}}), (SOLUTION, {})):
        [cell] = [c for c in pages.page(chapter(solution=text)).cells if c.id == "solution-1"]
        assert cell.metadata == wanted


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


def test_a_page_says_how_long_it_takes():
    def said(words, lines, seconds, tags=()):
        code = new_code_cell("\n".join(["x"] * lines), metadata={"tags": list(tags)})
        nb = new_notebook(cells=[new_markdown_cell("# A chapter"), new_markdown_cell("word " * words), code])
        return pages.timed(nb, seconds).cells[0].source
    assert said(2000, 0, None) == "# A chapter\n\n*About 10 minutes to read.*"
    ran = "Its code ran in 30 seconds when the book was built."
    assert said(2000, 100, 34) == f"# A chapter\n\n*About 15 minutes to read. {ran}*"
    assert "About 10 minutes" in said(2000, 100, 34, ["hide-input"])
    assert "About 5 minutes" in said(3, 0, 1) and "in 10 seconds" in said(3, 0, 1) and "2 minutes w" in said(3, 0, 130)


def test_a_tidied_page_has_lost_only_what_fails():
    kept = ['<link rel="preload" as="script" href="a.js" />', '<script src="b.js"></script>', "<p>THEBE</p>",
            "<pre>x</pre>"]
    lost = ['    <link rel="stylesheet" href="../_static/sphinx-thebe.css?v=4" />',
            '<script>const THEBE_JS_URL = "https://elsewhere"; const y = 1</script>',
            '<script async="async" src="../_static/sphinx-thebe.js?v=c1"></script>',
            '<link rel="preload" as="font" type="font/woff2" crossorigin href="fa-solid-900.woff2" />']
    page = "\n".join([kept[0], lost[0], lost[1], kept[1], lost[2], lost[1], kept[2], lost[3], kept[3], ""])
    page = page.replace(kept[2], kept[2] + '<script type="text/x-thebe-config">\n{a: 1}\n</script>')
    assert pages.tidy(page).split() == "\n".join(kept).split()
    title = '<p class="admonition-title">Exercise {}</p>'
    assert pages.tidy(title.format("(8.1 Work (of a stem))")) == title.format("8.1. Work (of a stem)")
    assert pages.tidy(title.format("(12b.1 The full set)")) == title.format("12b.1. The full set")


def test_printed_sentences_are_broken_and_tables_made_smaller_only_where_that_is_enough():
    def printed(text):
        return f'<div class="output stream x"><div class="highlight"><pre><span></span>{text}</pre></div></div>'

    def shown(text):
        return re.search(r"<pre.*?>", pages.wrapped(printed(text)))[0]
    assert shown("word " * 40) == shown("a &lt; b") == '<pre class="said">'
    assert shown("name    12.3") == "<pre>" and shown("name" + " " * 140 + "12.3") == "<pre>"
    assert shown("name" + " " * 84 + "12.3") == f'<pre style="font-size: {pages.COLUMN / 92:.3f}em">'
    assert pages.COLUMN / 92 > pages.SMALLEST
    both = printed("name    12.3\n" + "word " * 40 + "\nname     9.1")             # a sentence among a table's lines
    assert pages.wrapped(both) == both.replace("word " * 40, f'<span class="said">{"word " * 40}</span>')
    assert pages.wrapped("<pre>x</pre>" + printed("y   z")) == "<pre>x</pre>" + printed("y   z")
