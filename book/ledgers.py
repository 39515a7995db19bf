"""``python -m book.ledgers``: the two ledger pages of the book, written from equations.yml and claims.yml."""

from collections import Counter
from os.path import commonprefix
from pathlib import Path

import numpy as np
import yaml

from experiments import claims
from facealign_lite import records

BOOK = Path(__file__).resolve().parent
RESULTS = records.RESULTS
PAGES = (BOOK / "ledger_equations.md", BOOK / "ledger_claims.md")   # generated, not kept in git
PAPERS = {
    "acenet": ("ACE-Net", "acenet"),
    "tab": ("TAB", "tab"),
    "scpan": ("SCPAN", "scpan"),
    "rht": ("RHT", "rht"),
    "msm": ("MSM", "msm"),
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
        table = [[r["id"], _paragraphs(r["says"], r["note"]),
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
        "What the five papers say their parts do, with their own figures (errors in per cent unless said), and what our"
        " records say of it: all arms of a claim on the same data with the same budget. The verdicts are computed when"
        " this page is built, by one rule (`experiments/verdict.py`).", "",
        "**Compared** are errors of the same faces by trainings with the same seeds. Told is the gain, by how many per"
        " cent of the second the first errs less, with its 95 % interval over seeds and faces (by seed only, where no"
        " errors of single faces were kept), and the paper's gain. A comparison *holds* if the whole interval is above"
        " zero. It"
        " *does not hold* if the whole interval is below half of the paper's gain: then a gain such as the paper's is"
        " refuted. Otherwise it *cannot be told*, and the number of seeds is said that would find the paper's gain in"
        " four of five experiments. Where the paper says that two are level, a loss of so many per cent counts as level"
        " and takes the place of zero. A claim of several comparisons holds if all do, and does not hold if one does"
        " not, at a stricter level, for of many one fails by chance. One seed never decides.", "",
        "The budget *lite* is minutes on two CPU cores, *gpu* ten times the steps and more on one card; the verdict is"
        " that of the largest that has been run. These are small networks and short trainings on rendered faces: *does"
        " not hold* means here, at this budget.", "",
        f"Of {len(rows)} claims {count['holds']} hold, {count['does not hold']} do not, {count['cannot be told']}"
        f" cannot be told, {count['open']} have not been tested yet. They rest on {len(used)} records;"
        f" {len(changed)} of them are older than the rule that their code must be as committed, and of a tree that had"
        " changed.", "",
    ]
    for paper, (name, key) in PAPERS.items():
        table = [[r["id"], r["claim"], r["figures"], _paragraphs(_head(*judged[r["id"]]), *compared(r), r["note"],
                                                                 *measured(r))]
                 for r in rows if r["paper"] == paper]
        lines += [f"## {name}", "", f"Paper: {{cite:t}}`{key}`.", "",
                  *_table(["claim", "what the paper says", "its figures", "verdict and ours"], "8 22 17 53", table)]
    return "\n".join(lines)


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
    """Write both pages; a page that would not change is left alone."""
    for page, text in zip(PAGES, (equations_page(), claims_page())):
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


def _table(head: list[str], widths: str, rows: list[list[str]]) -> list[str]:
    lines = ["```{list-table}", ":header-rows: 1", f":widths: {widths}", ":class: ledger", ""]
    for row in [head, *rows]:
        lines += [f"{'*' if k == 0 else ' '} - {cell}" for k, cell in enumerate(row)]
    return [*lines, "```", ""]


if __name__ == "__main__":
    write()
