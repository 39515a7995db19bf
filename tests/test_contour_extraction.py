"""From heatmaps back to curves: how near, how whole, and what is no contour."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from facealign_lite import contours, geometry

SIGMA = 2.0                                                        # of the heat; read out at 2 and at 3
SIZES = st.sampled_from([64, 128])
READ = st.sampled_from([2.0, 3.0])
FEW = settings(max_examples=40, deadline=None)


def dense(line, step=0.1):
    """Points every ``step`` pixels along a polyline."""
    length = np.r_[0, np.linalg.norm(np.diff(line, axis=0), axis=1).cumsum()]
    at = np.linspace(0, length[-1], max(2, int(length[-1] / step)))
    return np.stack([np.interp(at, length, column) for column in np.transpose(line)], 1)


def between(a, b):
    """Distance of every point of curve a from curve b."""
    return geometry.distance_to_polyline(dense(a), np.asarray(b))


def the_only(heat, sigma):
    """The one curve in a map: no gap, no spur, no second ridge."""
    found = contours.extract(heat, sigma)
    assert len(found) == 1
    return found[0]


def assert_is(found, truth, closed=False):
    assert between(found, truth).mean() < 0.05                     # pixels
    assert between(truth, found).max() < 1                         # all of it is there
    assert np.array_equal(found[0], found[-1]) == closed
    if not closed:
        ends, wanted = found[[0, -1]], np.asarray(truth)[[0, -1]]
        assert min(np.linalg.norm(ends - w, axis=1).max() for w in (wanted, wanted[::-1])) < 1


def segment(size, x, y, angle, length):
    """A line about a point given in shares of the map; inside it where 0.3 <= x, y <= 0.7 and length <= 0.5."""
    half = length * size / 2 * np.array([math.cos(angle), math.sin(angle)])
    return np.array([x, y]) * size + np.stack([-half, half])


def bent(seed, size, radius=6.0):
    """A random smooth curve that bends no tighter than ``radius`` and keeps two pixels to the border, 8 to itself."""
    rng = np.random.default_rng(seed)
    while True:
        s = np.arange(0, rng.uniform(15, 2 * size), 0.5)
        waves = rng.normal(size=4) @ np.cos(np.pi * np.outer(np.arange(4), s / s[-1]) + rng.uniform(0, 6, (4, 1)))
        angle = rng.uniform(0, 2 * np.pi) + np.cumsum(waves / np.abs(waves).max() * rng.uniform() / radius) / 2
        curve = np.cumsum(np.stack([np.cos(angle), np.sin(angle)], 1), axis=0) / 2
        if np.ptp(curve, axis=0).max() > size - 6:
            continue
        curve += rng.uniform(2 - curve.min(0), size - 3 - curve.max(0))
        apart = np.linalg.norm(curve[:, None] - curve, axis=-1)
        if apart[np.abs(s[:, None] - s) > 12].min(initial=np.inf) > 8:
            return curve


# ---- clean maps -----------------------------------------------------------------------------------------------------

@FEW
@given(SIZES, READ, st.floats(0.3, 0.7), st.floats(0.3, 0.7), st.floats(0, math.pi), st.floats(0.15, 0.5))
def test_a_line_comes_back(size, sigma, x, y, angle, length):
    line = segment(size, x, y, angle, length)
    assert_is(the_only(contours.encode(line, size, SIGMA), sigma), line)


@pytest.mark.parametrize("sigma", [2.0, 3.0])
@pytest.mark.parametrize("offset", [0.0, 0.5])
@pytest.mark.parametrize("turned", [False, True])
def test_a_line_along_the_grid_or_between_its_pixels(sigma, offset, turned):
    line = np.array([[10.0, 50.0], [30 + offset, 30 + offset]])[[1, 0] if turned else [0, 1]].T.copy()
    found = the_only(contours.encode(line, 64, SIGMA), sigma)
    assert_is(found, line)
    along, across = found.T[::-1] if turned else found.T
    assert np.abs(across[abs(along - 30) < 18] - 30 - offset).max() < 0.005      # symmetric heat, no excuse


@FEW
@given(SIZES, READ, st.floats(0.4, 0.6), st.floats(0.4, 0.6), st.floats(7, 22))
def test_a_circle_comes_back_closed(size, sigma, x, y, radius):
    t = np.linspace(0, 2 * np.pi, 300)
    circle = np.array([x, y]) * size + radius * np.stack([np.cos(t), np.sin(t)], 1)
    assert_is(the_only(contours.encode(circle, size, SIGMA), sigma), circle, closed=True)


@FEW
@given(st.integers(0, 10**6), SIZES, READ)
def test_a_smooth_curve_comes_back(seed, size, sigma):
    curve = bent(seed, size)
    assert_is(the_only(contours.encode(curve, size, SIGMA), sigma), curve)


@FEW
@given(READ, st.floats(10, 53), st.floats(-1.0, 1.0))
def test_a_contour_that_leaves_the_map_ends_at_its_border(sigma, x, tilt):
    direction = np.array([math.sin(tilt), math.cos(tilt)])
    line = np.array([x, 31.5]) + np.outer([-60, 60], direction)
    inside = dense(line)[((dense(line) >= -0.5) & (dense(line) <= 63.5)).all(1)]
    assert_is(the_only(contours.encode(line, 64, SIGMA), sigma), inside[[0, -1]])


@FEW
@given(READ, st.floats(0, 4))
def test_a_contour_along_the_border_is_found(sigma, y):
    line = np.array([[15.0, y], [45.0, y]])
    found = the_only(contours.encode(line, 64, SIGMA), sigma)
    assert between(found, line).max() < 0.5 and between(line, found).max() < 1


@FEW
@given(st.integers(0, 10**6), READ, st.integers(0, 3), st.booleans())
def test_turned_and_mirrored_maps_give_turned_and_mirrored_curves(seed, sigma, quarters, mirrored):
    heat = contours.encode(bent(seed, 64), 64, SIGMA)
    moved = torch.rot90(heat.flip(1) if mirrored else heat, quarters)
    found, expected = the_only(moved, sigma), the_only(heat, sigma)
    if mirrored:
        expected = [63, 0] + expected * [-1, 1]
    for _ in range(quarters):
        expected = np.stack([expected[:, 1], 63 - expected[:, 0]], 1)
    assert max(between(found, expected).max(), between(expected, found).max()) < 0.1


def test_maps_together_are_maps_one_by_one():
    maps = torch.stack([contours.encode(bent(seed, 64), 64, SIGMA) for seed in range(4)] + [torch.zeros(64, 64)])
    together, alone = contours.extract(maps), [contours.extract(heat) for heat in maps]
    assert [len(curves) for curves in together] == [1, 1, 1, 1, 0]
    for a, b in zip(together[:4], alone):
        np.testing.assert_allclose(a[0], b[0], atol=1e-4)
    np.testing.assert_array_equal(contours.extract(maps[0].numpy())[0], alone[0][0])


@FEW
@given(READ, st.floats(0, math.pi), st.floats(-0.5, 0.5))
def test_the_normal_is_across_the_contour(sigma, angle, shift):
    normal = np.array([-math.sin(angle), math.cos(angle)])
    line = 32 + shift * normal + np.outer([-40, 40], [math.cos(angle), math.sin(angle)])
    score, orientation = contours.contourness(contours.encode(line, 65, SIGMA), sigma)
    found = float(orientation[32, 32]) + math.pi / 2                             # Eq. 26
    assert abs(math.cos(found) * normal[0] + math.sin(found) * normal[1]) > math.cos(math.radians(4))
    assert score[32, 32] > score[32 + round(3 * normal[1]), 32 + round(3 * normal[0])] + 1


def test_the_heat_is_nearer_than_the_parabola_through_three_scores():
    t, errors = np.linspace(0, 2 * np.pi, 300), []
    for radius in (8, 10, 12, 14):
        circle = 31.7 + radius * np.stack([np.cos(t), np.sin(t)], 1)
        heat = contours.encode(circle, 64, SIGMA)
        score, orientation = contours.contourness(heat, 3.0)
        found = the_only(heat, 3.0)
        (y, x), s = np.nonzero(score.numpy() > 5), score.numpy()
        normal = np.stack([-np.sin(orientation[y, x]), np.cos(orientation[y, x])], 1)
        before, here, after = (contours._bilinear(s[None], 0, np.stack([x, y], 1) + k * normal) for k in (-1, 0, 1))
        offset = (before - after) / (2 * (before - 2 * here + after))
        places = (np.stack([x, y], 1) + offset[:, None] * normal)[(here >= before) & (here >= after)]
        errors.append([geometry.distance_to_polyline(places, circle).mean(), between(found, circle).mean()])
    parabola, ours = np.mean(errors, axis=0)
    assert parabola > 0.2 and ours < 0.03


# ---- thresholds -----------------------------------------------------------------------------------------------------

def test_the_scale_of_the_thresholds():
    for sigma in (2.0, 3.0):
        ideal = contours.contourness(contours.encode([[0.0, 30], [60, 30]], 61, sigma), sigma)[0][30, 30]
        assert float(ideal) == pytest.approx(contours.IDEAL * sigma**2, rel=0.01)


@pytest.mark.parametrize("sigma", [2.0, 3.0])
def test_half_the_noise_makes_no_contour(sigma):
    generator = torch.Generator().manual_seed(0)
    assert contours.extract(0.05 * torch.randn(20, 128, 128, generator=generator), sigma) == [[]] * 20


@pytest.mark.parametrize("heat", [torch.zeros(32, 32), torch.full((32, 32), 0.25), torch.ones(32, 32),
                                  -torch.ones(32, 32), torch.eye(32) * 0.02])
def test_maps_without_a_ridge_are_empty(heat):
    assert contours.extract(heat) == []


def test_a_contour_may_fade_but_must_be_strong_somewhere():
    line = np.array([[8.0, 20.3], [56.0, 24.1]])
    heat = contours.encode(line, 64, SIGMA)
    weak = 0.17 * heat                                             # scores between low and high
    fading = heat * torch.linspace(1, 0.17, 64)
    assert contours.extract(weak, 2.0) == []
    assert len(contours.extract(weak, 2.0, low=0.2, high=0.2)) == 1
    assert between(line, the_only(fading, 2.0)).max() < 1
    assert contours.extract(fading, 2.0, 0.8, 0.8)[0][:, 0].max() < 40           # one threshold cuts the same ridge


def test_the_strongest_comes_first_and_double_ridges_stay_two():
    strong, weak = [[8.0, 20], [56, 22]], [[8.0, 30], [56, 32]]
    maps = contours.encode([np.array(strong), np.array(weak)], 64, SIGMA)
    for first, second in ((strong, weak), (weak, strong)):
        heat = torch.maximum(maps[0] * (1 if first is strong else 0.6), maps[1] * (1 if first is weak else 0.6))
        found = contours.extract(heat, 2.0)
        assert len(found) == 2
        assert_is(found[0], first)
        assert_is(found[1], second)


@FEW
@given(st.integers(0, 10**6), st.floats(0, 1), READ)
def test_any_finite_map_gives_ordered_curves(seed, clutter, sigma):
    rng = np.random.default_rng(seed)
    heat = clutter * rng.random((24, 40)) ** 3 + contours.encode(bent(seed, 24), (24, 40), SIGMA).numpy()
    heat[rng.integers(24):, rng.integers(40):] *= -1
    for curve in contours.extract(heat, sigma):
        assert curve.ndim == 2 and curve.shape[1] == 2 and curve.dtype == np.float64
        assert (curve > -1.5).all() and (curve < [40.5, 24.5]).all()
        steps = np.linalg.norm(np.diff(curve, axis=0), axis=1)
        assert steps.max() < 4 and steps.sum() >= sigma            # from neighbour to neighbour


def test_a_blurred_noisy_contour_keeps_its_place():
    curve = bent(3, 64, radius=10)
    heat = contours.encode(curve, 64, 3.0) * 0.7                   # wider and cooler than in training
    heat = heat + 0.05 * torch.randn(heat.shape, generator=torch.Generator().manual_seed(1))
    found = contours.extract(heat)[0]
    assert between(found, curve).mean() < 0.3 and between(curve, found).max() < 4


@pytest.mark.parametrize("wrong, words", [
    (lambda: contours.extract(torch.full((8, 8), torch.nan)), "finite"),
    (lambda: contours.extract(torch.full((8, 8), torch.inf)), "finite"),
    (lambda: contours.extract(torch.zeros(8)), r"heatmap .*\(8,\)"),
    (lambda: contours.extract(torch.zeros(2, 2, 8, 8)), "heatmap"),
    (lambda: contours.extract(torch.zeros(3, 8)), r"at least 4.*\(3, 8\)"),
    (lambda: contours.extract(torch.zeros(8, 8), low=0), "low"),
    (lambda: contours.extract(torch.zeros(8, 8), low=0.5, high=0.4), "0.5 and 0.4"),
    (lambda: contours.extract(torch.zeros(8, 8), sigma=0), "sigma"),
    (lambda: contours.join([], 3), "polylines"),
    (lambda: contours.join([[[0, 0], [1, 1]]], -1), "gap"),
])
def test_refuses_nonsense(wrong, words):
    with pytest.raises(ValueError, match=words):
        wrong()


# ---- pieces ---------------------------------------------------------------------------------------------------------

def test_a_broken_ridge_is_joined():
    line = np.array([[6.0, 20.3], [58.0, 30.1]])
    heat = contours.encode(line, 64, SIGMA)
    heat[:, 24:30] = 0
    heat[:, 43:48] = 0
    pieces = contours.extract(heat, 2.0)
    assert len(pieces) == 3
    whole = contours.join(pieces, 9)
    assert_is(whole, line)
    assert (np.diff(whole[:, 0]) * (1 if whole[-1, 0] > whole[0, 0] else -1) > 0).all()
    np.testing.assert_array_equal(contours.join(pieces, 1), pieces[0])


@FEW
@given(st.lists(st.integers(2, 9), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_joined_pieces_are_the_whole_in_any_order(lengths, random):
    x = np.arange(sum(lengths))
    whole = np.stack([x, 3 * np.sin(x / 6)], 1)
    pieces = [piece[::random.choice([1, -1])] for piece in np.split(whole, np.cumsum(lengths)[:-1])]
    assume(all(np.linalg.norm(piece[0] - piece[-1]) > 0 for piece in pieces))
    random.shuffle(pieces)
    joined = contours.join(pieces, 2)
    np.testing.assert_array_equal(joined if joined[0, 0] == 0 else joined[::-1], whole)


def test_joining_does_not_turn_back_nor_touch_closed_curves():
    there, beside = np.array([[0.0, 0], [10, 0]]), np.array([[0.0, 3], [10, 3]])
    np.testing.assert_array_equal(contours.join([there, beside], 5), there)
    ring = np.array([[12.0, 0], [14, 2], [16, 0], [12, 0]])
    np.testing.assert_array_equal(contours.join([there, ring], 5), there)
    np.testing.assert_array_equal(contours.join([ring, there], 5), ring)


def test_a_bridge_goes_on_where_both_pieces_point():
    """However far it may reach; a few pixels of overlap are no turning back."""
    first, on = np.array([[0.0, 0], [10, 0]]), np.array([[30.0, 2], [40, 2]])
    np.testing.assert_array_equal(contours.join([first, on], 64), np.concatenate([first, on]))
    np.testing.assert_array_equal(contours.join([first, on[::-1]], 64), np.concatenate([first, on]))
    behind = np.array([[2.0, 12], [8, 12]])                            # same way, but the bridge to it would turn back
    np.testing.assert_array_equal(contours.join([first, behind], 64), first)
    lapped = np.array([[8.5, 1], [20, 1]])
    np.testing.assert_array_equal(contours.join([first, lapped], 64), np.concatenate([first, lapped]))
