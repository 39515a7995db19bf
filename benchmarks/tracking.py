"""How calm and how quick is ``tracking.track``? ``python benchmarks/tracking.py [--speed]``

On rendered faces: jitter of a still one, lag of a moving one, with and without the filter and over a grid of its
numbers; what the rules by which a face counts as lost were chosen from. ``--speed`` measures milliseconds instead, and
needs a machine that does nothing else.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from facealign_lite import geometry, looks, metrics, records, tracking, zoo
from facealign_lite.data import crop_matrix, grey, upright_matrix
from facealign_lite.detection import find
from facealign_lite.synthetic import Face, SyntheticFaces, render_face
from facealign_lite.tracking import OneEuro

SEED = 1803
SIZE = 256            # of a rendered picture, pixels; a face takes FILL of it
FILL = 0.4
FPS = 30.0
NOISE = 5.0           # grey levels: fresh in every frame, a webcam's in a room
WARM = 30             # frames after which the filter has forgotten where it began
CUTOFFS, BETAS = (0.5, 1.0, 2.0), (0.0, 5.0, 10.0, 20.0, 40.0)
OFFSETS = (0.0, 0.04, 0.08, 0.12, 0.16, 0.2, 0.25, 0.3)


def noisy(image: NDArray, rng: np.random.Generator) -> NDArray[np.uint8]:
    """The picture with fresh noise of a sensor."""
    return np.clip(np.rint(image + rng.normal(0, NOISE, image.shape)), 0, 255).astype(np.uint8)


def still(faces: SyntheticFaces, index: int, frames: int) -> tuple[list[NDArray], NDArray]:
    """Frames of a face that does not move, and its landmarks (T, 68, 2)."""
    rng = np.random.default_rng((SEED, index))
    face = render_face(replace(faces.scene(index), fill=FILL, shift=(0.0, 0.0)), SIZE)
    return [noisy(face.image, rng) for _ in range(frames)], np.repeat(face.landmarks[None], frames, 0)


def moving(faces: SyntheticFaces, index: int, frames: int, period: float) -> tuple[list[NDArray], NDArray]:
    """Frames of a face that turns 30 degrees to both sides, nods, and goes round an ellipse in ``period`` seconds."""
    rng, shots = np.random.default_rng((SEED, index)), []
    for t in np.arange(frames) / FPS:
        phase = 2 * np.pi * t / period
        shots.append(render_face(replace(
            faces.scene(index), fill=FILL, yaw=30 * np.sin(phase), pitch=8 * np.sin(2 * phase), roll=10 * np.sin(phase),
            shift=(0.2 * np.sin(phase), 0.1 * np.cos(phase))), SIZE))
    return [noisy(shot.image, rng) for shot in shots], np.stack([shot.landmarks for shot in shots])


def eye_distance(truth: NDArray) -> float:
    """Median distance of the outer corners of the eyes, pixels."""
    return float(np.median(metrics.normalizing_length(truth, "inter_ocular")))


def filtered(points: NDArray, how: OneEuro) -> NDArray[np.float64]:
    """What the filter makes of landmarks (T, 68, 2), as ``track`` calls it."""
    motion, out = None, []
    for i, frame in enumerate(points):
        motion = tracking.smoothed(motion, frame, i / FPS, tracking.face_size(upright_matrix(frame, 128), 128), how)
        out.append(motion.points)
    return np.stack(out)


def calm(points: NDArray, eyes: float) -> dict[str, float]:
    """RMS in % of the eye distance of landmarks about their own means, and from frame to frame."""
    points = points[WARM:]
    about, between = points - points.mean(0), np.diff(points, axis=0)
    return {name: round(100 * float(np.sqrt((apart**2).sum(-1).mean())) / eyes, 4)
            for name, apart in (("about_mean", about), ("between_frames", between))}


def behind(points: NDArray, truth: NDArray, eyes: float) -> dict[str, float]:
    """Mean error in % of the eye distance; how far landmarks are behind, in ms and, RMS, in % of the eye distance."""
    velocity = np.gradient(truth, axis=0)[WARM:] * FPS
    apart = points[WARM:] - truth[WARM:]
    # the network's own error is about the same whichever way the face goes: take away each landmark's mean
    apart = apart - apart.mean(0)
    velocity = velocity - velocity.mean(0)
    # apart = -lag velocity + rest, least squares
    lag = -float((apart * velocity).sum() / (velocity**2).sum())
    error = np.linalg.norm(points[WARM:] - truth[WARM:], axis=-1).mean()
    return {"error": round(100 * float(error) / eyes, 3), "lag_ms": round(1e3 * lag, 2),
            "lag": round(100 * lag * float(np.sqrt((velocity**2).sum(-1).mean())) / eyes, 3)}


def mean(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """Of every figure."""
    return {name: round(float(np.mean([row[name] for row in rows])), 4) for name in rows[0]}


def followed(frames: list[NDArray]) -> tuple[NDArray, list[bool], list[float]]:
    """Landmarks (T, 68, 2) without the filter, NaN where none were seen; whether found anew; mean scores."""
    seen = list(tracking.track(frames, device="cpu", smooth=False, fps=FPS, retry=0))
    points = [np.full((68, 2), np.nan) if one.face is None else one.face.landmarks for one in seen]
    return np.stack(points), [one.detected for one in seen], [float(one.face.scores.mean()) for one in seen if one.face]


def faceless(faces: SyntheticFaces, index: int) -> NDArray[np.uint8]:
    """A rendered background: the picture's upper left part, the face being in the lower right."""
    return render_face(replace(faces.scene(index), shift=(0.36, 0.3), fill=0.15), 2 * SIZE).image[:300, :300]


def lost(faces: SyntheticFaces, count: int, network: nn.Module) -> dict[str, Any]:
    """Mean scores of crops without a face, and how many of them are followed for a second."""
    rng, scores, locks = np.random.default_rng(SEED), [], 0
    for index in range(count):
        picture = faceless(faces, index)
        for _ in range(10):
            side = rng.uniform(50, 200)
            x, y = rng.uniform(0, 300 - side, 2)
            matrix = crop_matrix((x, y, x + side, y + side), network.config.image_size)
            scores.append(float(looks.look(picture, matrix[None], network).scores.mean()))
            for _ in range(int(FPS)):
                seen = tracking.settle(picture, matrix, network)
                if seen is None:
                    break
                matrix = seen.following
            else:
                locks += 1
    return {"crops": len(scores), "scores": quantiles(scores), "followed_for_a_second": locks}


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """The least, some between, and the greatest."""
    shares = (0, 0.01, 0.05, 0.5, 0.95, 0.99, 1)
    return {f"{share:g}": round(float(np.quantile(values, share)), 4) for share in shares}


def one_look(shots: Sequence[Face], network: nn.Module) -> dict[str, float]:
    """Mean error of one look, % of the eye distance, by how far the crop's corners are from the upright crop's."""
    rng, size, errors = np.random.default_rng(SEED), network.config.image_size, {}
    for offset in OFFSETS:
        row = []
        for shot in shots:
            for _ in range(4):
                angle = rng.uniform(0, 2 * np.pi)
                away = offset * size * np.array([np.cos(angle), np.sin(angle)])
                matrix = geometry.compose(geometry.similarity(1.0, 0.0, away), upright_matrix(shot.landmarks, size))
                points = looks.predict(shot.image, matrix[None], network)[0][0]
                row.append(metrics.nme(points[None], shot.landmarks[None], "inter_ocular", "68"))
        errors[f"{offset:g}"] = round(100 * float(np.mean(row)), 3)
    return errors


def measure(count: int, network: nn.Module) -> dict[str, Any]:
    """Everything that does not depend on time."""
    faces, figures = SyntheticFaces(count, SIZE, SEED), {}
    grid = {f"{cutoff:g} Hz, beta {beta:g}": OneEuro(cutoff, beta) for cutoff in CUTOFFS for beta in BETAS}
    jitter: dict[str, list] = {name: [] for name in ("unfiltered", *grid)}
    for index in range(count):
        points, _, _ = followed(still(faces, index, WARM + 60)[0])
        eyes = eye_distance(still(faces, index, 1)[1])
        if np.isnan(points).any():
            print(f"still face {index} is lost", file=sys.stderr)
            continue
        jitter["unfiltered"].append(calm(points, eyes))
        for name, how in grid.items():
            jitter[name].append(calm(filtered(points, how), eyes))
    figures["still"] = {"faces": len(jitter["unfiltered"])} | {name: mean(rows) for name, rows in jitter.items()}
    print(figures["still"], flush=True)
    scores = []
    for name, period in (("moving", 4.0), ("moving fast", 1.5)):
        rows: dict[str, list] = {key: [] for key in ("unfiltered", *grid)}
        frames, missing, anew = 0, 0, 0
        for index in range(count):
            pictures, truth = moving(faces, index, WARM + 45, period)
            points, detected, certain = followed(pictures)
            frames, missing, anew = frames + len(points), missing + int(np.isnan(points).any((1, 2)).sum()), (
                anew + sum(detected[1:]))
            scores += certain
            if np.isnan(points).any():
                continue
            eyes = eye_distance(truth)
            rows["unfiltered"].append(behind(points, truth, eyes))
            for key, how in grid.items():
                rows[key].append(behind(filtered(points, how), truth, eyes))
        figures[name] = {"faces": len(rows["unfiltered"]), "frames": frames, "without_a_face": missing,
                         "found_anew": anew} | {key: mean(those) for key, those in rows.items() if those}
        print(name, figures[name], flush=True)
    figures["scores of faces"] = quantiles(scores)
    figures["without a face"] = lost(faces, count, network)
    figures["one look, by offset"] = one_look([render_face(replace(
        faces.scene(index), fill=FILL, yaw=yaw), SIZE) for index in range(count) for yaw in (-30, 0, 30)], network)
    return figures


# ---- speed ---------------------------------------------------------------------------------------------------------

def milliseconds(run: Callable[[], Any], runs: int) -> float:
    """Median time of a call."""
    run()
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        taken.append(1e3 * (time.perf_counter() - start))
    return round(statistics.median(taken), 3)


def speed(frames: int, network: nn.Module) -> dict[str, Any]:
    """Frames a second of ``track`` at 640 x 480, milliseconds of processors and on the clock, and of its parts."""
    face = render_face(replace(SyntheticFaces(1, SIZE, SEED).scene(0), fill=FILL), 480)
    pictures = []
    for phase in 2 * np.pi * np.arange(frames) / FPS / 4.0:
        matrix = geometry.similarity(1.0, 0.15 * np.sin(phase), (80 + 60 * np.sin(phase), 40 * np.cos(phase)))
        pictures.append(cv2.warpAffine(face.image, matrix, (640, 480), borderMode=cv2.BORDER_REPLICATE))
    taken, spent, start = [], [], None
    for seen in tracking.track(pictures, device="cpu"):
        now = time.perf_counter(), time.process_time()
        if start is not None and not seen.detected:
            taken.append(1e3 * (now[0] - start[0]))
            spent.append(1e3 * (now[1] - start[1]))
        start = time.perf_counter(), time.process_time()
    picture, config = pictures[-1], network.config
    matrix = crop_matrix(seen.face.box, config.image_size)
    images = looks.cut(picture, matrix[None], network)
    with torch.inference_mode():
        outputs = network(images)
        parts = {"grey": milliseconds(lambda: grey(picture), frames),
                 "crop": milliseconds(lambda: looks.cut(grey(picture), matrix[None], network), frames),
                 "forward": milliseconds(lambda: network(images), frames),
                 "read": milliseconds(lambda: network.read(outputs), frames)}
    motion = tracking.smoothed(None, seen.face.landmarks, 0.0, 100.0)
    parts["smooth"] = milliseconds(lambda: tracking.smoothed(motion, seen.face.landmarks, 1 / FPS, 100.0), frames)
    parts["find"] = milliseconds(lambda: find(picture, network), 5)
    return {"frames": len(taken), "ms_a_frame": round(statistics.median(taken), 3),
            "ms_95": round(float(np.quantile(taken, 0.95)), 3),
            "processor_ms_a_frame": round(statistics.median(spent), 3),
            "frames_a_second": round(1e3 / statistics.mean(taken), 1), "ms_of_parts": parts,
            "threads": {"torch": torch.get_num_threads(), "opencv": cv2.getNumThreads()},
            "load_of_the_machine": [round(load, 2) for load in os.getloadavg()]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--faces", type=int, default=6)
    parser.add_argument("--frames", type=int, default=90, help="for --speed")
    options = parser.parse_args()
    start, network = time.perf_counter(), zoo.load("hourglass", "cpu")
    figures = speed(options.frames, network) if options.speed else measure(options.faces, network)
    what = ("milliseconds of tracking.track on a CPU, 640 x 480; grey is part of crop" if options.speed else
            "tracking.track on rendered faces: RMS jitter of still ones with fresh noise, error and lag of moving ones "
            "in % of the distance between the outer eye corners and in ms, after one second; mean scores of followed "
            "faces and of crops without one; error of one look by how far its crop is off, in sides of the crop")
    path = records.write_record("tracking_speed" if options.speed else "tracking", {
        "what": what, "data": f"rendered faces of {SIZE} pixels, a face taking {FILL}, noise of {NOISE} grey levels, "
                              f"{FPS:g} frames a second", "seeds": [SEED],
        "budget": {"frames": options.frames} if options.speed else {"faces": options.faces},
        "commit": records.commit(), "device": records.describe_device("cpu"),
        "seconds": round(time.perf_counter() - start, 1), "figures": figures})
    print(figures, f"wrote {path.name}", sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
