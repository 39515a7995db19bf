"""Each notebook runs once, through papermill: the run is its test, and its outputs are the page of the book.

A run is kept beside a fingerprint of all its outputs depend on; while that fits, the run is used again.
"""

import ast
import hashlib
import os
import shutil
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import nbformat

from facealign_lite.data.files import write_atomic
from facealign_lite.data.locks import hold
from facealign_lite.training import BUDGETS

from . import pages

ROOT = Path(__file__).resolve().parents[1]
EXECUTED = ROOT / "_build" / "executed"
CELL_TIMEOUT = int(os.environ.get("NOTEBOOK_CELL_TIMEOUT", "600"))  # seconds
BUDGET = os.environ.get("BUDGET", "lite")  # of the chapters' trainings, see facealign_lite.training.BUDGETS


class NotebookError(RuntimeError):
    """A notebook that did not run to its end; the text names the cell and its error."""


def notebooks() -> list[Path]:
    """The chapters; the lab, which has no number, is no page of the book."""
    return sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))


def parameters(notebook: Path) -> set[str]:
    """Names that the notebook's ``parameters`` cell sets."""
    cells = [cell for cell in _code(nbformat.read(notebook, 4)) if "parameters" in cell.metadata.get("tags", [])]
    lines = [node for cell in cells for node in ast.parse(cell.source).body if isinstance(node, ast.Assign)]
    return {target.id for node in lines for target in node.targets if isinstance(target, ast.Name)}


def chosen(notebook: Path) -> dict[str, str]:
    """Parameters that a run of this notebook is given: another budget than the notebook's own, if it has one.

    Raises:
        ValueError: if no such budget is known.
    """
    if BUDGET not in BUDGETS:
        raise ValueError(f"BUDGET must be one of {BUDGETS}, got {BUDGET!r}")
    return {"budget": BUDGET} if BUDGET != BUDGETS[0] and "budget" in parameters(notebook) else {}


def digest(paths: Iterable[Path]) -> str:
    """Hash of the names and bytes of files; folders stand for all that lies in them."""
    files = {f for p in paths for f in (p.rglob("*") if p.is_dir() else [p])}
    kept = sorted(f for f in files if f.is_file() and "__pycache__" not in f.parts and not f.name.startswith("."))
    whole = hashlib.sha256()
    for file in kept:
        whole.update(f"{file.relative_to(ROOT).as_posix()}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return whole.hexdigest()


@lru_cache(maxsize=1)
def _shared() -> str:
    parts = ("facealign_lite", "experiments", "results", "book/claims.yml", "requirements.txt",
             "notebooks/matplotlibrc")
    return digest([*(ROOT / part for part in parts), Path(__file__), Path(pages.__file__)])


def fingerprint(notebook: Path) -> str:
    """Hash of all a run depends on: notebook and its solutions, library with its assets, experiments, records, claims,
    pins, Python, and the budget where there is something to be trained."""
    given = "".join(f" {name}={value}" for name, value in chosen(notebook).items())
    own = digest([notebook, pages.file(notebook)])
    return hashlib.sha256(f"{sys.version_info[:2]} {_shared()} {own}{given}".encode()).hexdigest()


def is_fresh(notebook: Path) -> bool:
    """Whether a run of this notebook is kept whose fingerprint still fits."""
    mark = EXECUTED / f"{notebook.stem}.sha256"
    return mark.exists() and mark.with_suffix(".ipynb").exists() and mark.read_text() == fingerprint(notebook)


def run(notebook: Path) -> None:
    """Run a notebook from top to bottom in a fresh kernel, with its solutions, and keep the run.

    Of two processes that would run it at once, the second waits, and takes the run of the first.

    Raises:
        NotebookError: naming the cell that failed, ran past CELL_TIMEOUT or lost its kernel, or the exercise whose
            solution its check refuses or whose empty stub passes.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # two notebooks run side by side, and sums keep their order
    stale = not is_fresh(notebook)
    with hold(EXECUTED / f".{notebook.stem}.lock", wait=True):
        if not (stale and is_fresh(notebook)):
            _run(notebook, EXECUTED / notebook.name, EXECUTED / f"{notebook.stem}.sha256")


def _run(notebook: Path, out: Path, mark: Path) -> None:
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    mark.unlink(missing_ok=True)
    before = fingerprint(notebook)
    nbformat.write(pages.page(notebook), out)
    try:
        papermill.execute_notebook(out, out, chosen(notebook), cwd=notebook.parent, kernel_name="python3",
                                   execution_timeout=CELL_TIMEOUT, progress_bar=False,
                                   extra_arguments=["--log-level=ERROR"])     # a local kernel needs no encryption
    except papermill.PapermillExecutionError as error:
        raise NotebookError(f"{notebook.name}, In [{error.exec_count}]:\n\n{error.source}\n\n"
                            f"{error.ename}: {error.evalue}\n\nas run: {out}") from None
    except (CellTimeoutError, DeadKernelError) as error:
        raise NotebookError(f"{notebook.name}: {error}") from None
    if faults := pages.faults(nbformat.read(out, 4)):
        raise NotebookError(f"{notebook.name}, exercises: " + "; ".join(faults))
    write_atomic(mark, before.encode())


def hand_over() -> None:
    """Fill the book's cache with the kept runs, so that Sphinx runs nothing.

    The cache finds a notebook by its code cells with their metadata, to which papermill adds, as it adds a cell of the
    parameters it was given: so outputs are moved onto the page's notebook first.
    """
    from jupyter_cache import get_cache
    from jupyter_cache.base import CacheBundleIn

    where = ROOT / "_build" / ".jupyter_cache"
    shutil.rmtree(where, ignore_errors=True)  # its key does not see facealign_lite/
    cache = get_cache(str(where))
    for path in notebooks():
        source, done = pages.page(path), nbformat.read(EXECUTED / path.name, 4)
        ran = [cell for cell in _code(done) if "injected-parameters" not in cell.metadata.get("tags", [])]
        for cell, run_cell in zip(_code(source), ran, strict=True):
            cell.outputs, cell.execution_count = run_cell.outputs, run_cell.execution_count
        for key in {"widgets", "language_info"} & set(done.metadata):
            source.metadata[key] = done.metadata[key]
        cache.cache_notebook_bundle(CacheBundleIn(nb=source, uri=str(path)), overwrite=True)


def _code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]
