"""Where the face of a picture is: a cascade and a grid propose boxes, a landmark network judges them.

Shapes: N boxes or crops. Boxes are (left, top, right, bottom) in 0-based pixel centres.
"""

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import nn

from facealign_lite.data import MARGIN, box_of, crop_matrix, grey, mirrored, turned, upright_matrix
from facealign_lite.looks import as_seen, predict

# The figures behind these numbers are in results/face_finding.json.
FACE = 0.2            # faceness from which a crop counts as a face
APART = 0.06          # readings of a turned crop so far apart, in sides of the face, speak against a face for certain
SEARCHED = 640        # longest side of the picture that is searched, pixels
CASCADE = 320         # the same for the cascade, which costs time by the pixel
SIDES = (0.85, 0.55, 0.35, 0.23)     # of the boxes the network tries itself, in shorter picture sides
SMALLEST = 13         # faces in a row along the longer side: smaller ones are not looked for
STRIDE = 0.45         # between them, in box sides
TURNS = (-0.8, 0.8)                  # angles of the two largest, radians: one look reaches about 0.6 to each side
FINALISTS = 4         # crops that get a second look


def find(picture: NDArray, network: nn.Module) -> NDArray[np.float64]:
    """Box of the most face-like face of a picture, from a thirteenth of its longer side upwards.

    A cascade (LBP features, shipped by scikit-image) proposes boxes and the network itself judges them; where it
    judges none to be a face, it looks on a grid of boxes of its own, upright and then turned.

    Raises:
        ValueError: if there is none.
    """
    picture = as_seen(picture, network)
    nothing = ValueError(
        f"no face was found in the image of {picture.shape[1]} x {picture.shape[0]} pixels; give its box, "
        "(left, top, right, bottom) from brows to chin, or a picture in which the face is larger")
    if max(picture.shape[:2]) > SMALLEST * min(picture.shape[:2]):                     # a strip
        raise nothing
    scale = min(1.0, SEARCHED / max(picture.shape[:2]))
    small = picture if scale == 1 else cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    size, (height, width) = network.config.image_size, small.shape[:2]
    # the smallest that is looked for, in shorter sides: so a strip costs about as many looks as a square
    least = max(height, width) / min(height, width) / SMALLEST
    sides = sorted({min(max(side, least), 1.0) for side in SIDES}, reverse=True)
    tries = [(0.0, proposals(small)),
             *((0.0, grid(height, width, side)) for side in sides),
             *((angle, grid(height, width, side)) for side in sides[:2] for angle in TURNS)]
    for angle, boxes in tries:
        if len(boxes) == 0:
            continue
        faceness, box = best_face(small, np.stack([crop_matrix(b, size, MARGIN, angle) for b in boxes]), network)
        if faceness > FACE:
            return (box + 0.5) / scale - 0.5
    raise nothing


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
