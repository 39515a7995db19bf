"""The landmark networks of MSM: two hourglasses that come up by deconvolution (Fig. 3), and the regression baseline.

Shapes: images (B, C, S, S), heatmaps (B, K, H, W) with H = W = S / 2^pools, points (x, y) in pixels of the crop.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facealign_lite.nets import Residual

SIGMA = 1.2      # of the target peaks, heatmap pixels, as in ``nets.landmark_loss``; the paper gives no number


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

    @property
    def multiple(self) -> int:
        """What sides of images must be a multiple of, to be halved down to the bottom of the hourglass."""
        return 1 << self.pools + self.depth

    @property
    def heatmap_size(self) -> int:
        """Side of the heatmaps in pixels."""
        return self.image_size >> self.pools


HEAT_LITE = HeatConfig()
HEAT_PAPER = HeatConfig(in_channels=3, pools=1, channels=256, stem=(64, 128, 128))


class Hourglass(nn.Module):
    """Down by max pooling and up by deconvolution, a residual unit across at every scale.

    The deconvolution is 4 x 4 of stride 2 and starts as bilinear interpolation plus noise: the paper gives neither.
    One of 2 x 2 pixels, between whose kernels nothing passes, left a checkerboard in our maps that argmax falls for.

    Source: MSM Fig. 3.
    """

    def __init__(self, depth: int, channels: int):
        super().__init__()
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        self.across = Residual(channels, channels)
        self.down = Residual(channels, channels)
        self.inner = Hourglass(depth - 1, channels) if depth > 1 else Residual(channels, channels)
        self.up = nn.Sequential(Residual(channels, channels), nn.BatchNorm2d(channels), nn.ReLU(),
                                nn.ConvTranspose2d(channels, channels, 4, stride=2, padding=1, bias=False))
        with torch.no_grad():
            tent = torch.tensor([0.25, 0.75, 0.75, 0.25])
            each = range(channels)
            self.up[-1].weight.mul_(0.3)[each, each] += torch.outer(tent, tent)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> same shape; H and W must be multiples of 2 ** depth."""
        return self.across(x) + self.up(self.inner(self.down(F.max_pool2d(x, 2))))


class HeatNet(nn.Module):
    """The two-stack hourglass: a map of heat for every landmark.

    As in the text every convolution but the first has batch normalisation and ReLU before it. Between stacks features
    and heat are added to the input, as Newell et al. do; the caption's 2 x L vector is what argmax makes of the maps.

    Source: MSM Fig. 3, section III-B.
    """

    def __init__(self, config: HeatConfig = HEAT_LITE):
        super().__init__()
        self.config = config
        first, second, third = config.stem
        width, last = config.channels, config.stacks - 1
        self.stem = nn.Sequential(
            nn.Conv2d(config.in_channels, first, 3, padding=1), _convolution(first, second, 3), nn.MaxPool2d(2),
            _convolution(second, third, 3), Residual(third, width),
            *(nn.MaxPool2d(2) for _ in range(config.pools - 1)))
        self.hourglasses = nn.ModuleList(Hourglass(config.depth, width) for _ in range(config.stacks))
        self.features = nn.ModuleList(nn.Sequential(Residual(width, width), _convolution(width, width, 1))
                                      for _ in range(config.stacks))
        self.heads = nn.ModuleList(_convolution(width, config.landmarks, 1, True) for _ in range(config.stacks))
        self.back_features = nn.ModuleList(_convolution(width, width, 1) for _ in range(last))
        self.back_heat = nn.ModuleList(nn.Conv2d(config.landmarks, width, 1) for _ in range(last))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Logits of every stack, the last being the prediction; ``heat`` makes heat of them.

        The paper says neither what its maps are nor under which loss they are learnt. Squared differences to peaks of
        height 1 left ours empty for the 60 steps we watched, since an empty map is nearly right everywhere; trained by
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


class Bottleneck(nn.Module):
    """Convolutions of 1, 3 (strided) and 1 pixels, the last to four times the width, added to the input.

    Source: He et al. 2016, Fig. 5 right and Table 1; the stride on the 3 x 3 convolution, as is usual now.
    """

    def __init__(self, in_channels: int, width: int, stride: int = 1):
        super().__init__()
        out = 4 * width
        self.branch = nn.Sequential(
            nn.Conv2d(in_channels, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, out, 1, bias=False), nn.BatchNorm2d(out))
        self.skip = nn.Identity() if stride == 1 and in_channels == out else nn.Sequential(
            nn.Conv2d(in_channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, 4 width, H / stride, W / stride)."""
        return F.relu(self.branch(x) + self.skip(x))


class RegressionNet(nn.Module):
    """A ResNet whose last layer gives the landmarks themselves.

    Source: MSM section IV-G (Res-50), after He et al. 2016.
    """

    def __init__(self, config: RegressionConfig = REGRESSION_LITE):
        super().__init__()
        self.config = config
        layers, channels = [], config.width
        for i, count in enumerate(config.blocks):
            for j in range(count):
                layers.append(Bottleneck(channels, config.width << i, 2 if i and not j else 1))
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
