"""BlazeFace, a small detector of faces (Bazarevsky et al., CVPR workshops 2019), as MediaPipe ships it for short range.

Trained by its authors on photos of 128 x 128 pixels. It has no dense layer, so it takes larger pictures as well, and
then sees faces of about 20 to 110 pixels anywhere in them. ``tools/build_finder.py`` makes the file of weights
(Apache-2.0).
"""

from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

WEIGHTS = Path(str(files("facealign_lite") / "assets" / "blazeface.safetensors"))
# (channels, stride) of the blocks that follow the stem of 24 channels; what the first 11 see, at stride 8, and what
# all see, at stride 16, is read
BLOCKS = ((24, 1), (28, 1), (32, 2), (36, 1), (42, 1), (48, 2), (56, 1), (64, 1), (72, 1), (80, 1), (88, 1),
          (96, 2), (96, 1), (96, 1), (96, 1), (96, 1))
FINE = 11
STRIDES, ANCHORS = (8, 16), (2, 6)     # faces told at each place of each map
MULTIPLE = 16                          # of which the sides of a picture must be
KEYPOINTS = ("right_eye", "left_eye", "nose", "mouth", "right_ear", "left_ear")      # right is the person's


class Block(nn.Module):
    """A depthwise and a pointwise convolution beside what comes in, laid over it with new channels of zeros."""

    def __init__(self, width: int, channels: int, stride: int):
        super().__init__()
        self.stride, self.more = stride, channels - width
        self.depth = nn.Conv2d(width, width, 3, stride, groups=width)
        self.point = nn.Conv2d(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        # "same" as TensorFlow means it: at stride 2 the one line that is missing stands at the right and below
        first = 0 if self.stride == 2 else 1
        y = self.point(self.depth(functional.pad(x, (first, 1, first, 1))))
        x = functional.max_pool2d(x, 2) if self.stride == 2 else x
        return functional.relu(y + functional.pad(x, (0, 0, 0, 0, 0, self.more)))


class BlazeFace(nn.Module):
    """Boxes, six points and a score for eight anchors in every 16 x 16 pixels."""

    def __init__(self):
        super().__init__()
        widths = [24, *(channels for channels, _ in BLOCKS)]
        self.stem = nn.Conv2d(3, 24, 5, 2)
        self.blocks = nn.ModuleList(Block(width, *block) for width, block in zip(widths, BLOCKS))
        seen = (widths[FINE], widths[-1])
        self.scores = nn.ModuleList(nn.Conv2d(width, count, 1) for width, count in zip(seen, ANCHORS))
        self.places = nn.ModuleList(nn.Conv2d(width, 16 * count, 1) for width, count in zip(seen, ANCHORS))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Faces told by N anchors.

        Args:
            images: (B, 3, H, W) RGB in [-1, 1], H and W multiples of ``MULTIPLE``.

        Returns:
            scores (B, N) in [0, 1]; boxes (B, N, 4), left, top, right, bottom, square, from the forehead to the chin;
            points (B, N, 6, 2) by ``KEYPOINTS``; in 0-based pixel centres.
        """
        x = functional.relu(self.stem(functional.pad(images, (1, 2, 1, 2))))
        seen = []
        for i, block in enumerate(self.blocks, 1):
            x = block(x)
            if i in (FINE, len(self.blocks)):
                seen.append(x)
        scores, places = [], []
        for x, stride, count, score, place in zip(seen, STRIDES, ANCHORS, self.scores, self.places):
            height, width = x.shape[-2:]
            scores.append(score(x).permute(0, 2, 3, 1).flatten(1))
            told = place(x).permute(0, 2, 3, 1).reshape(len(x), height, width, count, 8, 2)
            rows, columns = (torch.arange(n, device=x.device) for n in (height, width))
            # centre of the cell, of a picture that covers [0, W]: half a pixel less in pixel centres
            middle = (torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1) + 0.5) * stride - 0.5
            middle = middle[:, :, None, None].to(told)
            told = torch.cat([told[..., :1, :] + middle, told[..., 1:2, :], told[..., 2:, :] + middle], -2)
            places.append(told.flatten(1, 3))
        told = torch.cat(places, 1)
        centre, side = told[:, :, 0], told[:, :, 1]
        return (torch.cat(scores, 1).sigmoid(), torch.cat([centre - side / 2, centre + side / 2], -1), told[:, :, 2:])


@lru_cache(maxsize=2)
def load(device: str = "cpu") -> BlazeFace:
    """The shipped network, in eval mode."""
    network = BlazeFace()
    network.load_state_dict({name: value.float() for name, value in load_file(WEIGHTS).items()})
    return network.to(device).eval().requires_grad_(False)
