"""How near, and how fast, curves come out of contour heatmaps: ``python benchmarks/extraction.py``.

Processor time of one thread, the 13 contours of a rendered face at once.
"""

import argparse
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from facealign_lite import contours, geometry, heatmaps
from facealign_lite.records import commit, describe_device, write_record
from facealign_lite.synthetic import SyntheticFaces

WIDTH, SEED, FACES, IMAGE = 2.0, 20, 12, 256


def main() -> int:
    """Measure, print, write results/extraction.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--curves", type=int, default=100, help="of each kind")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start, figures = time.perf_counter(), {}
    kinds: dict[str, Callable[[np.random.Generator, int], NDArray]] = {"line": line, "circle": circle, "smooth": smooth}
    for side in (64, 128):
        for sigma in (2.0, 3.0):
            for name, kind in kinds.items():
                rng = np.random.default_rng([SEED, side])
                truth = [kind(rng, side) for _ in range(options.curves)]
                figures[f"{name}, {side}, sigma {sigma:g}"] = compared(truth, side, sigma)
    faces = SyntheticFaces(FACES, IMAGE, SEED)
    for side in (64, 128):
        spent, rows = [], []
        for face in faces:
            truth = [heatmaps.to_heatmap(curve, IMAGE, side) for curve in face.contours.values()]
            maps = contours.encode(truth, side, WIDTH).float()
            for _ in range(5):
                begin = time.process_time()
                contours.extract(maps)
                spent.append(time.process_time() - begin)
            rows += truth
        figures[f"13 contours of a face, {side}, sigma 3"] = compared(rows, side, 3.0) | {
            "ms": round(1e3 * float(np.median(spent)), 1)}
    for name, row in figures.items():
        print(f"{name:40s} {row}")
    path = write_record("extraction", {
        "what": f"contours drawn by Eq. 2 at width {WIDTH:g}, extracted: mean and greatest mean distance of the found "
                "curve from the true one, mean and greatest distance of ends, heatmap pixels; whole: exactly one curve "
                "was found, within a pixel of all of the true one; ms: processor time of one face, median",
        "data": f"lines, circles of radius 7 on, curves that bend no tighter than radius 6, {FACES} rendered faces",
        "seeds": [SEED], "budget": {"curves": options.curves, "faces": FACES}, "commit": commit(),
        "device": describe_device("cpu"), "seconds": round(time.perf_counter() - start, 1), "figures": figures})
    print(f"wrote {path.name}")
    return 0


def compared(truth: list[NDArray], side: int, sigma: float) -> dict[str, float]:
    """Errors in heatmap pixels over many curves, each in a map of its own."""
    apart, ends, whole = [], [], 0
    for curve in truth:
        found = contours.extract(contours.encode(curve, side, WIDTH), sigma)
        if not found:
            continue
        best = found[0]
        apart.append(geometry.distance_to_polyline(dense(best), curve).mean())
        whole += len(found) == 1 and geometry.distance_to_polyline(dense(curve), best).max() < 1
        wanted = curve[[0, -1]]
        if np.linalg.norm(wanted[0] - wanted[1]) > 1e-6:
            ends.append(min(np.linalg.norm(best[[0, -1]] - w, axis=1).max() for w in (wanted, wanted[::-1])))
    row = {"mean": round(float(np.mean(apart)), 4), "worst": round(float(np.max(apart)), 4),
           "whole": round(float(whole / len(truth)), 4)}
    return row | ({"ends": round(float(np.mean(ends)), 3), "ends_worst": round(float(np.max(ends)), 3)} if ends else {})


def line(rng: np.random.Generator, side: int) -> NDArray:
    """A line that ends inside the map."""
    angle, half = rng.uniform(0, np.pi), rng.uniform(0.1, 0.25) * side
    return rng.uniform(0.3, 0.7, 2) * side + np.outer([-half, half], [np.cos(angle), np.sin(angle)])


def circle(rng: np.random.Generator, side: int) -> NDArray:
    """A circle of 300 points."""
    t = np.linspace(0, 2 * np.pi, 300)
    return rng.uniform(0.4, 0.6, 2) * side + rng.uniform(7, 0.35 * side) * np.stack([np.cos(t), np.sin(t)], 1)


def smooth(rng: np.random.Generator, side: int, radius: float = 6.0) -> NDArray:
    """A curve whose direction is a sum of four waves; it keeps 2 pixels from the border and 8 from itself."""
    while True:
        s = np.arange(0, rng.uniform(15, 2 * side), 0.5)
        waves = rng.normal(size=4) @ np.cos(np.pi * np.outer(range(4), s / s[-1]) + rng.uniform(0, 6, (4, 1)))
        angle = rng.uniform(0, 2 * np.pi) + np.cumsum(waves / np.abs(waves).max() * rng.uniform() / radius) / 2
        curve = np.cumsum(np.stack([np.cos(angle), np.sin(angle)], 1), axis=0) / 2
        if np.ptp(curve, axis=0).max() < side - 6:
            curve += rng.uniform(2 - curve.min(0), side - 3 - curve.max(0))
            apart = np.linalg.norm(curve[:, None] - curve, axis=-1)
            if apart[np.abs(s[:, None] - s) > 12].min(initial=np.inf) > 8:
                return curve


def dense(curve: NDArray, step: float = 0.1) -> NDArray:
    """Points every ``step`` pixels along a polyline."""
    length = np.r_[0, np.linalg.norm(np.diff(curve, axis=0), axis=1).cumsum()]
    at = np.linspace(0, length[-1], max(2, int(length[-1] / step)))
    return np.stack([np.interp(at, length, column) for column in curve.T], 1)


if __name__ == "__main__":
    sys.exit(main())
