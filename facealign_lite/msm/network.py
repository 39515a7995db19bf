"""The landmark networks of MSM: two hourglasses that come up by deconvolution (Fig. 3), and the regression baseline.

Shapes: images (B, C, S, S), heatmaps (B, K, H, W) with H = W = S / 2^pools, points (x, y) in pixels of the crop.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from facealign_lite import markups
from facealign_lite.heatmaps import decode, to_image
from facealign_lite.nets import Hourglass, Reading, Residual, fold_mirrored, landmark_loss
from facealign_lite.nets.resnet import Bottleneck, layer

from .exemplars import RADIUS, clean_score, peak_heat

SIGMA = 1.2      # of the target peaks, heatmap pixels, as in ``nets.landmark_loss``; the paper gives no number
READINGS = ("center_of_mass", "argmax", "quarter", "dark", "soft_argmax")     # of heat; the last one of the logits


# ---- hourglasses ---------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class HeatConfig:
    """Size of the stacked hourglass. The defaults are the lite network; the paper's values stand beside them."""

    landmarks: int = 68
    image_size: int = 128                            # as in the paper
    in_channels: int = 1                             # paper 3
    pools: int = 2                                   # paper 1: the map is half the crop; here a quarter
    channels: int = 40                               # paper 256
    stacks: int = 2                                  # as in the paper
    depth: int = 4                                   # as in the paper
    stem: tuple[int, int, int] = (8, 16, 32)         # of the three 3 x 3 convolutions; the paper does not say
    # how the maps are read
    sigma: float = SIGMA                             # of the peaks it is trained for, map pixels; the paper: no number
    reading: str = "center_of_mass"                  # paper "argmax" (Eq. 8), off by up to half a map pixel
    radius: float = 0.75                             # r of Eq. 9, map pixels: the square that RADIUS is on the paper's
                                                     # map, (2 r + 1) / 32 = 5 / 64; r = 2 would be four times as large

    def __post_init__(self) -> None:
        for name in ("landmarks", "image_size", "in_channels", "pools", "stacks", "depth"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.channels < 2 or self.channels % 2:
            raise ValueError(f"channels must be even and at least 2, got {self.channels}")
        if self.image_size % self.multiple:
            raise ValueError(f"image_size must be a multiple of {self.multiple}, got {self.image_size}")
        if len(self.stem) != 3 or min(self.stem) < 1:
            raise ValueError(f"stem must be three positive widths, got {self.stem}")
        if self.reading not in READINGS:
            raise ValueError(f"reading must be one of {READINGS}, got {self.reading!r}")
        clean_score(self.sigma, self.radius)                     # looks at both

    @property
    def multiple(self) -> int:
        """What sides of images must be a multiple of, to be halved down to the bottom of the hourglass."""
        return 1 << self.pools + self.depth

    @property
    def heatmap_size(self) -> int:
        """Side of the heatmaps in pixels."""
        return self.image_size >> self.pools

    @property
    def clean_score(self) -> float:
        """The score of a landmark that is seen as clearly as can be, see ``exemplars.clean_score``."""
        return clean_score(self.sigma, self.radius)


HEAT_LITE = HeatConfig()
# peaks as wide in the crop as the lite ones, on a map of twice the side
HEAT_PAPER = HeatConfig(in_channels=3, pools=1, channels=256, stem=(64, 128, 128), sigma=2 * SIGMA, reading="argmax",
                        radius=RADIUS)


def deconvolution(channels: int) -> nn.Sequential:
    """What brings features up to twice the resolution: a residual unit and a deconvolution.

    The deconvolution is 4 x 4 of stride 2 and starts as bilinear interpolation plus noise: the paper gives neither.
    One of 2 x 2 pixels, between whose kernels nothing passes, leaves a checkerboard in the maps that argmax falls for.

    Source: MSM Fig. 3.
    """
    up = nn.Sequential(Residual(channels, channels), nn.BatchNorm2d(channels), nn.ReLU(),
                       nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1, bias=False))
    with torch.no_grad():
        tent = torch.tensor([0.25, 0.75, 0.75, 0.25])
        each = range(channels)
        up[-1].weight.mul_(0.3)[each, each] += torch.outer(tent, tent)
    return up


class HeatNet(nn.Module):
    """The two-stack hourglass: a map of heat for every landmark.

    As in the text every convolution but the first has batch normalisation and ReLU before it. Between stacks features
    and heat are added to the input, as Newell et al. do; the caption's 2 x L vector is what argmax makes of the maps.

    Source: MSM Fig. 3, section III-B.
    """

    inputs = ("image",)

    def __init__(self, config: HeatConfig = HEAT_LITE):
        super().__init__()
        self.config = config
        first, second, third = config.stem
        width, last = config.channels, config.stacks - 1
        self.stem = nn.Sequential(
            nn.Conv2d(config.in_channels, first, 3, padding=1), _convolution(first, second, 3), nn.MaxPool2d(2),
            _convolution(second, third, 3), Residual(third, width),
            *(nn.MaxPool2d(2) for _ in range(config.pools - 1)))
        self.hourglasses = nn.ModuleList(Hourglass(config.depth, width, rise=deconvolution)
                                         for _ in range(config.stacks))
        self.features = nn.ModuleList(nn.Sequential(Residual(width, width), _convolution(width, width, 1))
                                      for _ in range(config.stacks))
        self.heads = nn.ModuleList(_convolution(width, config.landmarks, 1, True) for _ in range(config.stacks))
        self.back_features = nn.ModuleList(_convolution(width, width, 1) for _ in range(last))
        self.back_heat = nn.ModuleList(nn.Conv2d(config.landmarks, width, 1) for _ in range(last))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Logits of every stack, the last being the prediction; ``heat`` makes heat of them.

        The paper says neither what its maps are nor under which loss they are learnt. Under squared differences to
        peaks of height 1 they stay empty for long, since an empty map is nearly right everywhere; trained by
        ``nets.landmark_loss`` they are probabilities.

        Args:
            images: (B, in_channels, S, S), values in [-0.5, 0.5].

        Returns:
            ``stacks`` tensors (B, K, H, W).

        Raises:
            ValueError: if ``images`` has another number of channels or a size the hourglass cannot halve.
        """
        wanted, multiple = self.config.in_channels, self.config.multiple
        if images.ndim != 4 or images.shape[1] != wanted or images.shape[2] % multiple or images.shape[3] % multiple:
            raise ValueError(f"images must be (B, {wanted}, H, W) with H and W multiples of {multiple}, "
                             f"got shape {tuple(images.shape)}")
        x, outputs = self.stem(images), []
        for i, (hourglass, features, head) in enumerate(zip(self.hourglasses, self.features, self.heads)):
            f = features(hourglass(x))                                          # (B, C, H, W)
            outputs.append(head(f))                                             # (B, K, H, W)
            if i < self.config.stacks - 1:
                x = x + self.back_features[i](f) + self.back_heat[i](outputs[-1])
        return outputs

    def read(self, outputs: Sequence[Tensor], mirrored: bool = False) -> Reading:
        """Landmarks in crop pixels and their scores, from the maps of the last stack; see ``nets.reading``.

        A score is that of Eq. 9 over the one of a clean peak, at most 1.
        """
        points, w = look(outputs[-1], self.config)
        reading = Reading(points, (w / self.config.clean_score).clamp(max=1))
        flip = markups.get(str(self.config.landmarks)).flip
        return fold_mirrored(reading, self.config.image_size, flip) if mirrored else reading


def heat_loss(config: HeatConfig = HEAT_LITE) -> Callable[[Sequence[Tensor], Mapping[str, Tensor]], Tensor]:
    """``nets.landmark_loss`` for peaks of ``config.sigma``, those that the scores are measured by."""
    sigma = config.sigma

    def loss(outputs: Sequence[Tensor], batch: Mapping[str, Tensor]) -> Tensor:
        return landmark_loss(outputs, batch, sigma)
    return loss


def look(logits: Tensor, config: HeatConfig) -> tuple[Tensor, Tensor]:
    """Lines 3 and 4 of Algorithm 2: where the landmarks are, and how hot their places.

    Args:
        logits: (B, K, H, W) of a crop.
        config: ``sigma``, ``reading`` and ``radius`` are read.

    Returns:
        points (B, K, 2) in crop pixels, and the scores of Eq. 9 (B, K), float32, in units of a peak's height.
    """
    warm, size = heat(logits, config.sigma), tuple(logits.shape[-2:])
    points = decode(logits.float() if config.reading == "soft_argmax" else warm, config.reading)
    return to_image(points, size, config.image_size), peak_heat(warm, config.radius)


def heat(logits: Tensor, sigma: float = SIGMA) -> Tensor:
    """Logits (..., H, W) as heat: softmax over the map, so scaled that the Gaussian aimed at has height 1.

    A map sure of its place is a peak of about 1; one in doubt spreads the same mass thinly, which is what the scores of
    Eq. 9 are to tell.
    """
    mass = logits.float().flatten(-2).softmax(-1).view(logits.shape)
    return 2 * torch.pi * sigma**2 * mass


# ---- regression ----------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class RegressionConfig:
    """Size of the regression baseline. The paper's is ResNet-50, its last pool 4 x 4 for crops of 128 pixels."""

    landmarks: int = 68
    image_size: int = 128
    in_channels: int = 1                               # paper 3
    width: int = 16                                    # of the first convolution; paper 64
    blocks: tuple[int, int, int, int] = (1, 1, 1, 1)   # at 1/4, 1/8, 1/16, 1/32 of the crop; paper (3, 4, 6, 3)

    def __post_init__(self) -> None:
        for name in ("landmarks", "in_channels", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.image_size < 32 or self.image_size % 32:
            raise ValueError(f"image_size must be a multiple of 32, got {self.image_size}")
        if len(self.blocks) != 4 or min(self.blocks) < 1:
            raise ValueError(f"blocks must be four positive numbers, got {self.blocks}")


REGRESSION_LITE = RegressionConfig()
REGRESSION_PAPER = RegressionConfig(in_channels=3, width=64, blocks=(3, 4, 6, 3))


class RegressionNet(nn.Module):
    """A ResNet whose last layer gives the landmarks themselves.

    Source: MSM section IV-G (Res-50), after He et al. 2016.
    """

    inputs = ("image",)

    def __init__(self, config: RegressionConfig = REGRESSION_LITE):
        super().__init__()
        self.config = config
        layers, channels = [], config.width
        for i, count in enumerate(config.blocks):
            layers.append(layer(Bottleneck, channels, config.width << i, count, 2 if i else 1))
            channels = 4 * config.width << i
        self.features = nn.Sequential(
            nn.Conv2d(config.in_channels, config.width, 7, 2, padding=3, bias=False), nn.BatchNorm2d(config.width),
            nn.ReLU(), nn.MaxPool2d(3, 2, padding=1), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.last = nn.Linear(channels, 2 * config.landmarks)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, S, S), values in [-0.5, 0.5] -> landmarks (B, K, 2), pixels of the crop, float32.

        Raises:
            ValueError: for another shape.
        """
        config = self.config
        if images.ndim != 4 or images.shape[1:] != (config.in_channels, config.image_size, config.image_size):
            raise ValueError(f"images must be (B, {config.in_channels}, {config.image_size}, {config.image_size}), "
                             f"got shape {tuple(images.shape)}")
        features = self.features(images)
        with torch.autocast(images.device.type, enabled=False):                 # bfloat16 is too coarse for places
            places = self.last(features.float()).view(-1, config.landmarks, 2)  # half sides from the crop's middle
        return (config.image_size * places + config.image_size - 1) / 2

    def read(self, outputs: Tensor, mirrored: bool = False) -> Reading:
        """Landmarks in crop pixels; see ``nets.reading``. It has no opinion of its own answer: all scores are 1."""
        reading = Reading(outputs, torch.ones_like(outputs[..., 0]))
        flip = markups.get(str(self.config.landmarks)).flip
        return fold_mirrored(reading, self.config.image_size, flip) if mirrored else reading


def point_loss(points: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean absolute difference to the landmarks in half sides of the crop; points (B, K, 2) in its pixels.

    Source: the paper names no loss for its regression; ours.
    """
    if points.shape != batch["landmarks"].shape:
        raise ValueError(f"landmarks must be {tuple(points.shape)} like the points, "
                         f"got {tuple(batch['landmarks'].shape)}")
    return (points - batch["landmarks"]).abs().mean() * 2 / batch["image"].shape[-1]


def _convolution(in_channels: int, out_channels: int, kernel: int, bias: bool = False) -> nn.Sequential:
    """Normalise, rectify, convolve."""
    return nn.Sequential(nn.BatchNorm2d(in_channels), nn.ReLU(),
                         nn.Conv2d(in_channels, out_channels, kernel, padding=kernel // 2, bias=bias))
