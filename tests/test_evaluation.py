"""Errors in image pixels."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from facealign_lite import markups
from facealign_lite.data import Augmentation, Crops, Sample
from facealign_lite.evaluation import Evaluation, benchmark, evaluate, predict
from facealign_lite.nets import StackedHourglass


class Oracle(nn.Module):
    """A network that knows the answer: logits of a Gaussian at landmarks that were given in crop pixels."""

    config = SimpleNamespace(image_size=128, in_channels=1, reading="soft_argmax")
    inputs = ("image",)
    read = StackedHourglass.read

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


class Borrower(Oracle):
    """Knows the answer by what it is lent, not by what it sees."""

    inputs = ("image", "answer")

    def lend(self, images, reference=None):
        self.seen += len(images)
        return (self.points[self.seen - len(images):self.seen],)

    def forward(self, images, answer):
        return Oracle(answer)(images)


class Lent(Crops):
    """Crops that bring the answer themselves."""

    def at(self, epoch, index):
        item = super().at(epoch, index)
        return item | {"answer": item["landmarks"] + 8}


def test_a_model_is_called_with_its_inputs_and_lends_those_that_the_data_lack():
    samples = toy_samples()
    model = Borrower(crop_points(samples))
    points, _ = predict(model, Crops(samples, 128), batch_size=2)
    np.testing.assert_allclose(points, [s.landmarks for s in samples], atol=0.02)
    moved, _ = predict(model, Lent(samples, 128), batch_size=2)
    sides = np.array([1.3 * max(s.box[2] - s.box[0], s.box[3] - s.box[1]) for s in samples])
    np.testing.assert_allclose(moved - points, np.broadcast_to(8 * sides[:, None, None] / 128, points.shape), atol=0.1)


def test_heat_is_read_as_the_model_says():
    samples = toy_samples()

    class Heat(Oracle):
        config = SimpleNamespace(image_size=128, in_channels=1, reading="center_of_mass")

        def forward(self, images):
            return [2 * torch.exp(super().forward(images)[-1] / 2) - 0.01]

    points, _ = predict(Heat(crop_points(samples)), Crops(samples, 128))
    np.testing.assert_allclose(points, [s.landmarks for s in samples], atol=0.3)


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


def test_a_given_box_divides_where_the_set_is_published_so():
    """AFLW: the face's size is that of the annotated box, and crops follow the landmarks all the same."""
    samples = [replace(s, tags={"given_box": (s.box[0] - 20, s.box[1] - 20, s.box[0] + 180, s.box[1] + 30 * k + 60)})
               for k, s in enumerate(toy_samples(), 1)]
    model = Oracle(crop_points(samples) + 3)
    given, own = evaluate(model, samples, "given_box"), evaluate(Oracle(crop_points(samples) + 3), samples, "box")
    np.testing.assert_allclose(given.predicted, own.predicted)
    for k, (sample, mine, theirs) in enumerate(zip(samples, own.errors, given.errors, strict=True), 1):
        (left, top, right, bottom), area = sample.box, 200 * (30 * k + 80)
        assert theirs == pytest.approx(mine * np.sqrt((right - left) * (bottom - top) / area))
    with pytest.raises(ValueError, match="tag given_box"):
        evaluate(model, toy_samples(), "given_box")


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
    with pytest.raises(ValueError, match="128 pixels a side.*got 64"):
        evaluate(model, Crops(samples, 64))
    with pytest.raises(ValueError, match="config, inputs, read.*Conv2d has no config"):
        evaluate(nn.Conv2d(1, 68, 3), samples)


def test_the_benchmark_is_the_same_for_everybody():
    faces = benchmark(size=64)
    assert len(faces) == 2000
    a, b = faces[1999], benchmark(size=64)[1999]
    np.testing.assert_array_equal(a.image, b.image)
    assert set(a.tags) >= {"pose", "occlusion", "blur", "expression", "light"}
