"""How many faces a second the renderer makes: ``python benchmarks/rendering.py [--faces 200]``.

Counts processor time, which a busy machine stretches least; one process per core shares nothing, so cores add up.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

from facealign_lite.records import RESULTS, commit, describe_device, write_record
from facealign_lite.synthetic import SyntheticFaces

SIZE, SEED, CORES = 128, 5, 2


def main(arguments: Sequence[str] | None = None, folder: str | Path = RESULTS) -> None:
    """Measure, print, write results/rendering.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", type=int, default=200)
    options = parser.parse_args(arguments)
    faces = SyntheticFaces(options.faces, SIZE, SEED)
    for i in range(min(5, options.faces)):
        faces[i]                                                        # load the head, build the noise fields
    start = time.process_time()
    for i in range(options.faces):
        faces[i]
    seconds = time.process_time() - start
    each = seconds / options.faces
    print(f"{1e3 * each:.1f} ms a face of {SIZE} pixels: {CORES / each:.0f} a second on {CORES} cores")
    write_record("rendering", {
        "what": f"rendering speed, faces of {SIZE} pixels with everything on, by processor time",
        "data": f"SyntheticFaces(seed={SEED})", "seeds": [SEED], "budget": {"faces": options.faces}, "commit": commit(),
        "device": describe_device("cpu"), "seconds": seconds,
        "figures": {"ms_per_face": 1e3 * each, "faces_per_second_on_two_cores": CORES / each}}, folder)


if __name__ == "__main__":
    main()
