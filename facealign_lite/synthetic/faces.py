"""Rendered faces as a data set: item i of a set depends on (seed, i) alone."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Real

import numpy as np

from facealign_lite.opencv import one_thread

from .parts import parts
from .render import expose, render, visible
from .scene import Scene, Style, draw
from .view import landmarks98, look, shape

JAW = slice(0, 17)
LARGEST = 4096        # side of an image in pixels


@dataclass(frozen=True)
class Face:
    """One rendered face with exact ground truth; coordinates are (x, y) pixels."""

    image: np.ndarray                # (S, S, 3) uint8 RGB
    landmarks: np.ndarray            # (68, 2)
    visibility: np.ndarray           # (68,) bool: neither the head itself nor an occluder hides it
    anchors: np.ndarray              # (12, 2)
    contours: dict[str, np.ndarray]  # 13 dense polylines (M, 2)
    box: np.ndarray                  # (4,) left, top, right, bottom of the landmarks
    pose: tuple[float, float, float] # yaw, pitch, roll in degrees
    tags: dict[str, str | bool]      # pose: frontal, turned, profile; occlusion, blur, expression, light: bool
    markup: str = "68"


class SyntheticFaces:
    """A map-style data set of rendered faces.

    Args:
        n: how many faces.
        size: image side in pixels, at least 32.
        seed: names the set; two seeds share no face.
        style: how far the faces vary; see ``Style``.

    Raises:
        ValueError: for a negative count, a size below 32 or above ``LARGEST``, a negative seed, or another style.
    """

    def __init__(self, n: int, size: int = 128, seed: int = 0, style: Style | None = None) -> None:
        for name, value, least, most in (("n", n, 0, 1 << 62), ("size", size, 32, LARGEST), ("seed", seed, 0, 1 << 62)):
            if not isinstance(value, Real) or not least <= value <= most or int(value) != value:
                raise ValueError(f"{name} must be an integer from {least} to {most}, got {value!r}")
        if style is not None and not isinstance(style, Style):
            raise ValueError(f"style must be a Style, got {type(style).__name__}")
        self.n, self.size, self.seed, self.style = int(n), int(size), int(seed), style or Style()

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[Face]:
        return (self[i] for i in range(self.n))

    def __getitem__(self, index: int) -> Face:
        return render_face(self.scene(index), self.size)

    def scene(self, index: int) -> Scene:
        """The recipe of face ``index``, to be changed with ``dataclasses.replace`` and given to ``render_face``."""
        index = operator.index(index)             # 1.7 is none
        if not -self.n <= index < self.n:
            raise IndexError(f"index {index} is outside a set of {self.n} faces")
        return draw(self.seed, index % self.n, self.style)


def render_face(scene: Scene, size: int = 128) -> Face:
    """Render a scene and read off its ground truth."""
    with one_thread():
        head = parts()
        vertices = shape(head, scene)
        view, truth = look(head, scene, vertices, size)
        picture = render(head, scene, vertices, view)
        image, blurred = expose(scene, picture.image)
    depths = truth.depths.copy()
    depths[JAW] = np.nan             # points of the outline are on the border of what is seen
    free, clear = visible(truth.landmarks, depths, picture)
    yaw = abs(scene.yaw)
    tags = {"pose": "frontal" if yaw < 15 else "turned" if yaw < 35 else "profile",
            "occlusion": bool((~clear).mean() > 0.1), "blur": blurred, "expression": scene.expressive,
            "light": picture.light.hard}
    box = np.concatenate([truth.landmarks.min(0), truth.landmarks.max(0)])
    return Face(image, truth.landmarks, free & clear, truth.anchors, truth.contours, box,
                (scene.yaw, scene.pitch, scene.roll), tags)


def denser(scene: Scene, size: int = 128) -> np.ndarray:
    """The 98 landmarks (98, 2) of the face that ``render_face`` renders with 68; nothing is painted."""
    head = parts()
    vertices = shape(head, scene)
    view, truth = look(head, scene, vertices, size)
    return landmarks98(head, scene, vertices, view, truth)
