"""ACE-Net again, where there is something to win: labels by a hand that errs, lengths that are shares of the map.

    make claims PAPER=acenet_shares

The arms of ``experiments.acenet`` are taught exact landmarks. Lines through 68 of them are wrong by less than half a
per cent, the network by more than one and a half: the weak loss had nothing to repair. And its D was halved with the
map, but the width of contours was not, so that a contour was less free than in the paper. Here a free contour may leave
its line by as large a share of the map as the paper's, and the real domain is annotated by somebody who errs:

- their hand: an error of each face, alike in landmarks that are near each other;
- their habit: one that is the same on all faces, as annotators of two data sets differ;
- brows are clicked along their middle, where the contours of the synthetic domain run. (300-W's run along the upper
  edge, as those of our real domain do, 3 to 5 % of the eye distance higher, and the two halves contradict each other.)

The test is on the exact contours, as the paper tests on HELEN's annotators and learns from those of 300-W.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments import acenet as before
from facealign_lite import acenet, geometry, markups
from facealign_lite.records import Arm

WHAT = "ACE-Net and its rivals, landmarks set by a hand with errors and habits, lengths as shares of the map"
# On maps of 64 contours of width 1, the paper's share, are hardly more than chains of pixels: drawn exactly, they are
# read with an error of 0.64 % of the eye distance, those of 1.5 with 0.22. D is such that D - sigma / sqrt(2), by which
# a contour may leave its line, is the paper's 3.6 % of the map.
LENGTHS = {"sigma": 1.5, "read_sigma": 2.25, "reach": 3.35}
BUDGETS = {
    "lite": {**before.BUDGETS["lite"], "steps": 600, "settling_steps": 100, "lengths": LENGTHS},
    "gpu": {**before.BUDGETS["gpu"], "lengths": {}},                             # the paper's, on maps of its size
}
SEEDS = before.SEEDS
# of both, in eye distances along each axis: the hand that makes lines through 68 landmarks as wrong as the paper's are
# (GT68-line, 1.48 %)
HAND = HABIT = 0.012
ALONG = 0.2                     # eye distances over which an error is shared by landmarks
SUCCESS = 0.0125                # the paper counts faces below (56 % of ACE-Net's, 37 % of Line's)
DRAWN = 4                       # test faces whose contours are kept in the record
SPARSE = before.SPARSE
BROWS = {"right_eyebrow_center_line": range(17, 22), "left_eyebrow_center_line": range(22, 27)}


def data(budget: Mapping[str, Any]) -> str:
    """The two domains, in words."""
    return (f"{before.data(budget)}; the hand errs by {100 * HAND:g} % of the eye distance along each axis, its habit "
            f"by {100 * HABIT:g}")


# ---- the annotator -------------------------------------------------------------------------------------------------

class Annotated(Sequence):
    """Faces with their 68 landmarks as somebody clicked them; the same every time one is looked at.

    Args:
        faces: samples of 68 landmarks and contours.
        seed: of the annotator, and of their hand on each face.
        hand, habit: standard deviations in eye distances along each axis, of an error of each face and of one that all
            faces share.
    """

    def __init__(self, faces: Sequence[Any], seed: int, hand: float = HAND, habit: float = HABIT) -> None:
        self.faces, self.seed, self.hand, self.habit = faces, seed, hand, habit

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, index: int) -> Any:
        face = self.faces[index]
        points = brows_amid(face)
        across = points[45] - points[36]                                    # from one outer eye corner to the other
        length = np.linalg.norm(across)
        # errors of two landmarks that are d eye distances apart are alike by exp(-d^2 / 2 ALONG^2)
        apart = np.linalg.norm(points[:, None] - points, axis=-1) / length
        shared = np.linalg.cholesky(np.exp(-apart**2 / (2 * ALONG**2)) + 1e-6 * np.eye(len(points)))
        habit, hand = (np.random.default_rng(s).normal(size=points.shape)
                       for s in ((self.seed, 11), (self.seed, 12, index)))
        # along the face's own axes, so that a habit turns with the face
        axes = np.array([across, [-across[1], across[0]]]) / length
        return replace(face, landmarks=points + length * shared @ (self.hand * hand + self.habit * habit) @ axes)


def brows_amid(face: Any) -> np.ndarray:
    """The 68 landmarks of a face, those of the brows along the rendered middle of each, in their order."""
    points = face.landmarks.copy()
    for name, rows in BROWS.items():
        middle = geometry.resample(face.contours[name], len(rows))
        there, back = (np.linalg.norm(points[list(rows)] - line, axis=1).sum() for line in (middle, middle[::-1]))
        points[list(rows)] = middle if there <= back else middle[::-1]
    return points


# ---- measuring -----------------------------------------------------------------------------------------------------

def score(read: Callable[[int], before.Reading], faces: Sequence[Any]) -> dict[str, Any]:
    """What ``experiments.acenet`` measures, success at 1.25 %, and contours of some faces, to be looked at."""
    found = before.score(read, faces)
    kept = [{name: np.round(line, 1) for name, line in read(i)[1].items()} for i in range(min(DRAWN, len(faces)))]
    return found | {"success": float((found["errors"] <= SUCCESS).mean()), "median": float(np.median(found["errors"])),
                    "contours": kept}


def arm(budget: Mapping[str, Any], device: str, loss: Callable, first: str = "real", second: str = "synthetic",
        landmarks: bool = False, share: float = 1.0) -> Arm:
    """A run as in ``experiments.acenet``, but that landmarks of the real domain are annotated; measured on it."""
    def run(seed: int, folder: Path) -> Generator[int, None, Mapping[str, Any]]:
        *sets, test = (before.pack(folder.parent, name, budget) for name in (first, second, "test"))
        sets = [Annotated(faces, seed) if name == "real" else faces for name, faces in zip((first, second), sets)]
        model = yield from before.train(budget, device, seed, folder, loss, *sets, landmarks, share)
        return score(before.reader(model, test, landmarks), test) | {
            "images_a_step": round(budget["batch_size"] * share)}
    return run


def drawn(budget: Mapping[str, Any], markup: str, degree: int) -> Arm:
    """Contours through landmarks of the test faces, annotated by the annotator of the training faces."""
    def run(seed: int, folder: Path) -> Mapping[str, Any]:
        faces = before.pack(folder.parent, "test", budget)
        clicked = Annotated(faces, seed)
        return score(lambda i: before.through(markups.convert(clicked[i].landmarks, "68", markup), markup, degree),
                     faces)
    return run


# ---- arms ----------------------------------------------------------------------------------------------------------

def arms(budget: Mapping[str, Any], device: str = "auto") -> dict[str, Arm]:
    """The runs at a budget, the most important first."""
    def one(*some: Any, **more: Any) -> Arm:
        return arm(budget, device, *some, **more)

    def ace(markup: str = "68", lengths: Mapping[str, float] | None = None, **more: Any) -> Arm:
        return one(acenet.ace_loss(markup, **two | {"config": replace(size, **lengths or {})}, **more))
    size, two = before.config(budget), before.two_domains(budget)
    return {
        # the headline: the weak loss against the best that sees the same labels, of 68 and of 36 landmarks
        "ace": ace(), "line_star": one(acenet.lines_loss(exact="synthetic", config=size)),
        "ace_sparse": ace(SPARSE), "line_star_sparse": one(acenet.lines_loss(SPARSE, exact="synthetic", config=size)),
        "gt68_line": drawn(budget, "68", 1), "gt68_interp": drawn(budget, "68", 2),
        "gt36_line": drawn(budget, SPARSE, 1), "gt36_interp": drawn(budget, SPARSE, 2),
        # what no label, and what the best of labels would do
        "synthetic_only": one(acenet.lines_loss(exact="always", config=size), first="synthetic"),
        "real_contours": one(acenet.lines_loss(exact="always", config=size), second="real"),
        "line": one(acenet.lines_loss(config=size), second="real"),
        "line_half": one(acenet.lines_loss(config=size), second="real", share=0.5),
        "line_sparse": one(acenet.lines_loss(SPARSE, config=size), second="real"),
        "landmarks": one(acenet.points_loss(config=size), second="real", landmarks=True),
        "ace_cubic": ace(reading="bicubic"),
        # what the paper leaves open or prints: the losses' scale, their weights (0.1 each), D, alpha
        "ace_printed": ace(printed=True),
        "ace_weights_third": ace(weights=(0.03, 0.03)), "ace_weights_triple": ace(weights=(0.3, 0.3)),
        "ace_no_landmarks": ace(weights=(0.0, 0.1)), "ace_no_lines": ace(weights=(0.1, 0.0)),
        "ace_reach_half": ace(lengths={"reach": size.reach / 2}),
        "ace_reach_double": ace(lengths={"reach": size.reach * 2}),
        "ace_alpha_10": ace(lengths={"alpha": 10.0}), "ace_alpha_100": ace(lengths={"alpha": 100.0}),
        "ace_coarse_steps": ace(per_pixel=1),
    }
