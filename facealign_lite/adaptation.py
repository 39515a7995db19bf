"""Label adaptation: a landmark on a mesh and the same by an annotator differ by habit, the same way every time.

Shapes: N shapes of K landmarks, (x, y) in any pixels.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facealign_lite.arrays import finite, number

LEAST = 1e-9          # of the ridge: with less the map is made of rounding errors


@dataclass(frozen=True)
class LabelMap:
    """A ridge regression from predicted shapes to annotated ones, in each face's own frame."""

    mean: NDArray[np.float64]                     # (2 K,) of the predicted shapes
    offset: NDArray[np.float64]                   # (2 K,) mean correction
    weights: NDArray[np.float64]                  # (2 K, 2 K)

    def __call__(self, predicted: ArrayLike) -> NDArray[np.float64]:
        """Shapes (..., K, 2) as annotators would have drawn them."""
        shape, centre, scale = _normalised(predicted)
        if shape.shape[-2] * 2 != len(self.mean):
            raise ValueError(f"predicted must be (..., {len(self.mean) // 2}, 2), got {shape.shape}")
        flat = shape.reshape(*shape.shape[:-2], -1)
        correction = (flat - self.mean) @ self.weights + self.offset
        return (shape + correction.reshape(shape.shape)) * scale + centre


def fit_label_map(predicted: ArrayLike, target: ArrayLike, ridge: float = 1.0) -> LabelMap:
    """Fit the map on annotated photos: minimise |Y - X W|^2 + ridge |W|^2, X predicted and Y the correction, centred.

    Args:
        predicted, target: (N, K, 2), N > 0, any pixels.
        ridge: at least ``LEAST``; infinite leaves a constant offset per landmark.

    Raises:
        ValueError: if shapes differ, are not (N, K, 2), or ridge is below ``LEAST``.
    """
    predicted, target, ridge = finite(predicted, "predicted"), finite(target, "target"), number(ridge, "ridge")
    if predicted.shape != target.shape or predicted.ndim != 3 or predicted.shape[-1] != 2 or len(predicted) == 0:
        raise ValueError(f"predicted and target must be (N, K, 2) alike, got {predicted.shape} and {target.shape}")
    if not ridge >= LEAST:
        raise ValueError(f"ridge must be at least {LEAST}, got {ridge}")
    x, centre, scale = _normalised(predicted)
    y = ((target - centre) / scale - x).reshape(len(x), -1)
    x = x.reshape(len(x), -1)
    mean, offset = x.mean(0), y.mean(0)
    x = x - mean
    if np.isinf(ridge):
        weights = np.zeros((x.shape[1], x.shape[1]))
    else:
        weights = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ (y - offset))
    return LabelMap(mean, offset, weights)


def _normalised(shapes: ArrayLike) -> tuple[NDArray, NDArray, NDArray]:
    """Shapes about their centre with root mean square radius 1; centre and radius."""
    shapes = finite(shapes, "shapes")
    if shapes.ndim < 2 or 0 in shapes.shape[-2:]:
        raise ValueError(f"shapes must be (..., K, 2), got shape {shapes.shape}")
    centre = shapes.mean(-2, keepdims=True)
    radius = np.sqrt(np.square(shapes - centre).sum(-1).mean(-1))[..., None, None]
    if not (np.isfinite(radius) & (radius > 0)).all():
        raise ValueError("shapes must be finite and not a single point")
    return (shapes - centre) / radius, centre, radius
