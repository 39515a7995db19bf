"""The claims of book/claims.yml, judged by the records in results/: ``python -m experiments.claims [C1 ...]``.

A row names what is compared:

    compare:
    - {better: tab-vgg, worse: tab-single, paper: [4.70, 4.78]}    # the paper's figures of both: its effect
    - {better: scpan-scpan_2, worse: scpan-scpan, allowed: 0.05}   # "nearly as good": a loss of 5 % counts as level
    - {level: [scpan-ged, scpan-student_t], allowed: 0.05}         # neither is better by more than 5 %

An arm is the name of its records without the seed, with ``@figure`` behind it where the figure is not the row's
``metric``. Effects are taken as shares of the worse one's error: our errors are several times the papers'. A row with
several comparisons holds if all do, and does not if one does not, at a stricter level (``verdict.together``).
"""

import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from experiments.verdict import OPEN, Verdict, together, verdict
from facealign_lite import records

CLAIMS = records.ROOT / "book" / "claims.yml"
BUDGETS = ("gpu", "lite")             # the largest first
FAILURE = 0.1                         # what "failures" counts, see evaluation.FAILURE
UNTESTED = "open"


@dataclass(frozen=True)
class Comparison:
    """Two arms, as a row names them."""

    better: str
    worse: str
    effect: float | None = None       # the paper's, as a share of the worse one's error
    allowed: float = 0.0              # loss that counts as level, as a share of the worse one's error
    trained: bool = True

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> list["Comparison"]:
        """All of a row.

        Raises:
            ValueError: if one has no two arms, or the paper's figures are not a gain.
        """
        found = []
        for one in row["compare"]:
            options = {"allowed": one.get("allowed", 0.0), "trained": one.get("trained", True)}
            if "level" in one:
                first, second = one["level"]
                found += [cls(first, second, **options), cls(second, first, **options)]
                continue
            paper = one.get("paper")
            if not {"better", "worse"} <= set(one) or (paper and not 0 < paper[0] < paper[1]):
                raise ValueError(f"{row['id']}: a comparison must have better, worse and [less, more], got {one}")
            found.append(cls(one["better"], one["worse"], 1 - paper[0] / paper[1] if paper else None, **options))
        return found


@dataclass(frozen=True)
class Found:
    """What came out of a comparison; shares are of the worse one's mean error."""

    comparison: Comparison
    verdict: Verdict
    strict: Verdict                   # at the level of one of several comparisons
    better: float                     # mean errors
    worse: float

    def share(self, value: float) -> float:
        """A value of the verdict as a share."""
        return value / self.worse


def read(path: Path = CLAIMS) -> list[dict[str, Any]]:
    """The rows."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def judge(row: Mapping[str, Any], budget: str = "lite", folder: Path | None = None) -> list[Found]:
    """A row's comparisons at one budget, by the seeds that both sides have; none if an arm has no records.

    Errors of single faces are compared where the records have them (``errors`` beside ``nme``, ``errors_20`` beside
    ``nme_20``, and so on), else means by seed.

    Raises:
        ValueError: if a record is damaged, of a changed tree, or of another setting than the others of the row.
    """
    found, settings, comparisons = [], {}, Comparison.of(row)
    for one in comparisons:
        sides = []
        for arm in (one.better, one.worse):
            name, _, metric = arm.partition("@")
            name = name if budget == "lite" else f"{budget}-{name}"
            runs = {record["seeds"][0]: record for record in records.read_seeds(name, folder or records.RESULTS, True)}
            settings |= {f"{name}-{seed}": (str(run["budget"]), run["data"]) for seed, run in runs.items()}
            sides.append((runs, metric or row["metric"]))
        seeds = sorted(set(sides[0][0]) & set(sides[1][0]))
        if not seeds:
            return []
        if len(set(settings.values())) > 1:
            raise ValueError(f"{row['id']}: all arms must be of one budget and data, got {set(settings.values())}")
        means = [np.array([figure(runs[s]["figures"], metric) for s in seeds]) for runs, metric in sides]
        faces = [[each(runs[s]["figures"], metric) for s in seeds] for runs, metric in sides]
        tables = means if any(e is None for side in faces for e in side) else [np.array(side) for side in faces]
        worse = float(np.mean(tables[1]))
        usual, strict = (verdict(*tables, None if one.effect is None else one.effect * worse, one.allowed * worse,
                                 one.trained, level) for level in (0.95, 1 - 0.05 / len(comparisons)))
        found.append(Found(one, usual, strict, float(np.mean(tables[0])), worse))
    return found


def says(row: Mapping[str, Any], folder: Path | None = None) -> tuple[str, str]:
    """Verdict on a row and the budget that it rests on, the largest that has been run; "open" and "" if none has."""
    for budget in BUDGETS:
        if found := judge(row, budget, folder):
            return together([one.verdict for one in found], [one.strict for one in found]), budget
    return UNTESTED, ""


def figure(figures: Mapping[str, Any], metric: str) -> float:
    """A figure by name, "subsets/occlusion/nme" where they are nested.

    Raises:
        ValueError: if there is none.
    """
    value: Any = figures
    for key in metric.split("/"):
        if not isinstance(value, Mapping) or key not in value:
            raise ValueError(f"metric must be a figure of the record, got {metric!r}")
        value = value[key]
    return float(value)


def each(figures: Mapping[str, Any], metric: str) -> np.ndarray | None:
    """The errors of single faces that a figure is the mean of, (N,); None if the record has none.

    Raises:
        ValueError: if they are not those: their mean is another.
    """
    kind = next((kind for kind in ("nme_ac", "nme", "failures") if metric.startswith(kind)), None)
    errors = figures.get(f"errors{metric.removeprefix(kind)}") if kind else None
    if errors is None:
        return None
    errors = np.asarray(errors, float)
    errors = (errors > FAILURE).astype(float) if kind == "failures" else errors
    # errors are rounded, by which one may fall to this side of the limit
    if abs(errors.mean() - figure(figures, metric)) > (2 / len(errors) if kind == "failures" else 1e-4):
        raise ValueError(f"errors of {metric!r} must have its mean {figure(figures, metric)}, got {errors.mean()}")
    return errors


def line(found: Found) -> str:
    """One comparison in words, in per cent."""
    def share(value: float) -> str:
        return f"{100 * found.share(value):+.1f}" if np.isfinite(value) else "?"
    one, result = found.comparison, found.verdict
    wanted = f", the paper's {100 * one.effect:+.1f}" if one.effect is not None else ""
    wanted += f"; a loss of up to {100 * one.allowed:g} % counts as level" if one.allowed else ""
    sample = f"{result.seeds} seed{'s' * (result.seeds > 1)}"
    sample += f", {result.faces} faces" if result.faces > 1 else ", by seed only"
    return (f"{one.better} against {one.worse}: {100 * found.better:.2f}, {100 * found.worse:.2f}; gain "
            f"{share(result.difference)} % [{share(result.low)}, {share(result.high)}]{wanted}: {result.says}"
            f" ({sample}{_needed(result)})")


BAR, SHARE = (150, 18), 0.47          # pixels of the picture of an interval; its half, as a share of the width
COLOURS = {"holds": "#009E73", "does not hold": "#D55E00", OPEN: "#8a8a8a"}
KEY = ("A row compares two variants of a network. Its gain is how much smaller the error of the first is, in per cent "
       "of the second's error. In the picture the dot is the gain, the coloured line is its 95 % interval, the upright "
       "line is zero, and the diamond is the paper's gain. Each claim has its own scale.")
BAND = " A grey band marks the differences that count as level."


def once(found: Sequence[Found]) -> list[tuple[Found, str]]:
    """Comparisons with their verdicts; two that are said to be level stand once, with the verdict on both ways."""
    pairs: dict[frozenset, list[Found]] = {}
    for one in found:
        pairs.setdefault(frozenset((one.comparison.better, one.comparison.worse)), []).append(one)
    return [(both[0], together([f.verdict for f in both], [f.strict for f in both]) if len(both) > 1
             else both[0].verdict.says) for both in pairs.values()]


def bar(found: Found, says: str, span: float) -> str:
    """A gain with its interval as a small picture (SVG): zero in the middle, ``span`` at both ends, as a share.

    A band stands for the losses and gains that count as level, a diamond for the paper's gain. What lies beyond an end
    is drawn at the end.
    """
    width, height = BAR
    y = height / 2

    def x(share: float) -> float:
        return width * (0.5 + SHARE * min(max(share / span, -1), 1))
    low, middle, high = (found.share(v) for v in (found.verdict.low, found.verdict.difference, found.verdict.high))
    colour, one = COLOURS[says], found.comparison
    parts = [f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
             f'aria-label="gain {100 * middle:+.1f} %, interval from {100 * low:+.1f} to {100 * high:+.1f}">']
    if one.allowed:
        parts.append(f'<rect x="{x(-one.allowed):.1f}" y="1" width="{x(one.allowed) - x(-one.allowed):.1f}" '
                     f'height="{height - 2}" fill="currentColor" opacity="0.12"/>')
    parts.append(f'<path d="M{width / 2} 0v{height}" stroke="currentColor" opacity="0.6"/>'
                 f'<path d="M{x(low):.1f} {y}H{x(high):.1f}" stroke="{colour}" stroke-width="2.5"/>'
                 f'<circle cx="{x(middle):.1f}" cy="{y}" r="4" fill="{colour}"/>')
    if one.effect is not None:
        parts.append(f'<path d="M{x(one.effect) - 5:.1f} {y}l5 -5l5 5l-5 5z" fill="none" stroke="currentColor"/>')
    return "".join([*parts, "</svg>"])


def board(names: Sequence[str], said: Callable[[str], str] = str, folder: Path | None = None) -> str:
    """Verdicts on the rows named, as a table for a page (HTML): each comparison with its errors, gain and interval.

    Args:
        names: of the rows.
        said: an arm in the words of the page, from "<arm>@<figure>".

    Raises:
        KeyError: for a name that no row has.
    """
    rows, lines, band = {row["id"]: row for row in read()}, [], ""
    for name in names:
        word, largest = says(rows[name], folder)
        found = judge(rows[name], largest, folder) if largest else []
        band = BAND if any(one.comparison.allowed for one in found) else band
        samples = {_sample(one) for one in found}
        rests = f" ({samples.pop()})" if len(samples) == 1 else ""
        lines.append(f'<tr><th colspan="4" style="text-align:left"><b>{name}, {word}</b>: {rows[name]["claim"]}'
                     f'<span style="font-weight:normal">{rests}</span></th></tr>')
        reach = [abs(one.share(v)) for one in found for v in (one.verdict.low, one.verdict.high) if np.isfinite(v)]
        span = max([*reach, *(one.comparison.effect or one.comparison.allowed for one in found), 1e-9])
        for one, verdict_ in once(found):
            low, middle, high = (f"{100 * one.share(v):+.1f}" if np.isfinite(v) else "?" for v in (
                one.verdict.low, one.verdict.difference, one.verdict.high))
            claimed = f"<br>the paper: {100 * one.comparison.effect:+.1f}" if one.comparison.effect is not None else ""
            first, second = (said(f"{arm}@{figure_}") for arm, _, figure_ in (
                (arm if "@" in arm else f"{arm}@{rows[name]['metric']}").partition("@")
                for arm in (one.comparison.better, one.comparison.worse)))
            cells = (_against(first, second) + (f" ({_sample(one)})" if samples else ""),
                     f"{100 * one.better:.2f}, {100 * one.worse:.2f}",
                     f"{bar(one, verdict_, span)}<br>{middle} [{low}, {high}]{claimed}",
                     verdict_ + _needed(one.verdict))
            lines.append("<tr>" + "".join(f'<td style="text-align:left">{cell}</td>' for cell in cells) + "</tr>")
    head = "".join(f'<th style="text-align:left">{one}</th>' for one in (
        "comparison", "errors, %", "gain and its 95 % interval, %", "verdict"))
    widths = "".join(f'<col style="width:{width}%">' for width in (43, 14, 25, 18))
    return f'<table class="table ledger verdicts"><caption>{KEY}{band}</caption><colgroup>{widths}</colgroup>' \
           f'<thead><tr>{head}</tr></thead>' \
           f'<tbody>{"".join(lines)}</tbody></table>'


def _against(first: str, second: str) -> str:
    """Two variants, with what they share said once: "hourglass: by scores against by all landmarks, 20 % hidden"."""
    sides = [first.split(", "), second.split(", ")]
    head, tail = [], []
    while min(map(len, sides)) > 1 and sides[0][0] == sides[1][0]:
        head.append(sides[0][0])
        sides = [side[1:] for side in sides]
    while min(map(len, sides)) > 1 and sides[0][-1] == sides[1][-1]:
        tail.insert(0, sides[0][-1])
        sides = [side[:-1] for side in sides]
    said = " <i>against</i> ".join(", ".join(side) for side in sides)
    return (f"{', '.join(head)}: " if head else "") + ", ".join([said, *tail])


def _sample(found: Found) -> str:
    """What an interval rests on."""
    result = found.verdict
    trained = found.comparison.trained or result.seeds == 1            # else the records of all seeds are the same
    return ((f"{result.seeds} training{'s' * (result.seeds > 1)} of each, " if trained else "nothing is trained, ")
            + (f"{result.faces} faces" if result.faces > 1 else "means only"))


def _needed(result: Verdict) -> str:
    """How many seeds would probably decide, where that is not told yet."""
    if result.says != OPEN or result.seeds == 1:
        return ""
    if result.seeds_needed is None:
        return "; more seeds on the same faces would not be enough"
    enough = result.seeds_needed <= result.seeds                                # chance, then, and not too few
    return f"; {result.seeds} seeds are usually enough" if enough else f"; {result.seeds_needed} seeds needed"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the verdicts on the rows named, or on all."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    rows = {row["id"]: row for row in read()}
    if unknown := set(arguments) - set(rows):
        print(f"error: claim must be one of {' '.join(rows)}, got {' '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    for name in arguments or rows:
        word, largest = says(rows[name])
        print(f"{name} {word}{f' ({largest})' if largest else ''}: {rows[name]['claim']} [{rows[name]['metric']}]")
        for budget in BUDGETS:
            for found in judge(rows[name], budget):
                print(textwrap.fill(f"{budget}: {line(found)}", 118, initial_indent="    ", subsequent_indent=" " * 8))
    return 0


if __name__ == "__main__":
    sys.exit(main())
