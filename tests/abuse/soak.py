"""``python -m tests.abuse.soak [CAMPAIGN [PART ...]]``: the long form of a campaign, part by part, and its record.

A part that has been run with the code that is here is not run again; each part runs in a process of its own. Records
are written once all parts of a campaign are there.
"""

import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from facealign_lite.data.locks import Held, hold

from . import doors, faults, fuzz, load, pages, parts

MANY = 10_000             # wrong calls of a door, or less of one that takes long
# part: how it is run, and tries; only in the long form, for each is a minute
BOOK: dict[str, tuple[Callable[[int, Path], dict[str, Any]], int]] = {
    "book: kill -9 at random moments of a build": (pages.killed_build, 12),
    "book: two builds at once": (pages.build_at_once, 3),
    "book: one notebook run twice at once": (pages.notebook_at_once, 5),
    "same numbers: a book built twice": (pages.built_twice, 3),
    "same numbers: chapters run twice": (pages.notebooks_twice, 4),
}


def campaigns() -> dict[str, dict[str, Callable[[], dict[str, Any]]]]:
    """Parts by name, of each campaign."""
    return {
        "abuse": {name: _in_a_folder(lambda folder, name=name: fuzz.campaign(name, fuzz.cases(name, MANY), folder))
                  for name in doors.DOORS},
        "faults": {name: _in_a_folder(lambda folder, run=run, times=times: run(times, folder)) for name, (run, times) in
                   ({name: (run, many) for name, (run, many, _) in faults.PARTS.items()} | BOOK).items()},
        "load": load.LONG}


def _in_a_folder(run: Callable[[Path], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    def inner() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            return run(Path(folder))
    return inner


ABOUT = {
    "abuse": ("wrong calls of every public door, and damaged files of every reader",
              "good arguments and files, of which some part was spoiled by a seeded generator",
              {"calls": MANY, "seconds_a_call": fuzz.SECONDS, "bytes_a_call": fuzz.MEMORY}),
    "faults": ("processes killed, disks full, folders closed, files damaged, the same work done twice at once",
               "trainings, packs, arms and books of a few seconds", {"tries": "with each part"}),
    "load": ("calls in one process and from many sides at once", "rendered faces, each in other sizes and lights",
             {"calls": {"align": 20_000, "align_all": 2000, "track": 2000}}),
}


def alone(campaign: str, name: str, run: Callable[[], dict[str, Any]]) -> int:
    """Run a part in a process of its own, so that the others go on if it dies; its exit code."""
    if campaign == "load" or not hasattr(os, "fork"):   # memory is that of a fresh process
        return subprocess.run([sys.executable, "-m", "tests.abuse.soak", campaign, name], check=False).returncode
    sys.stdout.flush()
    if (pid := os.fork()) == 0:
        code = 1
        try:
            parts.keep("long", campaign, name, run)
            code = 0
        except BaseException:      # noqa: BLE001    told, and the next part goes on
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(arguments: list[str]) -> int:
    """0 if every part that was asked for has been run."""
    known, failed = campaigns(), []
    if arguments and (arguments[0] not in known or set(arguments[1:]) - known[arguments[0]].keys()):
        print(f"campaigns and their parts are {', '.join(f'{k}: {list(v)}' for k, v in known.items())}",
              file=sys.stderr)
        return 2
    for campaign, every in known.items():
        if arguments and campaign != arguments[0]:
            continue
        for name in arguments[1:] or every:
            if parts.kept("long", campaign, name).exists():
                continue
            print(f"{campaign}: {name}", flush=True)
            if len(arguments) == 2:                     # asked for alone: here
                parts.keep("long", campaign, name, every[name])
                continue
            try:
                with hold(parts.kept("long", campaign, name).with_suffix(".lock")):
                    if alone(campaign, name, every[name]):
                        failed.append(f"{campaign}: {name}")
            except Held as error:                       # several processes share the work
                print(error, flush=True)
        if (path := parts.record(campaign, every, *ABOUT[campaign])) is not None:
            print(f"wrote {path}", flush=True)
    print(*failed, sep="\n", end="", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
