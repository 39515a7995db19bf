"""Small figures the chapters share. Every function draws on one matplotlib Axes and returns it.

Colours are Okabe and Ito's, told apart by colour-blind readers too; one part of the face has one colour everywhere.
``for_the_page`` makes every figure of a notebook legible in the column of a page, light or dark.
"""

import textwrap
import warnings
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import Collection, QuadMesh
from matplotlib.colors import same_color, to_hex, to_rgb, to_rgba, to_rgba_array
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter, LogFormatterSciNotation
from numpy.typing import ArrayLike, NDArray

from facealign_lite import markups, metrics
from facealign_lite.arrays import by_name, finite, floats, plain

BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW, BLACK = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000")
VERMILLION = VERMILION       # both spellings are in use  # codespell:ignore vermillion
COLOURS = (BLUE, ORANGE, GREEN, VERMILION, PURPLE, SKY, YELLOW, BLACK)
PARTS = {"jaw": SKY, "brow": ORANGE, "nose": GREEN, "eye": YELLOW, "mouth": PURPLE}

INK = "#7b7b7b"              # as far from white as from the book's dark page: 4.2 to 1, the most that one grey can have
COLUMN = 688                 # pixels: how wide a page shows a picture
LEAST = 9.2                  # pixels: the smallest label there
INKED = {name: INK for name in ("text.color", "axes.edgecolor", "axes.labelcolor", "axes.titlecolor", "xtick.color",
                                "ytick.color", "grid.color", "legend.edgecolor")}
SMALL = ("legend.fontsize", "axes.labelsize", "xtick.labelsize", "ytick.labelsize")
DARK, PALE = 0.15, 0.8       # greys below and above these would vanish or glare on one of the two pages


def for_the_page(figure: Figure) -> None:
    """Make a new figure legible on a page; matplotlib calls this where ``figure.hooks`` names it.

    That is so in the notebooks, by notebooks/matplotlibrc. Its ground becomes transparent, and black or nearly white
    lines and letters beside a picture become grey, so that light and dark pages can show it. No label is smaller than
    ``LEAST`` pixels once the figure is fitted into a column of ``COLUMN``; titles and names of axes that are
    longer than their plot are broken.
    """
    scale = max(1.0, figure.get_figwidth() * figure.dpi / COLUMN)       # by which a page shrinks it
    least = LEAST * scale * 72 / figure.dpi                             # points
    # "small" is 0.83 of the usual size
    plt.rcParams.update({"font.size": max(9.0, least / 0.833), "axes.titlesize": "medium", "figure.facecolor": "none",
                         "axes.facecolor": "none", "savefig.facecolor": "auto", "legend.framealpha": 0.0, **INKED,
                         **dict.fromkeys(SMALL, "small")})
    # a page has no place for what a layout says that had to leave something as it was
    warnings.filterwarnings("ignore", message="(?i)(tight|constrained).layout not applied")
    draw, seen = figure.draw, []

    def adjusted(renderer: object) -> None:
        if not seen:
            seen.append(True)
            _adjust(figure, least)
        draw(renderer)
    figure.draw = adjusted


def _adjust(figure: Figure, least: float) -> None:
    if same_color(figure.get_facecolor(), "white"):
        figure.set_facecolor("none")
    for ax in figure.axes:
        if same_color(ax.get_facecolor(), "white"):
            ax.set_facecolor("none")
        over = bool(ax.images) or any(isinstance(each, QuadMesh) for each in ax.collections)
        for artist in ax.findobj():
            if not over or artist is ax.patch or isinstance(artist, Text) and artist in _beside(ax):
                _neutral(artist)
    for text in figure.findobj(Text):
        if text in figure.texts:
            _neutral(text)
        if text.get_text():
            text.set_fontsize(max(text.get_fontsize(), least))
    for ax in figure.axes:
        _break_words(ax.title, ax.get_window_extent().width, ax.title.get_window_extent().width, 1.08)
        for axis in (ax.xaxis, ax.yaxis):
            _plain_numbers(axis)
            side = "height" if axis is ax.yaxis else "width"
            _break_words(axis.label, getattr(ax.get_window_extent(), side),
                         getattr(axis.label.get_window_extent(), side), 1.02)
    if isinstance(figure.get_layout_engine(), PlaceHolderLayoutEngine):     # laid out before: once more, as it is now
        figure.tight_layout()


def _beside(ax: Axes) -> list[Text]:
    """What is written around a plot and not on it."""
    axes = (ax.xaxis, ax.yaxis)
    return [ax.title, *(each.label for each in axes), *(label for each in axes for label in each.get_ticklabels())]


def _break_words(words: Text, room: float, needed: float, loose: float) -> None:
    """Break a title or the name of an axis that is longer than its plot by more than a factor."""
    text = words.get_text()
    if text and "$" not in text and "\n" not in text and needed > loose * room > 0:
        words.set_text(textwrap.fill(text, max(8, int(len(text) * room / needed))))


def _plain_numbers(axis: Axis) -> None:
    """"4" and "600" in the place of 4 x 10^0 and 6 x 10^2 at a logarithmic axis, if its numbers are short."""
    low, high = sorted(axis.get_view_interval())
    if axis.get_scale() != "log" or not 1e-3 <= low < high <= 1e4:
        return
    if type(axis.get_major_formatter()) is LogFormatterSciNotation:
        axis.set_major_formatter("{x:g}")
    if type(axis.get_minor_formatter()) is LogFormatterSciNotation:
        axis.set_minor_formatter(_Plain())


class _Plain(LogFormatter):
    """Numbers between the powers of ten, where matplotlib would write some, in plain digits."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def _neutral(artist: Artist) -> None:
    """Black and nearly black greys become ink; pale grey areas a breath of it."""
    if isinstance(artist, (Line2D, Text)) and _grey(artist.get_color(), 0, DARK):
        artist.set_color(INK)
    elif isinstance(artist, (Patch, Collection)):
        edges = np.atleast_2d(to_rgba_array(artist.get_edgecolor()))
        if len(edges) and all(_grey(edge, 0, DARK) for edge in edges):
            artist.set_edgecolor(INK)
        faces = np.atleast_2d(to_rgba_array(artist.get_facecolor()))
        if len(faces) and all(_grey(face, 0, DARK) for face in faces):
            artist.set_facecolor(INK)
        elif len(faces) and isinstance(artist, Patch) and all(_grey(face, PALE, 0.999) for face in faces):
            artist.set_facecolor((*to_rgb(INK), 0.15))


def _grey(colour: ArrayLike, low: float, high: float) -> bool:
    """Whether a colour is a grey that can be seen, and between those."""
    r, g, b, a = to_rgba(colour)
    return a > 0 and max(r, g, b) - min(r, g, b) < 0.05 and low <= g <= high


def part_colours(count: int = 68) -> list[str]:
    """A colour for each of ``count`` landmarks: by part where the markup names its parts, blue elsewhere."""
    colours = [BLUE] * count
    table = markups.MARKUPS.get(str(count))
    for part, colour in PARTS.items():
        for i in table.groups.get(part, ()) if table else ():
            colours[i] = colour
    return colours


def show(image: NDArray, landmarks: ArrayLike | None = None, contours: Mapping[str, NDArray] | None = None,
         visibility: ArrayLike | None = None, box: ArrayLike | None = None, size: float = 12,
         title: str | None = None, ax: Axes | None = None) -> Axes:
    """An image with what is known about its face.

    Args:
        image: (H, W) or (H, W, 3).
        landmarks: (K, 2) pixels, coloured by part.
        contours: polylines (M, 2) by name, drawn as lines.
        visibility: (K,) bool; hidden landmarks are drawn as rings.
        box: (left, top, right, bottom).
        size: of a landmark, in points squared.

    Raises:
        ValueError: if shapes do not match.
    """
    image = _image(image)
    ax = ax or plt.subplots()[1]
    ax.imshow(image, cmap="gray", vmin=0, vmax=255 if image.dtype == np.uint8 else None)
    for i, polyline in enumerate(by_name({} if contours is None else contours, "contours").values()):
        ax.plot(*_line(polyline).T, color=COLOURS[i % len(COLOURS)], linewidth=1.5)
    if landmarks is not None:
        _points(ax, landmarks, visibility, size)
    if box is not None:
        box = finite(box, "box")
        if box.shape != (4,):
            raise ValueError(f"box must be (left, top, right, bottom), got shape {box.shape}")
        left, top, right, bottom = box
        ax.plot([left, right, right, left, left], [top, top, bottom, bottom, top], color=VERMILION, linewidth=1.2)
    return _plain(ax, image.shape, title)


def contour_colours() -> dict[str, str]:
    """A colour for each of ``markups.CONTOURS``: its part's, but pale where a lower contour meets an upper one."""
    words = {"chin": SKY, **{word: PARTS[word] for word in ("brow", "nose", "eye", "mouth")}}
    colours = {name: next(colour for word, colour in words.items() if word in name) for name in markups.CONTOURS}
    return {name: to_hex(0.4 * np.array(to_rgb(colour)) + 0.6) if "lower" in name else colour
            for name, colour in colours.items()}


def contours(image: NDArray, lines: Mapping[str, ArrayLike], anchors: ArrayLike | None = None, size: float = 12,
             title: str | None = None, ax: Axes | None = None) -> Axes:
    """Contours of a face over its picture, each in its colour on a dark rim, and anchors as white dots.

    Args:
        image: (H, W) or (H, W, 3).
        lines: polylines (M, 2) in pixels, by name of ``markups.CONTOURS``; any of them.
        anchors: (N, 2) pixels.
        size: of an anchor, in points squared; lines are as wide as half its diameter.

    Raises:
        ValueError: for an unknown name, or shapes that do not match.
    """
    colours = contour_colours()
    if unknown := sorted(set(by_name(lines, "lines")) - set(colours)):
        raise ValueError(f"lines must be named as markups.CONTOURS, got {unknown}")
    ax, width = show(image, title=title, ax=ax), 0.5 * size ** 0.5
    for name, line in lines.items():
        ax.plot(*_line(line).T, color=colours[name], linewidth=width, solid_capstyle="round", label=name,
                path_effects=[withStroke(linewidth=1.8 * width, foreground=BLACK)])
    if anchors is not None:
        ax.scatter(*_line(anchors).T, s=size, color="white", edgecolors=BLACK, linewidths=0.3 * width, zorder=3)
    return ax


def sheet(images: Sequence[NDArray], landmarks: Sequence[ArrayLike] | None = None,
          contours: Sequence[Mapping[str, NDArray]] | None = None, columns: int = 8, size: int = 96,
          titles: Sequence[str] | None = None, ax: Axes | None = None) -> Axes:
    """A contact sheet: images of one or several sizes side by side on one Axes, each fitted into a square tile.

    Args:
        images: (H, W) or (H, W, 3) uint8.
        landmarks: (K, 2) pixels for each image.
        contours: polylines by name for each image.
        columns: tiles a row.
        size: side of a tile in pixels.

    Raises:
        ValueError: if there are no images, or another number of landmarks, contours or titles.
    """
    if len(images) == 0:
        raise ValueError("images must not be empty")
    if columns < 1 or not size > 0:
        raise ValueError(f"columns and size must be positive, got {columns} and {size}")
    images = [_image(image) for image in images]
    for name, those in (("landmarks", landmarks), ("contours", contours), ("titles", titles)):
        if those is not None and len(those) != len(images):
            raise ValueError(f"{name} must be as many as images, {len(images)}, got {len(those)}")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    ax = ax or plt.subplots(figsize=(1.2 * columns, 1.2 * rows))[1]
    for i, image in enumerate(images):
        height, width = image.shape[:2]
        scale = size / max(height, width)
        x, y = i % columns * size, i // columns * size

        def place(points: ArrayLike, scale: float = scale, x: float = x, y: float = y) -> NDArray:
            return (_line(points) + 0.5) * scale - 0.5 + [x, y]

        ax.imshow(image, cmap="gray", vmin=0, vmax=255,
                  extent=(x - 0.5, x + width * scale - 0.5, y + height * scale - 0.5, y - 0.5))
        for j, polyline in enumerate((contours[i] if contours is not None else {}).values()):
            ax.plot(*place(polyline).T, color=COLOURS[j % len(COLOURS)], linewidth=0.8)
        if landmarks is not None:
            _points(ax, place(landmarks[i]), None, 1.5)
        if titles is not None:
            ax.text(x + 2, y + 2, titles[i], va="top", fontsize=6, color="white",
                    bbox={"facecolor": BLACK, "alpha": 0.6, "pad": 1, "linewidth": 0})
    return _plain(ax, (rows * size, columns * size), None)


def heatmap(image: NDArray, heatmaps: ArrayLike, colours: Sequence[str] | None = None, title: str | None = None,
            ax: Axes | None = None) -> Axes:
    """Heatmaps laid over a grey image, each in its part's colour, each as opaque as its heat.

    Args:
        image: (H, W) or (H, W, 3).
        heatmaps: (K, h, w) of non-negative heat, stretched to the image; each map's maximum is drawn opaque.

    Raises:
        ValueError: if ``heatmaps`` is not (K, h, w).
    """
    maps = finite(heatmaps, "heatmaps")
    if maps.ndim != 3 or not maps.size:
        raise ValueError(f"heatmaps must be (K, h, w), got shape {maps.shape}")
    colours = colours or part_colours(len(maps))
    ax = show(image, ax=ax)
    maps = np.clip(maps, 0, None) / np.maximum(maps.max((1, 2), keepdims=True), 1e-12)
    rgb = np.array([to_rgb(colour) for colour in colours])
    colour = np.einsum("kyx,kc->yxc", maps, rgb) / np.maximum(maps.sum(0), 1e-12)[..., None]
    height, width = _image(image).shape[:2]
    ax.imshow(np.dstack([np.clip(colour, 0, 1), 0.85 * maps.max(0)]), extent=(-0.5, width - 0.5, height - 0.5, -0.5),
              interpolation="bilinear")
    return _plain(ax, (height, width), title)


def ced(errors: Mapping[str, ArrayLike], limit: float = 0.1, ax: Axes | None = None) -> Axes:
    """Cumulative error distributions: the share of images below each error, with the AUC in the legend.

    Args:
        errors: per-image errors as fractions, by the name of the method.
        limit: right end of the axis, and of the area.
    """
    areas = {name: metrics.auc(values, limit) for name, values in by_name(errors, "errors").items()}
    ax = ax or plt.subplots()[1]
    thresholds = np.linspace(0, limit, 201)
    for i, (name, values) in enumerate(errors.items()):
        share = metrics.ced(values, thresholds)
        ax.plot(100 * thresholds, 100 * share, color=COLOURS[i % len(COLOURS)], linestyle=("-", "--", "-.", ":")[i % 4],
                label=f"{name} (AUC {areas[name]:.3f})")
    ax.set(xlabel="NME, %", ylabel="images below, %", xlim=(0, 100 * limit), ylim=(0, 100))
    ax.grid(alpha=0.3)
    ax.legend(loc="lower right", fontsize="small")
    return ax


def part_errors(errors: Mapping[str, ArrayLike], markup: str = "68", ax: Axes | None = None) -> Axes:
    """Mean error of every part of the face, one group of bars a part, one bar a method.

    Args:
        errors: per-landmark errors (N, K) as fractions, by the name of the method.

    Raises:
        ValueError: if they are not of the markup, or not finite.
    """
    groups, count = markups.get(markup).groups, markups.get(markup).count
    errors = {name: finite(values, name) for name, values in by_name(errors, "errors").items()}
    for name, values in errors.items():
        if values.ndim != 2 or values.shape[1] != count or not len(values):
            raise ValueError(f"errors must be (N, {count}) in markup {markup!r}, got shape {values.shape} for {name!r}")
    ax = ax or plt.subplots()[1]
    parts = [part for part in PARTS if part in groups]
    width = 0.8 / max(len(errors), 1)
    for i, (name, values) in enumerate(errors.items()):
        heights = [100 * values[:, list(groups[part])].mean() for part in parts]
        where = np.arange(len(parts)) + (i - (len(errors) - 1) / 2) * width
        bars = ax.bar(where, heights, width, label=name, color=COLOURS[i % len(COLOURS)],
                      hatch=("", "//", "..", "xx")[i % 4], edgecolor="white")
        ax.bar_label(bars, fmt="%.1f", fontsize="x-small")
    ax.set_xticks(range(len(parts)), parts)
    ax.set_ylabel("mean error, %")
    ax.margins(y=0.12)                       # room for the numbers
    ax.legend(fontsize="small")
    return ax


def _points(ax: Axes, landmarks: ArrayLike, visibility: ArrayLike | None, size: float) -> None:
    landmarks = floats(landmarks, "landmarks")
    if landmarks.ndim != 2 or landmarks.shape[1] != 2:
        raise ValueError(f"landmarks must be (K, 2), got shape {landmarks.shape}")
    seen = np.ones(len(landmarks), bool) if visibility is None else plain(visibility, "visibility") != 0
    if seen.shape != (len(landmarks),):
        raise ValueError(f"visibility must be ({len(landmarks)},), got {seen.shape}")
    colours = np.array(part_colours(len(landmarks)))
    ax.scatter(*landmarks[seen].T, s=size, c=colours[seen], edgecolors=BLACK, linewidths=0.03 * size ** 0.5)
    if not seen.all():
        ax.scatter(*landmarks[~seen].T, s=size, facecolors="none", edgecolors=colours[~seen], linewidths=1)


def _image(image: ArrayLike) -> NDArray:
    image = plain(image, "image")
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in (1, 3, 4)) or not image.size:
        raise ValueError(f"image must be (H, W) or (H, W, 3), got shape {image.shape}")
    return image


def _line(points: ArrayLike) -> NDArray[np.float64]:
    points = floats(points, "anchors and contours")
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"anchors and contours must be (M, 2), got shape {points.shape}")
    return points


def _plain(ax: Axes, shape: Sequence[int], title: str | None) -> Axes:
    """Exactly the picture, without ticks."""
    ax.set(xlim=(-0.5, shape[1] - 0.5), ylim=(shape[0] - 0.5, -0.5), xticks=[], yticks=[], aspect="equal")
    if title is not None:
        ax.set_title(title)
    return ax


__all__ = ["COLOURS", "PARTS", "ced", "contour_colours", "contours", "for_the_page", "heatmap", "part_colours",
           "part_errors", "sheet", "show"]
