"""Links that a plain rule can make, when a page is read: chapters, claims, equations of the papers, glossary terms.

A chapter's number, a claim's id (C7) and an equation's id (TAB-3) are links wherever they stand in the text; "Eq. 7"
leads to the equation of the paper named before it, else of the paper the chapter is about; a term of the glossary is a
link where a page uses it first, and an entry of the index. Headings, code, formulas and what is a link already are left
alone.
"""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import yaml
from docutils import nodes
from sphinx import addnodes

from . import pages

BOOK = Path(__file__).resolve().parent
ABOUT = {"04": "ACE", "05": "ACE", "06": "ACE", "07": "TAB", "08": "TAB", "09": "SCPAN", "10": "SCPAN", "11": "RHT",
         "12": "RHT", "12b": "RHT", "13": "MSM", "14": "MSM", "15": "MSM"}                 # chapter: its paper
LEFT_ALONE = (nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.title, nodes.reference, nodes.raw,
              nodes.term, nodes.rubric, nodes.image, addnodes.pending_xref, nodes.citation_reference, nodes.footnote)
NO_TERMS = ("book/glossary", "book/ledger", "book/errata", "book/what_came_out", "book/how_tested", "book/credits",
            "book/references")
NO_IDS = ("book/how_tested", "book/credits")               # numbers of faults look like those of claims there
NUMBERS = r"\d{1,2}b?(?:(?:, | and | to | or |[-–]|, and )\d{1,2}b?(?!\d|\.\d))*"
CHAPTERS = rf"\b[Cc]hapters?[ \n]{NUMBERS}"
CLAIM, EQUATION = r"\bC\d{1,2}[a-z]?\b", r"\b(?:ACE|TAB|SCPAN|RHT|MSM)-[STFA]?\d(?:[\d.]*\d)?[A-C]?\b"
PAPER = r"\b(?:ACE-Net|TAB|SCPAN|RHT|MSM)(?:'s)?,?[ \n]\(?"
EQS = rf"(?:{PAPER})?\bEqs?\.[ \n]{NUMBERS}"


@lru_cache(maxsize=1)
def known() -> dict[str, set[str] | dict[str, str]]:
    """What can be linked: chapters by number, ids of claims and equations, terms of the glossary."""
    glossary = (BOOK / "glossary.md").read_text(encoding="utf-8").partition("{glossary}")[2]
    rows = {name: {row["id"] for row in yaml.safe_load((BOOK / f"{name}.yml").read_text(encoding="utf-8"))}
            for name in ("claims", "equations")}
    return {**rows, "chapters": {pages.chapter(path): path.stem for path in pages.ROOT.glob("notebooks/*_*.ipynb")},
            "terms": {line for line in glossary.splitlines() if line and not line.startswith((" ", "`"))}}


def link(app, doctree: nodes.document) -> None:
    """For Sphinx, ``doctree-read``: put the links into a page."""
    name, seen = app.env.docname, set()
    for text in list(doctree.findall(nodes.Text)):
        if not any(isinstance(one, LEFT_ALONE) for one in above(text)):
            parts = list(linked(text.astext(), name, seen))
            if len(parts) > 1 or not isinstance(parts[0], nodes.Text):
                text.parent.replace(text, parts)


def above(node: nodes.Node) -> Iterator[nodes.Node]:
    while (node := node.parent) is not None:
        yield node


def linked(text: str, name: str, seen: set[str]) -> Iterator[nodes.Node]:
    """A text in pieces, some of them links.

    Args:
        name: of the page, as "notebooks/04_contourness".
        seen: terms that the page has linked; those of this text are added.
    """
    end = 0
    for found in pattern(not name.startswith(NO_TERMS)).finditer(text):
        made = list(_made(found[0], name, seen))
        if made:
            yield from ([nodes.Text(text[end:found.start()])] if found.start() > end else [])
            yield from made
            end = found.end()
    if end < len(text) or not text:
        yield nodes.Text(text[end:])


@lru_cache(maxsize=2)
def pattern(terms: bool) -> re.Pattern:
    """All that may become a link; long terms before those that begin them."""
    words = sorted(known()["terms"], key=len, reverse=True) if terms else []
    plural = "|".join(re.escape(word).replace(r"\ ", r"[ \n]") + ("s?" if word.islower() else "") for word in words)
    return re.compile("|".join([CHAPTERS, CLAIM, EQUATION, EQS, *([rf"\b(?:{plural})\b"] if words else [])]))


def _made(found: str, name: str, seen: set[str]) -> Iterator[nodes.Node]:
    here, ids = name.rpartition("/")[2], not name.startswith(NO_IDS)
    if re.match("[Cc]hapter", found):
        yield from _numbers(found, lambda number: _chapter(number, name))
    elif "Eq" in found and (paper := _paper(found, here)):
        before = found[:found.index("(") + 1] if "(" in found else ""        # "TAB (Eq. 6)"
        yield from [nodes.Text(before)] if before else []
        yield from _numbers(found[len(before):], lambda number: _row(f"{paper}-{number}", number, name))
    elif found in known()["claims"] | known()["equations"] and ids:
        yield _row(found, found, name)
    else:
        term = " ".join(found.split())
        term = term if term in known()["terms"] else term.removesuffix("s")
        if term in known()["terms"] and term not in seen:
            seen.add(term)
            label = f"term-{nodes.make_id(term)}"
            yield addnodes.index(entries=[("single", term, label, "", None)])
            yield nodes.target("", "", ids=[label])
            yield _reference(found, "term", term, name, "std-term")


def _numbers(found: str, make: Callable[[str], nodes.Node | None]) -> Iterator[nodes.Node]:
    """The words before a list of numbers go with the first: "chapters 7" and "9" become two links."""
    first = re.match(r"\D*\d+b?", found.replace("ACE-Net", "ACE_Net"))[0].replace("ACE_Net", "ACE-Net")
    for k, part in enumerate([first, *re.split(r"(\d+b?)", found[len(first):])]):
        if number := re.search(r"\d+b?$", part):
            made = make(number[0])
            if made is not None:
                made[0].children[0] = nodes.Text(part)
                yield made
                continue
        if part or k == 0:
            yield nodes.Text(part)


def _chapter(number: str, name: str) -> nodes.Node | None:
    stem = known()["chapters"].get(number.zfill(3 if number.endswith("b") else 2))
    return None if stem is None or name.endswith(stem) else _reference(number, "doc", f"/notebooks/{stem}", name, "doc")


def _paper(found: str, here: str) -> str | None:
    named = re.match("ACE|TAB|SCPAN|RHT|MSM", found)
    return named[0] if named else ABOUT.get(here.partition("_")[0])


def _row(row: str, shown: str, name: str) -> nodes.Node | None:
    rows = known()["claims"] | known()["equations"]
    return _reference(shown, "ref", f"row-{row.lower()}", name, "std-ref") if row in rows else None


def _reference(shown: str, kind: str, target: str, name: str, style: str) -> addnodes.pending_xref:
    inner = nodes.inline("", shown, classes=["xref", "std", style])
    return addnodes.pending_xref("", inner, refdomain="std", reftype=kind, reftarget=target, refdoc=name,
                                 refexplicit=True, refwarn=True)
