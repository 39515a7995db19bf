"""The front door: an image in, the landmarks, or the anchors and contours, of its face out.

Shapes: K landmarks. Points are (x, y) in 0-based pixel centres.
"""

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from facealign_lite import geometry, zoo
from facealign_lite.data import check_box, load_image
from facealign_lite.detection import find
from facealign_lite.looks import check_readable, look_twice

FINDER = "hourglass"      # whatever network reads the face, this one looks for it: its scores are those of FACE


@dataclass(frozen=True)
class Alignment:
    """The face of an image, in pixels of that image."""

    landmarks: NDArray[np.float64]                      # (K, 2); the anchors, from networks that predict those
    scores: NDArray[np.float64]                         # (K,) in [0, 1]: how sure the network is of each
    box: NDArray[np.float64]                            # (4,) left, top, right, bottom: as given, or as found
    anchors: NDArray[np.float64] | None = None          # (12, 2), from networks that predict them
    contours: dict[str, NDArray[np.float64]] | None = None   # (M, 2) by name of ``markups.CONTOURS``, those found
    reliable: NDArray[np.bool_] | None = None           # (K,) from networks that rebuild what they do not see
    theta: NDArray[np.float64] | None = None            # (2, 3) by which such a network straightened its last crop


def align(image: Any, box: ArrayLike | None = None, model: str | os.PathLike | nn.Module = "hourglass",
          device: str | torch.device = "auto", reference: tuple[Any, ArrayLike] | None = None,
          looks: int = 2) -> Alignment:
    """Landmarks of one face, or its anchors and contours with ``model="acenet"``.

    Args:
        image: path, PIL image, or array: grey, RGB or RGBA, 8 or 16 bit.
        box: (left, top, right, bottom) in pixels around the face from brows to chin, tight or up to a fifth too
            loose; None to look for the face, which the shipped hourglass does for all networks.
        model: a name of ``zoo.names()``, a weights file, or a network as described in ``nets.reading``.
        device: see ``zoo.pick_device``; a network that is given stays where it is.
        reference: for ``model="rht"``: another photo and the landmarks (K, 2) of its face; None: the most correlated
            of the shipped faces.
        looks: 2, the second at the upright face that the first has found, beside its mirror image; 1 for a third of the
            time and less accuracy.

    Raises:
        ValueError: if the image is empty, the box is not on it, no face is found, a name is unknown, the network has no
            use for a reference, or looks is neither 1 nor 2.
        OSError: if a file is missing or unreadable.
    """
    if isinstance(looks, bool) or looks not in (1, 2):
        raise ValueError(f"looks must be 1 or 2, got {looks!r}")
    picture = load_image(image)
    box = None if box is None else check_on_image(box, picture)
    network = model if isinstance(model, nn.Module) else _network(model, str(device))
    check_readable(network, lends=True)
    if reference is not None and len(network.inputs) < 2:
        raise ValueError(f"reference must be None for a network that borrows from none, got {type(network).__name__}")
    box = find(picture, _network(FINDER, str(device))) if box is None else box
    reading, matrix = look_twice(picture, box, network, reference, looks)
    back = geometry.invert(matrix)

    def in_picture(points: Tensor | None) -> NDArray | None:
        return None if points is None else geometry.transform(_array(points[0]), back)

    anchors = in_picture(reading.anchors)
    lines = reading.contours and {name: geometry.transform(c, back) for name, c in reading.contours[0].items()}
    return Alignment(in_picture(reading.points) if anchors is None else anchors, _array(reading.scores[0]), box,
                     anchors, lines, None if reading.reliable is None else reading.reliable[0].cpu().numpy(),
                     None if reading.theta is None else _array(reading.theta[0]))


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


def _array(values: Tensor) -> NDArray[np.float64]:
    return values.double().cpu().numpy()


def _network(model: str | os.PathLike, device: str) -> nn.Module:
    """The network of that name or file, from memory unless the file is another by now."""
    if not isinstance(model, os.PathLike) and not model.endswith(".safetensors"):
        return _loaded(model, device, None)
    path = Path(model).absolute()
    state = path.stat() if path.is_file() else None
    return _loaded(path, device, state and (state.st_mtime_ns, state.st_size))


@lru_cache(maxsize=4)
def _loaded(model: str | Path, device: str, state: tuple[int, int] | None) -> nn.Module:
    # with weights laid out as the crops are, nothing is laid out anew in every call: half the time on a CPU
    return zoo.load(model, device).to(memory_format=torch.channels_last)
