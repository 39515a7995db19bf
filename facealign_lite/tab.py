"""TAB: boundaries of the face as heatmaps, and a network that turns them into landmarks.

Xie, Wan, Shen, Lai: Think about boundary: Fusing multi-level boundary information for landmark heatmap regression.

Shapes: B batch, K landmarks, 16 maps (15 boundaries in the order of ``markups.BOUNDARIES``, then their union), H W.
Points (x, y) in 0-based pixel centres of the map unless said. Levels i, j count from 0, where the paper counts from 1.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from facealign_lite import contours, heatmaps, markups
from facealign_lite.heatmaps import Size

MAPS = len(markups.BOUNDARIES) + 1
SIGMA = 1.0      # width of a boundary in map pixels; the paper gives none
REACH = 3        # widths beyond which a boundary has no heat, as in Wu et al. 2018
POINTS = 32      # a curve is drawn with about so many straight pieces
TINY = 1e-6


# ---- boundaries ----------------------------------------------------------------------------------------------------

def boundary_maps(landmarks: ArrayLike | Tensor, markup: str, size: Size, sigma: float = SIGMA) -> Tensor:
    """Heatmaps of the 15 boundaries, and of their union: exp(-d^2 / 2 sigma^2) of the distance d, 0 from 3 sigma on.

    Args:
        landmarks: (..., K, 2) in map pixels; they may lie outside the map.
        markup: "98", "68", "36", "29" or "19".
        size: of the maps, one side or (height, width).
        sigma: > 0, map pixels.

    Returns:
        (..., 16, H, W) in [0, 1].

    Raises:
        ValueError: for another markup or number of landmarks, NaN, an empty size, or a sigma that is not positive.

    Source: TAB section 3.1 and Fig. 3; the profile is that of Wu et al. 2018 (Look at Boundary), whom it follows.
    """
    if not sigma > 0:
        raise ValueError(f"sigma must be positive, got {sigma}")
    distance = contours.distances(boundary_curves(landmarks, markup), size, REACH * sigma)      # (..., 15, H, W)
    distance = torch.cat([distance, distance.amin(-3, keepdim=True)], -3)                       # the union: the nearest
    heat = torch.exp(-distance.square() / (2 * sigma**2))
    return torch.where(distance < REACH * sigma * (1 - TINY), heat, torch.zeros_like(heat))


def boundary_curves(landmarks: ArrayLike | Tensor, markup: str) -> Tensor:
    """The 15 boundaries as dense lines through their landmarks: (..., K, 2) -> (..., 15, M, 2).

    Short ones repeat their last point. A boundary of one landmark is a line of no length. Raises as ``boundary_maps``.
    """
    points = landmarks if isinstance(landmarks, Tensor) else torch.as_tensor(np.asarray(landmarks, np.float64))
    chains, count = markups.boundaries(markup), markups.get(markup).count
    if points.shape[-2:] != (count, 2):
        raise ValueError(f"landmarks of markup {markup!r} must be (..., {count}, 2), got {tuple(points.shape)}")
    lines = [smooth(points[..., list(chain), :], max(2, -(-POINTS // max(1, len(chain) - 1)))) for chain in chains]
    longest = max(line.shape[-2] for line in lines)
    return torch.stack([torch.cat([line, line[..., -1:, :].expand(*line.shape[:-2], longest - line.shape[-2], 2)], -2)
                        for line in lines], -3)


def smooth(points: Tensor, steps: int) -> Tensor:
    """A smooth line through points, ``steps`` pieces from each to the next: (..., M, 2) -> (..., (M - 1) steps + 1, 2).

    At each point it goes the way of the parabola through that point and its two neighbours, by chord length; from
    point to point it is a cubic (Overhauser's blend). So a point bends only the two pieces to each side of it, three
    points give their parabola and two a straight line. One point gives two copies of itself.

    Raises:
        ValueError: if ``points`` is not (..., M, 2), or there are less than one point or step.
    """
    if points.ndim < 2 or points.shape[-1] != 2 or points.shape[-2] < 1 or steps < 1:
        raise ValueError(f"points must be (..., M, 2) and steps at least 1, got {tuple(points.shape)} and {steps}")
    if points.shape[-2] == 1:
        return points.expand(*points.shape[:-2], 2, 2)
    chord = torch.linalg.vector_norm(points.diff(dim=-2), dim=-1, keepdim=True)          # (..., M - 1, 1)
    slope = points.diff(dim=-2) / chord.clamp(min=TINY)                                  # unit vectors
    before, after = chord[..., :-1, :], chord[..., 1:, :]
    # the parabola's slope in its middle is the mean of both chords' slopes, the nearer chord weighing more; at its
    # ends it makes up for that, since a chord's slope is the mean of those at its two ends
    inner = (after * slope[..., :-1, :] + before * slope[..., 1:, :]) / (before + after).clamp(min=TINY)
    if points.shape[-2] == 2:
        way = slope.expand(*slope.shape[:-2], 2, 2)
    else:
        way = torch.cat([2 * slope[..., :1, :] - inner[..., :1, :], inner,
                         2 * slope[..., -1:, :] - inner[..., -1:, :]], -2)               # (..., M, 2)
    t = (torch.arange(steps, dtype=points.dtype, device=points.device) / steps)[:, None]
    p, q, u, v = (x[..., None, :] for x in (points[..., :-1, :], points[..., 1:, :], way[..., :-1, :], way[..., 1:, :]))
    length = chord[..., None, :]
    cubic = (1 + 2 * t) * (1 - t)**2 * p + t * (1 - t)**2 * length * u + t**2 * (3 - 2 * t) * q \
        - t**2 * (1 - t) * length * v
    return torch.cat([cubic.flatten(-3, -2), points[..., -1:, :]], -2)


# ---- quality of boundaries (Table 8) -------------------------------------------------------------------------------

def boundary_mse(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of each set of maps: (..., C, H, W) -> (...).

    An empty map is not bad by this measure, so what it gets belongs beside it.

    Raises:
        ValueError: if the shapes differ or have fewer than three dimensions.

    Source: TAB Table 8.
    """
    _check_alike(predicted, target)
    return (predicted - target).square().mean((-3, -2, -1))


def boundary_overlap(predicted: Tensor, target: Tensor, level: float = 0.5) -> Tensor:
    """How well the bands agree that are hotter than ``level``: shared over joint area, (..., C, H, W) -> (..., C).

    A band of Gaussian heat above 0.5 is 2.35 sigma wide. Two empty bands agree.

    Raises:
        ValueError: if the shapes differ or have fewer than three dimensions, or ``level`` is not positive.
    """
    _check_alike(predicted, target)
    if not level > 0:
        raise ValueError(f"level must be positive, got {level}")
    ours, theirs = predicted >= level, target >= level
    shared, joint = ((ours & theirs).sum((-2, -1)), (ours | theirs).sum((-2, -1)))
    return torch.where(joint > 0, shared / joint.clamp(min=1), torch.ones_like(shared, dtype=predicted.dtype))


def _check_alike(predicted: Tensor, target: Tensor) -> None:
    if predicted.shape != target.shape or predicted.ndim < 3:
        raise ValueError(f"predicted and target must both be (..., C, H, W), got {tuple(predicted.shape)} and "
                         f"{tuple(target.shape)}")


# ---- losses --------------------------------------------------------------------------------------------------------

def boundary_loss(markup: str = "68", sigma: float = SIGMA) -> Callable:
    """Stage one: the mean squared difference to the boundary maps, summed over stacks (intermediate supervision).

    Returns:
        a loss for ``training.fit`` on what ``SCBE`` gives and batches with ``landmarks`` of ``markup`` in crop pixels.

    Source: TAB section 3.1 and 4.3.
    """
    markups.boundaries(markup)

    def loss(outputs: tuple[Sequence[Tensor], Sequence[Tensor]], batch: Mapping[str, Tensor]) -> Tensor:
        maps, _ = outputs
        target = boundary_targets(batch, markup, tuple(maps[-1].shape[-2:]), sigma)
        return sum(boundary_mse(heat.float(), target).mean() for heat in maps)
    return loss


def boundary_targets(batch: Mapping[str, Tensor], markup: str, size: tuple[int, int], sigma: float = SIGMA) -> Tensor:
    """Boundary maps (B, 16, H, W) of a batch of crops."""
    points = heatmaps.to_heatmap(batch["landmarks"], tuple(batch["image"].shape[-2:]), size)
    return boundary_maps(points, markup, size, sigma)
