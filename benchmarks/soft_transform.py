"""Time and memory of the soft transformation against map size: ``python benchmarks/soft_transform.py``.

Every size runs in a process of its own, so that the peak of resident memory belongs to it, and gives large pieces
back at once, so that it holds what is in use. Processor time, one thread.
"""

import argparse
import os
import resource
import subprocess
import sys
import time

import numpy as np
import torch

from facealign_lite.records import commit, describe_device, write_record
from facealign_lite.rht import soft_transform

SIZES, CHANNELS, PATCH, BLOCK, SEED = (16, 32, 64, 96, 128), 64, 3, 256, 0


def main() -> int:
    """Measure, print, write results/soft_transform.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--one", type=int, nargs=2, metavar=("SIZE", "BLOCK"), help="print milliseconds and MiB")
    options = parser.parse_args()
    if options.one:
        print(*measured(*options.one, options.runs))
        return 0
    start, figures = time.perf_counter(), {}
    for side in SIZES:
        # all positions in one block hold the whole correlation, 1 GiB at 128
        for name, block in (("blocks", BLOCK), ("at once", side**2)):
            command = [sys.executable, __file__, "--runs", options.runs, "--one", side, block]
            row = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True,
                                 env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}).stdout.split()
            figures[f"{side}, {name}"] = dict(zip(("ms", "mib", "correlation_mib"),
                                                  (*map(float, row), round(4 * block * side**2 / 2**20, 2))))
            print(f"{side:4d} {name:8s} {figures[f'{side}, {name}']}", flush=True)
    write_record("soft_transform", {
        "what": f"soft_transform of {CHANNELS} channels, patch {PATCH}, forward and backward: median processor time of "
                "one image, one thread; mib: peak resident memory above that before the call; correlation_mib: the "
                "part of it that is a block of cosines",
        "data": "normal noise", "seeds": [SEED], "budget": {"runs": options.runs, "block": BLOCK}, "commit": commit(),
        "device": describe_device("cpu"), "seconds": round(time.perf_counter() - start, 1), "figures": figures})
    return 0


def measured(side: int, block: int, runs: int) -> tuple[float, float]:
    """Milliseconds of one forward and backward pass, and MiB at its peak."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    query, key, value = (torch.randn(1, CHANNELS, side, side, requires_grad=True) for _ in range(3))
    soft_transform(*(torch.randn(1, CHANNELS, 4, 4, requires_grad=True) for _ in range(3)))[0].sum().backward()  # warm
    before, spent = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, []
    for _ in range(runs):
        begin = time.process_time()
        features, confidence, _ = soft_transform(query, key, value, PATCH, block)
        (features.sum() + confidence.sum()).backward()
        spent.append(time.process_time() - begin)
        del features, confidence
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(1e3 * float(np.median(spent)), 1), round((peak - before) / 1024, 1)


if __name__ == "__main__":
    sys.exit(main())
