"""ACE-Net: anchors and contours of a face, learnt from sparse landmarks and from rendered faces.

Huang and Tamrakar, ACE-Net: Fine-Level Face Alignment through Anchors and Contours Estimation.

Shapes: B batch, K = 25 maps (12 anchors, then 13 contours, in the order of ``markups``), H W; chains (B, 13, M, 2),
landmarks along each contour, the last one repeated. Points (x, y) in 0-based pixel centres of the heatmap unless said.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from facealign_lite import contours as curves
from facealign_lite import geometry, heatmaps, markups
from facealign_lite.data import CONTOUR_POINTS
from facealign_lite.nets import Hourglass, Reading, Residual, check_images, constant

ANCHORS, CONTOURS = len(markups.ANCHORS), len(markups.CONTOURS)
MAP_FLIP = (*markups.ANCHOR_FLIP, *(ANCHORS + i for i in markups.CONTOUR_FLIP))      # maps as a mirror orders them
BEST = 4.92                     # the paper's greatest contourness at width 2; along diagonals it is 4.995
SLOPE = 1.5                     # contourness that halves what is missing (section 5.3)
WEIGHTS = 0.1, 0.1              # of the landmark and the line loss (section 5.3)
SAMPLES = 100                   # places along a contour at which its heat is looked at for its score
TINY = 1e-12                    # under a root, so that a perfect map has a gradient


# ---- the network (Fig. 11) -----------------------------------------------------------------------------------------

@dataclass(frozen=True)
class AceConfig:
    """Size of an ACE network, and what it learns and is read by.

    The text gives inputs, outputs and stages; the widths are ours. Lengths are in pixels of the fine maps: a network of
    another size than the paper's has them from ``scaled``, or has its reasons.
    """

    maps: int = ANCHORS + CONTOURS
    image_size: int = 128                     # paper 256; the fine maps are half of it, the coarse ones an eighth
    in_channels: int = 1
    widths: tuple[int, int, int] = (32, 64, 96)  # at 1/2, 1/4, 1/8 of the image
    depth: int = 3                            # halvings below 1/8
    stages: int = 2                           # coarse predictions
    sigma: float = 2.0                        # width of the targets; paper 2 on maps of 128. On the lite maps of 64 a
                                              # contour of width 1 would light single pixels, so it is not halved
    read_sigma: float = 3.0                   # width by which maps are read; paper 3: half more than was learnt
    reach: float = 3.0                        # D, how far from its landmarks' line a contour may run; paper 6 of 128
    join: float = 64.0                        # gaps of a contour that are bridged: up to a map's side, as the paper's
                                              # contour is all its pieces. At 6 half a jaw was lost on 4 photos in 100
    low: float = 0.2                          # how much of an ideal contour's score a contour needs everywhere, and
    high: float = 0.4                         # somewhere; the paper gives no thresholds
    alpha: float = 50.0                       # weight of a pixel that is all wrong or all heat. The paper does not say;
                                              # at 10 some maps stayed empty for 500 steps, at 100 they learnt more
                                              # slowly (validation faces)

    def __post_init__(self) -> None:
        for name in ("maps", "image_size", "in_channels", "depth", "stages"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.image_size % (8 << self.depth):
            raise ValueError(f"image_size must be a multiple of {8 << self.depth} at depth {self.depth}, "
                             f"got {self.image_size}")
        if len(self.widths) != 3 or any(w < 2 or w % 2 for w in self.widths):
            raise ValueError(f"widths must be three even numbers, got {self.widths}")
        for name in ("sigma", "read_sigma", "reach"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not self.join >= 0:
            raise ValueError(f"join must not be negative, got {self.join}")
        if not 0 < self.low <= self.high:
            raise ValueError(f"thresholds must be 0 < low <= high, got {self.low} and {self.high}")
        if not self.alpha >= 1:
            raise ValueError(f"alpha must be at least 1, got {self.alpha}")

    @property
    def heatmap_size(self) -> int:
        """Side of the fine heatmaps in pixels."""
        return self.image_size // 2


PAPERS_MAP = 128
PAPERS_LENGTHS = {"sigma": 2.0, "read_sigma": 3.0, "reach": 6.0, "join": 128.0}    # section 5.3; the last is ours


def scaled(config: AceConfig) -> AceConfig:
    """The same network with the paper's lengths, brought from its maps of 128 pixels to maps of this size.

    Source: ACE-Net section 5.3.
    """
    share = config.heatmap_size / PAPERS_MAP
    return replace(config, **{name: share * length for name, length in PAPERS_LENGTHS.items()})


LITE = AceConfig()
PAPER = scaled(AceConfig(image_size=256, widths=(64, 128, 256)))


class AceNet(nn.Module):
    """Down to 1/8, two hourglasses that each predict coarse maps, then up to 1/2 with what was seen on the way down.

    Source: ACE-Net appendix B and Fig. 11.
    """

    inputs = ("image",)

    def __init__(self, config: AceConfig = LITE):
        super().__init__()
        self.config = config
        fine, middle, coarse = config.widths
        self.to_2 = nn.Sequential(nn.Conv2d(config.in_channels, fine, 7, stride=2, padding=3, bias=False),
                                  nn.BatchNorm2d(fine), nn.ReLU(), Residual(fine, fine))
        self.to_4 = nn.Sequential(nn.MaxPool2d(2), Residual(fine, middle))
        self.to_8 = nn.Sequential(nn.MaxPool2d(2), Residual(middle, coarse))
        self.hourglasses = nn.ModuleList(
            nn.Sequential(Hourglass(config.depth, coarse), Residual(coarse, coarse), nn.BatchNorm2d(coarse), nn.ReLU())
            for _ in range(config.stages))
        self.heads = nn.ModuleList(nn.Conv2d(coarse, config.maps, 1) for _ in range(config.stages))
        self.back = nn.ModuleList(nn.Conv2d(config.maps, coarse, 1) for _ in range(config.stages))
        self.up_4 = nn.Conv2d(coarse, middle, 1)
        self.up_2 = nn.Sequential(Residual(middle, middle), nn.Conv2d(middle, fine, 1))
        self.out = nn.Sequential(Residual(fine, fine), Residual(fine, fine), nn.BatchNorm2d(fine), nn.ReLU(),
                                 nn.Conv2d(fine, config.maps, 1))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Heatmaps, coarse to fine; the last is the prediction, the others are supervised only.

        Args:
            images: (B, in_channels, S, S), values in [-0.5, 0.5].

        Returns:
            ``stages`` tensors (B, K, S/8, S/8), then one (B, K, S/2, S/2). Heat, not logits: 1 on an anchor or contour.

        Raises:
            ValueError: if ``images`` has another number of channels or a size the hourglass cannot halve.
        """
        check_images(images, self.config.in_channels, 8 << self.config.depth)
        half = self.to_2(images)                                                # (B, ., S/2, S/2)
        quarter = self.to_4(half)                                            # (B, ., S/4, S/4)
        x, outputs = self.to_8(quarter), []                                   # (B, ., S/8, S/8)
        for hourglass, head, back in zip(self.hourglasses, self.heads, self.back):
            features = hourglass(x)
            outputs.append(head(features))                                      # (B, K, S/8, S/8)
            x = x + features + back(outputs[-1])
        x = quarter + F.interpolate(self.up_4(x), scale_factor=2)
        x = half + F.interpolate(self.up_2(x), scale_factor=2)
        return [*outputs, self.out(x)]                                          # (B, K, S/2, S/2)

    def graph(self, outputs: Sequence[Tensor]) -> dict[str, Tensor]:
        """What of ``read`` is tensors all the way, for ``export``: it ends at the maps that contours are traced on.

        Returns:
            points and scores as in ``read``; ``contours`` (B, 13, S/2, S/2), heat in the order of ``markups.CONTOURS``,
            of which ``read_contours`` makes curves. Of a network with other maps points and scores alone.
        """
        maps, ours = outputs[-1].float(), self.config.maps == ANCHORS + CONTOURS
        found = dict(zip(("points", "scores"), self._anchors(maps[:, :ANCHORS] if ours else maps)))
        return {**found, "contours": maps[:, ANCHORS:]} if ours else found

    def _anchors(self, peaks: Tensor) -> tuple[Tensor, Tensor]:
        """Where peaks (B, N, H, W) are in crop pixels, (B, N, 2), and how high, (B, N)."""
        size = tuple(peaks.shape[-2:])
        points = heatmaps.to_image(read_anchors(peaks, self.config.read_sigma), size, (2 * size[0], 2 * size[1]))
        return points, peaks.amax((-2, -1)).clamp(0, 1)

    @torch.no_grad()
    def read(self, outputs: Sequence[Tensor], mirrored: bool = False) -> Reading:
        """Anchors and contours in crop pixels, from the fine maps.

        Args:
            outputs: what ``forward`` gave.
            mirrored: the second half of the batch are the mirror images of the first: the maps of both are averaged,
                as curves cannot be.

        Returns:
            points and anchors (B, 12, 2), scores (B, 12) the height of the anchors' peaks, contours as from
            ``read_contours`` and how hot each is on average. Of a network with other maps (one a landmark): points
            (B, K, 2) and scores, no anchors and no contours.

        Raises:
            ValueError: for NaN, or an odd number of crops with their mirror images.

        Source: ACE-Net section 3.4.
        """
        maps, ours = outputs[-1].float(), self.config.maps == ANCHORS + CONTOURS
        if mirrored:
            if len(maps) % 2:
                raise ValueError(f"outputs must be of an even number of crops, got {len(maps)}")
            flip = MAP_FLIP if ours else markups.get(str(self.config.maps)).flip
            straight, mirror = maps.chunk(2)
            maps = (straight + mirror.flip(-1)[:, list(flip)]) / 2
        size = tuple(maps.shape[-2:])
        points, scores = self._anchors(maps[:, :ANCHORS] if ours else maps)
        if not ours:
            return Reading(points, scores)
        lines = maps[:, ANCHORS:].cpu()
        found = [read_contours(one, self.config) for one in lines]
        sure = [contour_scores(*each) for each in zip(lines, found)]
        found = [{name: heatmaps.to_image(line, size, (2 * size[0], 2 * size[1])) for name, line in each.items()}
                 for each in found]
        return Reading(points, scores, points, found, contour_scores=sure)


# ---- full supervision ----------------------------------------------------------------------------------------------

def pixel_weight(target: Tensor, heat: Tensor, alpha: float = LITE.alpha) -> Tensor:
    """1 on easy background, up to ``alpha`` where there should be heat or where the map is wrong by 1: same shape.

    The weight is a constant to the gradient (the paper does not say): a weight that could be lowered by lowering
    itself would pull every map towards its target twice.

    Source: ACE-Net Eq. 4.
    """
    if not alpha >= 1:
        raise ValueError(f"alpha must be at least 1, got {alpha}")
    return 1 + (alpha - 1) * torch.maximum(target, (target - heat).abs()).detach()


def full_loss(target: Tensor, heat: Tensor, alpha: float = LITE.alpha, mask: Tensor | None = None,
              printed: bool = False) -> Tensor:
    """Weighted root mean square difference of each set of maps.

    Args:
        target, heat: (..., K, H, W).
        alpha: see ``pixel_weight``.
        mask: of pixels that count, broadcastable; all others add no error, but are counted in |H| as in Eq. 9.
        printed: with 1 / |H| outside the root, as in the paper. That is the root mean square over sqrt(|H|): 640 times
            less on 25 maps of 128 x 128, where the contourness losses, averages of [0, 1], are not scaled so.

    Returns:
        (...): one loss for each set of K maps.

    Raises:
        ValueError: if shapes differ.

    Source: ACE-Net Eq. 3; Eq. 9 with a target of zero and its mask.
    """
    if target.shape != heat.shape or heat.ndim < 3:
        raise ValueError(f"target and heat must both be (..., K, H, W), got {tuple(target.shape)} and "
                         f"{tuple(heat.shape)}")
    squared = pixel_weight(target, heat, alpha) * (target - heat).square()
    squared = squared if mask is None else squared * mask
    root = (squared.flatten(-3).mean(-1) + TINY).sqrt()
    return root / heat.shape[-3:].numel() ** 0.5 if printed else root


# ---- weak supervision ----------------------------------------------------------------------------------------------

def to_loss(score: Tensor, best: float = BEST) -> Tensor:
    """Contourness as a loss in [0, 1]: f(C) = max(0, 1 - 2^((C - best) / 1.5)).

    The maximum is ours: an oblique contour scores up to 4.995, where the paper's f is -0.035. So is the 1.5 as a share
    of ``best``, of use at another width than the paper's, where all scores are others.

    Source: ACE-Net section 5.3, for Eq. 7 and 8.
    """
    return (1 - torch.exp2((score - best) / (SLOPE * (best / BEST)))).clamp(min=0)


def landmark_loss(score: Tensor, points: Tensor, on: Tensor | None = None, reading: str = "bilinear",
                  best: float = BEST) -> Tensor:
    """How far the contour is from passing through its landmarks.

    Args:
        score: contourness (..., H, W) of each contour's heatmap.
        points: (..., M, 2) landmarks on it.
        on: (..., M) bool, which of them count; all if None.
        reading: of scores between pixels, "bilinear" or "bicubic". The paper does not say. Bilinear scores fall short:
            a perfect contour is charged 0.25 on average, and the least where it runs along a row of pixels.
        best: see ``to_loss``.

    Returns:
        (...), in [0, 1]; 0 where none counts.

    Source: ACE-Net Eq. 7.
    """
    lost = to_loss(sample(score, points, reading), best)
    return _mean(lost, torch.ones_like(points[..., 0]) if on is None else on)


def line_loss(score: Tensor, chain: Tensor, reach: float, per_segment: int = 6, reading: str = "bilinear",
              per_pixel: int = 1, best: float = BEST) -> Tensor:
    """How far the contour is from running along the line through its landmarks, up to ``reach`` beside it.

    At ``per_segment`` places of every segment the greatest contourness along the normal, from -reach to reach, counts.

    Args:
        score: contourness (..., H, W).
        chain: (..., M, 2) landmarks in order; repeated ones make segments of no length, which do not count.
        reach: D, heatmap pixels.
        per_pixel: steps a pixel, or a little more, along the normal. The score halves within a pixel of the ridge, so
            that whole pixels miss its height: exact contours of 12 faces are charged 0.35, 0.29 with four steps a pixel
            and 0.27 with ten.
        best: see ``to_loss``.

    Returns:
        (...), in [0, 1].

    Source: ACE-Net Eq. 8. The sum over "pixels on the line" is taken as the integral along it.
    """
    along = chain.diff(dim=-2)                                                           # (..., M - 1, 2)
    length = torch.linalg.vector_norm(along, dim=-1, keepdim=True)
    normal = torch.stack([-along[..., 1], along[..., 0]], -1) / length.clamp(min=1e-6)
    t = (torch.arange(per_segment, device=chain.device) + 0.5) / per_segment
    on_line = chain[..., :-1, None, :] + t[:, None] * along[..., None, :]                # (..., M - 1, T, 2)
    steps = math.ceil(reach) * per_pixel
    d = torch.linspace(-reach, reach, 2 * steps + 1, device=chain.device)
    across = on_line[..., None, :] + d[:, None] * normal[..., None, None, :]             # (..., M - 1, T, D, 2)
    read = sample(score, across.flatten(-4, -2), reading).unflatten(-1, across.shape[-4:-1])  # (..., M - 1, T, D)
    return _mean(to_loss(read.amax(-1), best).mean(-1), length[..., 0])


def far_mask(chain: Tensor, size: int | tuple[int, int], reach: float) -> Tensor:
    """1 on pixels farther than ``reach`` from the line through the landmarks, else 0: (..., H, W).

    Source: ACE-Net Eq. 10.
    """
    far = curves.distances(chain, size, reach, check=False) > (1 - 1e-6) * reach     # cut off at reach, up to rounding
    return far.to(chain.dtype)


def far_loss(heat: Tensor, chain: Tensor, reach: float, alpha: float = LITE.alpha, printed: bool = False) -> Tensor:
    """Heat far from the line through the landmarks: (..., H, W) and (..., M, 2) -> (...).

    Source: ACE-Net Eq. 9; root mean square unless ``printed``, as in ``full_loss``.
    """
    mask = far_mask(chain, tuple(heat.shape[-2:]), reach)[..., None, :, :]
    return full_loss(torch.zeros_like(heat)[..., None, :, :], heat[..., None, :, :], alpha, mask, printed)


def weak_loss(heat: Tensor, chain: Tensor, on: Tensor | None = None, reach: float = PAPER.reach,
              sigma: float = PAPER.sigma, weights: tuple[float, float] = WEIGHTS, alpha: float = PAPER.alpha,
              reading: str = "bilinear", printed: bool = False, per_pixel: int = 1) -> Tensor:
    """Far loss plus weighted landmark and line loss of each contour.

    Args:
        heat: (..., H, W) predicted contour heatmaps.
        chain: (..., M, 2) landmarks in order along each, in heatmap pixels.
        on: (..., M) which of them the contour must pass through; anchors, having maps of their own, need not.
        reach: D; 6 on the paper's 128 x 128 maps.
        sigma: width of the contours, 2 in the paper; what is the best score goes with it.
        weights: of landmark and line loss.
        reading, per_pixel: as in ``line_loss``.
        printed: as in ``full_loss``.

    Returns:
        (...).

    Source: ACE-Net Eq. 11.
    """
    score, _ = curves.contourness(heat, sigma)
    best = round(curves.ideal(sigma), 2)                                                 # the paper's 4.92 at 2
    return (far_loss(heat, chain, reach, alpha, printed)
            + weights[0] * landmark_loss(score, chain, on, reading, best)
            + weights[1] * line_loss(score, chain, reach, reading=reading, per_pixel=per_pixel, best=best))


def sample(maps: Tensor, points: Tensor, reading: str = "bilinear") -> Tensor:
    """Values of (..., H, W) maps at (..., M, 2) points, bilinear or bicubic, 0 outside: (..., M); differentiable."""
    height, width = maps.shape[-2:]
    x, y = points.unbind(-1)
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], -1)          # [-0.5, w - 0.5] -> [-1, 1]
    flat = F.grid_sample(maps.reshape(-1, 1, height, width), grid.reshape(-1, 1, *grid.shape[-2:]).to(maps.dtype),
                         reading, align_corners=False)
    return flat.view(points.shape[:-1])


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean over the last axis, 0 where there is no weight."""
    weights = weights.to(values.dtype)
    return (values * weights).sum(-1) / weights.sum(-1).clamp(min=TINY)


# ---- from landmarks to chains --------------------------------------------------------------------------------------

def chains(landmarks: Tensor, markup: str = "68") -> tuple[Tensor, Tensor]:
    """The landmarks along each contour.

    Args:
        landmarks: (..., K, 2).
        markup: one that knows all 13 contours: "68" or "36".

    Returns:
        chain: (..., 13, M, 2); the last landmark of short contours is repeated.
        on: (13, M) bool: landmarks of the contour that are neither anchors nor repeated.

    Raises:
        ValueError: if the markup lacks a contour or the count is wrong.
    """
    table = markups.get(markup)
    if missing := [name for name in markups.CONTOURS if name not in table.curves]:
        raise ValueError(f"markup must know all contours, {markup!r} lacks {missing}")
    if landmarks.shape[-2:] != (table.count, 2):
        raise ValueError(f"landmarks of markup {markup!r} must be (..., {table.count}, 2), "
                         f"got {tuple(landmarks.shape)}")
    rows = [table.curves[name] for name in markups.CONTOURS]
    longest, anchors = max(map(len, rows)), set(table.anchors.values())
    index = tuple((*row, *[row[-1]] * (longest - len(row))) for row in rows)
    on = tuple(tuple(i < len(row) and row[min(i, len(row) - 1)] not in anchors for i in range(longest)) for row in rows)
    return landmarks[..., constant(index, landmarks.device), :], constant(on, landmarks.device)


def anchors_of(landmarks: Tensor, markup: str = "68") -> tuple[Tensor, Tensor]:
    """Anchors (..., 12, 2) among the landmarks, and which of them the markup has (12,); the others are 0.

    The paper takes all its anchors from the 68 landmarks of 300-W; the two iris centres are not among them.
    """
    known = markups.get(markup).anchors
    has = constant(tuple(name in known for name in markups.ANCHORS), landmarks.device)
    index = constant(tuple(known.get(name, 0) for name in markups.ANCHORS), landmarks.device)
    return landmarks[..., index, :] * has[:, None], has


# ---- reading maps --------------------------------------------------------------------------------------------------

def read(heat: Tensor, config: AceConfig = LITE) -> tuple[NDArray, dict[str, NDArray]]:
    """Anchors (12, 2) and contours of one face from its maps (25, H, W), in pixels of the maps.

    Raises:
        ValueError: if the maps are not (25, H, W) or not finite.

    Source: ACE-Net section 3.4. ``AceNet.read`` does it for many crops, in their pixels.
    """
    if heat.ndim != 3 or len(heat) != ANCHORS + CONTOURS:
        raise ValueError(f"heat must be ({ANCHORS + CONTOURS}, H, W), got {tuple(heat.shape)}")
    heat = heat.detach().float().cpu()
    return (read_anchors(heat[:ANCHORS], config.read_sigma).double().numpy(), read_contours(heat[ANCHORS:], config))


def read_contours(heat: Tensor, config: AceConfig = LITE) -> dict[str, NDArray]:
    """The contours of one face, {name: (M, 2)} in pixels of the maps (13, H, W); those without any heat are left out.

    Where the heat fades, a contour comes in pieces. To the strongest all are joined that go on where it ends, ``join``
    away at most, by straight lines: a name is one curve for whoever draws or measures it. ``contour_scores`` tells what
    share of it is guessed. Pieces that turn back are dropped.

    Raises:
        ValueError: if the maps are not finite.

    Source: ACE-Net section 3.4; by section 3.1 a contour is a set of segments, which need not touch.
    """
    pieces = curves.extract(heat, config.read_sigma, config.low, config.high)
    return {name: curves.join(some, config.join) for name, some in zip(markups.CONTOURS, pieces, strict=True) if some}


def contour_scores(heat: Tensor, found: Mapping[str, NDArray]) -> dict[str, float]:
    """How hot each contour found on maps (13, H, W) is on average along it, in [0, 1]; bridges over gaps are cold."""
    at = {name: geometry.resample(line, SAMPLES) for name, line in found.items()}
    return {name: float(sample(heat[k].clamp(0, 1), torch.from_numpy(at[name]).to(heat)).mean())
            for k, name in enumerate(markups.CONTOURS) if name in at}


def read_anchors(heat: Tensor, sigma: float = LITE.read_sigma) -> Tensor:
    """The centre of the heat within ``sigma`` of the hottest pixel: (..., K, H, W) -> (..., K, 2).

    Source: ACE-Net Eq. 12; negative heat counts as none.
    """
    heat = heat.clamp(min=0)
    hottest = heatmaps.decode(heat, "argmax")                                            # (..., K, 2)
    y, x = torch.meshgrid(*(torch.arange(n, dtype=heat.dtype, device=heat.device) for n in heat.shape[-2:]),
                          indexing="ij")
    near = ((x - hottest[..., 0, None, None]).square() + (y - hottest[..., 1, None, None]).square()) <= sigma**2
    mass = heat * near
    centre = torch.stack([(mass * x).sum((-2, -1)), (mass * y).sum((-2, -1))], -1)
    total = mass.sum((-2, -1))[..., None]
    return torch.where(total > 0, centre / total.clamp(min=TINY), hottest)


# ---- training ------------------------------------------------------------------------------------------------------

class TwoDomains(Dataset):
    """Real and rendered crops in turn: even items are real ones, odd ones rendered (``synthetic`` is 1).

    Args:
        real: ``data.Crops`` of 68 landmarks. No loss looks at their contours, should they have any.
        synthetic: ``data.Crops`` of faces with anchors and contours.
    """

    def __init__(self, real: Dataset, synthetic: Dataset):
        self.parts = real, synthetic

    def __len__(self) -> int:
        return 2 * max(map(len, self.parts))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.at(0, index)

    def at(self, epoch: int, index: int) -> dict[str, Tensor]:
        """Item ``index`` as seen in ``epoch``; the smaller part starts anew, otherwise augmented, when used up."""
        part, nth = self.parts[index % 2], index // 2
        turns = -(-len(self) // (2 * len(part)))
        item = part.at(epoch * turns + nth // len(part), nth % len(part))
        unknown = {"anchors": torch.full((ANCHORS, 2), torch.nan),
                   "contours": torch.full((CONTOURS, CONTOUR_POINTS, 2), torch.nan)}
        return unknown | item | {"synthetic": torch.tensor(float(index % 2))}

    def order(self, rng: np.random.Generator) -> NDArray[np.int64]:
        """All items once, shuffled, but real and rendered in turn: every batch of an even size has halves."""
        real, rendered = (rng.permutation(len(self) // 2) for _ in self.parts)
        return np.stack([2 * real, 2 * rendered + 1], 1).ravel()


def lines_loss(markup: str = "68", exact: str = "never", config: AceConfig = LITE) -> Callable:
    """Eq. 3 for every image: the loss of Line and Line*.

    Args:
        markup: landmarks to draw lines through, "68", or "36" of the same 68.
        exact: when the true contours are the target: "never" (Line), "synthetic", on rendered faces (Line*), "always".
        config: of the network, for its ``sigma`` and ``alpha``.

    Returns:
        a loss for ``training.fit``, on batches of ``TwoDomains``.
    """
    if exact not in ("never", "synthetic", "always"):
        raise ValueError(f"exact must be never, synthetic or always, got {exact!r}")
    sigma, alpha = config.sigma, config.alpha

    def loss(outputs: Sequence[Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        fine, synthetic = _heat(outputs[-1]), batch["synthetic"].bool()
        where = {"never": None, "synthetic": synthetic, "always": torch.ones_like(synthetic)}[exact]
        target, known = _targets(batch, markup, fine.shape[-1], sigma, where)
        return {"coarse": _coarse(outputs, batch, markup, sigma, alpha),
                "fine": full_loss(target, fine, alpha, known[..., None, None]).mean()}
    return loss


def points_loss(config: AceConfig = LITE) -> Callable:
    """Eq. 3 on one map for each of 68 landmarks: the loss of Lmk-line."""
    def loss(outputs: Sequence[Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        targets = (_peaks(_on_map(batch["landmarks"], batch, maps.shape[-1]), maps.shape[-1], config.sigma)
                   for maps in outputs)
        return sum(full_loss(target, _heat(maps), config.alpha).mean() for target, maps in zip(targets, outputs))
    return loss


def ace_loss(markup: str = "68", config: AceConfig = LITE, weights: tuple[float, float] = WEIGHTS,
             reading: str = "bilinear", printed: bool = False, per_pixel: int = 3, layout: str = "any") -> Callable:
    """The loss of ACE-Net: Eq. 3 on rendered faces; on real ones Eq. 3 for the anchors, Eq. 11 for the contours.

    Args:
        markup: of the landmarks of real faces, "68", or "36" of the same 68.
        config: of the network, for its ``sigma``, ``reach`` and ``alpha``.
        weights, reading: as in ``weak_loss``.
        printed: Eq. 3 and 9 as printed, see ``full_loss``.
        per_pixel: as in ``line_loss``.
        layout: of every batch. "in_turn": real, rendered, real, ..., as ``training.fit`` has it from ``TwoDomains`` if
            the size is even. "halves": the real ones first, as ``data.Halves`` has it. Then each loss needs to see one
            half only. With "any" both look at all faces, and half of what they find does not count.

    Returns:
        a loss for ``training.fit``, on batches with ``synthetic``; NaN for batches of another layout.
    """
    if layout not in ("any", "in_turn", "halves"):
        raise ValueError(f"layout must be any, in_turn or halves, got {layout!r}")
    sigma, alpha = config.sigma, config.alpha

    def loss(outputs: Sequence[Tensor], batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        fine, share = _heat(outputs[-1]), batch["synthetic"].float() / len(batch["synthetic"])
        size, half = fine.shape[-1], (len(fine) + 1) // 2
        photo, drawn = {"any": (slice(None), slice(None)), "in_turn": (slice(0, None, 2), slice(1, None, 2)),
                        "halves": (slice(half), slice(half, None))}[layout]
        known = {name: batch[name][drawn] for name in ("image", "anchors", "contours")}
        full = full_loss(_true(known, size, sigma), fine[drawn], alpha, printed=printed)                 # (B',)

        landmarks = _landmarks({name: batch[name][photo] for name in ("image", "landmarks")}, markup, size)
        anchors, has = anchors_of(landmarks, markup)
        chain, on = chains(landmarks, markup)
        sharp = full_loss(_peaks(anchors, size, sigma), fine[photo, :ANCHORS], alpha, has[:, None, None], printed)
        weak = weak_loss(fine[photo, ANCHORS:], chain, on, config.reach, sigma, weights, alpha, reading, printed,
                         per_pixel).mean(1)
        real, rendered = 1 / len(share) - share[photo], share[drawn]                                     # or 0
        if layout != "any":                                         # a face that is in the wrong half makes all NaN
            wrong = (real == 0).sum() + (rendered == 0).sum()
            real = torch.where(wrong == 0, real, torch.nan)
        return {"coarse": _coarse(outputs, batch, markup, sigma, alpha, printed), "full": full @ rendered,
                "anchors": sharp @ real, "weak": weak @ real}
    return loss


def _coarse(outputs: Sequence[Tensor], batch: Mapping[str, Tensor], markup: str, sigma: float, alpha: float,
            printed: bool = False) -> Tensor:
    """Eq. 3 on the coarse maps, against lines for every image (appendix B)."""
    target, has = _targets(batch, markup, outputs[0].shape[-1], sigma, None)
    return sum(full_loss(target, _heat(maps), alpha, has[..., None, None], printed).mean() for maps in outputs[:-1])


def _targets(batch: Mapping[str, Tensor], markup: str, size: int, sigma: float,
             exact: Tensor | None) -> tuple[Tensor, Tensor]:
    """Target maps (B, 25, size, size) and which of them are known (B, 25): lines, or true contours where ``exact``."""
    landmarks = _landmarks(batch, markup, size)
    anchors, has = anchors_of(landmarks, markup)
    lines, _ = chains(landmarks, markup)
    has = has.expand(len(anchors), -1)
    if exact is not None:                                          # choose before anything is drawn: half the work
        anchors = torch.where(exact[:, None, None], _on_map(batch["anchors"], batch, size).nan_to_num(), anchors)
        true = _on_map(batch["contours"], batch, size).nan_to_num()
        rest = lines[..., -1:, :].expand(-1, -1, true.shape[-2] - lines.shape[-2], -1)
        lines = torch.where(exact[:, None, None, None], true, torch.cat([lines, rest], -2))
        has = has | exact[:, None]
    known = torch.cat([has, has.new_ones(len(has), CONTOURS)], 1)
    return torch.cat([_peaks(anchors, size, sigma), curves.encode(lines, size, sigma, check=False)], 1), known


def _true(batch: Mapping[str, Tensor], size: int, sigma: float) -> Tensor:
    """Target maps (B, 25, size, size) of faces whose contours are known, and of others anything finite."""
    anchors, lines = (_on_map(batch[name], batch, size).nan_to_num() for name in ("anchors", "contours"))
    return torch.cat([_peaks(anchors, size, sigma), curves.encode(lines, size, sigma, check=False)], 1)


def _heat(maps: Tensor) -> Tensor:
    """Maps as the losses want them: float32, and map by map in memory, where a network trains with channels last."""
    return maps.float().contiguous()


def _peaks(points: Tensor, size: int, sigma: float) -> Tensor:
    """Maps of points, Eq. 1."""
    return heatmaps.encode(points, size, sigma, "parabola", check=False)


def _landmarks(batch: Mapping[str, Tensor], markup: str, size: int) -> Tensor:
    """Landmarks of ``markup`` among the 68 of the batch, in pixels of maps of that size."""
    landmarks = _on_map(batch["landmarks"], batch, size)
    return landmarks if markup == "68" else landmarks[:, constant(tuple(markups.SPARSE), landmarks.device)]


def _on_map(points: Tensor, batch: Mapping[str, Tensor], size: int) -> Tensor:
    return heatmaps.to_heatmap(points, tuple(batch["image"].shape[-2:]), size)
