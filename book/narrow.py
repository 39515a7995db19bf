"""Figures of several panels for a phone: the same panels below each other, so that their letters stay legible.

A chapter draws a figure once, as wide as the column of a page. Its ground is transparent, so the empty columns between
its panels can be found, and a picture is put together from the panels that fits a narrow screen.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PHONE = 358             # pixels that a screen of 390 leaves a figure
HIGH = 1000             # pixels: a figure higher than this is shown no larger than it must
FAINT = 10              # opacity of 255 that cannot be seen
GUTTER = 6              # pixels at least between two panels
LEADING = 3             # pixels at most between two rows that belong together
PANEL = 80              # pixels at least that a panel is wide: what is narrower is a scale or a name, and goes with one
UPRIGHT = 40            # pixels of an upright line or edge, which a panel has and a row of letters has not
BETWEEN = 14            # pixels between panels that are put below each other
ALIKE = 0.02            # by which share the widths of two panels of one kind differ
NEAR = 10               # pixels that the first number of an axis, or a long title, stands before its panel


class Panel(NamedTuple):
    """Edges of a panel with the scales and names that belong to it, and of its plot alone."""

    left: int
    right: int
    plot: tuple[int, int] | None


def runs(filled: NDArray[np.bool_], gap: int) -> list[tuple[int, int]]:
    """First and last + 1 of the stretches of True, joined where fewer than ``gap`` places are between them."""
    places = np.flatnonzero(filled)
    if not len(places):
        return []
    breaks = np.flatnonzero(np.diff(places) > gap)
    return [(int(a), int(b) + 1) for a, b in zip(places[[0, *(breaks + 1)]], places[[*breaks, -1]], strict=True)]


def panels(seen: NDArray[np.bool_]) -> list[Panel]:
    """A figure's panels, each with the scales and names that stand nearest to it.

    Args:
        seen: (H, W), where the figure is not transparent.
    """
    parts = [Panel(*edges, _plot(seen, *edges)) for edges in runs(seen.any(0), GUTTER)]
    while len(parts) > 1 and not all(part.plot for part in parts):
        k = [bool(part.plot) for part in parts].index(False)
        before = parts[k].left - parts[k - 1].right if k else np.inf
        behind = parts[k + 1].left - parts[k].right if k + 1 < len(parts) else np.inf
        k -= before < behind                                     # now k and k + 1 belong together
        parts[k:k + 2] = [Panel(parts[k].left, parts[k + 1].right, parts[k].plot or parts[k + 1].plot)]
    return parts


def _plot(seen: NDArray[np.bool_], left: int, right: int) -> tuple[int, int] | None:
    """First and last + 1 of the columns with an upright line, if they are as far from each other as a panel's."""
    if len(seen) < UPRIGHT:
        return None
    filled = np.cumsum(np.pad(seen[:, left:right], ((1, 0), (0, 0))), 0)
    places = left + np.flatnonzero((filled[UPRIGHT:] - filled[:-UPRIGHT] == UPRIGHT).any(0))
    return (int(places[0]), int(places[-1]) + 1) if len(places) and places[-1] - places[0] >= PANEL else None


def stacked(picture: Image.Image, least: float) -> Image.Image | None:
    """A figure with its panels in rows that a phone has room for; None where it has one panel, or fits as it is.

    A title above all panels or a key below them keeps its place. Names and numbers that stand before the first panel
    for all the others, too, stand before each row.

    Args:
        picture: with transparent ground.
        least: by how much it may be shrunk, so that its letters can be read.
    """
    room = PHONE / least
    seen = np.asarray(picture.convert("RGBA"))[..., 3] > FAINT
    if picture.width <= room or not seen.any():
        return None
    bands = runs(seen.any(1), LEADING)
    last = len(bands)
    # all of it, or without what stands above or below all panels and so hides where one ends: what has most panels
    choices = [(0, last), (1, last), (0, last - 1), (1, last - 1)] if last > 2 else [(0, last)]
    cuts = [(top, bottom, panels(seen[bands[top][0]:bands[bottom - 1][1]])) for top, bottom in choices]
    top, bottom, found = max(cuts, key=lambda cut: len(cut[2]))          # the first of those that have as many
    if len(found) < 2:
        return None
    first, last = bands[top][0], bands[bottom - 1][1]
    head = _shared(found)
    rows = _rows(found, room - head)
    names = _piece(picture, (found[0].left, first, found[0].left + head, last)) if head else None
    pieces = [_piece(picture, (0, up, picture.width, down)) for up, down in bands[:top]]
    for k, row in enumerate(rows):
        piece = _piece(picture, (row[0].left, first, row[-1].right, last))
        pieces.append(_beside(names, piece) if names and k else piece)
    pieces += [_piece(picture, (0, up, picture.width, down)) for up, down in bands[bottom:]]
    pieces = [_trimmed(piece) for piece in pieces]
    width = max(piece.width for piece in pieces)
    if width >= 0.9 * picture.width:
        return None
    out = Image.new("RGBA", (width, sum(piece.height + BETWEEN for piece in pieces) - BETWEEN))
    y = 0
    for piece in pieces:
        out.paste(piece, (0, y))
        y += piece.height + BETWEEN
    return out


def width(picture: Image.Image, least: float) -> int:
    """How wide a phone shows a stacked figure: as large as it is, but a high one no larger than it must be."""
    return max(round(least * picture.width), round(picture.width * min(1, HIGH / picture.height)))


def _shared(found: list[Panel]) -> int:
    """How wide the names and numbers are that stand before the first of panels of one kind and before no other."""
    wide = [right - left for left, right in (panel.plot for panel in found)]
    alone = all(panel.plot[0] - panel.left < NEAR for panel in found[1:])
    alike = max(wide) <= (1 + ALIKE) * min(wide)
    head = found[0].plot[0] - found[0].left
    return head if alone and alike and head > NEAR else 0


def _rows(found: list[Panel], room: float) -> list[list[Panel]]:
    """Panels in as few rows as there is room for, these as even as can be."""
    def filled(limit: float) -> list[list[Panel]]:
        rows: list[list[Panel]] = []
        for panel in found:
            if rows and panel.right - rows[-1][0].plot[0] <= limit:
                rows[-1].append(panel)
            else:
                rows.append([panel])
        return rows
    rows = filled(room)
    spans = sorted({b.right - a.plot[0] for k, a in enumerate(found) for b in found[k:]})
    limits = [min((1 + ALIKE) * span, room) for span in spans]
    return next(even for limit in [*limits, room] if len(even := filled(limit)) <= len(rows))


def _piece(picture: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    return picture.convert("RGBA").crop(box)


def _trimmed(piece: Image.Image) -> Image.Image:
    """Without what is empty around it."""
    return piece.crop(piece.getchannel("A").point(lambda alpha: 255 * (alpha > FAINT)).getbbox())


def _beside(left: Image.Image, right: Image.Image) -> Image.Image:
    out = Image.new("RGBA", (left.width + right.width, right.height))
    out.paste(left, (0, 0))
    out.paste(right, (left.width, 0))
    return out
