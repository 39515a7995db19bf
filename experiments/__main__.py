"""``python -m experiments``: run a paper's arms, or collect records that another machine has made.

    python -m experiments PAPER [ARM ...] [--budget lite|gpu|paper] [--seconds N] [--device auto] [--seeds 0 1]
                                [--out FILE]
    python -m experiments collect FILE

What is finished is read, what was stopped goes on. Records go to results/: ``PAPER-ARM-SEED`` at the lite budget,
``gpu-PAPER-ARM-SEED`` at the other. Several processes can share the work, with the same words or with other arms. The
budget "paper" is a paper's own training, where an experiment has it: days on several cards.
"""

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from facealign_lite import records

PAPERS = ("hourglass", "acenet", "acenet_shares", "acenet_photos", "tab", "tab_photos", "scpan", "scpan_shares",
          "scpan_photos", "rht", "rht_places", "msm", "msm_photos")


def prefix(paper: str, budget: str) -> str:
    """First part of the records' names."""
    return paper if budget == "lite" else f"{budget}-{paper}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, or 2 with one line on stderr."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == ["collect"]:
        return collect(arguments[1:])
    words = argparse.ArgumentParser("python -m experiments", description=__doc__.split("\n")[0])
    words.add_argument("paper", choices=PAPERS)
    words.add_argument("arms", nargs="*", metavar="ARM", help="these only; all if none is named")
    words.add_argument("--budget", default="lite", choices=("lite", "gpu", "paper"))
    words.add_argument("--seconds", type=float, help="stop by then; the next call goes on")
    words.add_argument("--device", default="auto")
    words.add_argument("--seeds", type=int, nargs="+", help="these only; those of the budget if none is named")
    words.add_argument("--together", type=int, default=1, help="arms at a time, a step each in turn: for a GPU")
    words.add_argument("--out", metavar="FILE", help="one file of all finished records, for ``collect``")
    try:
        options = words.parse_args(arguments)
    except SystemExit as end:                                   # argparse has said why
        return int(end.code or 0)
    try:
        paper = importlib.import_module(f"experiments.{options.paper}")
        budget = paper.BUDGETS.get(options.budget) or getattr(paper, "PAPER", None)
        if budget is None:
            raise ValueError(f"budget of {options.paper} must be one of {' '.join(paper.BUDGETS)}, got "
                             f"{options.budget}")
        arms = paper.arms(budget, options.device)
        if unknown := [name for name in options.arms if name not in arms]:
            raise ValueError(f"arm must be one of {' '.join(arms)}, got {' '.join(unknown)}")
        arms = {name: run for name, run in arms.items() if name in options.arms or not options.arms}
        seeds = paper.SEEDS.get(options.budget, [0]) if options.seeds is None else options.seeds

        def done(found: Mapping[str, Mapping[str, Any]]) -> None:
            if options.out:                                     # after each arm: what is finished is safe
                records.save_lines(found, options.out)
        found = records.run_arms(
            prefix(options.paper, options.budget), arms, seeds, paper.WHAT, paper.data(budget), budget,
            records.RESULTS, records.WORK / options.budget, options.device, options.seconds, done, options.together)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, record in found.items():
        print(name, *(f"{key} {value:.4g}" for key, value in record["figures"].items()
                      if isinstance(value, (int, float))))
    if left := len(seeds) * len(arms) - len(found):
        print(f"{left} of {len(seeds) * len(arms)} records are still to be made", file=sys.stderr)
    return 0


def collect(arguments: Sequence[str]) -> int:
    """Copy the records of one file into results/."""
    if len(arguments) != 1:
        print("usage: python -m experiments collect FILE", file=sys.stderr)
        return 2
    try:
        new = records.collect(arguments[0], records.RESULTS)
        changed = [name for name in new if not records.read_record(name, records.RESULTS)["clean"]]
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(*(f"new: {name}" for name in new) if new else ["nothing new"], sep="\n")
    if changed:
        print(f"of a changed or unknown tree, which the book refuses: {' '.join(changed)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
