"""Contours as heatmaps and back: exact distances, the contourness of ACE-Net, and sub-pixel curves.

Shapes: contours (..., M, 2), polylines of M points; heatmaps (..., H, W). Coordinates: 0-based pixel centres, (x, y),
x to the right, y down. Directions are angles in radians from x towards y.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

from facealign_lite.arrays import finite, number, plain

WINDOW = 2    # a template reaches this many widths to each side (ACE-Net Eq. 6)
TILE = 16     # pixels: contourness works on squares of this side, small enough to leave nearly all zeros out
CHUNK = 1 << 18     # pixels of the maps that a processor takes at a time, so that all between them stays in its cache
FARTHEST = 1e9      # pixels from the corner of a map to a point whose square float32 can still tell
HOTTEST = 1e6       # heat that is read out: contourness squares it
WIDEST = 100  # sigma in heatmap pixels: templates are four times as wide
LARGEST = 1 << 30   # values of all maps together: 4 GB
TINY = 1e-12  # moves no score by more than 1e-6


# ---- from curves to maps -------------------------------------------------------------------------------------------

def encode(contours: ArrayLike | Tensor | Sequence, size: int | tuple[int, int], sigma: float,
           check: bool = True) -> Tensor:
    """Heatmaps of contours: max(0, 1 - 2 d^2 / sigma^2) over the exact distance d to the nearest segment.

    Args:
        contours: (..., M, 2) in heatmap pixels, or a sequence of N polylines of different lengths; they may leave the
            map. A repeated point adds nothing.
        size: of the maps, one side or (height, width).
        sigma: > 0 in heatmap pixels; the heat ends sigma / sqrt(2) from the contour.
        check: whether to look for NaN, which makes the processor wait for a GPU; if not, NaN gives NaN.

    Returns:
        (..., H, W).

    Raises:
        ValueError: for polylines of fewer than two points, NaN, an empty size, or a sigma that is not positive.

    Source: ACE-Net Eq. 2.
    """
    sigma = number(sigma, "sigma")
    if not 1e-3 <= sigma <= 1e6:
        raise ValueError(f"sigma must be positive, from 0.001 to a million, got {sigma}")
    end = sigma / math.sqrt(2) * (1 + 1e-6)     # a little too far, so that rounding leaves no trace of heat elsewhere
    return (1 - 2 * distances(contours, size, end, check).square() / sigma**2).clamp(min=0)


@torch.no_grad()
def distances(contours: ArrayLike | Tensor | Sequence, size: int | tuple[int, int], reach: float,
              check: bool = True) -> Tensor:
    """Distance of every pixel from each contour, exact below ``reach`` and cut off there: (..., H, W).

    Takes and raises what ``encode`` does. Costs grow with the number of points and the map, whatever the values. What
    is drawn are targets: no gradient goes back to the contours.
    """
    sides = (size, size) if isinstance(size, int) or np.ndim(size) == 0 else tuple(size)
    height, width = (number(side, "size") for side in (sides if len(sides) == 2 else (0, 0)))
    if not (1 <= height < 1 << 20 and 1 <= width < 1 << 20 and height % 1 == width % 1 == 0):
        raise ValueError(f"size must be at least one pixel, whole, one side or (height, width), got {size!r:.80}")
    height, width, reach = int(height), int(width), number(reach, "reach")
    if not 0 < reach < math.inf:
        raise ValueError(f"reach must be positive and finite, got {reach}")
    points = _polylines(contours, check)
    drawn = 1 if torch.compiler.is_exporting() else max(math.prod(points.shape[:-2]), 1)   # a batch left open has none
    if drawn * height * width > LARGEST:
        raise ValueError(f"size must be of maps of at most {LARGEST} values in all, got {height} x {width} for "
                         f"contours of shape {tuple(points.shape)}")
    shape, points = points.shape[:-2], points.reshape(-1, *points.shape[-2:])          # (N, M, 2)

    # from a segment's middle m, along it and across it: (q - m) . u and (q - m) x u, with u = (b - a) / |b - a|, so
    # d^2 = max(0, |(q - m) . u| - |b - a| / 2)^2 + ((q - m) x u)^2; any u will do where b = a
    step = points.diff(dim=1)                                                          # (N, M - 1, 2)
    length = torch.linalg.vector_norm(step, dim=-1)
    u = step / torch.where(length > 0, length, 1.0)[..., None]
    ux, uy = torch.where(length > 0, u[..., 0], 1.0)[..., None], u[..., 1:]
    middle, half = points[:, :-1] + step / 2, length[..., None, None] / 2
    x = torch.arange(width, dtype=points.dtype, device=points.device) - middle[..., :1]        # (N, M - 1, W)
    y = torch.arange(height, dtype=points.dtype, device=points.device) - middle[..., 1:]       # (N, M - 1, H)
    along_x, along_y, across_x, across_y = x * ux, y * uy, -x * uy, y * ux
    out = points.new_full((points.shape[0], height, width), reach**2)
    for i in range(points.shape[1] - 1):                                               # in place: three times as fast
        beyond = (along_x[:, i, None, :] + along_y[:, i, :, None]).abs_().sub_(half[:, i]).clamp_(min=0)   # (N, H, W)
        across = across_x[:, i, None, :] + across_y[:, i, :, None]
        torch.minimum(out, beyond.square_().addcmul_(across, across), out=out)
    return out.sqrt_().view(*shape, height, width)


def stack(polylines: Sequence[ArrayLike | Tensor]) -> Tensor:
    """N polylines (M_i, 2) as one (N, M, 2) tensor; short ones repeat their last point, which adds nothing."""
    lines = [line if isinstance(line, Tensor) else _tensor(line) for line in polylines]
    if not lines or any(line.ndim != 2 or line.shape[-1] != 2 or len(line) < 2 for line in lines):
        raise ValueError(f"contours must be polylines (M, 2) with M >= 2, got {[tuple(line.shape) for line in lines]}")
    longest = max(map(len, lines))
    return torch.stack([torch.cat([line, line[-1:].expand(longest - len(line), 2)]) for line in lines])


def _polylines(contours: ArrayLike | Tensor | Sequence, check: bool = True) -> Tensor:
    if isinstance(contours, (list, tuple)) and contours and np.ndim(contours[0]) == 2:
        contours = stack(contours)
    points = contours if isinstance(contours, Tensor) else _tensor(contours)
    if points.is_complex() or points.layout != torch.strided:
        raise ValueError(f"contours must be plain numbers, got a tensor of {points.dtype}, {points.layout}")
    if points.dtype not in (torch.float32, torch.float64):
        points = points.float() if points.is_floating_point() else points.double()
    if points.ndim < 2 or points.shape[-1] != 2 or points.shape[-2] < 2:
        raise ValueError(f"contours must be (..., M, 2) with M >= 2, got shape {tuple(points.shape)}")
    if check and not (points.abs() <= FARTHEST).all():
        raise ValueError(f"contours must be finite and nearer than {FARTHEST:g} pixels, got NaN, infinity or farther")
    return points


def _tensor(values: ArrayLike | Tensor, name: str = "contours") -> Tensor:
    """Numbers in whatever form, of whatever strides and order of bytes, as a new tensor of float32 or float64."""
    array = plain(values, name)
    return torch.from_numpy(np.array(array, np.float32 if array.dtype.kind == "f" and array.dtype.itemsize <= 4
                                     else np.float64))


# ---- contourness ---------------------------------------------------------------------------------------------------

def contourness(heatmaps: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Score and orientation of the best straight contour through every pixel, in closed form.

    The template of Eq. 16 is steerable: its match at any angle is a mix of three filter responses,
    so the best angle has a formula and no search over angles is needed.

    Args:
        heatmaps: predicted contour heatmaps, (..., H, W); negative heat counts as none.
        sigma: half width of the contour in heatmap pixels, > 0. Trained at 2, read out at 3.

    Returns:
        score: (..., H, W), high on ridges of that width. An axis-aligned ideal contour scores 4.92 at
            sigma 2; an oblique one up to 1.5 % more, because the window is square.
        orientation: (..., H, W), the contour's direction in radians, modulo pi; its normal is + pi/2.

    Raises:
        ValueError: if ``sigma`` is not positive or above ``WIDEST``, or ``heatmaps`` has no pixels. NaN gives NaN.

    Source: ACE-Net Eq. 24 and 25.
    """
    sigma = number(sigma, "sigma")
    if not 1e-3 <= sigma <= WIDEST:
        raise ValueError(f"sigma must be positive, from 0.001 to {WIDEST}, got {sigma}")
    if not isinstance(heatmaps, Tensor) or heatmaps.is_complex() or heatmaps.layout != torch.strided:
        raise ValueError(f"heatmaps must be a tensor of plain numbers, got {type(heatmaps).__name__}")
    heatmaps = heatmaps if heatmaps.is_floating_point() else heatmaps.float()
    if heatmaps.ndim < 2 or 0 in heatmaps.shape[-2:]:
        raise ValueError(f"heatmaps must be (..., H, W), got shape {tuple(heatmaps.shape)}")

    maps = heatmaps.reshape(-1, *heatmaps.shape[-2:])                              # (N, H, W)
    whole = torch.compiler.is_exporting() or maps.device.type != "cpu" or not len(maps)
    parts = [maps] if whole else maps.split(max(1, CHUNK // maps[0].numel()))
    tile = max(TILE, 2 * int(WINDOW * sigma))      # T: with margins a square is no more than twice as wide
    bands = _bands(tile, sigma, maps)
    return tuple(_join(found, heatmaps.shape) for found in zip(*(_score(part, bands, sigma) for part in parts)))


def _score(maps: Tensor, bands: Sequence[Tensor], sigma: float) -> tuple[Tensor, Tensor]:
    """Score and orientation of (N, H, W) maps as squares, (N, R, T, C, T)."""
    heat, (smooth, slope, bend), tile = maps.clamp(min=0), bands, len(bands[0])    # H+, 1-D filters (T, S), T
    pieces = _cut(heat, tile, int(WINDOW * sigma))             # with a margin            (S, N R C, S)
    grid = (tile, len(maps), *(math.ceil(side / tile) for side in maps.shape[-2:]), tile)

    def response(values: Tensor, along_y: Tensor, along_x: Tensor) -> Tensor:
        """Both products are of whole matrices, not one for each square: a processor then multiplies at full rate."""
        across = values.reshape(-1, values.shape[-1]) @ along_x.mT                  # (S N R C, T)
        return (along_y @ across.view(len(values), -1)).view(grid)                  # (T, N, R, C, T)

    r_a = response(pieces, smooth, bend)                       # H+ * G2a, Eq. 20, 21
    r_c = response(pieces, bend, smooth)
    energy = response(pieces.square(), smooth, smooth)         # H+^2 * G
    # Eq. 22 in 2 theta has the components x = Rc - Ra and y = -2 Rb, its amplitude is sqrt((Ra - Rc)^2 + 4 Rb^2)
    x, y = r_c - r_a, response(pieces, slope * 4 / sigma**2, slope)
    # on flat heat the bare root has gradient 0/0, and one such NaN ends a training run: hence TINY
    swing = torch.addcmul(x.square().add_(TINY), y, y).sqrt_()
    score = (r_a + r_c).add_(swing).sub_(energy)                                   # Eq. 24
    orientation = torch.atan2(y, x).div_(2)                                        # Eq. 25
    return score.permute(1, 2, 0, 3, 4), orientation.permute(1, 2, 0, 3, 4)


def ideal(sigma: float) -> float:
    """What a straight contour of width ``sigma`` along a row of pixels scores on it: 4.92 at 2, as the paper has it.

    Source: ACE-Net Eq. 24 on Eq. 5, where Ra and Rc are sums over products and Rb is 0.
    """
    t = [i / sigma for i in range(-int(WINDOW * sigma), int(WINDOW * sigma) + 1)]
    smooth, heat = [math.exp(-x * x) for x in t], [max(0.0, 1 - 2 * x * x) for x in t]
    match = sum((1 - 2 * x * x) * g * h for x, g, h in zip(t, smooth, heat))
    return sum(smooth) * (2 * match - sum(g * h * h for g, h in zip(smooth, heat)))


def _bands(tile: int, sigma: float, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three 1-D profiles whose products are the filters G, G2a, G2b, G2c (Eq. 15, 20), as (T, S) matrices.

    Each correlates a vector with its profile: on a CPU far faster than ``conv2d``.
    """
    reach = int(WINDOW * sigma)
    row, column = (torch.arange(n, dtype=like.dtype, device=like.device) for n in (tile, tile + 2 * reach))
    t = column - row[:, None] - reach
    smooth = torch.exp(-t.square() / sigma**2) * (t.abs() <= reach)
    return smooth, t * smooth, (1 - 2 * t.square() / sigma**2) * smooth


def _cut(maps: Tensor, tile: int, margin: int) -> Tensor:
    """Squares of T pixels of (N, H, W) maps with a margin all around, zero outside, row after row: (S, N R C, S)."""
    height, width = maps.shape[-2:]
    rows, columns, side = math.ceil(height / tile), math.ceil(width / tile), tile + 2 * margin
    padded = functional.pad(maps, (margin, (columns + 1) * tile - width - margin,
                                   margin, (rows + 1) * tile - height - margin))

    def overlapping(values: Tensor, dim: int, count: int) -> Tensor:
        """A square and its margins: T pixels, and the first of the next T."""
        own, following = (values.narrow(dim, start, count * tile).unflatten(dim, (count, tile)) for start in (0, tile))
        return torch.cat([own, following.narrow(dim + 1, 0, 2 * margin)], dim + 1)
    if maps.requires_grad:                                     # (N, R, S, C, S)
        return overlapping(overlapping(padded, 1, rows), 3, columns).permute(2, 0, 1, 3, 4).reshape(side, -1, side)
    # the same without copies between; but the gradient of ``unfold`` would take several times as long
    squares = padded.unfold(-2, side, tile)[:, :rows].unfold(-2, side, tile)[:, :, :columns]       # (N, R, C, S, S)
    return squares.permute(3, 0, 1, 2, 4).reshape(side, -1, side)


def _join(parts: Sequence[Tensor], shape: torch.Size) -> Tensor:
    """Squares (N, R, T, C, T) of some maps after those of others as whole maps."""
    *lead, height, width = shape
    whole = parts[0] if len(parts) == 1 else torch.cat(parts)
    return whole.flatten(3).flatten(1, 2)[:, :height, :width].reshape(shape)


# ---- from maps to curves -------------------------------------------------------------------------------------------

IDEAL = 1.23   # an ideal contour of width sigma scores IDEAL * sigma^2: 4.92 at sigma 2, 11.1 at sigma 3
FADE = 0.85    # share of its heat that a contour of Eq. 2 still has about its end, under the window of ``_ridges``
NEAR = 3       # pixels to each side in which heat speaks for a contour's place
OUTSIDE = -1.  # stands for heat beyond the border: no heat to contourness, told apart from it by ``_ridges``


def extract(heatmap: ArrayLike | Tensor, sigma: float = 3.0, low: float = 0.2, high: float = 0.4) -> list:
    """Sub-pixel curves along the ridges of one heatmap, or of each of C maps.

    Contourness and its normal, non-maximum suppression along the normal, hysteresis, then a walk from pixel to pixel.
    A contour reaches on for as long as it scores ``low``, and counts if it scores ``high`` anywhere.

    Args:
        heatmap: (H, W) or (C, H, W), sides of at least 4; negative heat counts as none.
        sigma: width of the contourness templates in heatmap pixels. At 3, contours drawn at 2 score 9.2 to 10.3.
        low, high: 0 < low <= high, shares of the score of an ideal contour, 1.23 sigma^2. Heat h times the ideal
            scores about 2h - h^2 of it, read at the width it was drawn with: 0.2 is a tenth of full heat, 0.4 less than
            a quarter; drawn at 2 and read at 3 they are 0.13 and 0.28. The best of a map of
            noise 0.05 scores 0.1, of noise 0.15 not 0.4; a step from 0 to 1, which is no contour, 0.19.

    Returns:
        Polylines (M, 2) of (x, y) in heatmap pixels, float64, the most score along it first; a closed one ends where
        it starts. Pieces shorter than ``sigma`` are dropped. For (C, H, W), a list of such lists.

    Raises:
        ValueError: if the maps have another shape or hold NaN or infinity, or for other thresholds.

    Source: ACE-Net section 3.4, Eq. 24 to 26; it gives no thresholds. Where it takes the place from a parabola through
        three scores, we take the centre of the heat along the normal: several times nearer (see ``_ridges``).
    """
    heat = _tensor(heatmap, "heatmap")
    if heat.ndim not in (2, 3) or min(heat.shape[-2:]) < 4:
        raise ValueError(f"heatmap must be (H, W) or (C, H, W) with sides of at least 4, got {tuple(heat.shape)}")
    if not (heat.abs() <= HOTTEST).all():
        raise ValueError(f"heatmap must be finite and at most {HOTTEST:g}, got NaN, infinity or more")
    low, high = number(low, "low"), number(high, "high")
    if not 0 < low <= high:
        raise ValueError(f"thresholds must be 0 < low <= high, got {low} and {high}")
    maps = functional.pad(heat.reshape(-1, *heat.shape[-2:]).clamp(min=0), [NEAR] * 4, value=OUTSIDE)
    score, orientation = (value.numpy() for value in contourness(maps, sigma))
    unit = IDEAL * sigma**2
    which, *ridges = _ridges(maps.numpy(), score, orientation, low * unit)
    found = [_trace(*(values[which == i] for values in ridges), high * unit, sigma) for i in range(len(maps))]
    return found if heat.ndim == 3 else found[0]


def join(polylines: Sequence[ArrayLike], gap: float) -> NDArray:
    """One curve from pieces that lie end to end, starting from the first.

    Again and again the nearest piece whose end is at most ``gap`` pixels away, and which does not turn back, is put
    on; nor may the bridge to it turn back, but for a few pixels by which two pieces overlap. Closed pieces are never
    joined; the rest is left out.

    Args:
        polylines: (M, 2) each, as from ``extract``: the first is kept whatever happens.
        gap: >= 0, pixels that may be bridged by a straight line.

    Returns:
        (M, 2).

    Raises:
        ValueError: if there are no polylines, or for a negative gap.
    """
    gap = number(gap, "gap")
    if len(polylines) == 0 or not gap >= 0:
        raise ValueError(f"join wants polylines and a gap >= 0, got {len(polylines)} and {gap}")
    curve, *pieces = (finite(line, "polylines") for line in polylines)
    if bad := [line.shape for line in (curve, *pieces) if line.ndim != 2 or line.shape[1] != 2 or not len(line)]:
        raise ValueError(f"polylines must be (M, 2) each, got shape {bad[0]}")
    if _is_closed(curve):
        return curve
    pieces = [piece for piece in pieces if not _is_closed(piece)]
    while True:
        best, least = None, gap
        for at_start in (True, False):
            own = curve[::-1] if at_start else curve
            for i, piece in enumerate(pieces):
                for other in (piece, piece[::-1]):
                    bridge, way, on = other[0] - own[-1], _heading(own), -_heading(other[::-1])
                    long = np.linalg.norm(bridge)
                    if long <= least and way @ on > 0 and (long <= NEAR or min(way @ bridge, bridge @ on) > 0):
                        best, least = (i, np.concatenate([own, other])), long
        if best is None:
            return curve
        del pieces[best[0]]
        curve = best[1]


def _is_closed(line: NDArray) -> bool:
    return len(line) > 2 and np.array_equal(line[0], line[-1])


def _heading(line: NDArray) -> NDArray:
    """Where a polyline is going at its last point, as seen from a few points before."""
    return line[-1] - line[-min(len(line), 4)]


def _ridges(heat: NDArray, score: NDArray, orientation: NDArray, low: float) -> tuple:
    """Pixels that score ``low`` and at least as much as one pixel to both sides along the normal, Eq. 26.

    Returns:
        map index (P,), pixel (P, 2), place (P, 2), direction (P, 2), score (P,) and heat (P,), the last two at the
        place. The place is the centre of the heat along the normal, under a window exp(-u^2 - 1.5 v^2) that follows
        it, as ``heatmaps.decode`` finds a peak: u across the contour and v along it, where less of a bend shall count.
        Contourness falls by half within a pixel, which is no parabola, and its ridge leaves the contour in a bend: by
        0.2 pixel on circles of radius 8 to 14 at sigma 3, where the heat is off by 0.03.
    """
    which, y, x = np.nonzero((score >= low) & (heat > OUTSIDE))
    pixel, angle = np.stack([x, y], 1), orientation[which, y, x].astype(np.float64)
    along = np.stack([np.cos(angle), np.sin(angle)], 1)
    normal = np.stack([-along[:, 1], along[:, 0]], 1)
    here, before, after = (_bilinear(score, which, pixel + step * normal) for step in (0, -1, 1))
    top = (here >= before) & (here >= after)
    which, pixel, along, normal, here, before, after = (
        values[top] for values in (which, pixel, along, normal, here, before, after))
    # the top of the parabola through (-1, before), (0, here), (1, after)
    height = here + (before - after) ** 2 / (8 * np.maximum(2 * here - before - after, TINY))

    offset = np.mgrid[-NEAR:NEAR + 1, -NEAR:NEAR + 1].reshape(2, -1)[::-1]             # (2, Q): x, y
    near = heat[which[:, None], pixel[:, 1:] + offset[1], pixel[:, :1] + offset[0]]    # (P, Q)
    window, across = (near > OUTSIDE) * np.exp(-1.5 * (along @ offset) ** 2), normal @ offset
    t = np.zeros(len(which))
    for _ in range(3):
        now = window * np.exp(-(across - t[:, None]) ** 2)
        mass = (now * near).sum(1)
        mean, square = ((now * near * power).sum(1) / np.maximum(mass, TINY) for power in (across, across**2))
        # the window, of variance 1/2, pulls the mean back: a Gaussian ridge is at t + (mean - t) / (1 - 2 variance)
        t = (t + (mean - t) / np.maximum(1 - 2 * (square - mean**2), 0.1)).clip(-0.75, 0.75)
    return which, pixel - NEAR, pixel + t[:, None] * normal - NEAR, along, height, mass / now.sum(1)


def _bilinear(maps: NDArray, which: NDArray, points: NDArray) -> NDArray:
    """Values of maps (C, H, W) at points (P, 2) inside them."""
    x, y = np.minimum(points.astype(int), [maps.shape[2] - 2, maps.shape[1] - 2]).T
    u, v = points[:, 0] - x, points[:, 1] - y
    return ((1 - v) * ((1 - u) * maps[which, y, x] + u * maps[which, y, x + 1])
            + v * ((1 - u) * maps[which, y + 1, x] + u * maps[which, y + 1, x + 1]))


def _trace(pixel: NDArray, place: NDArray, along: NDArray, score: NDArray, heat: NDArray, high: float,
           sigma: float) -> list[NDArray]:
    """The ridge pixels of one map as curves, each from its best pixel on, until none is left that scores ``high``."""
    stride = int(pixel[:, 0].max(initial=0)) + 3                                       # rows do not touch
    keys, places, directions = (pixel @ [1, stride]).tolist(), place.tolist(), along.tolist()
    free = dict(zip(keys, range(len(keys))))
    around = [-stride - 1, -stride, -stride + 1, -1, 1, stride - 1, stride, stride + 1]

    def walk(k: int, ax: float, ay: float) -> list[int]:
        """On from pixel k in direction (ax, ay), each time to the neighbour that is near and turns little."""
        path = []
        while True:
            (px, py), key, k, least = places[k], keys[k], -1, math.inf
            for step in around:
                q = free.get(key + step, -1)
                if q >= 0:
                    sx, sy = places[q][0] - px, places[q][1] - py
                    cosine = abs(ax * directions[q][0] + ay * directions[q][1])
                    cost = math.hypot(sx, sy) + math.acos(min(cosine, 1.0))
                    if sx * ax + sy * ay > 0 and cost < least:
                        k, least = q, cost
            if k < 0:
                return path
            del free[keys[k]]
            path.append(k)
            sign = math.copysign(1, ax * directions[k][0] + ay * directions[k][1])
            ax, ay = sign * directions[k][0], sign * directions[k][1]

    found = []
    for seed in np.argsort(-score).tolist():
        if score[seed] < high:
            break
        if free.pop(keys[seed], -1) < 0:
            continue
        ax, ay = directions[seed]
        chain = [seed, *walk(seed, ax, ay)]
        closed = len(chain) > 8 and np.abs(pixel[chain[-1]] - pixel[seed]).max() <= 2
        if not closed:
            chain = walk(seed, -ax, -ay)[::-1] + chain
        for k in chain:                                                                # what lies beside it is used up
            for step in around:
                free.pop(keys[k] + step, None)
        curve = np.concatenate([place[chain], place[chain[:1]]]) if closed else _trim(place[chain], heat[chain], sigma)
        if np.linalg.norm(np.diff(curve, axis=0), axis=1).sum() >= sigma:
            found.append((score[chain].sum(), curve))
    return [curve for _, curve in sorted(found, key=lambda item: -item[0])]


def _trim(curve: NDArray, heat: NDArray, sigma: float) -> NDArray:
    """Both ends shortened to where the heat is a share FADE of the highest within a template's reach of the end.

    The score fades out over several pixels, heat over two; and as the heat of Eq. 2 has round ends, it does so about
    one pixel late: hence FADE and no half.
    """
    for _ in range(2):
        curve, heat = curve[::-1], heat[::-1]
        length = np.linalg.norm(np.diff(curve, axis=0), axis=1).cumsum()
        enough = FADE * heat[:np.searchsorted(length, WINDOW * sigma) + 1].max()
        i = int((heat >= enough).argmax())
        if i:
            share = (heat[i] - enough) / (heat[i] - heat[i - 1])
            end = curve[i] + share * (curve[i - 1] - curve[i])
            curve, heat = np.concatenate([[end], curve[i:]]), np.concatenate([[enough], heat[i:]])
    return curve
