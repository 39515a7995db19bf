"""All six networks on the same faces, crops and looks: ``python -m benchmarks.all_methods [--faces 240 --stressed 80]``

Two tests. *As drawn*: rendered faces as the generator draws them, with one look and with two. *Strained*: other faces,
free of occluders and blur of their own, each seen as it is and then with one thing made harder at a time: a part
covered, the head turned, the picture blurred, the box off its place. What is drawn by chance (where the cover lies,
where the box goes) is drawn once a face, so that all networks see the same pixels.

The networks are those that are shipped. The faces have a seed that nothing else in this project has.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.photos_acenet import through
from benchmarks.photos_hidden import painted
from facealign_lite import metrics, zoo
from facealign_lite.align import Alignment, align
from facealign_lite.data import box_of
from facealign_lite.records import RESULTS, commit, describe_device, write_record
from facealign_lite.synthetic import Face, SyntheticFaces, render_face

SEED, SIZE = 161616, 256                            # of the faces; side of a picture in pixels
MODELS = ("hourglass", "acenet", "tab", "scpan", "rht", "msm")
LANDMARKS = 68
DIGITS = 5                                          # of an error that is kept: a thousandth of a per cent
COVERED = (0.1, 0.2, 0.4)                           # share of the landmarks' bounding box
TURNED = (0, 20, 40, 60)                            # yaw in degrees, to the side that the face looks to
BLURRED = (0.01, 0.02, 0.04)                        # sigma over the longer side of the box
MOVED = (0.05, 0.1, 0.2)                            # of the box, over its longer side


@dataclass(frozen=True)
class View:
    """What the networks are given of a face."""

    image: NDArray[np.uint8]
    box: NDArray[np.float64]
    face: Face


def blurred(picture: NDArray, sigma: float) -> NDArray:
    """The picture under a Gaussian of ``sigma`` pixels."""
    return cv2.GaussianBlur(picture, (0, 0), sigma)


def moved(box: NDArray, share: float, angle: float) -> NDArray:
    """The box moved by ``share`` of its longer side in the direction ``angle``, in radians."""
    step = share * (box[2:] - box[:2]).max() * np.array([np.cos(angle), np.sin(angle)])
    return box + np.tile(step, 2)


def views(faces: SyntheticFaces, index: int) -> Iterator[tuple[str, View]]:
    """A face as it is and strained in each way, by names such as "covered 0.1"."""
    scene = faces.scene(index)
    scene = replace(scene, style=replace(scene.style, occluder=0.0, mask=0.0, blur=0.0))
    rng = np.random.default_rng((SEED, index))
    place, angle = rng.uniform(0, 1, 2), rng.uniform(0, 2 * np.pi)
    face = render_face(scene, SIZE)
    box, points = box_of(face.landmarks), face.landmarks
    side = (box[2:] - box[:2]).max()
    yield "as it is", View(face.image, box, face)
    for share in COVERED:
        yield f"covered {share}", View(painted(face.image, points, place, share)[0], box, face)
    for sigma in BLURRED:
        yield f"blurred {sigma}", View(blurred(face.image, sigma * side), box, face)
    for share in MOVED:
        yield f"moved {share}", View(face.image, moved(box, share, angle), face)
    for yaw in TURNED:
        turned = render_face(replace(scene, yaw=float(np.copysign(yaw, scene.yaw))), SIZE)
        yield f"turned {yaw}", View(turned.image, box_of(turned.landmarks), turned)


def errors(found: Alignment, face: Face) -> tuple[float | None, float]:
    """NME of the 68 landmarks (None where others were read) and NME^AC, by the outer eye corners.

    The anchors and contours of a network of landmarks are its landmarks and the straight lines through them. NME^AC
    asks for the same landmarks of all: those that are anchors, and those that lie on the 13 contours.
    """
    landmarks = found.landmarks if len(found.landmarks) == LANDMARKS else None
    nme = None if landmarks is None else float(metrics.nme(landmarks, face.landmarks)[0])
    drawn = found if found.contours is not None else through(found)
    length = float(metrics.normalizing_length(face.landmarks, "inter_ocular")[0])
    true = metrics.landmarks_as_ac(face.landmarks)
    return nme, metrics.nme_ac(metrics.anchor_contour_errors(drawn.anchors, drawn.contours, *true, length))


def measured(view: View, networks: dict[str, torch.nn.Module], looks: int) -> dict[str, tuple]:
    """NME, NME^AC and processor milliseconds of each network, one after the other on the same view."""
    found = {}
    for name, network in networks.items():
        start = time.process_time()
        face = align(view.image, view.box, network, looks=looks)
        spent = 1e3 * (time.process_time() - start)
        found[name] = (*errors(face, view.face), spent)
    return found


def collected(seen: list[dict[str, tuple]]) -> dict[str, dict[str, Any]]:
    """Of each network the errors of every face, and the median of its milliseconds."""
    figures = {}
    for name in seen[0]:
        nme, ac, ms = zip(*(row[name] for row in seen))
        figures[name] = {"nme_ac": [round(value, DIGITS) for value in ac], "ms": round(float(np.median(ms)), 2)}
        if nme[0] is not None:
            figures[name]["nme"] = [round(value, DIGITS) for value in nme]
    return figures


def main(arguments: list[str] | None = None, folder: Path = RESULTS,
         load: Callable[[str], torch.nn.Module] | None = None) -> int:
    """Measure and write ``all_methods.json``."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faces", type=int, default=240)
    parser.add_argument("--stressed", type=int, default=80)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    begin = time.perf_counter()
    if load is None:
        from facealign_lite.align import prepared

        def load(name: str) -> torch.nn.Module:         # folded, as ``align`` loads it
            return prepared(name, "cpu")
    networks = {name: load(name) for name in MODELS}
    faces = SyntheticFaces(options.faces + options.stressed, SIZE, SEED)
    plain: dict[int, list] = {1: [], 2: []}
    tags, pictures = [], (faces[i] for i in range(options.faces))
    for face in pictures:
        view = View(face.image, box_of(face.landmarks), face)
        tags.append({**face.tags, "yaw": round(face.pose[0], 1)})
        for looks, rows in plain.items():
            rows.append(measured(view, networks, looks))
    strained: dict[str, list] = {}
    for index in range(options.faces, options.faces + options.stressed):
        for name, view in views(faces, index):
            strained.setdefault(name, []).append(measured(view, networks, 2))
    path = write_record("all_methods", {
        "what": "errors of every face as fractions of the distance of the outer eye corners: NME of the 68 landmarks, "
                "and NME^AC of the landmarks as anchors and contours (networks of landmarks: straight lines through "
                "them); ms: median processor time of a face, one thread, networks in turn on a shared machine",
        "data": f"{options.faces} rendered faces as drawn, {options.stressed} others strained, {SIZE} pixels, "
                f"seed {SEED}; the box is that of the true landmarks unless it is moved",
        "seeds": [SEED], "budget": {"faces": options.faces, "stressed": options.stressed}, "commit": commit(),
        "device": describe_device("cpu"), "seconds": round(time.perf_counter() - begin, 1),
        "figures": {"parameters": {name: sum(p.numel() for p in zoo.load(name, "cpu").parameters()) for name in MODELS},
                    "tags": tags,
                    "as drawn": {f"{looks} looks" if looks > 1 else "1 look": collected(rows)
                                 for looks, rows in plain.items()},
                    "strained": {name: collected(rows) for name, rows in strained.items()}}}, folder)
    print(f"wrote {path.name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
