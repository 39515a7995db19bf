"""A zoo model on annotated photos, through the front door: python benchmarks/photos.py FOLDER [--model NAME]

FOLDER holds ``val.csv``, ``train.csv`` and ``images/``: image, identity, x0, y0, ..., x67, y67 (0-based pixels).
Everything is measured on val.csv; train.csv gives the 200 photos on which the label maps are fitted.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from facealign_lite import markups, metrics, records, zoo
from facealign_lite.adaptation import fit_label_map
from facealign_lite.align import align
from facealign_lite.data import Sample, box_of, load_image, read_csv

FITTED, SEED = 200, 0
PARTS = ("jaw", "brow", "nose", "eye", "mouth")
LOOSE = (1.0, 1.1, 1.2)
# Measured by others on 579 other faces of the same kind (other people), not in this run: see the design notes on data.
# mean, median, inner-51 mean, failures over 10 %, in percent; ms a face on one busy core.
PEERS = {
    "mediapipe 0.10.21 face mesh": (5.75, 5.19, 4.73, 4.5, 4.3),
    "dlib 68, box from the landmarks": (9.80, 5.77, 9.68, 18.3, 0.9),
    "trial hourglass, rendered faces only": (6.67, 6.21, 5.26, 7.8, None),
    "the same, ridge map from 200 photos": (5.13, 4.78, 4.46, 1.7, None),
    "the same network trained on 2,478 photos": (4.54, 4.23, 3.94, 0.5, None),
}


def main() -> int:
    """Measure, print a table, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="hourglass")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--name", help="of the record in results/, photos_MODEL if not given")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    network = zoo.load(options.model, options.device)
    train = read_csv(options.folder / "train.csv", options.folder / "images")
    chosen = np.random.default_rng(SEED).choice(len(train), FITTED, replace=False)
    fitted, fit_target, _ = aligned([train[i] for i in chosen], network)
    maps = {"raw": lambda points: points,
            "offset per landmark": fit_label_map(fitted, fit_target, np.inf),
            "ridge map": fit_label_map(fitted, fit_target, 1.0)}
    figures, val = {}, read_csv(options.folder / "val.csv", options.folder / "images")
    print(f"{'NME by outer eye corners, %':44s}{'mean':>7}{'median':>8}{'inner':>7}{'fail':>6}"
          + "".join(f"{part:>7}" for part in PARTS))
    for loose in LOOSE:
        predicted, target, ms = aligned(val, network, loose)
        for name, label_map in maps.items():
            row = figures[f"box x {loose}, {name}"] = reduced(label_map(predicted), target)
            row["ms_per_face"] = ms
            print(f"{options.model + f', box x {loose}, {name}':44s}{row['mean']:7.2f}{row['median']:8.2f}"
                  f"{row['inner51']:7.2f}{row['failures']:6.1f}" + "".join(f"{row[part]:7.2f}" for part in PARTS))
    print(f"{ms:.0f} ms a face with both looks, one thread. Measured elsewhere, on 579 other faces:")
    for name, (mean, median, inner, fail, _) in PEERS.items():
        print(f"{name:44s}{mean:7.2f}{median:8.2f}{inner:7.2f}{fail:6.1f}")
    path = records.write_record(options.name or f"photos_{Path(options.model).stem}", {
        "what": "NME in percent by outer eye corners through align (two looks and the mirror image); box: the given "
                "points' own, times the factor named; failures: share of faces over 10 %; ms: processor time, "
                "one thread",
        "data": f"{len(val)} validation photos of other people; label maps fitted on {FITTED} of {len(train)} "
                "training photos",
        "seeds": [SEED], "budget": {"photos": len(val), "fitted": FITTED}, "commit": records.commit(),
        "device": records.describe_device(options.device), "seconds": round(time.perf_counter() - start, 1),
        "figures": figures, "training": zoo.read(zoo.FOLDER / f"{options.model}.safetensors")[1]
        if options.model in zoo.names() else zoo.read(options.model)[1],
        "peers": {"source": "measured elsewhere, on 579 other faces of the same set; see PEERS in benchmarks/photos.py",
                  "columns": ["mean", "median", "inner51", "failures", "ms_per_face"], **PEERS}})
    print(f"wrote {path.name}")
    return 0


def aligned(samples: list[Sample], network: torch.nn.Module, loose: float = 1.0) -> tuple[NDArray, NDArray, float]:
    """Predicted and given landmarks (N, K, 2), and processor milliseconds a face, reading the file apart."""
    predicted, spent = [], 0.0
    for sample in samples:
        picture, box = load_image(sample.image), box_of(sample.landmarks)
        centre, half = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2 * loose
        start = time.process_time()
        predicted.append(align(picture, np.concatenate([centre - half, centre + half]), network).landmarks)
        spent += time.process_time() - start
    return np.stack(predicted), np.stack([s.landmarks for s in samples]), round(1e3 * spent / len(samples), 1)


def reduced(predicted: NDArray, target: NDArray) -> dict[str, float]:
    """The figures of one row, in percent."""
    each, groups = metrics.per_landmark(predicted, target), markups.get("68").groups
    errors = each.mean(1)
    row = {"mean": errors.mean(), "median": np.median(errors), "inner51": each[:, list(groups["inner51"])].mean(),
           "failures": metrics.failure_rate(errors, 0.1)}
    row |= {part: each[:, list(groups[part])].mean() for part in PARTS}
    return {name: round(100 * float(value), 3) for name, value in row.items()}


if __name__ == "__main__":
    sys.exit(main())
