"""Does ``detection.find_all`` find every face of a group? python benchmarks/group_faces.py FOLDER [FOLDER ...]

The group photos are made: faces of photos (a FOLDER holds ``images/`` and one ``val.csv`` or ``landmarks.csv``), or
rendered faces, of 20 to 175 pixels, over rendered backgrounds or pictures without a face that scikit-image ships.
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

from facealign_lite import records, zoo
from facealign_lite.data import box_of, load_image, read_csv
from facealign_lite.detection import FACE, find_all
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
        overlaps = np.array([common_share(box, other) for other in wanted])
        if len(overlaps) and overlaps.max() > OVERLAP:
            hit[overlaps.argmax()] = True
        else:
            false += 1
    return hit, false


def common_share(one: NDArray, other: NDArray) -> float:
    """Intersection over union of two boxes."""
    low, high = np.maximum(one[:2], other[:2]), np.minimum(one[2:], other[2:])
    common = np.prod(np.maximum(high - low, 0))
    return float(common / (np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - common))


def searched(groups: list, network: torch.nn.Module) -> dict:
    """Recall, by size too, false alarms a picture and milliseconds of processor time a picture."""
    hits, sizes, alarms, spent = [], [], 0, []
    for picture, wanted in groups:
        begin = time.process_time()
        found = [face.box for face in find_all(picture, network)]
        spent.append(time.process_time() - begin)
        hit, false = matched(np.array(found).reshape(-1, 4), wanted)
        hits, alarms = [*hits, *hit], alarms + false
        sizes += [max(box[2:] - box[:2]) for box in wanted]
    hits, at = np.array(hits), np.searchsorted(SIZES, sizes, "right") - 1
    by_size = {str(size): round(float(hits[at == i].mean()), 3) for i, size in enumerate(SIZES) if (at == i).any()}
    return {"pictures": len(groups), "faces": len(hits), "recall": round(float(hits.mean()), 4),
            "recall_from_pixels": by_size, "false_alarms_a_picture": round(alarms / len(groups), 4),
            "ms": round(1e3 * float(np.median(spent)))}


def main() -> int:
    """Measure, print, write results/group_faces.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--pictures", type=int, default=30, help="of each kind")
    parser.add_argument("--seed", type=int, default=100)
    options = parser.parse_args()
    torch.set_num_threads(1)
    start, network, figures = time.perf_counter(), zoo.load("hourglass", "cpu"), {}
    kinds = {folder.name: from_photos(folder, 100) for folder in options.folders}
    kinds["rendered"] = rendered(100, options.seed)
    for name, faces in kinds.items():
        rng = np.random.default_rng(options.seed)
        made = [group(rng, faces, 8) for _ in range(options.pictures)]
        figures[name] = searched(made, network)
        print(f"{name}: {figures[name]}", flush=True)
    faceless = [(load_image(getattr(data, name)()), np.zeros((0, 4))) for name in FACELESS]
    rng = np.random.default_rng(options.seed)
    faceless += [(np.clip(background(rng, 500), 0, 255).astype(np.uint8), np.zeros((0, 4))) for _ in range(33)]
    alarms = [len(find_all(picture, network)) for picture, _ in faceless]
    figures["without a face"] = {"pictures": len(faceless), "false_alarms": int(np.sum(alarms))}
    print(f"without a face: {figures['without a face']}")
    path = records.write_record("group_faces", {
        "what": "detection.find_all on made group photos of 500 x 375 with up to 8 faces; found means an intersection "
                f"over union above {OVERLAP} with the landmarks' box; ms is the median processor time of a picture, "
                "one thread. The thresholds were chosen on other such pictures, of the set's training photos",
        "data": f"{', '.join(folder.name for folder in options.folders)}, rendered faces, and pictures of scikit-image",
        "seeds": [options.seed], "budget": {"pictures": options.pictures, "threshold": FACE},
        "commit": records.commit(), "device": records.describe_device("cpu"),
        "seconds": round(time.perf_counter() - start, 1), "figures": figures})
    print(f"wrote {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
