"""The losses of SCPAN: divergences of maps, of fields, and of a picture's maps from those of its disturbed twin.

Shapes: B pictures, K landmarks, C boundaries, H W; stages t = 1 ... T, the last ones larger. Sums are those of the
paper but for one: over the pictures of a batch we take the mean, so that its size weighs nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from facealign_lite import heatmaps

from .disturbances import move_maps
from .fields import DECODE_RADIUS, RADIUS, SIGMA, Indices, bali_field, decode_bali, landmark_offsets

EPSILON = 1e-6   # added heat of every pixel: without it a zero has no logarithm and an empty map no mass

Measure = Callable[[Tensor, Tensor], Tensor]     # two (B, ., H, W) -> (B,)


class Maps(NamedTuple):
    """What a network says: maps of the stages 1 ... T, (B, K, H, W) and (B, C, H, W), and the last (B, C, 2, H, W)."""

    heatmaps: Sequence[Tensor]
    confidences: Sequence[Tensor]
    offsets: Tensor


class Truth(NamedTuple):
    """What it should say, with the mask (B, C, H, W) of the offsets and the landmarks (B, K, 2), in last map pixels."""

    maps: Maps
    mask: Tensor
    points: Tensor


@dataclass(frozen=True)
class Weights:
    """Of the overall loss, as in the paper (Table VIII).

    It argues for 4 by the smaller maps, a quarter of the last one's pixels; a divergence of distributions does not
    grow with the map, so that says nothing here, and 4 is simply more weight for the earlier stages.
    """

    last: float = 1.0           # lambda_1
    field: float = 16.0         # lambda_2
    coordinates: float = 40.0   # gamma
    earlier: float = 4.0        # eta, also of the self-calibrated loss


WEIGHTS = Weights()


def truth(points: Tensor, image_size: heatmaps.Size, sizes: Sequence[int], boundaries: Sequence[Indices],
          sigma: float = SIGMA, radius: int = RADIUS) -> Truth:
    """All targets of landmarks (B, K, 2) in image pixels, for the square maps of T stages of these ``sizes``."""
    stages = [heatmaps.to_heatmap(points, image_size, size) for size in sizes]
    fields = [bali_field(p, boundaries, size, radius, sigma) for p, size in zip(stages, sizes)]
    heat = [heatmaps.encode(p, size, sigma) for p, size in zip(stages, sizes)]
    return Truth(Maps(heat, [f.confidence for f in fields], fields[-1].offsets), fields[-1].mask, stages[-1])


# ---- how two maps differ -------------------------------------------------------------------------------------------

def distribution(maps: Tensor) -> Tensor:
    """Maps (..., H, W) as distributions over their pixels: heat by its sum; negative heat is none, no heat is uniform.

    The paper does not say how. A softmax would be the other way: of heat between 0 and 1 it makes almost nothing but
    background. A network that ends in logits takes its softmax first. Where heat is below 0 nothing is learnt.
    """
    heat = maps.clamp(min=0).to(torch.promote_types(maps.dtype, torch.float32)) + EPSILON   # half floats know no 1e-6
    return heat / heat.sum((-2, -1), keepdim=True)


def js_divergence(maps: Tensor, targets: Tensor) -> Tensor:
    """Jensen-Shannon divergence of maps (..., H, W) as distributions: (...) nats, from 0 to log 2, symmetric.

    Its gradient is finite everywhere, on flat and empty maps too.

    Raises:
        ValueError: if the shapes differ.

    Source: SCPAN Eq. 15.
    """
    _same(maps, targets)
    return _js(distribution(maps).flatten(-2), distribution(targets).flatten(-2))


def divergence(maps: Tensor, targets: Tensor) -> Tensor:
    """``js_divergence`` of (B, K, H, W) summed over maps: (B,)."""
    return js_divergence(maps, targets).sum(1)


def squared(maps: Tensor, targets: Tensor) -> Tensor:
    """Squared Frobenius norm of the difference, (B, ...) -> (B,)."""
    _same(maps, targets)
    return (maps - targets).square().flatten(1).sum(1)


def field_divergence(offsets: Tensor, targets: Tensor, mask: Tensor, radius: int = RADIUS) -> Tensor:
    """How vectors differ inside the mask: per pixel and component, as two coins of different bias.

    Eq. 16 puts signed components into a divergence, which has no meaning, and to norm a window of them, shifted or
    split by sign, would not see vectors that are all too long by one factor. Our choice keeps length and sign: a
    component u in (-L, L) is a coin that falls on the positive side with probability (1 + u / L) / 2, the
    Jensen-Shannon divergence of two coins is 0 only for equal ones, and what reaches beyond L is added.

    Args:
        offsets, targets: (B, C, 2, H, W) in map pixels.
        mask: (B, C, H, W) bool.
        radius: R of the squares; L = 1.5 (R + 0.5) is out of reach for targets, which end at sqrt(2) (R + 0.5).

    Returns:
        (B,): means over the masked pixels of each boundary, up to log 2 each, summed over boundaries and components.

    Source: SCPAN Eq. 16, first term.
    """
    _same(offsets, targets)
    if mask.shape != offsets.shape[:2] + offsets.shape[3:]:
        raise ValueError(f"mask must be (B, C, H, W) of offsets {tuple(offsets.shape)}, got {tuple(mask.shape)}")
    limit = 1.5 * (radius + 0.5)
    p, q = (((1 + u / limit) / 2).clamp(EPSILON, 1 - EPSILON) for u in (offsets, targets))
    apart = _js(torch.stack([p, 1 - p], -1), torch.stack([q, 1 - q], -1))               # (B, C, 2, H, W)
    beyond = (offsets.abs() / limit - 1).clamp(min=0)
    weight = mask[:, :, None].to(apart)
    return (((apart + beyond) * weight).sum((-2, -1)) / weight.sum((-2, -1)).clamp(min=1)).sum((1, 2))


def coordinate_loss(points: Tensor, targets: Tensor, size: heatmaps.Size) -> Tensor:
    """Squared distance of landmarks (B, K, 2) summed over landmarks, with the picture's sides from 0 to 1: scalar.

    Source: SCPAN Eq. 14 and 18.
    """
    _same(points, targets)
    height, width = (size, size) if isinstance(size, int) else size
    return ((points - targets) / points.new_tensor([width, height])).square().sum((1, 2)).mean()


# ---- a picture and its twin ----------------------------------------------------------------------------------------

def original_loss(pair: Sequence[Tensor], targets: Sequence[Tensor], measure: Measure = squared) -> Tensor:
    """Maps (B, K + C, H, W) of the pictures and of their twins against the true ones.

    Source: SCPAN Eq. 6 (squared) and 13 (any measure).
    """
    return sum(measure(maps, target).mean() for maps, target in zip(pair, targets, strict=True))


def self_calibrated_loss(maps: Tensor, twin: Tensor, linear: Tensor, flip: Sequence[int],
                         measure: Measure = squared) -> Tensor:
    """The maps (B, K + C, H, W) of a picture, disturbed as it was, should be those of the disturbed picture.

    Needs no labels, and alone it is content with maps that are empty everywhere. The paper does not say that mirrored
    pictures swap right and left channels; here they do. What moves in from outside is taken for empty.

    Args:
        linear: (B, 2, 2), see ``disturbances``; the identity for a disturbance of texture alone.
        flip: order of the K + C channels in a mirrored picture.

    Source: SCPAN Eq. 7 (squared) and 12 (any measure).
    """
    return measure(move_maps(maps, linear, flip), twin).mean()


def calibration_mechanism_loss(pair: Sequence[Tensor], targets: Sequence[Tensor], linear: Tensor,
                               flip: Sequence[int], calibrated: float = 1.0, original: float = 1.0) -> Tensor:
    """``calibrated`` (eta) times Eq. 7 plus ``original`` (lambda) times Eq. 6; with ``original`` 0 labels do nothing.

    Source: SCPAN Eq. 8.
    """
    return calibrated * self_calibrated_loss(*pair, linear, flip) + original * original_loss(pair, targets)


def original_divergence(said: Maps, true: Truth, radius: int = RADIUS) -> dict[str, Tensor]:
    """The three terms of Eq. 16 for one of picture and twin: "field", "last" and "earlier" stages, scalars.

    Raises:
        ValueError: if the numbers of stages differ.

    Source: SCPAN Eq. 16.
    """
    stages = [divergence(h, th).mean() + divergence(c, tc).mean() for h, th, c, tc in zip(
        said.heatmaps, true.maps.heatmaps, said.confidences, true.maps.confidences, strict=True)]
    *earlier, last = stages
    return {"field": field_divergence(said.offsets, true.maps.offsets, true.mask, radius).mean(), "last": last,
            "earlier": sum(earlier, last.new_zeros(()))}


def self_calibrated_divergence(said: Maps, twin: Maps, linear: Tensor, flip: Sequence[int],
                               boundary_flip: Sequence[int]) -> list[Tensor]:
    """The self-calibrated loss of each stage, a scalar each; Eq. 17 is their sum.

    The print disturbs both sides of the boundary term; we disturb the picture's maps only, as in Eq. 12 and as the
    landmark term does.

    Source: SCPAN Eq. 17.
    """
    return [self_calibrated_loss(h, th, linear, flip, divergence)
            + self_calibrated_loss(c, tc, linear, boundary_flip, divergence)
            for h, th, c, tc in zip(said.heatmaps, twin.heatmaps, said.confidences, twin.confidences, strict=True)]


def overall_loss(pair: Sequence[Maps], truths: Sequence[Truth], boundaries: Sequence[Indices], linear: Tensor,
                 flip: Sequence[int], boundary_flip: Sequence[int], weights: Weights = WEIGHTS,
                 radius: int = RADIUS) -> dict[str, Tensor]:
    """The supervised objective, term by term and weighted: the loss is the sum of the values.

    The self-calibrated term stops before the last stage, as printed here and unlike Eq. 17.

    Args:
        pair, truths: of the pictures and of their twins.
        boundaries: as in ``bali_field``.
        linear, flip, boundary_flip: as in ``self_calibrated_divergence``.

    Returns:
        scalars "last", "earlier", "field", "coordinates", "calibrated".

    Source: SCPAN Eq. 11 and 19.
    """
    losses = dict.fromkeys(("last", "earlier", "field", "coordinates", "calibrated"), torch.zeros(()))
    for said, true in zip(pair, truths, strict=True):
        heat = said.heatmaps[-1]
        points = decode_bali(heat, landmark_offsets(said.offsets, boundaries, heat.shape[1]), DECODE_RADIUS)
        terms = original_divergence(said, true, radius)
        terms["coordinates"] = coordinate_loss(points, true.points, tuple(heat.shape[-2:]))
        losses |= {name: losses[name] + getattr(weights, name) * term for name, term in terms.items()}
    calibrated = self_calibrated_divergence(*pair, linear, flip, boundary_flip)[:-1]
    return losses | {"calibrated": weights.earlier * sum(calibrated, losses["last"].new_zeros(()))}


def semi_supervised_loss(supervised: dict[str, Tensor], pair: Sequence[Maps], linear: Tensor, flip: Sequence[int],
                         boundary_flip: Sequence[int]) -> dict[str, Tensor]:
    """The terms of the overall loss and one more, "unlabelled": Eq. 17 before the last stage, without a weight.

    Source: SCPAN Eq. 20.
    """
    stages = self_calibrated_divergence(*pair, linear, flip, boundary_flip)[:-1]
    return supervised | {"unlabelled": sum(stages, pair[0].offsets.new_zeros(()))}


# ---- helpers -------------------------------------------------------------------------------------------------------

def _js(p: Tensor, q: Tensor) -> Tensor:
    """Of distributions without zeros over the last axis."""
    log_mean = ((p + q) / 2).log()
    return (p * (p.log() - log_mean) + q * (q.log() - log_mean)).sum(-1) / 2


def _same(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"what is compared must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
