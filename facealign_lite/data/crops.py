"""Crops: the square around a face that a network sees. Matrices are (2, 3), acting on (x, y) pixel centres."""

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import Dataset

from facealign_lite import geometry, markups
from facealign_lite.arrays import finite, floats, number, plain

from .augmentation import Augmentation
from .samples import MAX_PIXELS, box_of, check_box, check_sample, load_image, stacked_contours

PIXELS = (np.uint8, np.uint16, np.float32, np.float64)       # what OpenCV resamples
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
MARGIN = 0.3          # room around a box, in training and after


def crop_matrix(box: ArrayLike, size: int, margin: float = MARGIN, angle: float = 0.0,
                shift: ArrayLike = (0.0, 0.0), scale: float = 1.0) -> NDArray[np.float64]:
    """The map from image to crop: a square of side max(w, h) (1 + margin) scale around the box fills the crop.

    Args:
        box: (left, top, right, bottom) in image pixels.
        size: side of the crop in pixels; its content covers [-0.5, size - 0.5].
        margin: room around the box, as a fraction of its longer side.
        angle: radians by which the picture turns, clockwise on the screen.
        shift: (x, y) by which the square's centre leaves the box's, in sides of the square.
        scale: factor on the side.

    Returns:
        (2, 3) similarity.

    Raises:
        ValueError: if the box has no area, size, 1 + margin or scale is not positive, or a number is not finite.
    """
    box = check_box(box)
    size, margin, scale = number(size, "size"), number(margin, "margin"), number(scale, "scale")
    if not (0 < size < np.inf and 0 < 1 + margin < np.inf and 0 < scale < np.inf):
        raise ValueError(f"size, 1 + margin and scale must be positive, got {size}, {1 + margin}, {scale}")
    side = max(box[2] - box[0], box[3] - box[1]) * (1 + margin) * scale
    shift, angle = finite(shift, "shift"), number(angle, "angle")
    if shift.shape != (2,):
        raise ValueError(f"shift must be (x, y), got shape {shift.shape}")
    centre = (box[:2] + box[2:]) / 2 + shift * side
    cosine, sine = np.cos(angle), np.sin(angle)
    turn = size / side * np.array([[cosine, -sine], [sine, cosine]])
    # the centre lands on (size - 1) / 2
    return finite(np.column_stack([turn, (size - 1) / 2 - turn @ centre]), "box, size, margin and scale together")


def crop(image: NDArray, matrix: ArrayLike, size: int) -> NDArray:
    """Resample ``image`` through ``matrix`` (image -> crop) into (size, size[, C]); the border is replicated.

    Where the crop is much smaller than what it shows, the image is first averaged down by whole numbers,
    so that fine texture does not turn into noise.

    Args:
        image: (H, W) or (H, W, C) of at most four channels, uint8, uint16 or floats.
        matrix: (2, 3).
        size: side of the crop in pixels; the crop has at most ``MAX_PIXELS``.

    Raises:
        ValueError: for another image, a matrix that is not finite and invertible, or a size that is no whole number of
            pixels.
    """
    image, matrix = plain(image, "image"), finite(matrix, "matrix")
    if image.dtype not in PIXELS or image.ndim not in (2, 3) or not image.size or image.shape[2:] > (4,):
        raise ValueError(f"image must be (H, W) or (H, W, C) with C <= 4 of uint8, uint16 or floats, got {image.dtype} "
                         f"{image.shape}")
    if matrix.shape != (2, 3):
        raise ValueError(f"matrix must be (2, 3), got shape {matrix.shape}")
    if not isinstance(size, Real) or not 1 <= size <= MAX_PIXELS**0.5 or int(size) != size:
        raise ValueError(f"size must be a whole number of 1 to {int(MAX_PIXELS**0.5)} pixels, got {size!r}")
    size = int(size)
    ratio = np.sqrt(abs(np.linalg.det(matrix[:, :2])))
    if not ratio > 0:
        raise ValueError(f"matrix must be invertible, got {matrix.tolist()}")
    if (step := int(1 / ratio)) > 1:
        image, matrix = _shrink(image, matrix, size, step)
    return cv2.warpAffine(image, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _shrink(image: NDArray, matrix: NDArray, size: int, step: int) -> tuple[NDArray, NDArray]:
    """Average step x step pixels of the part that the crop shows; the matrix for the smaller image."""
    corners = np.array([[-0.5, -0.5], [size - 0.5, -0.5], [-0.5, size - 0.5], [size - 0.5, size - 0.5]])
    seen = geometry.transform(corners, geometry.invert(matrix))
    height, width = image.shape[:2]
    low = np.clip(np.floor(seen.min(0)) - step, 0, [width - 1, height - 1]).astype(int)
    high = np.clip(np.ceil(seen.max(0)) + step + 1, low + 1, [width, height]).astype(int)
    image = image[low[1]:high[1], low[0]:high[0]]
    down, across = (min(step, side) for side in image.shape[:2])               # no more than there is
    image = cv2.copyMakeBorder(image, 0, -image.shape[0] % down, 0, -image.shape[1] % across, cv2.BORDER_REPLICATE)
    image = cv2.resize(image, (image.shape[1] // across, image.shape[0] // down), interpolation=cv2.INTER_AREA)
    # small pixel q shows image pixel p = (q + 0.5) step - 0.5 + low
    back = np.array([[across, 0, (across - 1) / 2 + low[0]], [0, down, (down - 1) / 2 + low[1]]])
    return image, geometry.compose(matrix, back)


def upright_matrix(landmarks: ArrayLike, size: int, margin: float = MARGIN) -> NDArray[np.float64]:
    """The crop around (K, 2) landmarks, of the markup with that many, that holds the eye line level.

    Raises:
        ValueError: if no markup has K landmarks or both eyes lie in one point.
    """
    landmarks = np.asarray(landmarks, np.float64)
    right, left = markups.get(str(len(landmarks))).normalizers["inter_ocular"]
    return level_matrix(landmarks, landmarks[list(right)].mean(0), landmarks[list(left)].mean(0), size, margin)


def level_matrix(points: NDArray, right: NDArray, left: NDArray, size: int, margin: float = MARGIN
                 ) -> NDArray[np.float64]:
    """The crop around (N, 2) points that holds the line from the right to the left eye level.

    Raises:
        ValueError: if both eyes lie in one point.
    """
    x, y = left - right
    if not np.hypot(x, y) > 0:
        raise ValueError("the eyes must lie apart, got one point for both")
    level = np.array([[x, y, 0.0], [-y, x, 0.0]]) / np.hypot(x, y)                      # turns (x, y) to (1, 0)
    return geometry.compose(crop_matrix(box_of(geometry.transform(points, level)), size, margin), level)


def mirrored(matrix: ArrayLike, size: int) -> NDArray[np.float64]:
    """The same crop seen in a mirror."""
    return geometry.compose(mirror_matrix(size), matrix)


def turned(matrix: ArrayLike, size: int, angle: float) -> NDArray[np.float64]:
    """The same crop turned about its centre, and wider by a tenth for a positive angle, closer for a negative one."""
    scale = 1 - 0.1 * np.sign(angle)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.full(2, (size - 1) / 2)
    return geometry.compose(np.column_stack([turn, centre - turn @ centre]), matrix)


def mirror_matrix(width: int) -> NDArray[np.float64]:
    """The map x -> width - 1 - x."""
    return np.array([[-1.0, 0.0, width - 1.0], [0.0, 1.0, 0.0]])


def flip(image: NDArray, landmarks: ArrayLike, markup: str = "68") -> tuple[NDArray, NDArray]:
    """Mirror an image and its (..., K, 2) landmarks; left and right landmarks change names."""
    landmarks, image, table = floats(landmarks, "landmarks"), plain(image, "image"), markups.get(markup)
    if image.ndim not in (2, 3):
        raise ValueError(f"image must be (H, W) or (H, W, C), got shape {image.shape}")
    if landmarks.shape[-2:] != (table.count, 2):
        raise ValueError(f"landmarks of markup {markup!r} must be (..., {table.count}, 2), got {landmarks.shape}")
    mirrored = geometry.transform(landmarks, mirror_matrix(image.shape[1]))
    return np.ascontiguousarray(image[:, ::-1]), mirrored[..., list(table.flip), :]


def grey(image: NDArray) -> NDArray:
    """(H, W, 3) RGB -> (H, W) of the same type; grey stays grey. Raises ValueError for other images."""
    image = plain(image, "image")
    colour = image.ndim == 3 and image.shape[2] == 3 and image.dtype in PIXELS
    if not image.size or not (colour or image.ndim == 2):
        raise ValueError(f"image must be (H, W) or (H, W, 3) of uint8, uint16 or floats, "
                         f"got {image.dtype} {image.shape}")
    if image.ndim == 2:
        return image
    if image.dtype == np.uint8:
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return cv2.transform(image, LUMA[None])


class Crops(Dataset):
    """Training or test crops of a sequence of samples.

    Every crop is a pure function of (seed, epoch, index): order and number of workers change nothing.

    Args:
        samples: any sequence of ``Sample`` or of objects with the same attributes.
        size: side of the crop in pixels.
        augment: how to vary the crops; None for the plain centred crop.
        seed: of the augmentation.
        colour: RGB crops (3, S, S) instead of grey (1, S, S).
        margin: room around the box, see ``crop_matrix``.

    Raises:
        ValueError: if there are no samples, size, seed or margin cannot be, or augment is no ``Augmentation``; when a
            crop is asked for, if its sample is none or has neither box nor landmarks.
    """

    def __init__(self, samples: Sequence[Any], size: int = 128, augment: Augmentation | None = None, seed: int = 0,
                 colour: bool = False, margin: float = MARGIN):
        if len(samples) == 0:
            raise ValueError("samples must not be empty")
        if isinstance(samples, (str, bytes, Mapping)) or not hasattr(samples, "__getitem__"):
            raise ValueError(f"samples must be a sequence, got {type(samples).__name__}")
        for name, value, least in (("size", size, 1), ("seed", seed, 0)):
            if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
        if augment is not None and not all(hasattr(augment, name) for name in ("placement", "photometry")):
            raise ValueError(f"augment must be an Augmentation or None, got {type(augment).__name__}")
        if not isinstance(colour, (bool, np.bool_)):
            raise ValueError(f"colour must be True or False, got {colour!r}")
        if not 0 < 1 + number(margin, "margin") < np.inf:
            raise ValueError(f"1 + margin must be positive, got margin {margin!r}")
        self.samples, self.size, self.augment, self.seed = samples, int(size), augment, int(seed)
        self.colour, self.margin = bool(colour), margin

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Crop ``index`` as in epoch 0."""
        return self.at(0, index)

    def at(self, epoch: int, index: int) -> dict[str, Tensor]:
        """Crop ``index`` as seen in ``epoch``.

        Returns:
            image (C, S, S) float32 in [-0.5, 0.5]; landmarks (K, 2) float32 in crop pixels (NaN where there are none);
            visibility (K,) float32, 1 where nobody said; matrix (2, 3) float64 image -> crop; index. Where the sample
            knows its contours also anchors (12, 2) and contours (13, CONTOUR_POINTS, 2), float32 crop pixels.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"index must be in 0 .. {len(self) - 1}, got {index}")
        sample = check_sample(self.samples[index], f"samples[{index}]")
        table = markups.get(sample.markup)
        rng = np.random.default_rng((self.seed, epoch, index))
        matrix, mirrored = self._matrix(sample, index, rng)
        image = self._pixels(sample, matrix)
        if self.augment is None:
            image = image.astype(np.float32) / np.float32(255)
        else:
            image = self.augment.photometry(image, rng, self._other(rng, image))
        image = image if self.colour else grey(image)
        order = list(table.flip) if mirrored else slice(None)
        landmarks, visibility = np.full((table.count, 2), np.nan), np.ones(table.count)
        if sample.landmarks is not None:
            landmarks = geometry.transform(np.asarray(sample.landmarks, np.float64), matrix)[order]
        if sample.visibility is not None:
            visibility = np.asarray(sample.visibility, np.float64)[order]
        planes = image.transpose(2, 0, 1) if self.colour else image[None]
        anchors, contours = stacked_contours(sample)
        known = {} if contours is None else {
            "anchors": geometry.transform(anchors, matrix)[list(markups.ANCHOR_FLIP) if mirrored else slice(None)],
            "contours": geometry.transform(contours, matrix)[list(markups.CONTOUR_FLIP) if mirrored else slice(None)]}
        return {
            "image": torch.from_numpy(np.ascontiguousarray(planes, np.float32) - np.float32(0.5)),
            "landmarks": torch.from_numpy(landmarks.astype(np.float32)),
            "visibility": torch.from_numpy(visibility.astype(np.float32)),
            "matrix": torch.from_numpy(matrix),
            "index": torch.tensor(index),
            **{name: torch.from_numpy(points.astype(np.float32)) for name, points in known.items()},
        }

    def _matrix(self, sample: Any, index: int, rng: np.random.Generator) -> tuple[NDArray, bool]:
        """Image -> crop, mirrored or not."""
        box = sample.box
        if box is None and sample.landmarks is not None:
            box = box_of(sample.landmarks)
        if box is None:
            raise ValueError(f"samples[{index}] must have a box or landmarks, got neither")
        if self.augment is None:
            return crop_matrix(box, self.size, self.margin), False
        angle, scale, shift, mirrored = self.augment.placement(rng)
        matrix = crop_matrix(box, self.size, self.margin, angle, shift, scale)
        return (geometry.compose(mirror_matrix(self.size), matrix) if mirrored else matrix), mirrored

    def _pixels(self, sample: Any, matrix: NDArray) -> NDArray[np.uint8]:
        """The crop, (S, S) or (S, S, 3) uint8."""
        image = crop(load_image(sample.image), matrix, self.size)
        if self.colour and image.ndim == 2:
            image = np.repeat(image[..., None], 3, -1)
        return image

    def _other(self, rng: np.random.Generator, image: NDArray) -> NDArray | None:
        """Now and then another sample's pixels, to be pasted over the face."""
        if rng.random() > 0.3 * self.augment.occluder:
            return None
        sample = self.samples[int(rng.integers(len(self)))]
        other = cv2.resize(load_image(sample.image), (self.size, self.size), interpolation=cv2.INTER_AREA)
        if other.ndim < image.ndim:
            return np.repeat(other[..., None], 3, -1)
        return grey(other) if other.ndim > image.ndim else other
