"""The losses of SCPAN: divergences of maps, of fields, and of a picture's maps from those of its disturbed twin.

Shapes: B pictures, K landmarks, C boundaries, H W; stages t = 1 ... T, the last ones larger. Sums are those of the
paper but for one: over the pictures of a batch we take the mean, so that its size weighs nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from facealign_lite import heatmaps

from .disturbances import move_maps, widen
from .fields import (
    DECODE_RADIUS,
    RADIUS,
    SIGMA,
    Indices,
    curves,
    decode_bali,
    decode_field,
    landmark_offsets,
    line_confidence,
    reorder,
    square_offsets,
    vectors,
)

# added heat of every pixel: without it a zero has no logarithm and an empty map no mass. Of a softmax over 128 x 128
# pixels this is 1.6 % of the mass, and such a map differs from the same map with a sum of 14 by 0.004 nats
EPSILON = 1e-6

CACHED = 2**16    # numbers of a map that a processor compares at a time

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
    earlier: float = 4.0        # eta
    calibrated: float = 4.0     # eta again, of the self-calibrated loss; 0 leaves pictures and twins to their labels


WEIGHTS = Weights()


def truth(points: Tensor, image_size: heatmaps.Size, sizes: Sequence[int], boundaries: Sequence[Indices],
          sigma: float | Sequence[float] = SIGMA, radius: int = RADIUS, shape: str = "gaussian") -> Truth:
    """All targets of landmarks (B, K, 2) in image pixels, for the square maps of T stages of these ``sizes``.

    Args:
        boundaries: without any, as for a network of landmarks alone, C is 0.
        sigma: width of the heat in map pixels, one for all stages or one each.
        radius: as in ``bali_field``.
        shape: of the landmarks' heat, see ``heatmaps.encode``.
    """
    maps, last = targets(points, image_size, sizes, boundaries, sigma, shape)
    offsets, mask = vectors(last, boundaries, sizes[-1], radius)
    return Truth(maps._replace(offsets=offsets), mask, last)


def targets(points: Tensor, image_size: heatmaps.Size, sizes: Sequence[int], boundaries: Sequence[Indices],
            sigma: float | Sequence[float] = SIGMA, shape: str = "gaussian", check: bool = True,
            line_shape: str = "gaussian") -> tuple[Maps, Tensor]:
    """The maps of ``truth`` without vectors, and the landmarks (B, K, 2) in last map pixels.

    Args:
        line_shape: of the boundaries' confidence, the ``reading`` of ``bali_field``.
        check: whether to look for NaN, which makes the processor wait for a GPU.
    """
    dense = max(2, max(sizes) // 2)           # points of a curve: about one for every second pixel of the last map
    lines = curves(points, boundaries, dense, check) if boundaries else points.new_zeros(len(points), 0, 2, 2)
    stages, heat, confidence = list(zip(sizes, _each(sigma, len(sizes)), strict=True)), {}, {}
    for stage in set(stages):
        size, width = stage
        on_map = heatmaps.to_heatmap(points, image_size, size)
        heat[stage] = _peaks(on_map, size, width) if shape == "gaussian" and not check else heatmaps.encode(
            on_map, size, width, shape, check)
        confidence[stage] = line_confidence(heatmaps.to_heatmap(lines, image_size, size), size, width, line_shape,
                                            check=check)
    maps = Maps([heat[stage] for stage in stages], [confidence[stage] for stage in stages], points.new_zeros(0))
    return maps, heatmaps.to_heatmap(points, image_size, sizes[-1])


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
    return _MapDivergence.apply(maps.flatten(-2), targets.flatten(-2))


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
    return _coins(offsets.flatten(3), targets.flatten(3), mask.flatten(2), radius)


def _coins(offsets: Tensor, targets: Tensor, mask: Tensor, radius: int) -> Tensor:
    """``field_divergence`` of N pixels: (B, C, 2, N) and (B, C, N) -> (B,)."""
    limit = 1.5 * (radius + 0.5)
    p, q = (((1 + u / limit) / 2).clamp(EPSILON, 1 - EPSILON) for u in (offsets, targets))
    apart = _Divergence.apply(torch.stack([p, 1 - p], -1), torch.stack([q, 1 - q], -1))  # (B, C, 2, N)
    beyond = (offsets.abs() / limit - 1).clamp(min=0)
    weight = mask[:, :, None].to(apart)
    return (((apart + beyond) * weight).sum(-1) / weight.sum(-1).clamp(min=1)).sum((1, 2))


def coordinate_loss(points: Tensor, targets: Tensor, size: heatmaps.Size, within: float | None = None) -> Tensor:
    """Squared distance of landmarks (B, K, 2) summed over landmarks, with the picture's sides from 0 to 1: scalar.

    Args:
        within: landmarks farther off than this do not count; None, as in the paper: all do. Those were read from a
            window with which nothing is wrong but its place, and its place has no gradient: what they teach is noise,
            and before a network knows where to look this noise is nearly all of its gradient.

    Source: SCPAN Eq. 14 and 18.
    """
    return _coordinates(points, targets, size, within).mean()


def _coordinates(points: Tensor, targets: Tensor, size: heatmaps.Size, within: float | None) -> Tensor:
    """``coordinate_loss`` of each picture, (B,)."""
    _same(points, targets)
    height, width = (size, size) if isinstance(size, int) else size
    apart = points - targets
    if within is not None:
        apart = apart * (apart.detach().square().sum(-1, keepdim=True) <= within**2)
    return ((apart[..., 0] / width).square() + (apart[..., 1] / height).square()).sum(1)


# ---- a picture and its twin ----------------------------------------------------------------------------------------

def original_loss(pair: Sequence[Tensor], targets: Sequence[Tensor], measure: Measure = squared) -> Tensor:
    """Maps (B, K + C, H, W) of the pictures and of their twins against the true ones.

    Source: SCPAN Eq. 6 (squared) and 13 (any measure).
    """
    return sum(measure(maps, target).mean() for maps, target in zip(pair, targets, strict=True))


def self_calibrated_loss(maps: Tensor, twin: Tensor, linear: Tensor, flip: Sequence[int],
                         measure: Measure = squared, sigma: float | None = None) -> Tensor:
    """The maps (B, K + C, H, W) of a picture, disturbed as it was, should be those of the disturbed picture.

    Needs no labels, and alone it is content with maps that are empty everywhere. The paper does not say that mirrored
    pictures swap right and left channels; here they do. What moves in from outside is taken for empty.

    Args:
        linear: (B, 2, 2), see ``disturbances``; the identity for a disturbance of texture alone.
        flip: order of the K + C channels in a mirrored picture.
        sigma: to what width peaks are blurred again that a scaling has narrowed, see ``widen``; None, as in the paper:
            they stay narrow, which contradicts the original loss.

    Source: SCPAN Eq. 7 (squared) and 12 (any measure).
    """
    return _calibrated(maps, twin, linear, flip, measure, sigma).mean()


def _calibrated(maps: Tensor, twin: Tensor, linear: Tensor, flip: Sequence[int], measure: Measure,
                sigma: float | None) -> Tensor:
    """``self_calibrated_loss`` of each pair, (B,)."""
    moved = move_maps(maps, linear, flip)
    return measure(moved if sigma is None else widen(moved, linear, sigma), twin)


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
    stages = [stage.mean() for stage in _stages(said, true.maps)]
    *earlier, last = stages
    return {"field": field_divergence(said.offsets, true.maps.offsets, true.mask, radius).mean(), "last": last,
            "earlier": sum(earlier, last.new_zeros(()))}


def _stages(said: Maps, true: Maps) -> list[Tensor]:
    """Divergence of the maps of each stage, summed over maps, (B,) each."""
    return [divergence(h, th) + divergence(c, tc) for h, th, c, tc in zip(
        said.heatmaps, true.heatmaps, said.confidences, true.confidences, strict=True)]


def self_calibrated_divergence(said: Maps, twin: Maps, linear: Tensor, flip: Sequence[int],
                               boundary_flip: Sequence[int], sigma: float | Sequence[float] | None = None,
                               stages: int | None = None) -> list[Tensor]:
    """The self-calibrated loss of the first ``stages``, a scalar each; Eq. 17 is the sum of all.

    The print disturbs both sides of the boundary term; we disturb the picture's maps only, as in Eq. 12 and as the
    landmark term does.

    Args:
        sigma: as in ``self_calibrated_loss``, one for all stages or one each.
        stages: None for all.

    Source: SCPAN Eq. 17.
    """
    rows = list(zip(said.heatmaps, twin.heatmaps, said.confidences, twin.confidences,
                    _each(sigma, len(said.heatmaps)), strict=True))
    return [self_calibrated_loss(h, th, linear, flip, divergence, width)
            + self_calibrated_loss(c, tc, linear, boundary_flip, divergence, width)
            for h, th, c, tc, width in rows[:stages]]


def overall_loss(pair: Sequence[Maps], truths: Sequence[Truth], boundaries: Sequence[Indices], linear: Tensor,
                 flip: Sequence[int], boundary_flip: Sequence[int], weights: Weights = WEIGHTS,
                 radius: int = RADIUS, reach: float | None = None, sigma: float | Sequence[float] | None = None,
                 within: float | None = None, decode_radius: int = DECODE_RADIUS) -> dict[str, Tensor]:
    """The supervised objective, term by term and weighted: the loss is the sum of the values.

    The self-calibrated term stops before the last stage, as printed here and unlike Eq. 17.

    Args:
        pair, truths: of the pictures and of their twins.
        boundaries: as in ``bali_field``.
        linear, flip, boundary_flip, sigma: as in ``self_calibrated_divergence``.
        radius: as in ``field_divergence``.
        reach: as in ``decode_bali``; without boundaries all votes count.
        within: as in ``coordinate_loss``.
        decode_radius: the ``radius`` of ``decode_bali``.

    Returns:
        scalars "last", "earlier", "field", "coordinates", "calibrated".

    Source: SCPAN Eq. 11 and 19.
    """
    losses = dict.fromkeys(("last", "earlier", "field", "coordinates", "calibrated"), 0)
    for said, true in zip(pair, truths, strict=True):
        heat = said.heatmaps[-1]
        points = decode_bali(heat, landmark_offsets(said.offsets, boundaries, heat.shape[1]), decode_radius,
                             reach if boundaries else None)
        terms = original_divergence(said, true, radius)
        terms["coordinates"] = coordinate_loss(points, true.points, tuple(heat.shape[-2:]), within)
        losses |= {name: losses[name] + getattr(weights, name) * term for name, term in terms.items()}
    stages = [] if not weights.calibrated else self_calibrated_divergence(
        *pair, linear, flip, boundary_flip, sigma, len(pair[0].heatmaps) - 1)
    return losses | {"calibrated": weights.calibrated * sum(stages, losses["last"].new_zeros(()))}


def supervised_terms(said: Maps, points: Tensor, image_size: heatmaps.Size, boundaries: Sequence[Indices],
                     sigma: float | Sequence[float], radius: int, decode_radius: int, reach: float | None,
                     within: float | None, shape: str = "gaussian", per_landmark: bool = False,
                     line_shape: str = "gaussian") -> dict[str, Tensor]:
    """What ``overall_loss`` sums of pictures, (B,) each and without weights: the same numbers, for training.

    Vectors are compared in the squares around the landmarks only, and nothing waits for a GPU: NaN gives NaN.

    Args:
        points: landmarks (B, K, 2) in image pixels.
        boundaries, sigma, radius, shape: as in ``truth``.
        decode_radius, reach, within: as in ``overall_loss``.
        per_landmark: whether vectors are averaged over each landmark's own square, and those means are summed, as SE in
            Eq. 16 has it; if not, over all squares of a boundary together, as in ``field_divergence``.
        line_shape: as in ``targets``.

    Returns:
        "last", "earlier", "field", "coordinates".

    Source: SCPAN Eq. 16 and 18.
    """
    heat = said.heatmaps[-1]
    true, on_map = targets(points, image_size, [maps.shape[-1] for maps in said.heatmaps], boundaries, sigma, shape,
                           False, line_shape)
    *earlier, last = _stages(said, true)
    found = decode_field(heat, said.offsets, boundaries, decode_radius, reach if boundaries else None)
    field = torch.zeros_like(last)
    for length in sorted(set(map(len, boundaries))):   # boundaries of one length at a time, so that nothing is padded
        which = [c for c, line in enumerate(boundaries) if len(line) == length]
        squares = square_offsets(reorder(said.offsets, which), on_map, [boundaries[c] for c in which], radius,
                                 not per_landmark)
        if per_landmark:                                # a row for each square: (B, C, 2, M P) -> (B, C M, 2, P)
            *both, counts = (part.unflatten(-1, (length, -1)) for part in squares)
            squares = (*(part.transpose(2, 3).flatten(1, 2) for part in both), counts.flatten(1, 2))
        field = field + _coins(*squares, radius)
    return {"last": last, "earlier": sum(earlier, torch.zeros_like(last)), "field": field,
            "coordinates": _coordinates(found, on_map, tuple(heat.shape[-2:]), within)}


def calibration_terms(said: Maps, linear: Tensor, flip: Sequence[int], boundary_flip: Sequence[int],
                      sigma: float | Sequence[float] | None = None, last: bool = False) -> Tensor:
    """The self-calibrated divergence of each of B pairs, (B,): pictures and twins in turn.

    Args:
        last: whether the last stage is calibrated too, as in Eq. 17, or all before it, as Eq. 19 and 20 sum.

    Source: SCPAN Eq. 17, 19 and 20.
    """
    stages = list(zip(said.heatmaps, said.confidences, _each(sigma, len(said.heatmaps)), strict=True))
    stages = stages if last else stages[:-1]
    rows = [_calibrated(*maps.unflatten(0, (len(linear), 2)).unbind(1), linear, order, divergence, width)
            for heat, confidence, width in stages for maps, order in ((heat, flip), (confidence, boundary_flip))]
    return sum(rows, linear.new_zeros(len(linear)))


def semi_supervised_loss(supervised: dict[str, Tensor], pair: Sequence[Maps], linear: Tensor, flip: Sequence[int],
                         boundary_flip: Sequence[int], sigma: float | Sequence[float] | None = None
                         ) -> dict[str, Tensor]:
    """The terms of the overall loss and one more, "unlabelled": Eq. 17 before the last stage, without a weight.

    Source: SCPAN Eq. 20.
    """
    stages = self_calibrated_divergence(*pair, linear, flip, boundary_flip, sigma, len(pair[0].heatmaps) - 1)
    return supervised | {"unlabelled": sum(stages, pair[0].offsets.new_zeros(()))}


# ---- helpers -------------------------------------------------------------------------------------------------------

class _MapDivergence(torch.autograd.Function):
    """Of maps h as distributions p, q in one pass: d JS / d h = (g - sum p g) / sum h, g = log(p / m) / 2."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, targets: Tensor) -> Tensor:
        shape, flat = maps.shape[:-1], [m.reshape(-1, m.shape[-1]) for m in (maps, targets)]
        # what fits the cache of a processor at a time; a GPU takes all at once
        rows = max(1, CACHED // maps.shape[-1] if maps.device.type == "cpu" else len(flat[0]))
        found = [_of_rows(*some, ctx.needs_input_grad) for some in zip(*(m.split(rows) for m in flat))]
        value, *slopes = (None if part[0] is None else torch.cat(part) for part in zip(*found))
        ctx.save_for_backward(*(None if slope is None else slope.view(maps.shape) for slope in slopes))
        return value.view(shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        return tuple(None if slope is None else gradient[..., None] * slope for slope in ctx.saved_tensors)


def _of_rows(maps: Tensor, targets: Tensor, needed: Sequence[bool]) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """JS of maps (N, P), (N,), and its slopes (N, P) where they are ``needed``."""
    heat = [m.to(torch.promote_types(m.dtype, torch.float32)).clamp(min=0).add_(EPSILON) for m in (maps, targets)]
    sums = [h.sum(-1, keepdim=True) for h in heat]
    p, q = (h.div_(total) for h, total in zip(heat, sums))
    log_mean, value, slopes = (p + q).div_(2).log_(), 0, []
    for shares, total, m, wanted in zip((p, q), sums, (maps, targets), needed):
        g = shares.log().sub_(log_mean)
        part = torch.linalg.vecdot(shares, g)
        value = value + part / 2
        slopes.append(g.sub_(part[..., None]).div_(2 * total).masked_fill_(m < 0, 0) if wanted else None)
    return value, *slopes


class _Divergence(torch.autograd.Function):
    """Of distributions p and q without zeros over the last axis; m = (p + q) / 2, d JS / d p = log(p / m) / 2.

    By hand, for the chain of logarithms that autograd would keep takes as long as the network.
    """

    @staticmethod
    def forward(ctx: Any, p: Tensor, q: Tensor) -> Tensor:
        log_mean = ((p + q) / 2).log()
        to_p, to_q = p.log().sub_(log_mean).div_(2), q.log().sub_(log_mean).div_(2)
        ctx.save_for_backward(to_p, to_q)
        return (p * to_p).add_(q * to_q).sum(-1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        return tuple(gradient[..., None] * to if needed else None
                     for to, needed in zip(ctx.saved_tensors, ctx.needs_input_grad))


def _peaks(points: Tensor, size: int, sigma: float) -> Tensor:
    """``heatmaps.encode`` of Gaussians: exp(-(dx^2 + dy^2) / 2 sigma^2) is a product."""
    t = torch.arange(size, dtype=points.dtype, device=points.device)
    x, y = (torch.exp(-(t - points[..., i, None]).square() / (2 * sigma**2)) for i in (0, 1))   # (..., K, size)
    return y[..., :, None] * x[..., None, :]


def _each(value: Any, count: int) -> list[Any]:
    """``value`` for each of ``count`` stages, unless it is one for each already."""
    return list(value) if isinstance(value, Sequence) else [value] * count


def _same(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape:
        raise ValueError(f"what is compared must have one shape, got {tuple(a.shape)} and {tuple(b.shape)}")
