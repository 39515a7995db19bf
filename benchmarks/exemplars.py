"""What a dictionary of exemplars puts back, and how fast: ``python benchmarks/exemplars.py [--shapes 3000]``.

Landmarks of rendered faces, without their pictures. Those on one side of a random line are hidden and off by a tenth of
the inter-ocular distance on each axis, the others by a hundredth. No network takes part.
"""

import argparse
import sys
import time

import numpy as np
from numpy.typing import NDArray

from facealign_lite.metrics import normalizing_length, per_landmark
from facealign_lite.msm import ShapeDictionary, canonical
from facealign_lite.records import commit, describe_device, write_record
from facealign_lite.synthetic.parts import parts
from facealign_lite.synthetic.scene import draw
from facealign_lite.synthetic.view import look, shape

SEEDS, N, K, RIDGE, BATCH, HIDDEN = (21, 22), 500, 100, 60.0, 64, (0.2, 0.4, 0.6, 0.8)
NOISE, GROSS = 0.01, 0.1                   # of the inter-ocular distance, per axis


def main() -> int:
    """Measure, print, write results/exemplars.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", type=int, default=3000)
    parser.add_argument("--faces", type=int, default=300)
    parser.add_argument("--runs", type=int, default=30)
    options = parser.parse_args()
    start = time.perf_counter()
    known, truth = landmarks(options.shapes, SEEDS[0]), landmarks(options.faces, SEEDS[1])
    begin = time.process_time()
    book = ShapeDictionary.fit(known, N)
    fitting, whole = time.process_time() - begin, ShapeDictionary(canonical(known))
    cases = [hidden(truth, share, np.random.default_rng(0)) for share in HIDDEN]
    figures: dict[str, dict] = {"as predicted": {}}
    for share, (spoilt, reliable) in zip(HIDDEN, cases):
        figures["as predicted"][f"{share:.0%}"] = off(spoilt, truth, reliable)
    ways = {"N = 500, k = 100, ridge 60": (book, {"k": K}), "kept": (book, {"k": K, "keep": True}),
            "k = 30": (book, {"k": 30}), "k = 500": (book, {"k": None}),
            "ridge 6": (book, {"k": K, "ridge": 6.0}), "ridge 600": (book, {"k": K, "ridge": 600.0}),
            "all shapes": (whole, {"k": K})}
    for name, (dictionary, how) in ways.items():
        figures[name] = {f"{share:.0%}": off(dictionary.reconstruct(spoilt, reliable, **{"ridge": RIDGE} | how), truth,
                                             reliable) for share, (spoilt, reliable) in zip(HIDDEN, cases)}
        print(f"{name:34s} {figures[name]}", flush=True)
    # Eq. 10 and 11 as printed, on faces straightened by their true pupils: as well as a spatial transformer ever could
    upright = canonical(truth)
    grown = normalizing_length(upright, "inter_ocular") / normalizing_length(truth, "inter_ocular")
    printed = {"Eq. 11, straightened, not aligned": {"k": K}, "Eq. 10, straightened": {"k": None}}
    for name, how in printed.items():
        figures[name] = {}
        for share, (spoilt, reliable) in zip(HIDDEN, cases):
            placed = upright + grown[:, None, None] * (spoilt - truth)
            believed = None if how["k"] is None else reliable
            found = book.reconstruct(placed, believed, ridge=RIDGE, align=False, **how)
            figures[name][f"{share:.0%}"] = off(found, upright, reliable)
    spent = {f"{name}, {size}": timed(dictionary, *(x[:size] for x in cases[1]), options.runs)
             for name, dictionary in (("N = 500", book), ("all shapes", whole)) for size in (1, BATCH)}
    figures["ms an image"] = spent | {"seconds to fit": round(fitting, 1)}
    for name in ("as predicted", *printed, "ms an image"):
        print(f"{name:34s} {figures[name]}")
    write_record("exemplars", {
        "what": "error of [hidden, seen] landmarks in percent of the inter-ocular distance, by share hidden; ms: "
                f"processor time of one image with k = {K}, alone and in batches of {BATCH}, one thread, median of "
                f"{options.runs}",
        "data": f"landmarks of SyntheticFaces scenes, seed {SEEDS[0]} the dictionary, {SEEDS[1]} the faces",
        "seeds": list(SEEDS), "budget": {"shapes": options.shapes, "faces": options.faces, "N": N, "k": K,
                                         "ridge": RIDGE, "noise": NOISE, "gross": GROSS},
        "commit": commit(), "device": describe_device("cpu"), "seconds": round(time.perf_counter() - start, 1),
        "figures": figures})
    return 0


def landmarks(n: int, seed: int) -> NDArray:
    """(n, 68, 2) of a set's scenes."""
    head, found = parts(), []
    for i in range(n):
        scene = draw(seed, i)
        found.append(look(head, scene, shape(head, scene), 128)[1].landmarks)
    return np.stack(found)


def hidden(truth: NDArray, share: float, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    """Landmarks as a network might see them, and which of them to trust."""
    angle = rng.uniform(0, 2 * np.pi, len(truth))
    along = np.einsum("nkd,nd->nk", truth, np.stack([np.cos(angle), np.sin(angle)], 1))
    reliable = along.argsort(1).argsort(1) < round((1 - share) * truth.shape[1])
    length = normalizing_length(truth, "inter_ocular")[:, None, None]
    return truth + rng.normal(0, length, truth.shape) * np.where(reliable, NOISE, GROSS)[..., None], reliable


def off(found: NDArray, truth: NDArray, reliable: NDArray) -> list[float]:
    """Mean error in percent of hidden and of seen landmarks."""
    errors = 100 * per_landmark(found, truth)
    return [round(float(errors[which].mean()), 2) for which in (~reliable, reliable)]


def timed(book: ShapeDictionary, spoilt: NDArray, reliable: NDArray, runs: int) -> float:
    """Processor milliseconds of one image."""
    spent = []
    for _ in range(runs):
        begin = time.process_time()
        book.reconstruct(spoilt, reliable, K, RIDGE)
        spent.append(1e3 * (time.process_time() - begin) / len(spoilt))
    return round(float(np.median(spent)), 3)


if __name__ == "__main__":
    sys.exit(main())
