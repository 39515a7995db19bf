"""TAB: boundaries of the face as heatmaps, and a network that turns them into landmarks.

Xie, Wan, Shen, Lai: Think about boundary: Fusing multi-level boundary information for landmark heatmap regression.

Shapes: B batch, K landmarks, 16 maps (15 boundaries in the order of ``markups.BOUNDARIES``, then their union), H W.
Points (x, y) in 0-based pixel centres of the map unless said. Levels i, j count from 0, where the paper counts from 1.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional as F

from facealign_lite import contours, heatmaps, markups
from facealign_lite.arrays import floats, number
from facealign_lite.heatmaps import Size
from facealign_lite.nets import (
    VGG,
    Hierarchical,
    HourglassStack,
    Reading,
    Residual,
    ResNet,
    ResNetConfig,
    check_images,
    constant,
    landmark_loss,
    mse_loss,
    read_maps,
)
from facealign_lite.nets.resnet import normalize

MAPS = len(markups.BOUNDARIES) + 1
REACH = 3        # widths beyond which a boundary has no heat, as in Wu et al. 2018
PIECES = 16      # a curve has at least so many straight pieces, and four from landmark to landmark
START = 0.001    # standard deviation of the first weights of a head; the paper draws whole hourglasses so, see
                 # ``start_small``
TINY = 1e-6


# ---- boundaries ----------------------------------------------------------------------------------------------------

def boundary_maps(landmarks: ArrayLike | Tensor, markup: str, size: Size, sigma: float = 1.0,
                  check: bool = True) -> Tensor:
    """Heatmaps of the 15 boundaries, and of their union: exp(-d^2 / 2 sigma^2) of the distance d, 0 from 3 sigma on.

    Args:
        landmarks: (..., K, 2) in map pixels; they may lie outside the map.
        markup: "98", "68", "36", "29" or "19".
        size: of the maps, one side or (height, width).
        sigma: > 0, map pixels; 1 on maps of 64.
        check: whether to look for NaN, which makes the processor wait for a GPU; if not, NaN gives NaN.

    Returns:
        (..., 16, H, W) in [0, 1].

    Raises:
        ValueError: for another markup or number of landmarks, NaN, an empty size, or a sigma that is not positive.

    Source: TAB section 3.1 and Fig. 3; the profile is that of Wu et al. 2018 (Look at Boundary), whom it follows.
    """
    sigma = number(sigma, "sigma")
    if not 1e-3 <= sigma <= 1e6:
        raise ValueError(f"sigma must be positive, from 0.001 to a million, got {sigma}")
    nearest = {k: each for rows, lines in _alike(landmarks, markup)
               for k, each in zip(rows, contours.distances(lines, size, REACH * sigma, check).unbind(-3))}
    distance = torch.stack([nearest[k] for k in range(len(nearest))], -3)                       # (..., 15, H, W)
    distance = torch.cat([distance, distance.amin(-3, keepdim=True)], -3)                       # the union: the nearest
    heat = torch.exp(-distance.square() / (2 * sigma**2))
    return torch.where(distance >= REACH * sigma * (1 - TINY), 0.0, heat)                       # NaN is not overlooked


def boundary_curves(landmarks: ArrayLike | Tensor, markup: str) -> list[Tensor]:
    """The 15 boundaries as dense lines through their landmarks: (..., K, 2) -> (..., M, 2) each.

    A boundary of one landmark is a line of no length. Raises as ``boundary_maps``.
    """
    found = {k: line for rows, lines in _alike(landmarks, markup) for k, line in zip(rows, lines.unbind(-3))}
    return [found[k] for k in range(len(found))]


def _alike(landmarks: ArrayLike | Tensor, markup: str) -> Iterator[tuple[list[int], Tensor]]:
    """Boundaries with equally many landmarks at a time: which of the 15 they are, and their lines (..., n, M, 2)."""
    points = landmarks if isinstance(landmarks, Tensor) else torch.from_numpy(floats(landmarks, "landmarks"))
    points = points if points.is_floating_point() else points.double()
    chains, count = markups.boundaries(markup), markups.get(markup).count
    if points.shape[-2:] != (count, 2):
        raise ValueError(f"landmarks of markup {markup!r} must be (..., {count}, 2), got {tuple(points.shape)}")
    for long in sorted(set(map(len, chains))):
        rows = [k for k, chain in enumerate(chains) if len(chain) == long]
        index = constant(tuple(tuple(chains[k]) for k in rows), points.device)
        yield rows, smooth(points[..., index, :], max(4, PIECES // max(1, long - 1)))


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
    # A parabola's slope in the middle of its three points is the mean of the two chords' slopes, the shorter chord
    # weighing more. A chord's slope is the mean of the slopes at its two ends, so that at an outer end is
    # 2 (slope of the chord) - (slope in the middle).
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

    A band of Gaussian heat above 0.5 is 2.35 sigma wide. Where both bands are empty the overlap is 1.

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


# ---- the networks (Fig. 4) -----------------------------------------------------------------------------------------

UNITS = {"residual": Residual, "hierarchical": Hierarchical}
STEMS = ("hourglass", "resnet", "vgg")
LOSSES = {"soft_argmax": landmark_loss, "center_of_mass": mse_loss}      # what makes maps that are read so


@dataclass(frozen=True)
class TabConfig:
    """Size of a TAB network. The defaults are the lite one; the paper's values stand beside them."""

    landmarks: int = 68                       # paper 98, 68, 29 or 19
    image_size: int = 128                     # paper 256
    in_channels: int = 1                      # paper 3
    stride: int = 2                           # image pixels a map pixel; paper 4, so its maps are 64 wide, as ours
    stem: str = "vgg"                         # "hourglass", "resnet" or "vgg" (Table 8)
    channels: int = 32                        # paper 256: that is where both public stems end
    stacks: int = 2
    depth: int = 4                            # halvings inside one hourglass
    unit: str = "residual"                    # paper "hierarchical", that of the hourglass it cites
    widths: tuple[int, ...] = (16, 32, 64, 96)   # of the U-Net's levels and its bottom. The paper gives neither; three
                                              # levels are the fewest at which fusion 3 differs from 2. See ``PAPER``
    scales: str = "multi"                     # or "single": features of the finest scale only (Table 9)
    fusion: int = 2                           # t: levels of features that enter one level of the encoder (Table 10)
    sigma: float = 1.0                        # width of a boundary and of a landmark's heat in map pixels; the paper
    landmark_sigma: float = 1.2               # gives neither, and both are for maps of 64, as its and ours are
    reading: str = "soft_argmax"              # of logits, which learn several times faster; paper "center_of_mass" of
                                              # heat, as its mean squared loss gives

    def __post_init__(self) -> None:
        for name in ("landmarks", "image_size", "in_channels", "channels", "stacks", "depth"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name, known in (("stem", STEMS), ("unit", tuple(UNITS)), ("scales", ("multi", "single")),
                            ("stride", (2, 4)), ("reading", tuple(LOSSES))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        if self.channels % 8:
            raise ValueError(f"channels must be a multiple of 8, got {self.channels}")
        if not 1 <= self.levels <= self.depth + 1 or min(self.widths) < 1:
            raise ValueError(f"widths must be 2 to {self.depth + 2} positive numbers at depth {self.depth}, "
                             f"got {self.widths}")
        if not 0 <= self.fusion <= self.levels:
            raise ValueError(f"fusion must be in 0 .. {self.levels}, the levels of the U-Net, got {self.fusion}")
        if self.image_size % self.multiple:
            raise ValueError(f"image_size must be a multiple of {self.multiple}, got {self.image_size}")
        for name in ("sigma", "landmark_sigma"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    @property
    def levels(self) -> int:
        """s: levels of the U-Net above its bottom, each with boundary features of its size."""
        return len(self.widths) - 1

    @property
    def multiple(self) -> int:
        """What the sides of an image must be a multiple of."""
        return self.stride << max(self.depth, self.levels)

    @property
    def heatmap_size(self) -> int:
        """Side of the maps in pixels."""
        return self.image_size // self.stride


def scaled(config: TabConfig) -> TabConfig:
    """The same network with the widths of its targets brought from maps of 64 pixels to maps of its size."""
    share = config.heatmap_size / 64
    return replace(config, sigma=share * TabConfig.sigma, landmark_sigma=share * TabConfig.landmark_sigma)


LITE = TabConfig()
# The U-Net is the common one, four halvings, at half its common width: of the common sizes it comes nearest to the
# 64.5 and 86.9 MB that the paper reports (59.6 and 81.9 of 2^20 bytes), and the hourglass has features for each level.
PAPER = scaled(TabConfig(landmarks=98, image_size=256, in_channels=3, stride=4, channels=256, unit="hierarchical",
                         widths=(32, 64, 128, 256, 512), reading="center_of_mass"))


class Backbone(nn.Module):
    """The first layers of a network that learnt on ImageNet, as a stem."""

    def __init__(self, body: VGG | ResNet):
        super().__init__()
        self.body = body

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 1 or 3, H, W) in [-0.5, 0.5] -> features of its last stage."""
        features = self.body(normalize(images))
        return features if isinstance(features, Tensor) else features[-1]


def stem(config: TabConfig) -> nn.Module:
    """The layers from the image to (B, channels, h, w), the size of the maps.

    At stride 4 and 256 channels "vgg" and "resnet" are the first layers of VGG16 with batch norm and of ResNet-50, and
    ``stem(...).body.load_weights(path)`` takes their public weights.

    Source: TAB section 3.1 and Table 8.
    """
    c, small = config.channels, config.stride == 2
    if config.stem == "vgg":
        return Backbone(VGG(((c // 4,) * 2, (c,) * 2) if small else ((c // 4,) * 2, (c // 2,) * 2, (c,) * 3)))
    if config.stem == "resnet":
        body = ResNet(ResNetConfig(depth=50, stages=1, width=c // 4))
        if small:
            body.maxpool = nn.Identity()
        return Backbone(body)
    unit = UNITS[config.unit]
    return nn.Sequential(
        nn.Conv2d(config.in_channels, c // 4, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(c // 4), nn.ReLU(),
        unit(c // 4, c // 2), nn.Identity() if small else nn.MaxPool2d(2), unit(c // 2, c // 2), unit(c // 2, c))


class SCBE(HourglassStack):
    """Self-calibrated boundary estimation: boundary maps from an image, and the features that gave them.

    What the stem saw enters every hourglass, beside the features and the maps of the hourglass before. With two, as in
    the paper, that is bit for bit the stacked hourglass it builds on, which does so, too; from the third on it differs.

    The hourglass and its unit have the weights of the one that the paper cites (Bulat and Tzimiropoulos 2017); that one
    pools by average, this one by maximum, as the first stacked hourglass does.

    Source: TAB Eq. 1 and Fig. 4, left.
    """

    back = "back_maps"

    def __init__(self, config: TabConfig = LITE):
        super().__init__(stem(config), config.channels, MAPS, config.stacks, config.depth, UNITS[config.unit])
        self.config = config
        for head in self.heads:                                                 # first maps: nearly empty
            nn.init.normal_(head.weight, std=START)
            nn.init.zeros_(head.bias)

    def forward(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Boundary maps of every stack, and features for ``BALT``.

        Args:
            images: (B, in_channels, H, W), values in [-0.5, 0.5].

        Returns:
            maps: ``stacks`` tensors (B, 16, h, w), the last being the prediction: heat, 1 on a boundary.
            features: B_1 .. B_s, (B, channels, h, w), then each of half the size. The first are those the maps were
                read from; the others are what the last hourglass gives at each resolution on its way up, before the
                unit that leads to the next (the paper: "the last hourglass block"); or with scales "single" means of
                the first, which then enters every level. To let it enter its own level alone would be as faithful.

        Raises:
            ValueError: if ``images`` has another number of channels or a size that cannot be halved.
        """
        check_images(images, self.config.in_channels, self.config.multiple)
        maps, features = self.run(images, from_stem=True)                       # (B, C, h, w), (B, C, h/2, w/2), ...
        if self.config.scales == "multi":
            return maps, features[:self.config.levels]
        return maps, [features[0], *(F.avg_pool2d(features[0], 2**i) for i in range(1, self.config.levels))]


def start_small(model: SCBE, std: float = START) -> SCBE:
    """Draw the weights of a boundary part from N(0, std), but for its stem, as the paper does; biases are 0. In place.

    A unit adds what its convolutions give to its input, so with weights as small as these it starts as the identity.

    Source: TAB section 4.3.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d) and not name.startswith("stem."):
            nn.init.normal_(module.weight, std=std)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return model


class BALT(nn.Module):
    """Boundary-aware landmark transform: a U-Net from boundary maps to landmark maps, fed with boundary features.

    Where Eq. 4 adds features of a finer level, they have another width and, two levels up, four times the side: here
    every pair of levels has a transition of its own, and as many poolings as it needs.

    Source: TAB Eq. 2 to 5 and Fig. 4, right.
    """

    def __init__(self, config: TabConfig = LITE):
        super().__init__()
        self.config = config
        widths, s = config.widths, config.levels
        self.first = double_convolution(MAPS, widths[0])
        self.down = nn.ModuleList(double_convolution(a, b) for a, b in zip(widths, widths[1:]))
        self.up = nn.ModuleList(double_convolution(widths[i] + widths[i + 1], widths[i]) for i in range(s))
        self.transitions = nn.ModuleDict(
            {f"{j}to{i}": nn.Conv2d(config.channels, widths[i], 1) for i in range(s) for j in fused(i, config.fusion)})
        self.head = nn.Conv2d(widths[0], config.landmarks, 1)

    def forward(self, boundaries: Tensor, features: Sequence[Tensor]) -> Tensor:
        """Landmark maps.

        Args:
            boundaries: (B, 16, h, w), from ``SCBE`` or true ones.
            features: s tensors (B, channels, h / 2^i, w / 2^i). With fusion 0 they are ignored.

        Returns:
            (B, K, h, w).
        """
        *kept, x = self.encode(boundaries, features)
        for i in reversed(range(self.config.levels)):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = self.up[i](torch.cat([kept[i], x], 1))                          # Eq. 5
        return self.head(x)

    def encode(self, boundaries: Tensor, features: Sequence[Tensor]) -> list[Tensor]:
        """F'_1 .. F'_s, the sums that the decoder will see, (B, widths[i], h / 2^i, w / 2^i), and the bottom F_s+1."""
        x, kept = self.first(boundaries), []                                    # F_1
        for i, down in enumerate(self.down):
            x = x + self.fusion(features, i) if self.config.fusion else x
            kept.append(x)                                                      # F'
            x = down(F.max_pool2d(x, 2))                                        # Eq. 3 and 4
        return [*kept, x]

    def fusion(self, features: Sequence[Tensor], level: int) -> Tensor:
        """What the boundary features add to one level of the encoder: B' and the sum of the B'' of Eq. 4. The
        configuration's fusion must not be 0."""
        total = self.transitions[f"{level}to{level}"](features[level])
        for j in fused(level, self.config.fusion)[:-1]:
            total = total + F.max_pool2d(self.transitions[f"{j}to{level}"](features[j]), 2 ** (level - j))
        return total


def fused(level: int, fusion: int) -> range:
    """Levels whose features enter this one: itself and up to t - 1 finer ones, none with t = 0.

    Source: TAB Eq. 4, where m = max(1, i - t + 1).
    """
    return range(max(0, level - fusion + 1), level + 1) if fusion else range(0)


def double_convolution(before: int, after: int) -> nn.Sequential:
    """Twice 3x3 convolution, batch norm, rectifier: (B, before, H, W) -> (B, after, H, W)."""
    def layers(a: int, b: int) -> list[nn.Module]:
        return [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()]
    return nn.Sequential(*layers(before, after), *layers(after, after))


class TAB(nn.Module):
    """Boundaries first, then landmarks from them.

    Source: TAB Fig. 4.
    """

    inputs = ("image",)

    def __init__(self, config: TabConfig = LITE):
        super().__init__()
        self.config = config
        self.scbe, self.balt = SCBE(config), BALT(config)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Boundary maps of every stack, (B, 16, h, w) each, then the landmark maps (B, K, h, w).

        The landmark maps are logits where the config says ``reading`` "soft_argmax", else Gaussian heat, as
        ``transform_loss`` teaches. Raises as ``SCBE``.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.is_frozen):
            maps, features = self.scbe(images)
        return [*maps, self.balt(maps[-1], features)]

    def read(self, outputs: Sequence[Tensor], mirrored: bool = False) -> Reading:
        """Landmarks in crop pixels, from the landmark maps; see ``nets.reading``."""
        height, width = outputs[-1].shape[-2:]
        stride = self.config.stride
        return read_maps(outputs[-1], (stride * height, stride * width), self.config.reading, mirrored)

    @property
    def is_frozen(self) -> bool:
        """Whether nothing in the boundary part learns."""
        return not any(p.requires_grad for p in self.scbe.parameters())

    def freeze(self) -> "TAB":
        """Stop the boundary part from learning, for stage two; its batch norm statistics stay as they are, too.

        Source: TAB section 4.3. What the paper calls end to end is trained in two parts.
        """
        self.scbe.requires_grad_(False)
        self.scbe.eval()
        return self

    def train(self, mode: bool = True) -> "TAB":
        """As ``nn.Module.train``, but a frozen part stays in eval mode."""
        super().train(mode)
        if self.is_frozen:
            self.scbe.eval()
        return self

    def load_stem(self, path: str | os.PathLike) -> "TAB":
        """Load public ImageNet weights into the stem, from a safetensors file.

        Raises:
            ValueError: if the stem is not of VGG16 or ResNet-50 and their size, or the file does not hold its weights.
            OSError: if the file cannot be read.
        """
        if not isinstance(self.scbe.stem, Backbone):
            raise ValueError(f"stem must be resnet or vgg to take public weights, got {self.config.stem!r}")
        self.scbe.stem.body.load_weights(path)
        return self


# ---- losses --------------------------------------------------------------------------------------------------------

def boundary_loss(markup: str = "68", config: TabConfig = LITE) -> Callable:
    """Stage one: the mean squared difference to the boundary maps, summed over stacks (intermediate supervision).

    Args:
        markup: of the landmarks.
        config: of the network, for its ``sigma``.

    Returns:
        a loss for ``training.fit`` on what ``SCBE`` gives and batches with ``landmarks`` of ``markup`` in crop pixels.

    Source: TAB section 3.1 and 4.3.
    """
    markups.boundaries(markup)

    def loss(outputs: tuple[Sequence[Tensor], Sequence[Tensor]], batch: Mapping[str, Tensor]) -> Tensor:
        maps, _ = outputs
        target = boundary_targets(batch, markup, tuple(maps[-1].shape[-2:]), config.sigma)
        return sum(boundary_mse(heat.float(), target).mean() for heat in maps)
    return loss


def boundary_targets(batch: Mapping[str, Tensor], markup: str, size: tuple[int, int], sigma: float = 1.0) -> Tensor:
    """Boundary maps (B, 16, H, W) of a batch of crops."""
    points = heatmaps.to_heatmap(batch["landmarks"], tuple(batch["image"].shape[-2:]), size)
    return boundary_maps(points, markup, size, sigma, check=False)


def transform_loss(config: TabConfig = LITE) -> Callable:
    """Stage two: the landmark maps that ``TAB`` gives, against those of the batch.

    Args:
        config: of the network. ``reading`` "center_of_mass": the mean squared difference to Gaussian heatmaps of height
            1, as in the paper. "soft_argmax": cross entropy and error of the soft-argmax, as the other networks here
            learn, several times faster. ``landmark_sigma`` is the width of the Gaussians; the paper gives none.

    Returns:
        a loss for ``training.fit``, on what ``TAB`` gives; it ignores the boundary maps.

    Source: TAB section 4.3.
    """
    return lambda outputs, batch: LOSSES[config.reading](outputs[-1:], batch, config.landmark_sigma)
