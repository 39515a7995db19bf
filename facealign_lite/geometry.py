"""Plane geometry of faces: affine maps, Procrustes, polylines, splines, distances.

Points are (..., 2), (x, y) in pixels, arrays or tensors. A map is a (2, 3) matrix [A | t], acting as q = A p + t.
"""

from numbers import Integral

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facealign_lite.arrays import finite, floats, number

Array = NDArray[np.float64]
MOST = 10**7         # points that a curve is resampled into


# ---- affine maps ---------------------------------------------------------------------------------------------------

def transform(points: ArrayLike, matrix: ArrayLike) -> Array:
    """Points (..., 2) through a (2, 3) map."""
    matrix = _matrix(matrix)
    return _points(points) @ matrix[:, :2].T + matrix[:, 2]


def invert(matrix: ArrayLike) -> Array:
    """The (2, 3) map back. Raises ValueError if there is none."""
    matrix = _matrix(matrix)
    determinant = matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0]
    if not abs(determinant) > 1e-12:
        raise ValueError(f"matrix must be invertible, got determinant {determinant:.3g}")
    back = np.linalg.inv(matrix[:, :2])
    return finite(np.column_stack([back, -back @ matrix[:, 2]]), "the inverse of matrix")


def compose(after: ArrayLike, before: ArrayLike) -> Array:
    """The (2, 3) map that applies ``before``, then ``after``."""
    after, before = _matrix(after), _matrix(before)
    return finite(np.column_stack([after[:, :2] @ before[:, :2], after[:, :2] @ before[:, 2] + after[:, 2]]),
                  "after and before together")


def similarity(scale: float = 1.0, angle: float = 0.0, translation: ArrayLike = (0.0, 0.0)) -> Array:
    """Scale, turn by ``angle`` radians (clockwise on the screen, where y points down), then move: (2, 3)."""
    scale, angle = number(scale, "scale"), number(angle, "angle")
    translation = finite(translation, "translation")
    if translation.shape != (2,):
        raise ValueError(f"translation must be (2,), got shape {translation.shape}")
    if not (np.isfinite(scale) and np.isfinite(angle)):
        raise ValueError(f"scale and angle must be finite, got {scale} and {angle}")
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    return np.column_stack([[[cosine, -sine], [sine, cosine]], translation])


def procrustes(source: ArrayLike, target: ArrayLike) -> Array:
    """The similarity, mirror images excluded, that brings ``source`` nearest to ``target`` in the squared sense.

    Args:
        source, target: (K, 2), K >= 2.

    Returns:
        (2, 3) map.

    Raises:
        ValueError: if the shapes differ, a point is NaN, or all points of ``source`` coincide.

    Source: Umeyama 1991, closed form in two dimensions.
    """
    source, target = finite(_points(source), "source"), finite(_points(target), "target")
    if source.shape != target.shape or source.ndim != 2 or len(source) < 2:
        raise ValueError(f"source and target must both be (K, 2) with K >= 2, got {source.shape} and {target.shape}")
    p, q = source - source.mean(0), target - target.mean(0)
    spread = (p**2).sum()
    if not spread > 0:
        raise ValueError("source must not be a single point")
    # as complex numbers the best factor is <q, p> / <p, p>
    a = (p * q).sum() / spread
    b = (p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0]).sum() / spread
    linear = np.array([[a, -b], [b, a]])
    return np.column_stack([linear, target.mean(0) - linear @ source.mean(0)])


# ---- polylines -----------------------------------------------------------------------------------------------------

def length(polyline: ArrayLike) -> float:
    """Arc length of (M, 2) points joined by straight lines."""
    return float(np.linalg.norm(np.diff(_polyline(polyline), axis=0), axis=1).sum())


def resample(polyline: ArrayLike, n: int) -> Array:
    """``n`` >= 2 points at equal arcs along a polyline, ends included: (n, 2)."""
    polyline, n = _polyline(polyline), _count(n)
    arc = np.append(0.0, np.cumsum(np.linalg.norm(np.diff(polyline, axis=0), axis=1)))
    at = np.linspace(0, arc[-1], n)
    return np.stack([np.interp(at, arc, polyline[:, k]) for k in (0, 1)], axis=1)


def spline(points: ArrayLike, n: int, degree: int = 2) -> Array:
    """``n`` points of the interpolating spline through (M, 2) points, by chord length; degree 1 is the polyline.

    Raises:
        ValueError: if there are not more points than ``degree``, or neighbours coincide.
    """
    points, n = _polyline(points), _count(n)
    if not isinstance(degree, Integral) or not 1 <= degree < len(points):
        raise ValueError(f"degree must be in 1 .. {len(points) - 1} for {len(points)} points, got {degree}")
    step = np.linalg.norm(np.diff(points, axis=0), axis=1)
    if not (step > 0).all():
        raise ValueError("points must not repeat one after the other")
    chord = np.append(0.0, np.cumsum(step))
    from scipy.interpolate import make_interp_spline  # half a second that most callers of this module do not need

    return make_interp_spline(chord, points, k=degree)(np.linspace(0, chord[-1], n))


def distance_to_segments(points: ArrayLike, starts: ArrayLike, ends: ArrayLike) -> Array:
    """Distance of points (..., 2) from each of S segments, (..., S); a segment of no length is a point."""
    points, starts, ends = (finite(_points(those), "points") for those in (points, starts, ends))
    if starts.shape != ends.shape or starts.ndim != 2:
        raise ValueError(f"starts and ends must both be (S, 2), got {starts.shape} and {ends.shape}")
    along = ends - starts                                                       # (S, 2)
    offset = points[..., None, :] - starts                                      # (..., S, 2)
    # the foot of the perpendicular, t = <p - a, b - a> / |b - a|^2, kept on the segment
    t = (offset * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-300)
    return np.linalg.norm(offset - np.clip(t, 0, 1)[..., None] * along, axis=-1)


def distance_to_polyline(points: ArrayLike, polyline: ArrayLike) -> Array:
    """Distance of points (..., 2) from the nearest point of a polyline (M, 2): (...)."""
    polyline = _polyline(polyline)
    return distance_to_segments(points, polyline[:-1], polyline[1:]).min(-1)


def _count(n: int) -> int:
    if not isinstance(n, Integral) or not 2 <= n <= MOST:
        raise ValueError(f"n must be at least 2 and at most {MOST}, a whole number, got {n!r}")
    return int(n)


def _points(points: ArrayLike) -> Array:
    points = floats(points, "points")
    if points.ndim < 1 or points.shape[-1] != 2:
        raise ValueError(f"points must be (..., 2), got shape {points.shape}")
    return points


def _polyline(polyline: ArrayLike) -> Array:
    polyline = _points(polyline)
    if polyline.ndim != 2 or len(polyline) < 2:
        raise ValueError(f"polyline must be (M, 2) with M >= 2, got shape {polyline.shape}")
    return finite(polyline, "polyline")


def _matrix(matrix: ArrayLike) -> Array:
    matrix = finite(matrix, "matrix")
    if matrix.shape != (2, 3):
        raise ValueError(f"matrix must be (2, 3), got shape {matrix.shape}")
    return matrix
