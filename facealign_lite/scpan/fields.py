"""BALI fields: for every boundary of the face a confidence and, around its landmarks, the way to the nearest of them.

Shapes: K landmarks, C boundaries, H W; points (..., K, 2). Points and offsets are (x, y), 0-based pixel centres of the
map. A boundary is a tuple of landmark indices, in the order in which its curve passes them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from facealign_lite import contours, geometry, markups
from facealign_lite.heatmaps import Size, decode

Indices = tuple[int, ...]

RADIUS = 5         # R: squares of 11 x 11 carry vectors in training
DECODE_RADIUS = 3  # r: the window of 7 x 7 that is read at test time
SIGMA = 1.5        # the paper gives none

# confidence at distance d from the boundary
READINGS = {
    "gaussian": lambda d, sigma: torch.exp(-d.square() / (2 * sigma**2)),
    "printed": lambda d, sigma: torch.exp(-d / (2 * sigma**2)),
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


def curves(points: ArrayLike | Tensor, boundaries: Sequence[Indices], n: int = 64) -> Tensor:
    """The boundaries as dense lines (..., C, n, 2): splines through their landmarks, points that coincide counted once.

    Degree 2, as far as there are points for it; one lone landmark is a line of no length.
    """
    points = _points(points)
    _check(boundaries, points)
    faces = points.detach().cpu().double().reshape(-1, *points.shape[-2:]).numpy()
    lines = np.array([[_curve(face[list(line)], n) for line in boundaries] for face in faces])
    return torch.from_numpy(lines).to(points).reshape(*points.shape[:-2], len(boundaries), n, 2)


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
            where it is cut off, at d = 2 sigma: exp(-1 / sigma) against exp(-2).
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
                    background: float = 0.0) -> Tensor:
    """Confidence of lines (..., C, n, 2) in map pixels, (..., C, H, W). Arguments and errors as in ``bali_field``.

    Source: SCPAN Eq. 3.
    """
    if reading not in READINGS:
        raise ValueError(f"reading must be one of {', '.join(READINGS)}, got {reading!r}")
    if background < 0:
        raise ValueError(f"background must not be negative, got {background}")
    if not sigma > 0:
        raise ValueError(f"sigma must be positive, got {sigma}")
    distance = contours.distances(lines, size, 2 * sigma)                               # 2 sigma: far
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
    towards = [_towards(points[..., list(line), :], height, width, radius) for line in boundaries]
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
    height, width = heatmaps.shape[-2:]
    at = decode(heatmaps.detach(), "argmax").long()                           # (..., K, 2)
    step = torch.arange(-radius, radius + 1, device=at.device)
    x, y = torch.broadcast_tensors((at[..., 0, None] + step)[..., None, :], (at[..., 1, None] + step)[..., :, None])
    x, y = x.flatten(-2), y.flatten(-2)                                                 # (..., K, (2r + 1)^2)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    index = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    vectors = offsets.flatten(-2).gather(-1, index[..., None, :].expand(*index.shape[:-1], 2, -1))
    places = torch.stack([x, y], -2)
    votes, counted = vectors + places, inside                                           # (..., K, 2, (2r + 1)^2)
    if reach is not None:
        near = inside & ((votes.detach() - at[..., None]).square().sum(-2) <= reach**2)
        heard = near.any(-1, keepdim=True)
        counted = torch.where(heard, near, inside)
        votes = torch.where(heard[..., None, :], votes, places.to(votes))
    heat = heatmaps.flatten(-2).gather(-1, index).clamp(min=0) * counted
    heat = torch.where((heat > 0).any(-1, keepdim=True), heat, counted.to(heat))
    heat = heat / heat.detach().amax(-1, keepdim=True)                                  # faint heat must not underflow
    return (heat[..., None, :] * votes).sum(-1) / heat.sum(-1, keepdim=True)            # Eq. 5


def landmark_offsets(offsets: Tensor, boundaries: Sequence[Indices], count: int) -> Tensor:
    """Each landmark's vectors (..., K, 2, H, W): the mean of the fields (..., C, 2, H, W) of the boundaries through it.

    The paper does not say what an eye's corner, which ends two boundaries, should read. A landmark on none gets zeros.
    """
    if offsets.ndim < 4 or offsets.shape[-4:-2] != (len(boundaries), 2):
        raise ValueError(f"offsets must be (..., {len(boundaries)}, 2, H, W), got {tuple(offsets.shape)}")
    on = torch.tensor([[k in line for line in boundaries] for k in range(count)]).to(offsets)
    share = on / on.sum(1, keepdim=True).clamp(min=1)                                   # (K, C)
    return torch.einsum("kc,...cdhw->...kdhw", share, offsets)


def _curve(points: np.ndarray, n: int) -> np.ndarray:
    apart = np.append(True, np.linalg.norm(np.diff(points, axis=0), axis=1) > 1e-3)
    points = points[apart]
    return np.repeat(points, n, 0) if len(points) == 1 else geometry.spline(points, n, min(2, len(points) - 1))


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


def _points(points: ArrayLike | Tensor) -> Tensor:
    points = points if isinstance(points, Tensor) else torch.as_tensor(np.asarray(points))
    if points.ndim < 2 or points.shape[-1] != 2:
        raise ValueError(f"points must be (..., K, 2), got shape {tuple(points.shape)}")
    if not points.isfinite().all():
        raise ValueError("points must be finite, got NaN or infinity")
    return points if points.is_floating_point() else points.double()


def _check(boundaries: Sequence[Indices], points: Tensor) -> None:
    count = points.shape[-2]
    if not boundaries or any(not line or not all(0 <= k < count for k in line) for line in boundaries):
        raise ValueError(f"boundaries must be tuples of indices from 0 to {count - 1}, none empty, got {boundaries}")
