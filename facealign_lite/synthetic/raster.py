"""A z-buffer in one pass: which triangle each pixel shows, and where on it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from .view import View

NEAR, FAR = 1.0, 1000.0
EMPTY = 0.999 * FAR       # OpenCV hands untouched pixels back a rounding error below FAR
WORLD = np.eye(4, dtype=np.float32)[:3]


@dataclass(frozen=True)
class Fragments:
    """The n pixels that show the head."""

    pixels: np.ndarray       # (n,) flat index into the image
    triangles: np.ndarray    # (n,)
    corners: np.ndarray      # (n, 3) vertex ids
    weights: np.ndarray      # (n, 3) perspective-correct barycentric coordinates
    depth: np.ndarray        # (H, W), above EMPTY where nothing is

    def interpolate(self, values: np.ndarray) -> np.ndarray:
        """Per-vertex (V, c) values at every pixel, (n, c)."""
        out = values.take(self.corners[:, 0], axis=0) * self.weights[:, :1]
        for k in (1, 2):
            out += values.take(self.corners[:, k], axis=0) * self.weights[:, k:k + 1]
        return out


def rasterize(camera: np.ndarray, triangles: np.ndarray, view: View) -> Fragments:
    """Draw ``triangles`` (F, 3) over camera vertices (V, 3).

    OpenCV interpolates three values a vertex. Giving each triangle corners of its own with the values
    (triangle id, 0 or 1, 0 or 1) turns one pass into exact ids and barycentric coordinates, from which any number
    of attributes follows.
    """
    corners = _sheared(camera, view).take(triangles.ravel(), axis=0)
    order, values = (rows[:n] for rows, n in zip(_numbered(1 << 15), (len(triangles), len(corners))))
    drawn = np.zeros((view.size, view.size, 3), np.float32)
    depth = np.full((view.size, view.size), FAR, np.float32)
    cv2.triangleRasterize(corners, order, values, drawn, depth, WORLD, _field_of_view(view), NEAR, FAR, _settings())
    pixels = np.flatnonzero(depth.ravel() < EMPTY)
    seen = drawn.reshape(-1, 3).take(pixels, axis=0)
    ids = np.rint(seen[:, 0]).astype(np.intp)
    b, c = seen[:, 1], seen[:, 2]
    return Fragments(pixels, ids, triangles.take(ids, axis=0), np.stack([1 - b - c, b, c], axis=1), depth)


@lru_cache(maxsize=1)
def _numbered(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Triangles (count, 3) with corners of their own, and the corners' values (number, second?, third?)."""
    values = np.zeros((3 * count, 3), np.float32)
    values[:, 0] = np.repeat(np.arange(count), 3)
    values[1::3, 1] = 1
    values[2::3, 2] = 1
    return np.arange(3 * count, dtype=np.int32).reshape(-1, 3), values


def depth_map(camera: np.ndarray, triangles: np.ndarray, view: View) -> np.ndarray:
    """(H, W) distance along the optical axis, above EMPTY where nothing is."""
    depth = np.full((view.size, view.size), FAR, np.float32)
    cv2.triangleRasterizeDepth(_sheared(camera, view), np.ascontiguousarray(triangles, np.int32), depth, WORLD,
                               _field_of_view(view), NEAR, FAR, _settings())
    return depth


def lit(vertices: np.ndarray, triangles: np.ndarray, direction: np.ndarray, bias: float = 0.03,
        size: int = 144) -> np.ndarray:
    """Share of light from ``direction`` (head axes) that reaches each vertex, (V,) in 0..1: a shadow map."""
    z = direction / np.linalg.norm(direction)
    x = np.cross([0, 1, 0.01], z)
    x /= np.linalg.norm(x)
    view = View(np.stack([x, np.cross(z, x), z]), np.array([0, 7.2, 0.6]), 40.0, size / 2 / (1.7 / 40),
                np.full(2, (size - 1) / 2), size)
    camera = view.to_camera(vertices)
    depth = depth_map(camera, triangles, view)
    nearest = np.clip(np.rint(view.to_pixels(camera)).astype(np.intp), 1, size - 2)
    light, middle, near = np.zeros(len(vertices), np.float32), nearest[:, 1] * size + nearest[:, 0], -camera[:, 2]
    lifted = depth.ravel() + bias
    for dy in (-size, 0, size):
        for dx in (-1, 0, 1):
            light += near < lifted.take(middle + (dy + dx))
    return light / 9


def _sheared(camera: np.ndarray, view: View) -> np.ndarray:
    """OpenCV's optical axis is the middle of the image; a shear moves ours there."""
    off = (view.center - (view.size - 1) / 2) / view.focal
    out = np.array(camera, np.float32)
    out[:, 0] -= off[0] * camera[:, 2]
    out[:, 1] += off[1] * camera[:, 2]
    return out


def _field_of_view(view: View) -> float:
    return float(2 * np.arctan(view.size / 2 / view.focal))


def _settings() -> cv2.TriangleRasterizeSettings:
    return (cv2.TriangleRasterizeSettings().setCullingMode(cv2.RASTERIZE_CULLING_NONE)
            .setShadingType(cv2.RASTERIZE_SHADING_SHADED))
