"""``python -m tests.abuse.soak [CAMPAIGN [PART ...]]``: the long form of a campaign, part by part, and its record.

A part that has been run with the code that is here is not run again; each part runs in a process of its own. Records
are written once all parts of a campaign are there.
"""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

from . import load, parts


def campaigns() -> dict[str, dict[str, Callable[[], dict[str, Any]]]]:
    """Parts by name, of each campaign."""
    return {"load": load.LONG}


ABOUT = {
    "load": ("calls in one process and from many sides at once", "rendered faces, each in other sizes and lights",
             {"calls": {"align": 20_000, "align_all": 2000, "track": 2000}}),
}


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
            elif subprocess.run([sys.executable, "-m", "tests.abuse.soak", campaign, name], check=False).returncode:
                failed.append(f"{campaign}: {name}")
        if (path := parts.record(campaign, every, *ABOUT[campaign])) is not None:
            print(f"wrote {path}", flush=True)
    print(*failed, sep="\n", end="", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
