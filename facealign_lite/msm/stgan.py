"""ST-GAN: a spatial transformer that straightens a rough crop, and the discriminator that trains beside it.

theta (B, 2, 3) maps places of the straight crop to places of the rough one (Eq. 2), in coordinates that run from -1 to
1 between a crop's outer edges. Images (B, C, S, S). Straight means: turned, scaled and moved until the landmarks lie as
near as they can to a mean face in the frame of ``exemplars``, with ``MARGIN`` around it.

The tables and the text contradict themselves. What we did:

1. Table I gives Conv6 and Conv8 16 kernels, but outputs of 64 and 128 channels: the outputs, which the next rows read.
2. The text ends the localisation network with a 4 x 4 average pool and a 1 x 1 convolution; Table I has a 4 x 4
   convolution of 32 kernels in the pool's place: the table, as only so are there the text's 11 convolutions.
3. The abstract gives ST-GAN residual units; neither table has one: none.
4. Table II ends in 1 x 1 x 2, the text in a scalar: two logits, whose softmax is the scalar.
5. Eq. 3 is called a loss but is made large; Eq. 6 adds L_G to what the discriminator makes large, and with it Eq. 4 a
   second time: Eq. 3 alone, as lines 2 and 3 of Algorithm 1 say. Eq. 6's minimum is over C: over G.
6. Line 3 of Algorithm 1 shows the discriminator the rough crop, Eq. 3 the straightened one: Eq. 3.
7. Padding, activations and normalisation are nowhere: see the classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from facealign_lite.data.tensors import exact

from .exemplars import FRAME

MARGIN = 0.3        # room around the frame, as around boxes elsewhere: of 3000 rendered faces 0.2 % then have a
                    # landmark beyond it; straightened by the pupils alone, which lie close in profile, 18 % would
ADVERSARIAL = 0.5   # b of Eq. 5 (section IV-C); a is 1
TINY = 1e-12        # under a root, so that an exact theta has a gradient
EDGE = 128          # the side that both tables start from


@dataclass(frozen=True)
class StGanConfig:
    """Widths of the layers of Table I and of Table II, without those of their outputs, six and two numbers."""

    in_channels: int = 1                                                          # paper 3
    generator: tuple[int, ...] = (8, 16, 16, 32, 32, 64, 64, 128, 128, 32)        # as in the paper
    discriminator: tuple[int, ...] = (8, 16, 32, 64, 128, 256)                    # a quarter of the paper's

    def __post_init__(self) -> None:
        if self.in_channels < 1:
            raise ValueError(f"in_channels must be at least 1, got {self.in_channels}")
        for name, count in (("generator", 10), ("discriminator", 6)):
            widths = getattr(self, name)
            if len(widths) != count or min(widths) < 1:
                raise ValueError(f"{name} must be {count} positive widths, got {widths}")


LITE = StGanConfig()
PAPER = StGanConfig(in_channels=3, discriminator=(32, 64, 128, 256, 512, 1024))
STRIDES = (2, 2, 1, 2, 1, 2, 1, 2, 1)     # of Conv1 to Conv9 in Table I


# ---- networks ------------------------------------------------------------------------------------------------------

class Generator(nn.Module):
    """The localisation network: eleven convolutions from a crop of 128 pixels to six numbers.

    Ours: 3 x 3 kernels are padded by 1, batch normalisation and ReLU follow all but Conv11. That one starts as the
    identity map, so that an untrained network leaves the crop as it is, and computes in float32, since the step from 1
    to the next number of bfloat16 moves the border of a crop by a quarter of a pixel or more.

    Source: MSM Eq. 1, Table I.
    """

    def __init__(self, config: StGanConfig = LITE):
        super().__init__()
        self.config = config
        *widths, last = config.generator
        convolutions = [nn.Conv2d(a, b, 3, stride, padding=1, bias=False)
                        for a, b, stride in zip([config.in_channels, *widths], widths, STRIDES)]
        convolutions.append(nn.Conv2d(widths[-1], last, 4, bias=False))
        self.layers = nn.Sequential(*[nn.Sequential(one, nn.BatchNorm2d(one.out_channels), nn.ReLU())
                                      for one in convolutions])
        self.last = nn.Conv2d(last, 6, 1)
        nn.init.zeros_(self.last.weight)
        with torch.no_grad():
            self.last.bias.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0]))

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, 128, 128), values in [-0.5, 0.5] -> theta (B, 2, 3), float32.

        Raises:
            ValueError: for another shape.
        """
        _check_images(images, self.config)
        features = self.layers(images)
        with torch.autocast(images.device.type, enabled=False):
            return self.last(features.float()).view(-1, 2, 3)


class Discriminator(nn.Module):
    """Seven convolutions from a crop of 128 pixels to two logits: not canonical, canonical.

    Ours: 4 x 4 kernels are padded by 1, a leaky ReLU of slope 0.2 follows all but the last, and nothing is normalised:
    batch statistics would tell a batch of real crops from one of generated ones.

    Source: MSM Table II.
    """

    def __init__(self, config: StGanConfig = LITE):
        super().__init__()
        self.config = config
        layers = [nn.Sequential(nn.Conv2d(a, b, 4, 2, padding=1), nn.LeakyReLU(0.2))
                  for a, b in zip([config.in_channels, *config.discriminator], config.discriminator)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(config.discriminator[-1], 2, 2))

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, 128, 128) -> (B, 2). Raises ValueError for another shape."""
        _check_images(images, self.config)
        return self.layers(images).float().flatten(1)


class StGan(nn.Module):
    """Both players; called, it is the generator."""

    def __init__(self, config: StGanConfig = LITE):
        super().__init__()
        self.config = config
        self.generator, self.discriminator = Generator(config), Discriminator(config)

    def forward(self, images: Tensor) -> Tensor:
        """Rough crops (B, C, 128, 128) -> theta (B, 2, 3)."""
        return self.generator(images)

    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """The two players' own: a gradient norm clipped over both would let the one's slope scale the other's step."""
        return {name: list(getattr(self, name).parameters()) for name in ("generator", "discriminator")}


# ---- grid and sampler ----------------------------------------------------------------------------------------------

def grid(theta: Tensor, size: int) -> Tensor:
    """Where each pixel of the straight crop is read from: (B, 2, 3) -> (B, size, size, 2), from -1 to 1.

    Source: MSM Eq. 2.
    """
    _check_theta(theta, "theta")
    # pixel p of a side of S, whose content covers [-0.5, S - 0.5], lies at (2 p + 1) / S - 1
    along = (2 * torch.arange(size, dtype=theta.dtype, device=theta.device) + 1) / size - 1
    x, y = along[:, None], along[:, None, None]                                 # (S, 1), (S, 1, 1)
    across, down, shift = theta[:, None, None].unbind(-1)                       # (B, 1, 1, 2)
    # theta (x, y, 1)^T, column by column: a matrix product would be one of bfloat16 under autocast
    return (across * x + shift) + down * y                                      # (B, 1, S, 2) + (B, S, 1, 2)


def straighten(images: Tensor, theta: Tensor) -> Tensor:
    """The crops that theta makes of rough ones, bilinear, the border repeated: (B, C, S, S) -> same shape.

    Source: MSM section III-A, the sampler.
    """
    if images.ndim != 4 or images.shape[0] != theta.shape[0] or images.shape[2] != images.shape[3]:
        raise ValueError(f"images must be square, one for each of {theta.shape[0]} theta, "
                         f"got shape {tuple(images.shape)}")
    places = grid(theta, images.shape[-1]).to(images.dtype)
    return F.grid_sample(images, places, padding_mode="border", align_corners=False)


def pixel_map(theta: Tensor, size: int) -> Tensor:
    """theta as the map of pixels (x, y) from straight to rough crop, both of side ``size``: (B, 2, 3) -> (B, 2, 3)."""
    _check_theta(theta, "theta")
    linear, c = theta[..., :2], (size - 1) / 2
    # p = c + n S / 2, so A n + t becomes A (p - c) + t S / 2 + c
    return torch.cat([linear, theta[..., 2:] * size / 2 + c - c * linear.sum(-1, keepdim=True)], -1)


def move(points: Tensor, theta: Tensor, size: int) -> Tensor:
    """Points (B, K, 2) in pixels of the straight crop -> pixels of the rough one.

    Source: MSM Algorithm 2 line 14, where the print inverts a theta that Eq. 2 already defines in this direction.
    """
    matrix = pixel_map(theta, size)
    return product(points, matrix[..., :2].mT) + matrix[:, None, :, 2]


def move_back(points: Tensor, theta: Tensor, size: int) -> Tensor:
    """The inverse of ``move``: (B, K, 2) in pixels of the rough crop -> pixels of the straight one."""
    matrix = pixel_map(theta, size)
    (a, b), (c, d) = (row.unbind(-1) for row in matrix[..., :2].unbind(-2))
    # [[a, b], [c, d]]^-1 = [[d, -b], [-c, a]] / (a d - b c), which unlike a solver asks nothing of the device
    back = torch.stack([d, -b, -c, a], -1).view(-1, 2, 2) / (a * d - b * c)[:, None, None]
    return product(points - matrix[:, None, :, 2], back.mT)


def product(a: Tensor, b: Tensor) -> Tensor:
    """a b of small matrices (..., M, N) and (..., N, P), exact under autocast, whose products are of bfloat16."""
    return (a[..., None] * b[..., None, :, :]).sum(-2)


# ---- the true theta, and how far one is from it --------------------------------------------------------------------

def to_frame(points: Tensor, size: int, margin: float = MARGIN) -> Tensor:
    """Points (..., 2) in pixels of a straight crop -> the frame of exemplars, of 128 pixels."""
    return (points - (size - 1) / 2) * ((1 + margin) * FRAME / size) + (FRAME - 1) / 2


def from_frame(points: Tensor, size: int, margin: float = MARGIN) -> Tensor:
    """The inverse of ``to_frame``."""
    return (points - (FRAME - 1) / 2) / ((1 + margin) * FRAME / size) + (size - 1) / 2


def true_theta(landmarks: Tensor, mean: Tensor, size: int, margin: float = MARGIN) -> Tensor:
    """The similarity that straightens a crop, known from its landmarks.

    Args:
        landmarks: (B, K, 2) pixels of rough crops of side ``size``.
        mean: (K, 2) the mean face in the frame of exemplars, such as ``mean_face`` gives of training shapes. To judge a
            generator take the mean that it was trained with. That of a dictionary's exemplars is another: K-means
            spends as many of them on rare shapes as on common ones, and rare are profiles, whose pupils lie close, so
            that they are large in the frame. Of 500 it is 10 % larger, and a generator without fault then seems to
            leave every face 10 % too small.

    Returns:
        (B, 2, 3).

    Raises:
        ValueError: for wrong shapes, NaN, or landmarks that are all one point.

    Source: MSM section III-A: Procrustes analysis with the mean shape, there of the methods it is measured against;
    how its own true parameters were found is not said.
    """
    if landmarks.ndim != 3 or mean.shape != landmarks.shape[1:] or mean.shape[1] != 2:
        raise ValueError(f"landmarks must be (B, K, 2) and mean (K, 2), got {tuple(landmarks.shape)} and "
                         f"{tuple(mean.shape)}")
    if not torch.isfinite(landmarks).all():
        raise ValueError("landmarks must be finite, got NaN or infinity")
    if not (landmarks != landmarks[:, :1]).flatten(1).any(1).all():
        raise ValueError("landmarks must not be all one point")
    return fit_theta(landmarks, from_frame(mean.to(landmarks), size, margin), size)


def fit_theta(landmarks: Tensor, goal: Tensor, size: int) -> Tensor:
    """``true_theta`` to a ``goal`` (K, 2) in pixels of the straight crop, without a look at the values.

    Nothing in it waits for the device, so it may be part of a captured step; NaN or one single point give NaN.
    """
    landmarks, goal = landmarks.unbind(-1), goal.unbind(-1)
    (x, y), (u, v) = ([one - one.mean(-1, keepdim=True) for one in pair] for pair in (landmarks, goal))
    # with z = x + iy and q = u + iv, both about their means, straight = f rough for f = sum z* q / sum z* z, and
    # rough = straight / f = straight (a + ib), a + ib = sum z* z (sum z q*) / |sum z q*|^2
    real, imaginary = (x * u + y * v).sum(-1), (y * u - x * v).sum(-1)                  # sum z q*
    scale = (x * x + y * y).sum(-1) / (real**2 + imaginary**2)
    a, b, c = scale * real, scale * imaginary, (size - 1) / 2
    left, up = (c - one.mean(-1) for one in goal)
    tx, ty = (one.mean(-1) - c for one in landmarks)
    rows = [torch.stack([a, -b, (tx + a * left - b * up) * 2 / size], -1),
            torch.stack([b, a, (ty + b * left + a * up) * 2 / size], -1)]
    return torch.stack(rows, -2)


class Pose(NamedTuple):
    """What is left to straighten, each (B,)."""

    rotation: Tensor    # degrees, clockwise on the screen
    scale: Tensor       # how many times too large the face is
    shift: Tensor       # how far off the middle, in sides of the frame, which the mean face fills


def pose_residual(theta: Tensor, target: Tensor, margin: float = MARGIN) -> Pose:
    """The pose that a face still has in the crop that ``theta`` straightened, where ``target`` would be right.

    With the identity for ``theta`` it is the pose of the rough crop. See ``true_theta`` for whose mean face to take.

    Raises:
        ValueError: for wrong shapes or a theta that cannot be inverted.
    """
    for name, value in (("theta", theta), ("target", target)):
        _check_theta(value, name)
    theta, target = theta.to(exact(theta.device)), target.to(exact(target.device))
    linear, offset = theta[..., :2], target[..., 2] - theta[..., 2]
    if not (torch.linalg.det(linear).abs() > 1e-12).all():
        raise ValueError("theta must be invertible, got one of determinant 0")
    # what should lie at q lies at R q, R = theta^-1 target
    turned = torch.linalg.solve(linear, target[..., :2])                        # (B, 2, 2)
    shift = torch.linalg.solve(linear, offset)                                  # (B, 2), in half sides of the crop
    a, b = (turned[..., 0, 0] + turned[..., 1, 1]) / 2, (turned[..., 1, 0] - turned[..., 0, 1]) / 2
    return Pose(torch.atan2(b, a).rad2deg(), torch.hypot(a, b), shift.norm(dim=-1) * (1 + margin) / 2)


# ---- losses --------------------------------------------------------------------------------------------------------

def discriminator_objective(real: Tensor, fake: Tensor) -> Tensor:
    """E log D(real) + E log(1 - D(fake)), to be made large; logits (B, 2).

    Source: MSM Eq. 3.
    """
    return F.log_softmax(real, -1)[:, 1].mean() + F.log_softmax(fake, -1)[:, 0].mean()


def adversarial_loss(fake: Tensor, saturating: bool = True) -> Tensor:
    """E log(1 - D(fake)); logits (B, 2).

    Its slope fades where the discriminator is sure. Not ``saturating``: - E log D(fake), which has the same sign of
    slope everywhere and fades where the generator has won (Goodfellow et al. 2014, section 3; not in the paper).

    Source: MSM Eq. 4.
    """
    log = F.log_softmax(fake, -1)
    return log[:, 0].mean() if saturating else -log[:, 1].mean()


def parameter_loss(theta: Tensor, target: Tensor) -> Tensor:
    """E ||theta - target||, the root of the sum over six numbers; (B, 2, 3).

    Source: MSM Eq. 5, first term.
    """
    return (theta - target).square().sum((1, 2)).add(TINY).sqrt().mean()


def stgan_loss(gan: StGan, mean: Tensor, adversarial: float = ADVERSARIAL, parameters: float = 1.0,
               saturating: bool = True, margin: float = MARGIN) -> Callable:
    """Algorithm 1 as a loss for ``training.fit(gan, crops, loss, ...)``, in one process.

    One backward pass gives each player the gradient of its own objective: the generator sees a discriminator that does
    not learn, the discriminator crops that are given. (``StGan.parameter_groups`` keeps their clipped norms apart.) So
    each round moves both once, from the same state; the paper moves the generator by Eq. 5, the discriminator twice and
    the generator again, but line 4 asks of the generator what line 1 did with other weights.

    Args:
        gan: the model that is trained.
        mean: (K, 2), see ``true_theta``.
        adversarial: b of Eq. 5; 0 trains the generator on parameters only, and the discriminator not at all.
        parameters: a of Eq. 5.
        saturating: see ``adversarial_loss``.

    Returns:
        a loss of theta and a batch with ``image`` and ``landmarks``. The real crops are the rough ones straightened by
        the true theta, so that both players' crops have been through the same sampler. It looks at no value (NaN
        landmarks give a NaN loss), so that a step can be captured as a CUDA graph.

    Raises:
        ValueError: for negative weights.

    Source: MSM Eq. 3 to 6, Algorithm 1.
    """
    if not (adversarial >= 0 and parameters >= 0):
        raise ValueError(f"weights must not be negative, got {adversarial} and {parameters}")

    placed: dict[tuple, Tensor] = {}          # the mean face in a straight crop, once for every device, type and size

    def loss(theta: Tensor, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        images, landmarks = batch["image"], batch["landmarks"]
        size, kind = images.shape[-1], (landmarks.device, landmarks.dtype, images.shape[-1])
        if kind not in placed:
            placed[kind] = from_frame(mean.to(landmarks), size, margin)
        if landmarks.shape[1:] != mean.shape:
            raise ValueError(f"landmarks must be (B, {len(mean)}, 2) like the mean, got {tuple(landmarks.shape)}")
        target = fit_theta(landmarks, placed[kind], size)
        parts = {"parameters": parameters * parameter_loss(theta, target)}
        if adversarial:
            fake = straighten(images, theta)
            still = {name: value.detach() for name, value in gan.discriminator.named_parameters()}
            seen = functional_call(gan.discriminator, still, (fake,))
            parts["adversarial"] = adversarial * adversarial_loss(seen, saturating)
            both = gan.discriminator(torch.cat([straighten(images, target), fake.detach()]))
            parts["discriminator"] = -discriminator_objective(*both.chunk(2))
        return parts
    return loss


def _check_images(images: Tensor, config: StGanConfig) -> None:
    if images.ndim != 4 or images.shape[1:] != (config.in_channels, EDGE, EDGE):
        raise ValueError(f"images must be (B, {config.in_channels}, {EDGE}, {EDGE}), got shape {tuple(images.shape)}")


def _check_theta(theta: Tensor, name: str) -> None:
    if theta.ndim != 3 or theta.shape[1:] != (2, 3):
        raise ValueError(f"{name} must be (B, 2, 3), got shape {tuple(theta.shape)}")
