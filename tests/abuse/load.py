"""Load: thousands of calls in one process, which must neither grow nor slow down, and calls from many sides at once.

Pictures are faces rendered once, each used again in another size and light, so that no two calls are alike and the
time goes to what is looked at. Memory is the resident memory of the process; times are seconds of its processor, which
other processes hardly change.
"""

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import numpy as np

from facealign_lite.align import align, align_all
from facealign_lite.synthetic import SyntheticFaces
from facealign_lite.tracking import track

SEED = 20260
MEGABYTE = 2**20
FLAT = 50.0               # MB by which memory may grow after the first tenth
SIDE = 128                # pixels of a rendered face
PATIENCE = 600            # seconds after which processes that have not answered count as hung


def resident() -> float:
    """Resident memory of this process in MB."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MEGABYTE


def faces(count: int) -> list[Any]:
    return [SyntheticFaces(count, SIDE, SEED)[i] for i in range(count)]


def varied(samples: list[Any], i: int) -> tuple[np.ndarray, np.ndarray]:
    """Picture i and its box: a face in one of 40 sizes and 50 lights."""
    sample, scale, light = samples[i % len(samples)], 0.75 + (i * 7 % 40) / 40, 0.75 + (i * 11 % 50) / 100
    side = round(SIDE * scale)
    image = cv2.resize(sample.image, (side, side), interpolation=cv2.INTER_LINEAR)
    return np.clip(image * light, 0, 255).astype(np.uint8), np.asarray(sample.box) * side / SIDE


def watched(calls: Iterator[Any], count: int) -> dict[str, Any]:
    """Take ``count`` items of ``calls`` and watch memory and time; ``found`` counts those that are not None."""
    seconds, memory, found = np.zeros(count), np.zeros(count), 0
    for i in range(count):
        start = time.process_time()
        found += next(calls) is not None
        seconds[i], memory[i] = time.process_time() - start, resident()
    tenth = max(1, count // 10)
    settled = memory[tenth - 1:]
    return {"calls": count, "found": found, "grown_mb": round(float(settled.max() - settled[0]), 2),
            "resident_mb": round(float(settled[0]), 1), "first_ms": _ms(seconds[:tenth]),
            "last_ms": _ms(seconds[-tenth:])}


def _ms(seconds: np.ndarray) -> float:
    """Median in milliseconds."""
    return round(1000 * float(np.median(seconds)), 2)


def aligned(count: int, some: int = 200) -> dict[str, Any]:
    """``align`` with a box and its default of two looks."""
    samples = faces(min(some, count))

    def calls() -> Iterator[Any]:
        for i in range(count):
            image, box = varied(samples, i)
            face = align(image, box)
            assert face.landmarks.shape == (68, 2) and np.isfinite(face.landmarks).all()
            yield face
    return watched(calls(), count)


def all_aligned(count: int, some: int = 200) -> dict[str, Any]:
    """``align_all`` on two faces side by side; ``found`` counts the pictures with at least one."""
    samples = faces(min(some, count + 1))

    def calls() -> Iterator[Any]:
        for i in range(count):
            left, right = (cv2.resize(varied(samples, k)[0], (SIDE, SIDE)) for k in (i, i + 1))
            yield align_all(np.concatenate([left, right], 1)) or None
    return watched(calls(), count)


def tracked(count: int) -> dict[str, Any]:
    """``track`` of one face that circles in a picture, its light changing; ``found`` counts the frames with a face."""
    image = faces(1)[0].image

    def frames() -> Iterator[np.ndarray]:
        for i in range(count):
            angle = i / 20
            move = np.float32([[1, 0, 40 + 24 * np.cos(angle)], [0, 1, 32 + 16 * np.sin(angle)]])
            frame = cv2.warpAffine(image, move, (208, 192), borderMode=cv2.BORDER_REPLICATE)
            yield np.clip(frame * (0.9 + 0.1 * np.sin(i / 37)), 0, 255).astype(np.uint8)
    return watched((seen.face for seen in track(frames())), count)


def _landmarks(i: int) -> list:
    """What a process of its own finds in picture i of the few that all look at."""
    image, box = varied(_few(), i)
    return align(image, box).landmarks.tolist()


def _few() -> list[Any]:
    return faces(4)


def _differences(results: dict[int, list], wanted: list[list]) -> int:
    return sum(not np.array_equal(results[i], wanted[i]) for i in range(len(wanted)))


def threads(count: int, number: int = 8) -> dict[str, Any]:
    """``align`` from several threads at once: the same numbers as one after the other."""
    samples = _few()
    pictures = [varied(samples, i) for i in range(count)]
    wanted, results = [align(*picture).landmarks.tolist() for picture in pictures], {}

    def work(which: int) -> None:
        for i in range(which, count, number):
            results[i] = align(*pictures[i]).landmarks.tolist()
    running = [threading.Thread(target=work, args=(k,), daemon=True) for k in range(number)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(PATIENCE)
    hung = sum(thread.is_alive() for thread in running)
    return {"calls": count, "at_once": number, "hung": hung,
            "different": _differences(results, wanted) if len(results) == count else count}


def processes(kind: str, count: int, number: int = 4) -> dict[str, Any]:
    """``align`` in processes that are started afresh ("spawn") or copied from this one after it aligned ("fork")."""
    samples = _few()
    wanted = [align(*varied(samples, i)).landmarks.tolist() for i in range(count)]
    with multiprocessing.get_context(kind).Pool(number) as pool:
        try:
            results = dict(enumerate(pool.map_async(_landmarks, range(count)).get(PATIENCE)))
        except multiprocessing.TimeoutError:
            return {"calls": count, "at_once": number, "hung": number, "different": count}
    return {"calls": count, "at_once": number, "hung": 0, "different": _differences(results, wanted)}


# part: how it is run in the long form
LONG: dict[str, Callable[[], dict[str, Any]]] = {
    "align": lambda: aligned(20_000), "align_all": lambda: all_aligned(2000), "track": lambda: tracked(2000),
    "8 threads": lambda: threads(400), "4 processes, spawn": lambda: processes("spawn", 80),
    "4 processes, fork after use": lambda: processes("fork", 80),
}
