"""Error measures against their definitions, by hand and by brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facealign_lite import markups, metrics
from facealign_lite.geometry import similarity, transform

ERRORS = st.lists(st.floats(0, 0.5), min_size=1, max_size=40)


def faces(seed=0, n=3, count=68):
    random = np.random.default_rng(seed)
    target = random.uniform(0, 200, (n, count, 2))
    return target + random.normal(0, 5, target.shape), target


def square_face(eye=60.0):
    """68 landmarks whose outer eye corners are ``eye`` apart, eye centres 40, box 100 wide and 64 high."""
    points = np.tile([50.0, 40.0], (1, 68, 1))
    points[0, 0], points[0, 16], points[0, 8], points[0, 27] = [0, 40], [100, 40], [50, 64], [50, 0]
    points[0, 36:42], points[0, 42:48] = [30, 20], [70, 20]
    points[0, 36], points[0, 45] = [50 - eye / 2, 20], [50 + eye / 2, 20]
    points[0, 37], points[0, 44] = [30 + (eye - 40) / 2, 20], [70 - (eye - 40) / 2, 20]
    return points


@pytest.mark.parametrize("normalizer, length", [
    ("inter_ocular", 60.0), ("inter_pupil", 40.0), ("box", 80.0), ("diagonal", np.hypot(100, 64))])
def test_each_normaliser_by_hand(normalizer, length):
    target = square_face()
    pred = target + [3.0, 4.0]
    assert metrics.normalizing_length(target, normalizer)[0] == pytest.approx(length)
    assert metrics.nme(pred, target, normalizer)[0] == pytest.approx(5 / length)


def test_a_given_box_counts():
    target = square_face()
    box = [0, 0, 90, 40]
    assert metrics.nme(target + [0, 6], target, "box", box=box)[0] == pytest.approx(6 / 60)
    assert metrics.nme(target + [0, 6], target, "diagonal", box=box)[0] == pytest.approx(6 / np.hypot(90, 40))
    assert metrics.nme(target + [0, 6], target, box=box)[0] == pytest.approx(6 / 60)       # outer eye corners, 60


def test_cofw_outer_corners_are_not_its_pupils():
    target = np.zeros((1, 29, 2))
    target[0, 8], target[0, 9] = [0, 0], [100, 0]
    target[0, 16], target[0, 17] = [20, 0], [80, 0]
    assert metrics.nme(target + [0, 3], target, "inter_ocular", "29")[0] == pytest.approx(3 / 100)
    assert metrics.nme(target + [0, 3], target, "inter_pupil", "29")[0] == pytest.approx(3 / 60)


def test_nme_is_the_mean_over_landmarks():
    pred, target = faces()
    wanted = []
    for p, t in zip(pred, target, strict=True):
        d = np.hypot(*(t[36] - t[45]))
        wanted.append(sum(np.hypot(*(a - b)) / d for a, b in zip(p, t, strict=True)) / 68)
    np.testing.assert_allclose(metrics.nme(pred, target), wanted)
    each = metrics.per_landmark(pred, target)
    assert each.shape == (3, 68)
    np.testing.assert_allclose(each.mean(1), wanted)
    np.testing.assert_allclose(metrics.nme(pred[0], target[0]), wanted[:1])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 20), st.floats(-3, 3), st.floats(-500, 500),
       st.sampled_from(["inter_ocular", "inter_pupil"]), st.sampled_from(sorted(markups.MARKUPS)))
def test_a_similarity_changes_nothing(seed, scale, angle, shift, normalizer, markup):
    pred, target = faces(seed, count=markups.get(markup).count)
    matrix = similarity(scale, angle, (shift, -shift))
    moved = metrics.nme(transform(pred, matrix), transform(target, matrix), normalizer, markup)
    np.testing.assert_allclose(moved, metrics.nme(pred, target, normalizer, markup), rtol=1e-8)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 20), st.floats(-500, 500), st.sampled_from(metrics.NORMALIZERS))
def test_scale_and_shift_change_nothing(seed, scale, shift, normalizer):
    pred, target = faces(seed)
    np.testing.assert_allclose(metrics.nme(scale * pred + shift, scale * target + shift, normalizer),
                               metrics.nme(pred, target, normalizer), rtol=1e-8)


@pytest.mark.parametrize("normalizer", metrics.NORMALIZERS)
def test_a_mirror_changes_nothing(normalizer):
    pred, target = faces(7)
    flip = list(markups.get("68").flip)
    mirrored = [(p * [-1, 1])[:, flip] for p in (pred, target)]
    np.testing.assert_allclose(metrics.nme(*mirrored, normalizer), metrics.nme(pred, target, normalizer))


# ---- reductions -----------------------------------------------------------------------------------------------------

@settings(max_examples=50, deadline=None)
@given(ERRORS, st.floats(0.001, 0.6))
def test_failures_are_those_beyond_the_ced(errors, threshold):
    assert metrics.failure_rate(errors, threshold) == sum(e > threshold for e in errors) / len(errors)
    np.testing.assert_allclose(metrics.failure_rate(errors, threshold), 1 - metrics.ced(errors, threshold))


@settings(max_examples=50, deadline=None)
@given(ERRORS)
def test_the_ced_rises_from_none_to_all(errors):
    curve = metrics.ced(errors, np.linspace(0, 0.6, 200))
    assert (np.diff(curve) >= 0).all() and curve[-1] == 1
    assert curve[0] == sum(e == 0 for e in errors) / len(errors)


@settings(max_examples=30, deadline=None)
@given(ERRORS, st.floats(0.01, 0.6))
def test_the_auc_is_the_integral_of_the_ced(errors, limit):
    n = 20_000
    integral = metrics.ced(errors, (np.arange(n) + 0.5) * limit / n).mean()
    assert metrics.auc(errors, limit) == pytest.approx(integral, abs=1 / n)


def test_the_auc_at_its_ends():
    assert metrics.auc([0.0, 0.0], 0.1) == 1
    assert metrics.auc([0.1, 0.7], 0.1) == 0
    assert metrics.auc([0.05, 0.2], 0.1) == pytest.approx(0.25)


# ---- bad input ------------------------------------------------------------------------------------------------------

def test_nothing_is_mutated():
    pred, target = faces()
    errors = np.array([0.3, 0.1, 0.2])
    before = pred.copy(), target.copy(), errors.copy()
    metrics.nme(pred, target)
    metrics.ced(errors, [0.1]), metrics.auc(errors), metrics.failure_rate(errors)
    for now, then in zip((pred, target, errors), before, strict=True):
        np.testing.assert_array_equal(now, then)


@pytest.mark.parametrize("normalizer", metrics.NORMALIZERS)
def test_a_length_of_zero_is_refused(normalizer):
    pred, target = faces()
    target[1] = 3.0
    with pytest.raises(ValueError, match=f"{normalizer}.* image 1"):
        metrics.nme(pred, target, normalizer)


@pytest.mark.parametrize("box", [[0, 0, 10, 0], [10, 0, 0, 10], [0, 0, np.nan, 5]])
def test_a_box_without_area_is_refused(box):
    with pytest.raises(ValueError, match="box must be a positive"):
        metrics.nme(*faces(n=1), "box", box=box)


GOOD = np.random.default_rng(0).uniform(0, 9, (1, 68, 2))
BAD = GOOD.copy()
BAD[0, 3, 1] = np.nan


@pytest.mark.parametrize("call, word", [
    (lambda: metrics.nme(BAD, GOOD), "pred"),
    (lambda: metrics.nme(GOOD, BAD), "target"),
    (lambda: metrics.nme(GOOD[:, :67], GOOD), "pred"),
    (lambda: metrics.nme(GOOD, np.concatenate([GOOD, GOOD])), "one shape"),
    (lambda: metrics.nme(GOOD[:0], GOOD[:0]), "pred"),
    (lambda: metrics.nme(GOOD, GOOD, "eyes"), "inter_ocular, inter_pupil, box, diagonal"),
    (lambda: metrics.nme(GOOD, GOOD, markup="67"), "markup"),
    (lambda: metrics.nme(GOOD, GOOD, "box", box=[[0, 0, 1, 1]] * 2), "box"),
    (lambda: metrics.failure_rate([]), "errors"),
    (lambda: metrics.failure_rate([0.1, np.nan]), "errors"),
    (lambda: metrics.failure_rate([0.1], 0), "threshold"),
    (lambda: metrics.ced([-0.1], [0.1]), "errors"),
    (lambda: metrics.auc([0.1], -1), "limit"),
    (lambda: metrics.auc([0.1], float("nan")), "limit"),
])
def test_bad_input_is_named(call, word):
    with pytest.raises(ValueError, match=word):
        call()
