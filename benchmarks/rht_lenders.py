"""Does the shipped RHT listen to its reference? ``python benchmarks/rht_lenders.py [--faces 300]``.

The same rendered faces again and again, each time with another face lent: the most similar one, a stranger, the face
itself with its true landmarks. A network that takes something from its reference must do better with the last than
with a stranger; the differences are compared face by face.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import torch

from facealign_lite import rht, zoo
from facealign_lite.data import Crops
from facealign_lite.evaluation import BENCHMARK_SEED, FAILURE, benchmark, evaluate
from facealign_lite.records import commit, describe_device, write_record
from facealign_lite.rht.references import answer, shipped_for

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from experiments.verdict import verdict  # noqa: E402

FACE_SIZE = 160


def main() -> int:
    """Measure, print, write results/rht_lenders.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", type=int, default=300)
    options = parser.parse_args()
    torch.set_num_threads(1)
    start, net = time.perf_counter(), zoo.load("rht", "cpu")
    size, samples = net.config.image_size, [benchmark(FACE_SIZE, options.faces)[i] for i in range(options.faces)]
    (bank, chooser), own = shipped_for(size), rht.References.of(samples, size // 2)
    crops = Crops(samples, size)
    images = torch.stack([crops[i]["image"] for i in range(len(crops))])
    most, stranger = answer(chooser, images), np.random.default_rng(0).integers(len(bank), size=len(samples))
    lent = {
        "own face, true landmarks": (own, np.arange(len(samples))), "most similar": (bank, most),
        "stranger": (bank, stranger), "least similar": (bank, answer(chooser, images, "least")),
        "wrong landmarks": (bank.wrong(), most),
        "no picture, mean shape": (bank.mean_shape(), np.zeros(len(samples), int)),
        "no picture": (rht.References(torch.zeros_like(bank.images), bank.landmarks), most)}
    errors = {name: evaluate(net, rht.Pairs(samples, some, which, size), device="cpu").errors
              for name, (some, which) in lent.items()}
    figures = {}
    for name, found in errors.items():
        row = {"nme": found.mean(), "failures": (found > FAILURE).mean()}
        if name != "stranger":
            gain = verdict(found[None], errors["stranger"][None], trained=False)
            row |= {"gain": gain.difference, "low": gain.low, "high": gain.high}
        figures[name] = {key: round(100 * float(value), 3) for key, value in row.items()}
        figures[name] |= {"better": gain.says} if name != "stranger" else {}
        print(f"{name:26s} {figures[name]}")
    write_record("rht_lenders", {
        "what": "NME in percent by outer eye corners of the shipped RHT, one look, by whose face is lent; gain: what "
                "is gained on a stranger's (random of the shipped faces), face by face, with low and high of its 95 % "
                "interval; better: the verdict on that",
        "data": f"{options.faces} faces of the benchmark, seed {BENCHMARK_SEED}; lenders: the shipped references",
        "seeds": [0], "budget": {"faces": options.faces}, "commit": commit(), "device": describe_device("cpu"),
        "seconds": round(time.perf_counter() - start, 1), "figures": figures})
    return 0


if __name__ == "__main__":
    sys.exit(main())
