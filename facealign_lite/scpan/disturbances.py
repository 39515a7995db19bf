"""What SCPAN does to a picture to get its twin, and what that does to points, maps and fields.

Shapes: B pictures, K landmarks, C boundaries, H W. A turn, scaling and mirroring about the middle of the picture is one
linear map (B, 2, 2), the same for a picture and for its maps of any size: q - m = A (p - m), m the middle. With a shift
it is (B, 2, 3), q - m = A (p - m) + t, the last column t / size: shares of the width and of the height. It mirrors
where the determinant of A is negative, and then right and left channels change places: ``flip`` is their order.

Nothing here looks at values, so that a GPU is not waited for, but for what takes a generator.
"""

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from facealign_lite.heatmaps import Size

from .fields import reorder

TURN = 60.0                  # degrees to either side
SCALE = (0.5, 1.0)
SHRINKS = (2, 4, 8, 16)      # 256 pixels to 128, 64, 32, 16
BLACK, WHITE = -0.5, 0.5     # the networks here take pictures in [-0.5, 0.5]
# the paper gives no amounts for these
BOX = (0.2, 0.5)             # sides of an occlusion, of the picture's
NOISE = 0.1                  # standard deviation, up to
SALT = 0.05                  # of the pixels, up to

DRAWS = 13                   # uniform numbers that say what is done to a picture, see ``disturb_by``


# ---- in space ------------------------------------------------------------------------------------------------------

def linear_map(angle: Tensor, scale: Tensor, mirror: Tensor, shift: Tensor | None = None) -> Tensor:
    """First mirror, then scale and turn by ``angle`` radians (clockwise on the screen): (B,) each -> (B, 2, 2).

    With ``shift`` (B, 2), in shares of the picture's sides, (B, 2, 3): last of all it moves by so much.
    """
    cosine, sine = scale * angle.cos(), scale * angle.sin()
    side = 1 - 2 * mirror.to(cosine)
    linear = torch.stack([torch.stack([side * cosine, -sine], -1), torch.stack([side * sine, cosine], -1)], -2)
    return linear if shift is None else torch.cat([linear, shift.to(linear)[..., None]], -1)


def draw_linear(count: int, generator: Generator, turn: float = TURN, scale: tuple[float, float] = SCALE,
                shift: float = 0.0) -> Tensor:
    """Random maps (count, 2, 2): turns of up to ``turn`` degrees, scales in a range, every other one mirrored.

    With a ``shift`` above 0 they are (count, 2, 3) and move by up to that share of a side, each way.

    Source: SCPAN, implementation details; +-60 degrees and 0.5 to 1 are the paper's. Section III-B.1 names translation
    too, the implementation details do not: hence the 0.
    """
    draws = torch.rand(3, count, generator=generator)
    if shift:
        draws = torch.cat([draws, torch.rand(2, count, generator=generator)])
    return linear_of(draws.T, turn, scale, shift)


def linear_of(draws: Tensor, turn: float = TURN, scale: tuple[float, float] = SCALE, shift: float = 0.0) -> Tensor:
    """The maps of ``draw_linear`` from its uniform numbers (B, 3), or (B, 5) with a shift."""
    low, high = scale
    return linear_map(math.radians(turn) * (2 * draws[:, 0] - 1), low + (high - low) * draws[:, 1], draws[:, 2] < 0.5,
                      shift * (2 * draws[:, 3:5] - 1) if shift else None)


def move_points(points: Tensor, linear: Tensor, size: Size, flip: Sequence[int]) -> Tensor:
    """Landmarks (B, K, 2) of the moved picture of ``size``, one side or (height, width)."""
    _check(linear, len(points), flip, points.shape[1])
    height, width = (size, size) if isinstance(size, int) else size
    (a, b), (c, d), (right, down) = _parts(linear.to(points))
    x, y = points[..., 0] - (width - 1) / 2, points[..., 1] - (height - 1) / 2          # (B, K)
    moved = torch.stack([a * x + b * y + right * width + (width - 1) / 2,
                         c * x + d * y + down * height + (height - 1) / 2], -1)
    return _swap(moved, linear, flip)


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
    return _swap(torch.einsum("bij,bcjhw->bcihw", linear[..., :2].to(moved), moved), linear, flip)


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
    s2 = determinant(linear).abs().to(maps).clamp(max=1)
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
    height, width = images.shape[-2:]
    y, x = torch.arange(height, device=images.device)[:, None], torch.arange(width, device=images.device)
    left, top, right, bottom = boxes.to(images.device).T[..., None, None]
    covered = (x >= left) & (x < right) & (y >= top) & (y < bottom)                     # (B, H, W)
    cover = torch.full_like(images, BLACK)
    if shifts is not None:
        dx, dy = shifts.to(images.device).T[..., None, None]
        place = ((y + dy) % height) * width + (x + dx) % width                          # (B, H, W)
        cover = images.flatten(2).gather(-1, place.flatten(1)[:, None].expand(-1, images.shape[1], -1)).view_as(images)
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


def disturb(images: Tensor, generator: Generator, turn: float = TURN, scale: tuple[float, float] = SCALE,
            shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """Twins of pictures (B, channels, H, W) in [-0.5, 0.5]: moved, and each with one of five textures or none.

    Args:
        turn, scale, shift: as in ``draw_linear``.

    Returns:
        (B, channels, H, W) and the linear maps, (B, 2, 2) or with a shift (B, 2, 3).

    Source: SCPAN Fig. 4 and implementation details; amounts and odds are ours.
    """
    linear = draw_linear(len(images), generator, turn, scale, shift)
    moved = move_images(images, linear)
    return torch.cat([_texture(image[None], generator) for image in moved]), linear


def disturb_by(images: Tensor, draws: Tensor, grain: Tensor, turn: float = TURN,
               scale: tuple[float, float] = SCALE, shift: float = 0.0) -> tuple[Tensor, Tensor]:
    """``disturb`` as a function of uniform numbers, for all pictures at once: for twins that are made on a GPU.

    All textures are made of all pictures, and each picture takes its own.

    Args:
        draws: (B, ``DRAWS``) in [0, 1): 5 for the map, 1 for the kind of texture, 1 for its amount, 6 for a box and
            what is shown in it.
        grain: (B, 1 + channels, H, W) in [0, 1): for salt, then for noise.
        turn, scale, shift: as in ``draw_linear``.

    Returns:
        as ``disturb``.

    Raises:
        ValueError: for draws or grain of another shape.
    """
    count, channels, height, width = images.shape
    if draws.shape != (count, DRAWS) or grain.shape != (count, 1 + channels, height, width):
        raise ValueError(f"draws and grain must be {(count, DRAWS)} and {(count, 1 + channels, height, width)}, got "
                         f"{tuple(draws.shape)} and {tuple(grain.shape)}")
    linear = linear_of(draws, turn, scale, shift)
    images, kind, amount, box = move_images(images, linear), draws[:, 5], draws[:, 6], draws[:, 7:].T
    strength = amount[:, None, None, None]
    # a normal number is the inverse of its distribution at a uniform one
    noise = torch.special.ndtri(grain[:, 1:].clamp(1e-7, 1 - 1e-7))
    coarse, nth = images, (amount * len(SHRINKS)).floor()
    for i, factor in enumerate(SHRINKS):
        coarse = torch.where((nth == i)[:, None, None, None], low_resolution(images, factor), coarse)
    w, h = (n * (BOX[0] + (BOX[1] - BOX[0]) * t) for n, t in zip((width, height), box[:2]))
    left, top = box[2] * (width - w), box[3] * (height - h)
    boxes = torch.stack([left, top, left + w, top + h], -1).round().long()
    shifts = torch.stack([box[4] * width, box[5] * height], -1).long()
    textures = (images, (images + NOISE * strength * noise).clamp(BLACK, WHITE),
                torch.where(grain[:, :1] < SALT * strength, WHITE, images), coarse, occlude(images, boxes),
                occlude(images, boxes, shifts))
    which, twins = (kind * len(textures)).floor(), images
    for i, texture in enumerate(textures):
        twins = torch.where((which == i)[:, None, None, None], texture, twins)
    return twins, linear


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

def determinant(linear: Tensor) -> Tensor:
    """Of the linear part of maps (B, 2, 2) or (B, 2, 3): (B,)."""
    return linear[..., 0, 0] * linear[..., 1, 1] - linear[..., 0, 1] * linear[..., 1, 0]


def _parts(linear: Tensor) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[Tensor]]:
    """Rows of A and the shift, each number (B, 1)."""
    rows = [[entry[:, None] for entry in row.unbind(-1)] for row in linear[..., :2].unbind(-2)]
    shift = [entry[:, None] for entry in linear[..., 2].unbind(-1)] if linear.shape[-1] == 3 else (0.0, 0.0)
    return rows[0], rows[1], shift


def _warp(maps: Tensor, linear: Tensor, border: str) -> Tensor:
    height, width = maps.shape[-2:]
    linear = linear.to(maps)
    (a, b), (c, d), (right, down) = _parts(linear)
    x = torch.arange(width, dtype=maps.dtype, device=maps.device) - (width - 1) / 2 - right * width     # (B, W)
    y = torch.arange(height, dtype=maps.dtype, device=maps.device) - (height - 1) / 2 - down * height   # (B, H)
    x, y = x.expand(len(maps), width)[:, None, :], y.expand(len(maps), height)[:, :, None]
    a, b, c, d = (entry[..., None] / determinant(linear)[:, None, None] for entry in (a, b, c, d))
    # A^-1 = [[d, -b], [-c, a]] / det A
    source = torch.stack([(d * x - b * y) * (2 / width), (a * y - c * x) * (2 / height)], -1)           # (B, H, W, 2)
    return F.grid_sample(maps, source, padding_mode=border, align_corners=False)


def _swap(moved: Tensor, linear: Tensor, flip: Sequence[int]) -> Tensor:
    mirrored = (determinant(linear) < 0).to(moved.device).view(-1, *[1] * (moved.ndim - 1))
    return torch.where(mirrored, reorder(moved, flip), moved)


def _check(linear: Tensor, count: int, flip: Sequence[int] = (), channels: int = 0) -> None:
    if linear.shape not in ((count, 2, 2), (count, 2, 3)):
        raise ValueError(f"linear must be ({count}, 2, 2) or ({count}, 2, 3), got {tuple(linear.shape)}")
    if sorted(flip) != list(range(channels)):
        raise ValueError(f"flip must be an order of {channels} channels, got {tuple(flip)}")
