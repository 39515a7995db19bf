"""What more looks, without training, bring on photos: ``python benchmarks/photo_looks.py FOLDER``

FOLDER as for ``benchmarks/photos.py``. Only photos of ``train.csv`` are read, so that what is chosen here has not seen
those that are tested. Every way looks at the same photos in their given boxes; beside its error stands how far it is
from what ``align`` does, with the paired interval.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from facealign_lite import geometry, looks, metrics, records, zoo
from facealign_lite.data import box_of, crop_matrix, load_image, mirrored, read_csv

SEED = 7
ALIGN = "two looks, as align"
SHARPER = (0.8, 1.25, 1.6)                  # factors of the logits: below 1 the answer is the mean of a wider place
MOVED = 3.0                                 # pixels of the crop
SCALES = (0.94, 1.06)


def around(matrix: NDArray, size: int) -> list[NDArray]:
    """The crop of a matrix, four that are moved, and two that are larger and smaller."""
    middle = (size - 1) / 2
    moves = [(1.0, dx, dy) for dx, dy in ((0, 0), (MOVED, 0), (-MOVED, 0), (0, MOVED), (0, -MOVED))]
    return [geometry.compose(geometry.similarity(scale, 0.0, ((1 - scale) * middle + dx, (1 - scale) * middle + dy)),
                             matrix) for scale, dx, dy in moves + [(scale, 0, 0) for scale in SCALES]]


@torch.inference_mode()
def found(picture: NDArray, matrices: list[NDArray], network: nn.Module, mirror: bool = True, sharper: float = 1.0
          ) -> tuple[NDArray, NDArray | None]:
    """Landmarks (N, 68, 2) in pixels of the picture of N crops, and the upright crop of the first."""
    ways = matrices + [mirrored(matrix, network.config.image_size) for matrix in matrices] * mirror
    logits = network(looks.cut(picture, np.stack(ways), network))[-1]
    reading = network.read([logits * sharper], mirrored=mirror)
    points = [geometry.transform(one.double().numpy(), geometry.invert(matrix))
              for one, matrix in zip(reading.points, matrices)]
    straight = looks.upright(looks.single(reading, 0), network.config.image_size)
    return np.array(points), None if straight is None else geometry.compose(straight, matrices[0])


def ways(picture: NDArray, box: NDArray, network: nn.Module) -> dict[str, NDArray]:
    """Landmarks (68, 2) by every way of looking."""
    picture, size = looks.as_seen(picture, network), network.config.image_size
    first, upright = found(picture, [crop_matrix(box, size)], network, mirror=False)
    upright = crop_matrix(box, size) if upright is None else upright
    several, again = found(picture, around(upright, size), network)
    third = found(picture, [upright if again is None else again], network)[0][0]
    answers = {"one look": first[0], ALIGN: several[0], "three looks": third,
               "mean of the second and the third": (several[0] + third) / 2,
               "mean of five second looks, moved": several[:5].mean(0),
               "mean of seven, moved and scaled": several.mean(0)}
    return answers | {f"two looks, logits times {factor:g}": found(picture, [upright], network, sharper=factor)[0][0]
                      for factor in SHARPER}


def main() -> int:
    """Measure, print, write results/photo_looks.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--photos", type=int, default=150)
    options = parser.parse_args()
    torch.set_num_threads(1)
    start, network = time.perf_counter(), zoo.load("hourglass", "cpu")
    photos = read_csv(options.folder / "train.csv", options.folder / "images")
    chosen, errors = np.random.default_rng(SEED).choice(len(photos), options.photos, replace=False), {}
    for sample in (photos[i] for i in chosen):
        for way, points in ways(load_image(sample.image), box_of(sample.landmarks), network).items():
            errors.setdefault(way, []).append(100 * float(metrics.nme(points, sample.landmarks)[0]))
    figures = {}
    for way, row in errors.items():
        apart = np.array(row) - errors[ALIGN]
        figures[way] = {"mean": round(float(np.mean(row)), 3), "change": round(float(apart.mean()), 3),
                        "half_interval": round(1.96 * float(apart.std(ddof=1)) / len(row) ** 0.5, 3),
                        "failures": round(100 * float(np.mean(np.array(row) > 10)), 2)}
        print(f"{way:40s} {figures[way]}")
    records.write_record("photo_looks", {
        "what": "NME in percent by outer eye corners of the default network on photos in their given boxes, by ways of "
                "looking; change: from what align does, with half of its paired 95 % interval",
        "data": f"{options.photos} of {len(photos)} training photos, none of those that are tested", "seeds": [SEED],
        "budget": {"photos": options.photos}, "commit": records.commit(), "device": records.describe_device("cpu"),
        "seconds": round(time.perf_counter() - start, 1), "figures": figures})
    return 0


if __name__ == "__main__":
    sys.exit(main())
