"""Where the faces of a picture are: a small detector proposes them, a landmark network judges them.

Shapes: N faces or crops. Boxes are (left, top, right, bottom) in 0-based pixel centres. An angle is that by which the
picture turns, in radians clockwise on the screen, to hold the face upright, as in ``data.crop_matrix``.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from facealign_lite import geometry
from facealign_lite.arrays import number
from facealign_lite.data import MARGIN, box_of, crop_matrix, mirrored, turned, upright_matrix
from facealign_lite.looks import as_seen, predict
from facealign_lite.nets import blazeface

# The figures behind these numbers are in results/face_finding.json and results/group_faces.json.
FACE = 0.2           # faceness from which a crop counts as a face
SURE = 0.35           # faceness of the best upright face below which the quarter turns are searched too
WELL = 0.5            # share of the best faceness from which a face is well seen
APART = 0.06          # readings of a turned crop so far apart, in sides of the face, speak against a face for certain
SEARCHED = 640        # longest side of the picture that is searched, pixels
MOST_SEARCHED = 2560  # the same where smaller faces are asked for
SMALLEST = 18         # pixels of the searched picture; the detector, made for 128 pixels, sees 20 to 110 well
HALVED = 160          # longest side, pixels, up to which a halved picture is searched too: the largest faces
PROPOSED = 0.5        # score from which the detector's box is judged
JUDGED = 64           # boxes that are judged at most, the best
LEVEL = 0.4           # radians of turn up to which a face is taken as upright: one look reaches about 0.6
OVERLAP = 0.3         # intersection over union from which two boxes are of one face


@dataclass(frozen=True)
class Finding:
    """A face of a picture."""

    box: NDArray[np.float64]      # (4,) of its landmarks, brows to chin
    faceness: float               # in [0, 1], see ``judge``
    angle: float = 0.0            # to hold it upright; 0 where it nearly is

    @property
    def side(self) -> float:
        """The longer side of the box, pixels."""
        return float((self.box[2:] - self.box[:2]).max())


def find(picture: NDArray, network: nn.Module) -> Finding:
    """The largest well-seen face of a picture.

    Raises:
        ValueError: if there is none.
    """
    return well_seen(some(find_all(picture, network), picture))


def some(faces: list[Finding], picture: NDArray) -> list[Finding]:
    """The faces of that picture.

    Raises:
        ValueError: if there are none.
    """
    if not faces:
        raise ValueError(
            f"no face was found in the image of {picture.shape[1]} x {picture.shape[0]} pixels; give its box, "
            "(left, top, right, bottom) from brows to chin, or a picture in which the face is larger")
    return faces


def well_seen(faces: list[Finding]) -> Finding:
    """The largest of those that are at least ``WELL`` as face-like as the most face-like."""
    best = max(face.faceness for face in faces)
    return max((face for face in faces if face.faceness >= WELL * best), key=lambda face: face.side)


def find_all(picture: NDArray, network: nn.Module, min_size: float | None = None) -> list[Finding]:
    """Every face of a picture, the largest first; where no upright one is sure, those at quarter turns too.

    Args:
        picture: uint8 (H, W) or (H, W, 3).
        network: that judges, of 68 landmarks.
        min_size: longer side, in pixels, of the box of the smallest face that is looked for; None for one of
            ``SMALLEST`` pixels or, in a picture of more than ``SEARCHED``, as much more. Smaller ones cost time, and
            are seen down to ``SMALLEST`` / ``MOST_SEARCHED`` of the longer side.

    Raises:
        ValueError: for a min_size that is not positive.
    """
    if min_size is not None and not number(min_size, "min_size") > 0:
        raise ValueError(f"min_size must be a positive number of pixels or None, got {min_size!r}")
    longest = max(picture.shape[:2])
    scale = min(1.0, SEARCHED / longest)
    if min_size is not None:
        scale = min(1.0, SMALLEST / min_size, MOST_SEARCHED / longest)
    width, height = (max(1, round(side * scale)) for side in picture.shape[1::-1])
    small = picture if scale == 1 else cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    device = next(iter(network.parameters())).device
    faces = judge(small, *propose(small, device), network)
    if max((face.faceness for face in faces), default=0.0) < SURE:
        turned_too = [propose(small, device, quarters) for quarters in (1, 2, 3)]
        faces = apart(faces + judge(small, *(np.concatenate(parts) for parts in zip(*turned_too)), network))
    each = np.array([picture.shape[1] / width, picture.shape[0] / height] * 2)       # back to its own pixels
    faces = [Finding((face.box + 0.5) * each - 0.5, face.faceness, face.angle) for face in faces]
    faces = [face for face in faces if min_size is None or face.side >= min_size]
    return sorted(faces, key=lambda face: -face.side)


@torch.inference_mode()
def propose(picture: NDArray, device: torch.device | str = "cpu", quarters: int = 0
            ) -> tuple[NDArray, NDArray, NDArray]:
    """Where the detector sees faces, in the picture and ever smaller ones.

    Args:
        quarters: turns of the picture, by 90 degrees against the clock, before the detector sees it.

    Returns:
        boxes (N, 4) from brows to chin; angles (N,); scores (N,); boxes of one face only once.
    """
    seen = np.rot90(picture, quarters).copy()             # its strides may be negative, which torch refuses
    detector, found, scale = blazeface.load(str(device)), [], 1.0
    while True:
        height, width = seen.shape[:2]
        room = [max(128, -(-side // blazeface.MULTIPLE) * blazeface.MULTIPLE) for side in (height, width)]
        image = torch.from_numpy(np.ascontiguousarray(np.atleast_3d(seen))).to(device).permute(2, 0, 1)[None].float()
        framed = image.new_full((1, 3, *room), -1.0)
        framed[..., :height, :width] = image / 127.5 - 1
        scores, boxes, points = (values[0].cpu().double().numpy() for values in detector(framed))
        sure = scores > PROPOSED
        boxes, eyes = (boxes[sure] + 0.5) / scale - 0.5, (points[sure][:, :2] + 0.5) / scale - 0.5
        found.append((boxes, eyes, scores[sure]))
        if max(height, width) <= HALVED:
            break
        seen = cv2.resize(seen, (-(-width // 2), -(-height // 2)), interpolation=cv2.INTER_AREA)
        scale /= 2
    boxes, eyes, scores = (np.concatenate(parts) for parts in zip(*found))
    kept = distinct(boxes, scores)
    boxes, eyes, scores = boxes[kept], eyes[kept], scores[kept]
    back = _unturned(quarters, *picture.shape[:2])
    eyes = geometry.transform(eyes, back)
    across = eyes[:, 1] - eyes[:, 0]                      # from the right to the left eye: to the right, if upright
    angles = -np.arctan2(across[:, 1], across[:, 0])
    side = boxes[:, 2:] - boxes[:, :2]
    down = np.stack([np.sin(angles), np.cos(angles)], -1)              # of the face, in the picture
    # the landmarks' box is as large and lies lower by a twenty-fifth
    centre = geometry.transform((boxes[:, :2] + boxes[:, 2:]) / 2, back) + 0.04 * side * down
    angles = np.where(np.abs(angles) < LEVEL, 0.0, angles)
    return np.hstack([centre - side / 2, centre + side / 2]), angles, scores


def _unturned(quarters: int, height: int, width: int) -> NDArray[np.float64]:
    """(2, 3) from pixels of ``np.rot90(picture, quarters)`` to those of the picture of that size."""
    return np.array([[[1.0, 0, 0], [0, 1, 0]], [[0, -1, width - 1], [1, 0, 0]],
                     [[-1, 0, width - 1], [0, -1, height - 1]], [[0, 1, 0], [-1, 0, height - 1]]])[quarters % 4]


def judge(picture: NDArray, boxes: NDArray, angles: NDArray, scores: NDArray, network: nn.Module) -> list[Finding]:
    """Those of N boxes that hold a face, each once.

    Faceness is mean score times agreement, in [0, 1]. On what is no face the heat is spread, and a turned crop is read
    differently: agreement is 1 - (mean distance of those readings) / (``APART`` of the face's side).
    """
    picture, size = as_seen(picture, network), network.config.image_size
    chosen = np.argsort(-scores)[:JUDGED]
    if len(chosen) == 0:
        return []
    first = np.stack([crop_matrix(boxes[i], size, MARGIN, angles[i]) for i in chosen])
    looks, kept = [], []
    for i, points, sure in zip(chosen, *predict(picture, first, network)):
        if np.ptp(points, axis=0).max() < 4 or sure.mean() < FACE / 2:                # no face, or none to tell
            continue
        upright = upright_matrix(points, size)
        looks.append([upright, mirrored(upright, size), turned(upright, size, 0.3), turned(upright, size, -0.3)])
        kept.append(i)
    if not kept:
        return []
    landmarks, sure = predict(picture, np.concatenate(looks), network)
    landmarks, sure = landmarks.reshape(len(kept), 4, -1, 2), sure.reshape(len(kept), 4, -1)
    faces = []
    for i, seen, confidence in zip(kept, landmarks, sure.mean((1, 2))):
        points = seen[:2].mean(0)
        side = np.ptp(points, axis=0).max()
        spread = np.linalg.norm(seen[2:] - points, axis=-1).mean() / max(side, 1e-9)
        faceness = float(confidence * max(0.0, 1 - spread / APART))
        if faceness > FACE:
            faces.append(Finding(box_of(points), faceness, float(angles[i])))
    return apart(faces)


def apart(faces: list[Finding]) -> list[Finding]:
    """Of faces that overlap, the most face-like."""
    if not faces:
        return []
    return [faces[i] for i in distinct(np.stack([f.box for f in faces]), np.array([f.faceness for f in faces]))]


def distinct(boxes: NDArray, scores: NDArray, overlap: float = OVERLAP) -> NDArray[np.int64]:
    """Indices of the boxes that remain, best first, when each takes away the worse ones that it overlaps.

    Two boxes overlap where their intersection over union is above ``overlap``.
    """
    order, kept = np.argsort(-scores, kind="stable"), []
    areas = np.prod(np.maximum(boxes[:, 2:] - boxes[:, :2], 0), axis=1)
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        low, high = np.maximum(boxes[best, :2], boxes[order, :2]), np.minimum(boxes[best, 2:], boxes[order, 2:])
        common = np.prod(np.maximum(high - low, 0), axis=1)
        order = order[common <= overlap * (areas[best] + areas[order] - common)]
    return np.array(kept, np.int64)
