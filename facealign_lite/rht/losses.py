"""What RHT learns by (RHT Eq. 7 to 9).

Shapes: B batch, M landmarks, P boundaries, C channels, H W; s = 1, 2, 4 a scale.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from facealign_lite.heatmaps import to_heatmap

from .network import LITE, RhtConfig, RhtOutput, Transformed, draw
from .transform import hard_transform, scale_of

WEIGHT = 0.1     # lambda, of the affine consistency (section III-D)


def heatmap_loss(landmarks: Tensor, true_landmarks: Tensor, visible: Tensor, boundaries: Tensor,
                 true_boundaries: Tensor) -> Tensor:
    """Squared error of a map, summed over its pixels; mean over landmarks (hidden ones count as 0), over boundaries.

    Args:
        landmarks, true_landmarks: heatmaps (B, M, H, W).
        visible: (B, M), 1 or 0.
        boundaries, true_boundaries: heatmaps (B, P, H, W).

    Returns:
        (), mean over the batch.

    Raises:
        ValueError: if shapes differ.

    Source: RHT Eq. 7.
    """
    for name, maps, truth in (("landmarks", landmarks, true_landmarks), ("boundaries", boundaries, true_boundaries)):
        if maps.ndim != 4 or maps.shape != truth.shape:
            raise ValueError(f"{name} must be two (B, M, H, W), got {tuple(maps.shape)} and {tuple(truth.shape)}")
    if visible.shape != landmarks.shape[:2]:
        raise ValueError(f"visible must be {tuple(landmarks.shape[:2])}, got {tuple(visible.shape)}")
    of_landmarks = (landmarks - true_landmarks).square().sum((-2, -1))                  # (B, M)
    of_boundaries = (boundaries - true_boundaries).square().sum((-2, -1))               # (B, P)
    return (visible * of_landmarks).mean() + (of_boundaries.mean() if of_boundaries.numel() else 0)


def consistency_loss(hard: Tensor, soft: Tensor, confidence: Tensor) -> Tensor:
    """Sum of |hard A - soft| over channels and pixels, mean over the batch: ().

    Args:
        hard, soft: (B, C, sH, sW) of one scale; ``soft`` is already weighted.
        confidence: A, (B, 1, H, W).

    Raises:
        ValueError: if the shapes do not fit.

    Source: RHT Eq. 8. With Eq. 3 it is the sum of |A| |F_E - F_T|: no confidence, or no features, is no loss either.
    """
    if hard.shape != soft.shape:
        raise ValueError(f"hard and soft must have one shape, got {tuple(hard.shape)} and {tuple(soft.shape)}")
    s = scale_of(hard, confidence)
    attention = confidence.repeat_interleave(s, -2).repeat_interleave(s, -1)
    return (hard * attention - soft).abs().sum((1, 2, 3)).mean()


def overall_loss(heatmaps: Tensor, consistency: Tensor, weight: float = WEIGHT) -> Tensor:
    """Heatmap loss plus ``weight`` times consistency.

    Source: RHT Eq. 9; lambda = 0.1 in section III-D.
    """
    return heatmaps + weight * consistency


def rht_loss(config: RhtConfig = LITE, weight: float = WEIGHT, all_visible: bool = True,
             printed: bool = False) -> Callable:
    """The whole loss, for ``training.fit`` on batches of ``Pairs``.

    Args:
        config: of the network.
        weight: lambda, of the consistency of the three scales, where there are both transformations.
        all_visible: hidden landmarks teach as well, as in sets that annotate them like the others (300-W); else Eq. 7
            takes the batch's ``visibility``.
        printed: with Eq. 8 summed over channels, pixels and the three scales, some fifty times Eq. 7 before training,
            and teaching all. It is then cheapest to empty the reference's features, which training does. Else it is
            taken at 1x, averaged over channels as Eq. 7 is over maps, and what is moved, softly moved and trusted is
            held fixed in it. It teaches the affine map, which is what the paper wants it for, and with it the features
            of both faces that the map is computed from.

    Source: RHT Eq. 9.
    """
    def loss(outputs: RhtOutput, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        maps, moved = outputs.landmarks.float(), outputs.moved
        points = to_heatmap(batch["landmarks"], tuple(batch["image"].shape[-2:]), tuple(maps.shape[-2:]))
        truth, count = draw(points, config, check=False), maps.shape[1]
        visible = torch.ones_like(points[..., 0]) if all_visible else batch["visibility"]
        parts = {"heatmaps": heatmap_loss(maps, truth[:, :count], visible, outputs.boundaries.float(),
                                          truth[:, count:])}
        if moved.soft is not None and moved.hard is not None and weight:
            parts["consistency"] = weight * (_all_agree(moved) if printed else _map_agrees(moved))
        return parts
    return loss


def _all_agree(moved: Transformed) -> Tensor:
    """Eq. 8 of the three scales, as printed."""
    confidence = moved.confidence.float()
    return sum(consistency_loss(e.float(), s.float(), confidence) for e, s in zip(moved.hard, moved.soft))


def _map_agrees(moved: Transformed) -> Tensor:
    """Eq. 8 at 1x, a channel, as a function of the affine map; by the map its gradient reaches both faces' features."""
    value, soft, confidence = (t.detach().float() for t in (moved.values[0], moved.soft[0], moved.confidence))
    return consistency_loss(hard_transform(value, moved.theta), soft, confidence) / value.shape[1]
