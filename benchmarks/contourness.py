"""Contourness of 200 maps of 128 squared, against four other ways to get there: ``python benchmarks/contourness.py``.

By the clock on two threads, which means something on a quiet machine only, and in processor time of one thread.
"""

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from skimage.filters import sato
from torch import Tensor
from torch.nn import functional as F

from facealign_lite.contours import contourness, encode
from facealign_lite.records import RESULTS, commit, describe_device, write_record

MAPS, SIDE, SIGMA, REACH, ANGLES, SEED = 200, 128, 2, 4, 180, 0


def main(arguments: Sequence[str] | None = None, folder: str | Path = RESULTS) -> int:
    """Measure, print, write results/contourness.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7, help="of the fast ways; the slow ones have two")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--maps", type=int, default=MAPS)
    options = parser.parse_args(arguments)
    start, maps = time.perf_counter(), predictions(options.maps)
    array, learnt = maps.numpy(), maps.clone().requires_grad_()
    wanted = torch.stack([torch.from_numpy(with_opencv(one)[0]) for one in array])
    off = (contourness(maps, SIGMA)[0] - wanted).abs().max().item()
    ways: dict[str, tuple[Callable[[], object], int]] = {
        f"search over {ANGLES} angles": (lambda: by_search(maps), 2),
        "conv2d, separable": (lambda: with_conv2d(maps), 2),
        "scikit-image sato, map by map": (
            lambda: [sato(one, [SIGMA / math.sqrt(2)], False, "constant") for one in array], 2),
        "OpenCV sepFilter2D, map by map, filters alone": (lambda: [responses(one) for one in array], options.runs),
        "OpenCV sepFilter2D, map by map": (lambda: [with_opencv(one) for one in array], options.runs),
        "contourness": (lambda: contourness(maps, SIGMA), options.runs),
        "contourness and its gradient": (
            lambda: torch.autograd.grad(contourness(learnt, SIGMA)[0].sum(), learnt), options.runs),
    }
    figures = measured(ways, options.threads)
    for name, row in figures.items():
        print(f"{name:48s} {row}", flush=True)
    write_record("contourness", {
        "what": f"score and orientation of {options.maps} maps of {SIDE} squared at sigma {SIGMA}, the least of the "
                f"runs: wall clock on {options.threads} threads (OpenCV and sato use one for each map), processor "
                "time on one; load counts what else the cores were busy with. sato gives its ridge part only and "
                "no direction; 'filters alone' neither score nor direction",
        "data": f"contours of 5 random points and noise; greatest difference of contourness from OpenCV's {off:.1e}",
        "seeds": [SEED], "budget": {"runs": options.runs, "threads": options.threads}, "commit": commit(),
        "device": describe_device("cpu"), "seconds": round(time.perf_counter() - start, 1), "figures": figures},
        folder)
    return 0


def measured(ways: Mapping[str, tuple[Callable[[], object], int]], threads: int) -> dict[str, dict[str, float]]:
    """Milliseconds by the clock on some threads, and of the processor on one; the least of several runs in turns."""
    figures: dict[str, dict[str, float]] = {name: {} for name in ways}
    for key, count, clock in (("wall_ms", threads, time.perf_counter), ("processor_ms", 1, time.process_time)):
        torch.set_num_threads(count)
        cv2.setNumThreads(count)
        spent: dict[str, list[float]] = {name: [] for name in ways}
        for way, _ in ways.values():
            way()
        for run in range(max(runs for _, runs in ways.values())):
            for name, (way, runs) in ways.items():
                if run < runs:
                    begin = clock()
                    way()
                    spent[name].append(clock() - begin)
        for name, times in spent.items():
            figures[name][key] = round(1e3 * min(times), 1)
    load = round(os.getloadavg()[0], 1)
    return {name: {**row, "load": load} for name, row in figures.items()}


def predictions(count: int = MAPS) -> Tensor:
    """What a network might say: contours through random points, a little blurred by noise."""
    rng = np.random.default_rng(SEED)
    heat = encode(rng.uniform(-10, SIDE + 10, (count, 5, 2)), SIDE, SIGMA)
    return (heat + torch.from_numpy(rng.normal(0, 0.05, heat.shape))).float()


def profiles() -> tuple[NDArray, NDArray, NDArray]:
    """G, its slope and its bend along one axis (ACE-Net Eq. 15 and 20)."""
    t = np.arange(-REACH, REACH + 1, dtype=np.float32)
    smooth = np.exp(-t**2 / SIGMA**2)
    return smooth, t * smooth, (1 - 2 * t**2 / SIGMA**2) * smooth


def by_search(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 6 with the template of Eq. 16 as one product for all angles, a few maps at a time."""
    t = torch.arange(-REACH, REACH + 1.0)
    y, x = torch.meshgrid(t, t, indexing="ij")
    g = torch.exp(-(x**2 + y**2) / SIGMA**2)
    theta = torch.arange(ANGLES)[:, None, None] * (math.pi / ANGLES)
    templates = ((1 - 2 * (y * theta.cos() - x * theta.sin()) ** 2 / SIGMA**2) * g).flatten(1)
    out = []
    for some in maps.clamp(min=0).split(4):
        patches = F.unfold(some[:, None], 2 * REACH + 1, padding=REACH)
        match, which = (templates @ patches).max(1)
        out.append((2 * match - g.flatten() @ patches.square(), theta.flatten()[which]))
    return tuple(torch.cat(part).view_as(maps) for part in zip(*out))


def with_conv2d(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. 24 and 25 with one separable convolution for each filter."""
    def separable(values: Tensor, along_x: Tensor, along_y: Tensor) -> Tensor:
        half = F.conv2d(values[:, None], along_x.view(1, 1, 1, -1), padding=(0, REACH))
        return F.conv2d(half, along_y.view(1, 1, -1, 1), padding=(REACH, 0))[:, 0]

    smooth, slope, bend = map(torch.from_numpy, profiles())
    heat = maps.clamp(min=0)
    a, c = separable(heat, bend, smooth), separable(heat, smooth, bend)
    b = separable(heat, slope, slope) * (-2 / SIGMA**2)
    score = a + c + torch.sqrt((a - c) ** 2 + 4 * b**2) - separable(heat.square(), smooth, smooth)
    return score, torch.atan2(-2 * b, c - a) / 2


def responses(one: NDArray) -> tuple[NDArray, NDArray, NDArray, NDArray]:
    """Ra, -2 Rb, Rc and the blurred squared heat of one map."""
    smooth, slope, bend = profiles()
    heat = np.maximum(one, 0)
    filters = ((heat, bend, smooth), (heat, slope * 4 / SIGMA**2, slope), (heat, smooth, bend),
               (heat * heat, smooth, smooth))
    return tuple(cv2.sepFilter2D(values, -1, along_x, along_y, borderType=cv2.BORDER_CONSTANT)
                 for values, along_x, along_y in filters)


def with_opencv(one: NDArray) -> tuple[NDArray, NDArray]:
    """Eq. 24 and 25 of one map."""
    a, twice_b, c, energy = responses(one)
    swing, phase = cv2.cartToPolar(c - a, twice_b)
    return a + c + swing - energy, phase / 2


if __name__ == "__main__":
    sys.exit(main())
