"""``make pdf``: the built book as one PDF, _build/book.pdf, printed by Chromium.

All pages are put below each other into one, in the order of the contents, with their links to each other turned into
links within it. Figures that move are left out, for paper keeps still.
"""

import re
import shutil
import sys
from pathlib import Path

import yaml
from bs4 import BeautifulSoup, Tag

from .build import INDEX, ROOT

HTML = INDEX.parent
PAGE, PDF = HTML / "print" / "book.html", ROOT / "_build" / "book.pdf"
HEAD = """<!doctype html><html lang="en" data-theme="light"><head><meta charset="utf-8"><title>{title}</title>
<link rel="stylesheet" href="../_static/styles/pydata-sphinx-theme.css">
<link rel="stylesheet" href="../_static/styles/sphinx-book-theme.css">
<link rel="stylesheet" href="../_static/mystnb.css"><link rel="stylesheet" href="../_static/pygments.css">
<link rel="stylesheet" href="../_static/book.css">
<style>article {{ break-before: page; }} .fk, script, .copybtn, .headerlink, iframe {{ display: none; }}
pre {{ white-space: pre-wrap; }} figure.numbered {{ overflow: visible; }} img {{ max-width: 100%; }}</style>
<script>window.MathJax = {{options: {{processHtmlClass: "math"}}}}</script>
<script src="../_static/lib/mathjax-tex-svg.js"></script></head><body class="bd-article">"""


def contents() -> list[str]:
    """Names of the pages as _toc.yml orders them."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    return [toc["root"], *(chapter["file"] for part in toc["parts"] for chapter in part["chapters"])]


def whole(names: list[str], folder: Path = HTML) -> str:
    """All pages as one; ids and links get the name of their page before them, for several pages have one of a name."""
    parts = [HEAD.format(title="Face alignment, re-derived")]
    for name in names:
        soup = BeautifulSoup((folder / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
        article = soup.select_one("article.bd-article")
        here = name.replace("/", "-")
        for tag in article.find_all(id=True):
            tag["id"] = f"{here}--{tag['id']}"
        article["id"] = here
        for tag in article.find_all("a", href=True):
            tag["href"] = inner(tag, name, names)
        for tag in article.find_all("details"):
            tag["open"] = ""
        parts.append(str(article))
    return "\n".join([*parts, "</body></html>"])


def inner(tag: Tag, name: str, names: list[str]) -> str:
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


def main() -> int:
    """Print the book; 1 if it is not built or there is no Chromium."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not INDEX.exists() or chromium is None:
        print("`make book` must have built the book, and Chromium must be on the path", file=sys.stderr)
        return 1
    from playwright.sync_api import sync_playwright
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(whole(contents()), encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.goto(PAGE.as_uri(), wait_until="load", timeout=120_000)
        page.evaluate("() => window.MathJax?.startup?.promise")                   # until all formulas stand
        page.pdf(path=PDF, format="A4", print_background=True, outline=True, tagged=True,
                 margin={side: "18mm" for side in ("top", "right", "bottom", "left")})
        browser.close()
    print(f"{PDF.relative_to(ROOT)}: {PDF.stat().st_size / 1e6:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
