"""One annotated face, and the reading of images."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from facealign_lite import geometry, markups

CONTOUR_POINTS = 64  # points of a contour in crops and packs, at equal arcs
MAX_PIXELS = 1 << 27  # of an image: 11,585 x 11,585, more than any camera's but panoramas; 0.4 GB in colour
EDGE = 1 << 15  # cv2.warpAffine counts pixels in 16 bits


@dataclass(frozen=True)
class Sample:
    """A face: where its image is and what is known about it.

    Args:
        image: path, or uint8 array (H, W) grey or (H, W, 3) RGB.
        landmarks: (K, 2) float64, 0-based pixel centres (x, y); None for unlabelled images.
        visibility: (K,) bool, or None where nobody said.
        box: (left, top, right, bottom) pixels around the face; the landmarks' own box if None.
        markup: name in ``markups.MARKUPS``.
        tags: subset flags and other facts, by name.
        anchors: (12, 2) in the order of ``markups.ANCHORS``, where they are known.
        contours: all of ``markups.CONTOURS`` by name, polylines (M, 2), where they are known.

    Raises:
        ValueError: if a shape does not match the markup, a number is not finite or the box has no area.
    """

    image: Path | NDArray
    landmarks: NDArray | None = None
    visibility: NDArray | None = None
    box: NDArray | None = None
    markup: str = "68"
    tags: Mapping[str, Any] = field(default_factory=dict)
    anchors: NDArray | None = None
    contours: Mapping[str, NDArray] | None = None

    def __post_init__(self) -> None:
        count = markups.get(self.markup).count
        if self.landmarks is not None:
            landmarks = np.asarray(self.landmarks, np.float64)
            if landmarks.shape != (count, 2):
                raise ValueError(f"landmarks of markup {self.markup!r} must be ({count}, 2), got {landmarks.shape}")
            object.__setattr__(self, "landmarks", landmarks)
            if self.box is None:
                object.__setattr__(self, "box", box_of(landmarks))
        if self.visibility is not None:
            visibility = np.asarray(self.visibility, bool)
            if visibility.shape != (count,):
                raise ValueError(f"visibility of markup {self.markup!r} must be ({count},), got {visibility.shape}")
            object.__setattr__(self, "visibility", visibility)
        if self.box is not None:
            object.__setattr__(self, "box", check_box(self.box))
        if self.anchors is not None and np.shape(self.anchors) != (len(markups.ANCHORS), 2):
            raise ValueError(f"anchors must be ({len(markups.ANCHORS)}, 2), got {np.shape(self.anchors)}")
        if self.contours is not None and set(self.contours) != set(markups.CONTOURS):
            raise ValueError(f"contours must be those of markups.CONTOURS, got {sorted(self.contours)}")


def stacked_contours(sample: Any) -> tuple[NDArray[np.float64] | None, NDArray[np.float32] | None]:
    """Anchors (12, 2) and contours (13, CONTOUR_POINTS, 2) of a sample that knows both; else None, None."""
    anchors, contours = getattr(sample, "anchors", None), getattr(sample, "contours", None)
    if anchors is None or contours is None:
        return None, None
    lines = [contours[name] for name in markups.CONTOURS]
    lines = [line if len(line) == CONTOUR_POINTS else geometry.resample(line, CONTOUR_POINTS) for line in lines]
    return np.asarray(anchors, np.float64), np.stack(lines).astype(np.float32)


def box_of(landmarks: ArrayLike) -> NDArray[np.float64]:
    """Tight box (left, top, right, bottom) around (K, 2) landmarks.

    Raises:
        ValueError: if the shape is not (K, 2) with K > 0 or a coordinate is not finite.
    """
    landmarks = np.asarray(landmarks, np.float64)
    if landmarks.ndim != 2 or landmarks.shape[1] != 2 or len(landmarks) == 0:
        raise ValueError(f"landmarks must be (K, 2) with K > 0, got shape {landmarks.shape}")
    if not np.isfinite(landmarks).all():
        bad = np.flatnonzero(~np.isfinite(landmarks).all(1))
        raise ValueError(f"landmarks must be finite, got NaN or infinity at {bad.tolist()}")
    return np.concatenate([landmarks.min(0), landmarks.max(0)])


def check_box(box: ArrayLike) -> NDArray[np.float64]:
    """The box as four floats.

    Raises:
        ValueError: unless it is (left, top, right, bottom), finite, with left < right and top < bottom.
    """
    box = np.asarray(box, np.float64)
    if box.shape != (4,) or not np.isfinite(box).all():
        raise ValueError(f"box must be four finite numbers (left, top, right, bottom), got {box.tolist()}")
    if not (box[0] < box[2] and box[1] < box[3]):
        raise ValueError(f"box must have left < right and top < bottom, got {box.tolist()}")
    return box


def load_image(source: Any) -> NDArray[np.uint8]:
    """Read an image as uint8, grey (H, W) or RGB (H, W, 3).

    Args:
        source: path, PIL image, or array (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA, of bool, 8 or 16 bit
            integers, or floats in [0, 1]. Transparency is laid on white.

    Raises:
        OSError: if a path does not exist or cannot be read.
        ValueError: if the file is no image, or the array is empty or of another form.
    """
    where = "image"
    if isinstance(source, (str, os.PathLike)):
        where = os.fspath(source)
        data = np.frombuffer(Path(source).read_bytes(), np.uint8)
        # OpenCV turns a photo upright by its EXIF note only if it may drop alpha, which a JPEG has not
        flag = cv2.IMREAD_ANYCOLOR if data[:2].tobytes() == b"\xff\xd8" else cv2.IMREAD_UNCHANGED
        array = cv2.imdecode(data, flag) if len(data) else None
        if array is None:
            raise ValueError(f"{where} is not a readable image ({len(data)} bytes)")
        if array.ndim == 3 and array.shape[2] >= 3:
            array = array[..., [2, 1, 0, *range(3, array.shape[2])]]      # OpenCV reads BGR
    else:
        if hasattr(source, "convert") and hasattr(source, "mode"):        # a PIL image, without importing PIL
            plain = ("1", "L", "RGB", "RGBA", "I;16")
            source = source if source.mode in plain else source.convert("RGBA" if "A" in source.mode else "RGB")
        array = np.asarray(source)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.size == 0 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ValueError(f"{where} must be (H, W), (H, W, 3) or (H, W, 4) and not empty, got shape {array.shape}")
    if max(array.shape[:2]) >= EDGE:
        raise ValueError(f"{where} must be smaller than {EDGE} pixels a side, got {array.shape[1]} x {array.shape[0]}")
    array = _to_uint8(array, where)
    if array.ndim == 3 and array.shape[2] == 4:
        colour, alpha = array[..., :3].astype(np.uint16), array[..., 3:].astype(np.uint16)
        array = ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(array)


def _to_uint8(array: NDArray, where: str) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if array.dtype == np.uint16:
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)  # 65535 = 257 * 255
    if array.dtype.kind == "f":
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise ValueError(f"{where} of floats must lie in [0, 1], got {array.min()} to {array.max()}")
        return np.round(array * 255).astype(np.uint8)
    raise ValueError(f"{where} must be bool, uint8, uint16 or float, got {array.dtype}")
