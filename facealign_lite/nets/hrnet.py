"""HRNet under its public names (Sun, Xiao, Liu, Wang: Deep High-Resolution Representation Learning, CVPR 2019).

Shapes: images (B, C, H, W); branch i works at stride 4 2^i with 2^i ``width`` channels, side by side with the others.
"""

import os
from dataclasses import dataclass

from torch import Tensor, nn

from .resnet import BasicBlock, Bottleneck, layer, load_public


@dataclass(frozen=True)
class HRNetConfig:
    """Size of an HRNet. The defaults are the published W32 without its head; W48 has ``width=48``."""

    width: int = 32                           # of the finest branch
    stages: int = 4                           # a branch more with each; 3 is TransPose's "small" one
    modules: tuple[int, int, int] = (1, 4, 3)  # exchanges between the branches in stages 2, 3, 4
    blocks: int = 4                           # residual blocks before each exchange
    in_channels: int = 3
    stem: int = 64                            # width of the two convolutions before
    maps: int = 0                             # heatmaps of the head, 17 in the published networks for bodies

    def __post_init__(self) -> None:
        for name in ("width", "blocks", "in_channels", "stem"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 2 <= self.stages <= 4:
            raise ValueError(f"stages must be 2 to 4, got {self.stages}")
        if len(self.modules) != 3 or min(self.modules) < 1:
            raise ValueError(f"modules must be three positive numbers, got {self.modules}")
        if self.maps < 0:
            raise ValueError(f"maps must not be negative, got {self.maps}")


class Exchange(nn.Module):
    """Residual blocks in every branch, then every branch gets the sum of all, brought to its resolution.

    Source: Sun et al. 2019, Fig. 3. The last one of the network computes the finest output only.
    """

    def __init__(self, widths: list[int], blocks: int, finest: bool = False):
        super().__init__()
        self.branches = nn.ModuleList(layer(BasicBlock, width, width, blocks) for width in widths)
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(_bring(widths, i, j) for j in range(len(widths)))
            for i in range(1 if finest else len(widths)))

    def forward(self, x: list[Tensor]) -> list[Tensor]:
        """One (B, ., H, W) a branch -> the same shapes, or the finest alone."""
        x = [branch(y) for branch, y in zip(self.branches, x)]
        return [sum(y if bring is None else bring(y) for bring, y in zip(row, x)).relu() for row in self.fuse_layers]


class HRNet(nn.Module):
    """Four resolutions side by side, exchanging what they see; the finest is never given up.

    Source: Sun et al. 2019, Fig. 1.
    """

    def __init__(self, config: HRNetConfig = HRNetConfig()):
        super().__init__()
        self.config, stem = config, config.stem
        self.conv1 = nn.Conv2d(config.in_channels, stem, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.conv2 = nn.Conv2d(stem, stem, 3, 2, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(stem)
        self.layer1 = layer(Bottleneck, stem, stem, 4)
        before = [4 * stem]
        for stage in range(2, config.stages + 1):
            widths = [config.width << i for i in range(stage)]
            setattr(self, f"transition{stage - 1}", _transition(before, widths))
            count = config.modules[stage - 2]
            setattr(self, f"stage{stage}", nn.Sequential(
                *(Exchange(widths, config.blocks, stage == config.stages and i == count - 1) for i in range(count))))
            before = widths
        self.final_layer = nn.Conv2d(config.width, config.maps, 1) if config.maps else None

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> features (B, width, H/4, W/4), or heatmaps if there is a head.

        Raises:
            ValueError: for another number of channels, or a side that the coarsest branch cannot halve.
        """
        wanted, multiple = self.config.in_channels, 2 << self.config.stages
        if images.ndim != 4 or images.shape[1] != wanted or images.shape[2] % multiple or images.shape[3] % multiple:
            raise ValueError(f"images must be (B, {wanted}, H, W) with H and W multiples of {multiple}, "
                             f"got {tuple(images.shape)}")
        x = self.bn2(self.conv2(self.bn1(self.conv1(images)).relu())).relu()
        branches = [self.layer1(x)]
        for stage in range(2, self.config.stages + 1):
            steps = getattr(self, f"transition{stage - 1}")
            old = branches + branches[-1:]                         # the new branch starts from the coarsest
            branches = getattr(self, f"stage{stage}")([y if step is None else step(y) for step, y in zip(steps, old)])
        return branches[0] if self.final_layer is None else self.final_layer(branches[0])

    def load_weights(self, path: str | os.PathLike) -> "HRNet":
        """Take public weights, see ``load_public``; what this network does not have is left out."""
        load_public(self, path, ("stage", "transition", "final_layer", "incre_modules", "downsamp_modules",
                                 "classifier"))
        return self


def _convolution(a: int, b: int, stride: int = 1, rectify: bool = True) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), *[nn.ReLU()] * rectify)


def _bring(widths: list[int], i: int, j: int) -> nn.Module | None:
    """Branch j as branch i wants it: up by copying pixels, down by convolutions of stride 2."""
    a, b = widths[j], widths[i]
    if j == i:
        return None
    if j > i:
        return nn.Sequential(nn.Conv2d(a, b, 1, bias=False), nn.BatchNorm2d(b), nn.Upsample(scale_factor=2 ** (j - i)))
    return nn.Sequential(*(_convolution(a, a, 2) for _ in range(i - j - 1)), _convolution(a, b, 2, False))


def _transition(before: list[int], after: list[int]) -> nn.ModuleList:
    """From the branches of one stage to those of the next, which has one more, half as fine."""
    same = [None if a == b else _convolution(a, b) for a, b in zip(before, after)]
    return nn.ModuleList([*same, nn.Sequential(_convolution(before[-1], after[-1], 2))])
