"""How many training crops a second: by batches, and one at a time: ``python benchmarks/crops.py``.

Faces are rendered into a pack, as training has them. One at a time runs on one thread of the processor; by batches on
the device at hand, on a GPU from a CUDA graph, as a training step holds it.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch

from facealign_lite.data import Augmentation, BatchedCrops, Crops, PackedFaces, save_packed
from facealign_lite.records import commit, describe_device, write_record
from facealign_lite.synthetic import SyntheticFaces

IMAGE, SEED, SIZES, BATCHES = 160, 21, (64, 128), (32, 128, 512)


def main() -> int:
    """Measure, print, write results/crops.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", type=int, default=256)
    parser.add_argument("--pack", type=Path, help="folder of a pack of faces, made if it is not there")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each measurement")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    start, figures = time.perf_counter(), {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.pack or Path(scratch) / "faces"
        faces = PackedFaces(folder) if (folder / "pack.json").exists() else save_packed(
            folder, SyntheticFaces(options.faces, IMAGE, SEED))
        for size in SIZES:
            figures |= measured(faces, size, torch.device(options.device), options.seconds)
    for name, figure in figures.items():
        print(f"{name:44s} {figure}")
    path = write_record("crops", {
        "what": "augmented grey crops a second, median of repeated runs; draws: the chance of as many crops, which a "
                "thread of the processor draws while the device computes",
        "data": f"{len(faces)} rendered faces of {faces.images.shape[1]} pixels, {faces.images.shape[3:] or 'grey'}",
        "seeds": [SEED], "budget": {"faces": len(faces), "seconds": options.seconds}, "commit": commit(),
        "device": describe_device(options.device), "seconds": round(time.perf_counter() - start, 1),
        "figures": figures})
    print(f"wrote {path.name}")
    return 0


def measured(faces: PackedFaces, size: int, device: torch.device, seconds: float) -> dict[str, int]:
    """Crops a second of one size."""
    one = Crops(faces, size, Augmentation())
    rows = {f"{size}, one at a time, processor": rate(
        lambda k: [one.at(k, i % len(one)) for i in range(32)], 32, seconds)}
    many = BatchedCrops(faces, size, Augmentation(), device=device)
    for count in BATCHES:
        keys = [[(epoch, i % len(many)) for i in range(count)] for epoch in range(8)]
        rows[f"{size}, draws of {count}, processor"] = rate(
            lambda k, keys=keys: many.draws(keys[k % 8]), count, seconds / 4)
        rows[f"{size}, batches of {count}, {device.type}"] = rate(batches(many, keys), count, seconds)
    return rows


def batches(crops: BatchedCrops, keys: list[list[tuple[int, int]]]) -> Callable[[int], None]:
    """Makes batch k and waits for it."""
    drawn = [crops.draws(some) for some in keys]
    if crops.device.type != "cuda":
        return lambda k: crops.batch(drawn[k % len(drawn)])
    drawn = [{name: tensor.pin_memory() for name, tensor in draws.items()} for draws in drawn]
    given = {name: tensor.to(crops.device) for name, tensor in drawn[0].items()}
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):                                             # once before the graph is recorded
        crops.batch(given)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        crops.batch(given)

    def replay(k: int) -> None:
        for name, tensor in drawn[k % len(drawn)].items():
            given[name].copy_(tensor, non_blocking=True)
        graph.replay()
        torch.cuda.synchronize()
    return replay


def rate(work: Callable[[int], object], count: int, seconds: float) -> int:
    """Crops a second of ``work``, which makes ``count`` at a time: median of runs, the first one apart."""
    work(0)
    spent, end = [], time.perf_counter() + seconds
    while not spent or time.perf_counter() < end:
        begin = time.perf_counter()
        work(len(spent) + 1)
        spent.append(time.perf_counter() - begin)
    return round(count / float(np.median(spent)))


if __name__ == "__main__":
    sys.exit(main())
