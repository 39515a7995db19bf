"""Looks at a picture: crops of it go into a network, what the network reads comes back in pixels of the picture.

Networks are those that answer as ``nets.reading`` says. Shapes: N crops, K landmarks. Matrices are (2, 3) maps from
picture to crop, points (x, y) in 0-based pixel centres.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from facealign_lite import geometry, markups
from facealign_lite.data import crop, crop_matrix, grey, level_matrix, mirrored, upright_matrix
from facealign_lite.nets import Reading

BATCH = 32            # crops a forward pass
# A network that straightens its crops itself stays in the crop of the box where the upright one would differ from it by
# less than this: a turn by 29 degrees, which such a network has learnt to undo, or half the size. Seen on 150 photos
# that the file of training photos lists, as they are and turned by 40 degrees: it is as good as never moving on where
# that is the better rule, and as always moving on where that is.
NEAR = 0.5
SLACK = 1e-3          # by which a score may leave [0, 1]: rounding of half precision


@contextmanager
def in_eval_mode(network: nn.Module) -> Iterator[nn.Module]:
    """The network in eval mode; afterwards every part of it is in the mode it was in."""
    training = [part for part in network.modules() if part.training]
    try:
        yield network.eval() if training else network      # else untouched: threads share it
    finally:
        for part in training:
            part.training = True


def check_readable(network: nn.Module, lends: bool = False) -> None:
    """Nothing, for a network that says how it is called and read, and, if ``lends``, gives its further inputs itself.

    Raises:
        ValueError: for another one.
    """
    wanted = ["config", "inputs", "read", *["lend"] * (lends and len(getattr(network, "inputs", ())) > 1)]
    if missing := [name for name in wanted if not hasattr(network, name)]:
        raise ValueError(f"model must have {', '.join(wanted)}, see nets.reading; {type(network).__name__} has no "
                         f"{' and no '.join(missing)}")
    inputs, config = network.inputs, network.config
    if isinstance(inputs, str) or not isinstance(inputs, Sequence) or len(inputs) == 0 or "image" not in inputs:
        raise ValueError(f"model must name its inputs, the image among them, got inputs {inputs!r}")
    size, channels = getattr(config, "image_size", None), getattr(config, "in_channels", None)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1 or channels not in (1, 3):
        raise ValueError(f"model must have a config with image_size, at least 1, and in_channels, 1 or 3, got {size!r} "
                         f"and {channels!r}")
    if lends and not any(True for _ in network.parameters()):
        raise ValueError(f"model must have parameters, {type(network).__name__} has none")


def checked(reading: Any, count: int) -> Reading:
    """What a network reads in ``count`` crops, if it is as ``nets.reading`` says.

    Raises:
        ValueError: for other shapes, NaN, infinity, or scores outside [0, 1].
    """
    if not isinstance(reading, Reading):
        raise ValueError(f"model must read a Reading, got {type(reading).__name__}")
    points, scores = reading.points, reading.scores
    if not isinstance(points, Tensor) or points.ndim != 3 or points.shape[::2] != (count, 2):
        raise ValueError(f"model must read points ({count}, K, 2), got {_form(points)}")
    if not isinstance(scores, Tensor) or scores.shape[:1] != (count,) or scores.ndim != 2:
        raise ValueError(f"model must read scores ({count}, K), got {_form(scores)}")
    for name, wanted in (("anchors", (count, len(markups.ANCHORS), 2)), ("theta", (count, 2, 3)),
                         ("reliable", (count, points.shape[1]))):
        value = getattr(reading, name)
        if value is not None and (not isinstance(value, Tensor) or value.shape != wanted):
            raise ValueError(f"model must read {name} {wanted}, got {_form(value)}")
    if reading.anchors is None and scores.shape != points.shape[:2]:
        raise ValueError(f"model must read a score of each of {points.shape[1]} points, got {_form(scores)}")
    for name in ("points", "scores", "anchors", "theta"):
        value = getattr(reading, name)
        if value is not None and not bool(torch.isfinite(value).all()):
            raise ValueError(f"model must read finite {name}, got NaN or infinity")
    if scores.numel() and not (scores.min() >= -SLACK and scores.max() <= 1 + SLACK):
        raise ValueError(f"model must read scores in [0, 1], got {scores.min():.4g} to {scores.max():.4g}")
    lines = reading.contours
    if lines is not None and (len(lines) != count or not all(isinstance(each, Mapping) for each in lines) or not all(
            isinstance(line, np.ndarray) and line.ndim == 2 and line.shape[1] == 2 and np.isfinite(line).all()
            for each in lines for line in each.values())):
        raise ValueError("model must read contours of each crop by name, finite arrays (M, 2)")
    return reading


def _form(value: Any) -> str:
    return f"{type(value).__name__} of shape {tuple(value.shape)}" if hasattr(value, "shape") else type(value).__name__


def as_seen(picture: NDArray, network: nn.Module) -> NDArray:
    """A grey or RGB picture with the channels that the network takes: (H, W) or (H, W, 3)."""
    if network.config.in_channels == 1:
        return grey(picture)
    return np.repeat(picture[..., None], 3, -1) if picture.ndim == 2 else picture


def cut(picture: NDArray, matrices: ArrayLike, network: nn.Module) -> Tensor:
    """N crops of one picture as the network takes them: (N, C, S, S) in [-0.5, 0.5], of its type, on its device."""
    size, picture, weights = network.config.image_size, as_seen(picture, network), next(iter(network.parameters()))
    crops = np.stack([crop(picture, matrix, size) for matrix in matrices])                # (N, S, S) or (N, S, S, 3)
    crops = crops[:, None] if crops.ndim == 3 else crops.transpose(0, 3, 1, 2)
    images = torch.from_numpy(np.ascontiguousarray(crops)).to(weights.device).float() / 255 - 0.5
    return images.to(weights.dtype).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def look(picture: NDArray, matrices: ArrayLike, network: nn.Module, mirror: bool = False,
         reference: tuple[Any, ArrayLike] | None = None) -> Reading:
    """What the network, in eval mode, reads in N crops of one picture, in crop pixels.

    Args:
        picture: uint8 (H, W) or (H, W, 3).
        matrices: (N, 2, 3) from picture to crop.
        mirror: the second half of the crops are the first in a mirror; both are read together, as N / 2 crops.
        reference: for networks that borrow, see ``align.align``.
    """
    return _read(cut(picture, matrices, network), network, mirror, reference)


def _read(images: Tensor, network: nn.Module, mirror: bool, reference: tuple[Any, ArrayLike] | None) -> Reading:
    lent = network.lend(images, reference) if len(network.inputs) > 1 else ()
    reading = network.read(network(images, *lent), mirrored=mirror)
    return checked(reading, len(images) // 2 if mirror else len(images))


def predict(picture: NDArray, matrices: NDArray, network: nn.Module) -> tuple[NDArray, NDArray]:
    """What the network sees in N crops of one picture, each read by itself.

    Args:
        matrices: (N, 2, 3) from picture to crop. A crop whose matrix mirrors is taken for one in a mirror.

    Returns:
        landmarks (N, K, 2) in pixels of the picture; scores (N, K).
    """
    with in_eval_mode(network):
        some = [look(picture, part, network) for part in np.split(matrices, range(BATCH, len(matrices), BATCH))]
    landmarks = np.concatenate([reading.points.cpu().double().numpy() for reading in some])
    scores = np.concatenate([reading.scores.cpu().double().numpy() for reading in some])
    for i, matrix in enumerate(matrices):
        landmarks[i] = geometry.transform(landmarks[i], geometry.invert(matrix))
        if np.linalg.det(matrix[:, :2]) < 0:
            order = list(markups.get(str(landmarks.shape[1])).flip if some[0].anchors is None else markups.ANCHOR_FLIP)
            landmarks[i], scores[i] = landmarks[i][order], scores[i][order]
    return landmarks, scores


def look_twice(picture: NDArray, box: ArrayLike, network: nn.Module, reference: tuple[Any, ArrayLike] | None = None,
               angle: float = 0.0, looks: int = 2) -> tuple[Reading, NDArray[np.float64]]:
    """``look_twice_each`` at one face."""
    return look_twice_each([picture], [box], network, reference, [angle], looks)[0]


@torch.inference_mode()
def look_twice_each(pictures: Sequence[NDArray], boxes: Sequence[ArrayLike], network: nn.Module,
                    reference: tuple[Any, ArrayLike] | None = None, angles: Sequence[float] | None = None,
                    looks: int = 2) -> list[tuple[Reading, NDArray[np.float64]]]:
    """Look in a box of each picture, then at the upright face just found, beside its mirror image; all at once.

    The second look is at the first crop, beside its mirror image, if the first tells no upright one, or the network
    straightens crops itself and that one is ``NEAR``. With ``looks`` 1 there is none.

    Args:
        pictures: of any sizes, one for each box.
        angles: radians clockwise by which each picture turns for the first look; None for upright.

    Returns:
        for each box the reading (of one crop), in pixels of the crop; the matrix (2, 3) from picture to that crop.
    """
    size, seen = network.config.image_size, [as_seen(picture, network) for picture in pictures]
    angles = [0.0] * len(seen) if angles is None else angles
    matrices = [crop_matrix(box, size, angle=angle) for box, angle in zip(boxes, angles)]

    def cuts(ways: list[NDArray]) -> list[Tensor]:
        return [cut(picture, way[None], network) for picture, way in zip(seen, ways)]

    with in_eval_mode(network):
        first = _read(torch.cat(cuts(matrices)), network, False, reference)
        if looks == 1:
            return [(single(first, i), matrix) for i, matrix in enumerate(matrices)]
        for i, matrix in enumerate(matrices):
            straight = upright(one := single(first, i), size)
            if straight is not None and (one.theta is None or np.linalg.norm(straight[:, :2] - np.eye(2), 2) > NEAR):
                matrices[i] = geometry.compose(straight, matrix)
        both = torch.cat(cuts(matrices) + cuts([mirrored(matrix, size) for matrix in matrices]))
        second = _read(both, network, True, reference)
        return [(single(second, i), matrix) for i, matrix in enumerate(matrices)]


def single(reading: Reading, index: int) -> Reading:
    """The reading of one of its crops."""
    parts = {field.name: getattr(reading, field.name) for field in fields(reading)}
    return Reading(**{name: part if part is None else part[index:index + 1] for name, part in parts.items()})


def upright(reading: Reading, size: int) -> NDArray[np.float64] | None:
    """The map from a crop to the upright crop of the face read in it; None if the reading does not tell where it ends.

    That is so where both eyes are one point, and where contours are read and one is missing: the anchors alone do not
    reach the chin.
    """
    if reading.contours is None:
        points = reading.points[0].cpu().double().numpy()
        eyes = [points[list(eye)].mean(0) for eye in markups.get(str(len(points))).normalizers["inter_ocular"]]
        return upright_matrix(points, size) if (eyes[0] != eyes[1]).any() else None
    lines, anchors = reading.contours[0], reading.anchors[0].cpu().double().numpy()
    right, left = anchors[:2].mean(0), anchors[2:4].mean(0)                     # the first four are corners of the eyes
    if len(lines) < len(markups.CONTOURS) or not (right != left).any():
        return None
    return level_matrix(np.concatenate([anchors, *lines.values()]), right, left, size)
