"""``python -m book.ledgers``: pages written from what the project knows of itself.

Both ledgers, what came out and the errata from equations.yml and claims.yml; data sets and training speeds from the
library and its records.
"""

import re
from collections import Counter
from os.path import commonprefix
from pathlib import Path

import numpy as np
import yaml

from experiments import claims
from facealign_lite import records
from facealign_lite.data.readers import SETS

BOOK = Path(__file__).resolve().parent
RESULTS = records.RESULTS
# generated, not kept in git
PAGES = tuple(BOOK / f"{name}.md" for name in (
    "ledger_equations", "ledger_claims", "what_came_out", "errata", "to_the_tables"))
PAPERS = {
    "acenet": ("ACE-Net", "acenet"),
    "tab": ("TAB", "tab"),
    "scpan": ("SCPAN", "scpan"),
    "rht": ("RHT", "rht"),
    "msm": ("MSM", "msm"),
}
# what a reader must know to read the claims of a paper
WORDS = {
    "acenet": "The *weak loss* is ACE-Net's loss for faces of which only the landmarks are known: it fixes the lines "
        "at the landmarks and leaves them free in between. On *synthetic* faces the whole contours are known. The "
        "rival with *lines as labels* is trained to predict the straight lines through the landmarks instead. "
        "*GT* is no network: it draws lines through the true landmarks. Errors are NME of anchors and contours "
        "(chapter 05).",
    "tab": "TAB first predicts *boundaries*, lines along the parts of the face, and then the landmarks from them. "
        "The *stem* is the first few layers of the network. *Fusion* brings features of the boundary part into "
        "the landmark part (BALT); onefold, twofold and threefold say how many levels of them enter at each "
        "level. *Intermediate supervision* is a loss on each hourglass and not only on the last.",
    "scpan": "*SHN* is the plain stacked hourglass; each of its hourglasses is a *stage*. A *BALI field* has *arrows*, "
        "vectors from the pixels around a landmark towards it, and each pixel *votes* for the place to which its "
        "arrow points. *SCPA* gives a stage an *attention* mask and *calibration*, a loss that asks that the "
        "predictions for a picture and for a changed copy of it agree. Picture and copy are a *pair*; this loss "
        "needs no labels. A *soft-argmax* is the mean place under a heatmap.",
    "rht": "RHT borrows from a *reference*, the picture of another face with its known landmarks. The *soft* "
        "transformation (STM) matches the places of the two faces one by one; the *hard* one (HTM) moves the "
        "whole reference by one affine map. *Fusion* at several scales joins what is borrowed with the network's "
        "own features. *Trans-R* is the network without any reference, with a ResNet in front; *RHT-R* has all "
        "parts.",
    "msm": "A *spatial transformer* is a generator that straightens the crop; in a *GAN* a second network, the "
        "*adversary*, judges whether the crop looks straight. *Shape reconstruction* replaces predicted landmarks "
        "by a shape that is put together from *exemplars*, the typical shapes in a dictionary. It relies on the "
        "landmarks whose *score*, the mean heat around the peak, is above a threshold.",
}
STATUSES = ("literal", "corrected", "chosen", "open")


def read(name: str) -> list[dict]:
    """The rows of ``book/<name>.yml``."""
    return yaml.safe_load((BOOK / f"{name}.yml").read_text(encoding="utf-8"))


def equations_page() -> str:
    rows = read("equations")
    count = Counter(row["status"] for row in rows)
    done = len(rows) - count["open"]
    lines = [
        "# The equation ledger", "",
        "Every numbered equation of the five papers, and their parts without a number by section (S), figure (F),"
        " table (T) or algorithm (A): what each says in our words, and which function of the library computes it."
        " *Literal* means computed as"
        " printed; *corrected*, that the print is wrong; *chosen*, that the print leaves something open or that we"
        " depart from it, with the reason beside it; *open*, that nothing computes it yet.", "",
        f"Of {len(rows)} rows {done} are computed: {count['literal']} literal, {count['corrected']} corrected,"
        f" {count['chosen']} chosen. {count['open']} are open.", "",
    ]
    for paper, (name, key) in PAPERS.items():
        table = [[anchored(r["id"]), _paragraphs(r["says"], r["note"]),
                  _paragraphs(_function(r), *[f"`{t.split('::')[-1]}`" for t in r["tests"]]), r["status"]]
                 for r in rows if r["paper"] == paper]
        lines += [f"## {name}", "", f"Paper: {{cite:t}}`{key}`.", "",
                  *_table(["equation", "what it says, and a note", "function and tests", "status"],
                          "12 44 32 12", table)]
    return "\n".join(lines)


def claims_page() -> str:
    rows = read("claims")
    judged = {row["id"]: claims.says(row) for row in rows}
    count = Counter(word for word, _ in judged.values())
    used = {name for row in rows for arm in arms(row) for name in _records(arm)}
    changed = [name for name in used if records.read_record(name, RESULTS)["commit"].endswith("+")]
    lines = [
        "# The claims ledger", "",
        "What the five papers say about the parts of their methods, with the papers' own figures, and what our own"
        " trainings say about it. Figures are errors in per cent unless another unit is given. All networks of one"
        " row have the same data and the same budget. The verdicts are computed when this page is built, by one rule"
        " (`experiments/verdict.py`).", "",
        "**How to read a row.** A comparison names two *variants* of a network by their records, as `acenet-ace`"
        " for the files `results/acenet-ace-0.json`, `-1` and `-2`: one file for each training, numbered by its"
        " seed. Most networks were trained with three seeds. Both variants are tested on the same faces. The line"
        " gives the mean error of the first and of the second, and then the *gain*: by how many per cent the error"
        " of the first is smaller. Behind it stand its 95 % interval, over seeds and faces (over seeds only, where"
        " no errors of single faces were kept), and the paper's gain. The note says what the figures alone do not."
        " Names in the note are those of the variants, and the last lines of a row give the mean ± standard"
        " deviation of each over its seeds.", "",
        "**The verdict.** A comparison *holds* if the whole interval is above zero. It *does not hold* if the"
        " whole interval is below half of the paper's gain: then a gain such as the paper's is refuted. (Where the"
        " paper gives no figure, the whole interval must be below zero.) Otherwise it *cannot be told*, and the"
        " line says how many seeds would find the paper's gain in four of five experiments. Where the paper says"
        " that two variants are level, the line says which loss still counts as level, and the interval must be"
        " above minus this loss instead of above zero. A claim of several comparisons holds if all of them hold. It"
        " does not hold if one of them does not hold at a stricter level; the stricter level is needed because"
        " among many comparisons one fails by chance. Trainings with one seed only never decide. (Where both sides"
        " use the same trained weights and differ only in how they are read, seeds do not matter, and the interval"
        " is over faces.)", "",
        "**The budget.** *lite* is minutes on two CPU cores for each training, *gpu* at least ten times as many"
        " steps on a graphics card. The verdict is that of the largest budget that has been run. These are small"
        " networks and short trainings on rendered faces, so *does not hold* means: not here, with this budget.", "",
        f"Of {len(rows)} claims {count['holds']} hold, {count['does not hold']} do not, {count['cannot be told']}"
        f" cannot be told, {count['open']} have not been tested yet. They rest on {len(used)} records;"
        f" {len(changed)} of them were made before we required that a record is made by committed code: their code"
        " was not exactly that of the commit that they name.", "",
    ]
    for paper, (name, key) in PAPERS.items():
        table = [[anchored(r["id"]), r["claim"], r["figures"],
                  _paragraphs(_head(*judged[r["id"]]), *compared(r), r["note"], *measured(r))]
                 for r in rows if r["paper"] == paper]
        lines += [f"## {name}", "", f"Paper: {{cite:t}}`{key}`. {WORDS[paper]}", "",
                  *_table(["claim", "what the paper says", "its figures", "verdict and ours"], "8 22 17 53", table)]
    return "\n".join(lines)


def outcome_page() -> str:
    """All claims on one page: a picture of the gains and a line each."""
    rows = read("claims")
    judged = {row["id"]: claims.says(row) for row in rows}
    papers, controls = ([judged[row["id"]][0] for row in rows if row["id"][-1].isalpha() == ours]
                     for ours in (False, True))
    budgets = {budget for _, budget in judged.values() if budget}
    lines = [
        "# What came out", "",
        "Each of the five papers says that the parts of its method make a network better. We trained small networks"
        " with and without each part, on the same rendered faces and with the same seeds, and compared their errors"
        " face by face. This page shows the results, one row for each claim. The {doc}`claims ledger"
        " <ledger_claims>` has the figures, a note on each claim, and the rule for the verdicts.", "",
        f"Of {len(papers)} claims of the papers {_counted(papers)}. Beside them stand {len(controls)} controls of"
        f" ours, which no paper claims (with a letter behind the number, as C10a): {_counted(controls)}."
        f"{'' if budgets - {'lite'} else ' All were run at the budget *lite*, minutes on two processor cores.'}", "",
        "- **holds**: here the claim is right, and chance does not explain it. The error is smaller; or it is no"
        " larger, where the paper says that two variants are level.",
        "- **does not hold**: here a gain like the paper's, or even half of it, can be ruled out. Our networks are"
        " small and our trainings short, so the result with the paper's own data and size may be different.",
        "- **cannot be told**: our measurements agree both with a gain like the paper's and with no gain. More or"
        " longer trainings would be needed.",
        "- **open**: not tested yet.", "",
        "The pictures show by how many per cent the error is smaller with the part than without it. The dot is our"
        " measurement, the line its 95 % interval, and the diamond the gain that the paper reports. An arrow stands"
        " for a dot that lies outside the picture. To the right of zero the part makes the error smaller. If two"
        " variants are said to be level, the dot should be close to zero. The label of a row names the two variants"
        " that are compared, as \"first / second\", or one network that is read in two ways. The names are explained"
        " in the claims ledger. If you move the mouse over a row, you see its figures.",
        "",
    ]
    for paper, (name, _) in PAPERS.items():
        own = [row for row in rows if row["paper"] == paper]
        table = [[linked(r["id"]), r["claim"],
                  _head(judged[r["id"]][0], judged[r["id"]][1] if budgets - {"lite"} else "")] for r in own]
        found = [(r, one) for r in own if judged[r["id"]][1]
                 for one, _ in claims.once(claims.judge(r, judged[r["id"]][1]))]
        lines += [f"## {name}", "", WORDS[paper], "",
                  *_table(["claim", "what the paper says", "what came out"], "10 65 25", table, "narrow"),
                  "```{raw} html", gains(found, name), "```", ""]
    return "\n".join(lines)


def errata_page() -> str:
    """Rows whose print is wrong."""
    rows = [row for row in read("equations") if row["status"] == "corrected"]
    lines = [
        "# Errata of the five papers", "",
        f"In {len(rows)} equations, tables and algorithms of the five papers, the printed text is wrong,"
        " contradicts another place of the paper, or leaves out what one needs to compute it. Each row says what the"
        " formula is for, what is wrong with it as printed, and what our library computes instead. The tests named"
        " below show it with numbers (`pytest -k` and the name of the test runs it). If you implement one of these"
        " papers, look here first. We may be wrong, too: if you find a reading under which the printed formula is"
        " right, please tell us.", "",
    ]
    for paper, (name, key) in PAPERS.items():
        table = [[linked(r["id"]), _paragraphs(r["says"], r["note"], *[f"`{t.split('::')[-1]}`" for t in r["tests"]])]
                 for r in rows if r["paper"] == paper]
        if table:
            lines += [f"## {name}", "", f"Paper: {{cite:t}}`{key}`.", "",
                      *_table(["equation", "what is wrong, and what is computed instead"], "15 85", table, "narrow")]
    return "\n".join(lines)


TABLES = """\
# From this book to the papers' tables

The networks of this book are small and are trained on rendered faces within minutes. Their errors cannot be compared
with those of the papers: where a table of this book shows both, compare only the differences between its rows. With
the data sets and a graphics card you can come nearer to the papers' experiments. This page says how, and what of it
has been measured.

## The data sets

The papers test on photos that are free for research but may not be passed on. If you have them, put them into one
folder, each set into its own subfolder:

{sets}
This prints a table of the sets that were found, their numbers of faces, and what is missing:

```python
from facealign_lite.data import inventory, inventory_table
print(inventory_table(inventory("my_data_sets")))
```

Which landmarks each set has is said in {{doc}}`chapter 0 <../notebooks/00_what_is_face_alignment>`, and by what its
errors are divided in {{doc}}`chapter 1 <../notebooks/01_heatmaps_and_metrics>`.

## One command for each paper

```console
make reproduce PAPER=acenet DATA=my_data_sets
```

This trains the networks that the paper compares on the photos and measures their errors as the paper does. The top of
`experiments/acenet_photos.py`, and of the same file for each paper, names the folders that it needs. If it is stopped
and started again, it goes on where it was. The photos' licences may not allow you to pass on weights that were trained
on them.

## On one graphics card

Nothing changes in the code: `device="auto"` takes the card. `make book BUDGET=gpu` runs the chapters' trainings longer,
and

```console
make claims PAPER=scpan OPTIONS="--budget gpu --together 8 --seconds 3000"
```

repeats the comparisons behind the claims with larger maps and many more steps. Eight trainings take turns on one card,
and all stop after the given number of seconds. The table shows how many faces per second a training uses on an
{device}. The faces lie in memory, and the time of a step ends when the weights are updated. *Captured* means that the
whole step is recorded once as a CUDA graph and then replayed; `fit` does this without being told. *Plain* means
without it.

{speeds}
One small network cannot use a large card fully, so several trainings are run in turn ({most}: {best:,.0f} faces per
second in all).

## On several cards

```console
torchrun --nproc-per-node=4 my_training.py
```

Each process that calls `training.fit` takes its share of every batch, and the gradients are averaged over all
processes. A test checks that two processes on the CPU give the same numbers as one. Nothing has been measured on
several cards.
"""


def tables_page() -> str:
    """How to go from this book's experiments to those of the papers."""
    speed = records.read_record("training_speed_cuda", RESULTS)
    rows = [[name, str(run["batch"]), *(f"{run[f'{way}_a_second']:,.0f}" for way in ("eager", "captured"))]
            for name, run in speed["figures"].items() if {"eager_a_second", "captured_a_second"} <= set(run)]
    together = {name: run["captured_a_second"] for name, run in speed["figures"].items() if " runs in turn" in name}
    most, best = max(together.items(), key=lambda one: one[1])
    sets = [[name, f"`{folder}`", f"`{wanted}`"] for name, (folder, wanted, _) in SETS.items()]
    return TABLES.format(sets="\n".join(_table(["set", "folder", "what lies in it"], "25 15 60", sets, "narrow")),
                         speeds="\n".join(_table(["network", "batch", "plain, faces per second",
                                                  "captured, faces per second"], "40 20 20 20", rows, "narrow")),
                         device=speed["device"].partition(",")[0], most=most, best=best)


def anchored(name: str) -> str:
    """A ledger's id as a place that links lead to, ``row-c1``."""
    return f"(row-{name.lower()})=\n    {name}"


def linked(name: str) -> str:
    return f"{{ref}}`{name} <row-{name.lower()}>`"


def named(comparison: claims.Comparison) -> str:
    """The two sides of a comparison by what sets them apart: "ace / line, mouth", or "hg: k 100 / k 50"."""
    (first, read_1), (second, read_2) = (one.partition("-")[2].partition("@")[::2]
                                         for one in (comparison.better, comparison.worse))
    said_1, said_2 = (re.sub("^(nme|failures|auc)_?(ac_)?", "", one).replace("_", " ") or "as usual"
                      for one in (read_1, read_2))
    if first == second:
        return f"{first}: {said_1} / {said_2}"
    return f"{first} / {second}" + (f", {said_1}" if said_1 == said_2 != "as usual" else "")


def _counted(words: list[str]) -> str:
    """How many of the verdicts are of each kind, in words."""
    count = Counter(words)
    return (f"{count['holds']} hold, {count['does not hold']} do not, {count['cannot be told']} cannot be told and"
            f" {count['open']} are open")


COLOURS = {"holds": "var(--verdict-holds)", "does not hold": "var(--verdict-fails)",
           "cannot be told": "var(--verdict-open)"}
SPAN, ROW, LEFT, RIGHT, WIDTH = 60, 22, 240, 25, 700      # per cent shown to either side; pixels


def gains(found: list[tuple[dict, claims.Found]], name: str) -> str:
    """The picture of the gains of a paper's comparisons, an SVG in the colours of the page; beyond SPAN it is cut.

    It is drawn twice, the second time for the screen of a phone, where names stand above their intervals.
    """
    return f'<div class="gains">{_gains(found, name)}{_gains(found, name, 0, 22, 358, 38)}</div>'


def _gains(found: list[tuple[dict, claims.Found]], name: str, left: int = LEFT, right: int = RIGHT, width: int = WIDTH,
           row_height: int = ROW) -> str:
    above = not left                                            # where the names stand
    start = left or right                                       # as much room for an arrow at both ends

    def x(percent: float) -> float:
        return start + (width - start - right) * (min(max(percent, -SPAN), SPAN) + SPAN) / (2 * SPAN)

    height = row_height * len(found) + 2 * ROW
    told = ", ".join(f"{count} {word}" for word, count in Counter(f.verdict.says for _, f in found).items())
    parts = [f'<svg class="{"narrow" if above else "wide"}" viewBox="0 0 {width} {height}" role="img" '
             f'aria-label="{name}: gains of {len(found)} comparisons with their intervals: {told}">']
    for tick in range(-SPAN, SPAN + 1, 20):
        says = f"{tick:+d} %" if tick else "0"
        parts.append(f'<line x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{ROW}" y2="{height - ROW}" '
                     f'class="{"zero" if tick == 0 else "tick"}"/>'
                     f'<text x="{x(tick):.1f}" y="{height - 6}" text-anchor="middle">{says}</text>')
    for k, (row, one) in enumerate(found):
        y = ROW + row_height * (k + (0.75 if above else 0.5))
        middle, low, high = (100 * one.share(v) for v in (one.verdict.difference, one.verdict.low, one.verdict.high))
        colour = COLOURS[one.verdict.says]
        dot = f'<circle cx="{x(middle):.1f}" cy="{y}" r="4.5" fill="{colour}"/>'
        if abs(middle) > SPAN:                                  # beyond the picture: an arrow that points there
            dot = f'<path d="M{x(middle):.1f} {y - 5}v10l{9 if middle > 0 else -9} -5z" fill="{colour}"/>'
        shown = f"{row['id']}  {named(one.comparison)}"
        at = y - 11 if above else y + 4
        parts.append(f'<g><title>{row["id"]}: {claims.line(one)}</title><text x="0" y="{at:.1f}">{shown}</text>'
                     f'<line x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{y}" y2="{y}" stroke="{colour}" '
                     f'stroke-width="2.5"/>{dot}')
        if one.comparison.effect is not None:
            at = x(100 * one.comparison.effect)
            parts.append(f'<path d="M{at - 5:.1f} {y}l5 -5l5 5l-5 5z" class="claimed"/>')
        parts.append("</g>")
    return "".join([*parts, "</svg>"])


def compared(row: dict) -> list[str]:
    """A line for each comparison of a claim, at each budget that has been run."""
    return [f"*{budget}*: {claims.line(found)}" for budget in claims.BUDGETS for found in claims.judge(row, budget)]


def arms(row: dict) -> list[str]:
    """The arms of a claim, those compared first."""
    named = [arm.partition("@")[0] for one in claims.Comparison.of(row) for arm in (one.better, one.worse)]
    return list(dict.fromkeys([*named, *row["beside"]]))


def measured(row: dict) -> list[str]:
    """A line for each arm of a claim: its figures in per cent, and how many seeds they rest on."""
    lines = []
    for arm in arms(row):
        some = records.read_seeds(arm, RESULTS, clean=True)
        told = [spread([run["figures"][name] for run in some], name, row["shows"])
                for name in row["shows"] if some and name in some[0]["figures"]]
        lines.append(f"`results/{arm}`: {', '.join(told) or '-'} ({len(some)} seeds)")
    return lines


def spread(values: list[float], name: str, names: list[str]) -> str:
    """Mean ± standard deviation in per cent; with what sets its name apart where several figures are told.

    Numbers of weights are told as they are.
    """
    if name.endswith("parameters"):
        return f"{np.mean(values):,.0f} weights" + (" in the stem" if name.startswith("stem") else "")
    shared = commonprefix(names)
    shared = shared if shared in names else shared[:shared.rfind("_") + 1]
    label = "" if len(names) == 1 else (name.removeprefix(shared).strip("_") or "all") + " "
    return label + records.spread([100 * value for value in values])


def write() -> None:
    """Write the pages; a page that would not change is left alone."""
    texts = (equations_page(), claims_page(), outcome_page(), errata_page(), tables_page())
    for page, text in zip(PAGES, texts, strict=True):
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def _head(word: str, budget: str) -> str:
    return f"**{word}**" + (f" ({budget})" if budget else "")


def _records(arm: str) -> list[str]:
    """Names of an arm's records."""
    return [f"{arm}-{seed}" for run in records.read_seeds(arm, RESULTS) for seed in run["seeds"]]


def _function(row: dict) -> str:
    return f"`{row['function'].removeprefix('facealign_lite.')}`" if row["function"] else "–"


def _paragraphs(*texts: str | None) -> str:
    """The texts that there are, below each other in one cell."""
    return "\n\n    ".join(text for text in texts if text)


def _table(head: list[str], widths: str, rows: list[list[str]], more: str = "") -> list[str]:
    lines = ["```{list-table}", ":header-rows: 1", f":widths: {widths}", f":class: ledger {more}".rstrip(), ""]
    for row in [head, *rows]:
        lines += [f"{'*' if k == 0 else ' '} - {cell}" for k, cell in enumerate(row)]
    return [*lines, "```", ""]


if __name__ == "__main__":
    write()
