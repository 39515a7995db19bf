"""What SCPAN does to a picture to get its twin, and what that does to points, maps and fields.

Shapes: B pictures, K landmarks, C boundaries, H W. A turn, scaling and mirroring about the middle of the picture is one
linear map (B, 2, 2), the same for a picture and for its maps of any size: q - m = A (p - m), m the middle. It mirrors
where its determinant is negative, and then right and left channels change places: ``flip`` says with whom.
"""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from facealign_lite.heatmaps import Size

TURN = 60.0                  # degrees to either side
SCALE = (0.5, 1.0)
SHRINKS = (2, 4, 8, 16)      # 256 pixels to 128, 64, 32, 16
BLACK, WHITE = -0.5, 0.5     # the networks here take pictures in [-0.5, 0.5]
# the paper gives no amounts for these
BOX = (0.2, 0.5)             # sides of an occlusion, of the picture's
NOISE = 0.1                  # standard deviation, up to
SALT = 0.05                  # of the pixels, up to


# ---- in space ------------------------------------------------------------------------------------------------------

def linear_map(angle: Tensor, scale: Tensor, mirror: Tensor) -> Tensor:
    """First mirror, then scale and turn by ``angle`` radians (clockwise on the screen): (B,) each -> (B, 2, 2)."""
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    side = 1 - 2 * mirror.to(cosine)
    return torch.stack([torch.stack([side * cosine, -sine], -1), torch.stack([side * sine, cosine], -1)], -2)


def draw_linear(count: int, generator: Generator, turn: float = TURN, scale: tuple[float, float] = SCALE) -> Tensor:
    """Random maps (count, 2, 2): turns of up to ``turn`` degrees, scales in a range, every other one mirrored.

    Source: SCPAN, implementation details; +-60 degrees and 0.5 to 1 are the paper's.
    """
    angle, share, mirror = torch.rand(3, count, generator=generator)
    low, high = scale
    return linear_map(math.radians(turn) * (2 * angle - 1), low + (high - low) * share, mirror < 0.5)


def move_points(points: Tensor, linear: Tensor, size: Size, flip: Sequence[int]) -> Tensor:
    """Landmarks (B, K, 2) of the moved picture of ``size``, one side or (height, width)."""
    _check(linear, len(points), flip, points.shape[1])
    height, width = (size, size) if isinstance(size, int) else size
    middle = points.new_tensor([(width - 1) / 2, (height - 1) / 2])
    return _swap((points - middle) @ linear.to(points).mT + middle, linear, flip)


def move_maps(maps: Tensor, linear: Tensor, flip: Sequence[int]) -> Tensor:
    """Heatmaps or confidences (B, K, H, W) of the moved picture, 0 where nothing is known.

    Heat keeps its height, and a scaling narrows peaks and ridges with everything else: D(encode(p, sigma)) is
    encode(D(p), s sigma). See ``widen``.
    """
    _check(linear, len(maps), flip, maps.shape[1])
    return _swap(_warp(maps, linear, "zeros"), linear, flip)


def move_offsets(offsets: Tensor, linear: Tensor, flip: Sequence[int]) -> Tensor:
    """Vectors (B, C, 2, H, W) of the moved picture: they move along, and turn, shrink and mirror themselves."""
    _check(linear, len(offsets), flip, offsets.shape[1])
    moved = _warp(offsets.flatten(1, 2), linear, "zeros").unflatten(1, offsets.shape[1:3])
    return _swap(torch.einsum("bij,bcjhw->bcihw", linear.to(moved), moved), linear, flip)


def move_images(images: Tensor, linear: Tensor) -> Tensor:
    """Pictures (B, channels, H, W) moved, the border carried on."""
    _check(linear, len(images))
    return _warp(images, linear, "border")


def widen(maps: Tensor, linear: Tensor, sigma: float) -> Tensor:
    """Maps (B, K, H, W) of Gaussian peaks that a scaling s has narrowed to s sigma, blurred back to sigma.

    The blur of variance (1 - s^2) sigma^2 is divided by s^2, which gives peaks their height again and makes straight
    ridges 1 / s too high; a divergence sees neither. Without it the self-calibrated loss asks for narrower peaks in
    the twin than the original loss does.
    """
    _check(linear, len(maps))
    if not sigma > 0:
        raise ValueError(f"sigma must be positive, got {sigma}")
    s2 = torch.linalg.det(linear).abs().to(maps).clamp(max=1)
    variance = (1 - s2).clamp(min=1e-6) * sigma**2                                      # 1e-6: nothing is blurred

    def blur(n: int) -> Tensor:
        t = torch.arange(n, dtype=maps.dtype, device=maps.device)
        weight = torch.exp(-(t - t[:, None]).square() / (2 * variance[:, None, None]))
        t = torch.arange(-n, n + 1, dtype=maps.dtype, device=maps.device)
        return (weight / torch.exp(-t.square() / (2 * variance[:, None])).sum(1)[:, None, None])[:, None]

    return blur(maps.shape[-2]) @ maps @ blur(maps.shape[-1]) / s2[:, None, None, None]


# ---- in texture: points and maps stay ------------------------------------------------------------------------------

def occlude(images: Tensor, boxes: Tensor, shifts: Tensor | None = None) -> Tensor:
    """Cover a box of each picture with black, or with a part of the picture itself.

    Args:
        images: (B, channels, H, W).
        boxes: (B, 4) whole pixels left, top, right, bottom; right and bottom are the first ones not covered.
        shifts: (B, 2) whole pixels (x, y) from each covered pixel to the one shown there, around the border; None is
            black.
    """
    y, x = torch.meshgrid(*(torch.arange(n, device=images.device) for n in images.shape[-2:]), indexing="ij")
    left, top, right, bottom = boxes.to(images.device).T[..., None, None]
    covered = (x >= left) & (x < right) & (y >= top) & (y < bottom)                     # (B, H, W)
    cover = torch.full_like(images, BLACK) if shifts is None else torch.stack(
        [image.roll((-int(dy), -int(dx)), (-2, -1)) for image, (dx, dy) in zip(images, shifts)])
    return torch.where(covered[:, None], cover, images)


def add_noise(images: Tensor, deviation: float, generator: Generator) -> Tensor:
    """Gaussian noise of that standard deviation, kept within black and white."""
    return (images + deviation * torch.randn(images.shape, generator=generator).to(images)).clamp(BLACK, WHITE)


def add_salt(images: Tensor, fraction: float, generator: Generator) -> Tensor:
    """White in place of that fraction of the pixels."""
    shape = (len(images), 1, *images.shape[-2:])
    return torch.where((torch.rand(shape, generator=generator) < fraction).to(images.device), WHITE, images)


def low_resolution(images: Tensor, factor: int) -> Tensor:
    """Bicubic to a size ``factor`` times smaller and back."""
    size = images.shape[-2:]
    small = [max(1, round(n / factor)) for n in size]
    for target in (small, size):                                                        # antialias also: a = -0.5
        images = F.interpolate(images, target, mode="bicubic", align_corners=False, antialias=True)
    return images.clamp(BLACK, WHITE)


def disturb(images: Tensor, generator: Generator, turn: float = TURN, scale: tuple[float, float] = SCALE
            ) -> tuple[Tensor, Tensor]:
    """Twins of pictures (B, channels, H, W) in [-0.5, 0.5]: moved, and each with one of five textures or none.

    Args:
        turn, scale: as in ``draw_linear``.

    Returns:
        (B, channels, H, W) and the linear maps (B, 2, 2).

    Source: SCPAN Fig. 4 and implementation details; amounts and odds are ours.
    """
    linear = draw_linear(len(images), generator, turn, scale)
    moved = move_images(images, linear)
    return torch.cat([_texture(image[None], generator) for image in moved]), linear


def _texture(image: Tensor, generator: Generator) -> Tensor:
    kind, amount, *box = torch.rand(8, generator=generator).tolist()
    if kind < 1 / 6:
        return image
    if kind < 2 / 6:
        return add_noise(image, NOISE * amount, generator)
    if kind < 3 / 6:
        return add_salt(image, SALT * amount, generator)
    if kind < 4 / 6:
        return low_resolution(image, SHRINKS[int(amount * len(SHRINKS))])
    height, width = image.shape[-2:]
    w, h = (n * (BOX[0] + (BOX[1] - BOX[0]) * t) for n, t in zip((width, height), box[:2]))
    left, top = box[2] * (width - w), box[3] * (height - h)
    where = torch.tensor([[left, top, left + w, top + h]]).round().long()
    shift = torch.tensor([[box[4] * width, box[5] * height]]).long()
    return occlude(image, where, None if kind < 5 / 6 else shift)


# ---- helpers -------------------------------------------------------------------------------------------------------

def _warp(maps: Tensor, linear: Tensor, border: str) -> Tensor:
    height, width = maps.shape[-2:]
    x = torch.arange(width, dtype=maps.dtype, device=maps.device) - (width - 1) / 2
    y = torch.arange(height, dtype=maps.dtype, device=maps.device) - (height - 1) / 2
    target = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)                       # (H, W, 2)
    source = torch.einsum("bij,hwj->bhwi", torch.linalg.inv(linear.to(maps)), target)
    return F.grid_sample(maps, source * 2 / source.new_tensor([width, height]), padding_mode=border,
                         align_corners=False)


def _swap(moved: Tensor, linear: Tensor, flip: Sequence[int]) -> Tensor:
    mirrored = (torch.linalg.det(linear) < 0).to(moved.device).view(-1, *[1] * (moved.ndim - 1))
    return torch.where(mirrored, moved[:, list(flip)], moved)


def _check(linear: Tensor, count: int, flip: Sequence[int] = (), channels: int = 0) -> None:
    if linear.shape != (count, 2, 2):
        raise ValueError(f"linear must be ({count}, 2, 2), got {tuple(linear.shape)}")
    if sorted(flip) != list(range(channels)):
        raise ValueError(f"flip must be an order of {channels} channels, got {tuple(flip)}")
