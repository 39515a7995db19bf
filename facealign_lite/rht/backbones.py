"""The target's own features: a convolutional backbone, then a transformer encoder over all its places.

Shapes: B batch, C channels, H W; N = H W tokens of width D.

Source: RHT section III-D and IV-F after TransPose (Yang, Quan, Nie, Yang, ICCV 2021), its [41].
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facealign_lite.nets import Hourglass, HourglassStack, HRNet, HRNetConfig, Residual, ResNet, ResNetConfig

BACKBONES = ("resnet", "hrnet", "hourglass")
SHARP, SHARPEST = 10.0, 100.0     # what cosines are multiplied by before the softmax, at first and at most


class EncoderLayer(nn.Module):
    """Self-attention and two linear maps, each added to its input and normalised (Vaswani et al. 2017).

    With ``cosine`` a token is compared by the angle between query and key, times a sharpness that is learnt and ends at
    ``SHARPEST`` (Liu et al., Swin Transformer V2, CVPR 2022): no rate can drive it to where all look at one place.
    """

    def __init__(self, width: int, heads: int, hidden: int, cosine: bool = False):
        super().__init__()
        self.sharpness = nn.Parameter(torch.full((heads, 1, 1), math.log(SHARP))) if cosine else None
        self.heads = heads
        self.places, self.contents = nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.join = nn.Linear(width, width)
        self.think = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, places: Tensor) -> Tensor:
        """(B, N, D) and where the tokens are, (N, D) -> (B, N, D). Places say who attends to whom, not what is said."""
        q, k = self.places(x + places).chunk(2, -1)
        q, k, v = (t.unflatten(-1, (self.heads, -1)).transpose(1, 2) for t in (q, k, self.contents(x)))
        scale = q.shape[-1]**-0.5
        if self.sharpness is not None:
            q = F.normalize(q, dim=-1) * self.sharpness.clamp(max=math.log(SHARPEST)).exp()
            k, scale = F.normalize(k, dim=-1), 1.0
        # softmax(q k^T scale) v, (B, heads, N, D / heads), without holding all N x N weights
        seen = F.scaled_dot_product_attention(q, k.to(q), v.to(q), scale=scale).transpose(1, 2).flatten(2)
        x = self.norm1(x + self.join(seen))
        return self.norm2(x + self.think(x))


class Encoder(nn.Module):
    """Every place of a map looks at every other, ``layers`` times.

    Args:
        normalized: tokens are normalised before the first layer, so that their places are not drowned by what they
            hold, and compared by cosines.
    """

    def __init__(self, width: int, layers: int, heads: int, hidden: int, normalized: bool = False):
        super().__init__()
        self.norm = nn.LayerNorm(width) if normalized and layers else None
        self.layers = nn.ModuleList(EncoderLayer(width, heads, hidden, normalized) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        """(B, D, H, W) -> the same shape."""
        size, places = x.shape[-2:], sine_places(tuple(x.shape[-2:]), x.shape[1], x.device)
        x = x.flatten(2).mT
        x = x if self.norm is None else self.norm(x)
        for layer in self.layers:
            x = layer(x, places)
        return x.mT.unflatten(-1, size)


def sine_places(size: tuple[int, int], width: int, device: torch.device | str | None = None) -> Tensor:
    """Sines and cosines of each place: (H W, width), the first half for y, the second for x.

    Rows and columns count from 1 to 2 pi over the map, so that the waves mean the same at every size.

    Raises:
        ValueError: if ``width`` is not a multiple of 4.

    Source: Carion et al. 2020, as TransPose uses it.
    """
    if width < 4 or width % 4:
        raise ValueError(f"width must be a multiple of 4, got {width}")
    quarter = width // 4
    frequency = 10_000 ** (-torch.arange(quarter, device=device) / quarter)
    waves = []
    for n in size:
        t = 2 * math.pi * (torch.arange(n, device=device) + 1) / n
        angle = t[:, None] * frequency
        waves.append(torch.cat([angle.sin(), angle.cos()], 1))                           # (n, width / 2)
    height, width = size
    y, x = waves[0][:, None].expand(-1, width, -1), waves[1][None].expand(height, -1, -1)
    return torch.cat([y, x], -1).flatten(0, 1)


class HourglassFeatures(nn.Module):
    """Hourglasses in a row at a quarter of the image, without heatmaps in between; for the rows HG of RHT Table V."""

    def __init__(self, in_channels: int, channels: int, stacks: int, depth: int = 4):
        super().__init__()
        half = channels // 2
        self.stem = nn.Sequential(nn.Conv2d(in_channels, half, 7, 2, 3, bias=False), nn.BatchNorm2d(half), nn.ReLU(),
                                  Residual(half, channels), nn.MaxPool2d(2), Residual(channels, channels))
        self.stacks = nn.ModuleList(nn.Sequential(Hourglass(depth, channels), Residual(channels, channels))
                                    for _ in range(stacks))

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, S, S) -> (B, channels, S/4, S/4)."""
        x = self.stem(images)
        for stack in self.stacks:
            x = x + stack(x)
        return x

    def start_from(self, trained: HourglassStack) -> "HourglassFeatures":
        """Take over what a trained network of the same widths and number of stacks has learnt, up to its last residual.

        Its stem then learns no more: it costs more than half of a backward pass, and has seen more faces than this
        network will.

        Raises:
            ValueError: if the two are not of one shape.

        Source: not in the paper, which says only that its code follows TransPose.
        """
        parts = [(self.stem, trained.stem)]
        for stack, hourglass, features in zip(self.stacks, trained.hourglasses, trained.features):
            parts += [(stack[0], hourglass), (stack[1], features[0])]
        if len(self.stacks) != len(trained.hourglasses) or any(
                {name: t.shape for name, t in mine.state_dict().items()}
                != {name: t.shape for name, t in theirs.state_dict().items()} for mine, theirs in parts):
            raise ValueError(f"trained must have the {len(self.stacks)} stacks and the widths of these features")
        for mine, theirs in parts:
            mine.load_state_dict(theirs.state_dict())
        self.stem.requires_grad_(False)
        return self


class Backbone(nn.Module):
    """Features of the target at an eighth of the image, ``out`` wide.

    The paper's ResNet ends at an eighth: its second stage, as in TransPose. HRNet and hourglasses end at a quarter,
    where the encoder works too; how their 64 x 64 x 64 features meet reference features of 32 x 32 x 256 is not said:
    here by a convolution of stride 2.

    Args:
        kind: "resnet", "hrnet" (its first three stages, as in TransPose) or "hourglass".
        depth: of the ResNet; stacks of the hourglass; blocks and exchanges of HRNet's third stage.
        width: of the ResNet's stem, of HRNet's finest branch, or of the hourglass.
        tokens, layers, heads, hidden, normalized: of the encoder; no layers for a plain backbone.
    """

    def __init__(self, kind: str, in_channels: int, depth: int, width: int, tokens: int, layers: int, heads: int,
                 hidden: int, out: int, normalized: bool = False):
        super().__init__()
        if kind == "resnet":
            config = ResNetConfig(depth, stages=2, in_channels=in_channels, width=width)
            self.body, channels = ResNet(config), config.channels[-1]
        elif kind == "hrnet":
            self.body, channels = HRNet(HRNetConfig(width, stages=3, modules=(1, depth, 3), blocks=depth,
                                                    in_channels=in_channels, stem=min(64, 2 * width))), width
        else:
            self.body, channels = HourglassFeatures(in_channels, width, depth), width
        self.reduce = nn.Conv2d(channels, tokens, 1, bias=False)
        self.encoder = Encoder(tokens, layers, heads, hidden, normalized)
        same = kind == "resnet" and tokens == out
        self.adapt = nn.Identity() if same else nn.Conv2d(tokens, out, 3, 1 if kind == "resnet" else 2, 1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, in_channels, S, S) -> (B, out, S/8, S/8)."""
        features = self.body(images)
        features = features[-1] if isinstance(features, list) else features
        return self.adapt(self.encoder(self.reduce(features)))
