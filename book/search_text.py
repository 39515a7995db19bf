"""Excerpts for the book's search where it is opened from the disk.

Sphinx finds pages by an index that is a script, which works over file:// too, but reads the text around a match by
fetching the page, which a browser forbids there. So the words of all pages are written as one more script, and only the
search page loads it; ``_static/search.js`` hands them out.
"""

import json
from pathlib import Path

from docutils import nodes

TEXTS: dict[str, str] = {}               # of this build, by page
FILE = "search-text.js"


def collect(app, doctree: nodes.document, docname: str) -> None:
    """For Sphinx, ``doctree-resolved``: keep a page's words, without its code."""
    parts = doctree.findall(lambda node: isinstance(node, (nodes.title, nodes.paragraph, nodes.caption, nodes.term)))
    TEXTS[docname] = " ".join(" ".join(part.astext().split()) for part in parts)


def load(app, pagename: str, templatename: str, context: dict, doctree: nodes.document | None) -> None:
    """For Sphinx, ``html-page-context``: the search page has two scripts more."""
    if pagename == "search":
        app.add_js_file(FILE)
        app.add_js_file("search.js")


def write(app, error: Exception | None) -> None:
    """For Sphinx, ``build-finished``."""
    if error is None and app.builder.format == "html":
        words = json.dumps(TEXTS, ensure_ascii=False).replace("</", "<\\/")
        (Path(app.outdir) / "_static" / FILE).write_text(f"window.PAGE_TEXTS = {words};\n", encoding="utf-8")
