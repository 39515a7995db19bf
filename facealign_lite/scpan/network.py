"""The network of SCPAN, and the plainer ones it is compared with. Shapes: B pictures, K landmarks, C boundaries."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facealign_lite import heatmaps, markups
from facealign_lite.nets import Hourglass, Reading, Residual, fold_mirrored, read_maps

from .attention import PoseAttention
from .fields import boundaries_of, decode_bali, landmark_offsets
from .losses import Maps

READINGS = ("votes", "window", "soft_argmax", "printed")
MASKS = ("features", "maps")
SIZES = ("radius", "decode_radius", "reach", "within", "sigma", "sigma_earlier")   # in pixels of a map


@dataclass(frozen=True)
class ScpanConfig:
    """Size and parts of the network. The defaults are the lite one; the paper's values stand beside them.

    ``bali`` and ``attention`` off, and no calibrated loss, leave a stacked hourglass (SHN); one of them on is SHN+BALI
    or SHN+SCPA, both are SCPAN. The last stage is a plain hourglass, so 2 ``stages`` are one SCPA model, 4 are three.

    Lengths are in pixels of the last maps, and mean something for a map of one size only: see ``scaled``. They need not
    be whole; radii are rounded where they are used. Their defaults are those of weights files that do not hold them:
    the paper's R and r, made for maps of 128, on whatever map the network has.
    """

    landmarks: int = 68
    image_size: int = 128                          # paper 256; the last maps are half of it, earlier ones a quarter
    in_channels: int = 1                           # paper, it seems, 3
    channels: int = 64                             # paper, it seems, 256, as in Newell's hourglass
    stages: int = 4                                # T
    depth: int = 3                                 # halvings inside one hourglass; paper: see the counts in ``Scpan``
    stem: tuple[int, ...] = (16, 32, 64)           # widths of the 7x7 convolution, a residual, [halving], more of them
    bali: bool = True                              # boundaries and vectors beside the landmarks' heatmaps
    attention: bool = True                         # between stages
    mask: str = "features"                         # what it is made of, those behind the maps (Eq. 9) or the "maps"
                                                   # themselves ("using the newly generated heatmaps as attention")
    reading: str = "votes"                         # those within ``reach``; "window": the same window without arrows;
                                                   # "soft_argmax" of the same maps; "printed": Eq. 5, all votes
    radius: float = 5                              # R: squares of 11 x 11 carry arrows in training
    decode_radius: float = 3                       # r: the window of 7 x 7 that is read
    reach: float | None = 1.5                      # votes that land farther from the hottest pixel do not count; paper:
                                                   # all count
    within: float | None = 5                       # landmarks read from farther off teach no coordinates; paper: all do
    sigma: float = 1.5                             # of the heat; the paper gives none
    sigma_earlier: float | None = None             # of the earlier maps, in their own pixels; None: as ``sigma``

    def __post_init__(self) -> None:
        for name in ("landmarks", "image_size", "in_channels", "channels", "stages", "depth"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.image_size % (4 << self.depth):
            raise ValueError(f"image_size must be a multiple of {4 << self.depth} at depth {self.depth}, "
                             f"got {self.image_size}")
        if len(self.stem) < 3 or self.stem[-1] != self.channels:
            raise ValueError(f"stem must have at least 3 widths and end at channels={self.channels}, got {self.stem}")
        if self.reading not in READINGS:
            raise ValueError(f"reading must be one of {READINGS}, got {self.reading!r}")
        if self.mask not in MASKS:
            raise ValueError(f"mask must be one of {MASKS}, got {self.mask!r}")
        for name in SIZES:
            length = getattr(self, name)
            if not (length is None and name in ("reach", "within", "sigma_earlier") or length and length > 0):
                raise ValueError(f"{name} must be positive, got {length}")

    def scaled(self, image_size: int) -> "ScpanConfig":
        """This configuration for crops of another size, all its lengths the same shares of the map as before."""
        ratio = image_size / self.image_size
        lengths = {name: getattr(self, name) for name in SIZES}
        return replace(self, image_size=image_size,
                       **{name: length if length is None else length * ratio for name, length in lengths.items()})

    @property
    def square(self) -> int:
        """R in whole pixels, at least 1."""
        return _whole(self.radius)

    @property
    def window(self) -> int:
        """r in whole pixels, at least 1."""
        return _whole(self.decode_radius)

    @property
    def sigmas(self) -> tuple[float, ...]:
        """Width of the heat on the maps of each stage, in their pixels."""
        earlier = self.sigma if self.sigma_earlier is None else self.sigma_earlier
        return (*[earlier] * (self.stages - 1), self.sigma)

    @property
    def heatmap_size(self) -> int:
        """Side of the last maps in pixels."""
        return self.image_size // 2

    @property
    def boundaries(self) -> tuple[tuple[int, ...], ...]:
        """Landmarks of each boundary; none without BALI fields."""
        return boundaries_of(str(self.landmarks))[0] if self.bali else ()


# R and r are the paper's; 3 of 128 pixels for the heat is what 300-W is usually trained with (HRNet: 1.5 of 64)
PAPER = ScpanConfig(image_size=256, in_channels=3, channels=256, depth=5, stem=(64, 128, 128, 256), reading="printed",
                    radius=5, decode_radius=3, reach=None, within=None, sigma=3, sigma_earlier=1.5)
# the same shares of a map of 64; perfect fields decode there to an error of 1.1 % as printed, with this reach to 0.3 %:
# votes for the neighbours are left out (chapter 9)
LITE = ScpanConfig(radius=2.5, decode_radius=1.5, reach=1.5, within=2.5, sigma=1.5, sigma_earlier=0.75)


class Scpan(nn.Module):
    """Hourglasses in a row that hand on what their pose attention leaves, the last one with maps of twice the size.

    Between plain stages stands what the stacked hourglass has there: features and maps, brought back by convolutions.

    Parameters at paper size beside those reported, in millions:

    =======================  =====  ========
    three SCPA models, HNU   15.71     16.99
    four plain stages        15.30     16.05
    one SCPA model, HNU       7.96      8.73
    =======================  =====  ========

    The paper gives neither widths nor depth, and cites the hourglass as Yang, Liu and Zhang (2017) stack it. With 256
    channels and four halvings, as Newell has them, the first sum is 13.14; five come nearest to all three. One SCPA
    model more costs (16.99 - 8.73) / 2 = 4.13 as reported and 3.87 here: an hourglass of 3.42, two residual units of
    0.21 and a head. What is missing at each stage is about one more residual unit. The reported "model sizes" of 195,
    184 and 100 MB are these counts times 12 bytes: weights and both moments of Adam, a checkpoint of the training
    rather than a model.

    Source: SCPAN Fig. 2, section III-B; Newell et al. 2016 for the hourglass.
    """

    inputs = ("image",)

    def __init__(self, config: ScpanConfig = LITE):
        super().__init__()
        self.config = config
        first, fine, *after = config.stem
        width, maps, fields = config.channels, config.landmarks + len(config.boundaries), 2 * len(config.boundaries)
        self.to_2 = nn.Sequential(nn.Conv2d(config.in_channels, first, 7, stride=2, padding=3, bias=False),
                                  nn.BatchNorm2d(first), nn.ReLU(), Residual(first, fine))
        self.to_4 = nn.Sequential(nn.MaxPool2d(2), *(Residual(a, b) for a, b in zip([fine, *after], after)))
        self.hourglasses = nn.ModuleList(Hourglass(config.depth, width) for _ in range(config.stages))
        earlier = range(config.stages - 1)
        seen = maps if config.mask == "maps" else None
        self.between = nn.ModuleList(PoseAttention(width, seen) if config.attention else Features(width)
                                     for _ in earlier)
        self.heads = nn.ModuleList(_head(width, maps) for _ in earlier)
        self.back = nn.ModuleList(nn.Conv2d(maps, width, 1) for _ in earlier if not config.attention)
        self.last = Residual(width, width)
        self.up = nn.Conv2d(width, fine, 1)
        self.out = nn.Sequential(Residual(fine, fine), _head(fine, maps + fields))

    def forward(self, images: Tensor) -> Maps:
        """What every stage says.

        Args:
            images: (B, in_channels, S, S), values in [-0.5, 0.5]; or pairs (B, 2, in_channels, S, S), see ``Pairs``.

        Returns:
            heat of the T stages, each map a distribution over its pixels: landmarks (B, K, S/4, S/4), the last ones
            (B, K, S/2, S/2), and boundaries likewise; vectors (B, C, 2, S/2, S/2), pixels of the last map. Of pairs,
            the pictures and twins in turn: 2 B for B. C is 0 without BALI fields.

        Raises:
            ValueError: if ``images`` has another number of channels or a size the hourglass cannot halve.
        """
        wanted, multiple = self.config.in_channels, 4 << self.config.depth
        if images.ndim not in (4, 5) or images.shape[-3] != wanted or any(n % multiple for n in images.shape[-2:]):
            raise ValueError(f"images must be (B, {wanted}, H, W) or (B, 2, {wanted}, H, W) with H and W multiples of "
                             f"{multiple}, got shape {tuple(images.shape)}")
        if images.ndim == 5:
            images = images.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        return self._maps(self._stages(images)[0])

    def masks(self, images: Tensor) -> list[Tensor]:
        """The attention mask of each SCPA model, in (0, 1): images (B, in_channels, S, S) -> (B, channels, S/4, S/4).

        Source: SCPAN Eq. 9.
        """
        return self._stages(images)[1]

    def _stages(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Logits of all stages, the last ones with vectors, and masks."""
        half = self.to_2(images)                                                # (B, ., S/2, S/2)
        x, said, masks = self.to_4(half), [], []
        for i, (hourglass, between, head) in enumerate(zip(self.hourglasses, self.between, self.heads)):
            if self.config.attention:
                x, pose, mask = between(hourglass(x), head if self.config.mask == "maps" else None)     # Eq. 10
                said.append(pose if self.config.mask == "maps" else head(pose))
                masks.append(mask)
            else:
                features, seen = between(hourglass(x))
                said.append(head(features))
                x = x + seen + self.back[i](said[-1])
        x = self.last(self.hourglasses[-1](x))
        said.append(self.out(half + F.interpolate(self.up(x), scale_factor=2)))
        return said, masks

    def read(self, outputs: Maps, mirrored: bool = False) -> Reading:
        """Landmarks in crop pixels, and how much of each one's heat lies at its peak; see ``nets.reading``.

        Source: SCPAN Eq. 4 and 5, Algorithm 1, steps 3.3 and 3.4.
        """
        size, heat = self.config.image_size, outputs.heatmaps[-1]
        if self.config.reading == "soft_argmax":
            return read_maps(_logits(heat), size, mirrored=mirrored)
        points, scores = read(outputs, self.config)
        found = Reading(heatmaps.to_image(points, tuple(heat.shape[-2:]), size), scores)
        return fold_mirrored(found, size, markups.get(str(heat.shape[1])).flip) if mirrored else found

    def _maps(self, said: list[Tensor]) -> Maps:
        landmarks, boundaries = self.config.landmarks, len(self.config.boundaries)
        *earlier, last = (maps.float() for maps in said)
        last, fields = last.split([landmarks + boundaries, 2 * boundaries], 1)
        heat = [_heat(maps).split([landmarks, boundaries], 1) for maps in (*earlier, last)]
        return Maps([points for points, _ in heat], [lines for _, lines in heat], fields.unflatten(1, (boundaries, 2)))


def read(said: Maps, config: ScpanConfig) -> tuple[Tensor, Tensor]:
    """Landmarks (B, K, 2), in pixels of the last maps, and how much of each one's heat lies at its peak (B, K).

    Args:
        config: of the network; says how to read.

    Source: SCPAN Eq. 4 and 5.
    """
    heat = said.heatmaps[-1].float()
    logits = _logits(heat)
    if config.reading == "soft_argmax":
        return heatmaps.decode(logits, "soft_argmax"), heatmaps.peak(logits)
    arrows = landmark_offsets(said.offsets.float(), config.boundaries, heat.shape[1])
    arrows = torch.zeros_like(arrows) if config.reading == "window" else arrows
    # without arrows all of the window counts
    reach = config.reach if config.reading == "votes" and config.boundaries else None
    return decode_bali(heat, arrows, config.window, reach), heatmaps.peak(logits)


class Features(nn.Module):
    """What stands between two plain stages: the features that the maps are made of, and what the next stage sees."""

    def __init__(self, channels: int):
        super().__init__()
        self.features = Residual(channels, channels)
        self.back = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) -> features and their way back, (B, C, H, W) each."""
        features = self.features(x)
        return features, self.back(features)


def _head(channels: int, maps: int) -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, maps, 1))


def _heat(logits: Tensor) -> Tensor:
    """Softmax over the pixels of each map (B, K, H, W)."""
    return logits.flatten(2).softmax(-1).view_as(logits)


def _logits(heat: Tensor) -> Tensor:
    """Logits whose softmax is the heat, a distribution over the pixels of each map."""
    heat = heat.float()                                                 # a logarithm of half precision is a coarse one
    return heat.clamp(min=torch.finfo(heat.dtype).tiny).log()


def _whole(length: float) -> int:
    return max(1, math.floor(length + 0.5))
