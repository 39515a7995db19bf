"""A model on a data set: per-image errors first, everything else is a reduction of them.

Shapes: N images, K landmarks. Errors are fractions of the normaliser (0.05 = 5 %).
"""

import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import DataLoader

from facealign_lite import geometry, markups, metrics
from facealign_lite.data import Crops
from facealign_lite.data.samples import check_sample
from facealign_lite.looks import check_readable, checked, in_eval_mode
from facealign_lite.nets import pick_device
from facealign_lite.training import largest_part, model_inputs, no_room

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


def predict(model: nn.Module, crops: Crops, batch_size: int = 32, device: str = "auto"
            ) -> tuple[NDArray[np.float64], float]:
    """Landmarks (N, K, 2) in image pixels, and seconds per image of forward pass and reading.

    Args:
        model: a network as described in ``nets.reading``; it is moved to the device and keeps its mode.
        crops: un-augmented crops, as large as the model wants them. Where a model has ``lend`` and the crops lack the
            inputs that it gives, it lends them.

    Raises:
        ValueError: for a model that does not say how it is read or reads what it should not, crops of another size, or
            a batch that does not fit into the memory of the device (which one fits is then said).
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, Integral) or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")
    check_readable(model)
    if crops.size != model.config.image_size:
        raise ValueError(f"crops must be {model.config.image_size} pixels a side for this model, got {crops.size}")
    device = _device(device)
    points, spent = [], 0.0
    with in_eval_mode(model.to(device, memory_format=torch.channels_last)), torch.inference_mode():
        for batch in DataLoader(crops, int(batch_size)):
            if hasattr(model, "lend") and not set(model.inputs) <= set(batch):
                lent = model.lend(batch["image"].to(device))
                batch |= dict(zip(model.inputs, (batch["image"], *lent), strict=True))
            given = model_inputs(model, batch, device)
            start = time.perf_counter()
            try:
                found = checked(model.read(model(*given)), len(given[0])).points.cpu().double().numpy()   # (B, K, 2)
            except torch.OutOfMemoryError as error:
                traceback.clear_frames(error.__traceback__)                                # they hold what did not fit
                fitting = largest_part(lambda n, given=given: model(*[each[:n] for each in given]), len(given[0]))
                raise ValueError(no_room("batch_size", batch_size, fitting, device)) from error
            spent += time.perf_counter() - start
            for one, matrix in zip(found, batch["matrix"].numpy(), strict=True):
                points.append(geometry.transform(one, geometry.invert(matrix)))
    return np.stack(points), spent / len(crops)


def evaluate(model: nn.Module, data: Crops | Sequence[Any], normalizer: str = "inter_ocular", batch_size: int = 32,
             device: str = "auto") -> Evaluation:
    """Errors of ``model`` on annotated samples, with the given boxes.

    Args:
        data: samples with landmarks, or un-augmented ``Crops`` of them.
        normalizer: see ``metrics.nme``; or "given_box", the root of the area of the box that the data set gives (tag
            ``given_box``), by which errors on AFLW are published. Crops follow the landmarks' own box all the same.

    Raises:
        ValueError: if ``data`` is empty, augmented or not annotated, markups differ or a given box is missing; and as
            ``predict``.
    """
    check_readable(model)
    if not isinstance(data, Crops):
        data = Crops(data, model.config.image_size, colour=model.config.in_channels == 3)
    if data.augment is not None:
        raise ValueError(f"data must not be augmented, got {data.augment}")
    facts = []
    for i in range(len(data)):
        sample = check_sample(data.samples[i], f"data[{i}]")
        if sample.landmarks is None:
            raise ValueError(f"data must have landmarks, got none at {i}")
        box = sample.box if sample.box is not None else np.r_[sample.landmarks.min(0), sample.landmarks.max(0)]
        if normalizer == "given_box":
            if "given_box" not in getattr(sample, "tags", {}):
                raise ValueError(f"data must have the tag given_box for that normalizer, got none at {i}")
            box = np.asarray(sample.tags["given_box"], np.float64)
        facts.append((np.asarray(sample.landmarks, np.float64), box, getattr(sample, "tags", {}), sample.markup))
    target, boxes, tags, names = zip(*facts, strict=True)
    if len(set(names)) > 1:
        raise ValueError(f"data must be of one markup, got {sorted(set(names))}")
    predicted, seconds = predict(model, data, batch_size, device)
    normalizer = "box" if normalizer == "given_box" else normalizer
    return Evaluation(predicted, np.stack(target), np.stack(boxes), list(tags), names[0], normalizer, seconds)


def benchmark(size: int = 128, count: int = BENCHMARK_FACES) -> Sequence[Any]:
    """The synthetic test faces that every claim is measured on, subset tags included."""
    from facealign_lite.synthetic import SyntheticFaces
    return SyntheticFaces(count, size=size, seed=BENCHMARK_SEED)


def _device(device: str) -> torch.device:
    automatic = isinstance(device, str) and device == "auto"
    return pick_device(("cuda" if torch.cuda.is_available() else "cpu") if automatic else device)
