"""``make book``: run the notebooks whose runs no longer fit, write the pages that are computed, build the HTML.

With nothing changed since the last build, it only says where the book is. ``make book BUDGET=gpu`` runs the chapters'
trainings at the size of a graphics card.
"""

import hashlib
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

from facealign_lite.data.files import write_atomic
from facealign_lite.data.locks import Held, hold
from facealign_lite.training import BUDGETS

from . import assets, browser_models, ledgers, tested
from .executed import BUDGET, ROOT, NotebookError, digest, fingerprint, hand_over, is_fresh, notebooks, run

INDEX = ROOT / "_build" / "html" / "index.html"
MARK = ROOT / "_build" / "html.sha256"  # what the HTML was built from
LOCK = ROOT / "_build" / "lock"  # whoever builds


def book_fingerprint() -> str:
    """Hash of all the HTML depends on."""
    sources = [ROOT / "book", ROOT / "_config.yml", ROOT / "_toc.yml", assets.LIB / "package-lock.json",
               browser_models.FOLDER]
    written = (*ledgers.PAGES, tested.PAGE)
    files = [f for s in sources for f in (s.rglob("*") if s.is_dir() else [s]) if f not in written]
    counted = hashlib.sha256(tested.page().encode()).hexdigest()           # from tests, records and what is installed
    return "\n".join([digest(files), counted, *(f"{path.name} {fingerprint(path)}" for path in notebooks())])


def is_built() -> bool:
    """Whether the HTML stands and was built from what is here now."""
    return INDEX.exists() and MARK.exists() and MARK.read_text() == book_fingerprint()


def run_stale() -> list[str]:
    """Run the notebooks whose kept runs do not fit, two at a time; returns what went wrong."""
    stale = [path for path in notebooks() if not is_fresh(path)]
    kept = len(notebooks()) - len(stale)
    print(f"notebooks: {kept} kept runs still fit, {len(stale)} to run", *(p.name for p in stale), flush=True)
    with ProcessPoolExecutor(2) as pool:
        return [str(e) for job in [pool.submit(_try, path) for path in stale] if (e := job.result())]


def _try(path: Path) -> NotebookError | None:
    try:
        run(path)
    except NotebookError as error:
        return error
    return None


def main() -> int:
    if BUDGET not in BUDGETS:
        print(f"BUDGET must be one of {' '.join(BUDGETS)}, got {BUDGET}", file=sys.stderr)
        return 2
    try:
        with hold(LOCK):
            return build()
    except Held as error:
        print(f"The book is being built already: {error}", file=sys.stderr)
        return 2


def build() -> int:
    """Exit code: 0, or 1 or that of Sphinx where the book cannot be built."""
    with ThreadPoolExecutor(2) as aside:       # npm works and networks are exported while the notebooks run
        fetching, exporting = aside.submit(assets.fetch), aside.submit(browser_models.write)
        failures = run_stale()
        missing, unwritten = fetching.result(), exporting.result()
    if failures:
        print(*failures, "The book is not built: mend the cells above.", sep="\n\n", file=sys.stderr)
        return 1
    if missing:
        print(
            f"Built without the scripts that draw formulas and move the figures, because: {missing}\n"
            "Install Node.js, or open the notebooks with `make lab`, to see them at work.",
            file=sys.stderr,
        )
    if unwritten:
        print(f"Built without the networks that read the reader's own photo, because {unwritten}", file=sys.stderr)
    if is_built():
        print("Nothing has changed since the book was built.")
    else:
        MARK.unlink(missing_ok=True)
        before = book_fingerprint()
        hand_over()
        ledgers.write()
        tested.write()
        # a page's tree lives as long as the build: looking for garbage in it takes a sixth of the time and finds none
        jupyter_book = "import gc; gc.disable(); from jupyter_book.cli.main import main; main()"
        command = [sys.executable, "-c", jupyter_book, "build", str(ROOT), "--all", "-W", "--keep-going", "-q"]
        done = subprocess.run(command, check=False)
        if done.returncode:
            print("The book is not built: mend the warnings above.", file=sys.stderr)
            return done.returncode
        write_atomic(MARK, before.encode())
    print(f"Open the book: {INDEX.as_uri()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
