"""A face followed through a video: found once, then read in the crop of its own last landmarks, and smoothed.

Shapes: K landmarks. Points are (x, y) in 0-based pixel centres, times in seconds, cutoffs in Hz. Matrices are (2, 3)
maps from picture to crop. Frames are streamed: one at a time is kept.
"""

import errno
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from facealign_lite import geometry, looks
from facealign_lite.align import FINDER, Alignment, prepared
from facealign_lite.arrays import finite, number
from facealign_lite.data import MARGIN, box_of, crop_matrix, load_image
from facealign_lite.detection import find
from facealign_lite.nets import Reading

FPS = 30.0            # frames a second of a source that does not tell
RETRY = 0.25          # seconds between searches while there is no face: one takes about as long as three frames
LOOKS = 3             # at most in a frame; one where the face has hardly moved
SMALLEST = 8.0        # pixels from brows to chin, below which a face is lost
# The face is lost where one of the three rules of ``settle`` says so. Their numbers were chosen on rendered faces, see
# benchmarks/tracking.py and results/tracking.json.
LOW = 0.38            # of the mean score: followed faces are above 0.5, 19 of 20 crops of backgrounds below 0.33
SETTLED = 0.12        # sides of the crop: one look then errs by less than a tenth more than in the upright crop
INSIDE = 0.5          # share of the face's box on the picture: of less the network guesses the greater part
# Of what the filter is given: beyond them its products leave the numbers that there are.
FASTEST = 1e9         # cutoffs and beta at most, in Hz; the size of a face in pixels at most, and its inverse
SHORTEST = 1e-9       # seconds from frame to frame, at least
LATEST = 1e15         # seconds since the beginning, at most


# ---- the filter ----------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class OneEuro:
    """How far landmarks are smoothed; see ``smoothed``.

    Raises:
        ValueError: unless both cutoffs are positive, beta is not negative, and none is above ``FASTEST``.
    """

    # chosen from the grid of results/tracking.json: with 0.5 and 20 a still face trembles a third as much, a moving one
    # errs by a fifth more, a fast one by a quarter; with 5 for beta it would be a quarter calmer and err twice as much
    min_cutoff: float = 0.5      # Hz: of a landmark at rest; lower is calmer
    beta: float = 20.0           # Hz by which a speed of one face a second raises it; higher lags less
    speed_cutoff: float = 1.0    # Hz: of the speed itself; Casiez et al. take 1 for all they filter

    def __post_init__(self) -> None:
        for field in fields(self):
            value = number(getattr(self, field.name), field.name)
            wanted = "not negative" if field.name == "beta" else "positive"
            if not np.isfinite(value) or value < 0 or (value == 0 and wanted == "positive") or value > FASTEST:
                raise ValueError(f"{field.name} must be finite and {wanted}, at most {FASTEST:g}, got {value}")
            object.__setattr__(self, field.name, value)           # in double precision, whatever it was given in


@dataclass(frozen=True)
class Motion:
    """What the filter remembers of K points."""

    seconds: float                       # when they were seen last
    seen: NDArray[np.float64]            # (K, 2) pixels: as they were seen then
    points: NDArray[np.float64]          # (K, 2) pixels: smoothed
    velocity: NDArray[np.float64]        # (K, 2) pixels a second: smoothed


def smoothed(motion: Motion | None, points: ArrayLike, seconds: float, size: float, how: OneEuro = OneEuro()) -> Motion:
    """One step of the one-euro filter: a low pass whose cutoff grows with the speed of what is filtered.

    A first-order low pass of cutoff f (RC circuit, time constant tau = 1 / (2 pi f)) obeys tau dy/dt + y = x. With the
    backward difference over a step T, dy/dt = (y_i - y_{i-1}) / T, it is

        y_i = a x_i + (1 - a) y_{i-1},    a = 1 / (1 + tau / T) = 2 pi f T / (1 + 2 pi f T).

    The velocity of each landmark is the difference of what was seen, over T, through such a filter of
    ``how.speed_cutoff``; the landmark itself goes through one of cutoff ``min_cutoff + beta |velocity| / size``. So a
    still face is calm, and a moving one hardly lags: a landmark in steady motion at v is behind by exactly
    v / (2 pi f), less than size / (2 pi beta) however fast it is.

    Both coordinates of a landmark have one cutoff, so that turning the picture changes nothing; a length is compared
    with the size of the face, so that neither does enlarging it. The difference is that of values as seen, as in the
    authors' code; with the filtered one, as in the paper's listing, the velocity would grow with the frame rate.

    Args:
        motion: what the last step gave; None at the first, which changes nothing.
        points: (K, 2) pixels.
        seconds: when they were seen.
        size: of the face, pixels.

    Raises:
        ValueError: if points are not (K, 2), K that of the last step, and finite; if time does not go forward by at
            least ``SHORTEST`` seconds; or if size is not positive; or if numbers are beyond what a video has.

    Source: Casiez, Roussel, Vogel 2012, "1 € Filter: A Simple Speed-based Low-pass Filter for Noisy Input".
    """
    points, seconds, size = finite(points, "points"), number(seconds, "seconds"), number(size, "size")
    if points.ndim != 2 or points.shape[1] != 2 or (motion is not None and points.shape != motion.points.shape):
        wanted = "(K, 2)" if motion is None else f"{motion.points.shape} as before"
        raise ValueError(f"points must be {wanted}, got shape {points.shape}")
    if not 1 / FASTEST <= size <= FASTEST:
        raise ValueError(f"size must be positive, {1 / FASTEST:g} to {FASTEST:g}, got {size}")
    if not abs(seconds) <= LATEST or (motion is not None and not seconds - motion.seconds >= SHORTEST):
        raise ValueError(f"seconds must be later than {'-inf' if motion is None else motion.seconds}, got {seconds}")
    if motion is None:
        return Motion(seconds, points, points, np.zeros_like(points))
    step = seconds - motion.seconds
    # v_i = v_{i-1} + a ((x_i - x_{i-1}) / T - v_{i-1})
    velocity = motion.velocity + share(how.speed_cutoff, step) * ((points - motion.seen) / step - motion.velocity)
    cutoff = how.min_cutoff + how.beta * np.linalg.norm(velocity, axis=1, keepdims=True) / size       # (K, 1)
    # y_i = y_{i-1} + a (x_i - y_{i-1})
    return Motion(seconds, points, motion.points + share(cutoff, step) * (points - motion.points), velocity)


def share(cutoff: Any, step: float) -> Any:
    """What a new value weighs in a low pass of ``cutoff`` Hz after ``step`` seconds: a = r / (1 + r), r = 2 pi f T."""
    r = 2 * np.pi * cutoff * step
    return r / (1 + r)


# ---- frames --------------------------------------------------------------------------------------------------------

class Video:
    """A video file or a camera, read once and frame by frame: iterating gives (seconds, picture (H, W, 3) RGB uint8).

    Args:
        source: the path of a file on this machine, or the number of a camera.

    A file's own times count where they go forward, else its frame rate; a camera's are those of the clock.
    ``fps`` is the frame rate, ``count`` how many frames a file says it has, None where it does not say.

    Raises:
        OSError: if there is no such file or no such camera.
        ValueError: if the file is no video, or source neither a path nor a number of at least 0. While iterating: if
            not one frame can be read.
    """

    def __init__(self, source: str | os.PathLike | int) -> None:
        self.camera = isinstance(source, Integral) and not isinstance(source, bool)
        if self.camera:
            if source < 0:
                raise ValueError(f"source must be the number of a camera, from 0, got {source}")
            self.name = f"camera {source}"
        elif isinstance(source, (str, os.PathLike)):
            self.name = os.fsdecode(source)
            if not Path(self.name).exists():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), self.name)
            if not Path(self.name).is_file():              # nor an address, which OpenCV would open
                raise OSError(errno.EINVAL, "it is there and is no ordinary file", self.name)
            with open(self.name, "rb"):                    # says why, if it may not be read
                pass
        else:
            raise ValueError(f"source must be the path of a video or the number of a camera, got {source!r}")
        self._capture = cv2.VideoCapture(int(source)) if self.camera else cv2.VideoCapture(self.name)
        if not self._capture.isOpened():
            if self.camera:
                raise OSError(errno.ENODEV, "it cannot be opened", self.name)
            raise ValueError(f"{self.name} must be a video that OpenCV reads")
        fps, count = (self._capture.get(what) for what in (cv2.CAP_PROP_FPS, cv2.CAP_PROP_FRAME_COUNT))
        self.fps = float(fps) if 0 < fps < 1000 else FPS                                # nan and 0 where it is unknown
        self.count = int(count) if 0 < count < 1 << 31 and not self.camera else None

    def __iter__(self) -> Iterator[tuple[float, NDArray[np.uint8]]]:
        start, last = time.monotonic(), None
        try:
            while True:
                there, picture = self._capture.read()
                if not there:
                    break
                seconds = time.monotonic() - start if self.camera else self._capture.get(cv2.CAP_PROP_POS_MSEC) / 1e3
                if last is not None and not seconds > last:
                    seconds = last + 1 / self.fps
                last = seconds if np.isfinite(seconds) else 0.0
                yield last, load_image(cv2.cvtColor(picture, cv2.COLOR_BGR2RGB) if picture.ndim == 3 else picture)
        finally:
            self.close()
        if last is None:
            raise ValueError(f"{self.name} must be a video with at least one frame that can be read")

    def close(self) -> None:
        """Let go of the file or camera; it is done at the end of the iteration too."""
        self._capture.release()


def _timed(frames: Any, fps: float) -> Iterable[tuple[float, NDArray[np.uint8]]]:
    """(seconds, picture) of every frame of what ``track`` takes."""
    if isinstance(frames, (Video, str, os.PathLike, Integral)):
        return frames if isinstance(frames, Video) else Video(frames)
    if isinstance(frames, (np.ndarray, torch.Tensor)) and (frames.ndim < 3 or frames.ndim == 3 and frames.shape[2] < 5):
        raise ValueError(f"frames must be several pictures, got an array of shape {tuple(frames.shape)}")
    if isinstance(frames, (bytes, bytearray, dict)) or not isinstance(frames, Iterable):
        raise ValueError("frames must be the path of a video, the number of a camera, a Video or pictures, got "
                         f"{type(frames).__name__}")
    if not isinstance(fps, Real) or not 1e-6 <= fps <= 1 / SHORTEST:
        raise ValueError(f"fps must be positive, 1e-6 to {1 / SHORTEST:g}, got {fps!r}")
    return _loaded(frames, float(fps))


def _loaded(frames: Iterable, fps: float) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    pictures = iter(frames)
    try:
        for i, picture in enumerate(pictures):
            try:
                yield i / fps, load_image(picture)
            except ValueError as error:
                raise ValueError(f"frames[{i}]: {error}") from error
    finally:
        if hasattr(pictures, "close"):       # a generator
            pictures.close()


# ---- following -----------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Tracked:
    """What is known of one frame."""

    index: int                     # from 0
    seconds: float                 # since the beginning of the video
    face: Alignment | None         # None where none is seen
    detected: bool                 # whether it was looked for in the whole picture, and found, in this frame


def track(frames: Any, model: str | os.PathLike | nn.Module = "hourglass", device: str | torch.device = "auto",
          smooth: bool | OneEuro = True, fps: float = FPS, retry: float = RETRY) -> Iterator[Tracked]:
    """Follow one face through a video, frame by frame, as they come.

    It is looked for in the whole picture; from then on the shipped hourglass reads it in the upright crop of its last
    landmarks, by one look, up to ``LOOKS`` where it has moved far; another model then looks once at the upright face.
    Where the face is lost, see ``settle``, it is looked for again in the same frame, and while there is none every
    ``retry`` seconds.

    Args:
        frames: path of a video, number of a camera, ``Video``, or any iterable of what ``load_image`` takes.
        model: as for ``align.align``.
        device: as for ``align.align``.
        smooth: whether landmarks and anchors are smoothed, by ``OneEuro()`` or the one that is given. Contours, and
            what else a network has to say, stay as they were read.
        fps: frames a second of an iterable.
        retry: seconds of the video; 0 tries every frame.

    Returns:
        one ``Tracked`` a frame. The box of its face is that of the landmarks, or of anchors and contours.

    Raises:
        OSError: if there is no such file or camera.
        ValueError: if an argument is of another kind, the file is no video, or, while iterating, a frame no picture.
    """
    return (seen for _, seen in follow(frames, model, device, smooth, fps, retry))


def follow(frames: Any, model: str | os.PathLike | nn.Module = "hourglass", device: str | torch.device = "auto",
           smooth: bool | OneEuro = True, fps: float = FPS, retry: float = RETRY
           ) -> Iterator[tuple[NDArray[np.uint8], Tracked]]:
    """As ``track``, with each frame's picture (H, W) or (H, W, 3) RGB before what is known of it."""
    if not isinstance(smooth, (bool, OneEuro)):
        raise ValueError(f"smooth must be True, False or a OneEuro, got {smooth!r}")
    if not isinstance(retry, Real) or not 0 <= retry < np.inf:
        raise ValueError(f"retry must be seconds, at least 0, got {retry!r}")
    network = model if isinstance(model, nn.Module) else prepared(model, str(device))
    looks.check_readable(network, lends=True)
    finder = prepared(FINDER, str(device))
    how = OneEuro() if smooth is True else smooth or None
    return _followed(_timed(frames, fps), network, finder, how, retry)


def _followed(frames: Iterable[tuple[float, NDArray]], network: nn.Module, finder: nn.Module, how: OneEuro | None,
              retry: float) -> Iterator[tuple[NDArray, Tracked]]:
    expected, motion = None, None                           # the crop where the face should be; the filter
    again = -np.inf                                         # when to search again
    stream = iter(frames)
    try:
        for index, (seconds, picture) in enumerate(stream):
            seen, detected = None, False
            if expected is not None:
                seen = settle(picture, expected, finder)
                if seen is None:
                    again = seconds
            if seen is None and seconds >= again:
                box = _search(picture, finder)
                again = seconds + retry
                seen = None if box is None else settle(picture, crop_matrix(box, finder.config.image_size), finder)
                detected, motion = seen is not None, None
            expected, face = None, None
            if seen is not None:
                expected, face = seen.following, _face(picture, seen, network, finder)
                if how is not None:
                    side = face_size(seen.following, finder.config.image_size)
                    motion = smoothed(motion, face.landmarks, seconds, side, how)
                    face = _moved_to(face, motion.points)
            yield picture, Tracked(index, seconds, face, detected)
    finally:
        stream.close()


def _search(picture: NDArray, finder: nn.Module) -> NDArray[np.float64] | None:
    """Box of the face that is to be followed; None where none is found."""
    try:
        return find(picture, finder).box
    except ValueError:
        return None


@dataclass(frozen=True)
class Settled:
    """A face that a network has read in a crop that fits it."""

    reading: Reading                        # of one crop, in its pixels
    matrix: NDArray[np.float64]             # (2, 3) from picture to that crop
    following: NDArray[np.float64]          # (2, 3) to the upright crop of what was read: for the next frame


def settle(picture: NDArray, matrix: NDArray, finder: nn.Module) -> Settled | None:
    """Look in a crop, and again in the upright crop of what was read, until both are one; None if the face is lost.

    It is lost

    - where the mean score is below ``LOW``: the network does not know where its landmarks are;
    - where ``LOOKS`` looks do not bring crop and face together, to a corner that moves by less than ``SETTLED`` sides
      of the crop: it has jumped further than a face does between frames;
    - where less than ``INSIDE`` of its box is on the picture, or that box is smaller than ``SMALLEST``.

    Args:
        picture: uint8 (H, W) or (H, W, 3).
        matrix: (2, 3) from picture to the crop where the face is expected.
        finder: reads landmarks; its scores are those that ``LOW`` was chosen for.
    """
    size = finder.config.image_size
    for _ in range(LOOKS):
        with looks.in_eval_mode(finder):
            reading = looks.look(picture, matrix[None], finder)
        straight = looks.upright(reading, size)
        if straight is None or reading.scores.mean() < LOW:
            return None
        points = geometry.transform(_array(reading.points[0]), geometry.invert(matrix))
        if not _on_picture(box_of(points), picture.shape[:2]):
            return None
        following = geometry.compose(straight, matrix)
        if moved(straight, size) < SETTLED:
            return Settled(reading, matrix, following)
        matrix = following
    return None


def moved(matrix: NDArray, size: int) -> float:
    """How far a map (2, 3) from crop to crop moves the corner that it moves most, in sides of the crop."""
    corners = np.array([[-0.5, -0.5], [size - 0.5, -0.5], [-0.5, size - 0.5], [size - 0.5, size - 0.5]])
    return float(np.linalg.norm(geometry.transform(corners, matrix) - corners, axis=1).max() / size)


def face_size(matrix: NDArray, size: int) -> float:
    """Longer side, in pixels of the picture, of the upright face that a crop of ``size`` pixels was made for."""
    # the crop shows 1 + MARGIN sides, enlarged by the root of the determinant
    return float(size / (1 + MARGIN) / np.sqrt(abs(np.linalg.det(matrix[:, :2]))))


def _on_picture(box: NDArray, shape: tuple[int, ...]) -> bool:
    """Whether ``INSIDE`` of a face's box, and one of at least ``SMALLEST`` pixels, is on a picture (H, W)."""
    height, width = shape
    sides = box[2:] - box[:2]
    # pixels cover [-0.5, width - 0.5]
    seen = np.minimum(box[2:], [width - 0.5, height - 0.5]) - np.maximum(box[:2], -0.5)
    return bool(sides.max() >= SMALLEST and (seen > 0).all() and seen.prod() >= INSIDE * sides.prod())


def _face(picture: NDArray, seen: Settled, network: nn.Module, finder: nn.Module) -> Alignment:
    """What the network reads where the finder has settled, in pixels of the picture."""
    reading, matrix = seen.reading, seen.matrix
    if network is not finder:
        # its crops may be of another size: pixel p becomes (p + 0.5) s - 0.5
        scale = network.config.image_size / finder.config.image_size
        matrix = geometry.compose(geometry.similarity(scale, 0.0, [(scale - 1) / 2] * 2), seen.following)
        with looks.in_eval_mode(network):
            reading = looks.look(picture, matrix[None], network)
    back = geometry.invert(matrix)
    anchors = None if reading.anchors is None else geometry.transform(_array(reading.anchors[0]), back)
    points = geometry.transform(_array(reading.points[0]), back) if anchors is None else anchors
    lines = reading.contours and {name: geometry.transform(c, back) for name, c in reading.contours[0].items()}
    return Alignment(points, _array(reading.scores[0]), _box(points, lines), anchors, lines,
                     None if reading.reliable is None else reading.reliable[0].cpu().numpy(),
                     None if reading.theta is None else _array(reading.theta[0]))


def _moved_to(face: Alignment, points: NDArray) -> Alignment:
    """The face with other landmarks."""
    return replace(face, landmarks=points, box=_box(points, face.contours),
                   anchors=None if face.anchors is None else points)


def _box(points: NDArray, lines: Mapping[str, NDArray] | None) -> NDArray[np.float64]:
    return box_of(np.concatenate([points, *(lines or {}).values()]))


def _array(values: Tensor) -> NDArray[np.float64]:
    return values.cpu().double().numpy()
