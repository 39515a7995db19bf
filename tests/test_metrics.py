"""Error measures against their definitions, by hand and by brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facealign_lite import markups, metrics
from facealign_lite.geometry import resample, similarity, transform

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
       st.sampled_from(["inter_ocular", "inter_pupil"]), st.sampled_from(sorted(set(markups.MARKUPS) - {"39"})))
def test_a_similarity_changes_nothing(seed, scale, angle, shift, normalizer, markup):
    pred, target = faces(seed, count=markups.get(markup).count)
    matrix = similarity(scale, angle, (shift, -shift))
    moved = metrics.nme(transform(pred, matrix), transform(target, matrix), normalizer, markup)
    np.testing.assert_allclose(moved, metrics.nme(pred, target, normalizer, markup), rtol=1e-8)


def test_a_profile_has_no_two_eyes_to_divide_by():
    pred, target = faces(3, count=39)
    assert metrics.nme(pred, target, "diagonal", "39").shape == (3,)
    with pytest.raises(ValueError, match="normalizer must be box or diagonal for markup '39', got 'inter_ocular'"):
        metrics.nme(pred, target, "inter_ocular", "39")


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


# ---- anchors and contours -------------------------------------------------------------------------------------------

def drawn(seed=0):
    """A face as predicted, anchors (12, 2) and contours, and as landmarks."""
    random = np.random.default_rng(seed)
    anchors = random.uniform(0, 100, (12, 2))
    contours = {name: random.uniform(0, 100, (7, 2)) for name in markups.CONTOURS}
    true_anchors = {name: random.uniform(0, 100, 2) for name in markups.ANCHORS[:9]}
    true_contours = {name: random.uniform(0, 100, (k + 1, 2)) for k, name in enumerate(markups.CONTOURS)}
    return anchors, contours, true_anchors, true_contours


def moved(by, anchors, contours, true_anchors, true_contours):
    one = {name: transform(points, by) for name, points in true_anchors.items()}
    some = [{name: transform(points, by) for name, points in each.items()} for each in (contours, true_contours)]
    return transform(anchors, by), some[0], one, some[1]


@pytest.mark.parametrize("seed", range(3))
def test_anchor_and_contour_errors_by_brute_force(seed):
    anchors, contours, true_anchors, true_contours = drawn(seed)
    found = metrics.anchor_contour_errors(anchors, contours, true_anchors, true_contours, 40.0)
    assert set(found) == {*true_anchors, *true_contours}
    for i, name in enumerate(markups.ANCHORS[:9]):
        assert found[name] == pytest.approx([np.hypot(*(anchors[i] - true_anchors[name])) / 40])
    for name, points in true_contours.items():
        dots = resample(contours[name], 20_001)                       # less than 0.04 apart
        nearest = np.linalg.norm(points[:, None] - dots, axis=-1).min(1) / 40
        np.testing.assert_allclose(found[name], nearest, atol=0.02 / 40)
    everything = [e for each in found.values() for e in each]
    assert metrics.nme_ac(found) == pytest.approx(sum(everything) / len(everything))
    chin = metrics.nme_ac(found, metrics.PARTS["chin"])
    assert chin == pytest.approx(found["chin_boundary"].mean())


@settings(max_examples=25, deadline=None)
@given(st.floats(0.1, 10), st.floats(-3, 3), st.floats(-500, 500), st.integers(0, 99))
def test_nme_ac_does_not_know_where_the_face_is(scale, angle, shift, seed):
    face, by = drawn(seed), similarity(scale, angle, (shift, -shift))
    before = metrics.anchor_contour_errors(*face, 30.0)
    after = metrics.anchor_contour_errors(*moved(by, *face), 30.0 * scale)
    for name, errors in before.items():
        np.testing.assert_allclose(after[name], errors, atol=1e-9)
    face = drawn(seed)[1], drawn(seed)[3]
    there = [{name: transform(line, by) for name, line in each.items()} for each in face]
    two = {name: line for name, line in face[1].items() if len(line) > 1}
    turned = {name: line for name, line in there[1].items() if len(line) > 1}
    wanted = metrics.reverse_errors(face[0], two, 30.0)
    assert metrics.reverse_errors(there[0], turned, 30.0 * scale) == pytest.approx(wanted)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=50), st.floats(0, 10))
def test_landmarks_of_any_density_on_a_shifted_contour_are_equally_wrong(places, aside):
    """A straight contour predicted ``aside`` of the true one: however many landmarks, wherever along it."""
    landmarks = np.stack([100 * np.array(places), np.zeros(len(places))], 1)
    line = {"chin_boundary": [[0, aside], [30, aside], [100, aside]]}
    errors = metrics.anchor_contour_errors(np.zeros((12, 2)), line, {}, {"chin_boundary": landmarks}, 50.0)
    np.testing.assert_allclose(errors["chin_boundary"], aside / 50, atol=1e-12)


def test_nme_ac_weighs_landmarks_not_contours():
    """One dense contour outweighs a thin one; Eq. 14 is a mean over landmarks."""
    errors = {"chin_boundary": np.full(90, 0.01), "nose_ridge": np.full(10, 0.11)}
    assert metrics.nme_ac(errors) == pytest.approx(0.02)


@pytest.mark.parametrize("missing", [0.1, 0.25])
def test_a_contour_that_was_not_found_is_charged(missing):
    anchors, contours, true_anchors, true_contours = drawn()
    chin = contours.pop("chin_boundary")
    found = metrics.anchor_contour_errors(anchors, contours, true_anchors, true_contours, 40.0, missing)
    np.testing.assert_allclose(found["chin_boundary"], np.full(13, missing))
    assert not metrics.reverse_errors({}, {"chin_boundary": chin}, 40.0)


def test_clutter_costs_nothing_going_out_and_shows_on_the_way_back():
    """The loophole of Eq. 13: a scribble over the whole face passes near every landmark, so it beats an honest try."""
    t = np.linspace(0, np.pi, 60)
    true = {"chin_boundary": 50 + 40 * np.stack([np.cos(t), np.sin(t)], 1)}
    honest = {"chin_boundary": true["chin_boundary"] + [0, 2]}
    y = np.repeat(np.arange(40, 100, 0.5), 2)
    scribble = {"chin_boundary": np.stack([np.tile([0, 100, 100, 0], 60), y], 1)}

    def error(line):
        return metrics.nme_ac(metrics.anchor_contour_errors(np.zeros((12, 2)), line, {}, true, 50.0))
    assert error(scribble) < 0.006 < 0.01 < error(honest) < 0.04
    back = [metrics.reverse_errors(line, true, 50.0)["chin_boundary"] for line in (honest, scribble)]
    assert back[0] < 0.04 and back[1] > 0.2
    assert metrics.reverse_errors(true, true, 50.0)["chin_boundary"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("markup, anchors, on_contours", [("68", 10, 58), ("36", 10, 26), ("98", 12, 68)])
def test_landmarks_are_anchors_or_lie_on_one_contour(markup, anchors, on_contours):
    points = np.random.default_rng(0).uniform(0, 9, (markups.get(markup).count, 2))
    ours, lines = metrics.landmarks_as_ac(points, markup)
    assert len(ours) == anchors and sum(map(len, lines.values())) == on_contours
    rows = [*ours.values(), *np.concatenate(list(lines.values()))]
    assert len(np.unique(rows, axis=0)) == anchors + on_contours             # none twice
    assert {tuple(row) for row in rows} <= {tuple(row) for row in points}
    assert ("right_iris_center" in ours) == (markup == "98")
    np.testing.assert_array_equal(ours["nose_tip"], points[markups.get(markup).anchors["nose_tip"]])


def test_what_the_landmarks_say_of_themselves_is_no_error():
    points = np.random.default_rng(1).uniform(0, 99, (68, 2))
    table, (anchors, lines) = markups.get("68"), metrics.landmarks_as_ac(points)
    ours = np.array([points[table.anchors.get(name, 0)] for name in markups.ANCHORS])
    drawn_lines = {name: points[list(table.curves[name])] for name in markups.CONTOURS}
    assert metrics.nme_ac(metrics.anchor_contour_errors(ours, drawn_lines, anchors, lines, 50.0)) < 1e-12


def test_the_parts_are_the_columns_of_table_1():
    assert list(metrics.PARTS) == ["eyes", "nose", "mouth", "chin"]
    assert {part: len(names) for part, names in metrics.PARTS.items()} == {"eyes": 8, "nose": 4, "mouth": 8, "chin": 1}
    left_out = {*markups.ANCHORS, *markups.CONTOURS} - {name for names in metrics.PARTS.values() for name in names}
    assert left_out == {"right_iris_center", "left_iris_center", "right_eyebrow_center_line",
                        "left_eyebrow_center_line"}


LINES = {"chin_boundary": np.array([[0.0, 0.0], [1.0, 0.0]])}
TWELVE = np.zeros((12, 2))


@pytest.mark.parametrize("call, word", [
    (lambda: metrics.anchor_contour_errors(TWELVE, LINES, {}, LINES, 0.0), "length"),
    (lambda: metrics.anchor_contour_errors(TWELVE, LINES, {}, LINES, np.nan), "length"),
    (lambda: metrics.anchor_contour_errors(TWELVE[:11], LINES, {}, LINES, 9.0), "anchors"),
    (lambda: metrics.anchor_contour_errors(TWELVE, LINES, {"nose_tip": 3.0}, LINES, 9.0), "nose_tip"),
    (lambda: metrics.anchor_contour_errors(TWELVE, LINES, {"nose_tip": np.ones((2, 2))}, LINES, 9.0), "nose_tip"),
    (lambda: metrics.anchor_contour_errors(TWELVE, LINES, {}, {"chin_boundary": np.ones((2, 9))}, 9.0), "chin"),
    (lambda: metrics.anchor_contour_errors(TWELVE, {}, {}, LINES, 9.0, -1.0), "missing"),
    (lambda: metrics.anchor_contour_errors(TWELVE, {}, {}, LINES, 9.0, np.nan), "missing"),
    (lambda: metrics.anchor_contour_errors(TWELVE, {"chin": LINES["chin_boundary"]}, {}, LINES, 9.0), "chin"),
    (lambda: metrics.anchor_contour_errors(TWELVE, LINES, {"tip": [0, 0]}, LINES, 9.0), "tip"),
    (lambda: metrics.anchor_contour_errors(TWELVE, LINES, {"nose_tip": [0, np.nan]}, LINES, 9.0), "nose_tip"),
    (lambda: metrics.anchor_contour_errors(TWELVE, LINES, {}, {"chin_boundary": [[np.inf, 0]]}, 9.0), "chin_boundary"),
    (lambda: metrics.anchor_contour_errors(TWELVE, {"chin_boundary": [[0, 0]]}, {}, LINES, 9.0), "polyline"),
    (lambda: metrics.nme_ac({"chin_boundary": [0.1]}, ["nose_tip"]), "nose_tip"),
    (lambda: metrics.nme_ac({}), "errors"),
    (lambda: metrics.reverse_errors(LINES, LINES, -1.0), "length"),
    (lambda: metrics.reverse_errors({"chin_boundary": [[0, 0]]}, LINES, 9.0), "polyline"),
    (lambda: metrics.landmarks_as_ac(np.zeros((67, 2))), "landmarks"),
    (lambda: metrics.landmarks_as_ac(np.full((68, 2), np.nan)), "landmarks"),
])
def test_bad_anchors_and_contours_are_named(call, word):
    with pytest.raises(ValueError, match=word):
        call()


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


@pytest.mark.parametrize("box", [
    [0, 0, 10, 0], [10, 0, 0, 10], [0, 0, np.nan, 5], [0, 0, np.inf, np.inf], [200, 200, 0, 0], [-np.inf, 0, 200, 200],
    [0, 0, 200], [[0, 0], [200, 200]], [300, 300, 400, 400],
    [90, 80, 100, 100],                                    # (x, y, w, h) of a face that fills (90, 80) to (190, 180)
], ids=str)
@pytest.mark.parametrize("normalizer", ["box", "diagonal"])
def test_a_box_that_is_not_around_the_face_is_refused(normalizer, box):
    pred, target = faces(n=1)
    target = target / 2 + [90, 80]                         # of 200 pixels, now 100
    with pytest.raises(ValueError, match="box must be"):
        metrics.nme(pred, target, normalizer, box=box)


def test_numbers_too_large_for_an_error_are_refused():
    pred, target = faces()
    with pytest.raises(ValueError, match="finite"):
        metrics.nme(pred * 1e200, target)
    with pytest.raises(ValueError, match="finite"):
        metrics.nme(pred * 1e95, target * 1e-150)


def test_what_a_network_gives_is_measured():
    """Tensors with gradient, in half precision, in lists."""
    torch = pytest.importorskip("torch")
    pred, target = faces()
    wanted = metrics.nme(pred, target)
    for tensor in (torch.tensor(pred, requires_grad=True), list(torch.tensor(pred, requires_grad=True)),
                   torch.tensor(pred, dtype=torch.float32)):
        np.testing.assert_allclose(metrics.nme(tensor, torch.tensor(target)), wanted, rtol=1e-6)
    for kind in (torch.bfloat16, torch.float16):
        low = torch.tensor(pred, dtype=kind, requires_grad=True)
        np.testing.assert_allclose(metrics.nme(low, target), metrics.nme(low.detach().double().numpy(), target))
    errors = torch.rand(9, requires_grad=True)
    assert metrics.auc(errors) == metrics.auc(errors.tolist())
    assert metrics.failure_rate(errors) == metrics.failure_rate(errors.tolist())
    np.testing.assert_array_equal(metrics.ced(errors, errors), metrics.ced(errors.tolist(), errors.tolist()))
    anchors = {name: torch.tensor(pred[0, i], requires_grad=True) for i, name in enumerate(markups.ANCHORS)}
    found = metrics.anchor_contour_errors(torch.zeros(12, 2, requires_grad=True), {}, anchors, {}, 1.0)
    assert metrics.nme_ac({name: torch.tensor(value) for name, value in found.items()}) == metrics.nme_ac(found)


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
    (lambda: metrics.nme(GOOD + 1j, GOOD), "pred.*complex"),
    (lambda: metrics.nme(GOOD.astype(str), GOOD), "pred"),
    (lambda: metrics.nme(GOOD.astype(object), GOOD), "pred.*object"),
    (lambda: metrics.nme([[1, 2], [3]], GOOD), "pred must be numbers"),
    (lambda: metrics.auc([0.1], np.inf), "limit"),
    (lambda: metrics.auc([0.1 + 1j]), "errors"),
    (lambda: metrics.ced([0.1], [np.nan]), "thresholds"),
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


# ---- landmarks that were not annotated, faces that were not found ----------------------------------------------------

@pytest.mark.parametrize("normalizer", metrics.NORMALIZERS)
def test_masked_landmarks_do_not_count(normalizer):
    """Against the definition: the mean over the others, wherever the masked ones lie, NaN included."""
    pred, target = faces()
    mask = np.ones((3, 68), bool)
    mask[0, 3], mask[2, 50:60] = False, False
    for lost in (np.nan, 1e6):
        p, t = (np.where(mask[..., None], points, lost) for points in (pred, target))
        length = metrics.normalizing_length(t, normalizer, mask=mask)
        wanted = [np.linalg.norm(pred[i, mask[i]] - target[i, mask[i]], axis=1).mean() / length[i] for i in range(3)]
        np.testing.assert_allclose(metrics.nme(p, t, normalizer, mask=mask), wanted)
        each = metrics.per_landmark(p, t, normalizer, mask=mask)
        assert (np.isnan(each) == ~mask).all()
        assert length[1] == metrics.normalizing_length(target, normalizer)[1]
    inside = target[0, mask[0]]
    assert metrics.normalizing_length(target, "diagonal", mask=mask)[0] == pytest.approx(np.hypot(*np.ptp(inside, 0)))


def test_a_mask_of_all_changes_nothing():
    pred, target = faces()
    np.testing.assert_array_equal(metrics.nme(pred, target, mask=np.ones((3, 68), bool)), metrics.nme(pred, target))


def test_a_face_not_found_is_a_failure_of_infinite_error():
    pred, target = faces()
    pred[1] = np.nan
    errors = metrics.nme(pred, target, missing=np.inf)
    assert errors[1] == np.inf and np.isfinite(errors[[0, 2]]).all()
    assert metrics.failure_rate(errors, 1e9) == pytest.approx(1 / 3)
    np.testing.assert_allclose(metrics.ced(errors, [0, errors[[0, 2]].max()]), [0, 2 / 3])
    assert metrics.auc(errors, 0.5) == pytest.approx(2 / 3 * metrics.auc(errors[[0, 2]], 0.5))
    assert metrics.nme(pred, target, missing=0.3)[1] == pytest.approx(0.3)


@pytest.mark.parametrize("call, words", [
    (lambda p, t: metrics.nme(np.where(np.arange(68)[:, None] < 68, np.nan, p), t), "pred"),
    (lambda p, t: metrics.nme(np.where(np.arange(68)[:, None] == 4, np.nan, p), t, missing=np.inf), "pred"),
    (lambda p, t: metrics.nme(p, np.where(np.arange(68)[:, None] == 4, np.nan, t), missing=np.inf), "target"),
    (lambda p, t: metrics.nme(p, t, missing=-1.0), "missing"),
    (lambda p, t: metrics.nme(p, t, missing=np.nan), "missing"),
    (lambda p, t: metrics.nme(p, t, mask=np.ones((3, 67), bool)), "mask"),
    (lambda p, t: metrics.nme(p, t, mask=np.ones((3, 68))), "mask"),
    (lambda p, t: metrics.nme(p, t, mask=np.zeros((3, 68), bool)), "mask"),
    (lambda p, t: metrics.nme(p, t, mask=np.tile(np.arange(68) != 36, (3, 1))), "inter_ocular"),
    (lambda p, t: metrics.nme(p, np.where(np.arange(68)[:, None] == 4, np.nan, t), mask=np.ones((3, 68), bool)),
     "target")])
def test_nan_that_nobody_explained_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call(*faces())
