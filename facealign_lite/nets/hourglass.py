"""The stacked hourglass (Newell, Yang, Deng: Stacked Hourglass Networks for Human Pose Estimation, ECCV 2016).

Shapes: images (B, C, S, S), features and heatmaps (B, ., S/4, S/4).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from .blocks import Residual
from .reading import WAYS, Reading, read_maps


@dataclass(frozen=True)
class HourglassConfig:
    """Size of a stacked hourglass. The defaults are the lite network; the paper's values stand beside them."""

    landmarks: int = 68
    image_size: int = 128                     # paper 256; the map is a quarter of it
    in_channels: int = 1                      # paper 3 (RGB); grey costs faces little and spares colour augmentation
    channels: int = 96                        # paper 256
    stacks: int = 1                           # paper 2 or 8
    depth: int = 4                            # halvings inside one hourglass, as in the paper
    stem: tuple[int, ...] = (48, 96, 96)      # widths of the 7x7 convolution, a residual, [halving], more residuals;
                                              # paper (64, 128, 128, 256)
    reading: str = "soft_argmax"              # of logits, as ``landmark_loss`` trains; "center_of_mass" of heat, as the
                                              # paper's ``mse_loss`` does

    def __post_init__(self) -> None:
        for name in ("landmarks", "image_size", "in_channels", "channels", "stacks", "depth"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.image_size % (4 << self.depth):
            raise ValueError(f"image_size must be a multiple of {4 << self.depth} at depth {self.depth}, "
                             f"got {self.image_size}")
        if len(self.stem) < 3 or self.stem[-1] != self.channels:
            raise ValueError(f"stem must have at least 3 widths and end at channels={self.channels}, got {self.stem}")
        if self.reading not in WAYS:
            raise ValueError(f"reading must be one of {WAYS}, got {self.reading!r}")

    @property
    def heatmap_size(self) -> int:
        """Side of the heatmaps in pixels."""
        return self.image_size // 4


LITE = HourglassConfig()
PAPER = HourglassConfig(image_size=256, in_channels=3, channels=256, stacks=8, stem=(64, 128, 128, 256),
                        reading="center_of_mass")


class Hourglass(nn.Module):
    """Down to the lowest resolution and up again, a residual unit across at every scale (Newell et al., Fig. 3).

    ``block`` makes the units, by input and output width; ``rise``, by width, what brings the lower half up to twice the
    resolution, if not a unit whose every pixel becomes four.
    """

    def __init__(self, depth: int, channels: int, block: Callable[[int, int], nn.Module] = Residual,
                 rise: Callable[[int], nn.Module] | None = None):
        super().__init__()
        if depth < 1:
            raise ValueError(f"depth must be at least 1, got {depth}")
        self.across = block(channels, channels)
        self.down = block(channels, channels)
        self.inner = Hourglass(depth - 1, channels, block, rise) if depth > 1 else block(channels, channels)
        self.up, self.doubles = (block(channels, channels), False) if rise is None else (rise(channels), True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> same shape; H and W must be multiples of 2 ** depth."""
        return self.scales(x)[0]

    def scales(self, x: Tensor) -> list[Tensor]:
        """What it gives at every resolution on the way up, ``depth`` + 1 of them, (B, C, H, W) first."""
        low = self.down(F.max_pool2d(x, 2))
        lower = self.inner.scales(low) if isinstance(self.inner, Hourglass) else [self.inner(low)]
        up = self.up(lower[0])
        return [self.across(x) + (up if self.doubles else F.interpolate(up, scale_factor=2)), *lower]


class HourglassStack(nn.Module):
    """Hourglasses in a row behind a stem, each reading the features and the maps of the one before.

    Args:
        stem: what makes features (B, channels, h, w) of images.
        channels: width of all features.
        maps: K, how many every hourglass predicts.
        stacks: number of hourglasses.
        depth: halvings inside one.
        block: makes the units, by input and output width.

    Source: Newell et al. 2016, Fig. 4 and section 3; the prediction of every stack is supervised.
    """

    back = "back_heatmaps"                    # name of what brings maps back to features, as weights files have it

    def __init__(self, stem: nn.Module, channels: int, maps: int, stacks: int, depth: int,
                 block: Callable[[int, int], nn.Module] = Residual):
        super().__init__()
        self.stem = stem
        self.hourglasses = nn.ModuleList(Hourglass(depth, channels, block) for _ in range(stacks))
        self.features = nn.ModuleList(
            nn.Sequential(block(channels, channels), nn.Conv2d(channels, channels, 1, bias=False),
                          nn.BatchNorm2d(channels), nn.ReLU())
            for _ in range(stacks))
        self.heads = nn.ModuleList(nn.Conv2d(channels, maps, 1) for _ in range(stacks))
        self.back_features = nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(stacks - 1))
        setattr(self, self.back, nn.ModuleList(nn.Conv2d(maps, channels, 1) for _ in range(stacks - 1)))

    def run(self, images: Tensor, from_stem: bool = False) -> tuple[list[Tensor], list[Tensor]]:
        """Maps of every stack, and features of the last.

        Args:
            images: whatever the stem takes.
            from_stem: what comes back is added to what the stem saw, not to what the hourglass before was given; with
                two stacks that is the same.

        Returns:
            maps: ``stacks`` tensors (B, K, h, w).
            features: those the last maps were read from, (B, C, h, w), then what its hourglass gave at every half size.
        """
        low, maps, back_maps = self.stem(images), [], getattr(self, self.back)
        x = low
        for i, (hourglass, features, head) in enumerate(zip(self.hourglasses, self.features, self.heads)):
            scales = hourglass.scales(x)                                        # (B, C, h, w), (B, C, h/2, w/2), ...
            found = features(scales[0])
            maps.append(head(found))                                            # (B, K, h, w)
            if i < len(self.hourglasses) - 1:
                x = (low if from_stem else x) + self.back_features[i](found) + back_maps[i](maps[-1])
        return maps, [found, *scales[1:]]


def check_images(images: Tensor, channels: int, multiple: int) -> None:
    """Raises ValueError unless ``images`` are (B, channels, H, W) of sides that can be halved as often as is needed."""
    if images.ndim != 4 or images.shape[1] != channels or images.shape[2] % multiple or images.shape[3] % multiple:
        raise ValueError(f"images must be (B, {channels}, H, W) with H and W multiples of {multiple}, "
                         f"got shape {tuple(images.shape)}")


class StackedHourglass(HourglassStack):
    """The stacked hourglass as published: its stem goes to a quarter of the image.

    Source: Newell et al. 2016, Fig. 4 and section 3.
    """

    inputs = ("image",)

    def __init__(self, config: HourglassConfig = LITE):
        first, before, *after = config.stem
        residuals = [Residual(a, b) for a, b in zip([before, *after], after)]
        stem = nn.Sequential(
            nn.Conv2d(config.in_channels, first, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(first), nn.ReLU(),
            Residual(first, before), nn.MaxPool2d(2), *residuals,
        )
        super().__init__(stem, config.channels, config.landmarks, config.stacks, config.depth)
        self.config = config

    def forward(self, images: Tensor) -> list[Tensor]:
        """Heatmaps of every stack, the last being the prediction.

        Args:
            images: (B, in_channels, S, S), values in [-0.5, 0.5].

        Returns:
            ``stacks`` tensors (B, K, S/4, S/4): logits under ``landmark_loss``, Gaussian heat under ``mse_loss``.

        Raises:
            ValueError: if ``images`` has another number of channels or a size the hourglass cannot halve.
        """
        check_images(images, self.config.in_channels, 4 << self.config.depth)
        return self.run(images)[0]

    def read(self, outputs: Sequence[Tensor], mirrored: bool = False) -> Reading:
        """Landmarks in crop pixels, from the maps of the last stack; see ``nets.reading``."""
        return read_maps(outputs[-1], self.config.image_size, self.config.reading, mirrored)
