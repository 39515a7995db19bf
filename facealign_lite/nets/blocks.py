"""Blocks shared by several networks. Shapes: B batch, C channels, H W."""

import torch
from torch import Tensor, nn

from .losses import constant

LUMA = (0.299, 0.587, 0.114)  # what OpenCV and PIL call grey


class Residual(nn.Module):
    """Pre-activation bottleneck: normalise, rectify, convolve (1, 3, 1), add the input.

    Args:
        in_channels, out_channels: widths; the 3x3 convolution works on half of ``out_channels``.

    Source: Newell et al. 2016, Fig. 4 (left), after He et al. 2016 (identity mappings).
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        if out_channels < 2 or out_channels % 2:
            raise ValueError(f"out_channels must be even and at least 2, got {out_channels}")
        middle = out_channels // 2
        self.branch = nn.Sequential(
            nn.BatchNorm2d(in_channels), nn.ReLU(), nn.Conv2d(in_channels, middle, 1, bias=False),
            nn.BatchNorm2d(middle), nn.ReLU(), nn.Conv2d(middle, middle, 3, padding=1, bias=False),
            nn.BatchNorm2d(middle), nn.ReLU(), nn.Conv2d(middle, out_channels, 1, bias=False),
        )
        same = in_channels == out_channels
        self.skip = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        return self.branch(x) + self.skip(x)


class Hierarchical(nn.Module):
    """Pre-activation unit of three 3x3 convolutions in a row whose outputs are joined, and the input.

    Args:
        in_channels, out_channels: widths; the convolutions give half, a quarter and a quarter of ``out_channels``.

    Source: Bulat and Tzimiropoulos 2017 (Binarized Convolutional Landmark Localizers), Fig. 3b; the unit of their FAN.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        if out_channels < 4 or out_channels % 4:
            raise ValueError(f"out_channels must be a multiple of 4, got {out_channels}")
        widths = (in_channels, out_channels // 2, out_channels // 4, out_channels // 4)
        self.branch = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(a), nn.ReLU(), nn.Conv2d(a, b, 3, padding=1, bias=False))
            for a, b in zip(widths, widths[1:]))
        self.skip = nn.Identity() if in_channels == out_channels else nn.Sequential(
            nn.BatchNorm2d(in_channels), nn.ReLU(), nn.Conv2d(in_channels, out_channels, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        parts, part = [], x
        for convolution in self.branch:
            part = convolution(part)
            parts.append(part)
        return torch.cat(parts, 1) + self.skip(x)


def parameter_count(model: nn.Module, trained: bool = False) -> int:
    """Number of weights in ``model``: all of them, frozen ones too, or only those that are ``trained``.

    Buffers, such as running means, are no weights and not counted.
    """
    return sum(p.numel() for p in model.parameters() if p.requires_grad or not trained)


def to_grey(images: Tensor) -> Tensor:
    """(B, 3, H, W) colour or (B, 1, H, W) grey -> (B, 1, H, W).

    Raises:
        ValueError: for any other number of channels.
    """
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise ValueError(f"images must be (B, 1 or 3, H, W), got shape {tuple(images.shape)}")
    if images.shape[1] == 1:
        return images
    weights = constant(LUMA, images.device, images.dtype)
    return torch.einsum("bchw,c->bhw", images, weights)[:, None]
