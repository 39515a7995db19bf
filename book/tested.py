"""The page "How this book is tested", written when the book is built: from the tests, from the records of the long
campaigns, and from what is installed. ``python -m book.tested`` writes it alone."""

import ast
import re
from collections.abc import Iterable
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from facealign_lite import records

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "book" / "how_tested.md"            # generated, not kept in git
TESTS = ROOT / "tests"
KNOWN = ("Apache License", "BSD", "MIT", "GNU LESSER", "Mozilla", "Permission is hereby granted, free of charge",
         "Redistribution and use in source and binary forms")
LONG = 60                                         # characters of a licence beyond which it is the whole text of one


def page() -> str:
    kinds = count_tests()
    lines = [
        "# How this book is tested", "",
        f"`make test` runs every notebook and {kinds['all']} test functions, most of them on many inputs. `make soak`"
        f" runs some of these tests for hours instead of seconds. This page is written by the code that builds the"
        f" book: the numbers in its tables are counted from the tests or read from the records of the long runs. None"
        f" was typed by hand.", "",
        "## What the tests ask", "",
        *_table(["what is tested", "the question", "how many"], "20 62 18", [
            ["Equations", "Does the code compute what the paper's equation says? The equation ledger names the tests"
             " of every equation. Most compare the code with a second version that is slow and simple, such as a"
             " double loop.", str(kinds["equations"])],
            ["Invariants", "Is what must be true for every input true? For example, a mirrored face has mirrored"
             " landmarks, and encoding and decoding give the same point. A program searches for inputs for which it is"
             " not.",
             str(kinds["invariants"])],
            ["Gradients", "Are the gradients that training uses free of NaN and infinity, and equal to difference"
             " quotients?",
             str(kinds["gradients"])],
            ["Notebooks", "Does every chapter run from top to bottom in a fresh process, with its own checks?",
             str(kinds["notebooks"])],
            ["Pages", "Does every picture on the built pages have a description, does every link lead somewhere, and"
             " is nothing loaded from another server?", str(kinds["pages"])],
            ["Browser", "Do the interactive figures react to mouse, finger and keyboard in a real browser?",
             str(kinds["browser"])],
            ["Abuse", "What happens after wrong calls, with damaged files and on failing machines? The rest of this"
             " page is about these tests.",
             str(kinds["abuse"])],
        ]),
        *abuse_lines(), *found_lines(), *faults_lines(), *load_lines(), *same_lines(), *licence_lines(),
    ]
    return "\n".join(lines)


# ---- counting ------------------------------------------------------------------------------------------------------

def count_tests() -> dict[str, int]:
    """How many test functions there are, in all and of each kind; a function may be of several kinds."""
    named = {test for row in yaml.safe_load((ROOT / "book" / "equations.yml").read_text(encoding="utf-8"))
             for test in row["tests"]}
    every = [(path, node, text) for path in sorted(TESTS.rglob("test_*.py")) for node, text in _functions(path)]
    return {"all": len(every), "equations": len(named),
            "invariants": sum(any("given" in ast.unparse(mark) for mark in node.decorator_list)
                              for _, node, _ in every),
            "gradients": sum("gradcheck" in text or "gradient" in node.name for _, node, text in every),
            "notebooks": len(list((ROOT / "notebooks").glob("[0-9]*.ipynb"))),
            "pages": sum(path.name == "test_book.py" for path, _, _ in every),
            "browser": sum("browser" in path.parts for path, _, _ in every),
            "abuse": sum("abuse" in path.parts for path, _, _ in every)}


@lru_cache
def _functions(path: Path) -> list[tuple[ast.FunctionDef, str]]:
    text = path.read_text(encoding="utf-8")
    lines = text.split("\n")     # once: ast.get_source_segment would split the file again for each function
    return [(node, "\n".join(lines[node.lineno - 1:node.end_lineno])) for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]


# ---- the long campaigns --------------------------------------------------------------------------------------------

def recorded(name: str) -> dict[str, Any] | None:
    """A record, if that campaign has been run."""
    return records.read_record(name, records.RESULTS, clean=True) if (
        records.RESULTS / f"{name}.json").exists() else None


def _source(record: dict[str, Any], name: str) -> str:
    return (f"From `results/{name}.json`: commit {record['commit']}, {record['seconds'] / 60:.0f} minutes on"
            f" {record['device']}.")


def abuse_lines() -> list[str]:
    lines = ["## Wrong calls", "",
             "We call *door* a function that a user calls, or a kind of file that the library reads. For each door a"
             " program takes a right call and makes a part of it wrong: other types and shapes, NaN and infinity,"
             " huge and tiny numbers, text, bits flipped in a file, a file of another program, or a file forged on"
             " purpose. Two outcomes are right: a complete and finite result, or an error that names the wrong"
             " argument. Everything else is a fault: an error of another kind, NaN without a message, more than 2 GiB"
             " of memory, more than 20 seconds, a crash.", ""]
    if (record := recorded("abuse")) is None:
        return [*lines, "The long form of this campaign has not been run yet.", ""]
    rows = record["figures"]
    total = {key: sum(row[key] for row in rows.values()) for key in ("tried", "answered", "refused", "faults")}
    lines += [f"Of {_number(total['tried'])} wrong calls of {len(rows)} doors, {_number(total['answered'])} gave a"
              f" result, {_number(total['refused'])} gave an error that names the argument, and"
              f" {_number(total['faults'])} were faults. Doors that take long, such as the search for faces, were"
              f" tried less often. {_source(record, 'abuse')}", ""]
    told = [f"- {words}" for row in rows.values() for words in row["told"]]
    return [*lines, *_table(["door", "wrong calls", "results", "errors", "faults"], "40 15 15 15 15", [
        [f"`{name}`", *(_number(row[key]) for key in ("tried", "answered", "refused", "faults"))]
        for name, row in rows.items()]), *(["Faults:", "", *told, ""] if told else [])]


def found_lines() -> list[str]:
    rows = yaml.safe_load((TESTS / "abuse" / "found.yml").read_text(encoding="utf-8"))
    return ["## Which faults were found, and which tests guard against them", "",
            "These faults were found when an early state of the library was tested in this way. Each was mended,"
            " together with all others of its kind. The last column names what would now find it again: doors, long"
            " tests of this page, or tests of their own.", "",
            *_table(["", "what was found", "what would find it again: doors, *long tests*, tests by name"], "7 43 50", [
                [row["id"], " ".join(filter(None, [row["found"], row.get("note")])),
                 ", ".join([*(f"door `{name}`" for name in row.get("doors", ())),
                            *(f"*{part}*" for part in row.get("parts", ())),
                            *(_in_words(test) for test in row["tests"])])] for row in rows])]


def faults_lines() -> list[str]:
    lines = ["## When the machine fails", "",
             "A computer may be switched off at any moment. So we disturb a process while it makes a training, a file"
             " of rendered faces, a series of experiments, a weights file, a record or a small book. It is killed"
             " before each change of a file and at random moments; or the disk is full, or the folder cannot be"
             " written; or another process does the same at the same time. *Survived* means: nothing that was there"
             " is lost or half written, the next run goes on without help, and its numbers are, bit for bit, those of"
             " a run that was not disturbed. A training keeps two checkpoints. If the newer one is damaged, it goes"
             " on from the older one and says so.", ""]
    if (record := recorded("faults")) is None:
        return [*lines, "The long form of this campaign has not been run yet.", ""]
    rows = {name: row for name, row in record["figures"].items() if not name.startswith("same numbers")}
    tried, survived = (sum(row[key] for row in rows.values()) for key in ("tried", "survived"))
    told = [f"- {words}" for row in rows.values() for words in row["told"]]
    return [*lines, f"{_number(survived)} of {_number(tried)} survived. {_source(record, 'faults')}", "",
            *_table(["what happened", "times", "survived"], "66 17 17", [
                [_first_upper(name), _number(row["tried"]), _number(row["survived"])] for name, row in rows.items()]),
            *(["Not survived:", "", *told, ""] if told else [])]


def load_lines() -> list[str]:
    lines = ["## Under load", "",
             "Here one process makes thousands of calls. Growth of memory is measured from the end of the first tenth"
             " of the calls on. The times are the median processor time of one call, in the first and in the last"
             " tenth.", ""]
    if (record := recorded("load")) is None:
        return [*lines, "The long form of this campaign has not been run yet.", ""]
    rows = record["figures"]
    return [*lines, *_table(["call", "times", "with a face", "memory grew by", "first tenth", "last tenth"],
                            "20 16 16 16 16 16", [
        [f"`{name}`", _number(row["calls"]), _number(row["found"]), f"{row['grown_mb']:.1f} MB",
         f"{row['first_ms']:.1f} ms", f"{row['last_ms']:.1f} ms"] for name, row in rows.items() if "grown_mb" in row]),
        "Here the same pictures are read by several threads or processes at once, and the results are compared with"
        " those of one call after the other:", "",
        *_table(["at once", "calls", "other results", "hung"], "46 18 18 18", [
            [name, _number(row["calls"]), _number(row["different"]), _number(row["hung"])]
            for name, row in rows.items() if "hung" in row]),
        _source(record, "load"), ""]


def same_lines() -> list[str]:
    lines = ["## Same seed, same numbers", "",
             "On a processor a training gives the same numbers, bit for bit, when it is run again, when it is killed"
             " and resumed, and with any number of processes that load its data. Chapters that are run twice have"
             " equal outputs, and a book that is built twice has equal pages. The last digit may differ when torch"
             " uses another number of threads, or on another kind of machine, because sums are then computed in"
             " another order.", ""]
    if (record := recorded("faults")) is None:
        return lines
    rows = {name: row for name, row in record["figures"].items() if name.startswith("same numbers")}
    apart = [row["largest_difference_px"] for row in rows.values() if "largest_difference_px" in row]
    told = [f"- {words}" for row in rows.values() for words in row["told"]]
    return [*lines, *_table(["what was compared", "times", "the same"], "66 17 17", [
        [_first_upper(name.removeprefix("same numbers: ")), _number(row["tried"]), _number(row["survived"])]
        for name, row in rows.items()]),
        *([f"Between one thread and two, the landmark that differed most differed by {max(apart):.1g} pixels.", ""]
          if apart else []), *(["Not the same:", "", *told, ""] if told else [])]


# ---- licences ------------------------------------------------------------------------------------------------------

def licence_lines() -> list[str]:
    first, rest = dependencies()
    lines = ["## Packages and their licences", "",
             "These are all Python packages that the library, or the book and its tests, need on the machine that built"
             " this page, with the licences that the packages themselves state.", ""]
    for title, names in (("The library", first), ("The book and the tests, in addition", rest)):
        lines += [f"### {title}", "", *_table(["package", "version", "licence"], "34 18 48", [
            [f"`{name}`", metadata.version(name), licence(name)] for name in names])]
    return lines


def dependencies() -> tuple[list[str], list[str]]:
    """Installed packages that the library needs, and those that the book and the tests need besides, with theirs."""
    asked = [line.split("#")[0].strip() for line in (ROOT / "requirements.txt").read_text().splitlines()]
    needed = re.search(r"^dependencies = \[(.*?)\]", (ROOT / "pyproject.toml").read_text(), re.S | re.M).group(1)
    library = _closure(re.findall(r'"([^"]+)"', needed))
    return sorted(library), sorted(_closure(line for line in asked if line) - library)


def _closure(wanted: Iterable[str]) -> set[str]:
    """Names of the packages, and of all that they need, that are installed."""
    found: set[str] = set()
    waiting = [(Requirement(text), ("",)) for text in wanted]
    while waiting:
        one, extras = waiting.pop()
        name = canonicalize_name(one.name)
        if one.marker and not any(one.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        if name not in found:
            found.add(name)
            waiting += [(Requirement(text), ("", *one.extras)) for text in needs]
    return found


def licence(name: str) -> str:
    """What an installed package says of its licence, in a few words."""
    about = metadata.metadata(name)
    classes = [line.split(" :: ")[-1] for line in about.get_all("Classifier", []) if line.startswith("License ::")]
    own = (about.get("License") or "").strip()
    short = own if own and len(own) <= LONG and "\n" not in own else ""
    classed = ", ".join(each for each in classes if each != "OSI Approved")
    within = next((word for word in KNOWN if word in own), "not said")          # the whole text of a licence
    return about.get("License-Expression") or short or classed or within


# ---- the rest ------------------------------------------------------------------------------------------------------

def write() -> None:
    """Write the page; one that would not change is left alone."""
    text = page()
    if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        PAGE.write_text(text, encoding="utf-8")


def _number(value: int) -> str:
    """1234567 as 1,234,567."""
    return f"{value:,}"


def _in_words(test: str) -> str:
    """The name of a test as it is said."""
    return test.split("::")[1].removeprefix("test_").replace("_", " ")


def _first_upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _table(head: list[str], widths: str, rows: list[list[str]]) -> list[str]:
    lines = ["```{list-table}", ":header-rows: 1", f":widths: {widths}", ":class: ledger", ""]
    for row in [head, *rows]:
        lines += [f"{'*' if k == 0 else ' '} - {cell}" for k, cell in enumerate(row)]
    return [*lines, "```", ""]


if __name__ == "__main__":
    write()
