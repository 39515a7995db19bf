"""Probabilities of being seen: calibrated on rendered faces, symmetric, and refused where there is no face."""

import numpy as np
import pytest

from facealign_lite import geometry, looks, markups, pose, zoo
from facealign_lite.records import read_record
from facealign_lite.synthetic import SyntheticFaces
from facealign_lite.visibility import visibility

FLIP = list(markups.get("68").flip)
FACE = pose.load().mean[:, :2] * [100, -100]
TURNED = (pose.load().mean @ pose.rotation(40, 0, 0).T)[:, :2] * [100, -100]
EVEN = np.full(68, 0.5)


@pytest.fixture(scope="module")
def rendered():
    """Probabilities, scores and truth of 80 faces of a seed that nothing was fitted to."""
    network, rows = zoo.load("hourglass", "cpu"), []
    for face in SyntheticFaces(80, 160, seed=5):
        reading, matrix = looks.look_twice(face.image, face.box, network)
        found = geometry.transform(reading.points[0].double().numpy(), geometry.invert(matrix))
        scores = reading.scores[0].double().numpy()
        rows.append((visibility(found, scores), scores, face.visibility))
    return tuple(np.array(each) for each in zip(*rows))


def calibration_error(p, seen):
    at = np.minimum((p * 10).astype(int), 9)
    return sum((at == i).mean() * abs(p[at == i].mean() - seen[at == i].mean()) for i in np.unique(at))


def auc(values, seen):
    """Chance that a seen landmark has the higher value than a hidden one."""
    return (values[seen][:, None] > values[~seen]).mean()


def test_probabilities_are_calibrated_and_rank_better_than_scores(rendered):
    p, scores, seen = (each.ravel() for each in rendered)
    assert calibration_error(p, seen) < 0.05 < calibration_error(scores, seen)
    assert auc(p, seen) > auc(scores, seen) + 0.05


def test_what_is_believed_hidden_is_hidden_more_often(rendered):
    p, _, seen = (each.ravel() for each in rendered)
    assert seen[p < 0.6].mean() < 0.65 < 0.93 < seen[p > 0.9].mean()


def test_the_record_says_the_same():
    figures = read_record("visibility")["figures"]
    for part in ("all", "turned_over_30"):
        assert figures[part]["probability"]["ece"] < 0.05
        assert figures[part]["probability"]["auc"] > figures[part]["score"]["auc"] + 0.1
        assert figures[part]["probability"]["j"] > figures[part]["score"]["j"] + 0.1
    assert sum(share for share, _, _ in figures["reliability"]) == pytest.approx(1, abs=1e-3)
    assert max(figures["pose_from_found"]["median"]) < 3


def test_a_surer_landmark_is_more_likely_seen():
    low, high = (visibility(FACE, np.where(np.arange(68) == 30, score, 0.5)) for score in (0.2, 0.9))
    assert low[30] < high[30]


def test_the_side_that_is_turned_away_is_less_likely_seen():
    """Yaw above zero: the nose points to the right of the picture, and the person's left side is hidden."""
    p = visibility(TURNED, EVEN)
    assert p[[35, 45, 26]].mean() < p[[31, 36, 17]].mean() - 0.1


def test_mirror_images_swap():
    np.testing.assert_allclose(visibility(TURNED[FLIP] * [-1, 1], EVEN), visibility(TURNED, EVEN)[FLIP], atol=0.01)


@pytest.mark.parametrize("points, scores, words", [
    (FACE, np.full(67, 0.5), "scores"), (FACE, np.full(68, 1.5), "scores"), (FACE, np.full(68, np.nan), "scores"),
    (FACE * [-1, 1], EVEN, "mirror"), (FACE[:12], EVEN, "68, 2")])
def test_bad_input(points, scores, words):
    with pytest.raises(ValueError, match=words):
        visibility(points, scores)
