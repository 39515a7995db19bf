"""What one synthetic face is: identity, expression, pose, camera and a recipe for its looks.

A ``Scene`` is drawn from (seed, index) alone. Everything that decides *where* the landmarks are stands in it as a
number; the looks (skin, hair, light, background, sensor) are drawn later, each from a stream of its own, so that
``dataclasses.replace(scene, yaw=30)`` turns the head and changes nothing else.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import lru_cache
from numbers import Real

import numpy as np

from .head import load

ORIGINS = ("african", "asian", "caucasian")
GENDERS = ("male", "female")
DIRECTIONS = ("-decr", "-incr", "-up", "-down", "-in", "-out", "-backward", "-forward", "-concave", "-convex",
              "-compress", "-uncompress")
# MakeHuman's mean face against mean landmarks of photos: full lips, a low nose tip, and in turned views a brow ridge
# too far back and a mouth too far forward; these weights join every identity
PROPORTIONS = {
    "eyebrows/eyebrows-trans-forward": 0.4, "mouth/mouth-trans-backward": 0.6, "mouth/mouth-trans-up": 0.15,
    "mouth/mouth-scale-vert-decr": 0.6, "mouth/mouth-lowerlip-height-decr": 0.5, "nose/nose-greek-incr": 0.3,
    "nose/nose-point-up": 0.4, "chin/chin-prognathism-incr": 0.6}
# these turn skulls into eggs, or move the head and not the face
LEFT_OUT = ("ear-shape", "head/head-trans", "neck/measure-neck-height", "head/head-scale-horiz",
            "head/head-scale-depth", "head/head-back-scale-depth")


@dataclass(frozen=True)
class Style:
    """How far a domain of rendered faces varies; chances are per face, angles in degrees.

    Raises:
        ValueError: if a field is no number, negative, or a chance is above 1.
    """

    yaw: float = 60.0
    pitch: float = 30.0
    roll: float = 30.0
    glasses: float = 0.22
    beard: float = 0.5           # of male faces
    cap: float = 0.07
    headband: float = 0.05
    mask: float = 0.04
    occluder: float = 0.25
    blur: float = 0.25           # chance of strong blur or low resolution
    hard_light: float = 0.3
    local_targets: int = 18      # identity targets drawn; 40 at full strength make monsters
    target_strength: float = 0.75

    def __post_init__(self) -> None:
        most = {"yaw": 180, "pitch": 180, "roll": 180, "local_targets": 1000, "target_strength": 100}
        for name in (each.name for each in fields(self)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value <= most.get(name, 1):
                raise ValueError(f"{name} must be a number in 0 .. {most.get(name, 1)}, got {value!r}")
        if self.local_targets % 1:
            raise ValueError(f"local_targets must be whole, got {self.local_targets!r}")


LID_FOLD = 7.41  # head units: no brow grows below


@dataclass(frozen=True)
class Brow:
    """A brow's centre line over the neutral face, in head units, from its inner to its outer end."""

    inner: float
    outer: float
    height: float
    arch: float
    tilt: float
    thickness: float

    def curve(self, n: int) -> np.ndarray:
        """(n, 2) points of the left brow in the neutral frontal plane."""
        t = np.linspace(0, 1, n)
        peak = 0.52
        bow = np.where(t < peak, 1 - ((t - peak) / peak) ** 2, 1 - 2 * ((t - peak) / (1 - peak)) ** 2)
        y = self.height + self.arch * bow + 0.5 * self.tilt * (t - 0.5)
        return np.stack([self.inner + (self.outer - self.inner) * t, np.maximum(y, LID_FOLD)], axis=1)


@dataclass(frozen=True)
class Scene:
    """One face before it is rendered. Angles in degrees; yaw > 0 turns the head to its left (image right)."""

    seed: tuple[int, int]
    style: Style
    weights: dict[str, float]    # of the head's morph targets: identity and expression
    widen: float                 # lateral widening of the jaw, head units: MakeHuman's faces are too narrow
    broaden: float               # share by which the chin is broadened; MakeHuman's is pointed
    chin: float                  # how far the chin is drawn down, head units
    lengthen: float              # share by which the face below the eyes is stretched downwards
    male: float
    age: float
    brow: Brow
    gaze: tuple[float, float]    # yaw, pitch of the eyes within the head
    yaw: float
    pitch: float
    roll: float
    distance: float              # camera to face, head units (a head is about 2.3 high)
    fill: float                  # longer side of the landmark box over the image side
    shift: tuple[float, float]   # of the box's centre from the image's, over the image side
    expressive: bool
    skin_seed: int = 0           # counts up to give the same face other looks
    light_seed: int = 0

    def stream(self, name: str) -> np.random.Generator:
        """A generator for one part of the looks, independent of all others."""
        extra = {"skin": self.skin_seed, "light": self.light_seed}.get(name, 0)
        return np.random.default_rng([*self.seed, zlib.crc32(name.encode()), extra])

    @property
    def rotation(self) -> np.ndarray:
        """(3, 3) matrix from head to camera axes: yaw, then pitch, then roll."""
        (cy, cp, cr), (sy, sp, sr) = (f(np.deg2rad([self.yaw, self.pitch, self.roll])) for f in (np.cos, np.sin))
        yaw = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
        pitch = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
        roll = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
        return roll @ pitch @ yaw


def draw(seed: int, index: int, style: Style = Style()) -> Scene:
    """Draw face ``index`` of the set ``seed``."""
    rng = np.random.default_rng([seed, index])
    male, age = rng.uniform(), rng.uniform() ** 2
    weights = _identity(rng, male, age, style)
    strength = _expression(rng, weights)
    gaze = (float(rng.normal(0, 11)), float(np.clip(rng.normal(-2, 7), -20, 20)))
    _add(weights, ("eyeLookDownLeft", "eyeLookDownRight"), min(1.0, max(0.0, -gaze[1] / 25)))
    brow = Brow(inner=rng.uniform(0.14, 0.22), outer=rng.uniform(0.48, 0.56), arch=rng.uniform(0.015, 0.07),
                height=7.515 + float(np.clip(rng.normal(0, 0.028), -0.045, 0.045)),
                tilt=float(np.clip(rng.normal(0, 0.05), -0.08, 0.08)), thickness=rng.uniform(0.022, 0.055))
    # most photos show a face that looks about into the camera; a third of ours spread over the whole range
    wide = rng.random() < 0.35
    yaw = rng.uniform(-style.yaw, style.yaw) if wide else rng.normal(0, 15)
    pitch = rng.uniform(-style.pitch, style.pitch) if rng.random() < 0.15 else rng.normal(2, 9)
    roll = rng.uniform(-style.roll, style.roll) if rng.random() < 0.15 else rng.normal(0, 8)
    return Scene(
        seed=(seed, index), style=style, weights=weights, widen=float(rng.uniform(-0.01, 0.13)),
        broaden=float(rng.uniform(0.0, 0.36)),
        chin=float(rng.uniform(-0.04, 0.06)),
        lengthen=float(rng.uniform(-0.035, 0.105)), male=male, age=age,
        brow=brow, gaze=gaze, yaw=float(np.clip(yaw, -style.yaw, style.yaw)),
        pitch=float(np.clip(pitch, -style.pitch, style.pitch)), roll=float(np.clip(roll, -style.roll, style.roll)),
        distance=float(rng.uniform(5, 16)), fill=float(rng.uniform(0.50, 0.66)),
        shift=tuple(rng.normal(0, 0.025, 2).tolist()), expressive=strength > 0.45)


def _identity(rng: np.random.Generator, male: float, age: float, style: Style) -> dict[str, float]:
    """Weights of origin, gender, age, build, and of a few local targets."""
    weights = dict(PROPORTIONS)
    child = rng.uniform(0, 0.6) if rng.random() < 0.06 else 0.0
    ages = {"young": (1 - age) * (1 - child), "old": age * (1 - child), "child": child}
    genders = {"male": male, "female": 1 - male}
    exaggeration = rng.uniform(0.8, 1.5)
    for origin, share in zip(ORIGINS, rng.dirichlet([0.6] * 3)):
        for gender, g in genders.items():
            for name, a in ages.items():
                _add(weights, (f"{origin}-{gender}-{name}",), share * exaggeration * g * a)
    fat, muscle = rng.normal(0.25, 0.5), rng.normal(0, 0.4)
    for gender, g in genders.items():
        fat_name = f"universal-{gender}-young-averagemuscle-{'max' if fat > 0 else 'min'}weight"
        muscle_name = f"universal-{gender}-young-{'max' if muscle > 0 else 'min'}muscle-averageweight"
        _add(weights, (fat_name,), min(abs(fat), 1) * g)
        _add(weights, (muscle_name,), min(abs(muscle), 1) * g)
    families = _local_families()
    for chosen in rng.choice(len(families), style.local_targets, replace=False):
        variants = families[chosen]
        strength = rng.uniform(0, style.target_strength)
        for target in variants[rng.integers(len(variants))]:                 # one target, or a left and a right one
            _add(weights, (target,), strength * rng.uniform(0.85, 1.15))     # sides share most of their draw
    return weights


@lru_cache(maxsize=1)
def _local_families() -> list[list[list[str]]]:
    """Local targets grouped: family -> its directions (incr, decr, ...) -> the targets of both sides."""
    families: dict[str, dict[str, list[str]]] = {}
    for name in load().target_names:
        if "/" not in name or any(part in name for part in LEFT_OUT) or name.startswith("neck/neck-trans"):
            continue
        sides = name.replace("/l-", "/*-").replace("/r-", "/*-")
        family = next((sides[:-len(d)] for d in DIRECTIONS if sides.endswith(d)), sides)
        families.setdefault(family, {}).setdefault(sides, []).append(name)
    return [list(variants.values()) for variants in families.values()]


SMILE = ("mouthSmileLeft", "mouthSmileRight")
TEETH = ("mouthLowerDownLeft", "mouthLowerDownRight", "mouthUpperUpLeft", "mouthUpperUpRight")
SNEER = ("mouthUpperUpLeft", "mouthUpperUpRight", "cheekSquintLeft", "cheekSquintRight")
CLOSED = 0.65            # of the blink target: there the lids meet, beyond it they cross
NOT_ALONE = ("eyeLook", "eyeBlink", "tongue", "mouthClose", "jaw")   # mouthClose needs jawOpen


def _expression(rng: np.random.Generator, weights: dict[str, float]) -> float:
    """Add an expression to the weights; returns its strength (the largest weight)."""
    neutral = set(weights)
    if rng.random() < 0.55:
        _add(weights, ("jawOpen",), rng.uniform(0.02, 0.75) ** 1.3)
    if rng.random() < 0.4:
        smile = rng.uniform(0.1, 0.9)
        _add(weights, SMILE, smile, rng)
        if smile > 0.35 and rng.random() < 0.65:
            _add(weights, TEETH, rng.uniform(0.2, 0.6), rng)
            _add(weights, ("jawOpen",), rng.uniform(0, 0.15))
        elif rng.random() < 0.6:
            _add(weights, SNEER, rng.uniform(0.1, 0.6) * smile, rng)
    units = [n for n in load().target_names if "-" not in n and "/" not in n and not n.startswith(NOT_ALONE)]
    for name in map(str, rng.choice(units, rng.integers(1, 4), replace=False)):
        both = {name, name.replace("Left", "Right"), name.replace("Right", "Left")}
        names = sorted(both) if rng.random() < 0.7 else [name]
        _add(weights, names, rng.uniform(0.05, 0.6), rng)
    if rng.random() < 0.15:
        _add(weights, (str(rng.choice(["jawLeft", "jawRight"])),), rng.uniform(0.1, 0.7))
    lids = rng.uniform(0.5, 1) if rng.random() < 0.08 else max(0.0, rng.normal(0.08, 0.15))
    _add(weights, ("eyeBlinkLeft", "eyeBlinkRight"), min(lids, CLOSED))
    return max(weights[name] for name in set(weights) - neutral)


def _add(weights: dict[str, float], names: Iterable[str], strength: float,
         rng: np.random.Generator | None = None) -> None:
    """Add ``strength`` to the named targets, with a little asymmetry where a generator is given."""
    for name in names:
        weights[name] = weights.get(name, 0.0) + strength * (rng.uniform(0.8, 1.2) if rng else 1.0)
