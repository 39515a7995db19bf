"""Every notebook runs from top to bottom in a fresh kernel, through papermill, and is kept in git without outputs."""

import ast
import os
import re
import subprocess
import sys

import nbformat
import pytest
import yaml

from book import build, executed, pages
from book.executed import ROOT, NotebookError, chosen, fingerprint, is_fresh, notebooks, parameters, run

BY_NAME = pytest.mark.parametrize("path", notebooks(), ids=lambda p: p.stem)
HIDDEN = {"hide-input", "remove-input", "hide-cell", "remove-cell"}
COLUMN, FOLDED = 79, 70           # characters of a line of code on the page, in a folded solution


def code(path, tag=None):
    """All code of a chapter as one program; without the cells of that tag, which a reader's budget replaces."""
    cells = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    return ast.parse("\n".join(c.source for c in cells if tag not in c.metadata.get("tags", [])))


def called(tree, *names):
    """Calls of functions of those names, with or without the name of their module."""
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [c for c in calls if getattr(c.func, "id", getattr(c.func, "attr", None)) in names]


def learns(path):
    """Whether a chapter trains a network: by ``training``, or by an optimiser of a network's parameters."""
    tree = code(path)
    taken = [a.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
             and node.module == "facealign_lite.training" for a in node.names]
    own = [c for c in called(tree, "SGD", "Adam", "AdamW") if called(c, "parameters")]
    return bool({"fit", "steps", "TrainConfig"} & set(taken) or own)


TRAINED = [path for path in notebooks() if learns(path)]


def test_chapters_are_numbered_and_in_the_book():
    names = [path.stem for path in notebooks()]
    parts = [re.fullmatch(r"(\d\d)([b-z]?)", pages.chapter(path)).groups() for path in notebooks()]
    # chapters of the plan that are not written leave gaps; "12b" goes on where "12" ends
    assert [number for number, _ in parts][:4] == ["00", "01", "02", "03"] and parts[-1][0] <= "16"
    assert parts == sorted(set(parts)) and all((number, "") in parts for number, _ in parts)
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text())
    listed = [chapter["file"] for part in contents["parts"] for chapter in part["chapters"]]
    assert [entry for entry in listed if entry.startswith("notebooks/")] == [f"notebooks/{name}" for name in names]


@BY_NAME
def test_the_sidebar_numbers_a_chapter_as_the_text_does(path):
    contents = yaml.safe_load((ROOT / "_toc.yml").read_text())
    [title] = [one["title"] for part in contents["parts"] for one in part["chapters"]
               if one["file"] == f"notebooks/{path.stem}"]
    heading = re.match(r"# (.+)", nbformat.read(path, 4).cells[0].source)[1]
    assert title == f"{pages.chapter(path).removeprefix('0')}. {heading.strip()}"


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
    folded = any({"hide-input", "hide-cell"} & set(c.metadata.get("tags", [])) for c in solutions)
    assert folded or pages.solutions(path)


def test_chapters_that_train_are_found():
    assert {path.stem[:2] for path in TRAINED} == {"01", "02", "03", "05", "07", "08", "09", "10", "12", "13", "16"}


@pytest.mark.parametrize("path", TRAINED, ids=lambda p: p.stem)
def test_trains_where_and_for_as_long_as_it_is_told(path):
    assert {"device", "budget"} <= parameters(path)
    [cell] = [c for c in nbformat.read(path, 4).cells if "parameters" in c.metadata.get("tags", [])]
    set_to = {}
    exec(cell.source, set_to)
    assert (set_to["device"], set_to["budget"]) == ("auto", "lite")
    amounts = {name: value for name, value in set_to.items() if isinstance(value, dict) and "gpu" in value}
    assert any("steps" in name for name in amounts)
    tree = code(path, "parameters")
    taken = called(tree, "of_budget")                            # chooses of each amount
    assert all(getattr(c.args[0], "id", None) == "budget" for c in taken)
    assert set(amounts) <= {getattr(c.args[1], "id", None) for c in taken}
    assert all(value["lite"] < value["gpu"] for value in amounts.values())
    given = [{k.arg: k.value for k in c.keywords} for c in called(tree, "TrainConfig")]
    assert all(getattr(words.get("device"), "id", None) == "device" for words in given)
    assert given or called(tree, "pick_device")
    assert all(getattr(c.args[0], "id", None) == "device" for c in called(tree, "pick_device"))


@pytest.mark.parametrize("path", TRAINED, ids=lambda p: p.stem)
def test_another_budget_is_refused_at_once(path):
    """The first cell that asks for the budget says what it may be."""
    ask = next(node for node in code(path, "parameters").body if called(node, "of_budget"))
    [cell] = [c for c in nbformat.read(path, 4).cells if "parameters" in c.metadata.get("tags", [])]
    words = {}
    exec(f"from facealign_lite.training import of_budget\n{cell.source}\nbudget = 'large'", words)
    with pytest.raises(ValueError, match="budget must be one of .*'lite', 'gpu'.*, got 'large'"):
        exec(compile(ast.Module([ask], []), path.name, "exec"), words)


def test_the_book_takes_a_budget(monkeypatch, capsys):
    trained, plain = TRAINED[0], next(path for path in notebooks() if path not in TRAINED)
    before = [fingerprint(trained), fingerprint(plain)]
    assert chosen(trained) == {}
    monkeypatch.setattr(executed, "BUDGET", "gpu")
    assert (chosen(trained), chosen(plain)) == ({"budget": "gpu"}, {})
    assert fingerprint(trained) != before[0] and fingerprint(plain) == before[1]
    for module in (executed, build):
        monkeypatch.setattr(module, "BUDGET", "large")
    with pytest.raises(ValueError, match="BUDGET must be one of .*, got 'large'"):
        chosen(plain)
    assert build.main() == 2 and "BUDGET must be one of lite gpu, got large" in capsys.readouterr().err


def test_make_hands_the_budget_on():
    for words, wanted in (([], "lite"), (["BUDGET=gpu"], "gpu")):
        done = subprocess.run(["make", "--no-print-directory", "-f", "-", "show", *words], cwd=ROOT, check=True,
                              input="include Makefile\nshow:\n\t@echo $$BUDGET\n", capture_output=True, text=True,
                              env={k: v for k, v in os.environ.items() if k != "BUDGET"})
        assert done.stdout.split() == [wanted]


@BY_NAME
def test_visible_code_fits_the_column(path):
    cells = [c for c in nbformat.read(path, 4).cells
             if c.cell_type == "code" and not HIDDEN & set(c.metadata.get("tags", []))]
    long = [line for c in cells for line in c.source.splitlines() if len(line) > COLUMN]
    assert not long, f"{len(long)} lines are over {COLUMN} characters, the first: {long[0]}"


@BY_NAME
def test_every_exercise_has_a_stub_a_check_a_hint_and_a_solution_elsewhere(path):
    """For chapters with a file of solutions. Running the page holds them to their checks (``executed.run``)."""
    cells = {cell.id: cell.source for cell in nbformat.read(path, 4).cells}
    solved = pages.solutions(path)
    page = pages.page(path)                                                     # refuses what is incomplete
    for number, (before, solution, behind) in solved.items():
        assert "<summary>Hint</summary>" in cells[f"exercise-{number}"]
        assert "raise NotImplementedError" in cells[f"stub-{number}"] and "check(" in cells[f"check-{number}"]
        assert before or behind, "a solution says in words why it is right"
        assert all(len(line) <= FOLDED for line in solution.splitlines()), f"solution {number} is too wide"
        assert solution not in cells.values()
    assert sum(cell.id.startswith("solution-") for cell in page.cells) >= len(solved)
