"""One annotated face, and the reading of images."""

import errno
import io
import os
import stat
import struct
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from facealign_lite import geometry, markups
from facealign_lite.arrays import finite, floats, plain

CONTOUR_POINTS = 64  # points of a contour in crops and packs, at equal arcs
MAX_PIXELS = 1 << 27  # of an image: 11,585 x 11,585, more than any camera's but panoramas; 0.4 GB in colour
MAX_BYTES = 1 << 29   # of an image file
STRIP = 1 << 22       # pixels that are changed at a time
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
        ValueError: if a shape does not match the markup, a number is not finite, the box has no area or image is None.
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
        if self.image is None:
            raise ValueError("image must be a path or an array, got None")
        if self.landmarks is not None:
            landmarks = finite(self.landmarks, "landmarks")
            if landmarks.shape != (count, 2):
                raise ValueError(f"landmarks of markup {self.markup!r} must be ({count}, 2), got {landmarks.shape}")
            object.__setattr__(self, "landmarks", landmarks)
            if self.box is None:
                object.__setattr__(self, "box", box_of(landmarks))
        if self.visibility is not None:
            visibility = finite(self.visibility, "visibility") != 0
            if visibility.shape != (count,):
                raise ValueError(f"visibility of markup {self.markup!r} must be ({count},), got {visibility.shape}")
            object.__setattr__(self, "visibility", visibility)
        if self.box is not None:
            object.__setattr__(self, "box", check_box(self.box))
        if self.anchors is not None:
            anchors = finite(self.anchors, "anchors")
            if anchors.shape != (len(markups.ANCHORS), 2):
                raise ValueError(f"anchors must be ({len(markups.ANCHORS)}, 2), got {anchors.shape}")
            object.__setattr__(self, "anchors", anchors)
        if self.contours is not None:
            if not isinstance(self.contours, Mapping) or set(self.contours) != set(markups.CONTOURS):
                seen = list(self.contours) if isinstance(self.contours, Mapping) else type(self.contours).__name__
                raise ValueError(f"contours must be those of markups.CONTOURS by name, got {seen}")
            lines = {name: plain(line, name) for name, line in self.contours.items()}
            for name, line in lines.items():
                if line.ndim != 2 or line.shape[1] != 2 or len(line) < 2 or not np.isfinite(line).all():
                    raise ValueError(f"contours must be finite polylines (M, 2), got shape {line.shape} for {name}")
            object.__setattr__(self, "contours", lines)


def check_sample(sample: Any, name: str) -> Any:
    """The same, if it has the attributes of ``Sample`` that tell where a face is; ValueError for everything else."""
    missing = [part for part in ("image", "landmarks", "visibility", "box", "markup") if not hasattr(sample, part)]
    if missing:
        raise ValueError(f"{name} must be a Sample or have its attributes, got {type(sample).__name__} without "
                         f"{', '.join(missing)}")
    return sample


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
    landmarks = floats(landmarks, "landmarks")
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
    box = finite(box, "box")
    if box.shape != (4,):
        raise ValueError(f"box must be four finite numbers (left, top, right, bottom), got shape {box.shape}")
    if not (box[0] < box[2] and box[1] < box[3]):
        raise ValueError(f"box must have left < right and top < bottom, got {box.tolist()}")
    return box


# ---- images --------------------------------------------------------------------------------------------------------

# a photo from the way it was stored to upright, by its EXIF orientation
UPRIGHT: dict[int, Callable[[NDArray], NDArray]] = {
    2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: np.swapaxes(a, 0, 1),
    6: lambda a: np.rot90(a, -1), 7: lambda a: np.swapaxes(np.rot90(a, 2), 0, 1), 8: np.rot90}


def load_image(source: Any) -> NDArray[np.uint8]:
    """Read an image as uint8, grey (H, W) or RGB (H, W, 3), upright by its EXIF note.

    Args:
        source: path, PIL image, or array or tensor (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA, of bool, 8 or 16
            bit integers, or floats in [0, 1]. Transparency is laid on white. PIL's mode "I" is of 8 bit where no value
            is above 255, else of 16.

    Raises:
        OSError: if a path does not exist, is no ordinary file or cannot be read.
        ValueError: if the file is no image, the array is empty or of another form, or there are more than
            ``MAX_PIXELS`` pixels, which is seen before they are decoded.
    """
    if isinstance(source, (str, os.PathLike)):
        where = os.fspath(source)
        array, order = _decoded(_bytes(Path(source)), where)
    else:
        where, order = "image", None
        pil = hasattr(source, "convert") and hasattr(source, "mode")           # without importing PIL
        if isinstance(source, (list, tuple)) and any(isinstance(one, (str, os.PathLike)) or hasattr(one, "convert")
                                                     or getattr(one, "ndim", 0) > 2 for one in source):
            raise ValueError(f"image must be one image, got {len(source)} in a {type(source).__name__}: "
                             "align.align_many takes several")
        array = _from_pil(source) if pil else plain(source, where)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.size == 0 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise ValueError(f"{where} must be (H, W), (H, W, 3) or (H, W, 4) and not empty, got shape {array.shape}"
                         + "; align.align_many takes several images" * (array.ndim == 4))
    _check_size(*array.shape[1::-1], where)

    def change(rows: NDArray) -> NDArray[np.uint8]:
        rows = rows if order is None or rows.ndim == 2 else rows[..., order[:rows.shape[2]]]
        return _on_white(_to_uint8(rows, where))
    strip = max(1, STRIP // array.shape[1])                                    # rows; few copies of a large picture
    strips = [change(array[i:i + strip]) for i in range(0, len(array), strip)]
    return np.ascontiguousarray(strips[0] if len(strips) == 1 else np.concatenate(strips))


def _bytes(path: Path) -> bytes:
    """Of an ordinary file: a pipe or a device would never end."""
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EISDIR if path.is_dir() else errno.EINVAL, "must be an ordinary file", os.fspath(path))
    data = b""
    if found.st_size <= MAX_BYTES:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)                                    # what /proc holds has no size before
    if max(found.st_size, len(data)) > MAX_BYTES:
        raise ValueError(f"{path} must be an image of at most {MAX_BYTES} bytes")
    return data


def _decoded(data: bytes, where: str) -> tuple[NDArray, list[int]]:
    """The pixels of a file, upright, as they are stored, and the order of their channels that makes them RGB."""
    from PIL import Image
    unreadable = f"{where} is not a readable image ({len(data)} bytes){_instead(data)}"
    try:
        with warnings.catch_warnings():                                        # of a size that is ours to judge
            warnings.simplefilter("ignore")
            header = Image.open(io.BytesIO(data))
            kind, size, orientation = header.format, header.size, 1
            # PNG may carry the note behind the pixels, which Pillow then decodes: ask where there is one
            noted = {"exif", "Raw profile type exif", "XML:com.adobe.xmp"} & set(header.info) or b"eXIf" in data
            if kind not in ("JPEG", "MPO", "TIFF") and (kind != "PNG" or noted):
                _check_size(*size, where)
                orientation = header.getexif().get(0x0112, 1)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{where} must have at most {MAX_PIXELS} pixels: {error}") from None
    except Exception as error:      # noqa: BLE001    Pillow's readers raise anything on damaged headers
        raise ValueError(f"{unreadable}: {error}" if isinstance(error, ValueError) else unreadable) from None
    _check_size(*size, where)
    if kind == "PNG" and header.mode in ("L", "RGB") and "transparency" in header.info:
        return _from_pil(header), [0, 1, 2, 3]                                 # a colour that OpenCV shows
    # OpenCV turns JPEG upright itself if it may drop alpha, which a JPEG has not, and TIFF in any case
    flag = cv2.IMREAD_ANYCOLOR if kind in ("JPEG", "MPO") else cv2.IMREAD_UNCHANGED
    try:
        array = cv2.imdecode(np.frombuffer(data, np.uint8), flag)
    except cv2.error as error:
        raise ValueError(f"{unreadable}: {' '.join(str(error).split())}") from None
    if array is None:
        raise ValueError(unreadable)
    return UPRIGHT.get(orientation, np.asarray)(array), [2, 1, 0, 3]           # OpenCV gives BGR


def _instead(data: bytes) -> str:
    """What to do with a file that is known to be no image that can be read, by its first bytes."""
    if data[4:8] == b"ftyp" and data[8:11] in (b"hei", b"hev", b"mif", b"msf"):
        return "; it is an HEIC, as telephones take: save it as JPEG or PNG first"
    if data[4:8] == b"ftyp" and data[8:11] != b"avi" or data[:4] == b"\x1aE\xdf\xa3" or data[8:12] == b"AVI ":
        return "; it is a video: tracking.track follows its face, or --video on the command line"
    return ""


def _from_pil(image: Any) -> NDArray:
    """The pixels of a PIL image, upright."""
    from PIL import ImageOps
    _check_size(*image.size, "image")
    try:
        image = ImageOps.exif_transpose(image)
        if "transparency" in image.info or image.mode in ("LA", "PA", "La", "RGBa"):
            image = image.convert("RGBA")
        elif image.mode not in ("1", "L", "RGB", "RGBA", "I", "F") and not image.mode.startswith("I;16"):
            image = image.convert("RGB")
        array = np.asarray(image)
    except (SyntaxError, EOFError, MemoryError, struct.error) as error:
        raise ValueError(f"image must be readable by PIL: {error}") from None
    if image.mode == "I" and array.size:
        if not 0 <= array.min() <= array.max() < 1 << 16:
            raise ValueError(f"image of mode 'I' must lie in [0, 65535], got {array.min()} to {array.max()}")
        array = array.astype(np.uint8 if array.max() < 256 else np.uint16)
    return array


def _check_size(width: int, height: int, where: str) -> None:
    if max(width, height) >= EDGE:
        raise ValueError(f"{where} must be smaller than {EDGE} pixels a side, got {width} x {height}")
    if width * height > MAX_PIXELS:
        raise ValueError(f"{where} must have at most {MAX_PIXELS} pixels, got {width} x {height}")


def _to_uint8(array: NDArray, where: str) -> NDArray[np.uint8]:
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * 255
    if array.dtype.kind == "u" and array.dtype.itemsize == 2:              # of either order of bytes
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)   # 65535 = 257 * 255
    if array.dtype.kind == "f":
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise ValueError(f"{where} of floats must lie in [0, 1], got {array.min()} to {array.max()}")
        return np.round(array * 255).astype(np.uint8)
    raise ValueError(f"{where} must be bool, uint8, uint16 or float, got {array.dtype}")


def _on_white(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if array.ndim == 2 or array.shape[2] == 3:
        return array
    colour, alpha = array[..., :3].astype(np.uint16), array[..., 3:].astype(np.uint16)
    return ((colour * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
