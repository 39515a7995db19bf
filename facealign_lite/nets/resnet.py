"""Residual networks, under torchvision's names (He, Zhang, Ren, Sun: Deep Residual Learning, CVPR 2016).

Shapes: images (B, C, H, W); features (B, ., H/s, W/s) at the strides s = 4, 8, 16, 32 of the four stages.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .losses import constant

# depth: blocks a stage, and whether they are bottlenecks
DEPTHS = {18: ((2, 2, 2, 2), False), 34: ((3, 4, 6, 3), False), 50: ((3, 4, 6, 3), True), 101: ((3, 4, 23, 3), True)}
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours in [0, 1]


@dataclass(frozen=True)
class ResNetConfig:
    """Which residual network, and how much of it. The defaults are the published ResNet-18, without its classifier."""

    depth: int = 18
    stages: int = 4                           # of the four; 2 ends at stride 8, as TransPose does
    stride: int = 32                          # at most; a stage that would halve further dilates instead
    in_channels: int = 3
    width: int = 64                           # of the stem; stage i has 2^i times as many, bottlenecks four times that
    classes: int = 0                          # 1000 for the published classifier

    def __post_init__(self) -> None:
        if self.depth not in DEPTHS:
            raise ValueError(f"depth must be one of {sorted(DEPTHS)}, got {self.depth}")
        if not 1 <= self.stages <= 4:
            raise ValueError(f"stages must be 1 to 4, got {self.stages}")
        if self.stride not in (4, 8, 16, 32):
            raise ValueError(f"stride must be 4, 8, 16 or 32, got {self.stride}")
        if self.in_channels < 1 or self.width < 1 or self.classes < 0:
            raise ValueError(f"in_channels and width must be at least 1 and classes not negative, "
                             f"got {self.in_channels}, {self.width} and {self.classes}")
        if self.classes and self.stages < 4:
            raise ValueError(f"a classifier needs all 4 stages, got {self.stages}")

    @property
    def channels(self) -> tuple[int, ...]:
        """Widths of the stages' features."""
        return tuple(self.width * 2**i * (4 if DEPTHS[self.depth][1] else 1) for i in range(self.stages))

    @property
    def strides(self) -> tuple[int, ...]:
        """Image pixels a feature pixel, stage by stage."""
        return tuple(min(4 << i, self.stride) for i in range(self.stages))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the input (He et al., Fig. 5 left)."""

    expansion = 1

    def __init__(self, before: int, width: int, stride: int = 1, first: int = 1, dilation: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride, first, first, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = shortcut(before, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, width, H/stride, W/stride)."""
        out = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (out + (x if self.downsample is None else self.downsample(x))).relu()


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions and the input (He et al., Fig. 5 right); the 3x3 one has the stride."""

    expansion = 4

    def __init__(self, before: int, width: int, stride: int = 1, first: int = 1, dilation: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, first, first, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = shortcut(before, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) -> (B, 4 width, H/stride, W/stride)."""
        out = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu())).relu()
        return (self.bn3(self.conv3(out)) + (x if self.downsample is None else self.downsample(x))).relu()


class ResNet(nn.Module):
    """Features of an image at every stage.

    Source: He et al. 2016, Table 1.
    """

    def __init__(self, config: ResNetConfig = ResNetConfig()):
        super().__init__()
        self.config = config
        blocks, bottleneck = DEPTHS[config.depth]
        self.conv1 = nn.Conv2d(config.in_channels, config.width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(config.width)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        kind, before, stride, dilation = Bottleneck if bottleneck else BasicBlock, config.width, 4, 1
        for i, count in enumerate(blocks[:config.stages]):
            halve = i > 0 and stride < config.stride
            stride *= 1 + halve
            first = dilation                                       # where the stride was, pixels are still near
            dilation *= 1 if i == 0 or halve else 2
            setattr(self, f"layer{i + 1}", layer(kind, before, config.width * 2**i, count, 1 + halve, first, dilation))
            before = config.channels[i]
        self.fc = nn.Linear(before, config.classes) if config.classes else None

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, in_channels, H, W) -> features of every stage, fine to coarse.

        Raises:
            ValueError: for another number of channels.
        """
        if images.ndim != 4 or images.shape[1] != self.config.in_channels:
            raise ValueError(f"images must be (B, {self.config.in_channels}, H, W), got {tuple(images.shape)}")
        x, features = self.maxpool(self.bn1(self.conv1(images)).relu()), []
        for i in range(self.config.stages):
            x = getattr(self, f"layer{i + 1}")(x)
            features.append(x)
        return features

    def classify(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> logits (B, classes).

        Raises:
            ValueError: if it was built without a classifier.
        """
        if self.fc is None:
            raise ValueError("config.classes must be positive, got 0")
        return self.fc(self.forward(images)[-1].mean((2, 3)))

    def load_weights(self, path: str | os.PathLike) -> "ResNet":
        """Take public weights, see ``load_public``; what this network does not have is left out."""
        load_public(self, path, ("layer", "fc."))
        return self


def shortcut(before: int, after: int, stride: int = 1) -> nn.Sequential | None:
    """A 1x1 convolution where input and output of a block differ in shape."""
    if stride == 1 and before == after:
        return None
    return nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))


def layer(kind: type, before: int, width: int, count: int, stride: int = 1, first: int = 1,
          dilation: int = 1) -> nn.Sequential:
    """``count`` blocks in a row; the first has the stride, and ``first`` is the dilation of its first 3x3."""
    return nn.Sequential(kind(before, width, stride, first, dilation),
                         *(kind(width * kind.expansion, width, 1, dilation, dilation) for _ in range(count - 1)))


def normalize(images: Tensor) -> Tensor:
    """Images (B, 1 or 3, H, W) in [-0.5, 0.5], as here, -> what weights learnt on ImageNet expect, (B, 3, H, W).

    Raises:
        ValueError: for any other number of channels.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images must be (B, 1 or 3, H, W), got shape {tuple(images.shape)}")
    mean, deviation = (constant(v, images.device, images.dtype)[:, None, None] for v in (MEAN, DEVIATION))
    return (images + 0.5 - mean) / deviation


def load_public(model: nn.Module, path: str | os.PathLike, optional: tuple[str, ...] = ()) -> None:
    """Weights of a safetensors file into ``model``, by name, in place.

    A network of one input channel takes the sum of the three colours' kernels: on grey pictures that is the same.

    Args:
        model: every weight of which must be in the file, batch counters apart.
        path: ends in ``.safetensors``; names as published. Convert other files first: reading a pickle runs its code.
        optional: beginnings of names that the file may have beyond the model's.

    Raises:
        ValueError: if it is no such file, or weights are missing, foreign, of another shape or not finite.
        OSError: if it cannot be read.
    """
    path = Path(path)
    path.stat()
    try:
        found: Mapping[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} must be a safetensors file: {error}") from None
    own = model.state_dict()
    found = {name: _summed(value, own[name]) if name in own else value for name, value in found.items()}
    wrong = sorted([name for name, value in own.items() if not name.endswith("num_batches_tracked")
                    and (name not in found or found[name].shape != value.shape or not found[name].isfinite().all())]
                   + [name for name in found if name not in own and not name.startswith(optional)])
    if wrong:
        raise ValueError(f"{path} must hold the weights of {type(model).__name__}; {len(wrong)} are missing, foreign, "
                         f"of another shape or not finite, first {wrong[0]!r}")
    model.load_state_dict({name: found.get(name, value) for name, value in own.items()})


def _summed(kernel: Tensor, like: Tensor) -> Tensor:
    one_channel = kernel.ndim == like.ndim == 4 and kernel.shape[1] == 3 and like.shape[1] == 1
    return torch.sum(kernel, 1, keepdim=True) if one_channel else kernel
