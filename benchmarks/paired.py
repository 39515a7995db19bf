"""Several zoo models on the same faces, error by error: ``python benchmarks/paired.py FOLDER [--models ...]``.

FOLDER as for ``photos.py``, of which val.csv is read; each photo's person is kept, for photos of one person are alike.
Beside them faces of the benchmark, rendered, of the size that the shipped networks learnt from. Both through ``align``
with the box of the given points: two looks and the mirror image for every model, so that models alone differ.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from photos import aligned

from facealign_lite import metrics, records, zoo
from facealign_lite.data import read_csv
from facealign_lite.evaluation import benchmark

MODELS = ("tab", "hourglass", "scpan")
RENDERED, SIZE = 300, 160


def main() -> int:
    """Measure and write ``results/paired.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", default=MODELS, choices=zoo.names())
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    photos = read_csv(options.folder / "val.csv", options.folder / "images")
    faces = benchmark(SIZE, RENDERED)
    sets: dict[str, Sequence] = {"photos": photos, "rendered": [faces[i] for i in range(RENDERED)]}
    people = {person: k for k, person in enumerate(dict.fromkeys(p.tags["identity"] for p in photos))}
    figures: dict = {"people": [people[p.tags["identity"]] for p in photos]}
    for model in options.models:
        network = zoo.load(model, "cpu")
        for name, samples in sets.items():
            predicted, target, _ = aligned(samples, network)
            errors = metrics.nme(predicted, target)
            figures[f"{name}_{model}"] = errors.round(6)
            print(f"{model}, {name}: {100 * errors.mean():.2f} %")
    path = records.write_record("paired", {
        "what": "error of every face by outer eye corners, through align (two looks and the mirror image) with the box "
                "of the given points; people: whose photo it is, by number",
        "data": f"{len(photos)} validation photos of {len(people)} people; the first {RENDERED} faces of the benchmark",
        "seeds": [0], "budget": {"photos": len(photos), "rendered": RENDERED}, "commit": records.commit(),
        "device": records.describe_device("cpu"), "seconds": round(time.perf_counter() - start, 1),
        "figures": figures})
    print(f"wrote {path.name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
