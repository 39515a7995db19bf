"""Contours as heatmaps and back: exact distances, the contourness of ACE-Net, and sub-pixel curves.

Shapes: contours (..., M, 2), polylines of M points; heatmaps (..., H, W). Coordinates: 0-based pixel centres, (x, y),
x to the right, y down. Directions are angles in radians from x towards y.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

PIECE = 2.0   # pixels: segments are cut into pieces at most this long, each of which lights only its neighbourhood
WINDOW = 2    # a template reaches this many widths to each side (ACE-Net Eq. 6)
TINY = 1e-12  # moves no score by more than 1e-6


# ---- from curves to maps -------------------------------------------------------------------------------------------

def encode(contours: ArrayLike | Tensor | Sequence, size: int | tuple[int, int], sigma: float) -> Tensor:
    """Heatmaps of contours: max(0, 1 - 2 d^2 / sigma^2) over the exact distance d to the nearest segment.

    Args:
        contours: (..., M, 2) in heatmap pixels, or a sequence of N polylines of different lengths; they may leave the
            map. A repeated point adds nothing.
        size: of the maps, one side or (height, width).
        sigma: > 0 in heatmap pixels; the heat ends sigma / sqrt(2) from the contour.

    Returns:
        (..., H, W).

    Raises:
        ValueError: for polylines of fewer than two points, NaN, an empty size, or a sigma that is not positive.

    Source: ACE-Net Eq. 2.
    """
    if not sigma > 0:
        raise ValueError(f"sigma must be positive, got {sigma}")
    return (1 - 2 * distances(contours, size, sigma / math.sqrt(2)).square() / sigma**2).clamp(min=0)


def distances(contours: ArrayLike | Tensor | Sequence, size: int | tuple[int, int], reach: float) -> Tensor:
    """Distance of every pixel from each contour, exact below ``reach`` and cut off there: (..., H, W).

    Takes and raises what ``encode`` does. Costs grow with the length of the contours and with ``reach`` squared, not
    with the map.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if height < 1 or width < 1:
        raise ValueError(f"size must be at least one pixel, got {size}")
    if not 0 < reach < math.inf:
        raise ValueError(f"reach must be positive and finite, got {reach}")
    points = _polylines(contours)
    shape, points = points.shape[:-2], points.reshape(-1, *points.shape[-2:])          # (N, M, 2)

    # cut each segment into pieces of at most PIECE pixels
    start, along = points[:, :-1].flatten(0, 1), points.diff(dim=1).flatten(0, 1)      # (N (M - 1), 2)
    count = (torch.linalg.vector_norm(along, dim=-1) / PIECE).ceil().clamp(min=1).long()
    which = torch.repeat_interleave(count)                                             # piece -> segment
    nth = torch.arange(len(which), device=points.device) - (count.cumsum(0) - count)[which]
    step = (along / count[:, None])[which]                                             # (P, 2), from end to end
    start = start[which] + nth[:, None] * step
    row = which // (points.shape[1] - 1)                                               # piece -> contour

    # the pixels around each piece's middle, d^2 = |q - a - t (b - a)|^2 with t = <q - a, b - a> / |b - a|^2 in [0, 1]
    radius = math.ceil(reach + PIECE / 2 + 0.5)
    t = torch.arange(-radius, radius + 1, device=points.device)
    middle = (start + step / 2).round()
    near = ((middle > -radius - 1) & (middle < middle.new_tensor([width, height]) + radius)).all(-1)
    start, step, middle, row = start[near], step[near], middle[near].long(), row[near]
    x, y = middle[:, :1] + t, middle[:, 1:] + t                                        # (P, T) each
    qx, qy = (x - start[:, :1])[:, None, :], (y - start[:, 1:])[:, :, None]
    sx, sy = step[:, 0, None, None], step[:, 1, None, None]
    foot = ((qx * sx + qy * sy) / (sx * sx + sy * sy).clamp(min=1e-30)).clamp(0, 1)    # (P, T, T)
    squared = (qx - foot * sx).square() + (qy - foot * sy).square()

    inside = ((x >= 0) & (x < width))[:, None, :] & ((y >= 0) & (y < height))[:, :, None]
    index = (row[:, None, None] * height + y[:, :, None]) * width + x[:, None, :]
    out = points.new_full((len(points) * height * width,), reach**2)
    out.scatter_reduce_(0, index[inside], squared[inside], "amin")
    return out.sqrt().view(*shape, height, width)


def stack(polylines: Sequence[ArrayLike | Tensor]) -> Tensor:
    """N polylines (M_i, 2) as one (N, M, 2) tensor; the last point of the short ones is repeated, which adds nothing."""
    lines = [torch.as_tensor(np.asarray(line) if not isinstance(line, Tensor) else line) for line in polylines]
    if not lines or any(line.ndim != 2 or line.shape[-1] != 2 or len(line) < 2 for line in lines):
        raise ValueError(f"contours must be polylines (M, 2) with M >= 2, got {[tuple(line.shape) for line in lines]}")
    longest = max(map(len, lines))
    return torch.stack([torch.cat([line, line[-1:].expand(longest - len(line), 2)]) for line in lines])


def _polylines(contours: ArrayLike | Tensor | Sequence) -> Tensor:
    if isinstance(contours, (list, tuple)) and contours and np.ndim(contours[0]) == 2:
        contours = stack(contours)
    points = contours if isinstance(contours, Tensor) else torch.as_tensor(np.asarray(contours))
    points = points if points.is_floating_point() else points.double()
    if points.ndim < 2 or points.shape[-1] != 2 or points.shape[-2] < 2:
        raise ValueError(f"contours must be (..., M, 2) with M >= 2, got shape {tuple(points.shape)}")
    if not points.isfinite().all():
        raise ValueError("contours must be finite, got NaN or infinity")
    return points


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
        ValueError: if ``sigma`` is not positive or ``heatmaps`` has fewer than two dimensions.

    Source: ACE-Net Eq. 24 and 25.
    """
    if not sigma > 0:
        raise ValueError(f"sigma must be positive, got {sigma}")
    if heatmaps.ndim < 2:
        raise ValueError(f"heatmaps must be (..., H, W), got shape {tuple(heatmaps.shape)}")

    heat = heatmaps.clamp(min=0)                               # H+                       (..., H, W)
    smooth, slope, bend = _profiles(sigma, heat)               # the filters' 1-D factors

    r_a = _separable(heat, along_x=bend, along_y=smooth)       # H+ * G2a, Eq. 20, 21
    r_b = _separable(heat, along_x=slope, along_y=slope) * (-2 / sigma**2)
    r_c = _separable(heat, along_x=smooth, along_y=bend)
    energy = _separable(heat.square(), along_x=smooth, along_y=smooth)

    # score = Ra + Rc + sqrt((Ra - Rc)^2 + 4 Rb^2) - H+^2 * G, Eq. 24. On flat heat the bare root has gradient 0/0,
    # and one such NaN ends a training run: hence TINY.
    anisotropy = torch.sqrt((r_a - r_c).square() + 4 * r_b.square() + TINY)
    score = r_a + r_c + anisotropy - energy
    orientation = 0.5 * torch.atan2(-2 * r_b, r_c - r_a)       # Eq. 25
    return score, orientation


def _profiles(sigma: float, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three 1-D profiles whose products are the filters G, G2a, G2b, G2c (Eq. 15, 20)."""
    reach = int(WINDOW * sigma)
    t = torch.arange(-reach, reach + 1, dtype=like.dtype, device=like.device)
    smooth = torch.exp(-t.square() / sigma**2)
    return smooth, t * smooth, (1 - 2 * t.square() / sigma**2) * smooth


def _separable(maps: Tensor, along_x: Tensor, along_y: Tensor) -> Tensor:
    """Correlate (..., H, W) maps with the outer product of two 1-D profiles, zero outside the border.

    Two banded matrix products: on a CPU an order of magnitude faster than ``conv2d`` on one channel.
    """
    height, width = maps.shape[-2:]
    return _band(along_y, height) @ maps @ _band(along_x, width).mT


def _band(profile: Tensor, size: int) -> Tensor:
    """The (size, size) matrix that correlates a vector with ``profile``."""
    reach = len(profile) // 2
    offset = torch.arange(size, device=profile.device)
    offset = offset[None, :] - offset[:, None] + reach         # entry (i, j) takes profile[j - i + reach]
    inside = (0 <= offset) & (offset < len(profile))
    return torch.where(inside, profile[offset.clamp(0, len(profile) - 1)], 0)
