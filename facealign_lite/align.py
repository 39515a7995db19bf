"""The front door: an image in, the landmarks, or the anchors and contours, of its face or faces out.

Shapes: K landmarks. Points are (x, y) in 0-based pixel centres.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from facealign_lite import geometry, zoo
from facealign_lite.arrays import number
from facealign_lite.data import check_box, load_image
from facealign_lite.detection import Finding, find_all, some, well_seen
from facealign_lite.looks import BATCH, check_readable, look_twice_each
from facealign_lite.nets import Reading, folded
from facealign_lite.pose import HeadPose, head_pose

FINDER = "hourglass"      # whatever network reads the face, this one judges where it is: FACE is of its scores
END = object()


@dataclass(frozen=True)
class Alignment:
    """A face of an image, in pixels of that image.

    Low scores are to be taken at their word: where their mean is below about 0.3, the landmarks are often wrong (a face
    on its side whose box was given, a hidden face, none at all).
    """

    landmarks: NDArray[np.float64]                      # (K, 2); the anchors, from networks that predict those
    scores: NDArray[np.float64]                         # (K,) in [0, 1]: how sure the network is of each
    box: NDArray[np.float64]                            # (4,) left, top, right, bottom: as given, or as found
    anchors: NDArray[np.float64] | None = None          # (12, 2), from networks that predict them
    contours: dict[str, NDArray[np.float64]] | None = None   # (M, 2) by name of ``markups.CONTOURS``, those found
    reliable: NDArray[np.bool_] | None = None           # (K,) from networks that rebuild what they do not see
    theta: NDArray[np.float64] | None = None            # (2, 3) by which such a network straightened its last crop
    faces: int | None = None                            # seen in the image; None where the box was given

    def pose(self) -> HeadPose:
        """Yaw, pitch and roll, see ``pose.head_pose``; ValueError where there are no 68 landmarks of a face."""
        if self.anchors is not None:
            raise ValueError("model must be one that reads landmarks for a pose, as hourglass does, got one of anchors")
        return head_pose(self.landmarks, str(len(self.landmarks)))


def align(image: Any, box: ArrayLike | None = None, model: str | os.PathLike | nn.Module = "hourglass",
          device: str | torch.device = "auto", reference: tuple[Any, ArrayLike] | None = None,
          looks: int = 2) -> Alignment:
    """Landmarks of one face, or its anchors and contours with ``model="acenet"`` or ``"acenet_weak"``.

    Args:
        image: path, PIL image, or array: grey, RGB or RGBA, 8 or 16 bit.
        box: (left, top, right, bottom) in pixels around the face from brows to chin, tight or up to a fifth too
            loose, the face within 30 degrees of upright; None to look for the largest well-seen face, turned as it may
            be. ``detection`` looks for it, with the shipped hourglass as judge for all networks.
        model: a name of ``zoo.names()``, a weights file, or a network as described in ``nets.reading``.
        device: see ``zoo.pick_device``; a network that is given stays where it is.
        reference: for ``model="rht"``: another photo and the landmarks (K, 2) of its face; None: the most correlated
            of the shipped faces. The shipped network takes nothing from it: see results/rht_lenders.json.
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
    network = _readable(model, device)
    if reference is not None and len(network.inputs) < 2:
        raise ValueError(f"reference must be None for a network that borrows from none, got {type(network).__name__}")
    return _read([(picture, *_place(picture, box, device))], network, reference, looks)[0]


def align_all(image: Any, max_faces: int | None = None, min_size: float | None = None,
              model: str | os.PathLike | nn.Module = "hourglass", device: str | torch.device = "auto"
              ) -> list[Alignment]:
    """Every face of an image, the largest first; an empty list if there is none.

    Args:
        image, model, device: see ``align``.
        max_faces: keep this many, the largest; ``faces`` of each still counts all.
        min_size: longer side, in pixels, of the smallest box (brows to chin) that is looked for; None: see
            ``detection.find_all``.

    Raises:
        ValueError, OSError: as ``align``, and if max_faces or min_size is not positive.
    """
    if max_faces is not None and not (isinstance(max_faces, int) and max_faces > 0):
        raise ValueError(f"max_faces must be a positive whole number or None, got {max_faces!r}")
    if min_size is not None and not (number(min_size, "min_size") > 0):
        raise ValueError(f"min_size must be a positive number of pixels or None, got {min_size!r}")
    picture, network = load_image(image), _readable(model, device)
    faces = find_all(picture, prepared(FINDER, str(device)), min_size)
    places = [(picture, face, len(faces)) for face in faces[:max_faces]]
    return [face for i in range(0, len(places), BATCH) for face in _read(places[i:i + BATCH], network)]


def align_many(images: Iterable[Any], boxes: Iterable[ArrayLike | None] | None = None, batch_size: int = 32,
               model: str | os.PathLike | nn.Module = "hourglass", device: str | torch.device = "auto"
               ) -> Iterator[Alignment | ValueError | OSError]:
    """One face of each of many images, of any sizes, as ``align`` finds it, with a few forward passes for a batch.

    Args:
        images: see ``align``; taken up a batch at a time.
        boxes: one for each image, or None where the face is to be looked for; None for that everywhere.
        batch_size: images at a time.
        model, device: see ``align``.

    Yields:
        for each image, in order, what ``align`` returns (the points differ by
        some thousandths of a pixel, as a batch rounds otherwise), or the ValueError or OSError
        that it raises for that image; the others go on.

    Raises:
        ValueError: at once, for a batch size that is not positive, an unknown model or device, or another number of
            boxes than of images (if one of them has no length, where it ends).
        OSError: at once, if a weights file is missing.
    """
    if not (isinstance(batch_size, int) and batch_size > 0):
        raise ValueError(f"batch_size must be a positive whole number, got {batch_size!r}")
    if boxes is not None and all(hasattr(given, "__len__") for given in (images, boxes)) and len(images) != len(boxes):
        raise ValueError(f"boxes must be as many as images, got {len(boxes)} for {len(images)}")
    return _each(images, boxes, batch_size, _readable(model, device), device)


def _each(images: Iterable[Any], boxes: Iterable | None, batch_size: int, network: nn.Module,
          device: str | torch.device) -> Iterator[Alignment | ValueError | OSError]:
    images, boxes = iter(images), None if boxes is None else iter(boxes)
    while batch := list(islice(images, batch_size)):
        given = [None] * len(batch) if boxes is None else list(islice(boxes, len(batch)))
        if len(given) < len(batch):
            raise ValueError("boxes must be as many as images, got fewer")
        results: list = []
        for image, box in zip(batch, given):
            try:
                picture = load_image(image)
                results.append((picture, *_place(picture, box, device)))
            except (ValueError, OSError) as error:
                results.append(error)
        read = iter(_read([result for result in results if isinstance(result, tuple)], network))
        yield from (next(read) if isinstance(result, tuple) else result for result in results)
    if boxes is not None and next(boxes, END) is not END:
        raise ValueError("boxes must be as many as images, got more")


def _place(picture: NDArray, box: ArrayLike | None, device: str | torch.device) -> tuple[Finding, int | None]:
    """The face to look at, and how many there are, unless a box is given."""
    if box is not None:
        return Finding(check_on_image(box, picture), 1.0), None
    faces = some(find_all(picture, prepared(FINDER, str(device))), picture)
    return well_seen(faces), len(faces)


def _read(places: Sequence[tuple[NDArray, Finding, int | None]], network: nn.Module,
          reference: tuple[Any, ArrayLike] | None = None, looks: int = 2) -> list[Alignment]:
    """Alignments of faces of pictures, looked at together."""
    if not places:
        return []
    pictures, faces, counts = zip(*places)
    seen = look_twice_each(pictures, [f.box for f in faces], network, reference, [f.angle for f in faces], looks)
    return [_alignment(reading, matrix, face.box, count) for (reading, matrix), face, count in zip(seen, faces, counts)]


def _alignment(reading: Reading, matrix: NDArray, box: NDArray, count: int | None) -> Alignment:
    """What was read in a crop, in pixels of the picture."""
    back = geometry.invert(matrix)

    def in_picture(points: Tensor | None) -> NDArray | None:
        return None if points is None else geometry.transform(_array(points[0]), back)

    anchors = in_picture(reading.anchors)
    lines = reading.contours and {name: geometry.transform(c, back) for name, c in reading.contours[0].items()}
    return Alignment(in_picture(reading.points) if anchors is None else anchors, _array(reading.scores[0]), box,
                     anchors, lines, None if reading.reliable is None else reading.reliable[0].cpu().numpy(),
                     None if reading.theta is None else _array(reading.theta[0]), count)


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
    return values.cpu().double().numpy()


def _readable(model: str | os.PathLike | nn.Module, device: str | torch.device) -> nn.Module:
    if not isinstance(model, (str, os.PathLike, nn.Module)):
        raise ValueError(f"model must be a name, a weights file or a network, got {type(model).__name__}")
    network = model if isinstance(model, nn.Module) else prepared(model, str(device))
    check_readable(network, lends=True)
    return network


def prepared(model: str | os.PathLike, device: str) -> nn.Module:
    """The network of that name or file, folded; from memory unless the file is another by now. Not to be changed."""
    if not isinstance(model, (str, os.PathLike)):
        return zoo.load(model, device)                     # which says what it wants
    if isinstance(model, os.PathLike) or model.endswith(".safetensors"):
        model = path = Path(model).absolute()
    else:
        path = zoo.FOLDER / f"{model}.safetensors"
    state = path.stat() if path.is_file() else None
    return _loaded(model, device, state and (state.st_mtime_ns, state.st_size))


@lru_cache(maxsize=8)     # more than are shipped, or reading with each in turn would load one in every call
def _loaded(model: str | Path, device: str, state: tuple[int, int] | None) -> nn.Module:
    # with weights laid out as the crops are, nothing is laid out anew in every call: a quarter less time on a CPU
    return folded(zoo.load(model, device)).to(memory_format=torch.channels_last)
