"""Colours of the head: skin, lips, brows, beard, eyes, hair, all painted over the *neutral* face.

Every pixel knows which point of the neutral head it shows; painting there makes paint follow expression and pose.
Units are head units (the eyes are 0.62 apart at their centres, the face about 1.6 high), colours RGB 0..255.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import ArrayLike

from .parts import CAP, HAIR, Parts
from .raster import Fragments
from .scene import Scene
from .view import gaze_direction

SKIN_TONES = np.array([(222, 180, 150), (198, 152, 120), (180, 130, 95), (150, 100, 70), (115, 75, 50), (85, 55, 38),
                       (230, 192, 165)], np.float32)
SKIN_CHANCES = [0.24, 0.20, 0.15, 0.10, 0.08, 0.07, 0.16]
HAIR_TONES = np.array([(22, 20, 20), (55, 38, 28), (95, 65, 45), (165, 130, 90), (120, 75, 60), (170, 165, 165)],
                      np.float32)
HAIR_CHANCES = [0.36, 0.27, 0.13, 0.09, 0.03, 0.12]
IRIS_TONES = np.array([(60, 45, 30), (100, 70, 40), (80, 110, 120), (70, 110, 90)], np.float32)
HAIR_KINDS = ("bald", "buzz", "short", "mid", "long")
HAIR_KIND_CHANCES = [0.05, 0.06, 0.38, 0.21, 0.30]
LOWEST_HAIR = {"bald": 9.0, "buzz": 6.45, "short": 6.4, "mid": 6.3, "long": 5.9, "cap": 7.35}  # height it falls to
HAIR_VOLUME = {"bald": (0, 0), "buzz": (0.01, 0.04), "short": (0.04, 0.22), "mid": (0.08, 0.30), "long": (0.08, 0.32),
               "cap": (0.06, 0.15)}


def ramp(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """0 at ``low``, 1 at ``high``, straight between; falls where low > high."""
    return np.clip((x - low) / (high - low), 0, 1)


# ---- textures --------------------------------------------------------------------------------------------------------

def noise(rng: np.random.Generator, height: int, width: int, scales: tuple[int, ...], stretch: int = 1) -> np.ndarray:
    """A cloudy field of unit variance: random grids of several scales, summed; ``stretch`` draws it out downwards."""
    field, weight = np.zeros((height, width), np.float32), 1.0
    for scale in scales:
        grid = rng.normal(size=(max(2, height // scale // stretch), max(2, width // scale))).astype(np.float32)
        field += weight * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        weight *= 0.75
    return field / field.std()


@lru_cache(maxsize=1)
def clouds() -> list[np.ndarray]:
    """Four isotropic noise fields, the same in every process."""
    rng = np.random.default_rng(5)
    return [noise(rng, 512, 512, (96, 48, 24, 12, 6, 3)) for _ in range(4)]


@lru_cache(maxsize=1)
def strands() -> list[np.ndarray]:
    """Four noise fields drawn out like hair."""
    rng = np.random.default_rng(6)
    return [noise(rng, 512, 1024, (24, 10, 5, 3, 2), stretch=12) for _ in range(4)]


def sample(field: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Bilinear look-up with wrap-around, u and v in turns of the field, (n,)."""
    n, row = len(u), 1024
    grid = np.zeros((2, -(-n // row) * row), np.float32)
    grid[0, :n] = (u - np.floor(u)) * (field.shape[1] - 1)              # twice as fast as u % 1
    grid[1, :n] = (v - np.floor(v)) * (field.shape[0] - 1)
    return cv2.remap(field, grid[0].reshape(-1, row), grid[1].reshape(-1, row), cv2.INTER_LINEAR).ravel()[:n]


def distance_to_curve(x: np.ndarray, y: np.ndarray, curve: np.ndarray) -> np.ndarray:
    """(n,) float32 distances of points from a short polyline (m, 2), for painting only."""
    nearest = np.full(len(x), np.inf, np.float32)
    for (ax, ay), (bx, by) in zip(curve[:-1].tolist(), curve[1:].tolist()):
        dx, dy = bx - ax, by - ay
        ox, oy = x - ax, y - ay
        t = np.clip((ox * dx + oy * dy) / max(dx * dx + dy * dy, 1e-9), 0, 1)
        ox -= t * dx
        oy -= t * dy
        np.minimum(nearest, ox * ox + oy * oy, out=nearest)
    return np.sqrt(nearest)


def unit(vectors: np.ndarray) -> np.ndarray:
    """(n, 3) vectors scaled to length one, in place."""
    vectors /= np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None] + 1e-6
    return vectors


# ---- hair ------------------------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Shell:
    """Hair or a cap: a copy of part of the scalp, pushed outwards."""

    vertices: np.ndarray     # (V, 3)
    triangles: np.ndarray    # (F', 3) ids into ``vertices``
    cover: np.ndarray        # (V,) 0..1: hair painted on the skin itself, so that hairlines are soft
    material: int            # HAIR or CAP
    kind: str


def grow_hair(parts: Parts, scene: Scene, vertices: np.ndarray) -> Shell:
    """Choose a cut and a hairline, and lift the scalp above it."""
    rng = scene.stream("hair")
    kind = str(rng.choice(HAIR_KINDS, p=HAIR_KIND_CHANCES))
    if kind == "bald" and scene.age < 0.2 and rng.random() < 0.6:
        kind = "short"
    capped = rng.random() < scene.style.cap
    if capped:
        kind = "cap"
    n = parts.head.neutral
    azimuth = np.arctan2(n[:, 0], n[:, 2] - 0.2)
    back = np.rad2deg(np.abs(azimuth))                                # 0 at the face's front, 180 at its back
    offset = rng.uniform()
    curl = sample(clouds()[rng.integers(4)], azimuth / 6.28 * 0.7 + offset, n[:, 1] * 0.25 + offset)
    parting = rng.uniform(-0.3, 0.3)
    front = rng.normal(7.92, 0.09) + 0.06 * np.sin(n[:, 0] * 3 + 5 * parting) + 0.10 * parting * n[:, 0]
    bangs, bang_depth, cap_front = rng.random() < 0.35, rng.uniform(0.08, 0.4), rng.uniform(7.72, 8.0)
    if bangs and kind in ("short", "mid", "long"):
        front = front - bang_depth
    temple = front - rng.uniform(0.35, 0.65)
    turn = rng.uniform(42, 62) if kind == "long" else rng.uniform(48, 64)   # degrees where the hairline drops
    lowest = LOWEST_HAIR[kind] + (rng.uniform(-0.5, 0.4) if kind == "long" else 0)
    side_mid, side_short, thickness = rng.uniform(6.6, 7.2), rng.uniform(6.95, 7.4), rng.uniform(*HAIR_VOLUME[kind])
    side = {"long": lowest, "mid": side_mid}.get(kind, side_short)
    line = np.where(back < turn - 14, front, np.where(
        back < turn, front + (temple - front) * (back - turn + 18) / 18, np.where(
            back < turn + 22, temple + (side - temple) * (back - turn) / 22,
            np.interp(back, [turn + 22, 115, 180], [lowest if kind == "long" else 7.0, lowest, lowest]))))
    if capped:
        curl = curl * 0
        line = np.interp(back, [0, 60, 90, 180], [cap_front, cap_front - 0.1, 7.5, 7.2])
    above = n[:, 1] - line + 0.03 * curl
    ears_hidden = kind in ("mid", "long") and rng.random() < 0.75
    allowed = parts.body & (ears_hidden | ~parts.ear)
    if kind == "bald":
        above = above * 0 - 1
    grown = allowed & (above > 0)
    triangles = parts.body_triangles[grown[parts.body_triangles].all(1)]

    away = vertices - [0, 7.35, 0.35]
    away[:, 1] = np.where(n[:, 1] < 7.2, 0, away[:, 1])               # long hair falls, it does not stand off the neck
    away /= np.linalg.norm(away, axis=1, keepdims=True) + 1e-6
    lift = thickness * ramp(above, -0.02, 0.25) * (1 + 0.35 * curl) + 0.012
    if kind == "long":
        lift += (0.25 * thickness + 0.1) * ramp(n[:, 1], 7.0, 6.2)
    cover = allowed * ramp(above, -0.07, 0.03) * (0 if capped else 1)
    return Shell((vertices + away * lift[:, None]).astype(np.float32), triangles, cover.astype(np.float32),
                 CAP if capped else HAIR, kind)


# ---- the painted surface ---------------------------------------------------------------------------------------------

@dataclass(frozen=True)
class Surface:
    """Attributes of n pixels that show the head."""

    normal: np.ndarray       # (n, 3) unit, camera axes
    neutral: np.ndarray      # (n, 3) place on the neutral head
    light: np.ndarray        # (n,) share of the key light that arrives
    occlusion: np.ndarray    # (n,) ambient light that arrives
    lips: np.ndarray         # (n,) 0..1
    cover: np.ndarray        # (n,) hair growing on the skin
    material: np.ndarray     # (n,)
    vertical: np.ndarray     # (n,) texture coordinates shared by all textures
    around: np.ndarray

    def where(self, mask: np.ndarray) -> Surface:
        """The pixels of a mask."""
        index = np.flatnonzero(mask)                       # looked up once; rows by number come fastest
        return replace(self, **{name: getattr(self, name).take(index, axis=0) for name in self.__dataclass_fields__})


def surface(parts: Parts, shell: Shell, fragments: Fragments, normals: np.ndarray, light: np.ndarray,
            materials: np.ndarray) -> Surface:
    """Interpolate what painting and shading need. ``normals``, ``light``: per vertex of head and shell together."""
    head = parts.head
    count = len(head.neutral)
    both = np.empty((2 * count, 10), np.float32)
    both[:, :3] = normals
    both[:count, 3:6] = both[count:, 3:6] = head.neutral
    both[:, 6] = light
    both[:count, 7] = head.ambient_occlusion
    both[count:, 7] = np.minimum(1, 0.35 + head.ambient_occlusion)
    both[:count, 8], both[count:, 8] = head.lips, 0
    both[:count, 9], both[count:, 9] = shell.cover, 0
    a = fragments.interpolate(both)
    normal = unit(a[:, :3].copy())
    normal *= np.where(normal[:, 2:] < -0.05, -1, 1).astype(np.float32)
    around = np.arctan2(a[:, 3], a[:, 5] - 0.2) / 6.283
    material = materials[fragments.triangles]
    return Surface(normal, a[:, 3:6], a[:, 6], a[:, 7], a[:, 8], a[:, 9], material, a[:, 4], around)


@dataclass(frozen=True)
class Palette:
    """Colours that several parts share."""

    skin: np.ndarray
    hair: np.ndarray


def palette(scene: Scene) -> Palette:
    rng = scene.stream("skin")
    skin = SKIN_TONES[rng.choice(len(SKIN_TONES), p=SKIN_CHANCES)] * np.float32(rng.uniform(0.85, 1.1))
    hair = HAIR_TONES[rng.choice(len(HAIR_TONES), p=HAIR_CHANCES)] * np.float32(rng.uniform(0.7, 1.2))
    if scene.age > 0.5 and rng.random() < 0.6:
        hair = HAIR_TONES[-1] * np.float32(rng.uniform(0.7, 1.2))
    return Palette(skin, hair)


def mix(colour: np.ndarray, alpha: np.ndarray, paint: ArrayLike) -> None:
    """Lay ``paint`` over ``colour`` (n, 3), in place, with opacity ``alpha`` (n,)."""
    touched = np.flatnonzero(alpha > 0.004)
    if len(touched):
        under = colour[touched]
        colour[touched] = under + alpha[touched, None].astype(np.float32) * (np.asarray(paint, np.float32) - under)


def paint_skin(parts: Parts, scene: Scene, s: Surface, tones: Palette) -> np.ndarray:
    """(n, 3) colours of skin pixels: texture, blush, lids, folds, brows, lips, beard, hairline, clothes."""
    rng = scene.stream("paint")
    x, y = np.abs(s.neutral[:, 0]), s.neutral[:, 1]
    skin, hair = tones.skin, tones.hair
    u0, v0 = rng.uniform(size=2)
    coarse = sample(clouds()[rng.integers(4)], s.around * 2 + u0, s.vertical * 0.35 + v0)
    fine = sample(clouds()[rng.integers(4)], s.around * 8 + u0, s.vertical * 1.3 + v0)
    fibre = sample(strands()[rng.integers(4)], s.around * 2 + u0 + 0.02 * coarse, s.vertical * 0.18 + v0)
    colour = skin * (1 + rng.uniform(0.01, 0.05) * coarse + rng.uniform(0.01, 0.05) * fine)[:, None]

    blush = skin * [1.02, 0.75, 0.75]
    mix(colour, rng.uniform(0, 0.2) * np.exp(-((x - 0.4) ** 2 + (y - 6.98) ** 2) / 0.04), blush)
    mix(colour, rng.uniform(0, 0.15) * np.exp(-(x**2 + (y - 7.0) ** 2) / 0.02), blush)
    lipstick = rng.random() < 0.3 * (1 - 0.8 * scene.male)
    bare_lips = skin * rng.uniform([0.8, 0.5, 0.6], [1, 0.75, 0.85])
    painted_lips = rng.uniform([100, 20, 30], [190, 80, 90])
    mix(colour, np.clip(s.lips * 1.2, 0, 1) * rng.uniform(0.35, 1), painted_lips if lipstick else bare_lips)

    # lids: a dark upper line (lashes, liner), a fold above it, a pale line and a bag below
    eyes = np.flatnonzero((y > 7.15) & (y < 7.65) & (x < 0.65))
    ex, ey = x[eyes], y[eyes]
    head = parts.head
    flat = head.neutral[:, :2]
    upper, lower = (head.points(flat, *head.contour(f"left_eye_{lid}_lid"))[::3] for lid in ("upper", "lower"))
    area = colour[eyes]
    up, low = distance_to_curve(ex, ey, upper), distance_to_curve(ex, ey, lower)
    mix(area, np.clip(1 - up / rng.uniform(0.015, 0.035), 0, 1) * rng.uniform(0.2, 0.9),
        hair * 0.5 if rng.random() < 0.5 else skin * 0.35)
    mix(area, np.clip(1 - low / 0.02, 0, 1) * rng.uniform(0, 0.5), skin * 0.45)
    mix(area, np.clip(1 - distance_to_curve(ex, ey, upper + [0, rng.uniform(0.04, 0.08)]) / 0.025, 0, 1)
        * rng.uniform(0, 0.55), skin * 0.5)
    mix(area, np.clip(1 - distance_to_curve(ex, ey, lower - [0, 0.08]) / 0.05, 0, 1) * rng.uniform(0, 0.5), skin * 0.55)
    if rng.random() < 0.25 * (1 - 0.8 * scene.male):
        mix(area, np.clip(1 - up / 0.1, 0, 1) * (ey > 7.32) * rng.uniform(0.2, 0.7), rng.uniform(20, 160, 3))
    colour[eyes] = area

    # folds of laughter and of age
    fold = np.array([[0.15, 6.98], [0.24, 6.88], [0.30, 6.72], [0.29, 6.60]])
    cheeks = np.flatnonzero((y > 6.5) & (y < 7.08) & (x < 0.45))
    area = colour[cheeks]
    mix(area, np.clip(1 - distance_to_curve(x[cheeks], y[cheeks], fold) / 0.03, 0, 1)
        * rng.uniform(0, 0.35 + 0.45 * scene.age), skin * 0.5)
    colour[cheeks] = area
    if scene.age > 0.25:
        lines = 0.5 + 0.5 * np.sin(y * 2 * np.pi / rng.uniform(0.07, 0.11) + 0.5 * np.cos(x * 4))
        mix(colour, (lines > 0.8) * (y > 7.66) * (y < 8.0) * (x < 0.4) * rng.uniform(0, 0.35), skin * 0.6)

    # brows, along the curve that carries their landmarks
    brows = np.flatnonzero((y > 7.3) & (y < 7.95) & (x < 0.75))
    curve = scene.brow.curve(9)
    along = np.clip((x[brows] - scene.brow.inner) / (scene.brow.outer - scene.brow.inner), 0, 1)
    half = scene.brow.thickness * (1 - 0.55 * along**1.5)
    density = rng.uniform(0.7, 1) if rng.random() < 0.9 else rng.uniform(0.2, 0.6)
    away = distance_to_curve(x[brows], y[brows], curve)
    area = colour[brows]
    dark = np.minimum(hair * rng.uniform(0.5, 1), skin * 0.7) if rng.random() < 0.8 else skin * rng.uniform(0.25, 0.5)
    hairs = np.clip(0.75 + 0.35 * fibre[brows], 0, 1) * density
    mix(area, np.clip((half * 1.25 - away) / (half * 0.7), 0, 1) * hairs, dark)
    colour[brows] = area

    if scene.male > 0.45 and rng.random() < scene.style.beard:
        mix(colour, _beard(rng, s, x, y, fibre), hair * rng.uniform(0.8, 1.2))
    mix(colour, s.cover * np.clip(0.8 + 0.3 * fibre, 0, 1), hair * 0.9)
    _clothe(rng, colour, s, x, y, fine)
    return colour


def _beard(rng: np.random.Generator, s: Surface, x: np.ndarray, y: np.ndarray, fibre: np.ndarray) -> np.ndarray:
    """Opacity of stubble, full beard, moustache or goatee."""
    kind = rng.integers(4)
    edge = 6.74 + (x - 0.25) * 0.75
    chin = ramp(edge - y, -0.04, 0.06) * (y > 6.2) * ramp(s.neutral[:, 2], 0.35, 0.5)
    moustache = ramp(0.34 - x, -0.02, 0.06) * ramp(6.91 - y, 0, 0.04) * ramp(y, 6.74, 6.79)
    mouth = np.exp(-((x / 0.26) ** 2 + ((y - 6.66) / 0.12) ** 2) ** 2)
    area = [np.clip(chin * (1 - mouth) + moustache, 0, 1)] * 2 + [
        moustache, np.clip(moustache + chin * (x < 0.27) * (1 - mouth), 0, 1)]
    strength = rng.uniform(0.1, 0.35) if kind == 0 else rng.uniform(0.4, 0.95) * np.clip(0.8 + 0.3 * fibre, 0, 1)
    return area[kind] * (1 - np.clip(s.lips * 1.5, 0, 1)) * strength


def _clothe(rng: np.random.Generator, colour: np.ndarray, s: Surface, x: np.ndarray, y: np.ndarray,
            fine: np.ndarray) -> None:
    """A collar of any colour on what shows of the shoulders."""
    neckline = 0.4 * np.clip(0.35 - x, 0, 1) * (rng.random() < 0.6)
    cloth = y < rng.uniform(5.85, 6.25) + (s.neutral[:, 2] < 0.3) * 0.15 - neckline
    tones = [rng.uniform(10, 235, 3), np.full(3, rng.uniform(10, 60)), np.full(3, rng.uniform(180, 250))]
    colour[cloth] = tones[rng.choice(3, p=[0.4, 0.36, 0.24])] * (1 + 0.08 * fine[cloth, None])


def paint_eyes(parts: Parts, scene: Scene, s: Surface, light: np.ndarray) -> np.ndarray:
    """(n, 3): white, iris where the gaze leaves the ball, pupil, a highlight, the shade of the upper lid."""
    rng = scene.stream("eyes")
    head = parts.head
    right, left = (head.neutral[ids].mean(0) for ids in (head.right_eye_vertices, head.left_eye_vertices))
    centers = np.where(s.neutral[:, :1] > 0, left, right)
    ray = s.neutral - centers
    ray = unit(ray)
    gaze = gaze_direction(scene).astype(np.float32)
    angle = np.rad2deg(np.arccos(np.clip(ray @ gaze, -1, 1)))
    colour = np.tile(np.array([222, 212, 205], np.float32) * np.float32(rng.uniform(0.75, 1.05)), (len(ray), 1))
    radius = rng.uniform(27, 33)
    mix(colour, np.clip((radius - angle) / 3, 0, 1), IRIS_TONES[rng.integers(4)] * rng.uniform(0.7, 1.2))
    rim = np.clip((radius - angle) / 2, 0, 1) * np.clip((angle - radius + 6) / 3, 0, 1)
    colour *= (1 - 0.5 * rim)[:, None]
    colour[angle < rng.uniform(9, 15)] = 12
    glint = np.array([gaze[0] + 0.12 * light[0], gaze[1] + 0.15 + 0.1 * rng.uniform(), 1.0])
    glint /= np.linalg.norm(glint)
    colour[np.rad2deg(np.arccos(np.clip(ray @ glint, -1, 1))) < rng.uniform(3, 6)] = 250
    colour *= np.clip(1 - 0.8 * np.clip((ray[:, 1:2] - 0.12) / 0.35, 0, 1), 0.3, 1)
    return colour


def paint_hair(scene: Scene, s: Surface, tones: Palette) -> np.ndarray:
    """(n, 3): strands, or the plain cloth of a cap."""
    rng = scene.stream("strands")
    u0, v0 = rng.uniform(size=2)
    fibre = sample(strands()[rng.integers(4)], s.around * 2 + u0, s.vertical * 0.18 + v0)
    cap = rng.uniform(10, 235, 3)
    colour = tones.hair * np.clip(1 + rng.uniform(0.15, 0.45) * fibre, 0.2, 2)[:, None]
    worn = s.material == CAP
    colour[worn] = cap * (1 + 0.05 * fibre[worn, None])
    return colour
