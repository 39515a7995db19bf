"""Plane geometry against brute force and its own inverses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from facealign_lite import geometry as geo

NUMBER = st.floats(-100, 100)
SEED = st.integers(0, 10**6)


def points(n=10):
    return arrays(np.float64, (n, 2), elements=NUMBER)


@st.composite
def similarities(draw):
    return geo.similarity(draw(st.floats(0.1, 10)), draw(st.floats(-3.1, 3.1)), (draw(NUMBER), draw(NUMBER)))


# ---- maps -----------------------------------------------------------------------------------------------------------

@settings(max_examples=40, deadline=None)
@given(points(), similarities(), similarities())
def test_there_and_back(p, a, b):
    np.testing.assert_allclose(geo.transform(geo.transform(p, a), geo.invert(a)), p, atol=1e-7)
    np.testing.assert_allclose(geo.transform(p, geo.compose(a, b)), geo.transform(geo.transform(p, b), a), atol=1e-7)
    np.testing.assert_allclose(geo.compose(geo.invert(a), a), np.eye(2, 3), atol=1e-9)


def test_a_map_by_hand():
    matrix = [[1, 2, 3], [4, 5, 6]]
    np.testing.assert_array_equal(geo.transform([[[1, 1]], [[2, 0]]], matrix), [[[6, 15]], [[5, 14]]])
    assert geo.transform(np.zeros((3, 4, 2)), matrix).shape == (3, 4, 2)
    quarter = geo.similarity(2, np.pi / 2, (10, 20))
    np.testing.assert_allclose(geo.transform([1, 0], quarter), [10, 22], atol=1e-12)   # right becomes down: clockwise


@settings(max_examples=40, deadline=None)
@given(points(), st.floats(0.1, 10), st.floats(-3, 3), NUMBER, NUMBER)
def test_a_similarity_scales_all_distances(p, scale, angle, x, y):
    q = geo.transform(p, geo.similarity(scale, angle, (x, y)))
    np.testing.assert_allclose(np.linalg.norm(q[1:] - q[0], axis=1), scale * np.linalg.norm(p[1:] - p[0], axis=1),
                               atol=1e-7)


@settings(max_examples=40, deadline=None)
@given(SEED, similarities())
def test_procrustes_recovers_a_similarity(seed, matrix):
    p = np.random.default_rng(seed).normal(size=(7, 2))
    np.testing.assert_allclose(geo.procrustes(p, geo.transform(p, matrix)), matrix, atol=1e-7)


@settings(max_examples=25, deadline=None)
@given(SEED)
def test_nothing_near_procrustes_is_better(seed):
    random = np.random.default_rng(seed)
    p, q = random.normal(size=(2, 6, 2))
    best = geo.procrustes(p, q)
    assert best[0, 0] == best[1, 1] and best[0, 1] == -best[1, 0]      # no mirror, no shear

    def misfit(matrix):
        return ((geo.transform(p, matrix) - q) ** 2).sum()

    for _ in range(30):
        a, b, x, y = random.normal(0, 0.1, 4)
        assert misfit(best + [[a, -b, x], [b, a, y]]) >= misfit(best)


def test_procrustes_does_not_mirror():
    p = np.array([[0, 0], [4, 0], [4, 1.0]])
    assert np.linalg.det(geo.procrustes(p, p * [-1, 1])[:, :2]) > 0


# ---- polylines ------------------------------------------------------------------------------------------------------

@settings(max_examples=30, deadline=None)
@given(SEED, similarities())
def test_length_is_the_sum_of_its_pieces(seed, matrix):
    line = np.random.default_rng(seed).normal(size=(6, 2))
    wanted = sum(np.hypot(*(b - a)) for a, b in zip(line[:-1], line[1:], strict=True))
    assert geo.length(line) == pytest.approx(wanted)
    scale = np.hypot(matrix[0, 0], matrix[1, 0])
    assert geo.length(geo.transform(line, matrix)) == pytest.approx(scale * wanted, rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(SEED, st.integers(2, 40))
def test_resampled_points_lie_at_equal_arcs(seed, n):
    line = np.random.default_rng(seed).normal(size=(5, 2))
    found = geo.resample(line, n)
    assert found.shape == (n, 2)
    np.testing.assert_allclose(found[[0, -1]], line[[0, -1]])
    assert geo.distance_to_polyline(found, line).max() < 1e-9
    arc = np.append(0, np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1)))
    for k, p in enumerate(found):                          # walk the line to the k-th equal share of its length
        at = arc[-1] * k / (n - 1)
        i = min(np.searchsorted(arc, at, side="right") - 1, 3)
        np.testing.assert_allclose(p, line[i] + (line[i + 1] - line[i]) * (at - arc[i]) / (arc[i + 1] - arc[i]),
                                   atol=1e-9)


def test_a_resampled_straight_line_is_a_ruler():
    np.testing.assert_allclose(geo.resample([[0, 0], [1, 0], [8, 0]], 5), [[0, 0], [2, 0], [4, 0], [6, 0], [8, 0]])


@settings(max_examples=30, deadline=None)
@given(SEED, st.integers(1, 3))
def test_a_spline_passes_through_its_points(seed, degree):
    line = np.cumsum(np.random.default_rng(seed).uniform(0.5, 2, (6, 2)), axis=0)
    dense = geo.spline(line, 4001, degree)
    np.testing.assert_allclose(dense[[0, -1]], line[[0, -1]], atol=1e-9)
    assert geo.distance_to_polyline(line, dense).max() < 1e-3
    if degree == 1:
        assert geo.distance_to_polyline(dense, line).max() < 1e-9


def test_a_quadratic_spline_is_smooth_and_keeps_a_line_straight():
    straight = geo.spline([[0, 0], [1, 1], [3, 3], [4, 4]], 50)
    np.testing.assert_allclose(straight[:, 0], straight[:, 1], atol=1e-9)
    bent = geo.spline([[0, 0], [1, 1], [2, 0], [3, 1]], 3000)
    direction = np.diff(bent, axis=0)
    angle = np.unwrap(np.arctan2(direction[:, 1], direction[:, 0]))
    assert np.abs(np.diff(angle)).max() < 0.02             # the polyline turns by 1.57 at once


# ---- distances ------------------------------------------------------------------------------------------------------

@settings(max_examples=25, deadline=None)
@given(SEED)
def test_distance_is_that_of_the_nearest_of_many_points(seed):
    random = np.random.default_rng(seed)
    starts, ends = random.uniform(-5, 5, (2, 4, 2))
    p = random.uniform(-8, 8, (6, 2))
    found = geo.distance_to_segments(p, starts, ends)
    assert found.shape == (6, 4)
    t = np.linspace(0, 1, 2001)[:, None]
    for j in range(4):
        dense = starts[j] + t * (ends[j] - starts[j])
        wanted = np.linalg.norm(p[:, None] - dense, axis=-1).min(1)
        np.testing.assert_allclose(found[:, j], wanted, atol=5e-3)
        assert (found[:, j] <= wanted + 1e-12).all()


def test_distances_by_hand():
    starts, ends = [[0, 0], [3, 3]], [[10, 0], [3, 3]]     # the second is a point
    np.testing.assert_allclose(geo.distance_to_segments([[5, 2], [-3, 4], [13, 4]], starts, ends),
                               [[2, np.hypot(2, 1)], [5, np.hypot(6, 1)], [5, np.hypot(10, 1)]])
    grid = np.stack(np.meshgrid(np.arange(4.0), np.arange(3.0)), -1)
    np.testing.assert_allclose(geo.distance_to_polyline(grid, [[0, 0], [3, 0], [3, 2]]),
                               [[0, 0, 0, 0], [1, 1, 1, 0], [2, 2, 1, 0]])


@settings(max_examples=30, deadline=None)
@given(SEED, similarities())
def test_distance_moves_with_the_plane(seed, matrix):
    random = np.random.default_rng(seed)
    p, line = random.normal(size=(9, 2)), random.normal(size=(5, 2))
    scale = np.hypot(matrix[0, 0], matrix[1, 0])
    moved = geo.distance_to_polyline(geo.transform(p, matrix), geo.transform(line, matrix))
    np.testing.assert_allclose(moved, scale * geo.distance_to_polyline(p, line), atol=1e-7)


# ---- bad input ------------------------------------------------------------------------------------------------------

LINE = np.array([[0, 0], [1, 0], [1, 1.0]])


@pytest.mark.parametrize("call, word", [
    (lambda: geo.transform(np.zeros((4, 3)), np.eye(2, 3)), "points"),
    (lambda: geo.transform(LINE, np.eye(3)), "matrix"),
    (lambda: geo.invert(np.zeros((2, 3))), "invertible"),
    (lambda: geo.invert([[1, 2, 0], [2, 4, 0]]), "invertible"),
    (lambda: geo.invert(np.full((2, 3), np.nan)), "matrix.*finite"),
    (lambda: geo.invert([[1e-5, 0, 1e99], [0, 1e-5, 0]]), "inverse.*finite"),
    (lambda: geo.compose(np.eye(2, 3) * 1e80, np.eye(2, 3) * 1e80), "finite"),
    (lambda: geo.similarity(np.nan), "scale"), (lambda: geo.similarity(1, np.inf), "angle"),
    (lambda: geo.similarity(1, 0, np.zeros((2, 2))), "translation"), (lambda: geo.length(LINE * 1e200), "finite"),
    (lambda: geo.transform(LINE + 1j, np.eye(2, 3)), "points.*complex"),
    (lambda: geo.transform(np.array([[None, 1]]), np.eye(2, 3)), "points"),
    (lambda: geo.transform([["1", "2"]], np.eye(2, 3)), "points"),
    (lambda: geo.procrustes(LINE, LINE[:2]), "source and target"),
    (lambda: geo.procrustes(LINE[:1], LINE[:1]), "source and target"),
    (lambda: geo.procrustes(np.ones((3, 2)), LINE), "single point"),
    (lambda: geo.procrustes(LINE * np.nan, LINE), "finite"),
    (lambda: geo.procrustes(LINE, LINE + np.inf), "finite"),
    (lambda: geo.length(LINE[:1]), "polyline"),
    (lambda: geo.length(LINE * np.nan), "finite"),
    (lambda: geo.resample(LINE, 1), "n must"),
    (lambda: geo.spline(LINE, 10, 3), "degree"),
    (lambda: geo.spline(LINE, 10, 0), "degree"),
    (lambda: geo.spline(LINE[[0, 0, 1]], 10, 1), "repeat"),
    (lambda: geo.distance_to_segments(LINE, LINE, LINE[:2]), "starts and ends"),
    (lambda: geo.distance_to_polyline(LINE, LINE[:1]), "polyline"),
])
def test_bad_input_is_named(call, word):
    with pytest.raises(ValueError, match=word):
        call()
