"""Point heatmaps: from landmarks to maps and back, to a hundredth of an image pixel.

Shapes: points (..., K, 2), (x, y); heatmaps (..., K, H, W). Coordinates: 0-based pixel centres, so a map of width w
covers [-0.5, w - 0.5]. Functions take tensors or arrays and return the same kind; they count in float32 or float64,
whatever they are given: neither whole numbers nor half precision can hold a place between pixels.
"""

from collections.abc import Callable, Mapping
from functools import wraps
from inspect import signature

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from facealign_lite.arrays import number, plain

Size = int | tuple[int, int]

GED = {"ged": 0.1, "ged_wide": 0.2, "ged_narrow": -0.1}    # d of SCPAN Table VII, its best first; 0 is the Gaussian
STUDENT = {"student_t": 3.0, "student_t_wide": 1.0}        # df of SCPAN Table VII; infinity is the Gaussian
REACH = 4                # pixels to each side of the peak that the sub-pixel decoders look at
SMALLEST = 1e-30         # heat below counts as none where a logarithm is taken
HOTTEST = 1e6            # heat above is made less before it is squared and summed
LARGEST = 1 << 30        # values of all maps together: 4 GB
THINNEST, WIDEST = 1e-3, 1e6     # sigma in heatmap pixels, so that r^2 / sigma^2 stays a number of float32


# heat at distance r from the point, u = r^2 / sigma^2
SHAPES: dict[str, Callable[[Tensor], Tensor]] = {
    "gaussian": lambda u: torch.exp(-u / 2),
    **{name: lambda u, d=d: torch.exp(-u ** (1 / (1 + d)) / 2) for name, d in GED.items()},
    **{name: lambda u, df=df: (1 + u / df) ** (-(df + 1) / 2) for name, df in STUDENT.items()},
    "parabola": lambda u: (1 - 2 * u).clamp(min=0),
}
# u from heat: the way back; a parabola has none where it is 0, see _paraboloid
INVERSES: dict[str, Callable[[Tensor], Tensor]] = {
    **{name: lambda h, d=d: (-2 * h.log()).clamp(min=0) ** (1 + d) for name, d in GED.items()},
    **{name: lambda h, df=df: df * (h ** (-2 / (df + 1)) - 1) for name, df in STUDENT.items()},
}


def _any_array(function: Callable) -> Callable:
    """Let a function of tensors take arrays as well, and give back what it was given, in float32 or float64."""
    name = next(iter(signature(function).parameters))

    @wraps(function)
    def wrapped(*args, **kwargs):
        given = args[0] if args else kwargs.get(name)
        if not args and name not in kwargs:
            return function(*args, **kwargs)                   # a TypeError that names what is missing
        tensor = isinstance(given, Tensor)
        values = given if tensor else torch.from_numpy(_copied(plain(given, name)))
        if values.is_complex() or values.layout != torch.strided:
            raise ValueError(f"{name} must be plain numbers, got a tensor of {values.dtype}, {values.layout}")
        values = values if values.dtype in (torch.float32, torch.float64) else values.float()
        answer = function(values, *args[1:], **kwargs) if args else function(**kwargs | {name: values})
        return answer if tensor else answer.numpy()
    return wrapped


def _copied(array: NDArray) -> NDArray:
    """A copy that torch can take: of the order of bytes and the types that it knows."""
    return np.array(array, np.float32 if array.dtype.kind == "f" and array.dtype.itemsize <= 4 else np.float64)


@_any_array
def encode(points: Tensor, size: Size, sigma: float, shape: str = "gaussian", check: bool = True) -> Tensor:
    """Heatmaps with one peak of height 1 each, at sub-pixel places.

    Args:
        points: (..., K, 2) in heatmap pixels, see ``to_heatmap``; may lie outside the map.
        size: of the map, one side or (height, width).
        sigma: width of the peak in heatmap pixels, ``THINNEST`` to ``WIDEST``.
        shape: "gaussian" exp(-r^2 / 2 sigma^2); "ged", "ged_wide" and "ged_narrow", the generalised error distribution
            with the shape parameters 0.1, 0.2 and -0.1; "student_t" and "student_t_wide", Student's t with 3 and 1
            degrees of freedom (SCPAN gives names and parameters, no formulas: ours are the radial densities that become
            the Gaussian at 0 and at infinity); "parabola" max(0, 1 - 2 r^2 / sigma^2).
        check: whether to look for NaN, which makes the processor wait for a GPU; if not, NaN gives NaN.

    Returns:
        (..., K, H, W).

    Raises:
        ValueError: for NaN points, a sigma that is not positive or out of range, an unknown shape or an empty size.

    Source: ACE-Net Eq. 1 (parabola); SCPAN Table VII (ged, student_t).
    """
    height, width = _size(size, "size")
    _check_name(shape, SHAPES, "shape")
    sigma = number(sigma, "sigma")
    if not THINNEST <= sigma <= WIDEST:
        raise ValueError(f"sigma must be positive, from {THINNEST} to {WIDEST}, got {sigma}")
    points = _check_points(points, check)
    if points.numel() // 2 * height * width > LARGEST:
        raise ValueError(f"size must be of maps of at most {LARGEST} values in all, got {height} x {width} for "
                         f"{points.numel() // 2} points")
    x = torch.arange(width, dtype=points.dtype, device=points.device)
    y = torch.arange(height, dtype=points.dtype, device=points.device)
    dx2 = (x - points[..., 0, None]).square()                                   # (..., K, W)
    dy2 = (y - points[..., 1, None]).square()                                   # (..., K, H)
    return SHAPES[shape]((dx2[..., None, :] + dy2[..., :, None]) / sigma**2)


@_any_array
def decode(heatmaps: Tensor, method: str = "center_of_mass", shape: str = "gaussian", check: bool = True) -> Tensor:
    """The place of each map's peak, in heatmap pixels.

    Args:
        heatmaps: (..., K, H, W); logits for "soft_argmax", heat otherwise. Negative heat counts as none.
        method:
            "argmax": the hottest pixel (MSM Eq. 8).
            "quarter": a quarter pixel from there towards the hotter neighbour (Newell et al. 2016).
            "center_of_mass": the centre of the heat around the peak (ACE-Net Eq. 12), under a soft window that moves
                along until it sits on the centre: a fixed window would be lopsided and pull towards its own middle.
            "dark": one Newton step on the logarithm of the heat, exact for a Gaussian (Zhang et al. 2020; their extra
                smoothing of predicted maps is left out).
            "soft_argmax": the mean place under the softmax over the whole map (Sun et al. 2018).
        check: as in ``encode``; without it "argmax", "quarter" and "soft_argmax" can be captured as a CUDA graph.
        shape: of the peaks, as in ``encode``. The two sub-pixel methods first turn the heat of another shape into that
            of a Gaussian; for a parabola, which ends too soon for that, both fit the paraboloid of height 1 to it.

    Returns:
        (..., K, 2). Told the right shape, "center_of_mass" and "dark" find the place in a clean map to 0.0025 of a
        heatmap pixel, 0.01 of an image pixel at four to one, up to the border of the map, for sigma from 1 to 3. A
        parabola must light enough pixels: sigma >= 2 inside the map, 3 along its border, 4 in its corners. Not told,
        "center_of_mass" is as good inside the map on "ged" and "student_t" of sigma >= 1.5, but loses up to half a
        pixel beside the border and some hundredths on parabolas. A map without any heat gives its middle.

    Raises:
        ValueError: for NaN, an empty map, an unknown method or an unknown shape.

    Source: MSM Eq. 8, ACE-Net Eq. 12.
    """
    _check_name(method, METHODS, "method")
    _check_name(shape, SHAPES, "shape")
    maps = _check_maps(heatmaps, check)
    if torch.is_autocast_enabled(maps.device.type):        # it would multiply in half precision
        with torch.autocast(maps.device.type, enabled=False):
            return decode(maps, method, shape, check)
    if method in ("center_of_mass", "dark"):
        maps = maps.clamp(min=0)
        maps = maps / (maps.amax((-2, -1), keepdim=True) / HOTTEST).clamp(min=1)
        if shape == "parabola":
            return _paraboloid(maps)
        if shape in INVERSES:
            maps = maps / maps.amax((-2, -1), keepdim=True).clamp(min=1)        # no shape is higher than 1
            gaussian = torch.exp(-INVERSES[shape](maps.clamp(min=SMALLEST)) / 2)
            maps = torch.where(maps > SMALLEST, gaussian, torch.zeros_like(maps))
    return METHODS[method](maps)


@_any_array
def peak(heatmaps: Tensor) -> Tensor:
    """How sure a map of logits is: the softmax mass within one pixel of its peak, (..., K) in 0..1.

    A sharp peak on one pixel gives 1; a flat map of n pixels gives 9 / n.
    """
    return _near_peak(_mass(_check_maps(heatmaps)))


def decode_with_peak(heatmaps: Tensor) -> tuple[Tensor, Tensor]:
    """``decode`` by "soft_argmax" and ``peak`` of the same maps, a tensor (..., K, H, W), with one softmax for both."""
    maps = _check_maps(heatmaps if heatmaps.dtype in (torch.float32, torch.float64) else heatmaps.float())
    if torch.is_autocast_enabled(maps.device.type):        # it would multiply in half precision
        with torch.autocast(maps.device.type, enabled=False):
            return decode_with_peak(maps)
    mass = _mass(maps)
    return _middle(mass), _near_peak(mass)


@_any_array
def to_heatmap(points: Tensor, image_size: Size, heatmap_size: Size) -> Tensor:
    """Points (..., 2) from image to heatmap pixels: q = (p + 0.5) s - 0.5, s = heatmap / image size, per axis."""
    return _rescale(points, image_size, heatmap_size)


@_any_array
def to_image(points: Tensor, heatmap_size: Size, image_size: Size) -> Tensor:
    """Points (..., 2) from heatmap to image pixels, the inverse of ``to_heatmap``."""
    return _rescale(points, heatmap_size, image_size)


# ---- decoders: (..., H, W) -> (..., 2) -----------------------------------------------------------------------------

def _argmax(maps: Tensor) -> Tensor:
    return _hottest(maps).to(maps.dtype)


def _quarter(maps: Tensor) -> Tensor:
    at = _hottest(maps)
    patch, inside = _patch(maps, at, 1)                                         # (..., 3, 3)
    step_x = torch.sign(patch[..., 1, 2] - patch[..., 1, 0]) * (inside[..., 1, 2] & inside[..., 1, 0])
    step_y = torch.sign(patch[..., 2, 1] - patch[..., 0, 1]) * (inside[..., 2, 1] & inside[..., 0, 1])
    return at + 0.25 * torch.stack([step_x, step_y], -1)


def _center_of_mass(maps: Tensor, window: float = 1.0, rounds: int = 5) -> Tensor:
    at = _hottest(maps)
    heat = _continued(*_patch(maps, at, REACH))                                 # (..., 2R+1, 2R+1)
    t = torch.arange(-REACH, REACH + 1, dtype=maps.dtype, device=maps.device)
    center = torch.zeros_like(at, dtype=maps.dtype)                             # from the hottest pixel
    for _ in range(rounds):
        # m = sum w h p / sum w h, w a Gaussian of variance s^2 around c. Through it a Gaussian peak at mu is seen with
        # the variance v and its mean part of the way, m - c = (mu - c) (1 - v / s^2); dividing goes the whole way.
        wx = torch.exp(-(t - center[..., 0, None]).square() / (2 * window**2))
        wy = torch.exp(-(t - center[..., 1, None]).square() / (2 * window**2))
        across = torch.einsum("...ij,...i->...j", heat, wy) * wx                # (..., 2R+1) heat by column
        along = torch.einsum("...ij,...j->...i", heat, wx) * wy
        step = []
        for k, mass in ((0, across), (1, along)):
            total = mass.sum(-1).clamp(min=SMALLEST)
            mean = (mass * t).sum(-1) / total
            variance = (mass * (t - mean[..., None]).square()).sum(-1) / total
            step.append((mean - center[..., k]) / (1 - variance / window**2).clamp(min=0.1))
        center = (center + torch.stack(step, -1).clamp(-0.5, 0.5)).clamp(-1, 1)
    return at + torch.where((heat.sum((-2, -1)) > 0)[..., None], center, torch.zeros_like(center))


def _dark(maps: Tensor) -> Tensor:
    at = _hottest(maps)
    heat = _continued(*_patch(maps, at, 2))
    log = heat.clamp(min=SMALLEST).log()[..., 1:4, 1:4]                         # (..., 3, 3) around the peak
    gx, gy = (log[..., 1, 2] - log[..., 1, 0]) / 2, (log[..., 2, 1] - log[..., 0, 1]) / 2
    hxx = log[..., 1, 2] - 2 * log[..., 1, 1] + log[..., 1, 0]
    hyy = log[..., 2, 1] - 2 * log[..., 1, 1] + log[..., 0, 1]
    hxy = (log[..., 2, 2] - log[..., 2, 0] - log[..., 0, 2] + log[..., 0, 0]) / 4
    # mu = m - H^-1 g, the maximum of the quadratic through log h
    determinant = hxx * hyy - hxy * hxy
    good = (hxx < 0) & (determinant > 1e-12)
    safe = torch.where(good, determinant, torch.ones_like(determinant))
    step = -torch.stack([hyy * gx - hxy * gy, hxx * gy - hxy * gx], -1) / safe[..., None]
    return at + torch.where(good[..., None], step, torch.zeros_like(step)).clamp(-1, 1)


def _paraboloid(maps: Tensor, rounds: int = 12) -> Tensor:
    """h = 1 - s |p - c|^2 fitted to the lit pixels around the hottest, by damped Gauss-Newton steps on (c, s)."""
    at = _hottest(maps)
    heat, _ = _patch(maps, at, 2)                                               # (..., 5, 5)
    lit = (heat > 0).to(maps.dtype).flatten(-2)                                 # (..., 25)
    heat = heat.flatten(-2)
    y, x = torch.meshgrid(*[torch.arange(-2, 3, dtype=maps.dtype, device=maps.device)] * 2, indexing="ij")
    x, y = x.flatten(), y.flatten()
    total = heat.sum(-1, keepdim=True).clamp(min=SMALLEST)
    c = torch.stack([(heat * x).sum(-1), (heat * y).sum(-1)], -1) / total       # (..., 2)
    s = None
    unit = torch.eye(3, dtype=maps.dtype, device=maps.device)
    for _ in range(rounds):
        dx, dy = x - c[..., 0, None], y - c[..., 1, None]
        r2 = dx.square() + dy.square()
        if s is None:                                                           # the best s for the first c
            s = (lit * (1 - heat) * r2).sum(-1) / (lit * r2.square()).sum(-1).clamp(min=1e-6)
        wide = s[..., None]
        miss = lit * (heat - 1 + wide * r2)
        slope = lit[..., None] * torch.stack([2 * wide * dx, 2 * wide * dy, -r2], -1)   # (..., 25, 3)
        normal = slope.mT @ slope
        damping = 1e-5 * normal.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None] + 1e-9
        step = torch.linalg.solve(normal + damping * unit, slope.mT @ miss[..., None])[..., 0]
        c = (c + step[..., :2].clamp(-0.5, 0.5)).clamp(-1, 1)
        s = (s + step[..., 2]).clamp(0.02, 4)
    return at + torch.where((heat.sum(-1) > 0)[..., None], c, torch.zeros_like(c))


def _soft_argmax(maps: Tensor) -> Tensor:
    return _middle(_mass(maps))


METHODS = {"argmax": _argmax, "quarter": _quarter, "center_of_mass": _center_of_mass, "dark": _dark,
           "soft_argmax": _soft_argmax}


# ---- helpers -------------------------------------------------------------------------------------------------------

def _mass(maps: Tensor) -> Tensor:
    """The softmax over each whole map."""
    return maps.flatten(-2).softmax(-1).unflatten(-1, tuple(maps.shape[-2:]))


def _middle(mass: Tensor) -> Tensor:
    """The mean place of mass that sums to 1."""
    height, width = mass.shape[-2:]
    x = torch.arange(width, dtype=mass.dtype, device=mass.device)
    y = torch.arange(height, dtype=mass.dtype, device=mass.device)
    return torch.stack([mass.sum(-2) @ x, mass.sum(-1) @ y], -1)


def _near_peak(mass: Tensor) -> Tensor:
    """How much of the mass lies within one pixel of its peak."""
    height, width = mass.shape[-2:]
    at = _hottest(mass)
    x, y = torch.arange(width, device=mass.device), torch.arange(height, device=mass.device)
    near_x = (x - at[..., 0, None]).abs() <= 1                                  # (..., K, W)
    near_y = (y - at[..., 1, None]).abs() <= 1                                  # (..., K, H)
    return (mass * near_x[..., None, :] * near_y[..., :, None]).sum((-2, -1))


def _hottest(maps: Tensor) -> Tensor:
    """(..., 2) integer (x, y) of the first maximum; the middle of a map without heat."""
    height, width = maps.shape[-2:]
    flat = maps.flatten(-2)
    value, index = flat.max(-1)
    index = torch.where(value > flat.min(-1).values, index, (height // 2) * width + width // 2)
    return torch.stack([index % width, index // width], -1)


def _patch(maps: Tensor, at: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """Heat, clipped at 0, around integer places: (..., 2R+1, 2R+1), and which of it lies on the map."""
    height, width = maps.shape[-2:]
    offset = torch.arange(-reach, reach + 1, device=maps.device)
    x, y = at[..., 0, None] + offset, at[..., 1, None] + offset                 # (..., 2R+1)
    inside = ((y >= 0) & (y < height))[..., :, None] & ((x >= 0) & (x < width))[..., None, :]
    index = y.clamp(0, height - 1)[..., :, None] * width + x.clamp(0, width - 1)[..., None, :]
    patch = maps.flatten(-2).gather(-1, index.flatten(-2)).unflatten(-1, index.shape[-2:])
    return patch.clamp(min=0) * inside, inside


def _continued(patch: Tensor, inside: Tensor) -> Tensor:
    """A patch carried on over the border of the map: log h by the quadratic through the last three pixels.

    Exact for a Gaussian. Without it a peak near the border loses one flank and every decoder is pulled inwards.
    """
    if not torch.compiler.is_exporting() and bool(inside.all()):                # a graph takes the long way always
        return patch
    log = patch.clamp(min=SMALLEST).log()
    known = inside & (patch > SMALLEST)
    ceiling = log.flatten(-2).max(-1).values[..., None] + 2                     # noise must not grow without bound
    for axis in (-1, -2):
        log, known = log.movedim(axis, -1), known.movedim(axis, -1)
        n, half = log.shape[-1], log.shape[-1] // 2
        for order in (range(half + 1, n), range(half - 1, -1, -1)):             # outwards from the peak, both ways
            back = -1 if order.step > 0 else 1
            for i in order:
                a, b, c = i + back, i + 2 * back, i + 3 * back
                if not 0 <= c < n:
                    continue
                guess = torch.minimum(3 * log[..., a] - 3 * log[..., b] + log[..., c], ceiling)
                use = ~known[..., i] & known[..., a] & known[..., b] & known[..., c]
                log = torch.cat([log[..., :i], torch.where(use, guess, log[..., i])[..., None], log[..., i + 1:]], -1)
                known = torch.cat([known[..., :i], (known[..., i] | use)[..., None], known[..., i + 1:]], -1)
        log, known = log.movedim(-1, axis), known.movedim(-1, axis)
    return torch.where(inside, patch, torch.where(known, log.exp(), torch.zeros_like(log)))


def _rescale(points: Tensor, source: Size, target: Size) -> Tensor:
    (source_h, source_w), (target_h, target_w) = _size(source, "source size"), _size(target, "target size")
    if points.ndim < 1 or points.shape[-1] != 2:
        raise ValueError(f"points must be (..., 2), got shape {tuple(points.shape)}")
    x, y = points.unbind(-1)                                                    # no tensor is made of host numbers
    return torch.stack([(x + 0.5) * (target_w / source_w) - 0.5, (y + 0.5) * (target_h / source_h) - 0.5], -1)


def _size(size: Size, name: str) -> tuple[int, int]:
    """(height, width)."""
    sides = (size, size) if np.ndim(size) == 0 else tuple(size)
    try:
        good = len(sides) == 2 and all(1 <= side < 1 << 20 and int(side) == side for side in sides)
    except (TypeError, ValueError):
        good = False
    if not good:
        raise ValueError(f"{name} must be whole pixels, at least 1, one side or (height, width), got {size!r:.80}")
    return int(sides[0]), int(sides[1])


def _check_name(value: str, known: Mapping[str, Callable], name: str) -> None:
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def _check_points(points: Tensor, values: bool = True) -> Tensor:
    if points.ndim < 2 or points.shape[-1] != 2:
        raise ValueError(f"points must be (..., K, 2), got shape {tuple(points.shape)}")
    if values and not torch.isfinite(points).all():
        raise ValueError("points must be finite, got NaN or infinity")
    return points


def _check_maps(heatmaps: Tensor, values: bool = True) -> Tensor:
    values = values and not torch.compiler.is_exporting()                       # a graph cannot raise: NaN gives NaN
    if heatmaps.ndim < 2 or heatmaps.shape[-1] < 1 or heatmaps.shape[-2] < 1:
        raise ValueError(f"heatmaps must be (..., H, W) with at least one pixel, got shape {tuple(heatmaps.shape)}")
    if values and not torch.isfinite(heatmaps).all():
        raise ValueError("heatmaps must be finite, got NaN or infinity")
    return heatmaps
