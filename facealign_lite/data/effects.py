"""What light, lenses and passers-by do to a batch of crops, in torch: ``Augmentation.photometry`` for many at once.

Every function is pure and waits for nothing: no shape and no branch depends on a number in a tensor, so that a CUDA
graph can hold it. Images are (B, C, S, S) float32, 0 black and 1 white; numbers are (B,), or (B, C) where a channel has
its own. ``tests/test_batches.py`` holds each effect against OpenCV's.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

# ITU-T T.81, tables K.1 and K.2: what JPEG divides by at quality 50
LUMINANCE = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99)
CHROMINANCE = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99, *[99] * 32)
HAIR = 1e-4   # more than the error of a sum of 64 products, less than anyone sees
NONE, PIECE, NOISE, TONE = range(4)   # what an occluder is filled with


def apply(on: Tensor, effect: Callable[..., Tensor], images: Tensor, *numbers: Tensor) -> Tensor:
    """``effect(images, *numbers)`` of the images that are ``on`` (B,), the others as they are.

    A GPU computes it for all, so as not to wait for ``on``; a CPU for those that need it, and in place.
    """
    if images.device.type != "cpu":
        return torch.where(on.view(-1, 1, 1, 1), effect(images, *numbers), images)
    rows = on.nonzero()[:, 0]
    if len(rows) == 0:
        return images
    return images.index_copy_(0, rows, effect(*(tensor.index_select(0, rows) for tensor in (images, *numbers))))


def tone(crops: Tensor, gain: Tensor, exponent: Tensor, inverted: Tensor) -> Tensor:
    """Grey levels 0 .. 255 -> [0, 1]: colour of the light (B, C), gamma (B,), inversion (B,)."""
    levels = torch.arange(256, device=crops.device, dtype=torch.float32) / 255
    table = (levels * gain[..., None]) ** exponent[:, None, None]                       # (B, C, 256)
    table = torch.where(inverted[:, None, None] > 0, 1 - table, table)
    return table.gather(2, crops.flatten(2).long()).view(crops.shape)


def ramp(images: Tensor, direction: Tensor, amount: Tensor, edge: Tensor, steep: Tensor) -> Tensor:
    """Times 1 + a t, t from -1 to 1 along a direction.

    Args:
        direction: (B, 2) cosine and sine.
        amount: (B, C), a.
        edge, steep: t becomes tanh((t - edge) steep) where steep > 0.
    """
    half = torch.linspace(-1, 1, images.shape[-1], device=images.device)
    t = direction[:, :1, None] * half + direction[:, 1:, None] * half[:, None]          # (B, S, S)
    hard = torch.tanh((t - edge[:, None, None]) * steep[:, None, None])
    t = torch.where(steep[:, None, None] > 0, hard, t)
    return images * torch.addcmul(torch.ones((), device=t.device), t[:, None], amount[..., None, None]).clamp_(min=0.05)


def covered(size: int, place: Tensor, sides: Tensor, direction: Tensor, ellipse: Tensor) -> Tensor:
    """Which pixels turned boxes and ellipses cover, (B, S, S) bool: those that OpenCV's drawing covers, edges apart.

    Args:
        place: (B, 2) centre (x, y).
        sides: (B, 2) width and height.
        direction: (B, 2) cosine and sine of the turn.
        ellipse: (B,), 0 is a box.
    """
    # OpenCV rounds centre and half axes of an ellipse down, and paints the pixels that an edge runs through: about
    # half a pixel more to each side, less where the edge is aslant
    round_ = ellipse[:, None] > 0
    place = torch.where(round_, place.floor(), place)
    reach = torch.where(round_, (sides / 2).floor() + 0.45, sides / 2 + 0.5 * direction.abs().amax(1, keepdim=True))
    at = torch.arange(size, device=place.device, dtype=torch.float32)
    x, y = at - place[:, :1], at - place[:, 1:]                                         # (B, S)
    cosine, sine = direction[:, :1], direction[:, 1:]
    u = ((x * cosine / reach[:, :1])[:, None] + (y * sine / reach[:, :1])[:, :, None]).abs()
    v = ((y * cosine / reach[:, 1:])[:, :, None] - (x * sine / reach[:, 1:])[:, None]).abs()
    return torch.where(round_[..., None], u * u + v * v, torch.maximum(u, v)) <= 1


def occlude(images: Tensor, kinds: Tensor, place: Tensor, sides: Tensor, direction: Tensor, ellipse: Tensor,
            tones: Tensor, rolls: Tensor, key: Tensor, lend: Callable[..., Tensor], *lent: Tensor) -> Tensor:
    """Cover two turned boxes or ellipses with a piece of another picture, noise or one tone; the second lies on top.

    Args:
        kinds: (B, 2) NONE, PIECE, NOISE or TONE.
        place, sides, direction: (B, 2, 2), see ``covered``.
        ellipse: (B, 2).
        tones: (B, 2, C).
        rolls: (B, 2, 2) whole numbers by which the other picture is rolled down and to the right.
        key: of the noise.
        lend: gives the other pictures (B, C, S, S) of those that show some, from their rows of ``lent``.
    """
    size = images.shape[-1]
    inside = covered(size, *(numbers.flatten(0, 1) for numbers in (place, sides, direction, ellipse)))
    below, above = (inside.unflatten(0, (-1, 2)) & (kinds[..., None, None] != NONE)).unbind(1)  # (B, S, S)
    kind = torch.where(above, kinds[:, 1, None, None], torch.where(below, kinds[:, 0, None, None], NONE))
    flat = torch.where(above[:, None], tones[:, 1, :, None, None], tones[:, 0, :, None, None])
    images = torch.where((kind == TONE)[:, None], flat, images)
    images = apply((kinds == NOISE).any(1), lambda image, key, kind: torch.where(
        (kind == NOISE)[:, None], uniform(key, image.shape), image), images, key, kind)
    return apply((kinds == PIECE).any(1), lambda image, kind, above, rolls, *lent: torch.where(
        (kind == PIECE)[:, None], roll(lend(*lent), above.long(), rolls), image), images, kind, above, rolls, *lent)


def roll(images: Tensor, which: Tensor, rolls: Tensor) -> Tensor:
    """Images rolled by one of K ways, another at every pixel: (B, S, S) numbers below K, and (B, K, 2) down, right."""
    size = images.shape[-1]
    at = torch.arange(size, device=images.device)
    rows, columns = ((at - rolls[..., k, None].long()).remainder(size) for k in (0, 1))  # (B, K, S)
    places = rows[..., None] * size + columns[:, :, None]                               # (B, K, S, S)
    places = places.gather(1, which[:, None]).flatten(1)[:, None].expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, places).view(images.shape)


def separable(images: Tensor, matrix: Tensor) -> Tensor:
    """M image M^T with a matrix (B, S, S) for every image."""
    rows = (images.flatten(1, 2) @ matrix.mT).view(images.shape)
    return matrix[:, None] @ rows


def gaussian_matrix(size: int, sigma: Tensor) -> Tensor:
    """(B, S, S) whose row i blurs around pixel i, the border mirrored about its pixels, as ``cv2.GaussianBlur``."""
    at = torch.arange(size, device=sigma.device)
    # OpenCV's kernel has round(8 sigma + 1) | 1 weights
    reach = torch.floor(torch.round(8 * sigma + 1) / 2)
    apart = torch.arange(2 * size - 1, device=sigma.device)
    weights = torch.exp(-apart**2 / (2 * sigma[:, None] ** 2)) * (apart <= reach[:, None])
    weights = weights / (2 * weights[:, :size].sum(1, keepdim=True) - weights[:, :1])

    def at_distance(d: Tensor) -> Tensor:
        return weights[:, d.flatten()].view(-1, size, size)
    i, j = at[:, None], at
    # pixel -j is pixel j, and pixel 2 (S - 1) - j is
    return at_distance((i - j).abs()) + at_distance(i + j) * (j >= 1) + at_distance(
        2 * (size - 1) - i - j) * (j <= size - 2)


def area_matrix(large: int, small: int, device: torch.device) -> Tensor:
    """(small, large): pixel i is the mean of [i, i + 1] large / small, as ``cv2.resize`` by INTER_AREA."""
    at, scale = torch.arange(large, device=device), large / small
    i = torch.arange(small, device=device, dtype=torch.float32)[:, None]
    return (((i + 1) * scale).minimum(at + 1) - (i * scale).maximum(at)).clamp_(min=0) / scale


def low_resolution_matrix(size: int, small: Tensor, nearest: Tensor) -> Tensor:
    """(B, S, S): averaged down to ``small`` pixels, and back up, linearly or by the nearest, as ``cv2.resize``."""
    at = torch.arange(size, device=small.device, dtype=torch.float32)
    scale = (size / small)[:, None]
    between = ((at + 0.5) / scale - 0.5).clamp(min=0).minimum(small[:, None] - 1)
    # (i small + 1/2) / S has the floor of i small / S, and rounding cannot change it
    first = torch.where(nearest[:, None] > 0, (at * small[:, None] + 0.5) / size, between).floor()
    share = torch.where(nearest[:, None] > 0, 0, between - first)

    def mean(j: Tensor) -> Tensor:
        """Small pixel j is the mean of [j scale, (j + 1) scale]."""
        low, high = (j * scale)[..., None], ((j + 1) * scale)[..., None]
        return (high.minimum(at + 1) - low.maximum(at)).clamp_(min=0) / scale[..., None]
    last = torch.minimum(first + 1, small[:, None] - 1)
    return torch.lerp(mean(first), mean(last), share[..., None])


def streak_kernels(reach: int, length: Tensor, direction: Tensor) -> Tensor:
    """Lines of ``length`` pixels as kernels (B, 2 reach + 1, 2 reach + 1) of sum 1; reach at least length / 2."""
    t = torch.arange(-reach, reach + 1, device=length.device, dtype=torch.float32)
    cosine, sine = direction[:, :1, None], direction[:, 1:, None]
    across, along = t[:, None] * cosine - t * sine, t[:, None] * sine + t * cosine
    kernels = (1 - across.abs()).clamp(min=0) * (along.abs() <= length[:, None, None] / 2)
    return kernels / kernels.sum((1, 2), keepdim=True)


def filtered(images: Tensor, kernels: Tensor) -> Tensor:
    """Every image through its own odd kernel (B, K, K), the border continued."""
    count, channels, size, _ = images.shape
    reach = kernels.shape[-1] // 2
    padded = F.pad(images, [reach] * 4, mode="replicate").view(1, count * channels, size + 2 * reach, size + 2 * reach)
    weights = kernels[:, None, None].expand(-1, channels, -1, -1, -1).flatten(0, 1)
    return F.conv2d(padded, weights, groups=count * channels).view(images.shape)


def jpeg(images: Tensor, quality: Tensor) -> Tensor:
    """There and back through JPEG of quality (B,) 1 .. 100, as ``cv2.imencode`` does it.

    Grey in whole, three channels with colours at half the resolution. OpenCV takes the channels of an array for blue,
    green and red; so does this.
    """
    size = images.shape[-1]
    levels = (images * 255 + 0.5).floor()
    luminance, chrominance = tables(images.device)
    scale = torch.where(quality < 50, (5000 / quality).floor(), 200 - 2 * quality)[:, None]
    if images.shape[1] == 1:
        return _quantised(levels, _table(luminance, scale))[..., :size, :size] / 255
    blue, green, red = _padded(levels, 16).unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = torch.stack([(blue - luma) * (0.5 / (1 - 0.114)), (red - luma) * (0.5 / (1 - 0.299))], 1) + 128
    luma = _quantised(luma.round()[:, None], _table(luminance, scale))[:, 0]
    chroma = _quantised(F.avg_pool2d(chroma.round(), 2).round(), _table(chrominance, scale))
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False).round() - 128
    blueish, reddish = chroma.unbind(1)
    green = luma - (0.114 * 1.772 / 0.587) * blueish - (0.299 * 1.402 / 0.587) * reddish
    planes = torch.stack([luma + 1.772 * blueish, green, luma + 1.402 * reddish], 1)
    return planes[..., :size, :size].round().clamp_(0, 255) / 255


def _quantised(planes: Tensor, table: Tensor) -> Tensor:
    """Levels (B, P, H, W), their cosine transform by blocks of 8 in whole multiples of a table (B, 1, 1, 8, 1, 8)."""
    planes = _padded(planes, 8)
    k = torch.arange(8, device=planes.device, dtype=torch.float32)
    # C(u) / 2 cos((2 x + 1) u pi / 16); its transpose takes back
    cosines = torch.cos((2 * k + 1) * k[:, None] * (math.pi / 16)) / 2
    cosines = torch.where(k[:, None] == 0, math.sqrt(1 / 8), cosines)
    waves = _by_blocks(planes - 128, cosines).unflatten(-1, (-1, 8)).unflatten(-3, (-1, 8)) / table
    # halves, which are frequent, away from 0 as libjpeg does, whatever the last bit says
    waves = (waves.abs() + (0.5 + HAIR)).floor_().copysign_(waves).mul_(table).flatten(-2).flatten(-3, -2)
    return (_by_blocks(waves, cosines.mT) + (128.5 + HAIR)).floor_().clamp_(0, 255)


def _by_blocks(planes: Tensor, matrix: Tensor) -> Tensor:
    """M block M^T in the place of every 8 x 8 block."""
    rows = (planes.unflatten(-1, (-1, 8)) @ matrix.mT).flatten(-2)
    return (matrix @ rows.unflatten(-2, (-1, 8))).flatten(-3, -2)


def _padded(planes: Tensor, block: int) -> Tensor:
    """To a multiple of ``block``, the border continued."""
    missing = -planes.shape[-1] % block
    return F.pad(planes, [0, missing, 0, missing], mode="replicate") if missing else planes


def _table(base: Tensor, scale: Tensor) -> Tensor:
    """The divisors (B, 1, 1, 8, 1, 8), in whole numbers from 1 to 255."""
    return ((base * scale + 50) / 100).floor().clamp_(1, 255).view(-1, 1, 1, 8, 1, 8)


@lru_cache
def tables(device: torch.device) -> Tensor:
    """Both tables (2, 64) of JPEG. They are copied to a device once: a CUDA graph cannot wait for a copy."""
    with torch.inference_mode(False):
        return torch.tensor([LUMINANCE, CHROMINANCE], device=device, dtype=torch.float32)


# ---- chance on the device ------------------------------------------------------------------------------------------

def bits(key: Tensor, count: int, stream: int) -> Tensor:
    """(B, count) int32 of 32 random bits each, a function of key (B,) int32, stream and place alone."""
    place = torch.arange(stream << 26, (stream << 26) + count, device=key.device, dtype=torch.int32)
    return _mixed(_mixed(place) ^ key[:, None])


def _mixed(x: Tensor) -> Tensor:
    """The finaliser of Chris Wellons' lowbias32, in place; products wrap around at 32 bits."""
    x ^= (x >> 16).bitwise_and_(0xFFFF)
    x *= 0x7FEB352D
    x ^= (x >> 15).bitwise_and_(0x1FFFF)
    x *= 0x846CA68B - (1 << 32)
    x ^= (x >> 16).bitwise_and_(0xFFFF)
    return x


def uniform(key: Tensor, shape: torch.Size) -> Tensor:
    """Numbers uniform in (0, 1), steps of 2^-16."""
    return _halves(key, shape, 0).flatten(1)[:, :math.prod(shape[1:])].view(shape)


def normal(key: Tensor, shape: torch.Size) -> Tensor:
    """Standard normal numbers, those beyond 4.8 cut off: sqrt(-2 log u) (cos, sin)(2 pi v)."""
    pairs = _halves(key, shape, 1)
    radius, angle = pairs[:, 0].log().mul_(-2).sqrt_(), pairs[:, 1] * (2 * math.pi)
    torch.mul(radius, angle.cos(), out=pairs[:, 0])
    torch.mul(radius, angle.sin_(), out=pairs[:, 1])
    return pairs.flatten(1)[:, :math.prod(shape[1:])].view(shape)


def _halves(key: Tensor, shape: torch.Size, stream: int) -> Tensor:
    """Upper and lower halves of enough random bits for ``shape``, as numbers in (0, 1): (B, 2, n)."""
    drawn = bits(key, (math.prod(shape[1:]) + 1) // 2, stream)
    halves = torch.empty(len(key), 2, drawn.shape[1], device=key.device)
    halves[:, 0], halves[:, 1] = (drawn >> 16) & 0xFFFF, drawn & 0xFFFF
    return halves.add_(0.5).mul_(2.0**-16)
