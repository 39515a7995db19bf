"""``python -m book.ledgers``: the two ledger pages of the book, written from equations.yml and claims.yml."""

from collections import Counter
from os.path import commonprefix
from pathlib import Path

import yaml

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
VERDICTS = ("holds", "does not hold", "cannot be told", "open")


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
    count = Counter(row["verdict"] for row in rows)
    lines = [
        "# The claims ledger", "",
        "What the five papers say their parts do, with their own figures (errors in per cent unless said). A claim gets"
        " a verdict when it has been tested here: all arms on the same data with the same budget, at least three seeds,"
        " mean and spread in a record anyone can read. *Cannot be told* is a verdict too: our scale is small."
        " Our figures are in per cent, mean ± standard deviation over the seeds, computed from the records named.", "",
        f"Of {len(rows)} claims {count['holds']} hold, {count['does not hold']} do not, {count['cannot be told']}"
        f" cannot be told, {count['open']} have not been tested yet.", "",
    ]
    for paper, (name, key) in PAPERS.items():
        table = [[r["id"], r["claim"], r["figures"],
                  _paragraphs(f"**{r['verdict']}**", r["why"], *measured(r))]
                 for r in rows if r["paper"] == paper]
        lines += [f"## {name}", "", f"Paper: {{cite:t}}`{key}`.", "",
                  *_table(["claim", "what the paper says", "its figures", "verdict and ours"], "8 26 21 45", table)]
    return "\n".join(lines)


def measured(row: dict) -> list[str]:
    """A line for each arm of a claim: its figures in per cent, and how many seeds they rest on."""
    lines = []
    for arm in row["records"]:
        some = records.read_seeds(arm, RESULTS)
        told = [spread([run["figures"][name] for run in some], name, row["shows"])
                for name in row["shows"] if name in some[0]["figures"]]
        lines.append(f"`results/{arm}`: {', '.join(told)} ({len(some)} seeds)")
    return lines


def spread(values: list[float], name: str, names: list[str]) -> str:
    """Mean ± standard deviation in per cent; with what sets its name apart where several figures are told."""
    shared = commonprefix(names)
    shared = shared if shared in names else shared[:shared.rfind("_") + 1]
    label = "" if len(names) == 1 else (name.removeprefix(shared).strip("_") or "all") + " "
    return label + records.spread([100 * value for value in values])


def write() -> None:
    """Write both pages; a page that would not change is left alone."""
    for page, text in zip(PAGES, (equations_page(), claims_page())):
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


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
