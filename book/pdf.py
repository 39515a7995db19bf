"""``make pdf``: the built book as one PDF, _build/book.pdf, printed by Chromium.

All pages are put below each other into one, in the order of the contents, with their links to each other turned into
links within it. Code that is folded on the page is left out, for its figures are there; hints and solutions are
unfolded. Where a page has a figure that moves, a line says so, for paper keeps still.
"""

import re
import shutil
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from bs4 import BeautifulSoup, Tag

from .build import INDEX, ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HTML = INDEX.parent
SCALE = 0.75       # of the print: 16 pixels of the page become 9 points of the paper
PAGE, PDF = HTML / "print" / "book.html", ROOT / "_build" / "book.pdf"
HEAD = """<!doctype html><html lang="en" data-theme="light"><head><meta charset="utf-8"><title>{title}</title>
<link rel="stylesheet" href="../_static/styles/pydata-sphinx-theme.css">
<link rel="stylesheet" href="../_static/styles/sphinx-book-theme.css">
<link rel="stylesheet" href="../_static/mystnb.css"><link rel="stylesheet" href="../_static/pygments.css">
<link rel="stylesheet" href="../_static/book.css">
<style>article {{ break-before: page; }} article:first-of-type {{ break-before: auto; }}
.fk, script, .copybtn, .headerlink, iframe {{ display: none; }}
body {{ margin: 0; }} .bd-article {{ padding: 0; }}
figure.numbered, .pst-scrollable-table-container, div.gains, .cell_output, .math {{ overflow: visible; }}
img {{ max-width: 100% !important; height: auto; }}
.admonition-title::before, .admonition-title::after {{ content: none !important; }}
.moves {{ color: #555; font-style: italic; border-left: 3px solid #bbb; padding-left: .6rem; }}</style>
<script>window.MathJax = {{options: {{processHtmlClass: "math"}}}}</script>
<script src="../_static/lib/mathjax-tex-svg.js"></script></head><body class="bd-article">"""
FOOT = '<p style="font: 8px sans-serif; width: 100%; text-align: center"><span class="pageNumber"></span></p>'
MOVES = "Here the page on the screen has a figure that moves."
# What is wider than the paper is made smaller: displayed formulas, tables and pictures.
FIT = """() => {
  const wide = document.body.clientWidth;
  for (const formula of document.querySelectorAll("mjx-container")) {
    const svg = formula.querySelector("svg"), left = svg.getBoundingClientRect().left;
    const most = wide - (formula.hasAttribute("display") ? 2 * Math.max(0, left) : 0);
    if (svg.getBoundingClientRect().width > most) Object.assign(svg.style, { width: `${most}px`, height: "auto" });
  }
  for (const table of document.querySelectorAll("table")) {
    const box = table.parentElement.getBoundingClientRect().width, own = table.getBoundingClientRect().width;
    if (own > box + 1) table.style.zoom = box / own;
  }
}"""


def contents() -> dict[str, str]:
    """Names of the pages as _toc.yml orders them, with the titles that it gives to chapters, "" to the others."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [chapter for part in toc["parts"] for chapter in part["chapters"]]
    return {toc["root"]: "", **{chapter["file"]: chapter.get("title", "") for chapter in chapters}}


def whole(names: Mapping[str, str], folder: Path = HTML) -> str:
    """All pages as one; ids and links get the name of their page before them, for several pages have one of a name."""
    parts = [HEAD.format(title="Face alignment, re-derived")]
    for name, title in names.items():
        soup = BeautifulSoup((folder / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
        article = soup.select_one("article.bd-article")
        here = name.replace("/", "-")
        for tag in article.find_all(id=True):
            tag["id"] = f"{here}--{tag['id']}"
        article["id"] = here
        for tag in article.find_all("a", href=True):
            tag["href"] = inner(tag, name, names)
        if title:                                              # with the chapter's number
            article.find("h1").contents[0].replace_with(title)
        for tag in article.select("details.hide"):
            tag.decompose()
        for tag in article.find_all("details"):
            tag["open"] = ""
        for tag in article.select("script[type='application/vnd.jupyter.widget-view+json'], [id$='--your-photo']"):
            tag.replace_with(BeautifulSoup(f'<p class="moves">{MOVES}</p>', "html.parser"))
        for tag in article.find_all("img"):
            del tag["loading"]                                  # paper has no later
        parts.append(str(article))
    return "\n".join([*parts, "</body></html>"])


def inner(tag: Tag, name: str, names: Collection[str]) -> str:
    """Where a link of page ``name`` leads within the whole; links to what is not in it stay as they are."""
    path, _, place = tag["href"].partition("#")
    if re.match(r"\w+:", path):
        return tag["href"]
    target = name
    if path:
        target = (Path("/") / Path(name).parent / path).resolve().relative_to("/").with_suffix("").as_posix()
    if target not in names:
        return tag["href"]
    return "#" + target.replace("/", "-") + (f"--{place}" if place else "")


def chromium() -> str | None:
    """The machine's own."""
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def open_sheet(browser: "Browser", page: Path) -> "Page":
    """A file of HTML as it will be on paper, once its formulas stand and what was too wide fits."""
    # A4 without its margins, 174 mm at 96 pixels to the inch, over the scale of the print
    sheet = browser.new_page(viewport={"width": round(174 / 25.4 * 96 / SCALE), "height": 1200})
    sheet.set_default_timeout(600_000)
    sheet.emulate_media(media="print", color_scheme="light")
    sheet.goto(page.as_uri(), wait_until="load")
    sheet.evaluate("() => window.MathJax?.startup?.promise")
    sheet.evaluate(FIT)
    return sheet


def write(page: Path, pdf: Path) -> None:
    """Print a file of HTML."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        open_sheet(browser, page).pdf(
            path=pdf, format="A4", scale=SCALE, print_background=True, outline=True, tagged=True,
            display_header_footer=True, header_template="<span></span>", footer_template=FOOT,
            margin={side: "18mm" for side in ("top", "right", "bottom", "left")})
        browser.close()
    pdf.write_bytes(named_once(pdf.read_bytes()))


def named_once(pdf: bytes) -> bytes:
    """Chromium's print, with every heading once in its outline: one that it pushed to the next page is there doubled.

    Blanks take the place of the second half, so that every object stays where the file says that it is.
    """
    def one(found: re.Match) -> bytes:
        start, name = found[1], found[2]
        half = len(name) // 2
        if not half or name[:half] + name[:half] != name:
            return found[0]
        return b"/Title (" + start + name[:half] + b")" + half * b" "
    # a text of another alphabet begins with the two bytes that say so
    return re.sub(rb"/Title \((\xfe\xff|)((?:[^()\\]|\\.)*)\)", one, pdf, flags=re.S)


def main() -> int:
    """Print the book; 1 if it is not built or there is no Chromium."""
    if not INDEX.exists() or chromium() is None:
        print("`make book` must have built the book, and Chromium must be on the path", file=sys.stderr)
        return 1
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(whole(contents()), encoding="utf-8")
    write(PAGE, PDF)
    print(f"{PDF.relative_to(ROOT)}: {PDF.stat().st_size / 1e6:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
