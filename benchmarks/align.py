"""Milliseconds a face and NME through the front door, box given: ``python benchmarks/align.py [--faces 50]``.

Every network of the zoo with two looks and with one, on rendered faces that no training saw, beside mediapipe and dlib
where they are installed. All see one face after the other in turn, so that a busy machine slows all alike; the record
is worth keeping from a machine that does nothing else.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from facealign_lite import markups, metrics, zoo
from facealign_lite.align import align
from facealign_lite.data import Sample, box_of
from facealign_lite.records import RESULTS, commit, describe_device, read_record, write_record
from facealign_lite.synthetic import SyntheticFaces

SEED = 909                 # of the faces: no training and no test has it
WARM = 3
LANDMARKS_68 = 68
# where the error on photos stands: the record, the figure, its mean
PHOTOS = {name: (f"photos_{name}", "box x 1.0, raw") for name in ("hourglass", "tab", "scpan", "rht")} | {
    "msm": ("photos_msm_align", "box x 1.0, raw"), "acenet": ("photos_acenet", "acenet"),
    "acenet_weak": ("photos_acenet_weak", "acenet_weak")}


def ours(name: str, looks: int) -> Callable[[Sample], NDArray]:
    """The landmarks (68 or 12, 2) that a network of the zoo reads in a face's box."""
    return lambda sample: align(sample.image, box_of(sample.landmarks), name, "cpu", looks=looks).landmarks


def on_photos(name: str) -> dict[str, float]:
    """The error in percent that ``benchmarks/photos*.py`` recorded for a network with two looks, if they did."""
    record, figure = PHOTOS[name]
    try:
        return {"nme_photos": read_record(record)["figures"][figure]["mean"]}
    except OSError:
        return {}


def dlib_points(model: Path) -> Callable[[Sample], NDArray]:
    """dlib's 68 landmarks; ``model`` is its shape_predictor_68_face_landmarks.dat."""
    import dlib

    predict = dlib.shape_predictor(str(model))

    def run(sample: Sample) -> NDArray:
        left, top, right, bottom = (int(round(v)) for v in box_of(sample.landmarks))
        found = predict(sample.image, dlib.rectangle(left, top, right, bottom))
        return np.array([(part.x, part.y) for part in found.parts()], float)
    return run


def mediapipe_points() -> Callable[[Sample], NDArray]:
    """All points of mediapipe's face mesh, which finds the face itself: timed, and of another markup, so not scored."""
    import mediapipe

    mesh = mediapipe.solutions.face_mesh.FaceMesh(static_image_mode=True)

    def run(sample: Sample) -> NDArray:
        found = mesh.process(sample.image).multi_face_landmarks
        return np.array([(p.x, p.y) for p in found[0].landmark]) if found else np.zeros((0, 2))
    return run


def nme(found: NDArray, sample: Sample) -> float | None:
    """Mean distance over that of the outer eye corners; of the anchors where those were read; None for other points."""
    eyes = metrics.normalizing_length(sample.landmarks[None], "inter_ocular", "68")[0]
    if len(found) == LANDMARKS_68:
        return float(np.linalg.norm(found - sample.landmarks, axis=1).mean() / eyes)
    if len(found) == len(markups.ANCHORS) and sample.anchors is not None:
        return float(np.linalg.norm(found - sample.anchors, axis=1).mean() / eyes)
    return None


def main(arguments: Sequence[str] | None = None, folder: str | Path = RESULTS) -> None:
    """Measure, print a table, write results/align_speed.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dlib", type=Path, help="shape_predictor_68_face_landmarks.dat")
    parser.add_argument("--no-record", action="store_true")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    start, faces = time.perf_counter(), SyntheticFaces(options.faces, 256, seed=SEED)
    samples = [faces[i] for i in range(options.faces)]
    looked = {f"{name}, {looks} look{'s' * (looks > 1)}": (name, looks) for name in zoo.names() for looks in (2, 1)}
    ways = {way: ours(*how) for way, how in looked.items()}
    if find_spec("mediapipe"):
        ways["mediapipe face mesh"] = mediapipe_points()
    else:
        print("mediapipe is not installed: left out")
    if find_spec("dlib") and options.dlib:
        ways["dlib 68"] = dlib_points(options.dlib)
    else:
        print("dlib is not installed, or --dlib does not say where its weights are: left out")
    taken, missed = ({name: [] for name in ways} for _ in range(2))
    for run in ways.values():
        for sample in samples[:WARM]:
            run(sample)
    for sample in samples:
        for name, run in ways.items():
            before = time.perf_counter()
            found = run(sample)
            taken[name].append(1e3 * (time.perf_counter() - before))
            missed[name].append(nme(found, sample))
    figures = {}
    for name in ways:
        scored = [one for one in missed[name] if one is not None]
        figures[name] = {"ms": round(statistics.median(taken[name]), 2), "ms_least": round(min(taken[name]), 2),
                         **({"nme": round(100 * statistics.mean(scored), 3)} if scored else {}),
                         **(on_photos(looked[name][0]) if looked.get(name, ("", 0))[1] == 2 else {})}
        print(f"{name:24s} {figures[name]}", flush=True)
    if not options.no_record:
        write_record("align_speed", {
            "what": "milliseconds a face through align with its box, median and least; NME in percent by the outer eye "
                    "corners, of acenet that of its anchors; nme_photos: that on 405 photos with two looks, as "
                    "benchmarks/photos*.py recorded it, of acenet NME^AC",
            "data": f"{options.faces} rendered faces, seed {SEED}",
            "seeds": [SEED], "budget": {"faces": options.faces, "threads": options.threads}, "commit": commit(),
            "device": describe_device("cpu"), "seconds": round(time.perf_counter() - start, 1), "figures": figures},
            folder)


if __name__ == "__main__":
    main()
