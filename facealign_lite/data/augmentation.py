"""What light, lenses and passers-by do to a crop. Images: (S, S) grey or (S, S, 3) RGB."""

from dataclasses import dataclass, fields

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from facealign_lite.arrays import finite

UNLIMITED = ("rotation", "scale", "shift", "gamma", "contrast", "brightness", "noise")   # of the fields below


@dataclass(frozen=True)
class Augmentation:
    """How strongly training crops vary. Strong on purpose: variety carries over to photos, realism less so.

    The fields below "how often" are probabilities, those above are ranges.

    Raises:
        ValueError: if a field is no number (or pair), not finite or negative, a probability or colour is above 1, or
            scale is not positive, the smaller one first.
    """

    rotation: float = 30.0                       # degrees, uniform in +-
    scale: tuple[float, float] = (0.85, 1.3)     # of the crop's side: boxes in use are tight or up to 1.2 too loose
    shift: float = 0.05                          # standard deviation, in crop sides
    flip: float = 0.5
    outlier: float = 0.03                        # how often the box is worse: twice the scale range, thrice the shift
    gamma: float = 1.0                           # log2 of the exponent, uniform in +-
    contrast: tuple[float, float] = (0.6, 1.4)
    brightness: float = 0.15
    noise: float = 0.05                          # standard deviation of sensor noise, up to
    colour: float = 0.25                         # gain of each channel, uniform in 1 +-
    # how often
    inversion: float = 0.03
    light: float = 0.35                          # a ramp of light across the face, of its own colour
    blur: float = 0.25
    motion: float = 0.1
    low_resolution: float = 0.25
    jpeg: float = 0.2
    occluder: float = 0.45

    def __post_init__(self) -> None:
        for name in (each.name for each in fields(self)):
            values, pair = finite(getattr(self, name), name), name in ("scale", "contrast")
            if values.shape != ((2,) if pair else ()):
                raise ValueError(f"{name} must be {'two numbers' if pair else 'a number'}, got {getattr(self, name)!r}")
            most = np.inf if name in UNLIMITED else 1
            if not ((values >= 0) & (values <= most)).all():
                raise ValueError(f"{name} must be in [0, {most}], got {getattr(self, name)!r}")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise ValueError(f"scale must be positive, the smaller one first, got {self.scale!r}")

    def placement(self, rng: Generator) -> tuple[float, float, NDArray, bool]:
        """Draw (angle in radians, scale, shift (2,) in sides, flip?) of one crop."""
        worse = rng.random() < self.outlier
        low, high = self.scale
        middle, reach = (low + high) / 2, (high - low) / 2 * (2 if worse else 1)
        angle = np.deg2rad(rng.uniform(-self.rotation, self.rotation))
        scale = max(middle + rng.uniform(-reach, reach), 0.5 * low)
        shift = rng.normal(0, self.shift, 2) * (3 if worse else 1)
        return angle, scale, shift, rng.random() < self.flip

    def photometry(self, image: NDArray[np.uint8], rng: Generator,
                   other: NDArray[np.uint8] | None = None) -> NDArray[np.float32]:
        """The picture under other conditions.

        Args:
            image: (S, S) or (S, S, 3) uint8.
            rng: the only source of chance.
            other: another picture of the same form, whose pieces may cover the face.

        Returns:
            float32 of the same shape, in [0, 1].
        """
        size = image.shape[0]
        image = cv2.LUT(image, self._tone(image.ndim, rng))
        if rng.random() < self.light:
            image = image * _ramp(image.shape, rng)
        for _ in range(int(rng.random() < self.occluder) * rng.integers(1, 3)):
            _occlude(image, rng, other)
        if rng.random() < self.blur:
            image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 2) * size / 128)
        if rng.random() < self.motion:
            image = cv2.filter2D(image, -1, _streak(rng, max(2.0, rng.uniform(3, 9) * size / 128)),
                                 borderType=cv2.BORDER_REPLICATE)
        if rng.random() < self.low_resolution:
            small = max(8, int(size * rng.uniform(0.2, 0.7)))
            up = cv2.INTER_NEAREST if rng.random() < 0.15 else cv2.INTER_LINEAR
            image = cv2.resize(cv2.resize(image, (small, small), interpolation=cv2.INTER_AREA), (size, size),
                               interpolation=up)
        contrast = np.float32(rng.uniform(*self.contrast))
        offset = np.float32(rng.uniform(-self.brightness, self.brightness))
        image = (image - np.float32(0.5)) * contrast + (np.float32(0.5) + offset)
        if self.noise > 0:
            image += rng.standard_normal(image.shape, np.float32) * np.float32(rng.uniform(0, self.noise))
        np.clip(image, 0, 1, out=image)
        if rng.random() < self.jpeg:
            image = _jpeg(image, int(rng.integers(8, 60)))
        return image

    def _tone(self, ndim: int, rng: Generator) -> NDArray[np.float32]:
        """Table from 256 grey levels to [0, 1]: colour of the light, gamma, inversion; one column a channel."""
        gain = rng.uniform(1 - self.colour, 1 + self.colour, 3 if ndim == 3 else 1)
        table = (np.arange(256)[:, None] / 255 * gain) ** 2 ** rng.uniform(-self.gamma, self.gamma)
        table = 1 - table if rng.random() < self.inversion else table
        return table.astype(np.float32)[:, None]                                # (256, 1, channels)


def _ramp(shape: tuple[int, ...], rng: Generator) -> NDArray[np.float32]:
    """1 + a t along a random direction, t from -1 to 1; sometimes with a hard edge, as a lamp beside the face."""
    angle, half = rng.uniform(0, 2 * np.pi), np.linspace(-1, 1, shape[0], dtype=np.float32)
    t = np.float32(np.cos(angle)) * half + np.float32(np.sin(angle)) * half[:, None]
    if rng.random() < 0.3:
        t = np.tanh((t - np.float32(rng.uniform(-0.5, 0.5))) * np.float32(rng.uniform(2, 10)))
    amount = rng.uniform(-0.7, 0.7) + rng.uniform(-0.2, 0.2, shape[2] if len(shape) == 3 else 1)
    t = t[..., None] if len(shape) == 3 else t
    return np.maximum(1 + t * amount.astype(np.float32), np.float32(0.05))


def _streak(rng: Generator, length: float) -> NDArray[np.float32]:
    """A line of ``length`` pixels at a random angle, as a convolution kernel of sum 1."""
    reach = int(np.ceil(length / 2))
    t = np.arange(-reach, reach + 1, dtype=np.float32)
    angle = rng.uniform(0, np.pi)
    across = t[:, None] * np.cos(angle) - t * np.sin(angle)
    along = t[:, None] * np.sin(angle) + t * np.cos(angle)
    kernel = np.clip(1 - np.abs(across), 0, 1) * (np.abs(along) <= length / 2)
    return (kernel / kernel.sum()).astype(np.float32)


def _occlude(image: NDArray[np.float32], rng: Generator, other: NDArray[np.uint8] | None) -> None:
    """Cover a turned box or ellipse with one tone, black, noise or a piece of another picture (in place)."""
    size = image.shape[0]
    w, h = rng.uniform(0.1, 0.4, 2) * size
    x, y = rng.uniform(0, 1, 2) * size
    mask = np.zeros((size, size), np.uint8)
    if rng.random() < 0.5:
        box = ((float(x), float(y)), (float(w), float(h)), float(rng.uniform(0, 90)))
        cv2.fillConvexPoly(mask, np.round(cv2.boxPoints(box)).astype(np.int32), 1)
    else:
        cv2.ellipse(mask, (int(x), int(y)), (int(w / 2), int(h / 2)), float(rng.uniform(0, 180)), 0, 360, 1, -1)
    inside = mask > 0
    shape = (int(inside.sum()), *image.shape[2:])
    kind = rng.random()
    if kind < 0.35 and other is not None:
        image[inside] = np.roll(other, tuple(rng.integers(0, size, 2)), (0, 1))[inside] / np.float32(255)
    elif kind < 0.6:
        image[inside] = rng.random(shape, np.float32)
    elif kind < 0.75:
        image[inside] = 0
    else:
        image[inside] = rng.random(image.shape[2:], np.float32)


def _jpeg(image: NDArray[np.float32], quality: int) -> NDArray[np.float32]:
    """There and back through JPEG."""
    bytes_ = cv2.imencode(".jpg", (image * 255 + 0.5).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return cv2.imdecode(bytes_, cv2.IMREAD_UNCHANGED).astype(np.float32) / np.float32(255)
