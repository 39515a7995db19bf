"""MSM on annotated photos whose faces lie under black boxes: python benchmarks/photos_hidden.py FOLDER [--model msm]

FOLDER as for ``photos.py``. Over every face of val.csv a black box is painted that hides a share of the landmarks'
bounding box, at a random place. The boxes given to the networks are rough: off the middle, tight or too loose.

Two rows are controls: shapes rebuilt by all landmarks, which needs no scores, and by those that the black box leaves
bare, which only who painted it can know. "J" is Youden's, of ``reliable`` as an answer to "not under the box": the
share of bare landmarks that is called reliable less that of the covered ones.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from facealign_lite import geometry, looks, metrics, msm, records, zoo
from facealign_lite.align import align
from facealign_lite.data import box_of, crop_matrix, grey, load_image, read_csv

HIDDEN, SEED = (0.0, 0.1, 0.2, 0.4), 0
PAIRED = 0.2                                       # share at which errors of single faces are kept
SHIFT, LOOSE = 0.08, (1.0, 1.25)


def main() -> int:
    """Measure, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="msm")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    network, hourglass = zoo.load(options.model, options.device), zoo.load("hourglass", options.device)
    ways = {"MSM, not rebuilt": lambda picture, box, bare: one_look(picture, box, network, reconstruct=False),
            "MSM, unreliable rebuilt": lambda picture, box, bare: one_look(picture, box, network, keep=True),
            "MSM, all rebuilt": lambda picture, box, bare: one_look(picture, box, network, keep=False),
            "MSM, rebuilt by all landmarks": lambda picture, box, bare: told(picture, box, network, bare | True),
            "MSM, told what is bare": lambda picture, box, bare: told(picture, box, network, bare),
            "hourglass, one look": lambda picture, box, bare: align(picture, box, hourglass, looks=1).landmarks,
            "MSM, two looks": lambda picture, box, bare: align(picture, box, network).landmarks,
            "hourglass, two looks": lambda picture, box, bare: align(picture, box, hourglass).landmarks}
    val = read_csv(options.folder / "val.csv", options.folder / "images")
    photos, target = [grey(load_image(sample.image)) for sample in val], np.stack([s.landmarks for s in val])
    rng = np.random.default_rng(SEED)
    boxes = np.stack([rough(box_of(points), rng) for points in target])
    places = rng.uniform(0, 1, (len(val), 2))                       # of the black box, alike at every share
    figures: dict[str, dict] = {name: {} for name in ways}
    print(f"{'NME by outer eye corners, %':28}" + "".join(f"{f'{h:.0%} hidden':>13}{'failures':>10}" for h in HIDDEN))
    for name, way in ways.items():
        for share in HIDDEN:
            shown, bare = zip(*[painted(*one, share) for one in zip(photos, target, places)])
            found = np.stack([way(*one) for one in zip(shown, boxes, bare)])
            errors = 100 * metrics.nme(found, target, "inter_ocular", "68")
            figures[name][f"{share:.0%}"] = {
                "mean": round(errors.mean(), 3), "median": round(np.median(errors), 3),
                "failures": round(100 * (errors > 10).mean(), 2)}
            if share == PAIRED:
                figures[name][f"{share:.0%}"]["errors"] = errors.round(3).tolist()
        print(f"{name:28}" + "".join(f"{row['mean']:13.2f}{row['failures']:10.1f}" for row in figures[name].values()))
    figures["reliable"] = {f"{share:.0%}": judged(photos, target, boxes, places, share, network)
                           for share in HIDDEN[1:]}
    for share, row in figures["reliable"].items():
        print(f"reliable, {share} hidden: " + ", ".join(f"{key} {value:.3f}" for key, value in row.items()))
    path = records.write_record(f"photos_{Path(options.model).stem}", {
        "what": "NME in percent by outer eye corners, and faces over 10 %, where a black box hides a share of the "
                "landmarks' bounding box; the networks are given rough boxes, 1 to 1.25 times too wide, off the middle "
                "by 8 % of their side (standard deviation)",
        "data": f"{len(val)} validation photos of other people", "seeds": [SEED], "budget": {"photos": len(val)},
        "commit": records.commit(), "device": records.describe_device(options.device),
        "seconds": round(time.perf_counter() - start, 1), "figures": figures})
    print(f"wrote {path.name}")
    return 0


def one_look(picture: NDArray, box: NDArray, network: msm.Msm, **options: bool) -> NDArray:
    """Landmarks (K, 2) in pixels of the picture, of one look without the mirror image; ``options`` of ``msm.run``."""
    matrix = crop_matrix(box, network.config.image_size)
    found = msm.run(network, looks.cut(picture, matrix[None], network), **options)
    return geometry.transform(found.landmarks[0].numpy(), geometry.invert(matrix))


def told(picture: NDArray, box: NDArray, network: msm.Msm, trust: NDArray) -> NDArray:
    """As ``one_look``, rebuilt by the landmarks ``trust`` (K,) in the place of those that score high."""
    config, matrix = network.config, crop_matrix(box, network.config.image_size)
    found = msm.run(network, looks.cut(picture, matrix[None], network), reconstruct=False)
    frame = msm.to_frame(found.preliminary, config.image_size, config.margin).numpy()
    frame = network.dictionary.reconstruct(frame, trust[None], config.k, config.ridge)
    points = msm.from_frame(torch.from_numpy(frame), config.image_size, config.margin)
    points = msm.move(points, found.theta, config.image_size)[0].numpy()
    return geometry.transform(points, geometry.invert(matrix))


def judged(photos: list[NDArray], target: NDArray, boxes: NDArray, places: NDArray, share: float, network: msm.Msm
           ) -> dict[str, float]:
    """Precision, recall and J of ``reliable`` as an answer to "not under the black box"."""
    said, truth = [], []
    for photo, points, box, place in zip(photos, target, boxes, places):
        picture, bare = painted(photo, points, place, share)
        matrix = crop_matrix(box, network.config.image_size)
        said.append(msm.run(network, looks.cut(picture, matrix[None], network), reconstruct=False).reliable[0].numpy())
        truth.append(bare)
    found, truth = np.stack(said), np.stack(truth)
    recall = found[truth].mean()
    return {"precision": round(truth[found].mean(), 4), "recall": round(recall, 4), "bare": round(truth.mean(), 4),
            "J": round(recall - found[~truth].mean(), 4)}


def rough(box: NDArray, rng: np.random.Generator) -> NDArray:
    """The box moved and loosened."""
    side = (box[2:] - box[:2]).max()
    centre, half = (box[:2] + box[2:]) / 2 + rng.normal(0, SHIFT, 2) * side, (box[2:] - box[:2]) / 2 * rng.uniform(
        *LOOSE)
    return np.concatenate([centre - half, centre + half])


def painted(picture: NDArray, points: NDArray, place: NDArray, share: float) -> tuple[NDArray, NDArray]:
    """The photo with a black box over ``share`` of the landmarks' bounding box, and which landmarks it leaves bare."""
    low, extent = points.min(0), np.ptp(points, axis=0)
    start = low + place * extent * (1 - np.sqrt(share))
    x0, y0, x1, y1 = np.concatenate([start, start + extent * np.sqrt(share)]).round().astype(int).clip(0)
    hidden = picture.copy()
    hidden[y0:y1, x0:x1] = 0
    under = (points >= [x0 - 0.5, y0 - 0.5]) & (points < [x1 - 0.5, y1 - 0.5])      # pixels are at whole numbers
    return hidden, ~under.all(1)


if __name__ == "__main__":
    sys.exit(main())
