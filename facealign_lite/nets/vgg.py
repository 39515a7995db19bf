"""The first layers of VGG16 with batch norm, under torchvision's names (Simonyan, Zisserman: Very Deep Convolutional
Networks for Large-Scale Image Recognition, ICLR 2015).

Shapes: images (B, C, H, W); features (B, ., H/s, W/s), s = 2 for every block after the first.
"""

import os

from torch import Tensor, nn

from .resnet import load_public

STEM = ((64, 64), (128, 128), (256, 256, 256))    # of VGG16's five blocks those up to stride 4


class VGG(nn.Module):
    """Blocks of 3x3 convolutions, each with batch norm and rectifier, a 2x2 maximum between them.

    Args:
        blocks: widths of the convolutions of each block.
        in_channels: of the images.

    Source: Simonyan and Zisserman 2015, Table 1, column D.
    """

    def __init__(self, blocks: tuple[tuple[int, ...], ...] = STEM, in_channels: int = 3):
        super().__init__()
        if not blocks or not all(blocks) or in_channels < 1:
            raise ValueError(f"blocks must hold widths and in_channels be at least 1, got {blocks} and {in_channels}")
        layers, before = [], in_channels
        for i, widths in enumerate(blocks):
            layers += [nn.MaxPool2d(2)] * (i > 0)
            for width in widths:
                layers += [nn.Conv2d(before, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
                before = width
        self.features = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, last width, H/s, W/s)."""
        return self.features(images)

    def load_weights(self, path: str | os.PathLike) -> "VGG":
        """Take public weights of VGG16 with batch norm, see ``resnet.load_public``; later layers are left out."""
        load_public(self, path, ("features.", "classifier."))
        return self
