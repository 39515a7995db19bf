"""How a face is turned, and its landmarks in 3D, from 68 landmarks in one picture.

Both come from the rendered heads (``tools/build_pose.py``, record ``results/pose.json``). The angles are a quadratic
function of the landmarks, fitted by ridge regression: measured beside ``cv2.solvePnP`` with the mean head it errs less
in all three. The points in 3D are a linear model, mean head and principal components, bent by ridge regression until
its picture lies on the landmarks.

Head axes: x to the person's left, y up, z out of the face. Camera axes: x to the right of the picture, y up, z towards
the viewer. The unit is the distance between the outer eye corners of the mean head.

| angle | above zero | of a face that |
|---|---|---|
| yaw | its nose is turned to the right of the picture | looks to its own left |
| pitch | its nose is turned down | looks down |
| roll | its chin is turned to the right of the picture | leans counter-clockwise, as one sees it |

These are the signs of ``synthetic.Scene``, whose rotation is roll after pitch after yaw. 300W-LP and AFLW2000-3D
(``Pose_Para``) count all three the other way round, and in the order roll, yaw, pitch: ``HeadPose.as_300w_lp`` gives
theirs, but for the zero of the pitch, which each head model puts elsewhere.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facealign_lite import geometry, markups
from facealign_lite.arrays import finite

ASSET = Path(__file__).parent / "assets" / "pose.npz"
# The chin and what is within the outline. Elsewhere a jaw means two things, the outline that is seen (300-W) or the
# bone (AFLW2000-3D): with it the yaw errs by 0.5 instead of 0.8 degrees on the first, and by 3 instead of 2 on the
# second, the pitch there by 7 instead of 1.
READ = np.r_[7:10, 17:68]
DISTANCE = 10.0       # of a camera nobody describes, in eye distances: about a metre; rendered faces have 5 to 17
ROUNDS = 3            # of the points in 3D: their depths change the perspective, which changes their depths
WORST = 0.15          # eye distances that landmarks may lie off on average; on rendered and real faces below 0.1
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Model:
    """What ``tools/build_pose.py`` fitted; J components, P features before they are squared."""

    mean: Array                  # (68, 3) the mean head
    components: Array            # (J, 68, 3) principal components, each as long as its standard deviation
    noise: Array                 # (68,) how far landmarks of a picture lie from the model's, eye distances
    flat: Array                  # (108,) mean of the landmarks ``READ`` laid on the mean head's picture
    basis: Array                 # (P, 108) from what differs to features of variance 1
    squared: Array               # () how many of them are multiplied with each other
    weights: Array               # (features, 3) to yaw, pitch, and roll less the turn by which they were laid there

    def angles(self, landmarks: Array) -> Array:
        """(3,) yaw, pitch, roll in degrees of (68, 2); a mirror image has the same pitch, and the others' opposites."""
        flip = list(markups.get("68").flip)
        right, other = self._one_sided(landmarks), self._one_sided(landmarks[flip] * [-1, 1])
        apart = (other[2] + right[2] + 180) % 360 - 180                 # 0 but for what the two sides learnt apart
        return np.array([(right[0] - other[0]) / 2, (right[1] + other[1]) / 2, right[2] - apart / 2])

    def _one_sided(self, landmarks: Array) -> Array:
        values, turn = self.features(landmarks)
        return values @ self.weights + [0, 0, turn]

    def features(self, landmarks: Array) -> tuple[Array, float]:
        """What the angles are a linear function of, and the turn in degrees by which landmarks were laid upright."""
        laid, turn = self.lay(landmarks)
        linear = self.basis @ (laid - self.flat)
        i, j = np.triu_indices(int(self.squared))
        return np.concatenate([[1.0], linear, linear[i] * linear[j]]), turn

    def lay(self, landmarks: Array) -> tuple[Array, float]:
        """The landmarks ``READ``, (108,), by Procrustes on those of the mean head's picture; the turn in degrees."""
        matrix = geometry.procrustes(landmarks[READ], self.mean[READ, :2] * [1, -1])
        turn = np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0]))
        return geometry.transform(landmarks[READ], matrix).ravel(), float(turn)


@dataclass(frozen=True)
class HeadPose:
    """Angles in degrees, signs as in the table of this module."""

    yaw: float
    pitch: float
    roll: float                  # in [-180, 180)
    error: float                 # mean distance of the landmarks from the bent model's, in eye distances

    @property
    def rotation(self) -> Array:
        """(3, 3) from head to camera axes."""
        return rotation(self.yaw, self.pitch, self.roll)

    def as_300w_lp(self) -> tuple[float, float, float]:
        """Pitch, yaw, roll in radians, in the signs and order of ``Pose_Para`` in 300W-LP and AFLW2000-3D."""
        # R = P(-pitch) Y(-yaw) Z(-roll): first row (cos yaw cos roll, cos yaw sin roll, -sin yaw), the last column
        # (-sin yaw, sin pitch cos yaw, cos pitch cos yaw)
        r = self.rotation
        return (float(np.arctan2(r[1, 2], r[2, 2])), float(-np.arcsin(np.clip(r[0, 2], -1, 1))),
                float(np.arctan2(r[0, 1], r[0, 0])))


def head_pose(landmarks: ArrayLike, markup: str = "68", image_size: tuple[int, int] | None = None) -> HeadPose:
    """How the face is turned.

    Args:
        landmarks: (K, 2) in pixels of the picture.
        markup: "68", or one that ``markups.convert`` makes 68 of.
        image_size: (width, height) of the whole picture, as its camera took it. Angles are then from the camera's axis,
            through the middle, and the focal length is taken to be the longer side. None: from the line of sight, as if
            the camera pointed at the face.

    Raises:
        ValueError: for another markup or shape, NaN, a size that is none; and for points that are no face: all on one
            line or one point, in a mirror (left and right exchanged), or too far from every head.
    """
    landmarks = _checked(landmarks, markup)
    angles = load().angles(landmarks)
    fitted = _bend(landmarks, rotation(*angles), load())
    if image_size is not None:
        size = finite(image_size, "image_size")
        if size.shape != (2,) or not (size >= 1).all():
            raise ValueError(f"image_size must be (width, height) in pixels or None, got {image_size!r}")
        # the face is at (x, y, -f) in camera axes: towards the viewer is (-x, -y, f)
        x, y = (landmarks.mean(0) - (size - 1) / 2) * [1, -1]
        angles = angles_of(_towards(np.array([-x, -y, size.max()])) @ rotation(*angles))
    yaw, pitch, roll = (float(angle) for angle in angles)
    return HeadPose(yaw, pitch, (roll + 180) % 360 - 180, fitted.error)


def points_3d(landmarks: ArrayLike, markup: str = "68", frame: str = "image") -> Array:
    """The 68 landmarks in 3D, as the bent model has them, seen by a camera at ``DISTANCE``.

    Args:
        landmarks, markup: as in ``head_pose``.
        frame: "image": x and y in pixels of the picture (x right, y down), z in the same pixels away from the viewer, 0
            in the middle between the outer eye corners; "head": in axes of the head (x to the person's left, y up, z
            out of the face) from that middle, 1 being the distance of the mean head's outer eye corners.

    Returns:
        (68, 3). Landmarks of the jaw are points of the jaw bone, whether or not they are seen; in a picture of a turned
        face the landmarks are elsewhere, on the outline.

    Raises:
        ValueError: as ``head_pose``, and for another frame.
    """
    if frame not in ("image", "head"):
        raise ValueError(f"frame must be 'image' or 'head', got {frame!r}")
    landmarks = _checked(landmarks, markup)
    turn = rotation(*load().angles(landmarks))
    fitted = _bend(landmarks, turn, load())
    shape = fitted.shape - fitted.shape[[36, 45]].mean(0)
    if frame == "head":
        return shape
    return np.column_stack([fitted.picture, -fitted.scale * (shape @ turn.T)[:, 2]])


def rotation(yaw: float, pitch: float, roll: float) -> Array:
    """(3, 3) from head to camera axes, roll after pitch after yaw, of angles in degrees."""
    (cy, cp, cr), (sy, sp, sr) = (f(np.radians([yaw, pitch, roll])) for f in (np.cos, np.sin))
    return (np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
            @ np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]]))


def angles_of(matrix: Array) -> Array:
    """(3,) yaw, pitch, roll in degrees of such a rotation; pitch in [-90, 90]."""
    # third row (-cos p sin y, sin p, cos p cos y), second column (-sin r cos p, cos r cos p, sin p)
    yaw, roll = np.arctan2(-matrix[2, 0], matrix[2, 2]), np.arctan2(-matrix[0, 1], matrix[1, 1])
    return np.degrees([yaw, np.arcsin(np.clip(matrix[2, 1], -1, 1)), roll])


@lru_cache(maxsize=1)
def load() -> Model:
    """The model that is shipped. Raises OSError if the file is missing."""
    with np.load(ASSET) as file:
        arrays = {name: file[name].astype(np.float64) for name in file.files}
    for array in arrays.values():
        array.flags.writeable = False
    return Model(**arrays)


@dataclass(frozen=True)
class _Bent:
    shape: Array                 # (68, 3) in head axes
    picture: Array               # (68, 2) of it, pixels
    scale: float                 # pixels of one unit at the origin's distance
    error: float


def _bend(landmarks: Array, turn: Array, model: Model, worst: float = WORST) -> _Bent:
    """The shape, in a given pose, whose picture is nearest to landmarks (68, 2), as ridge regression has it.

    With s pixels a unit, w_k the perspective of landmark k and the shape m + sum of b_j c_j:

        pixel_k = s w_k (R m_k) + sum of (s b_j) w_k (R c_jk) + t,  least (pixels apart / noise)^2 + (s b)^2,

    which is linear in s, s b and t, and the most probable answer for b of variance 1.

    Raises:
        ValueError: if it is far from all of them.
    """
    count, shape = len(model.components), model.mean
    sigma = np.repeat(model.noise, 2)
    ridge = np.diag(np.append(np.zeros(3), np.ones(count)))
    heads = np.concatenate([model.mean[None], model.components]) @ turn.T                  # (1 + J, 68, 3)
    for _ in range(ROUNDS):
        # perspective: a point z nearer than the origin is D / (D - z) as large
        grown = DISTANCE / (DISTANCE - (shape @ turn.T)[:, 2])
        columns = (heads[..., :2] * [1, -1] * grown[:, None]).reshape(1 + count, -1)        # (1 + J, 136)
        ones = np.tile(np.eye(2), 68)
        design = np.concatenate([ones, columns]).T
        scaled = design / sigma[:, None]
        answer = np.linalg.solve(scaled.T @ scaled + ridge, scaled.T @ (landmarks.ravel() / sigma))
        scale = answer[2]
        if not scale > 0:
            raise ValueError("landmarks must be those of a face, not of one in a mirror: are left and right exchanged?")
        shape = model.mean + np.tensordot(answer[3:] / scale, model.components, 1)
    picture = (design @ answer).reshape(68, 2)
    error = float(np.linalg.norm(picture - landmarks, axis=1).mean() / scale)
    if not error < worst:
        raise ValueError("landmarks must be those of a face, not mirrored, got points that lie from the nearest head "
                         f"{error:.2f} times the distance of its eyes on average")
    return _Bent(shape, picture, float(scale), error)


def _towards(direction: Array) -> Array:
    """(3, 3) the shortest turn that brings the z axis to a direction with z > 0."""
    x, y, z = direction / np.linalg.norm(direction)
    # R = I + [v]_x + [v]_x^2 / (1 + c) with v = e_z x d and c = e_z d
    cross = np.array([[0, 0, x], [0, 0, y], [-x, -y, 0]])
    return np.eye(3) + cross + cross @ cross / (1 + z)


def _checked(landmarks: ArrayLike, markup: str) -> Array:
    points = finite(landmarks, "landmarks")
    if points.shape != (markups.get(markup).count, 2):
        raise ValueError(f"landmarks of markup {markup!r} must be ({markups.get(markup).count}, 2), got {points.shape}")
    points = markups.convert(points, markup, "68")
    lengths = np.linalg.svd(points - points.mean(0), compute_uv=False)
    if not lengths[1] > 1e-2 * lengths[0]:
        raise ValueError("landmarks must be those of a face, got points on one line, or one point")
    return points
