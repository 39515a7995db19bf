"""One scene to one image: geometry, paint, light, things in the way, and the sensor.

Colours are RGB, 0..255 float32 until the sensor. The image is drawn at twice its size and averaged down.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from . import clutter
from .paint import (
    Palette,
    Shell,
    Surface,
    grow_hair,
    paint_eyes,
    paint_hair,
    paint_skin,
    palette,
    surface,
)
from .parts import CAP, EYE, HAIR, LASHES, SKIN, TEETH, TONGUE, Parts
from .raster import lit, rasterize
from .scene import Scene
from .view import View

SUPERSAMPLE = 2
DEPTH_SLACK = 0.06       # head units: a landmark this close behind the first surface counts as seen


@dataclass(frozen=True)
class Light:
    """One key light with ambient and fill light, drawn per scene; directions in camera axes."""

    key: np.ndarray          # (3,) unit
    strength: float
    softness: float          # 0: full shadows, 1: none
    wrap: float              # light that bends round the terminator
    ambient: float
    fill: np.ndarray         # (3,) unit
    fill_strength: float
    tint: np.ndarray         # (3,) colour of the key light
    hard: bool               # the tag: strong light from the side, dark, or strongly coloured
    level: float             # mean brightness of the face, 0..255


def draw_light(scene: Scene, tones: Palette) -> Light:
    rng = scene.stream("light")
    hard = rng.random() < scene.style.hard_light
    key = np.array([rng.normal(0, 1.4 if hard else 0.6), rng.normal(0.45, 0.5), rng.uniform(0.3, 1.2)])
    fill = np.array([rng.normal(0, 1), rng.normal(0, 0.4), 0.4])
    tint = np.exp(rng.normal(0, 0.22 if hard else 0.06, 3))
    level = rng.uniform(60, 200) if hard else rng.uniform(90, 185)
    key, fill = (v.astype(np.float32) / np.float32(np.linalg.norm(v)) for v in (key, fill))
    tint = (tint / tint.mean()).astype(np.float32)
    return Light(key, rng.uniform(0.7, 1.3) if hard else rng.uniform(0.4, 0.9),
                 rng.uniform(0, 0.3) if hard else rng.uniform(0, 0.75), 0.0 if hard else rng.uniform(0, 0.3),
                 rng.uniform(0.08, 0.35) if hard else rng.uniform(0.25, 0.75), fill,
                 rng.uniform(0, 0.35), tint, hard, level * (tones.skin.mean() / 185) ** 0.35)


@dataclass(frozen=True)
class Picture:
    """A rendered scene before the sensor."""

    image: np.ndarray        # (S, S, 3) float32 RGB
    covered: np.ndarray      # (S, S) bool: occluders, masks, dark lenses
    depth: np.ndarray        # (S', S') distance along the optical axis, at the supersampled size
    light: Light


def render(parts: Parts, scene: Scene, vertices: np.ndarray, view: View) -> Picture:
    """Draw the scene as ``view`` sees it."""
    big = view.resized(SUPERSAMPLE)
    tones = palette(scene)
    light = draw_light(scene, tones)
    shell = grow_hair(parts, scene, vertices)
    triangles, materials = _triangles(parts, scene, shell)
    both = np.concatenate([vertices, shell.vertices])
    turn = scene.rotation.T.astype(np.float32)
    normals = np.concatenate([parts.normals(vertices), parts.normals(shell.vertices)]) @ turn
    shadows = lit(both, triangles, scene.rotation.T @ light.key)
    fragments = rasterize(big.to_camera(both), triangles, big)
    seen = surface(parts, shell, fragments, normals, 1 - (1 - light.softness) * (1 - shadows), materials)

    colour = _paint(parts, scene, seen, tones, light)
    mask = None
    if scene.stream("mask").random() < scene.style.mask:
        mask = clutter.wear_mask(scene.stream("mask"), seen.neutral, colour, seen.material == SKIN)
    colour = _shade(scene, seen, colour, light)

    image = clutter.background(scene.stream("background"), big.size)
    image.reshape(-1, 3)[fragments.pixels] = colour
    covered = np.zeros((big.size, big.size), np.float32)
    if mask is not None:
        covered.reshape(-1)[fragments.pixels] = mask
    clutter.wear_glasses(parts, scene, vertices, big, image, covered)
    clutter.wear_headband(scene, seen.neutral, fragments.pixels, image)
    clutter.occlude(scene, tones.skin, image, covered)
    size = (view.size, view.size)
    return Picture(cv2.resize(image, size, interpolation=cv2.INTER_AREA),
                   cv2.resize(covered, size, interpolation=cv2.INTER_AREA) > 0.5, fragments.depth, light)


def _triangles(parts: Parts, scene: Scene, shell: Shell) -> tuple[np.ndarray, np.ndarray]:
    """Triangles of head and hair with their materials; lashes only on some faces."""
    head_triangles, materials = parts.head.triangles, parts.material
    if scene.stream("lashes").random() > 0.65:
        keep = materials != LASHES
        head_triangles, materials = head_triangles[keep], materials[keep]
    grown = shell.triangles + len(parts.head.vertices)
    return (np.concatenate([head_triangles, grown]),
            np.concatenate([materials, np.full(len(grown), shell.material, np.uint8)]))


def _paint(parts: Parts, scene: Scene, seen: Surface, tones: Palette, light: Light) -> np.ndarray:
    """(n, 3) colours before light."""
    rng = scene.stream("mouth")
    teeth, tongue = np.array([232, 222, 205]) * rng.uniform(0.85, 1.1), np.array([170, 95, 95])
    colour = np.empty((len(seen.material), 3), np.float32)
    skin, eye = seen.material == SKIN, seen.material == EYE
    hair = seen.material >= HAIR
    colour[skin] = paint_skin(parts, scene, seen.where(skin), tones)
    colour[eye] = paint_eyes(parts, scene, seen.where(eye), light.key)
    if hair.any():
        colour[hair] = paint_hair(scene, seen.where(hair), tones)
    for material, flat in ((TEETH, teeth), (TONGUE, tongue), (LASHES, tones.hair * 0.5)):
        colour[seen.material == material] = flat
    return colour


def _shade(scene: Scene, seen: Surface, colour: np.ndarray, light: Light) -> np.ndarray:
    """Lambert's law with wrap-around, an ambient sky, a fill light, a rim and a gloss; then the exposure."""
    rng = scene.stream("shade")
    skin, hair = seen.material == SKIN, seen.material >= HAIR
    y = seen.neutral[:, 1]
    occlusion, arrives = seen.occlusion.copy(), seen.light
    teeth, tongue = seen.material == TEETH, seen.material == TONGUE
    occlusion[teeth] = rng.uniform(0.55, 0.95)                      # the closed mouth's occlusion would blacken teeth
    occlusion[tongue] = np.maximum(occlusion[tongue], 0.45)
    arrives = np.where(teeth, np.maximum(arrives, 0.5), arrives)
    occlusion *= np.where(skin & (y < 6.25 + 0.1 * seen.neutral[:, 2]), rng.uniform(0.45, 1), 1)  # under the chin
    occlusion[hair] *= np.clip(0.55 + 0.4 * (y[hair] - 6.9), 0.4, 1)

    n = seen.normal
    diffuse = np.clip((n @ light.key + light.wrap) / (1 + light.wrap), 0, 1) * arrives * light.strength
    sky = light.ambient * (rng.uniform(0.6, 1) + 0.3 * (0.5 + 0.5 * n[:, 1])) * occlusion ** rng.uniform(0.8, 1.6)
    fill = light.fill_strength * np.clip(n @ light.fill, 0, 1) * occlusion
    rim = rng.uniform(0, 0.25) * (rng.random() < 0.4) * (1 - np.clip(n[:, 2], 0, 1)) ** 3
    out = colour * ((sky + fill + rim)[:, None] + diffuse[:, None] * light.tint)

    face = skin & (y > 6.4) & (y < 7.8) & (seen.neutral[:, 2] > 0.6)
    out *= light.level / max(float(out[face].mean()) if face.any() else 100.0, 8.0)
    half = light.key + np.float32([0, 0, 1])
    gloss = np.clip(n @ (half / np.linalg.norm(half)), 0, 1) ** rng.uniform(12, 45) * arrives * rng.uniform(0, 0.3)
    out += (255 * gloss * np.where(hair, 0.6, 1) * ((seen.material != EYE) & (seen.material != CAP)))[:, None]
    return out.astype(np.float32)


def expose(scene: Scene, image: np.ndarray) -> tuple[np.ndarray, bool]:
    """What a sensor makes of it: gamma, contrast, colour cast, blur, low resolution, noise, JPEG.

    Returns:
        image: (S, S, 3) uint8.
        blurred: whether detail is visibly lost (the tag).
    """
    rng = scene.stream("sensor")
    size = image.shape[0]
    x = np.clip(image / 255, 0, 1) ** np.float32(2 ** rng.normal(0, 0.35))
    mean = x.mean()
    x = (x - mean) * np.float32(rng.uniform(0.75, 1.3)) + np.float32(mean * rng.uniform(0.8, 1.2))
    x *= np.exp(rng.normal(0, 0.06, 3)).astype(np.float32)
    blurred = bool(rng.random() < scene.style.blur)
    kind, sigma, angle, low = rng.integers(3), rng.uniform(1.1, 2.0), rng.uniform(0, np.pi), rng.uniform(0.22, 0.45)
    if not blurred:
        x = cv2.GaussianBlur(x, (0, 0), rng.uniform(0.25, 0.9) * size / 128)
    elif kind == 0:
        x = cv2.GaussianBlur(x, (0, 0), sigma * size / 128)
    elif kind == 1:
        x = cv2.filter2D(x, -1, _motion(angle, 2.5 * sigma * size / 128))
    else:
        small = cv2.resize(x, None, fx=low, fy=low, interpolation=cv2.INTER_AREA)
        x = cv2.resize(small, (size, size), interpolation=cv2.INTER_LINEAR)
    x = x + rng.normal(0, rng.uniform(0, 0.035), x.shape).astype(np.float32)
    out = (np.clip(x, 0, 1) * 255).astype(np.uint8)
    compressed, quality = rng.random() < 0.6, int(rng.uniform(25, 90))
    if compressed:
        out = cv2.imdecode(cv2.imencode(".jpg", out[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)[..., ::-1]
    return np.ascontiguousarray(out), blurred


def _motion(angle: float, length: float) -> np.ndarray:
    """A normalised line kernel."""
    reach = int(np.ceil(length / 2))
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    step = np.array([np.cos(angle), np.sin(angle)]) * length / 2
    a, b = (tuple(int(v) for v in np.rint((reach + s * step) * 16)) for s in (-1, 1))
    cv2.line(kernel, a, b, 1.0, 1, cv2.LINE_AA, 4)
    return kernel / kernel.sum()


def visible(points: np.ndarray, depths: np.ndarray, picture: Picture) -> tuple[np.ndarray, np.ndarray]:
    """Which landmarks are seen.

    Args:
        points: (K, 2) pixels of the final image.
        depths: (K,) distances along the optical axis; NaN for points of an outline, which are seen by definition.

    Returns:
        free: (K,) bool, nothing of the head itself is in front (tested on the depth buffer).
        open: (K,) bool, no occluder is.
    """
    size = picture.covered.shape[0]
    scale = picture.depth.shape[0] / size
    x, y = np.clip(np.rint((points + 0.5) * scale - 0.5), 1, picture.depth.shape[0] - 2).astype(int).T
    around = np.stack([picture.depth[y + dy, x + dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
    free = np.isnan(depths) | (depths <= around.max(0) + DEPTH_SLACK)
    px, py = np.clip(np.rint(points), 0, size - 1).astype(int).T
    return free, ~picture.covered[py, px]
