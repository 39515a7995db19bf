"""The front door: an image in, the landmarks, or the anchors and contours, of its face out.

Shapes: N crops, K landmarks. Matrices are (2, 3) maps from image to crop, points (x, y) in 0-based pixel centres.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from facealign_lite import acenet, geometry, heatmaps, markups, msm, rht, scpan, zoo
from facealign_lite.acenet import AceNet
from facealign_lite.data import box_of, check_box, crop, crop_matrix, grey, load_image
from facealign_lite.msm import Msm
from facealign_lite.rht import References, Rht
from facealign_lite.scpan import Scpan

MARGIN = 0.3          # room around a box, as in training
BATCH = 32            # crops a forward pass

# crops (N, C, S, S) -> a reference for each, (N, C, S/2, S/2), and its landmarks (N, K, 2)
Lender = Callable[[Tensor], tuple[Tensor, Tensor]]

# Finding a face; the figures behind these numbers are in results/face_finding.json.
FACE = 0.2            # faceness from which a crop counts as a face
APART = 0.06          # readings of a turned crop so far apart, in sides of the face, speak against a face for certain
SEARCHED = 640        # longest side of the picture that is searched, pixels
CASCADE = 320         # the same for the cascade, which costs time by the pixel
SIDES = (0.85, 0.55, 0.35, 0.23)     # of the boxes the network tries itself, in shorter picture sides
STRIDE = 0.45         # between them, in box sides
TURNS = (-0.8, 0.8)                  # angles of the two largest, radians: one look reaches about 0.6 to each side
FINALISTS = 4         # crops that get a second look


@dataclass(frozen=True)
class Alignment:
    """The face of an image, in pixels of that image."""

    landmarks: NDArray[np.float64]                      # (K, 2); the anchors, from networks that predict those
    scores: NDArray[np.float64]                         # (K,) in [0, 1]: how much of each heatmap lies at its peak, or
                                                        # how hot an anchor's peak is
    box: NDArray[np.float64]                            # (4,) left, top, right, bottom: as given, or as found
    anchors: NDArray[np.float64] | None = None          # (12, 2), from networks that predict them
    contours: dict[str, NDArray[np.float64]] | None = None   # (M, 2) by name of ``markups.CONTOURS``, those found


def align(image: Any, box: ArrayLike | None = None, model: str | os.PathLike | nn.Module = "hourglass",
          device: str | torch.device = "auto", reference: tuple[Any, ArrayLike] | None = None) -> Alignment:
    """Landmarks of one face, or its anchors and contours with ``model="acenet"``.

    Args:
        image: path, PIL image, or array: grey, RGB or RGBA, 8 or 16 bit.
        box: (left, top, right, bottom) in pixels around the face from brows to chin, tight or up to a fifth too
            loose; None to look for the face (the hourglass does, for networks that have no 68 landmarks).
        model: a name of ``zoo.names()``, a weights file, or a network.
        device: see ``zoo.pick_device``.
        reference: for ``model="rht"``: another photo and the landmarks (K, 2) of its face; None: the most correlated
            of the shipped faces.

    Raises:
        ValueError: if the image is empty, the box is not on it, no face is found, a name is unknown, or the network
            has no use for a reference.
        OSError: if a file is missing or unreadable.
    """
    picture = load_image(image)
    box = None if box is None else check_on_image(box, picture)
    network = model.eval() if isinstance(model, nn.Module) else _network(model, str(device))
    picture = grey(picture) if network.config.in_channels == 1 else picture
    borrows = isinstance(network, Rht) and network.transformer is not None
    if reference is not None and not borrows:
        raise ValueError(f"reference must be None for a network that borrows from none, got {type(network).__name__}")
    if isinstance(network, Rht):
        lend = lender(network, reference) if borrows else None
        box = find(grey(picture), _network("hourglass", str(device))) if box is None else box
        landmarks, scores = refine(picture, box, network, lend)
        return Alignment(landmarks, scores, box)
    if isinstance(network, Msm):
        box = find(grey(picture), _network("hourglass", str(device))) if box is None else box
        landmarks, scores = rebuild(picture, box, network)
        return Alignment(landmarks, scores, box)
    if isinstance(network, AceNet):
        box = find(grey(picture), _network("hourglass", str(device))) if box is None else box
        anchors, contours, scores = trace(picture, box, network)
        return Alignment(anchors, scores, box, anchors, contours)
    if box is None:                                                # whoever gives logits can tell a face
        box = find(grey(picture), _network("hourglass", str(device))) if isinstance(network, Scpan) else find(
            picture, network)
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


def refine(picture: NDArray, box: ArrayLike, network: nn.Module, lend: Lender | None = None
           ) -> tuple[NDArray, NDArray]:
    """Landmarks in a box: a first look, then a second at the upright face just found, beside its mirror image.

    Args:
        lend: a reference for each crop, for networks that borrow.

    Returns:
        landmarks (K, 2) in pixels of the picture; scores (K,).
    """
    size = network.config.image_size
    first, _ = predict(picture, crop_matrix(box, size, MARGIN)[None], network, lend)
    upright = upright_matrix(first[0], size)
    landmarks, scores = predict(picture, np.stack([upright, mirrored(upright, size)]), network, lend)
    return landmarks.mean(0), scores.mean(0)


def trace(picture: NDArray, box: ArrayLike, network: AceNet) -> tuple[NDArray, dict[str, NDArray], NDArray]:
    """Anchors and contours in a box: a first look, then a second at the upright face, beside its mirror image.

    Returns:
        anchors (12, 2) and contours {name: (M, 2)}, pixels of the picture; scores (12,) of the anchors.
    """
    size, half = network.config.image_size, network.config.heatmap_size
    matrix = crop_matrix(box, size, MARGIN)
    anchors, contours = acenet.read(_maps(picture, matrix[None], network)[0])
    if len(contours) == len(markups.CONTOURS):                     # else what was seen does not tell the face's size
        seen = geometry.transform(heatmaps.to_image(np.concatenate([anchors, *contours.values()]), half, size),
                                  geometry.invert(matrix))
        matrix = _upright(seen, seen[:2].mean(0), seen[2:4].mean(0), size)      # the first four are eye corners
    straight, mirror = _maps(picture, np.stack([matrix, mirrored(matrix, size)]), network)
    order = [*markups.ANCHOR_FLIP, *(len(anchors) + i for i in markups.CONTOUR_FLIP)]
    maps = (straight + mirror.flip(-1)[order]) / 2
    anchors, contours = acenet.read(maps)
    back = geometry.invert(matrix)
    contours = {name: geometry.transform(heatmaps.to_image(line, half, size), back) for name, line in contours.items()}
    scores = maps[:len(anchors)].amax((1, 2)).clamp(0, 1).double().numpy()
    return geometry.transform(heatmaps.to_image(anchors, half, size), back), contours, scores


def rebuild(picture: NDArray, box: ArrayLike, network: Msm, **options: Any) -> tuple[NDArray, NDArray]:
    """Landmarks in a rough box: straightened, looked at, and where the scores are low rebuilt from exemplars.

    Args:
        options: of ``msm.run``.

    Returns:
        landmarks (K, 2) in pixels of the picture; scores (K,), shares of the best.
    """
    matrix = crop_matrix(box, network.config.image_size, MARGIN)
    found = msm.run(network, _crops(picture, matrix[None], network), **options)
    return geometry.transform(found.landmarks[0].numpy(), geometry.invert(matrix)), found.scores[0].numpy()


def lender(network: Rht, reference: tuple[Any, ArrayLike] | None = None) -> Lender:
    """Who lends to each crop: the given face (photo, landmarks) to all, or the most correlated of the shipped ones.

    Raises:
        ValueError: if the landmarks are not (K, 2) or not finite, or the shipped faces have other landmarks.
    """
    half, colour = network.config.heatmap_size, network.config.in_channels == 3
    if reference is None:
        faces, bank = _shipped()
        if faces.landmarks.shape[1] != network.config.landmarks:
            raise ValueError(f"reference must be given to a network of {network.config.landmarks} landmarks: the "
                             f"shipped faces have {faces.landmarks.shape[1]}")
    else:
        photo, landmarks, bank = load_image(reference[0]), np.asarray(reference[1], np.float64), None
        if landmarks.shape != (network.config.landmarks, 2):
            raise ValueError(f"reference must be (photo, landmarks ({network.config.landmarks}, 2)), got landmarks of "
                             f"shape {landmarks.shape}")
        matrix = upright_matrix(landmarks, half)
        shown = crop(photo if colour else grey(photo), matrix, half)
        shown = torch.from_numpy(shown).float().view(half, half, -1).permute(2, 0, 1)[None] / 255 - 0.5
        faces = References(shown, torch.from_numpy(geometry.transform(landmarks, matrix)).float()[None])
    ready = faces.resized(half)

    def lend(crops: Tensor) -> tuple[Tensor, Tensor]:
        which = np.zeros(len(crops), int) if bank is None else rht.answer(bank, crops)
        some = ready[which]
        return some.images.expand(-1, network.config.in_channels, -1, -1).to(crops), some.landmarks.to(crops)
    return lend


@lru_cache(maxsize=1)
def _shipped() -> tuple[References, rht.ReferenceBank]:
    faces = References.shipped()
    return faces, faces.bank()


@torch.inference_mode()
def _answer(picture: NDArray, matrices: NDArray, network: nn.Module, lend: Lender | None = None) -> Any:
    """What the network gives for N crops of one picture."""
    images = _crops(picture, matrices, network)
    return network(images, *(lend(images) if lend else ()))


def _maps(picture: NDArray, matrices: NDArray, network: nn.Module, lend: Lender | None = None) -> Tensor:
    """The last maps of the network, (N, K, H, W)."""
    return _answer(picture, matrices, network, lend)[-1].float().cpu()


def _crops(picture: NDArray, matrices: NDArray, network: nn.Module) -> Tensor:
    """N crops of one picture as a network takes them, (N, C, S, S)."""
    size, device = network.config.image_size, next(network.parameters()).device
    crops = np.stack([crop(picture, matrix, size) for matrix in matrices])                # (N, S, S) or (N, S, S, 3)
    crops = crops[:, None] if crops.ndim == 3 else crops.transpose(0, 3, 1, 2)
    images = torch.from_numpy(np.ascontiguousarray(crops)).to(device).float() / 255 - 0.5
    return images.contiguous(memory_format=torch.channels_last)


def predict(picture: NDArray, matrices: NDArray, network: nn.Module, lend: Lender | None = None
            ) -> tuple[NDArray, NDArray]:
    """What the network sees in N crops of one picture, a mirrored crop included wherever its matrix says so.

    Args:
        picture: uint8 (H, W), or (H, W, 3) where the network reads colour.
        matrices: (N, 2, 3) from picture to crop.
        lend: a reference for each crop, for networks that borrow.

    Returns:
        landmarks (N, K, 2) in pixels of the picture; scores (N, K).
    """
    size, landmarks, scores = network.config.image_size, [], []
    for some in np.split(matrices, range(BATCH, len(matrices), BATCH)):
        points, sure, shape = _read(picture, some, network, lend)
        landmarks.append(np.asarray(heatmaps.to_image(points, shape, size), np.float64))
        scores.append(np.asarray(sure, np.float64))
    landmarks, scores = np.concatenate(landmarks), np.concatenate(scores)
    order = list(markups.get(str(network.config.landmarks)).flip)
    for i, matrix in enumerate(matrices):
        landmarks[i] = geometry.transform(landmarks[i], geometry.invert(matrix))
        if np.linalg.det(matrix[:, :2]) < 0:                                         # a mirrored crop
            landmarks[i], scores[i] = landmarks[i][order], scores[i][order]
    return landmarks, scores


def _read(picture: NDArray, matrices: NDArray, network: nn.Module, lend: Lender | None
          ) -> tuple[Tensor, Tensor, tuple[int, int]]:
    """Landmarks (N, K, 2) in pixels of the maps, scores (N, K), and the maps' (height, width)."""
    if isinstance(network, Scpan):
        said = _answer(picture, matrices, network)
        points, sure = scpan.read(said, network.config)
        return points.cpu(), sure.cpu(), tuple(said.offsets.shape[-2:])
    maps = _maps(picture, matrices, network, lend)
    shape = tuple(maps.shape[-2:])
    if isinstance(network, Rht):                                                      # heat; others give logits
        return heatmaps.decode(maps, "center_of_mass"), maps.amax((-2, -1)).clamp(0, 1), shape
    return heatmaps.decode(maps, "soft_argmax"), heatmaps.peak(maps), shape


def find(picture: NDArray, network: nn.Module) -> NDArray[np.float64]:
    """Box of the most face-like face of a picture, from a thirteenth of its longer side upwards.

    A cascade (LBP features, shipped by scikit-image) proposes boxes and the network itself judges them; where it
    judges none to be a face, it looks on a grid of boxes of its own, upright and then turned.

    Raises:
        ValueError: if there is none.
    """
    scale = min(1.0, SEARCHED / max(picture.shape[:2]))
    small = picture if scale == 1 else cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    size, (height, width) = network.config.image_size, small.shape[:2]
    tries = [(0.0, proposals(small)),
             *((0.0, grid(height, width, side)) for side in SIDES),
             *((angle, grid(height, width, side)) for side in SIDES[:2] for angle in TURNS)]
    for angle, boxes in tries:
        if len(boxes) == 0:
            continue
        faceness, box = best_face(small, np.stack([crop_matrix(b, size, MARGIN, angle) for b in boxes]), network)
        if faceness > FACE:
            return (box + 0.5) / scale - 0.5
    raise ValueError(f"no face was found in the image of {picture.shape[1]} x {picture.shape[0]} pixels; give its box, "
                     "(left, top, right, bottom) from brows to chin, or a picture in which the face is larger")


def best_face(picture: NDArray, matrices: NDArray, network: nn.Module) -> tuple[float, NDArray]:
    """The most face-like of N crops, after two more looks at the best few.

    Returns:
        faceness: mean score times agreement, in [0, 1]. On what is no face the heat is spread, and a turned crop is
            read differently: agreement is 1 - (mean distance of those readings) / (``APART`` of the face's side).
        box: (4,) of its landmarks.
    """
    size = network.config.image_size
    landmarks, scores = predict(picture, matrices, network)
    best, box = 0.0, np.zeros(4)
    for i in np.argsort(-scores.mean(1))[:FINALISTS]:
        points, confidence = landmarks[i], scores[i]
        for turns in ((), (0.3, -0.3)):                                               # the last look is the judge
            side = np.ptp(points, axis=0).max()
            if side < 4 or confidence.mean() < FACE:                                  # faceness would be less still
                break
            upright = upright_matrix(points, size)
            looks = [upright, mirrored(upright, size), *(turned(upright, size, angle) for angle in turns)]
            seen, sure = predict(picture, np.stack(looks), network)
            points, confidence = seen[:2].mean(0), sure.mean(0)
        else:
            apart = np.linalg.norm(seen[2:] - points, axis=-1).mean() / side
            if (faceness := confidence.mean() * max(0.0, 1 - apart / APART)) > best:
                best, box = faceness, box_of(points)
    return best, box


def proposals(picture: NDArray) -> NDArray[np.float64]:
    """Boxes (N, 4), brows to chin, where scikit-image's cascade of LBP features sees a frontal face.

    It is asked to overlook few faces and to raise many false alarms.
    """
    from skimage.data import lbp_frontal_face_cascade_filename
    from skimage.feature import Cascade

    scale = min(1.0, CASCADE / max(picture.shape[:2]))
    small = cv2.resize(grey(picture), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    longest = min(small.shape)
    if longest < 24:                                                                  # the cascade's window
        return np.zeros((0, 4))
    found = Cascade(lbp_frontal_face_cascade_filename()).detect_multi_scale(
        small, scale_factor=1.1, step_ratio=1.5, min_size=(24, 24), max_size=(longest, longest), min_neighbor_number=1)
    squares = np.array([(f["c"], f["r"], f["width"]) for f in found], np.float64).reshape(-1, 3)
    side = squares[:, 2:]
    # its squares reach from the forehead to the lips: the landmarks' box lies lower
    centre = squares[:, :2] - 0.5 + side * (0.5 + np.array([-0.03, 0.155]))
    return (np.hstack([centre - 0.475 * side, centre + 0.475 * side]) + 0.5) / scale - 0.5


def grid(height: int, width: int, side: float) -> NDArray[np.float64]:
    """Square boxes (N, 4) of ``side`` shorter picture sides, evenly across a picture."""
    side *= min(height, width)
    xs, ys = (np.linspace(0, room - side, int((room - side) / (STRIDE * side)) + 2) - 0.5 for room in (width, height))
    return np.array([(x, y, x + side, y + side) for y in ys for x in xs])


def upright_matrix(landmarks: NDArray, size: int, margin: float = MARGIN) -> NDArray[np.float64]:
    """The crop around (K, 2) landmarks that holds the eye line level."""
    right, left = markups.get(str(len(landmarks))).normalizers["inter_ocular"]
    return _upright(landmarks, landmarks[list(right)].mean(0), landmarks[list(left)].mean(0), size, margin)


def _upright(points: NDArray, right: NDArray, left: NDArray, size: int, margin: float = MARGIN) -> NDArray[np.float64]:
    """The crop around (N, 2) points that holds the line from the right to the left eye level."""
    x, y = left - right
    if not np.hypot(x, y) > 0:
        raise ValueError("the eyes must lie apart, got one point for both")
    level = np.array([[x, y, 0.0], [-y, x, 0.0]]) / np.hypot(x, y)                   # turns (x, y) to (1, 0)
    return geometry.compose(crop_matrix(box_of(geometry.transform(points, level)), size, margin), level)


def mirrored(matrix: NDArray, size: int) -> NDArray[np.float64]:
    """The same crop seen in a mirror."""
    return geometry.compose(np.array([[-1.0, 0.0, size - 1.0], [0.0, 1.0, 0.0]]), matrix)


def turned(matrix: NDArray, size: int, angle: float) -> NDArray[np.float64]:
    """The same crop turned about its centre, and wider by a tenth for a positive angle, closer for a negative one."""
    scale = 1 - 0.1 * np.sign(angle)
    turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    centre = np.full(2, (size - 1) / 2)
    return geometry.compose(np.column_stack([turn, centre - turn @ centre]), matrix)


@lru_cache(maxsize=4)
def _network(model: str, device: str) -> nn.Module:
    return zoo.load(model, device)
