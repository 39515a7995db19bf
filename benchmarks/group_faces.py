"""Does ``detection.find_all`` find every face of a group? python benchmarks/group_faces.py FOLDER [FOLDER ...]

Group photos are made: faces of photos (a FOLDER holds ``images/`` and one ``val.csv`` or ``landmarks.csv``) and rendered
faces, of 20 to 160 pixels, over rendered backgrounds and over pictures without a face that scikit-image ships.
"""

import argparse
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from skimage import data

from facealign_lite import geometry, records, zoo
from facealign_lite.data import box_of, load_image, read_csv
from facealign_lite.detection import FACE, find_all  # noqa
from facealign_lite.synthetic import SyntheticFaces
from facealign_lite.synthetic.clutter import background

WIDTH, HEIGHT = 500, 375
SIZES = (20, 28, 40, 60, 90, 130)         # longer sides of the boxes from brows to chin begin here, pixels
FACELESS = ("brick", "cat", "cell", "clock", "coffee", "coins", "colorwheel", "grass", "gravel", "horse",
            "hubble_deep_field", "immunohistochemistry", "moon", "page", "retina", "rocket", "text")
OVERLAP = 0.4         # of two boxes, intersection over union, from which they are of one face


def group(rng: np.random.Generator, faces: list, count: int) -> tuple[NDArray, NDArray]:
    """A picture (H, W, 3) of up to ``count`` faces that do not touch, and their boxes (N, 4)."""
    if rng.random() < 0.5:
        picture = np.clip(background(rng, WIDTH)[:HEIGHT], 0, 255).astype(np.uint8)
    else:
        behind = load_image(getattr(data, str(rng.choice(FACELESS)))())
        behind = np.repeat(behind[..., None], 3, -1) if behind.ndim == 2 else behind
        picture = cv2.resize(behind, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    boxes, taken = [], np.zeros((HEIGHT, WIDTH), bool)
    for _ in range(20 * count):
        if len(boxes) == count:
            break
        image, points = faces[rng.integers(len(faces))]
        least = SIZES[rng.integers(len(SIZES))]
        scale = rng.uniform(least, 1.35 * least) / np.ptp(points, axis=0).max()
        height, width = (max(2, round(side * scale)) for side in image.shape[:2])
        if height >= HEIGHT or width >= WIDTH:
            continue
        x, y = rng.integers(0, WIDTH - width), rng.integers(0, HEIGHT - height)
        if taken[y:y + height, x:x + width].any():
            continue
        taken[y:y + height, x:x + width] = True
        way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        picture[y:y + height, x:x + width] = cv2.resize(image, (width, height), interpolation=way)
        size = np.array([width, height]) / image.shape[1::-1]
        boxes.append(box_of((points + 0.5) * size - 0.5 + [x, y]))
    return picture, np.array(boxes).reshape(-1, 4)


def from_photos(folder: Path, most: int) -> list:
    """Faces (image, landmarks) with as much around them as the photo has, up to half the face on each side."""
    table = next(path for path in (folder / "val.csv", folder / "landmarks.csv") if path.is_file())
    samples = read_csv(table, folder / "images")
    return [around(load_image(s.image), s.landmarks) for s in samples[::max(1, len(samples) // most)]]


def rendered(most: int, seed: int) -> list:
    """The same of rendered faces."""
    made = SyntheticFaces(most, seed=seed, size=192)
    return [around(np.asarray(made[i].image), made[i].landmarks) for i in range(most)]


def around(image: NDArray, points: NDArray) -> tuple[NDArray, NDArray]:
    image = np.repeat(image[..., None], 3, -1) if image.ndim == 2 else image
    box = box_of(points)
    room = 0.5 * max(box[2:] - box[:2])
    left, top = np.maximum(0, np.floor(box[:2] - room)).astype(int)
    right, bottom = np.ceil(box[2:] + room).astype(int)
    return image[top:bottom, left:right], points - [left, top]


def matched(found: NDArray, wanted: NDArray) -> tuple[NDArray, int]:
    """Which of the wanted boxes were found, and how many found boxes are on no wanted face."""
    hit, false = np.zeros(len(wanted), bool), 0
    for box in found:
        overlaps = np.array([geometry_iou(box, other) for other in wanted])
        if len(overlaps) and overlaps.max() > OVERLAP:
            hit[overlaps.argmax()] = True
        else:
            false += 1
    return hit, false


def geometry_iou(one: NDArray, other: NDArray) -> float:
    """Intersection over union of two boxes."""
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    common = np.prod(np.maximum(high - low, 0))
    return float(common / (np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - common))
