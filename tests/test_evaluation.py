"""Errors in image pixels and label maps."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from facealign_lite import markups
from facealign_lite.data import Augmentation, Crops, Sample
from facealign_lite.evaluation import (
    Evaluation,
    benchmark,
    evaluate,
    fit_label_map,
    predict,
)


class Oracle(nn.Module):
    """A network that knows the answer: logits of a Gaussian at landmarks that were given in crop pixels."""

    def __init__(self, points, size=64):
        super().__init__()
        self.points, self.size, self.seen = points, size, 0

    def forward(self, images):
        q = self.points[self.seen:self.seen + len(images)]
        self.seen += len(images)
        q = (q + 0.5) * self.size / images.shape[-1] - 0.5
        y, x = torch.meshgrid(torch.arange(self.size), torch.arange(self.size), indexing="ij")
        square = (x - q[..., 0, None, None]) ** 2 + (y - q[..., 1, None, None]) ** 2
        return [torch.full_like(square, float("nan")), -square / 2]               # only the last is the prediction


def toy_samples(count=5):
    rng = np.random.default_rng(0)
    return [Sample(rng.integers(0, 256, (120 + i, 150), np.uint8), rng.uniform(20, 100, (68, 2)),
                   tags={"occlusion": i < 2, "pose": "profile" if i % 2 else "frontal", "n": i}) for i in range(count)]


def crop_points(samples, size=128):
    return torch.stack([item["landmarks"] for item in (Crops(samples, size)[i] for i in range(len(samples)))])


def test_predictions_come_back_to_image_pixels():
    samples = toy_samples()
    model = Oracle(crop_points(samples)).train()
    points, seconds = predict(model, Crops(samples, 128), batch_size=2)
    np.testing.assert_allclose(points, [s.landmarks for s in samples], atol=0.02)
    assert seconds > 0 and model.training                                       # left as it was


def test_an_error_in_the_crop_is_the_same_error_in_the_image():
    samples = toy_samples()
    truth = crop_points(samples)
    truth[:, 30] += torch.tensor([6.0, 0.0])                                    # one of 68 landmarks, 6 crop pixels off
    result = evaluate(Oracle(truth), samples, batch_size=3)
    for i, sample in enumerate(samples):
        side = 1.3 * max(sample.box[2] - sample.box[0], sample.box[3] - sample.box[1])
        eyes = np.linalg.norm(sample.landmarks[36] - sample.landmarks[45])
        assert result.errors[i] == pytest.approx(6 * side / 128 / eyes / 68, rel=0.05)
    figures = result.figures()
    nose = len(markups.get("68").groups["nose"])
    assert figures["nme"] == pytest.approx(result.errors.mean(), abs=1e-6) and figures["images"] == 5
    assert figures["nose"] == pytest.approx(68 / nose * figures["nme"], rel=0.05)
    assert figures["mouth"] < 0.01 * figures["nose"]


def test_subsets_are_those_the_tags_name():
    target = np.random.default_rng(0).uniform(0, 50, (4, 68, 2))
    eyes = np.linalg.norm(target[:, 36] - target[:, 45], axis=-1)
    wrong = np.array([0.01, 0.02, 0.03, 0.2])
    predicted = target + (wrong * eyes)[:, None, None] * [1, 0]
    tags = [{"pose": "a", "blur": True}, {"pose": "b", "blur": False}, {"pose": "a"}, {"pose": "b", "id": 7}]
    result = Evaluation(predicted, target, np.tile([0.0, 0, 1, 1], (4, 1)), tags)
    np.testing.assert_allclose(result.errors, wrong)
    subsets = result.subsets()
    assert set(subsets) == {"pose=a", "pose=b", "blur"}
    assert subsets["pose=a"]["nme"] == pytest.approx(0.02) and subsets["blur"]["images"] == 1
    assert subsets["pose=b"]["failures"] == 0.5 and result.figures()["failures"] == 0.25
    assert result.figures()["auc"] == pytest.approx(np.mean([0.9, 0.8, 0.7, 0]))


def test_evaluate_refuses_nonsense():
    samples = toy_samples()
    model = Oracle(crop_points(samples))
    with pytest.raises(ValueError, match="augmented"):
        evaluate(model, Crops(samples, 128, Augmentation()))
    with pytest.raises(ValueError, match="landmarks.*at 1"):
        evaluate(model, [samples[0], Sample(samples[0].image, box=(0, 0, 5, 5))])
    with pytest.raises(ValueError, match="one markup"):
        evaluate(model, [samples[0], Sample(samples[0].image, np.eye(98, 2), markup="98")])
    with pytest.raises(ValueError, match="empty"):
        evaluate(model, [])
    with pytest.raises(ValueError, match="normalizer"):
        evaluate(model, samples, normalizer="eyes")


def test_the_benchmark_is_the_same_for_everybody():
    faces = benchmark(size=64)
    assert len(faces) == 2000
    a, b = faces[1999], benchmark(size=64)[1999]
    np.testing.assert_array_equal(a.image, b.image)
    assert set(a.tags) >= {"pose", "occlusion", "blur", "expression", "light"}


# Label maps

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
