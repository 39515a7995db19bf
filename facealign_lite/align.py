"""The front door: an image in, the landmarks of its face out.

Shapes: N crops, K landmarks. Matrices are (2, 3) maps from image to crop, points (x, y) in 0-based pixel centres.
"""

import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn

from facealign_lite import geometry, heatmaps, markups, zoo
from facealign_lite.data import box_of, check_box, crop, crop_matrix, grey, load_image

MARGIN = 0.4          # room around a box: middle of what the networks are trained on
BATCH = 32            # crops a forward pass


@dataclass(frozen=True)
class Alignment:
    """The face of an image, in pixels of that image."""

    landmarks: NDArray[np.float64]                      # (K, 2)
    scores: NDArray[np.float64]                         # (K,) in [0, 1]: how much of each heatmap lies at its peak
    box: NDArray[np.float64]                            # (4,) left, top, right, bottom: as given, or as found
    anchors: NDArray[np.float64] | None = None          # (12, 2), from networks that predict them
    contours: dict[str, NDArray[np.float64]] | None = None


def align(image: Any, box: ArrayLike | None = None, model: str | os.PathLike | nn.Module = "hourglass",
          device: str | torch.device = "auto") -> Alignment:
    """Landmarks of one face.

    Args:
        image: path, PIL image, or array: grey, RGB or RGBA, 8 or 16 bit.
        box: (left, top, right, bottom) in pixels around the face from brows to chin, tight or up to a fifth too
            loose; None to look for the face.
        model: a name of ``zoo.names()``, a weights file, or a network.
        device: see ``zoo.pick_device``.

    Raises:
        ValueError: if the image is empty, the box is not on it, no face is found, or a name is unknown.
        OSError: if a file is missing or unreadable.
    """
    picture = load_image(image)
    box = None if box is None else check_on_image(box, picture)
    network = model.eval() if isinstance(model, nn.Module) else _network(model, str(device))
    picture = grey(picture) if network.config.in_channels == 1 else picture
    box = find(picture, network) if box is None else box
    landmarks, scores = refine(picture, box, network)
    return Alignment(landmarks, scores, box)


def check_on_image(box: ArrayLike, picture: NDArray) -> NDArray[np.float64]:
    """The box as floats, if a face of that box can be on the picture.

    Raises:
        ValueError: if its centre is not on the picture, or it is below 2 pixels or above 4 pictures wide.
    """
    box = check_box(box)
    height, width = picture.shape[:2]
    centre, side = (box[:2] + box[2:]) / 2, max(box[2] - box[0], box[3] - box[1])
    if not (-0.5 <= centre[0] <= width - 0.5 and -0.5 <= centre[1] <= height - 0.5):
        raise ValueError(f"box must have its centre on the image of {width} x {height} pixels, got {box.tolist()}")
    if not 2 <= side <= 4 * max(width, height):
        raise ValueError(f"box must be 2 to {4 * max(width, height)} pixels wide or high on an image of "
                         f"{width} x {height}, got {box.tolist()}")
    return box


def refine(picture: NDArray, box: ArrayLike, network: nn.Module) -> tuple[NDArray, NDArray]:
    """Landmarks in a box: a first look, then a second at the upright face just found, beside its mirror image.

    Returns:
        landmarks (K, 2) in pixels of the picture; scores (K,).
    """
    size = network.config.image_size
    first, _ = predict(picture, crop_matrix(box, size, MARGIN)[None], network)
    upright = upright_matrix(first[0], size)
    landmarks, scores = predict(picture, np.stack([upright, mirrored(upright, size)]), network)
    return landmarks.mean(0), scores.mean(0)


@torch.inference_mode()
def predict(picture: NDArray, matrices: NDArray, network: nn.Module) -> tuple[NDArray, NDArray]:
    """What the network sees in N crops of one picture, a mirrored crop included wherever its matrix says so.

    Args:
        picture: uint8 (H, W), or (H, W, 3) where the network reads colour.
        matrices: (N, 2, 3) from picture to crop.

    Returns:
        landmarks (N, K, 2) in pixels of the picture; scores (N, K).
    """
    size, device = network.config.image_size, next(network.parameters()).device
    landmarks, scores = [], []
    for some in np.split(matrices, range(BATCH, len(matrices), BATCH)):
        crops = np.stack([crop(picture, matrix, size) for matrix in some])           # (N, S, S) or (N, S, S, 3)
        crops = crops[:, None] if crops.ndim == 3 else crops.transpose(0, 3, 1, 2)
        images = torch.from_numpy(np.ascontiguousarray(crops)).to(device).float() / 255 - 0.5
        logits = network(images.contiguous(memory_format=torch.channels_last))[-1].float().cpu()
        points = heatmaps.to_image(heatmaps.decode(logits, "soft_argmax"), logits.shape[-2:], size)
        landmarks.append(np.asarray(points, np.float64))
        scores.append(np.asarray(heatmaps.peak(logits), np.float64))
    landmarks, scores = np.concatenate(landmarks), np.concatenate(scores)
    order = list(markups.get(str(network.config.landmarks)).flip)
    for i, matrix in enumerate(matrices):
        landmarks[i] = geometry.transform(landmarks[i], geometry.invert(matrix))
        if np.linalg.det(matrix[:, :2]) < 0:                                         # a mirrored crop
            landmarks[i], scores[i] = landmarks[i][order], scores[i][order]
    return landmarks, scores


def upright_matrix(landmarks: NDArray, size: int, margin: float = MARGIN) -> NDArray[np.float64]:
    """The crop around (K, 2) landmarks that holds the eye line level."""
    right, left = markups.get(str(len(landmarks))).normalizers["inter_ocular"]
    x, y = landmarks[list(left)].mean(0) - landmarks[list(right)].mean(0)
    level = np.array([[x, y, 0.0], [-y, x, 0.0]]) / np.hypot(x, y)                   # turns (x, y) to (1, 0)
    return geometry.compose(crop_matrix(box_of(geometry.transform(landmarks, level)), size, margin), level)


def mirrored(matrix: NDArray, size: int) -> NDArray[np.float64]:
    """The same crop seen in a mirror."""
    return geometry.compose(np.array([[-1.0, 0.0, size - 1.0], [0.0, 1.0, 0.0]]), matrix)


@lru_cache(maxsize=4)
def _network(model: str, device: str) -> nn.Module:
    return zoo.load(model, device)
