"""Pictures of the chapters as numbered figures: their words for those who cannot see them are the caption.

Everything happens when a page is written, so that a chapter needs to give its pictures nothing but their words
(``metadata.mystnb.image.alt``). ``_static/figures.js`` enlarges a figure that is clicked.
"""

import re
from pathlib import Path

from docutils import nodes
from PIL import Image

from facealign_lite.plots import COLUMN

from . import narrow, pages

LEAST = 0.8            # of a picture's own size, below which its smallest labels have less than 9 pixels
SCREEN = "screen and (max-width: 576px)"               # the theme's word for a phone, as in _static/book.css
SIDES = re.compile(r"\b(left|right|middle|centre)\b", re.I)                # what is said of panels beside each other
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
        small = None
        if file.is_file():
            picture = Image.open(file)
            image["width"] = f"{picture.width}px"
            small = _for_phones(picture, Path(app.outdir) / "_images" / f"{file.stem}-narrow.png")
        image["classes"] += ["shown", "no-scaled-link"]               # the second: no link to the file
        label = f"figure-{number}-{count}"
        said = nodes.caption("", "", nodes.inline("", f"Figure {number}.{count}.", classes=["figure-number"]),
                             nodes.Text(f" {sentence(image['alt'])}"))
        figure = nodes.figure("", ids=[label], classes=["numbered"] + ["sided"] * bool(SIDES.search(image["alt"])))
        image.replace_self(figure)
        figure += [image, said] if small is None else [*_either(image, small), said]


def least(width: int) -> float:
    """The share of its own size to which a picture may be shrunk, so that its labels can be read."""
    return min(LEAST, COLUMN / width)


def _for_phones(picture: Image.Image, file: Path) -> tuple[Path, int, int] | None:
    """Write a figure's panels below each other, where it has several: the file, and its widths at most and at least."""
    share = least(picture.width)
    if (small := narrow.stacked(picture, share)) is None:
        return None
    file.parent.mkdir(parents=True, exist_ok=True)
    small.save(file, compress_level=4)         # half the time of the usual 6, and 5 % more to load
    return file, narrow.width(small, share), round(share * small.width)


def _either(image: nodes.image, small: tuple[Path, int, int]) -> list[nodes.Node]:
    """The picture, and in its place the other on the screen of a phone."""
    file, width, lowest = small
    start = (f'<picture style="--narrow: {width}px; --narrow-least: {lowest}px">'
             f'<source media="{SCREEN}" srcset="../_images/{file.name}"/>')
    return [nodes.raw("", start, format="html"), image, nodes.raw("", "</picture>", format="html")]


def sentence(words: str) -> str:
    """The words of a picture as a sentence: a capital first, a full stop last."""
    words = " ".join(words.split())
    return words[:1].upper() + words[1:] + ("" if words.endswith((".", "!", "?")) else ".")


def sized(html: str) -> str:
    """Pictures fit their column, but on a phone no smaller than their labels can be read; then they can be pushed."""
    def style(found: re.Match) -> str:
        width = int(found[2])
        return f'{found[1]}style="width: {width}px; --least: {round(least(width) * width)}px"'
    return SIZE.sub(style, html)
