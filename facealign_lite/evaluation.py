"""A model on a data set: per-image errors first, everything else is a reduction of them.

Shapes: N images, K landmarks. Errors are fractions of the normaliser (0.05 = 5 %).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import nn
from torch.utils.data import DataLoader

from facealign_lite import geometry, heatmaps, markups, metrics, scpan
from facealign_lite.data import Crops
from facealign_lite.training import model_inputs

FAILURE = 0.1                                     # an image fails above this error
BENCHMARK_SEED, BENCHMARK_FACES = 20260, 2000     # no training run may use this seed


@dataclass(frozen=True)
class Evaluation:
    """Predictions of a model and what they are compared with, in image pixels."""

    predicted: NDArray[np.float64]                # (N, K, 2)
    target: NDArray[np.float64]                   # (N, K, 2)
    boxes: NDArray[np.float64]                    # (N, 4)
    tags: list[Mapping[str, Any]]
    markup: str = "68"
    normalizer: str = "inter_ocular"
    seconds_per_image: float = float("nan")       # forward pass and decoding
    errors: NDArray[np.float64] = field(init=False)  # (N,) NME of each image

    def __post_init__(self) -> None:
        errors = metrics.nme(self.predicted, self.target, self.normalizer, self.markup, box=self.boxes)
        object.__setattr__(self, "errors", errors)

    def figures(self, where: NDArray | None = None) -> dict[str, float]:
        """Mean, median, failures over 10 %, AUC up to 10 % and means of the landmark groups, over ``where`` or all."""
        where = np.ones(len(self.errors), bool) if where is None else where
        each = metrics.per_landmark(self.predicted, self.target, self.normalizer, self.markup, box=self.boxes)[where]
        errors = self.errors[where]
        figures = {"images": int(len(errors)), "nme": errors.mean(), "median": np.median(errors),
                   "failures": metrics.failure_rate(errors, FAILURE), "auc": metrics.auc(errors, FAILURE)}
        figures |= {name: each[:, list(group)].mean() for name, group in markups.get(self.markup).groups.items()}
        return {name: value if isinstance(value, int) else round(float(value), 6) for name, value in figures.items()}

    def subsets(self) -> dict[str, dict[str, float]]:
        """Figures of every subset a tag names: ``occlusion`` for true flags, ``pose=profile`` for words."""
        found: dict[str, list[int]] = {}
        for i, tags in enumerate(self.tags):
            for name, value in tags.items():
                if isinstance(value, (bool, np.bool_)):
                    if value:
                        found.setdefault(name, []).append(i)
                elif isinstance(value, str):
                    found.setdefault(f"{name}={value}", []).append(i)
        return {name: self.figures(np.array(found[name])) for name in sorted(found)}


def predict(model: nn.Module, crops: Crops, batch_size: int = 32, device: str = "auto",
            decode: str = "soft_argmax") -> tuple[NDArray[np.float64], float]:
    """Landmarks (N, K, 2) in image pixels, and seconds per image of forward pass and decoding.

    Args:
        model: returns logits (B, K, h, w), a list whose last is the prediction, or ``scpan.Maps``; called as in
            ``training.fit``.
        crops: un-augmented crops.
        decode: method of ``heatmaps.decode``; SCPAN's maps and vectors are read by ``scpan.read``.
    """
    device = _device(device)
    was, model = model.training, model.to(device, memory_format=torch.channels_last).eval()
    points, spent = [], 0.0
    with torch.inference_mode():
        for batch in DataLoader(crops, batch_size):
            given = model_inputs(model, batch, device)
            start = time.perf_counter()
            outputs = model(*given)
            maps = outputs[-1] if isinstance(outputs, (list, tuple)) else outputs
            if isinstance(outputs, scpan.Maps):
                points_on_map, _ = scpan.read(outputs, model.config)             # (B, K, 2)
            else:
                points_on_map = heatmaps.decode(maps, decode)
            found = heatmaps.to_image(points_on_map, tuple(maps.shape[-2:]), tuple(given[0].shape[-2:])).double().cpu()
            spent += time.perf_counter() - start
            for one, matrix in zip(found.numpy(), batch["matrix"].numpy(), strict=True):
                points.append(geometry.transform(one, geometry.invert(matrix)))
    model.train(was)
    return np.stack(points), spent / len(crops)


def evaluate(model: nn.Module, data: Crops | Sequence[Any], normalizer: str = "inter_ocular", batch_size: int = 32,
             device: str = "auto", decode: str = "soft_argmax") -> Evaluation:
    """Errors of ``model`` on annotated samples, with the given boxes.

    Args:
        data: samples with landmarks, or un-augmented ``Crops`` of them.
        normalizer: see ``metrics.nme``.

    Raises:
        ValueError: if ``data`` is empty, augmented or not annotated, or markups differ.
    """
    if not isinstance(data, Crops):
        config = getattr(model, "config", None)
        data = Crops(data, getattr(config, "image_size", 128), colour=getattr(config, "in_channels", 1) == 3)
    if data.augment is not None:
        raise ValueError(f"data must not be augmented, got {data.augment}")
    facts = []
    for i in range(len(data)):
        sample = data.samples[i]
        if sample.landmarks is None:
            raise ValueError(f"data must have landmarks, got none at {i}")
        box = sample.box if sample.box is not None else np.r_[sample.landmarks.min(0), sample.landmarks.max(0)]
        facts.append((np.asarray(sample.landmarks, np.float64), box, sample.tags, sample.markup))
    target, boxes, tags, names = zip(*facts, strict=True)
    if len(set(names)) > 1:
        raise ValueError(f"data must be of one markup, got {sorted(set(names))}")
    predicted, seconds = predict(model, data, batch_size, device, decode)
    return Evaluation(predicted, np.stack(target), np.stack(boxes), list(tags), names[0], normalizer, seconds)


def benchmark(size: int = 128, count: int = BENCHMARK_FACES) -> Sequence[Any]:
    """The synthetic test faces that every claim is measured on, subset tags included."""
    from facealign_lite.synthetic import SyntheticFaces
    return SyntheticFaces(count, size=size, seed=BENCHMARK_SEED)


# Label adaptation: a landmark on a mesh and the same landmark by an annotator differ by habit, the same way every time.

@dataclass(frozen=True)
class LabelMap:
    """A ridge regression from predicted shapes to annotated ones, in each face's own frame."""

    mean: NDArray[np.float64]                     # (2 K,) of the predicted shapes
    offset: NDArray[np.float64]                   # (2 K,) mean correction
    weights: NDArray[np.float64]                  # (2 K, 2 K)

    def __call__(self, predicted: ArrayLike) -> NDArray[np.float64]:
        """Shapes (..., K, 2) as annotators would have drawn them."""
        shape, centre, scale = _normalised(predicted)
        if shape.shape[-2] * 2 != len(self.mean):
            raise ValueError(f"predicted must be (..., {len(self.mean) // 2}, 2), got {shape.shape}")
        flat = shape.reshape(*shape.shape[:-2], -1)
        correction = (flat - self.mean) @ self.weights + self.offset
        return (shape + correction.reshape(shape.shape)) * scale + centre


def fit_label_map(predicted: ArrayLike, target: ArrayLike, ridge: float = 1.0) -> LabelMap:
    """Fit the map on annotated photos: minimise |Y - X W|^2 + ridge |W|^2, X predicted and Y the correction, centred.

    Args:
        predicted, target: (N, K, 2), N > 0, any pixels.
        ridge: > 0; infinite leaves a constant offset per landmark.

    Raises:
        ValueError: if shapes differ, are not (N, K, 2), or ridge is not positive.
    """
    predicted, target = np.asarray(predicted, np.float64), np.asarray(target, np.float64)
    if predicted.shape != target.shape or predicted.ndim != 3 or predicted.shape[-1] != 2 or len(predicted) == 0:
        raise ValueError(f"predicted and target must be (N, K, 2) alike, got {predicted.shape} and {target.shape}")
    if not ridge > 0:
        raise ValueError(f"ridge must be positive, got {ridge}")
    x, centre, scale = _normalised(predicted)
    y = ((target - centre) / scale - x).reshape(len(x), -1)
    x = x.reshape(len(x), -1)
    mean, offset = x.mean(0), y.mean(0)
    x = x - mean
    if np.isinf(ridge):
        weights = np.zeros((x.shape[1], x.shape[1]))
    else:
        weights = np.linalg.solve(x.T @ x + ridge * np.eye(x.shape[1]), x.T @ (y - offset))
    return LabelMap(mean, offset, weights)


def _normalised(shapes: ArrayLike) -> tuple[NDArray, NDArray, NDArray]:
    """Shapes about their centre with root mean square radius 1; centre and radius."""
    shapes = np.asarray(shapes, np.float64)
    centre = shapes.mean(-2, keepdims=True)
    radius = np.sqrt(np.square(shapes - centre).sum(-1).mean(-1))[..., None, None]
    if not (np.isfinite(radius) & (radius > 0)).all():
        raise ValueError("shapes must be finite and not a single point")
    return (shapes - centre) / radius, centre, radius


def _device(device: str) -> torch.device:
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
