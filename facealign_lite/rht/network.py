"""The network of RHT: the target's own features, what a reference adds to them, and heatmaps from both.

Shapes: B batch, K landmarks, P boundaries, S the side of the target; features at 1x, 2x, 4x have sides S/8, S/4, S/2.
The faces that are compared, the reference's heatmaps and the predicted ones all have the side S/2.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional as F

from facealign_lite import contours, heatmaps, markups
from facealign_lite.nets import Reading, read_maps

from .backbones import BACKBONES, Backbone
from .references import References, answer, shipped_for
from .transform import Localization, convolution, correlate, hard_transform, transfer


@dataclass(frozen=True)
class RhtConfig:
    """Size of the network and which parts it has. The defaults are RHT-R, lite; the paper's values stand beside."""

    landmarks: int = 68                       # a markup of that name says which of them the boundaries join
    boundaries: bool = True                   # RHT- of Table IX has none
    image_size: int = 128                     # paper 256
    in_channels: int = 1                      # paper 3 (RGB)
    backbone: str = "resnet"                  # or "hrnet", "hourglass"
    depth: int = 18                           # of the ResNet; paper 50. Stacks of the hourglass, 1 or 4 in the paper.
                                              # Blocks of the HRNet before an exchange, and exchanges; published 4
    width: int = 32                           # paper 64, HRNet 32 or 48, hourglass 256
    tokens: int = 64                          # width of the encoder; paper 256, on the finer maps of the others 64
    layers: int = 2                           # of the encoder; paper 4
    heads: int = 4                            # paper 8, 1 for the others
    hidden: int = 128                         # between the two linear maps of an encoder layer; TransPose 1024 with
                                              # ResNet-50, 128 with 64 tokens on HRNet
    normalized: bool = False                  # tokens and their comparison in the encoder; as in TransPose, and in the
                                              # files that do not say, not: at 60 times the paper's rate a layer of such
                                              # an encoder came to look at one place only
    soft: bool = True                         # STM
    hard: bool = True                         # HTM
    multiscale: bool = True                   # MSFFM: fuse at three scales; else at 1x only, and go up alone
    widths: tuple[int, int, int] = (64, 32, 24)  # at 1x, 2x, 4x; paper (256, 128, 64)
    head: int = 0                             # hidden layer between the 4x features and the maps; paper none, and 64
                                              # features. Without, 83 maps are mixtures of 24 features at a pixel, and
                                              # the best such mixtures of true heat are off by 4 to 10 % of the eye
                                              # distance (results/rht_training.json)
    patch: int = 3                            # not given in the paper
    sigma: float = 2.0                        # of the heat, in map pixels; not given in the paper. See ``scaled``

    def __post_init__(self) -> None:
        for name in ("landmarks", "in_channels", "depth", "width", "tokens", "heads", "hidden"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.backbone not in BACKBONES:
            raise ValueError(f"backbone must be one of {BACKBONES}, got {self.backbone!r}")
        multiple = {"resnet": 8, "hrnet": 16, "hourglass": 64}[self.backbone]
        if self.image_size < 1 or self.image_size % multiple:
            raise ValueError(f"image_size must be a multiple of {multiple} for {self.backbone}, got {self.image_size}")
        if self.layers < 0 or self.tokens % self.heads or self.tokens % 4:
            raise ValueError(f"layers must not be negative and tokens a multiple of 4 and of heads, got {self.layers}, "
                             f"{self.tokens} and {self.heads}")
        if len(self.widths) != 3 or min(self.widths) < 1:
            raise ValueError(f"widths must be three positive numbers, got {self.widths}")
        if self.patch < 1 or self.patch % 2 == 0:
            raise ValueError(f"patch must be odd and at least 1, got {self.patch}")
        if not self.sigma > 0:
            raise ValueError(f"sigma must be positive, got {self.sigma}")
        markups.boundaries(str(self.landmarks))

    def scaled(self, image_size: int) -> "RhtConfig":
        """This configuration for crops of another size, its heat as wide a share of the map as before."""
        return replace(self, image_size=image_size, sigma=self.sigma * image_size / self.image_size)

    @property
    def heatmap_size(self) -> int:
        """Side of the heatmaps, and of the reference, in pixels."""
        return self.image_size // 2

    @property
    def maps(self) -> int:
        """Heatmaps: of landmarks, then of boundaries."""
        return self.landmarks + self.boundaries * len(markups.boundaries(str(self.landmarks)))


LITE = RhtConfig(normalized=True, head=96)
# heat of 4 pixels on maps of 128 as in TransPose, 2 on maps of 64
PAPER = RhtConfig(image_size=256, in_channels=3, depth=50, width=64, tokens=256, layers=4, heads=8, hidden=1024,
                  widths=(256, 128, 64), sigma=4.0)
# Trans-H and Trans-HG: the encoder at a quarter of the image, one head (section IV-F)
LITE_H = replace(LITE, backbone="hrnet", depth=1, width=16, tokens=16, heads=1, layers=1, hidden=64)
LITE_HG = replace(LITE, backbone="hourglass", depth=1, width=48, tokens=16, heads=1, layers=1, hidden=64)
PAPER_H = replace(PAPER, backbone="hrnet", depth=4, width=48, tokens=64, heads=1, hidden=128)
PAPER_HG = replace(PAPER, backbone="hourglass", depth=1, width=256, tokens=64, heads=1, hidden=128)

# the rows of Table VIII, by what is switched off
ABLATION = {
    "backbone": dict(soft=False, hard=False, multiscale=False, layers=0),
    "trans": dict(soft=False, hard=False, multiscale=False),
    "trans_stm": dict(hard=False, multiscale=False),
    "trans_stm_msffm": dict(hard=False),
    "trans_htm_msffm": dict(soft=False),
    "rht": dict(),
}


class Transformed(NamedTuple):
    """What the reference gives: features at 1x, 2x, 4x, and where they came from; None for a part that is not there."""

    soft: list[Tensor] | None       # (B, C_s, sH, sW), weighted by the confidence
    hard: list[Tensor] | None       # the same shapes
    confidence: Tensor | None       # (B, 1, H, W)
    index: Tensor | None            # (B, H W)
    theta: Tensor | None            # (B, 2, 3)
    values: list[Tensor] | None     # features of the reference's heatmaps, before they are moved


class RhtOutput(NamedTuple):
    """What the network says; the landmarks' heatmaps come last, as with every network of this library."""

    moved: Transformed
    boundaries: Tensor              # (B, P, S/2, S/2)
    landmarks: Tensor               # (B, K, S/2, S/2), heat: 1 on a landmark


class LocalFeatures(nn.Module):
    """Convolution, normalisation, rectifier: features of an image, or of a stack of heatmaps, at three scales."""

    def __init__(self, in_channels: int, widths: tuple[int, int, int]):
        super().__init__()
        coarse, middle, fine = widths
        self.to_4x = convolution(in_channels, fine)
        self.to_2x = nn.Sequential(convolution(fine, middle, 2), convolution(middle, middle))
        self.to_1x = nn.Sequential(convolution(middle, coarse, 2), convolution(coarse, coarse))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, S/2, S/2) -> features of sides S/8, S/4, S/2."""
        fine = self.to_4x(x)
        middle = self.to_2x(fine)
        return [self.to_1x(middle), middle, fine]


class ReferenceTransformer(nn.Module):
    """Soft and hard transformation of a reference's heatmaps onto a target, at three scales.

    Source: RHT section III-A and Fig. 2.
    """

    def __init__(self, in_channels: int, maps: int, widths: tuple[int, int, int], patch: int = 3, soft: bool = True,
                 hard: bool = True):
        super().__init__()
        self.in_channels, self.maps, self.patch, self.soft = in_channels, maps, patch, soft
        self.looks = LocalFeatures(in_channels, widths)                    # one extractor for both faces
        self.values = LocalFeatures(maps, widths)
        self.localization = Localization(widths[0]) if hard else None

    def forward(self, target: Tensor, reference: Tensor, heat: Tensor, index: Tensor | None = None,
                theta: Tensor | None = None) -> Transformed:
        """Both faces (B, in_channels, H, W), the reference's true heatmaps (B, maps, H, W).

        Args:
            index: (B, H W / 16), matches to be trusted wholly, in the place of those that are found.
            theta: (B, 2, 3), an affine map in the place of the one that is found.

        Raises:
            ValueError: for other shapes; H and W must be multiples of 4.
        """
        shape = tuple(target.shape)
        if len(shape) != 4 or shape[1] != self.in_channels or shape[2] % 4 or shape[3] % 4:
            raise ValueError(f"target must be (B, {self.in_channels}, H, W) with H and W multiples of 4, got {shape}")
        if tuple(reference.shape) != shape or tuple(heat.shape) != (shape[0], self.maps, *shape[2:]):
            raise ValueError(f"reference and heat must be {shape} and {(shape[0], self.maps, *shape[2:])}, "
                             f"got {tuple(reference.shape)} and {tuple(heat.shape)}")
        query, key = self.looks(torch.cat([target, reference]))[0].split([shape[0], shape[0]])
        values, soft, hard, confidence = self.values(heat), None, None, None
        if self.soft:
            if index is None:
                confidence, index = correlate(query, key, self.patch)
            else:
                confidence = torch.ones_like(query[:, :1])
            soft = [transfer(value, index, confidence) for value in values]
        if self.localization is not None:
            theta = self.localization(query, key) if theta is None else theta
            hard = [hard_transform(value, theta) for value in values]
        return Transformed(soft, hard, confidence, index, theta, values)


class FeatureFusion(nn.Module):
    """The target's own features plus one convolution of all joined: of three in RHT, of two in its ablations.

    Source: RHT Eq. 5.
    """

    def __init__(self, channels: int, sources: int = 2):
        super().__init__()
        self.join = nn.Conv2d((sources + 1) * channels, channels, 3, padding=1)

    def forward(self, features: Tensor, *moved: Tensor) -> Tensor:
        """(B, C, H, W) each -> the same shape."""
        # F' = F_G + Conv(F_E, F_S, F_G)
        return features + self.join(torch.cat([*moved, features], 1))


class MultiScaleFusion(nn.Module):
    """Fuse at 1x, go up by a transposed convolution, fuse at 2x, go up, fuse at 4x.

    Args:
        widths: of the features at the three scales.
        sources: transformed features, 2 (hard and soft), 1 or 0.
        scales: at how many scales to fuse, from 1x on; 1 without the module, 0 if there is nothing to fuse. The paper
            does not say how its networks without it reach the size of the heatmaps: here by the same two steps up.

    Source: RHT Eq. 5, 6 and Fig. 3.
    """

    def __init__(self, widths: tuple[int, int, int], sources: int = 2, scales: int = 3):
        super().__init__()
        self.sources, self.scales = sources, scales
        self.fuse = nn.ModuleList(FeatureFusion(width, sources) for width in widths[:scales])
        self.up = nn.ModuleList(
            nn.Sequential(nn.ConvTranspose2d(a, b, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU())
            for a, b in zip(widths, widths[1:]))

    def forward(self, features: Tensor, *moved: Sequence[Tensor]) -> Tensor:
        """The backbone's (B, C_1, H, W), and each source at three scales -> (B, C_4, 4H, 4W)."""
        if len(moved) != self.sources or any(len(scales) != 3 for scales in moved):
            raise ValueError(f"moved must be {self.sources} sources of 3 scales, got {[len(m) for m in moved]}")
        for i in range(3):
            features = self.up[i - 1](features) if i else features
            features = self.fuse[i](features, *(source[i] for source in moved)) if i < len(self.fuse) else features
        return features


class Rht(nn.Module):
    """Heatmaps of a face, with the help of a reference whose landmarks are known.

    Source: RHT Fig. 2. The paper gives the target twice, to the backbone at twice the resolution of the transformer;
    so it is here.
    """

    def __init__(self, config: RhtConfig = LITE):
        super().__init__()
        self.config = config
        self.backbone = Backbone(config.backbone, config.in_channels, config.depth, config.width, config.tokens,
                                 config.layers, config.heads, config.hidden, config.widths[0], config.normalized)
        sources = config.soft + config.hard
        self.transformer = ReferenceTransformer(config.in_channels, config.maps, config.widths, config.patch,
                                                config.soft, config.hard) if sources else None
        self.fusion = MultiScaleFusion(config.widths, sources, 3 if config.multiscale else min(1, sources))
        last = nn.Conv2d(config.head or config.widths[2], config.maps, 1)
        # heat is nearly everywhere 0: start there
        nn.init.normal_(last.weight, std=0.001 if config.head else 0.01)
        nn.init.zeros_(last.bias)
        self.head = nn.Sequential(convolution(config.widths[2], config.head, size=1), last) if config.head else last

    @property
    def inputs(self) -> tuple[str, ...]:
        """What ``forward`` takes, as named in the batches of ``Pairs``."""
        return ("image",) if self.transformer is None else ("image", "reference", "reference_landmarks")

    def forward(self, image: Tensor, reference: Tensor | None = None, landmarks: Tensor | None = None,
                index: Tensor | None = None, theta: Tensor | None = None) -> RhtOutput:
        """Heatmaps of the target.

        Args:
            image: (B, in_channels, S, S) in [-0.5, 0.5].
            reference: (B, in_channels, S/2, S/2) another face in a crop of the same kind; none for Trans-R alone.
            landmarks: (B, K, 2) of the reference, in its pixels.
            index, theta: matches and affine map that are known from elsewhere, see ``ReferenceTransformer``.

        Raises:
            ValueError: for other shapes, or a missing reference.
        """
        size, channels = self.config.image_size, self.config.in_channels
        if tuple(image.shape[1:]) != (channels, size, size):
            raise ValueError(f"image must be (B, {channels}, {size}, {size}), got {tuple(image.shape)}")
        moved = Transformed(*[None] * 6)
        if self.transformer is not None:
            if reference is None or landmarks is None:
                raise ValueError("reference and landmarks must be given, got None")
            if tuple(landmarks.shape) != (image.shape[0], self.config.landmarks, 2):
                raise ValueError(f"landmarks must be ({image.shape[0]}, {self.config.landmarks}, 2), "
                                 f"got {tuple(landmarks.shape)}")
            heat = draw(landmarks.float(), self.config, check=False)
            moved = self.transformer(F.avg_pool2d(image, 2), reference, heat, index, theta)
        features = self.fusion(self.backbone(image), *(m for m in (moved.hard, moved.soft) if m is not None))
        points, lines = self.head(features).split([self.config.landmarks, self.config.maps - self.config.landmarks], 1)
        return RhtOutput(moved, lines, points)


    def read(self, outputs: RhtOutput, mirrored: bool = False) -> Reading:
        """Landmarks in crop pixels, from the centre of the heat; a score is how hot it is. See ``nets.reading``."""
        return read_maps(outputs.landmarks, self.config.image_size, "center_of_mass", mirrored)

    @torch.no_grad()
    def lend(self, images: Tensor, reference: tuple[Any, ArrayLike] | None = None) -> tuple[Tensor, Tensor]:
        """A reference for each crop, as ``forward`` takes it.

        Args:
            images: (B, in_channels, S, S) in [-0.5, 0.5].
            reference: a photo, as ``data.load_image`` takes it, and the landmarks (K, 2) of its face, lent to all; None
                for the most correlated of the shipped faces, for each crop its own. The shipped network is hardly
                better with one face than with another, see results/rht_lenders.json.

        Returns:
            faces (B, in_channels, S/2, S/2) and their landmarks (B, K, 2) in their pixels.

        Raises:
            ValueError: if the network borrows from none, the landmarks are not (K, 2) or not finite, or the shipped
                faces have others.

        Source: RHT section III-D.
        """
        if self.transformer is None:
            raise ValueError("lend needs a network that borrows, got one without soft and hard transformation")
        count, channels, which = self.config.landmarks, self.config.in_channels, np.zeros(len(images), int)
        if reference is None:
            faces, bank = shipped_for(self.config.image_size)
            if faces.landmarks.shape[1] != count:
                raise ValueError(f"reference must be given to a network of {count} landmarks: the shipped faces have "
                                 f"{faces.landmarks.shape[1]}")
            which = answer(bank, images)
        else:
            photo, landmarks = reference[0], np.asarray(reference[1], np.float64)
            if landmarks.shape != (count, 2) or not np.isfinite(landmarks).all():
                raise ValueError(f"reference must be (photo, landmarks ({count}, 2)), finite, got landmarks of shape "
                                 f"{landmarks.shape}")
            faces = References.given(photo, landmarks, self.config.heatmap_size, channels == 3)
        lent = faces[which]
        return lent.images.expand(-1, channels, -1, -1).to(images), lent.landmarks.to(images)


def draw(landmarks: Tensor, config: RhtConfig = LITE, check: bool = True) -> Tensor:
    """Heatmaps of landmarks and, from the lines through them, of boundaries; 1 on either.

    Args:
        landmarks: (B, K, 2) in pixels of the map.
        check: whether to look for NaN, which makes the processor wait for a GPU; if not, NaN gives NaN.

    Returns:
        (B, K + P, S/2, S/2).

    Source: RHT section III-D says what the reference heatmap holds, not its shape: Gaussians for landmarks, the
    curves of ``contours.encode`` for boundaries, whose squared error outweighs that of the landmarks even so.
    """
    size, sigma = config.heatmap_size, config.sigma
    t = torch.arange(size, dtype=landmarks.dtype, device=landmarks.device)
    # exp(-(dx^2 + dy^2) / 2 sigma^2) is a product
    x, y = (torch.exp(-((t - landmarks[..., i, None]) / sigma).square() / 2) for i in (0, 1))      # (B, K, size)
    points = y[..., :, None] * x[..., None, :]
    if not config.boundaries:
        return points
    rows = markups.boundaries(str(config.landmarks))
    longest, single = max(map(len, rows)), landmarks.unbind(1)
    lines = torch.stack([single[k] for row in rows for k in (*row, *[row[-1]] * (longest - len(row)))], 1)
    return torch.cat([points, contours.encode(lines.unflatten(1, (len(rows), longest)), size, sigma, check)], 1)


def read(maps: Tensor, image_size: int) -> Tensor:
    """Landmarks (B, K, 2) in pixels of the target, from their heatmaps (B, K, h, w)."""
    return heatmaps.to_image(heatmaps.decode(maps.float(), "center_of_mass"), tuple(maps.shape[-2:]), image_size)
