"""Everything in the picture that is not the head: backgrounds, glasses, masks, headbands, occluders."""

from __future__ import annotations

import cv2
import numpy as np

from .paint import clouds
from .parts import Parts
from .scene import Scene
from .view import View


def background(rng: np.random.Generator, size: int) -> np.ndarray:
    """(size, size, 3) a gradient or a cloud, with shapes strewn over it and, mostly, out of focus."""
    kind = rng.integers(3)
    if kind == 0:
        corners = rng.uniform(0, 255, (2, 2, 3)).astype(np.float32)
        image = cv2.resize(corners, (size, size), interpolation=cv2.INTER_LINEAR)
    elif kind == 1:
        cloud = _cloud(rng, size)
        image = rng.uniform(20, 220, 3) + cloud[..., None] * rng.uniform(-40, 40, 3)
    else:
        grey = rng.uniform(10, 240) + rng.normal(0, 12, 3)
        image = np.broadcast_to(grey, (size, size, 3)) + rng.uniform(0, 25) * _cloud(rng, size)[..., None]
    image = np.ascontiguousarray(image, np.float32)
    if rng.random() < 0.7:
        for _ in range(rng.integers(3, 22)):
            _strew(rng, image)
        if rng.random() < 0.75:
            image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.7, 8))
    return image


def _cloud(rng: np.random.Generator, size: int) -> np.ndarray:
    field = clouds()[rng.integers(4)]
    y, x = rng.integers(0, field.shape[0] // 2, 2)
    return cv2.resize(field[y:y + 256, x:x + 256], (size, size))


def _strew(rng: np.random.Generator, image: np.ndarray) -> None:
    """One shape of any colour: box, disc, blob, bar or stripes."""
    size = image.shape[0]
    colour = rng.uniform(0, 255, 3) if rng.random() < 0.5 else np.full(3, rng.uniform(0, 255)) + rng.normal(0, 10, 3)
    colour = tuple(float(c) for c in colour)
    at = rng.uniform(0, size, 2)
    reach = rng.uniform(0.03, 0.45, 2) * size
    kind = rng.integers(5)
    if kind == 0:
        cv2.rectangle(image, _int(at), _int(at + reach), colour, -1)
    elif kind == 1:
        cv2.ellipse(image, _int(at), _int(reach / 2), float(rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
    elif kind == 2:
        corners = at + rng.uniform(-0.5, 0.5, (rng.integers(3, 8), 2)) * reach.max()
        cv2.fillPoly(image, [np.rint(corners).astype(np.int32)], colour, cv2.LINE_AA)
    elif kind == 3:
        cv2.line(image, _int(at), _int(rng.uniform(0, size, 2)), colour, int(rng.uniform(1, 0.06 * size)), cv2.LINE_AA)
    else:
        step = rng.uniform(0.02, 0.08) * size
        for k in range(int(rng.integers(3, 10))):
            cv2.line(image, _int(at + [k * step, 0]), _int(at + [k * step, reach[1]]), colour, max(1, int(step / 3)))


def _int(point: np.ndarray) -> tuple[int, int]:
    x, y = np.rint(point).astype(int)
    return int(x), int(y)


# ---- worn on the face -----------------------------------------------------------------------------------------------

def wear_mask(rng: np.random.Generator, neutral: np.ndarray, colour: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """Paint a surgical mask over mouth and nostrils; returns (n,) 0/1 where it lies."""
    x, y, z = np.abs(neutral[:, 0]), neutral[:, 1], neutral[:, 2]
    top = rng.uniform(6.95, 7.15) - 0.25 * x
    worn = skin & (y < top) & (y > 6.28 + 0.35 * x) & (z > 0.45)
    strap = skin & (np.abs(y - (6.95 - 0.05 * x)) < 0.012) & (z <= 0.5) & (z > -0.1)
    cloths = [(150, 185, 205), (235, 235, 235), (30, 30, 34), rng.uniform(20, 230, 3)]
    cloth = np.array(cloths[rng.integers(4)], np.float32)
    pleats = 1 - 0.12 * (np.sin(y * rng.uniform(45, 75)) > 0.75)
    colour[worn] = cloth * pleats[worn, None]
    colour[strap] = cloth
    return worn.astype(np.float32)


def wear_headband(scene: Scene, neutral: np.ndarray, pixels: np.ndarray, image: np.ndarray) -> None:
    """A band of cloth round the forehead, keeping the light that falls there."""
    rng = scene.stream("headband")
    worn = rng.random() < scene.style.headband
    low, width, cloth = rng.uniform(7.72, 7.9), rng.uniform(0.06, 0.18), rng.uniform(20, 235, 3)
    if not worn:
        return
    band = (neutral[:, 1] > low) & (neutral[:, 1] < low + width)
    flat = image.reshape(-1, 3)
    here = pixels[band]
    flat[here] = cloth * (flat[here].mean(1, keepdims=True) / max(float(flat[here].mean()), 1.0) if band.any() else 1)


def wear_glasses(parts: Parts, scene: Scene, vertices: np.ndarray, view: View, image: np.ndarray,
                 covered: np.ndarray) -> None:
    """Frames as curves in front of the eyes, projected; clear, reflecting or dark lenses."""
    rng = scene.stream("glasses")
    if rng.random() >= scene.style.glasses:
        return
    head = parts.head
    points = head.points(vertices, head.landmarks68_ids, head.landmarks68_weights)
    wide = rng.uniform(0.19, 0.26)
    high, power = wide * rng.uniform(0.6, 1.0), 2 / rng.uniform(2, 4)
    dark, reflecting = rng.random() < 0.22, rng.random() < 0.35
    opacity, glass = rng.uniform(0.45, 0.97), rng.uniform(5, 60, 3)
    front = points[[37, 38, 43, 44], 2].mean() + 0.06
    t = np.linspace(0, 2 * np.pi, 40)
    rim = np.stack([np.sign(np.cos(t)) * np.abs(np.cos(t)) ** power * wide,
                    np.sign(np.sin(t)) * np.abs(np.sin(t)) ** power * high], axis=1)
    lenses = []
    for eye in (points[36:42].mean(0), points[42:48].mean(0)):
        side = np.sign(eye[0])
        depth = front - 0.35 * (rim[:, 0] + 0.03 * side) ** 2 - 0.10 * np.clip(side * rim[:, 0], 0, 1)
        lenses.append(np.column_stack([eye[0] + 0.03 * side + rim[:, 0], eye[1] - 0.03 + rim[:, 1], depth]))
    right, left = lenses
    bridge = np.stack([right[0], (right[0] + left[20]) / 2 + [0, 0.03, 0.04], left[20]])
    temples = [np.stack([lens[k], lens[k] + [0.13 * side, 0.02, -0.22], [points[ear, 0] * 1.12, points[eye, 1], 0.55]])
               for lens, k, side, ear, eye in ((right, 19, -1, 0, 36), (left, 1, 1, 16, 45))]

    def pixels(curve: np.ndarray) -> np.ndarray:
        return view.to_pixels(view.to_camera(curve))

    for lens in lenses:
        glassy = np.zeros(image.shape[:2], np.float32)
        cv2.fillPoly(glassy, [np.rint(pixels(lens)).astype(np.int32)], 1.0)
        if dark:
            image += opacity * glassy[..., None] * (glass.astype(np.float32) - image)
            if opacity > 0.7:
                np.maximum(covered, glassy, out=covered)
        elif reflecting:
            glow = np.clip(_cloud(scene.stream("reflection"), image.shape[0]), 0, 2) * rng.uniform(0, 60)
            image += (glassy * glow)[..., None]
    hidden = None if abs(scene.yaw) < 8 else 1 if scene.yaw > 0 else 0      # the temple behind a turned face
    curves = [right, left, bridge] + [temple for k, temple in enumerate(temples) if k != hidden]
    frame = rng.uniform(0, 70, 3) if rng.random() < 0.75 else rng.uniform(100, 230, 3)
    thick = max(1, int(round(rng.uniform(1, 5) * image.shape[0] / 320)))
    for curve in curves:
        closed = curve is right or curve is left
        cv2.polylines(image, [np.rint(pixels(curve) * 8).astype(np.int32)], closed, tuple(map(float, frame)), thick,
                      cv2.LINE_AA, 3)


# ---- in front of the face -------------------------------------------------------------------------------------------

def occlude(scene: Scene, skin: np.ndarray, image: np.ndarray, covered: np.ndarray) -> None:
    """Hands, cups, microphones, boards, black boxes: shaded, textured shapes between camera and face."""
    rng = scene.stream("occluder")
    if rng.random() >= scene.style.occluder:
        return
    size = image.shape[0]
    for _ in range(rng.integers(1, 3)):
        kind = rng.choice(["hand", "cup", "stick", "board", "box"], p=[0.35, 0.2, 0.15, 0.15, 0.15])
        shade = np.zeros((size, size), np.float32)        # 0 where it is not, else its brightness
        {"hand": _hand, "cup": _cup, "stick": _stick, "board": _board, "box": _box}[kind](rng, shade, size)
        colour = {"hand": skin * rng.uniform(0.7, 1.15), "box": np.full(3, rng.choice([0.0, 0.0, 255.0]))}.get(
            kind, rng.uniform(0, 255, 3))
        mask = (shade > 0).astype(np.float32)
        texture = 1 + (0.0 if kind == "box" else 0.12) * _cloud(rng, size)
        mask = cv2.GaussianBlur(mask, (3, 3), 0)[..., None]
        image += mask * (np.clip(colour * (shade * texture)[..., None], 0, 255).astype(np.float32) - image)
        np.maximum(covered, shade > 0, out=covered)


def _hand(rng: np.random.Generator, shade: np.ndarray, size: int) -> None:
    """Fingers side by side, from a palm outside or over the face, lighter along their middle."""
    angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.12, 0.34) * size
    out = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-out[1], out[0]])
    width = rng.uniform(0.045, 0.075) * size
    tip = np.full(2, size / 2) + out * reach + rng.normal(0, 0.05, 2) * size
    fingers = rng.integers(1, 5)
    for level, share in ((0.55, 1.0), (0.8, 0.75), (0.95, 0.4)):
        for k in range(fingers):
            start = tip + across * (k - fingers / 2) * width * 1.08 + out * width * (0.6, 0.15, 0.0, 0.4)[k]
            cv2.line(shade, _int(start), _int(start + out * size), level, max(1, int(width * share)), cv2.LINE_AA)
    shade[(shade > 0) & (shade < 0.5)] = 0


def _cup(rng: np.random.Generator, shade: np.ndarray, size: int) -> None:
    center = np.array([rng.uniform(0.3, 0.7), rng.uniform(0.45, 0.85)]) * size
    wide, high = rng.uniform(0.07, 0.14) * size, rng.uniform(0.1, 0.2) * size
    corners = center + np.array([[-wide, -high], [wide, -high], [0.8 * wide, high], [-0.8 * wide, high]])
    cv2.fillPoly(shade, [np.rint(corners).astype(np.int32)], 1.0, cv2.LINE_AA)
    shade *= 0.7 + 0.3 * np.cos((np.arange(size, dtype=np.float32) - center[0]) / wide * 1.4)


def _stick(rng: np.random.Generator, shade: np.ndarray, size: int) -> None:
    """A microphone: a ball on a rod, mostly below the mouth."""
    ball = np.array([rng.uniform(0.35, 0.65), rng.uniform(0.55, 0.8)]) * size
    foot = np.array([rng.uniform(0.1, 0.9) * size, size * 1.1])
    radius = rng.uniform(0.035, 0.08) * size
    cv2.line(shade, _int(ball), _int(foot), 0.7, max(1, int(radius * rng.uniform(0.5, 1.1))), cv2.LINE_AA)
    cv2.circle(shade, _int(ball), int(radius), 0.85, -1, cv2.LINE_AA)


def _board(rng: np.random.Generator, shade: np.ndarray, size: int) -> None:
    corners = rng.uniform(0.15, 0.85, 2) * size + rng.uniform(-0.22, 0.22, (rng.integers(3, 6), 2)) * size
    cv2.fillPoly(shade, [np.rint(corners).astype(np.int32)], float(rng.uniform(0.5, 1.1)), cv2.LINE_AA)


def _box(rng: np.random.Generator, shade: np.ndarray, size: int) -> None:
    at, reach = rng.uniform(0.15, 0.7, 2) * size, rng.uniform(0.08, 0.3, 2) * size
    cv2.rectangle(shade, _int(at), _int(at + reach), 1.0, -1)
