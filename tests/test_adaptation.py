"""Label maps: habits of annotators that are learnt, and undone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facealign_lite.adaptation import fit_label_map


def shapes(count=60, seed=0):
    rng = np.random.default_rng(seed)
    basis = rng.normal(size=(6, 68, 2))
    return np.tensordot(rng.normal(size=(count, 6)), basis, 1) * 0.1 + rng.normal(size=(68, 2)) * 20


def test_a_linear_habit_is_learnt_and_undone():
    """Annotators who put points by a linear rule in the face's frame are matched on faces never seen."""
    predicted = shapes(300)
    frame = (predicted - predicted.mean(1, keepdims=True))
    radius = np.sqrt(np.square(frame).sum(-1).mean(1))[:, None, None]
    habit = np.random.default_rng(1).normal(size=(136, 136)) * 0.01
    target = predicted + (0.05 + (frame / radius).reshape(300, -1) @ habit).reshape(300, 68, 2) * radius
    fitted = fit_label_map(predicted[:200], target[:200], ridge=1e-9)
    np.testing.assert_allclose(fitted(predicted[200:]), target[200:], atol=1e-3)
    assert np.abs(predicted[200:] - target[200:]).mean() > 0.5


def test_ridge_solves_its_normal_equations_and_infinity_is_a_constant():
    predicted = shapes()
    target = predicted + np.random.default_rng(2).normal(size=predicted.shape)
    fitted = fit_label_map(predicted, target, ridge=3.0)

    def cost(weights):
        frame = predicted - predicted.mean(1, keepdims=True)
        radius = np.sqrt(np.square(frame).sum(-1).mean(1))[:, None, None]
        x = (frame / radius).reshape(60, -1)
        y = ((target - predicted) / radius).reshape(60, -1)
        return np.square((x - x.mean(0)) @ weights - (y - y.mean(0))).sum() + 3 * np.square(weights).sum()
    rng = np.random.default_rng(3)
    for _ in range(5):
        assert cost(fitted.weights) < cost(fitted.weights + 1e-3 * rng.normal(size=(136, 136)))
    constant, strong = fit_label_map(predicted, target, np.inf), fit_label_map(predicted, target, 1e12)
    np.testing.assert_allclose(constant(predicted), strong(predicted), atol=1e-6)
    np.testing.assert_allclose(constant(predicted[0]), constant(predicted)[0])


@settings(max_examples=20, deadline=None)
@given(st.floats(0.1, 10), st.floats(-100, 100))
def test_the_map_goes_with_size_and_place(scale, shift):
    predicted = shapes()
    fitted = fit_label_map(predicted, predicted + 1)
    moved = fitted(predicted * scale + shift)
    np.testing.assert_allclose(moved, fitted(predicted) * scale + shift, atol=1e-6 * (1 + abs(shift)) * (1 + scale))


def test_label_maps_refuse_nonsense():
    good = shapes()
    for kind in ((good, good[:5]), (good[0], good[0]), (good[:0], good[:0]), (good, good, 0), (good, good, np.nan),
                 (good * np.nan, good), (good * 0, good)):
        with pytest.raises(ValueError):
            fit_label_map(*kind)
    with pytest.raises(ValueError, match="68"):
        fit_label_map(good, good)(good[:, :19])
