"""Each notebook runs once, through papermill: the run is its test, and its outputs are the page of the book.

A run is kept beside a fingerprint of all its outputs depend on; while that fits, the run is used again.
"""

import hashlib
import os
import shutil
import sys
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
EXECUTED = ROOT / "_build" / "executed"
CELL_TIMEOUT = int(os.environ.get("NOTEBOOK_CELL_TIMEOUT", "600"))  # seconds


class NotebookError(RuntimeError):
    """A notebook that did not run to its end; the text names the cell and its error."""


def notebooks() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("*.ipynb"))


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
    parts = ("facealign_lite", "experiments", "results", "book/claims.yml", "requirements.txt")
    return digest([*(ROOT / part for part in parts), Path(__file__)])


def fingerprint(notebook: Path) -> str:
    """Hash of all a run depends on: notebook, library with its assets, experiments, records, claims, pins, Python."""
    return hashlib.sha256(f"{sys.version_info[:2]} {_shared()} {digest([notebook])}".encode()).hexdigest()


def is_fresh(notebook: Path) -> bool:
    """Whether a run of this notebook is kept whose fingerprint still fits."""
    mark = EXECUTED / f"{notebook.stem}.sha256"
    return mark.exists() and mark.with_suffix(".ipynb").exists() and mark.read_text() == fingerprint(notebook)


def run(notebook: Path) -> None:
    """Run a notebook from top to bottom in a fresh kernel and keep the run.

    Raises:
        NotebookError: naming the cell that failed, ran past CELL_TIMEOUT or lost its kernel.
    """
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    os.environ.setdefault("OMP_NUM_THREADS", "1")  # two notebooks run side by side, and sums keep their order
    EXECUTED.mkdir(parents=True, exist_ok=True)
    out, mark = EXECUTED / notebook.name, EXECUTED / f"{notebook.stem}.sha256"
    mark.unlink(missing_ok=True)
    before = fingerprint(notebook)
    try:
        papermill.execute_notebook(notebook, out, cwd=notebook.parent, kernel_name="python3",
                                   execution_timeout=CELL_TIMEOUT, progress_bar=False,
                                   extra_arguments=["--log-level=ERROR"])     # a local kernel needs no encryption
    except papermill.PapermillExecutionError as error:
        raise NotebookError(f"{notebook.name}, In [{error.exec_count}]:\n\n{error.source}\n\n"
                            f"{error.ename}: {error.evalue}\n\nas run: {out}") from None
    except (CellTimeoutError, DeadKernelError) as error:
        raise NotebookError(f"{notebook.name}: {error}") from None
    mark.write_text(before)


def hand_over() -> None:
    """Fill the book's cache with the kept runs, so that Sphinx runs nothing.

    The cache finds a notebook by its code cells with their metadata, to which papermill adds: so outputs are moved
    onto the source notebook first.
    """
    from jupyter_cache import get_cache
    from jupyter_cache.base import CacheBundleIn

    where = ROOT / "_build" / ".jupyter_cache"
    shutil.rmtree(where, ignore_errors=True)  # its key does not see facealign_lite/
    cache = get_cache(str(where))
    for path in notebooks():
        source, done = nbformat.read(path, 4), nbformat.read(EXECUTED / path.name, 4)
        for cell, run_cell in zip(_code(source), _code(done), strict=True):
            cell.outputs, cell.execution_count = run_cell.outputs, run_cell.execution_count
        for key in {"widgets", "language_info"} & set(done.metadata):
            source.metadata[key] = done.metadata[key]
        cache.cache_notebook_bundle(CacheBundleIn(nb=source, uri=str(path)), overwrite=True)


def _code(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]
