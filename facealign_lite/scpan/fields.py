"""BALI fields: for every boundary of the face a confidence and, around its landmarks, the way to the nearest of them.

Shapes: K landmarks, C boundaries, H W; points (..., K, 2). Points and offsets are (x, y), 0-based pixel centres of the
map. A boundary is a tuple of landmark indices, in the order in which its curve passes them.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from facealign_lite import contours, markups
from facealign_lite.data.tensors import exact
from facealign_lite.heatmaps import GED, SHAPES, STUDENT, Size
from facealign_lite.nets import constant

Indices = tuple[int, ...]

RADIUS = 5         # R: squares of 11 x 11 carry vectors in training
DECODE_RADIUS = 3  # r: the window of 7 x 7 that is read at test time
SIGMA = 1.5        # the paper gives none

# confidence at distance d from the boundary: of Eq. 3, and of Table VII
READINGS = {
    "gaussian": lambda d, sigma: torch.exp(-d.square() / (2 * sigma**2)),
    "printed": lambda d, sigma: torch.exp(-d / (2 * sigma**2)),
    **{name: lambda d, sigma, heat=SHAPES[name]: heat(d.square() / sigma**2) for name in (*GED, *STUDENT)},
}


class Field(NamedTuple):
    """A BALI field: confidence (..., C, H, W), offsets (..., C, 2, H, W) in map pixels, 0 off the mask (..., C, H, W).

    Source: SCPAN Eq. 1.
    """

    confidence: Tensor
    offsets: Tensor
    mask: Tensor


def boundaries_of(markup: str) -> tuple[tuple[Indices, ...], Indices]:
    """The boundaries that a markup has, and where each one's mirror image stands among them.

    "68" has 13 (its brows are single lines) and they pass all landmarks; "98" has 15 and its pupils lie on none.

    Raises:
        ValueError: if the markup has no boundaries.
    """
    table = markups.get(markup)
    names = [name for name in markups.BOUNDARIES if name in table.curves]
    if not names:
        raise ValueError(f"markup must have boundaries, got {markup!r}")
    mirror = dict(zip(markups.BOUNDARIES, (markups.BOUNDARIES[i] for i in markups.BOUNDARY_FLIP)))
    return tuple(table.curves[name] for name in names), tuple(names.index(mirror[name]) for name in names)


def curves(points: ArrayLike | Tensor, boundaries: Sequence[Indices], n: int = 64, check: bool = True) -> Tensor:
    """The boundaries as dense lines (..., C, n, 2): splines through their landmarks, points that coincide counted once.

    Degree 2, as far as there are points for it; one lone landmark is a line of no length. The same as
    ``geometry.spline`` for each boundary of each face, for all of them at once: chords are the knots' measure, knots
    lie half way between landmarks but for the outermost two.

    Args:
        check: whether to look for NaN, which makes the processor wait for a GPU; if not, NaN gives NaN.
    """
    points = _points(points, check)
    _check(boundaries, points)
    longest = max(map(len, boundaries))
    rows = tuple(line[min(m, len(line) - 1)] for line in boundaries for m in range(longest))
    at = points.to(exact(points.device)).index_select(-2, constant(rows, points.device))
    at = at.unflatten(-2, (len(boundaries), longest))
    first, step = at[..., :1, :], torch.linalg.vector_norm(at.diff(dim=-2), dim=-1)     # (..., C, M - 1)
    if longest == 1:
        return first.expand(*first.shape[:-2], n, 2).to(points.dtype)
    # those apart from the one before come first, in their order, and the last of them fills the rest
    apart = torch.cat([torch.ones_like(step[..., :1], dtype=torch.bool), step > 1e-3], -1)
    count = apart.sum(-1, keepdim=True)                                                 # (..., C, 1)
    order = torch.sort((~apart).long(), dim=-1, stable=True).indices
    order = order.gather(-1, torch.arange(longest, device=at.device).expand_as(order).minimum(count - 1))
    at = at.gather(-2, order[..., None].expand_as(at))
    x = torch.cat([torch.zeros_like(step[..., :1]),
                   torch.linalg.vector_norm(at.diff(dim=-2), dim=-1).cumsum(-1)], -1)   # chord lengths (..., C, M)
    end, last = x[..., -1:], at[..., -1:, :]
    u = end * torch.linspace(0, 1, n, dtype=x.dtype, device=x.device)                   # (..., C, n)
    straight = first + (u / torch.where(end > 0, end, 1.0))[..., None] * (last - first)
    if longest == 2:
        return straight.to(points.dtype)
    return torch.where(count[..., None] < 3, straight, _spline(at, x, count, u)).to(points.dtype)


def bali_field(points: ArrayLike | Tensor, boundaries: Sequence[Indices], size: Size, radius: int = RADIUS,
               sigma: float = SIGMA, reading: str = "gaussian", background: float = 0.0) -> Field:
    """The field that a network should answer with.

    Args:
        points: landmarks (..., K, 2) in map pixels; they may lie outside the map.
        boundaries: C tuples of landmark indices.
        size: of the map, one side or (height, width).
        radius: R; vectors are defined on the squares of 2R + 1 pixels around the landmarks of the boundary. Where
            squares overlap the nearest landmark is meant, of two equally near ones the first.
        sigma: width of the boundary in map pixels, > 0.
        reading: of Eq. 3. "gaussian", exp(-d^2 / 2 sigma^2), the default, is what the sentence around the equation
            says; "printed", exp(-d / 2 sigma^2), has a cusp on the boundary and, for sigma above 1 / 2, a higher step
            where it is cut off, at d = 2 sigma: exp(-1 / sigma) against exp(-2). The other shapes are those of
            ``heatmaps.encode``, cut off there too.
        background: the small constant beyond 2 sigma; the paper gives no value.

    Raises:
        ValueError: for NaN points, indices out of range, an empty size, a negative radius or background, a sigma that
            is not positive, or an unknown reading.

    Source: SCPAN Eq. 1 to 3.
    """
    points = _points(points)
    confidence = line_confidence(curves(points, boundaries), size, sigma, reading, background)
    return Field(confidence, *vectors(points, boundaries, size, radius))


def line_confidence(lines: Tensor, size: Size, sigma: float = SIGMA, reading: str = "gaussian",
                    background: float = 0.0, check: bool = True) -> Tensor:
    """Confidence of lines (..., C, n, 2) in map pixels, (..., C, H, W). Arguments and errors as in ``bali_field``.

    ``check`` as in ``curves``.

    Source: SCPAN Eq. 3.
    """
    if reading not in READINGS:
        raise ValueError(f"reading must be one of {', '.join(READINGS)}, got {reading!r}")
    if background < 0:
        raise ValueError(f"background must not be negative, got {background}")
    if not sigma > 0:
        raise ValueError(f"sigma must be positive, got {sigma}")
    distance = contours.distances(lines, size, 2 * sigma, check)                             # 2 sigma: far
    heat = READINGS[reading](distance, sigma)
    return torch.where(distance < 2 * sigma, heat, torch.full_like(heat, background))


def vectors(points: Tensor, boundaries: Sequence[Indices], size: Size, radius: int = RADIUS) -> tuple[Tensor, Tensor]:
    """Offsets (..., C, 2, H, W) and mask (..., C, H, W) of a field. Arguments and errors as in ``bali_field``.

    Source: SCPAN Eq. 2.
    """
    if radius < 0:
        raise ValueError(f"radius must not be negative, got {radius}")
    height, width = (size, size) if isinstance(size, int) else size
    if not boundaries:
        nowhere = points.new_zeros(*points.shape[:-2], 0, 2, height, width)
        return nowhere, nowhere[..., 0, :, :].bool()
    towards = [_towards(reorder(points, line, -2), height, width, radius) for line in boundaries]
    mask = torch.stack([near for _, near in towards], -3)
    offsets = torch.stack([to_nearest for to_nearest, _ in towards], -4)
    return torch.where(mask[..., None, :, :], offsets, torch.zeros_like(offsets)), mask


def decode_bali(heatmaps: Tensor, offsets: Tensor, radius: int = DECODE_RADIUS, reach: float | None = None) -> Tensor:
    """Landmarks from their heatmaps and vectors: around the hottest pixel every pixel votes for where it points.

    Exact for any heat if the vectors are. Those of a boundary are not where it has another landmark within about twice
    the radius: some pixels of the window then vote for that one, and the mean lies between.

    Args:
        heatmaps: (..., K, H, W); negative heat counts as none.
        offsets: (..., K, 2, H, W) in map pixels, see ``landmark_offsets``. Zeros leave the centre of mass.
        radius: r; the window is 2r + 1 pixels wide and ends at the border of the map.
        reach: votes that land farther than this from the hottest pixel do not count; about 1.5 leaves out those for
            neighbours. Where none lands within, none is heard: the answer is the centre of mass of the window. None,
            as in the paper: all count.

    Returns:
        (..., K, 2). Where no vote that counts has heat they count alike. Gradients reach heat and offsets inside the
        window, not the choice of the window.

    Raises:
        ValueError: if the shapes do not fit, a heatmap is not finite, or radius is negative.

    Source: SCPAN Eq. 4 and 5.
    """
    if offsets.shape != (*heatmaps.shape[:-2], 2, *heatmaps.shape[-2:]):
        raise ValueError(f"offsets must be (..., K, 2, H, W) for heatmaps {tuple(heatmaps.shape)}, "
                         f"got {tuple(offsets.shape)}")
    if radius < 0:
        raise ValueError(f"radius must not be negative, got {radius}")
    if not torch.compiler.is_exporting() and not heatmaps.isfinite().all():     # a graph cannot raise: NaN gives NaN
        raise ValueError("heatmaps must be finite, got NaN or infinity")
    window = Window.around(heatmaps, radius)
    return window.vote(offsets.flatten(-2).gather(-1, window.index[..., None, :].expand(
        *window.index.shape[:-1], 2, -1)), reach)


def decode_field(heatmaps: Tensor, offsets: Tensor, boundaries: Sequence[Indices], radius: int = DECODE_RADIUS,
                 reach: float | None = None) -> Tensor:
    """``decode_bali`` of ``landmark_offsets``, which are looked up inside the windows only; for training.

    Args:
        heatmaps: (B, K, H, W), not looked at for NaN: nothing waits for a GPU.
        offsets: (B, C, 2, H, W).
        boundaries, radius, reach: as in those two.

    Returns:
        (B, K, 2).
    """
    window = Window.around(heatmaps, radius)
    if not boundaries:
        return window.vote(torch.zeros_like(window.places, dtype=heatmaps.dtype), reach)
    which, share = (constant(rows, heatmaps.device) for rows in _through(tuple(boundaries), heatmaps.shape[1]))
    flat, pixels = offsets.flatten(1), heatmaps.shape[-2] * heatmaps.shape[-1]
    vectors = 0
    for n in range(which.shape[1]):                    # of the boundaries through a landmark, most have one
        first = (2 * pixels * which[:, n, None] + window.index)[:, :, None]             # (B, K, 1, P)
        both = torch.cat([first, first + pixels], 2)
        vectors = vectors + share[:, n, None, None] * flat.gather(1, both.flatten(1)).view(both.shape)
    return window.vote(vectors, reach)


def square_offsets(offsets: Tensor, points: Tensor, boundaries: Sequence[Indices], radius: int = RADIUS,
                   once: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """What a field says, and should say, in the squares around the landmarks: ``vectors`` without the rest of the map.

    Args:
        offsets: (B, C, 2, H, W).
        points: landmarks (B, K, 2) in map pixels; not looked at for NaN.
        boundaries, radius: as in ``bali_field``.
        once: whether a pixel of several squares counts in the first only, or in each of them.

    Returns:
        said and true (B, C, 2, N), N = M (2R + 1)^2 pixels for boundaries of up to M landmarks, square after square,
        and which of them count (B, C, N): those on the map.

    Source: SCPAN Eq. 2.
    """
    (height, width), longest = offsets.shape[-2:], max(map(len, boundaries))
    # the last landmark fills a short boundary: as near as itself, and its squares are covered by its own
    rows = tuple(line[min(m, len(line) - 1)] for line in boundaries for m in range(longest))
    own = reorder(points, rows).unflatten(1, (len(boundaries), longest))                # (B, C, M, 2)
    middle, step = (own + 0.5).floor(), torch.arange(-radius, radius + 1, dtype=points.dtype, device=points.device)
    grid = middle[..., None] + step                                                     # (B, C, M, 2, 2R + 1)
    # of each pixel's row and column from all M landmarks of its boundary: (B, C, M, M, 2, 2R + 1)
    apart = (own[:, :, None, ..., None] - grid[:, :, :, None]).square()
    nearest = (apart[..., 0, None, :] + apart[..., 1, :, None]).flatten(-2).min(3).indices.flatten(2)   # (B, C, N)
    first = torch.arange(longest, device=points.device)
    x = grid[..., 0, None, :].expand(*grid.shape[:3], len(step), -1).flatten(2)
    y = grid[..., 1, :, None].expand(*grid.shape[:3], -1, len(step)).flatten(2)
    true = torch.stack([own[..., 0].gather(2, nearest) - x, own[..., 1].gather(2, nearest) - y], 2)
    counts = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    if once:
        covers = (middle[:, :, None, ..., None] - grid[:, :, :, None]).abs() <= radius
        covers = covers & (first < first[:, None])[..., None, None]                     # by a landmark before
        counts = counts & ~(covers[..., 0, None, :] & covers[..., 1, :, None]).any(3).flatten(2)
    index = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1)).nan_to_num().long()
    said = offsets.flatten(-2).gather(-1, index[:, :, None].expand(-1, -1, 2, -1))
    return said, true, counts


class Window(NamedTuple):
    """The pixels around the hottest one of each map; P = (2r + 1)^2 of them."""

    at: Tensor          # (..., K, 2), the hottest
    places: Tensor      # (..., K, 2, P)
    inside: Tensor      # (..., K, P), which of them lie on the map
    index: Tensor       # (..., K, P), their places in a flat map
    heat: Tensor        # (..., K, P), none below 0

    @classmethod
    def around(cls, heatmaps: Tensor, radius: int) -> "Window":
        """Of heatmaps (..., K, H, W); it ends at the border of the map. Source: SCPAN Eq. 4."""
        height, width = heatmaps.shape[-2:]
        at = _hottest(heatmaps.detach())
        step = torch.arange(-radius, radius + 1, device=at.device)
        x, y = torch.broadcast_tensors((at[..., 0, None] + step)[..., None, :], (at[..., 1, None] + step)[..., :, None])
        x, y = x.flatten(-2), y.flatten(-2)
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        index = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
        return cls(at, torch.stack([x, y], -2), inside, index, heatmaps.flatten(-2).gather(-1, index).clamp(min=0))

    def vote(self, vectors: Tensor, reach: float | None) -> Tensor:
        """Where the pixels point, weighed by their heat: vectors (..., K, 2, P) -> (..., K, 2)."""
        votes, counted = vectors + self.places, self.inside
        if reach is not None:
            near = counted & ((votes.detach() - self.at[..., None]).square().sum(-2) <= reach**2)
            heard = near.any(-1, keepdim=True)
            counted = near | counted & ~heard
            votes = torch.where(heard[..., None, :], votes, self.places.to(votes))
        heat = self.heat * counted
        heat = torch.where((heat > 0).any(-1, keepdim=True), heat, counted.to(heat))
        heat = heat / heat.detach().amax(-1, keepdim=True)                              # faint heat must not underflow
        return (heat[..., None, :] * votes).sum(-1) / heat.sum(-1, keepdim=True)        # Eq. 5


def _hottest(maps: Tensor) -> Tensor:
    """(..., K, 2) whole (x, y) of the first maximum; the middle of a map without heat. As ``heatmaps.decode`` has it,
    row by row: a CPU looks for the place of a maximum ten times longer than for the maximum."""
    height, width = maps.shape[-2:]
    value, y = maps.amax(-1).max(-1)                                                    # (..., K)
    row = maps.gather(-2, y[..., None, None].expand(*y.shape, 1, width)).squeeze(-2)
    some = value > maps.amin((-2, -1))
    return torch.stack([torch.where(some, row.max(-1).indices, width // 2), torch.where(some, y, height // 2)], -1)


def landmark_offsets(offsets: Tensor, boundaries: Sequence[Indices], count: int) -> Tensor:
    """Each landmark's vectors (..., K, 2, H, W): the mean of the fields (..., C, 2, H, W) of the boundaries through it.

    The paper does not say what an eye's corner, which ends two boundaries, should read. A landmark on none gets zeros.
    """
    if offsets.ndim < 4 or offsets.shape[-4:-2] != (len(boundaries), 2):
        raise ValueError(f"offsets must be (..., {len(boundaries)}, 2, H, W), got {tuple(offsets.shape)}")
    share = torch.tensor([[k in line for line in boundaries] for k in range(count)]).to(offsets)     # (K, C)
    share = share / share.sum(1, keepdim=True).clamp(min=1)
    return torch.einsum("kc,...cdhw->...kdhw", share, offsets)


@lru_cache(maxsize=16)
def _through(boundaries: tuple[Indices, ...], count: int) -> tuple[tuple[Indices, ...], tuple[tuple[float, ...], ...]]:
    """Which boundaries pass each landmark and what each says in the mean, (K, n) both; 0 fills up."""
    rows = [[c for c, line in enumerate(boundaries) if k in line] for k in range(count)]
    most = max(map(len, rows))
    return (tuple((*row, *[0] * (most - len(row))) for row in rows),
            tuple((*[1 / len(row)] * len(row), *[0.0] * (most - len(row))) if row else (0.0,) * most for row in rows))


def _spline(points: Tensor, x: Tensor, count: Tensor, u: Tensor) -> Tensor:
    """Quadratic splines through the first ``count`` >= 3 of points (..., M, 2) at x (..., M), at u: (..., n, 2).

    Sum of B-splines c_i B_i: row i of the collocation matrix has B_i-1, B_i and B_i+1 at x_i, so that it is solved by
    elimination from top to bottom (Thomas). de Boor, A Practical Guide to Splines, chapter IX.
    """
    size, count = points.shape[-2], count.clamp(min=3)
    last = count - 1
    # knots t: three at either end, and from the second to the last but one the middles between landmarks
    place, end = torch.arange(size + 3, device=x.device), x[..., -1:]
    middles = torch.nn.functional.pad((x[..., 1:] + x[..., :-1]) / 2, (2, 2))             # t_k = (x_k-2 + x_k-1) / 2
    t = torch.where(place < 3, torch.zeros_like(middles), torch.where(place < count, middles, end.expand_as(middles)))

    def basis(m: Tensor, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """B_m-2, B_m-1 and B_m between the knots t_m and t_m+1."""
        a, b, c, d = (t.gather(-1, m + k) for k in (-1, 0, 1, 2))
        before = (c - at).square() / ((c - b) * (c - a))
        after = (at - b).square() / ((c - b) * (d - b))
        return before, 1 - before - after, after

    inner = place[:size].expand_as(x).clamp(min=1).minimum(last - 1)                    # x_i lies in t_i+1 ... t_i+2
    low, mid, high = (b.unbind(-1) for b in basis(inner + 1, x.gather(-1, inner)))
    inside = ((place[:size] > 0) & (place[:size] < last)).unbind(-1)
    zero, one = torch.zeros_like(low[0]), torch.ones_like(low[0])
    given, above, right = points.unbind(-2), zero, []
    solved: list[Tensor] = []
    for i in range(size):                                                               # the ends are their landmarks
        a, b, c = (torch.where(inside[i], v, w) for v, w in ((low[i], zero), (mid[i], one), (high[i], zero)))
        pivot = b - a * above
        above = c / pivot
        value = given[i] if i == 0 else given[i] - a[..., None] * solved[-1]
        solved.append(value / pivot[..., None])
        right.append(above)
    for i in range(size - 2, -1, -1):
        solved[i] = solved[i] - right[i][..., None] * solved[i + 1]
    c = torch.stack(solved, -2)                                                         # (..., M, 2)
    # between which knots: how many of t_3, t_4 ... lie at or before u
    span = 2 + (t[..., None, 3:] <= u[..., None]).sum(-1).minimum(last - 2)             # (..., n)
    return sum(b[..., None] * c.gather(-2, (span + k)[..., None].expand(*span.shape, 2))
               for b, k in zip(basis(span, u), (-2, -1, 0)))


def reorder(maps: Tensor, order: Sequence[int], axis: int = 1) -> Tensor:
    """``maps`` with the entries of ``axis`` in another order."""
    return maps.index_select(axis, constant(tuple(order), maps.device, torch.long))


def _towards(points: Tensor, height: int, width: int, radius: int) -> tuple[Tensor, Tensor]:
    """Vectors (..., 2, H, W) from every pixel to the nearest of points (..., M, 2), and the union of their squares."""
    x = torch.arange(width, dtype=points.dtype, device=points.device)
    y = torch.arange(height, dtype=points.dtype, device=points.device)
    px, py = points[..., 0], points[..., 1]
    squared = (px[..., None] - x).square()[..., None, :] + (py[..., None] - y).square()[..., :, None]
    nearest = squared.min(-3).indices.flatten(-2)               # (..., H W); argmin does the same five times slower
    u = px.gather(-1, nearest).unflatten(-1, (height, width)) - x                       # Eq. 2
    v = py.gather(-1, nearest).unflatten(-1, (height, width)) - y[:, None]
    in_x = ((px + 0.5).floor()[..., None] - x).abs() <= radius
    in_y = ((py + 0.5).floor()[..., None] - y).abs() <= radius
    return torch.stack([u, v], -3), (in_x[..., None, :] & in_y[..., :, None]).any(-3)


def _points(points: ArrayLike | Tensor, check: bool = True) -> Tensor:
    points = points if isinstance(points, Tensor) else torch.as_tensor(np.asarray(points))
    if points.ndim < 2 or points.shape[-1] != 2:
        raise ValueError(f"points must be (..., K, 2), got shape {tuple(points.shape)}")
    if check and not points.isfinite().all():
        raise ValueError("points must be finite, got NaN or infinity")
    return points if points.is_floating_point() else points.double()


def _check(boundaries: Sequence[Indices], points: Tensor) -> None:
    count = points.shape[-2]
    if not boundaries or any(not line or not all(0 <= k < count for k in line) for line in boundaries):
        raise ValueError(f"boundaries must be tuples of indices from 0 to {count - 1}, none empty, got {boundaries}")
