"""The regression by which scores become probabilities of being seen: ``python tools/build_visibility.py``.

Lets the default network read rendered faces as ``align`` does with a box, and fits ``facealign_lite/visibility.py`` to
what the renderer knows. Writes ``facealign_lite/assets/visibility.json``, and to ``results/visibility.json`` how well
calibrated it is on faces of another seed, and how exact the poses of what the network found are.
"""

import json
import time
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import trapezoid
from scipy.special import expit

from facealign_lite import geometry, looks, markups, zoo
from facealign_lite.data import write_atomic
from facealign_lite.pose import head_pose
from facealign_lite.records import WORK, commit, describe_device, write_record
from facealign_lite.synthetic import SyntheticFaces
from facealign_lite.visibility import ASSET, _weights, features, visibility

NETWORK = "hourglass"
FACES, SEED = 1200, 3            # neither the training faces' (1, 2) nor the benchmark's (20260)
TESTED, TEST_SEED = 800, 4
SIZE = 160                       # pixels, as the training faces
RIDGE = 3.0                      # pulls the weights of a landmark that is hardly ever hidden to zero
BINS = 10


def read(count: int, seed: int) -> dict[str, NDArray]:
    """What the network finds in ``count`` faces, and the truth: found, scores, truth, seen, pose; kept once made."""
    path = WORK / f"visibility_{NETWORK}_{seed}_{count}_{SIZE}.npz"
    if path.exists():
        return dict(np.load(path))
    network, rows = zoo.load(NETWORK, "cpu"), []
    for face in SyntheticFaces(count, SIZE, seed):
        reading, matrix = looks.look_twice(face.image, face.box, network)
        found = geometry.transform(reading.points[0].double().numpy(), geometry.invert(matrix))
        rows.append((found, reading.scores[0].double().numpy(), face.landmarks, face.visibility, face.pose))
    arrays = dict(zip(("found", "scores", "truth", "seen", "pose"), map(np.array, zip(*rows)), strict=True))
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **arrays)
    return arrays


def fit(faces: dict[str, NDArray]) -> NDArray[np.float64]:
    """Weights of the features: the maximum of the likelihood less a ridge, by Newton's steps.

    Each face counts as it is and in a mirror, so that the two sides weigh the same.
    """
    flip, rows, seen = list(markups.get("68").flip), [], []
    for found, scores, truth in zip(faces["found"], faces["scores"], faces["seen"], strict=True):
        yaw = head_pose(found).yaw
        rows += [features(scores, yaw), features(scores[flip], -yaw)]
        seen += [truth, truth[flip]]
    values, seen = np.concatenate(rows), np.concatenate(seen).astype(float)
    weights = np.zeros(values.shape[1])
    for _ in range(30):
        # gradient X'(y - p) - ridge w, Hessian X' diag(p (1 - p)) X + ridge I
        p = expit(values @ weights)
        square = (values * (p * (1 - p))[:, None]).T @ values + RIDGE * np.eye(len(weights))
        step = np.linalg.solve(square, values.T @ (seen - p) - RIDGE * weights)
        weights += step
        if np.abs(step).max() < 1e-8:
            break
    return weights


def reliability(p: NDArray, seen: NDArray) -> list[list[float]]:
    """Of each tenth of [0, 1]: share of the landmarks that are in it, their mean probability, how many are seen."""
    at = np.minimum((p * BINS).astype(int), BINS - 1)
    return [[round(float(v), 4) for v in ((at == i).mean(), p[at == i].mean(), seen[at == i].mean())]
            for i in range(BINS) if (at == i).any()]


def quality(p: NDArray, seen: NDArray) -> dict[str, float]:
    """Expected calibration error, area under the ROC curve, Youden's J, and Brier score."""
    order = np.argsort(-p, kind="stable")
    hit, alarm = np.cumsum(seen[order]) / seen.sum(), np.cumsum(~seen[order]) / (~seen).sum()
    figures = {"ece": sum(share * abs(mean - true) for share, mean, true in reliability(p, seen)),
               "auc": trapezoid(hit, alarm),
               "j": (hit - alarm).max(), "brier": np.square(p - seen).mean()}
    return {name: round(float(value), 4) for name, value in figures.items()}


def main() -> None:
    """Read, fit, write, measure."""
    start = time.time()
    weights = fit(read(FACES, SEED))
    names, parts = ("constant", "turned", "turned_squared"), np.split(weights[2:].round(4), 3)
    content = {"network": NETWORK, "score": round(weights[0], 4), "above_median": round(weights[1], 4)}
    content |= {name: part.tolist() for name, part in zip(names, parts, strict=True)}
    write_atomic(ASSET, (json.dumps(content) + "\n").encode())
    _weights.cache_clear()

    test = read(TESTED, TEST_SEED)
    p = np.array([visibility(*each) for each in zip(test["found"], test["scores"], strict=True)])
    turned = np.abs(test["pose"][:, 0]) > 30
    part = {"all": np.ones(TESTED, bool), "turned_over_30": turned}
    figures = {name: {"probability": quality(p[rows].ravel(), test["seen"][rows].ravel()),
                      "score": quality(test["scores"][rows].ravel(), test["seen"][rows].ravel())}
               for name, rows in part.items()}
    figures |= {"seen": round(float(test["seen"].mean()), 4),
                "reliability": reliability(p.ravel(), test["seen"].ravel())}
    for name, points in (("found", test["found"]), ("truth", test["truth"])):
        poses = [head_pose(each) for each in points]
        wrong = np.abs([(q.yaw, q.pitch, q.roll) for q in poses] - test["pose"])
        middle = partial(np.median, axis=0)
        figures[f"pose_from_{name}"] = {"median": middle(wrong).round(2).tolist(),
                                        "median_turned_over_30": middle(wrong[turned]).round(2).tolist(),
                                        "largest_misfit": round(max(q.error for q in poses), 3)}
    write_record("visibility", {
        "what": "whether landmarks are seen, probabilities and raw scores of the default network against the renderer; "
                "and yaw, pitch, roll of what it found, errors in degrees",
        "data": f"SyntheticFaces({TESTED}, {SIZE}, seed={TEST_SEED}); fitted to {FACES} of seed {SEED}",
        "seeds": [SEED, TEST_SEED], "budget": {"faces": FACES, "tested": TESTED}, "commit": commit(),
        "device": describe_device("cpu"), "seconds": round(time.time() - start, 1), "figures": figures})


if __name__ == "__main__":
    main()
