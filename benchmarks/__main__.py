"""Every speed row of the book in one run: ``make benchmark``, or ``python -m benchmarks [--only codecs] [--tiny]``.

Each row is a ratio of two things timed in turns, so that a busy machine slows both, or how time grows with size, as the
slope of a straight line through the points (log size, log time), beside the exponent that counting operations gives
where sizes are large.
``contourness``, ``rendering`` and ``align`` write their records; all rows go into results/benchmark.json, and what
misses its aim leaves a profile beside it, results/profile_<row>.txt.
"""

import argparse
import cProfile
import io
import pstats
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from skimage.filters import sato
from skimage.morphology import skeletonize

from benchmarks import align as front_door
from benchmarks import contourness as ridges
from benchmarks import exemplars, rendering, training
from facealign_lite import contours, heatmaps, rht, zoo
from facealign_lite.align import align
from facealign_lite.data import Crops, box_of, crop, crop_matrix, grey
from facealign_lite.msm import ShapeDictionary, canonical
from facealign_lite.records import RESULTS, commit, describe_device, read_record, write_record
from facealign_lite.synthetic import SyntheticFaces

SEED, IMAGE, SIDE, SIGMA = 31, 160, 64, 2.0
SHOWN = 25                  # lines of a profile
Work = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    figures: Mapping[str, Any]           # what is recorded; "ratio" or "exponent" among it, or why there is neither
    most: float | None = None            # the aim: the ratio is at most this
    work: Work | None = None             # what to profile if it is more

    def missed(self) -> bool:
        """Whether there is an aim and it was not reached."""
        return self.most is not None and self.figures["ratio"] > self.most

    def line(self) -> str:
        """The row as printed."""
        figures = {key: value for key, value in self.figures.items() if key != "theory"}
        aim = "" if self.most is None else f"   aim: at most {self.most:g}, {'MISSED' if self.missed() else 'met'}"
        law = f"   theory {self.figures['theory']:g}" if "theory" in self.figures else ""
        return f"{self.name:58s} " + "  ".join(f"{key} {value}" for key, value in figures.items()) + law + aim


# ---- measuring -----------------------------------------------------------------------------------------------------

@contextmanager
def threads(count: int) -> Iterator[None]:
    """PyTorch and OpenCV on so many."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(count)
    cv2.setNumThreads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def race(ways: Mapping[str, Work], runs: int, clock: Callable[[], float] = time.process_time) -> dict[str, float]:
    """Milliseconds of each way, the least of several runs in turns."""
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(runs):
        for name, way in ways.items():
            begin = clock()
            way()
            spent[name].append(1e3 * (clock() - begin))
    return {name: min(times) for name, times in spent.items()}


def slope(sizes: Sequence[float], spent: Sequence[float]) -> float:
    """The exponent b of time = a size^b, by least squares in logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(spent), 1)[0])


def against(name: str, ours: Work, theirs: Work, runs: int, most: float | None = None, **more: Any) -> Row:
    """Ours beside another's, processor time of one thread."""
    spent = race({"ours": ours, "theirs": theirs}, runs)
    figures = {"ms": round(spent["ours"], 3), "their_ms": round(spent["theirs"], 3),
               "ratio": round(spent["ours"] / spent["theirs"], 3), **more}
    return Row(name, figures, most, ours)


def growth(name: str, make: Callable[[int], Work], sizes: Sequence[int], theory: float, runs: int) -> Row:
    """How the processor time of one thread grows with a size."""
    spent = race({str(size): make(size) for size in sizes}, runs)
    return Row(name, {"sizes": list(sizes), "ms": [round(one, 3) for one in spent.values()],
                      "exponent": round(slope(sizes, list(spent.values())), 2), "theory": theory})


# ---- rows from the records of other benchmarks ---------------------------------------------------------------------

def contour_rows(tiny: bool, folder: Path) -> list[Row]:
    """Contourness and its gradient beside OpenCV's separable filters."""
    ridges.main(["--runs", "1", "--maps", "2", "--threads", "1"] if tiny else [], folder)
    figures = read_record("contourness", folder)["figures"]
    theirs, ours, both = (figures[name] for name in ("OpenCV sepFilter2D, map by map", "contourness",
                                                     "contourness and its gradient"))
    maps = ridges.predictions(8)
    learnt = maps.clone().requires_grad_()

    def gradient() -> object:
        return torch.autograd.grad(contours.contourness(learnt, SIGMA)[0].sum(), learnt)
    rows = []
    for key, most, words in (("wall_ms", 1.5, "clock, two threads"), ("processor_ms", 2.0, "processor time")):
        for name, above, below, at_most, work in (
                ("contourness / OpenCV's filters", ours, theirs, most, lambda: contours.contourness(maps, SIGMA)),
                ("contourness with gradient / without", both, ours, 3.0, gradient)):
            rows.append(Row(f"{name}, {words}", {"ms": above[key], "their_ms": below[key],
                                                 "ratio": round(above[key] / below[key], 2)}, at_most, work))
    sides, counts, runs = ((32, 64), (1, 2), 1) if tiny else ((64, 128, 256, 512), (8, 32, 128), 9)

    def of(count: int, side: int) -> Work:
        some = torch.rand(count, side, side)
        return lambda: contours.contourness(some, SIGMA)
    return [*rows, growth("contourness by side of a map", lambda side: of(4, side), sides, 2, runs),
            growth("contourness by number of maps", lambda count: of(count, 128), counts, 1, runs)]


def rendering_rows(tiny: bool, folder: Path) -> list[Row]:
    """Rendered faces a second."""
    rendering.main(["--faces", "2"] if tiny else [], folder)
    figures = read_record("rendering", folder)["figures"]
    wanted, faces = 120, SyntheticFaces(1 << 20, rendering.SIZE, rendering.SEED)
    found = figures["faces_per_second_on_two_cores"]
    rows = [Row(f"rendering, {wanted} faces a second on two cores / ours",
                {"ms": round(figures["ms_per_face"], 1), "a_second": round(found, 1),
                 "ratio": round(wanted / found, 2)}, 1.0, lambda: [faces[i] for i in range(1 if tiny else 40)])]

    def of(size: int) -> Work:
        some = SyntheticFaces(4, size, SEED)
        return lambda: [some[i] for i in range(1 if tiny else 4)]
    return [*rows, growth("rendering by side of the picture", of, (32, 64) if tiny else (64, 128, 256, 512), 2,
                          1 if tiny else 3)]


def align_rows(tiny: bool, folder: Path) -> list[Row]:
    """The front door, box given, on two threads."""
    front_door.main(["--faces", "1", "--threads", "1"] if tiny else ["--faces", "40"], folder)
    figures = read_record("align_speed", folder)["figures"]
    face = SyntheticFaces(1, 256, front_door.SEED)[0]
    rows = []
    for name, row in figures.items():
        looks = 1 if name.endswith("1 look") else 2
        wanted = {"hourglass, 2 looks": 12.0, "hourglass, 1 look": 5.0}.get(name)
        more = {"ratio": round(row["ms"] / wanted, 2)} if wanted else {}
        rows.append(Row(f"align, {name}" + (f" / {wanted:g} ms" if wanted else ""), {**row, **more},
                        1.0 if wanted else None,
                        lambda looks=looks: [align(face.image, box_of(face.landmarks), device="cpu", looks=looks)
                                             for _ in range(1 if tiny else 20)]))
    present = {name.split()[0] for name in figures}
    for peer in sorted({"mediapipe", "dlib"} - present):
        rows.append(Row(f"align, {peer}", {"not installed": "left out"}))
    return rows


# ---- rows measured here --------------------------------------------------------------------------------------------

def codec_rows(tiny: bool, folder: Path) -> list[Row]:
    """Heatmaps of landmarks and back, beside what mmpose computes, map by map in NumPy."""
    faces, runs = (1, 1) if tiny else (16, 7)
    points = np.random.default_rng(SEED).uniform(4, SIDE - 5, (faces, 68, 2))
    maps = heatmaps.encode(torch.from_numpy(points).float(), SIDE, SIGMA)
    array = maps.numpy()
    rows = [against(f"encode, {faces} x 68 points, {SIDE} squared / mmpose's", lambda: heatmaps.encode(
                        torch.from_numpy(points).float(), SIDE, SIGMA),
                    lambda: [pasted(one, SIDE, SIGMA) for one in points], runs)]
    spoilt = np.abs(np.stack([newton(one) for one in array]) - points).mean()
    for method in ("center_of_mass", "dark", "soft_argmax"):
        given = maps if method != "soft_argmax" else maps.clamp(min=1e-30).log()       # of logits
        off = np.abs(heatmaps.decode(given, method).numpy() - points).mean()
        rows.append(against(f"decode by {method} / mmpose's DARK", lambda given=given, method=method: heatmaps.decode(
            given, method), lambda: [newton(one) for one in array], runs, pixels_off=round(float(off), 4),
            their_pixels_off=round(float(spoilt), 4)))

    def drawn(count: int) -> Work:
        some = torch.from_numpy(np.random.default_rng(SEED).uniform(4, 60, (4, count, 2))).float()
        return lambda: heatmaps.encode(some, SIDE, SIGMA)

    def read(side: int) -> Work:
        some = heatmaps.encode(torch.full((4, 68, 2), side / 2.1), side, SIGMA)
        return lambda: heatmaps.decode(some)
    return [*rows, growth("encode by number of landmarks", drawn, (4, 8) if tiny else (32, 64, 128, 256), 1, runs),
            growth("decode by side of a map", read, (16, 32) if tiny else (64, 128, 256), 2, runs)]


def pasted(points: NDArray, side: int, sigma: float) -> NDArray:
    """mmpose's older targets (MSRA's), in our words: a Gaussian patch of three sigma, laid at the rounded point."""
    reach = int(3 * sigma)
    t = np.arange(2 * reach + 1) - reach
    patch = np.exp(-(t**2 + t[:, None] ** 2) / (2 * sigma**2)).astype(np.float32)
    maps = np.zeros((len(points), side, side), np.float32)
    for one, (x, y) in zip(maps, (points + 0.5).astype(int)):
        left, top, right, bottom = x - reach, y - reach, x + reach + 1, y + reach + 1
        if right > 0 and bottom > 0 and left < side and top < side:
            from_x, from_y, to_x, to_y = max(left, 0), max(top, 0), min(right, side), min(bottom, side)
            one[from_y:to_y, from_x:to_x] = patch[from_y - top:to_y - top, from_x - left:to_x - left]
    return maps


def newton(maps: NDArray, kernel: int = 11) -> NDArray:
    """DARK as mmpose has it, in our words: each map is blurred, then one Newton step on its logarithm from its peak."""
    found = np.empty((len(maps), 2))
    for k, heat in enumerate(maps):
        y, x = np.unravel_index(heat.argmax(), heat.shape)
        found[k] = x, y
        blurred = cv2.GaussianBlur(np.pad(heat, kernel // 2), (kernel, kernel), 0)
        blurred = blurred[kernel // 2:-(kernel // 2), kernel // 2:-(kernel // 2)] * (heat.max() / blurred.max())
        if not (1 < x < heat.shape[1] - 2 and 1 < y < heat.shape[0] - 2):
            continue
        log = np.log(np.maximum(blurred[y - 2:y + 3, x - 2:x + 3], 1e-10))
        slope_ = np.array([log[2, 3] - log[2, 1], log[3, 2] - log[1, 2]]) / 2
        xx, yy = ((log[2, 4] - 2 * log[2, 2] + log[2, 0]) / 4, (log[4, 2] - 2 * log[2, 2] + log[0, 2]) / 4)
        xy = (log[3, 3] - log[1, 3] - log[3, 1] + log[1, 1]) / 4
        if abs(xx * yy - xy * xy) > 1e-12:
            found[k] -= np.linalg.solve([[xx, xy], [xy, yy]], slope_)
    return found


def extraction_rows(tiny: bool, folder: Path) -> list[Row]:
    """Curves out of the 13 maps of a face, beside scikit-image's ridge filter and thinning."""
    face, runs = SyntheticFaces(1, 256, SEED)[0], 1 if tiny else 7

    def of(side: int) -> torch.Tensor:
        lines = [heatmaps.to_heatmap(curve, 256, side) for curve in face.contours.values()]
        return contours.encode(lines, side, SIGMA).float()
    maps = of(SIDE)
    array = maps.numpy()
    return [against(f"extraction, 13 maps of {SIDE} squared / sato and thinning", lambda: contours.extract(maps),
                    lambda: [skeletonize(sato(one, [SIGMA / 2**0.5], False) > 0.1) for one in array], runs),
            growth("extraction by side of a map", lambda side: (lambda some: lambda: contours.extract(some))(of(side)),
                   (32, 48) if tiny else (64, 128, 256, 512), 2, runs)]


def exemplar_rows(tiny: bool, folder: Path) -> list[Row]:
    """Shapes rebuilt from a dictionary, in batches beside one at a time."""
    known, runs = exemplars.landmarks(8 if tiny else 200, 21), 1 if tiny else 7
    rng = np.random.default_rng(SEED)

    def book(count: int) -> ShapeDictionary:
        drawn = known[rng.integers(len(known), size=count)]                 # time does not ask whether faces are new
        return ShapeDictionary(canonical(drawn + rng.normal(0, 0.5, drawn.shape)))
    spoilt, seen = exemplars.hidden(known[:4 if tiny else 64], 0.4, rng)
    many, k = book(8 if tiny else exemplars.N), 4 if tiny else exemplars.K

    def from_books(count: int) -> Work:
        one = book(count)
        return lambda: one.reconstruct(spoilt, seen, k, exemplars.RIDGE)
    return [against(f"reconstruction of {len(spoilt)} shapes, together / one by one",
                    lambda: many.reconstruct(spoilt, seen, k, exemplars.RIDGE),
                    lambda: [many.reconstruct(one, mask, k, exemplars.RIDGE) for one, mask in zip(spoilt, seen)], runs),
            growth("reconstruction by size of the dictionary", from_books,
                   (8, 16) if tiny else (500, 1000, 2000, 4000), 1, runs)]


def reference_rows(tiny: bool, folder: Path) -> list[Row]:
    """The most correlated of a bank, beside matching them all; and what is borrowed from it."""
    size, sizes, runs = 128, (4, 8) if tiny else (100, 200, 400), 1 if tiny else 7
    crops = [crop(grey(face.image), crop_matrix(face.box, size), size)
             for face in SyntheticFaces(sizes[0] + 1, size, SEED)]
    new, known = crops[0], crops[1:]
    pictures = [np.roll(known[i % len(known)], i // len(known), 1) for i in range(sizes[-1])]  # moved: others to SIFT
    bank = rht.ReferenceBank(pictures, shortlist=max(2, sizes[-1] // 10))
    exact: dict[int, rht.ReferenceBank] = {n: rht.ReferenceBank(pictures[:n]) for n in sizes}

    def borrowed(side: int) -> Work:
        query, key, value = (torch.rand(1, 16, side, side) for _ in range(3))
        return lambda: rht.soft_transform(query, key, value)
    return [against(f"choice among {sizes[-1]} references / matching all", lambda: bank.most_correlated(new),
                    lambda: int(bank.scores(new).argmax()), runs),
            growth("matching all by size of the bank", lambda n: lambda: exact[n].scores(new), sizes, 1, runs),
            growth("soft transformation by side of a map", borrowed, (8, 16) if tiny else (16, 32, 64), 4,
                   min(runs, 3))]


def training_rows(tiny: bool, folder: Path) -> list[Row]:
    """A training step of the hourglass, crops included, beside its forward passes alone."""
    batches, count = ((1, 2), 1) if tiny else ((8, 16, 32), 3)
    samples = list(SyntheticFaces(4 if tiny else 64, IMAGE, SEED))
    spent = {}
    for batch in batches:
        torch.manual_seed(SEED)
        recipe = training.hourglass(samples, Crops)
        spent[batch] = 1e3 * training.seconds_a_step([recipe], batch, torch.device("cpu"), count, warm=1, amp="off")
    network = zoo.load("hourglass", "cpu").train().to(memory_format=torch.channels_last)
    images = torch.stack([Crops(samples, 128)[i % len(samples)]["image"] for i in range(batches[-1])])
    with torch.no_grad():
        forward = race({"": lambda: network(images)}, 1 if tiny else 5, time.perf_counter)[""]
    return [Row(f"training step of {batches[-1]} crops / forward pass", {
                "ms": round(spent[batches[-1]], 1), "their_ms": round(forward, 1),
                "ratio": round(spent[batches[-1]] / forward, 2), "theory": 3}),
            Row("training step by batch", {"sizes": list(batches), "ms": [round(one, 1) for one in spent.values()],
                                           "exponent": round(slope(batches, list(spent.values())), 2), "theory": 1})]


SECTIONS: dict[str, Callable[[bool, Path], list[Row]]] = {
    "align": align_rows, "contourness": contour_rows, "extraction": extraction_rows, "codecs": codec_rows,
    "rendering": rendering_rows, "exemplars": exemplar_rows, "references": reference_rows, "training": training_rows}


# ---- all of them ---------------------------------------------------------------------------------------------------

def slug(name: str) -> str:
    """A row's name as part of a file's."""
    return re.sub("[^a-z0-9]+", "_", name.lower()).strip("_")


def profiled(work: Work) -> str:
    """Where the time of ``work`` goes: the most expensive functions, by their own time."""
    profile, out = cProfile.Profile(), io.StringIO()
    work()
    profile.runcall(work)
    pstats.Stats(profile, stream=out).sort_stats("tottime").print_stats(SHOWN)
    return re.sub(r"\S*/(site-packages|facealign_lite|benchmarks)/", r"\1/", out.getvalue())


def main(arguments: Sequence[str] | None = None, folder: str | Path = RESULTS) -> int:
    """Measure, print every row, write the records and the profiles of what misses its aim."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=sorted(SECTIONS), default=list(SECTIONS), metavar="SECTION")
    parser.add_argument("--tiny", action="store_true", help="every row at a size that means nothing")
    options = parser.parse_args(arguments)
    start, rows, folder = time.perf_counter(), [], Path(folder)
    for section in options.only:
        with threads(2 if section in ("align", "training") and not options.tiny else 1):
            found = SECTIONS[section](options.tiny, folder)
            for row in found:
                print(row.line(), flush=True)
                if row.missed() and row.work is not None:
                    path = folder / f"profile_{slug(row.name)}.txt"
                    path.write_text(f"{row.line()}\n{profiled(row.work)}")
                    print(f"    {path.name}: where its time goes", flush=True)
        rows += found
    write_record("benchmark", {
        "what": "every speed row: milliseconds, the least of runs in turns; processor time of one thread, but align "
                "and training by the clock on two; exponent: slope of log time over log size, theory beside it",
        "data": f"noise and rendered faces, seed {SEED}", "seeds": [SEED],
        "budget": {"sections": list(options.only), "tiny": options.tiny}, "commit": commit(),
        "device": describe_device("cpu"), "seconds": round(time.perf_counter() - start, 1),
        "figures": {row.name: {**row.figures, **({} if row.most is None else {"aim": row.most})} for row in rows}},
        folder)
    missed = sum(row.missed() for row in rows)
    print(f"{len(rows)} rows, {missed} past their aim, {time.perf_counter() - start:.0f} seconds")
    return 0


if __name__ == "__main__":
    sys.exit(main())
