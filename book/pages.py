"""What a chapter's page is made of: its notebook, with the solutions put beneath their exercises.

A notebook in ``notebooks/`` has no solutions, for that is where readers answer. Of exercise N it holds three cells,
known by their ids: ``exercise-N``, whose text begins with ``**N. Title.**``; ``stub-N``, a function that raises
NotImplementedError; ``check-N``, which calls ``facealign_lite.exercises.check`` on it. The solution lies in
``book/solutions/`` in the Markdown file of the notebook's name, under the heading ``## N``: words around one block of
Python. If that draws, it begins with a comment ``# Picture: ...`` with the words for those who cannot see it.

The page runs both: first the check with the stub, whose output is not shown and must say that nothing was answered,
then the solution and the check again, which must say that it is right. Sphinx reads the page in the place of the
notebook.
"""

import json
import re
from html import unescape
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell

from facealign_lite.exercises import MISSING, RIGHT

ROOT = Path(__file__).resolve().parents[1]
SOLUTIONS = ROOT / "book" / "solutions"
TITLE = re.compile(r"\*\*(\d+)\. (.+?)\*\* ?")
PICTURE = re.compile(r"# Picture: (.*(?:\n#  .*)*)")
BLOCK = re.compile(r"^```python\n(.*?)^```\n?", re.M | re.S)


def file(notebook: Path) -> Path:
    """Where a chapter's solutions are; not there, if its exercises have no stubs."""
    return SOLUTIONS / f"{notebook.stem}.md"


def chapter(notebook: Path) -> str:
    """What stands before a chapter's name: "00", "12b"."""
    return notebook.stem.partition("_")[0]


def solutions(notebook: Path) -> dict[str, tuple[str, str, str]]:
    """Words before, Python, words behind of the solutions of a chapter, by the number of the exercise.

    Raises:
        ValueError: if one has not exactly one block of Python.
    """
    where = file(notebook)
    parts = re.split(r"^## (\d+)\n", where.read_text(encoding="utf-8"), flags=re.M)[1:] if where.exists() else []
    found = {}
    for number, text in zip(parts[::2], parts[1::2], strict=True):
        words = BLOCK.split(text)
        if len(words) != 3:
            raise ValueError(f"{where.name}: solution {number} must have one block of Python, got {len(words) // 2}")
        found[number] = tuple(part.strip() for part in words)
    return found


def page(notebook: Path) -> nbformat.NotebookNode:
    """The notebook with its solutions, for chapters whose exercises have stubs.

    Raises:
        ValueError: if an exercise lacks its stub, check, title or solution, or a solution its exercise.
    """
    source = nbformat.read(notebook, 4)
    solved = solutions(notebook)
    cells = {cell.id: cell for cell in source.cells}
    numbers = [name.removeprefix("stub-") for name in cells if name.startswith("stub-")]
    if numbers != list(solved):
        raise ValueError(f"{notebook.name}: exercises {numbers}, but solutions {list(solved)}")
    page_cells = []
    for cell in source.cells:
        kind, _, number = cell.id.partition("-")
        if number not in solved or kind not in ("exercise", "stub", "check"):
            page_cells.append(cell)
        elif kind == "exercise":
            page_cells += _exercise(cell, f"exercise-{chapter(notebook)}-{number}", number, notebook)
        elif kind == "stub":
            if f"check-{number}" not in cells or f"exercise-{number}" not in cells:
                raise ValueError(f"{notebook.name}: exercise {number} has no check or no text")
            hidden = new_code_cell(cells[f"check-{number}"].source, id=f"unsolved-{number}",
                                   metadata={"tags": ["remove-cell"]})
            page_cells += [cell, hidden, *_solution(solved[number], f"exercise-{chapter(notebook)}-{number}", number)]
        else:
            page_cells.append(cell)
    source.cells = page_cells
    return source


def _exercise(cell: nbformat.NotebookNode, label: str, number: str, notebook: Path) -> list[nbformat.NotebookNode]:
    title = TITLE.match(cell.source)
    if title is None or title[1] != number:
        raise ValueError(f"{notebook.name}: exercise {number} must begin with '**{number}. Title.**'")
    name = f"{chapter(notebook).removeprefix('0')}.{number} {title[2].rstrip('.')}"
    start = f"```{{exercise-start}} {name}\n:label: {label}\n:nonumber:\n```"
    cell.source = cell.source[title.end():]
    return [new_markdown_cell(start, id=f"start-{number}"), cell,
            new_markdown_cell("```{exercise-end}\n```", id=f"end-{number}")]


def _solution(solution: tuple[str, str, str], label: str, number: str) -> list[nbformat.NotebookNode]:
    before, code, behind = solution
    cells = [new_markdown_cell(f"```{{solution-start}} {label}\n:class: dropdown\n```", id=f"open-{number}"),
             *([new_markdown_cell(before, id=f"before-{number}")] if before else []),
             new_code_cell(code, id=f"solution-{number}", metadata=_words(code)),
             *([new_markdown_cell(behind, id=f"behind-{number}")] if behind else []),
             new_markdown_cell("```{solution-end}\n```", id=f"close-{number}")]
    return cells


def _words(code: str) -> dict:
    """Metadata with the alternative text of a picture, from the comment that code begins with."""
    shown = PICTURE.match(code)
    return {"mystnb": {"image": {"alt": re.sub(r"\n# +", " ", shown[1])}}} if shown else {}


def faults(run: nbformat.NotebookNode) -> list[str]:
    """What the checks of a page's run say that they should not: stubs that pass, solutions that do not."""
    wanted = {"unsolved": MISSING, "check": RIGHT}
    said = [(cell.id, line) for cell in run.cells if cell.id.partition("-")[0] in wanted and cell.cell_type == "code"
            for line in "".join(out.get("text", "") for out in cell.outputs).splitlines() or [""]]
    return [f"{name}: {line!r}" for name, line in said if not line.startswith(wanted[name.partition("-")[0]])]


def timed(nb: nbformat.NotebookNode, seconds: float | None) -> nbformat.NotebookNode:
    """The page with the time that it takes below its title: to read, and as its code was run for it."""
    words = sum(len(cell.source.split()) for cell in nb.cells if cell.cell_type == "markdown")
    shown = [cell for cell in nb.cells if cell.cell_type == "code" and not HIDDEN & set(cell.metadata.get("tags", []))]
    lines = sum(len(cell.source.splitlines()) for cell in shown)
    minutes = 5 * max(1, round((words / WORDS + lines / LINES) / 5))
    ran = "" if seconds is None else f" Its code ran in {_duration(seconds)} when the book was built."
    first = nb.cells[0]
    first.source = f"{first.source}\n\n*About {minutes} minutes to read.{ran}*"
    return nb


WORDS, LINES = 200, 20            # of text and of code that a student reads in a minute
HIDDEN = {"hide-input", "remove-input", "hide-cell", "remove-cell"}


def _duration(seconds: float) -> str:
    return f"{max(1, round(seconds / 10)) * 10} seconds" if seconds < 95 else f"{round(seconds / 60)} minutes"


def tidy(html: str) -> str:
    """A built page without what fails in it: Thebe, which Jupyter Book always loads, declares its names twice and would
    ask another server; fonts that are fetched before a style asks for them, which a browser forbids over file://."""
    html = re.sub(r'<script type="text/x-thebe-config">.*?</script>', "", html, flags=re.S)
    html = re.sub(r'(<p class="admonition-title">Exercise) \(([\db.]+) (.*)\)</p>', r"\1 \2. \3</p>", html)
    faulty = r'const THEBE_JS_URL|sphinx-thebe\.(js|css)|rel="preload" as="font"'
    return re.sub(rf"^.*({faulty}).*\n", "", html, flags=re.M)


def buttons(options: dict) -> None:
    """Take Binder and Colab out of the theme's options while nobody has said in _config.yml where the project lies."""
    if "/OWNER/" in options.get("repository_url", ""):
        options.pop("launch_buttons", None)


COLUMN = 79                       # letters of a line of printed output that stand beside each other at 1280 pixels
SMALLEST = 0.77                   # of their size: 10.8 pixels


def wrapped(html: str) -> str:
    """A built page whose printed outputs fit the column: sentences are broken, also those among the lines of a table in
    plain text, known by three spaces between words, whose letters are made smaller where that is enough."""
    def one(found: re.Match) -> str:
        lines = found[2].split("\n")
        said = [unescape(re.sub("<[^>]+>", "", line)) for line in lines]
        in_table = [bool(re.search(r"\S {3,}\S", text)) for text in said]
        if not any(in_table):
            return f'{found[1]}<pre class="said">{found[2]}'
        widest = 0
        for k, text in enumerate(said):
            if in_table[k] or len(text) <= COLUMN or lines[k].count("<span") != lines[k].count("</span>"):
                widest = max(widest, len(text))
            else:
                lines[k] = f'<span class="said">{lines[k]}</span>'
        size = f' style="font-size: {COLUMN / widest:.3f}em"' if COLUMN < widest <= COLUMN / SMALLEST else ""
        return f"{found[1]}<pre{size}>" + "\n".join(lines)
    printed = r'(<div class="output stream[^>]*><div class="highlight">)<pre>(.*?)(?=</pre>)'
    return re.sub(printed, one, html, flags=re.S)


def setup(app):
    """For Sphinx: every notebook is read as its page, its pictures become figures, words become links, and every page
    is tidied when it is written."""
    # how a page is shown: the runs of the notebooks do not depend on it
    from . import figures, links, search_text, spaces

    def read(app, name, source):
        path = ROOT / f"{name}.ipynb"
        if name.startswith("notebooks/") and path.exists():
            run = ROOT / "_build" / "executed" / path.name
            ran = nbformat.read(run, 4).metadata.get("papermill", {}).get("duration") if run.exists() else None
            source[0] = json.dumps(timed(page(path), ran))

    def finish(app, error):
        for path in Path(app.outdir).rglob("*.html") if error is None else []:
            html = figures.sized(wrapped(tidy(path.read_text(encoding="utf-8"))))
            path.write_text(spaces.unbroken(html), encoding="utf-8")
    app.connect("config-inited", lambda app, config: buttons(config.html_theme_options))
    app.connect("source-read", read)
    app.connect("doctree-read", links.link)
    app.connect("doctree-resolved", figures.caption)
    app.connect("doctree-resolved", search_text.collect)
    app.connect("html-page-context", search_text.load)
    app.connect("build-finished", search_text.write)
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True}
