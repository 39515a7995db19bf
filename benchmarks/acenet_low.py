"""How low may ACE-Net's curves go on? python -m benchmarks.acenet_low FOLDER

The shipped network read at two values of ``low`` on the same faces: rendered ones, and photos of people that are in no
test (FOLDER/train.csv). FOLDER is what photos.py takes. Chapter 06 shows the record.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from experiments.acenet import truth
from facealign_lite import markups, metrics, records, zoo
from facealign_lite.align import align
from facealign_lite.data import box_of, load_image, read_csv
from facealign_lite.synthetic import SyntheticFaces

LOWS = (0.1, 0.2)
PHOTOS, RENDERED, SEED = 240, 120, 606
CURVES = markups.get("68").curves


def photos(folder: Path) -> Iterator[tuple]:
    """(picture, landmarks, true anchors, what the true lines pass, lines, length) of each photo."""
    samples = read_csv(folder / "train.csv", folder / "images")
    for i in np.random.default_rng(SEED).choice(len(samples), PHOTOS, replace=False):
        points = samples[i].landmarks
        lines = {name: points[list(CURVES[name])] for name in markups.CONTOURS}
        yield (load_image(samples[i].image), points, *metrics.landmarks_as_ac(points), lines,
               float(metrics.normalizing_length(points, "inter_ocular")[0]))


def rendered() -> Iterator[tuple]:
    """The same of each rendered face."""
    faces = SyntheticFaces(RENDERED, 256, SEED)
    for i in range(RENDERED):
        face = faces[i]
        anchors, points, length = truth(face)
        yield face.image, face.landmarks, anchors, points, face.contours, length


def main() -> int:
    """Measure, print, write results/acenet_low.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    start, figures = time.perf_counter(), {}
    networks = {low: zoo.load("acenet", "cpu") for low in LOWS}
    for low, network in networks.items():
        network.config = replace(network.config, low=low)
    for name, faces in (("rendered faces", rendered()), ("photos", photos(options.folder))):
        rows = figures[name] = {f"{low:g}": {"errors": [], "back": []} for low in LOWS}
        for picture, landmarks, anchors, points, lines, length in faces:
            for low, network in networks.items():
                found = align(picture, box_of(landmarks), network)
                errors = metrics.anchor_contour_errors(found.anchors, found.contours, anchors, points, length)
                back = metrics.reverse_errors(found.contours, lines, length)
                rows[f"{low:g}"]["errors"].append(round(100 * float(metrics.nme_ac(errors)), 3))
                rows[f"{low:g}"]["back"].append(round(100 * float(np.mean(list(back.values()))), 3))
        print(name, {low: {key: round(float(np.mean(some)), 3) for key, some in row.items()}
                     for low, row in rows.items()})
    path = records.write_record("acenet_low", {
        "what": "NME^AC in percent of the shipped ACE-Net through align at two values of low, and the mean distance of "
                "what was drawn from the true contours (of photos: from lines through their landmarks), of each face",
        "data": f"{RENDERED} rendered faces, seed {SEED}, and {PHOTOS} photos of people that are in no test",
        "seeds": [SEED], "budget": {"rendered": RENDERED, "photos": PHOTOS}, "commit": records.commit(),
        "device": records.describe_device("cpu"), "seconds": round(time.perf_counter() - start, 1),
        "figures": figures})
    print(f"wrote {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
