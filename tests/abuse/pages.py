"""A book of four pages, built by the builder of the real one: killed, built twice, two at once."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import papermill

from book import assets
from facealign_lite.records import ROOT

from .faults import PATIENCE, Count

CONFIG = """
title: A toy
only_build_toc_files: true
execute: {execute_notebooks: cache}
"""
TOC = """
format: jb-book
root: book/intro
parts:
  - caption: Notebooks
    chapters: [{file: notebooks/00_one}, {file: notebooks/01_two}]
  - caption: Ledgers
    chapters: [{file: book/ledger_toy}, {file: book/how_tested}]
"""
CELLS = ("import numpy as np\nfrom facealign_lite import heatmaps",
         "points = np.random.default_rng(%d).uniform(0, 20, (3, 2))\nprint(heatmaps.encode(points, 24, 1.5).sum())",
         "points")
LEDGERS = """
from pathlib import Path

PAGES = (Path(__file__).parent / "ledger_toy.md",)


def write():
    PAGES[0].write_text("# A ledger\\n\\nOne line.\\n")
"""
TESTED = """
from pathlib import Path

PAGE = Path(__file__).parent / "how_tested.md"


def page():
    return "# A page of counts\\n\\nOne line.\\n"


def write():
    PAGE.write_text(page())
"""
LINKED = ("facealign_lite", "experiments", "requirements.txt")


def make(folder: Path) -> None:
    """The toy in ``folder``: the builder's own code, our library, pages of two lines."""
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    (folder / "results").mkdir()
    (folder / "_config.yml").write_text(CONFIG)
    (folder / "_toc.yml").write_text(TOC)
    (folder / "book" / "_static").mkdir(parents=True)
    for path in ROOT.glob("book/*.py"):
        shutil.copy(path, folder / "book")
    (folder / "book" / "claims.yml").write_text("[]")
    (folder / "book" / "ledgers.py").write_text(LEDGERS)
    (folder / "book" / "tested.py").write_text(TESTED)
    (folder / "book" / "intro.md").write_text("# A toy\n\nA page.\n")
    (folder / "notebooks").mkdir()
    for number, name in enumerate(("00_one", "01_two")):
        cells = [nbformat.v4.new_markdown_cell(f"# Notebook {number}", id=f"head{number}")]
        cells += [nbformat.v4.new_code_cell(source % number if "%" in source else source, id=f"cell{number}{i}")
                  for i, source in enumerate(CELLS)]
        kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "notebooks" / f"{name}.ipynb")
    library = folder / "_build" / "static" / "lib"           # nobody asks npm
    library.mkdir(parents=True)
    for script in assets.SCRIPTS:
        (library / script).write_text("")
    for place in (library, folder / "book"):
        (place / "package-lock.json").write_text("{}")


def start(folder: Path, *words: str) -> subprocess.Popen:
    """A process of its own group, so that it can be killed with all that it started."""
    return subprocess.Popen([sys.executable, *(words or ("-m", "book.build"))], cwd=folder, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
                            env=os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1", "BUDGET": "lite"})


def build(folder: Path) -> dict[str, bytes]:
    """Build the toy to its end; the pages by name."""
    process = start(folder)
    told = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, told[1][-500:]
    html = folder / "_build" / "html"
    return {path.relative_to(html).as_posix(): path.read_bytes() for path in sorted(html.rglob("*.html"))}


def fresh(folder: Path, name: str) -> Path:
    place = folder / name
    place.mkdir()
    make(place)
    return place


def built_twice(times: int, folder: Path) -> dict[str, Any]:
    """The same pages, to the byte, from two builds that share nothing."""
    count = Count()
    for number in range(times):
        one, other = build(fresh(folder, f"{number} one")), build(fresh(folder, f"{number} other"))
        count.one(f"book {number}", lambda one=one, other=other: _equal(one, other))
    return count.figures()


def killed_build(times: int, folder: Path, seed: int = 0) -> dict[str, Any]:
    """kill -9 of a build and its kernels at random moments: the next one makes the pages of an undisturbed one."""
    count, rng = Count(), np.random.default_rng(seed)
    begin = time.perf_counter()
    wanted = build(fresh(folder, "whole"))
    took = time.perf_counter() - begin
    for number in range(times):
        place, moment = fresh(folder, str(number)), rng.uniform(0, took)
        process = start(place)
        time.sleep(moment)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        count.one(f"killed after {moment:.1f} s", lambda place=place: _equal(build(place), wanted))
        shutil.rmtree(place, ignore_errors=True)
    return count.figures()


def notebook_at_once(times: int, folder: Path) -> dict[str, Any]:
    """One notebook run twice at once: both end well, and the run that is kept is a whole one."""
    count = Count()
    for number in range(times):
        place = fresh(folder, str(number))
        words = ("-c", "from book.executed import notebooks, run; run(notebooks()[0])")
        both = [start(place, *words) for _ in range(2)]
        told = [process.communicate(timeout=PATIENCE) for process in both]

        def check(place: Path = place, both: list = both, told: list = told) -> None:
            assert [process.returncode for process in both] == [0, 0], told
            kept = nbformat.read(place / "_build" / "executed" / "00_one.ipynb", 4)
            assert all(cell.execution_count for cell in kept.cells if cell.cell_type == "code")
            assert [path.suffix for path in sorted((place / "_build" / "executed").glob("*"))] == [".ipynb", ".sha256"]
        count.one(f"notebook {number}", check)
    return count.figures()


def build_at_once(times: int, folder: Path) -> dict[str, Any]:
    """Two builds of one book at once: one builds, the other says who does, and the pages are whole."""
    count, wanted = Count(), build(fresh(folder, "whole"))
    for number in range(times):
        place = fresh(folder, str(number))
        both = [start(place) for _ in range(2)]
        told = [process.communicate(timeout=PATIENCE) for process in both]

        def check(place: Path = place, both: list = both, told: list = told) -> None:
            codes = sorted(process.returncode for process in both)
            assert codes in ([0, 2], [0, 0]), told
            assert codes == [0, 0] or any("held by process" in words[1] for words in told)
            _equal(build(place), wanted)
        count.one(f"book {number}", check)
    return count.figures()


def notebooks_twice(times: int, folder: Path) -> dict[str, Any]:
    """Chapters of the real book, the quickest ones, each run twice: equal outputs."""
    count = Count()
    for name in QUICK[:times]:
        def check(name: str = name) -> None:
            kept = []
            for number in range(2):
                out = folder / f"{number} {name}"
                papermill.execute_notebook(ROOT / "notebooks" / name, out, cwd=ROOT / "notebooks",
                                           kernel_name="python3", progress_bar=False, execution_timeout=1200)
                kept.append(outputs(out))
            different = [number for number, (a, b) in enumerate(zip(*kept, strict=True)) if a != b]
            assert not different, f"outputs of cells {different} differ"
        count.one(name, check)
    return count.figures()


QUICK = ("04_contourness.ipynb", "07_boundaries.ipynb", "09_bali_fields.ipynb", "11_reference_transformation.ipynb")


def outputs(notebook: Path) -> list[Any]:
    """What the code cells of a run gave, without when and how long, names of widgets and addresses in memory."""
    cells = [cell for cell in nbformat.read(notebook, 4).cells if cell.cell_type == "code"]
    kept = []
    for cell in cells:
        some = [output for output in cell.outputs if output.get("name") != "stderr"]
        kept.append([{"text": output.get("text"), "data": {
            kind: value for kind, value in output.get("data", {}).items() if "widget" not in kind}} for output in some])
    return json.loads(re.sub(r" at 0x[0-9a-f]+>", ">", json.dumps(kept)))


def _equal(one: dict[str, bytes], other: dict[str, bytes]) -> None:
    assert one.keys() == other.keys(), one.keys() ^ other.keys()
    assert one, "no page was built"
    if different := [name for name in one if one[name] != other[name]]:
        raise AssertionError(f"pages differ: {different}")
