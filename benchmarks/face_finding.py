"""Does ``align`` without a box find the face? python benchmarks/face_finding.py FOLDER [FOLDER ...]

Each FOLDER holds ``images/`` and one ``val.csv`` or ``landmarks.csv`` with the columns image, [identity], x0, y0, ....
False alarms are counted on the pictures without a face that scikit-image ships.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from skimage import data

from facealign_lite import geometry, records, zoo
from facealign_lite.data import box_of, grey, load_image, read_csv
from facealign_lite.detection import FACE, find

FACELESS = ("brick", "cell", "chelsea", "clock", "coffee", "coins", "grass", "gravel", "horse", "hubble_deep_field",
            "immunohistochemistry", "moon", "page", "retina", "rocket", "text")
View = Callable[[NDArray], tuple[NDArray, NDArray]]


def as_it_is(picture: NDArray) -> tuple[NDArray, NDArray]:
    """The photo, and the map from it to itself."""
    return picture, np.eye(2, 3)


def padded(picture: NDArray) -> tuple[NDArray, NDArray]:
    """Twice as wide and high: the photo in the middle, its border repeated."""
    height, width = (side // 2 for side in picture.shape)
    picture = cv2.copyMakeBorder(picture, height, height, width, width, cv2.BORDER_REPLICATE)
    return picture, np.array([[1.0, 0, width], [0, 1, height]])


def turned(picture: NDArray) -> tuple[NDArray, NDArray]:
    """Turned by 40 degrees about its middle."""
    height, width = picture.shape
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), 40, 1.0)
    return cv2.warpAffine(picture, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE), matrix


def main() -> int:
    """Measure, print, write results/face_finding.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--model", default="hourglass")
    parser.add_argument("--every", type=int, default=4, help="take one photo in so many from folders of over 100")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start, network, figures = time.perf_counter(), zoo.load(options.model, "cpu"), {}
    for folder in options.folders:
        table = next(path for path in (folder / "val.csv", folder / "landmarks.csv") if path.is_file())
        samples = read_csv(table, folder / "images")
        samples = samples[::options.every if len(samples) > 100 else 1]
        for view in (as_it_is, padded, turned):
            row = figures[f"{folder.name}, {view.__name__}"] = searched(samples, view, network)
            print(f"{folder.name}, {view.__name__}: {row}", flush=True)
    alarms, spent = [], []
    for name in FACELESS:
        picture = getattr(data, name)()
        begin = time.process_time()
        try:
            find(grey(load_image(picture)), network)
            alarms.append(name)
        except ValueError:
            pass
        spent.append(time.process_time() - begin)
    figures["without a face"] = {"pictures": len(FACELESS), "false_alarms": alarms,
                                 "ms": round(1e3 * float(np.median(spent)))}
    print(f"without a face: {figures['without a face']}")
    path = records.write_record("face_finding", {
        "what": "detection.find: found means the box's centre is within a quarter, its side within 0.7 to 1.4 of the "
                "given points' box; wrong means a face was named elsewhere; ms is the median processor time of one "
                "image, one thread. The threshold was set with training photos and these faceless pictures in view, "
                "so the false alarms are not a fresh test",
        "data": f"{', '.join(folder.name for folder in options.folders)}, and {len(FACELESS)} pictures of scikit-image "
                "without a human face", "seeds": [],
        "budget": {"every": options.every, "threshold": FACE}, "commit": records.commit(),
        "device": records.describe_device("cpu"), "seconds": round(time.perf_counter() - start, 1),
        "figures": figures})
    print(f"wrote {path.name}")
    return 0


def searched(samples: list, view: View, network: torch.nn.Module) -> dict[str, float]:
    """Shares found and wrong, and milliseconds, over samples seen in one way."""
    outcome, spent = [], []
    for sample in samples:
        picture, matrix = view(grey(load_image(sample.image)))
        wanted = box_of(geometry.transform(sample.landmarks, matrix))
        begin = time.process_time()
        try:
            box = find(picture, network).box
        except ValueError:
            box = None
        spent.append(time.process_time() - begin)
        outcome.append("none" if box is None else "found" if close(box, wanted) else "wrong")
    return {"photos": len(samples), "found": round(outcome.count("found") / len(samples), 4),
            "wrong": round(outcome.count("wrong") / len(samples), 4), "ms": round(1e3 * float(np.median(spent)))}


def close(box: NDArray, wanted: NDArray) -> bool:
    """Whether two boxes are around the same face."""
    side = max(wanted[2:] - wanted[:2])
    apart = np.abs((box[:2] + box[2:]) - (wanted[:2] + wanted[2:])).max() / 2
    return bool(apart < side / 4 and 0.7 < max(box[2:] - box[:2]) / side < 1.4)


if __name__ == "__main__":
    sys.exit(main())
