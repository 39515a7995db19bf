"""How many faces a second the renderer makes: ``python benchmarks/rendering.py [--faces 400] [--processes 2]``."""

import argparse
import time
from concurrent.futures import ProcessPoolExecutor

from facealign_lite.evaluation import commit, describe_device, write_record
from facealign_lite.synthetic import SyntheticFaces

SIZE, SEED = 128, 5


def render(index: int) -> None:
    SyntheticFaces(index + 1, SIZE, SEED)[index]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", type=int, default=400)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    with ProcessPoolExecutor(options.processes) as pool:
        list(pool.map(render, range(4 * options.processes)))            # load the head, build the noise fields
        start = time.perf_counter()
        list(pool.map(render, range(options.faces), chunksize=10))
        seconds = time.perf_counter() - start
    rate = options.faces / seconds
    print(f"{rate:.1f} faces of {SIZE} pixels a second in {options.processes} processes")
    write_record("rendering", {
        "what": f"rendering speed, faces of {SIZE} pixels with everything on", "data": f"SyntheticFaces(seed={SEED})",
        "seeds": [SEED], "budget": {"faces": options.faces, "processes": options.processes}, "commit": commit(),
        "device": describe_device("cpu"), "seconds": seconds, "figures": {"faces_per_second": rate}})


if __name__ == "__main__":
    main()
