"""Pictures of the chapters as numbered figures: their words for those who cannot see them are the caption.

Everything happens when a page is written, so that a chapter needs to give its pictures nothing but their words
(``metadata.mystnb.image.alt``). ``_static/figures.js`` enlarges a figure that is clicked.
"""

import re
from pathlib import Path

from docutils import nodes
from PIL import Image

from facealign_lite.plots import COLUMN

from . import pages

LEAST = 0.8            # of a picture's own size, below which its smallest labels have less than 9 pixels
SIZE = re.compile(r'(<img [^>]*class="[^"]*\bshown\b[^>]*)style="width: (\d+)px;"')


def caption(app, doctree: nodes.document, docname: str) -> None:
    """For Sphinx, ``doctree-resolved``: put a figure around each picture of a chapter."""
    if app.builder.format != "html" or not docname.startswith("notebooks/"):
        return
    number = pages.chapter(Path(docname)).removeprefix("0")
    for count, image in enumerate([one for one in doctree.findall(nodes.image) if one.get("alt")], 1):
        place, file = image.parent, Path(app.srcdir) / image["uri"]
        if isinstance(place, nodes.figure):
            continue
        if isinstance(place, nodes.paragraph) and len(place.children) == 1:
            place.replace_self(image)
        if file.is_file():
            image["width"] = f"{Image.open(file).width}px"
        image["classes"] += ["shown", "no-scaled-link"]               # the second: no link to the file
        label = f"figure-{number}-{count}"
        said = nodes.caption("", "", nodes.inline("", f"Figure {number}.{count}.", classes=["figure-number"]),
                             nodes.Text(f" {sentence(image['alt'])}"))
        figure = nodes.figure("", ids=[label], classes=["numbered"])
        image.replace_self(figure)
        figure += [image, said]


def sentence(words: str) -> str:
    """The words of a picture as a sentence: a capital first, a full stop last."""
    words = " ".join(words.split())
    return words[:1].upper() + words[1:] + ("" if words.endswith((".", "!", "?")) else ".")


def sized(html: str) -> str:
    """Pictures fit their column, but on a phone no smaller than their labels can be read; then they can be pushed."""
    def style(found: re.Match) -> str:
        width = int(found[2])
        return f'{found[1]}style="width: {width}px; --least: {min(round(LEAST * width), COLUMN)}px"'
    return SIZE.sub(style, html)
