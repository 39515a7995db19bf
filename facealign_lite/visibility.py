"""How likely each landmark is seen: neither an occluder nor the head itself hides it.

A network's score says how sharp its heatmap is, not whether the landmark can be seen; on rendered faces, where that is
known, a logistic regression tells the one from the other (``tools/build_visibility.py``, record
``results/visibility.json``). It is fitted to the scores of the default network, ``hourglass``: those of others need a
regression of their own, which the tool makes.
"""

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit

from facealign_lite.arrays import finite
from facealign_lite.pose import head_pose

ASSET = Path(__file__).parent / "assets" / "visibility.json"
LEAST = 1e-3          # scores are kept this far from 0 and 1, whose logits are infinite
Array = NDArray[np.float64]


def visibility(landmarks: ArrayLike, scores: ArrayLike) -> Array:
    """Probability that each landmark is seen, as the renderer counts it: (68,) in [0, 1].

    Points of the outline (0 to 16) are on the border of what is seen, and hidden by things in front alone.

    Args:
        landmarks: (68, 2) in pixels of the picture.
        scores: (68,) of the default network, as ``align`` gives them.

    Raises:
        ValueError: for other shapes, NaN, scores outside [0, 1], or landmarks that are no face (see ``head_pose``).
    """
    scores = finite(scores, "scores")
    if scores.shape != (68,) or not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError(f"scores must be (68,) in [0, 1], got shape {scores.shape}")
    return expit(features(scores, head_pose(landmarks).yaw) @ _weights())


def features(scores: Array, yaw: float) -> Array:
    """What the logit of the probability is a linear function of: (68, 206).

    The logit of the score; how far it is above the face's median; and for each landmark a constant, sin(yaw), and its
    square: the side that is turned away hides itself.
    """
    sure = logit(np.clip(scores, LEAST, 1 - LEAST))
    turn, each = np.sin(np.radians(yaw)), np.eye(len(sure))
    return np.column_stack([sure, sure - np.median(sure), each, each * turn, each * turn**2])


@lru_cache(maxsize=1)
def _weights() -> Array:
    content: dict[str, Any] = json.loads(ASSET.read_text())
    return np.concatenate([[content["score"], content["above_median"]], content["constant"], content["turned"],
                           content["turned_squared"]])
