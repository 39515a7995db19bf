"""Does SIFT pick a good reference, and how fast? ``python benchmarks/references.py [--bank 1000] [--faces 60]``.

Faces are rendered and cropped. A reference is as good as its shape is near: mean distance of the landmarks after the
best affine map (all that the hard transformation can do) and after the best similarity, by the inter-ocular distance.
"""

import argparse
import sys
import time
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from facealign_lite import geometry, markups
from facealign_lite.data import crop, crop_matrix, grey
from facealign_lite.records import commit, describe_device, write_record
from facealign_lite.rht import ReferenceBank
from facealign_lite.synthetic import SyntheticFaces

SIZE, SEEDS, KEYPOINTS, REACH, WORDS, SHORTLIST = 128, (11, 12), 48, 12.0, 2048, 100


def main() -> int:
    """Measure, print, write results/references.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bank", type=int, default=1000)
    parser.add_argument("--faces", type=int, default=60)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    start = time.perf_counter()
    images, shapes, yaws = rendered(options.bank, SEEDS[0])
    targets, wanted, turned = rendered(options.faces, SEEDS[1])
    chosen: dict[str, tuple] = {}
    for where, reach in (("near", REACH), ("anywhere", None)):
        begin = time.process_time()
        bank = ReferenceBank(images, shapes, KEYPOINTS, reach, WORDS, SHORTLIST)
        building = round(time.process_time() - begin, 2)
        chosen |= {f"most correlated, {where}": timed(bank.most_correlated, targets),
                   f"least correlated, {where}": timed(bank.least_correlated, targets)}
        for end, method in (("most", np.argmax), ("least", np.argmin)):
            exact, ms = timed(lambda image, bank=bank, method=method: int(method(bank.scores(image))), targets)
            figures = chosen[f"{end} correlated, {where}"]
            figures[1].update(ms_exact=ms["ms"], seconds_to_build=building,
                              same_as_exact=round(float(np.mean(np.equal(figures[0], exact))), 3))
    rng = np.random.default_rng(0)
    chosen |= {"neutral": ([bank.neutral()] * len(targets), {}), "random": ([bank.random(rng) for _ in targets], {})}
    # what the choice could be at best, by the true shapes
    after = np.array([[apart(shape, truth) for shape in shapes] for truth in wanted])          # (faces, bank, 2)
    chosen["nearest shape"] = (list(after[..., 0].argmin(1)), {})
    figures = {}
    for name, (which, more) in chosen.items():
        affine, similar = 100 * after[np.arange(len(which)), which].mean(0)
        figures[name] = {"affine": round(float(affine), 2), "similarity": round(float(similar), 2),
                         "yaw_apart": round(float(np.abs(yaws[which] - turned).mean()), 1)} | more
        print(f"{name:26s} {figures[name]}")
    write_record("references", {
        "what": f"one reference of {options.bank} for each of {options.faces} other faces of {SIZE} pixels: mean "
                "landmark distance in percent of the inter-ocular distance after the best affine map and after the "
                "best similarity; yaw_apart: degrees; ms: processor time of one answer, SIFT of the new face included, "
                "one thread, ms_95 its 95th percentile, ms_exact without a shortlist; near: keypoints match within "
                "reach pixels",
        "data": f"SyntheticFaces, seed {SEEDS[0]} the bank, {SEEDS[1]} the faces", "seeds": list(SEEDS),
        "budget": {"bank": options.bank, "faces": options.faces, "keypoints": KEYPOINTS, "reach": REACH,
                   "words": WORDS, "shortlist": SHORTLIST}, "commit": commit(), "device": describe_device("cpu"),
        "seconds": round(time.perf_counter() - start, 1), "figures": figures})
    return 0


def rendered(n: int, seed: int) -> tuple[list[NDArray], NDArray, NDArray]:
    """Grey crops, their landmarks (n, 68, 2), and yaws in degrees."""
    images, landmarks, yaws = [], [], []
    for face in SyntheticFaces(n, SIZE, seed):
        matrix = crop_matrix(face.box, SIZE)
        images.append(crop(grey(face.image), matrix, SIZE))
        landmarks.append(geometry.transform(face.landmarks, matrix))
        yaws.append(face.pose[0])
    return images, np.stack(landmarks), np.array(yaws)


def timed(choose: Callable[[NDArray], int], images: list[NDArray]) -> tuple[list[int], dict[str, float]]:
    """Answers, and processor milliseconds of one."""
    choose(images[0])
    which, spent = [], []
    for image in images:
        begin = time.process_time()
        which.append(choose(image))
        spent.append(1e3 * (time.process_time() - begin))
    return which, {"ms": round(float(np.median(spent)), 2), "ms_95": round(float(np.percentile(spent, 95)), 2)}


def apart(shape: NDArray, truth: NDArray) -> tuple[float, float]:
    """Mean distance, by the inter-ocular one, after the least-squares affine map and after the best similarity."""
    (left,), (right,) = markups.get("68").normalizers["inter_ocular"]
    length = np.linalg.norm(truth[left] - truth[right])
    points = np.column_stack([shape, np.ones(len(shape))])
    affine = points @ np.linalg.lstsq(points, truth, rcond=None)[0]
    similar = geometry.transform(shape, geometry.procrustes(shape, truth))
    return tuple(np.linalg.norm(moved - truth, axis=-1).mean() / length for moved in (affine, similar))


if __name__ == "__main__":
    sys.exit(main())
