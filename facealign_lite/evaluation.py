"""A model on a data set: per-image errors first, everything else is a reduction of them; and records that keep it.

Shapes: N images, K landmarks. Errors are fractions of the normaliser (0.05 = 5 %).
"""

import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import DataLoader

from facealign_lite import geometry, markups, metrics
from facealign_lite.data import Crops, write_atomic
from facealign_lite.looks import check_readable, in_eval_mode
from facealign_lite.training import model_inputs

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "results"
FAILURE = 0.1                                     # an image fails above this error
BENCHMARK_SEED, BENCHMARK_FACES = 20260, 2000     # no training run may use this seed
FIELDS = {"what": str, "data": str, "seeds": list, "budget": dict, "commit": str, "device": str,
          "seconds": (int, float), "figures": dict}


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
        ValueError: for a model that does not say how it is read, or crops of another size.
    """
    check_readable(model)
    if crops.size != model.config.image_size:
        raise ValueError(f"crops must be {model.config.image_size} pixels a side for this model, got {crops.size}")
    device = _device(device)
    points, spent = [], 0.0
    with in_eval_mode(model.to(device, memory_format=torch.channels_last)), torch.inference_mode():
        for batch in DataLoader(crops, batch_size):
            if hasattr(model, "lend") and not set(model.inputs) <= set(batch):
                lent = model.lend(batch["image"].to(device))
                batch |= dict(zip(model.inputs, (batch["image"], *lent), strict=True))
            given = model_inputs(model, batch, device)
            start = time.perf_counter()
            found = model.read(model(*given)).points.double().cpu().numpy()                # (B, K, 2)
            spent += time.perf_counter() - start
            for one, matrix in zip(found, batch["matrix"].numpy(), strict=True):
                points.append(geometry.transform(one, geometry.invert(matrix)))
    return np.stack(points), spent / len(crops)


def evaluate(model: nn.Module, data: Crops | Sequence[Any], normalizer: str = "inter_ocular", batch_size: int = 32,
             device: str = "auto") -> Evaluation:
    """Errors of ``model`` on annotated samples, with the given boxes.

    Args:
        data: samples with landmarks, or un-augmented ``Crops`` of them.
        normalizer: see ``metrics.nme``.

    Raises:
        ValueError: if ``data`` is empty, augmented or not annotated, or markups differ; and as ``predict``.
    """
    check_readable(model)
    if not isinstance(data, Crops):
        data = Crops(data, model.config.image_size, colour=model.config.in_channels == 3)
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
    predicted, seconds = predict(model, data, batch_size, device)
    return Evaluation(predicted, np.stack(target), np.stack(boxes), list(tags), names[0], normalizer, seconds)


def benchmark(size: int = 128, count: int = BENCHMARK_FACES) -> Sequence[Any]:
    """The synthetic test faces that every claim is measured on, subset tags included."""
    from facealign_lite.synthetic import SyntheticFaces
    return SyntheticFaces(count, size=size, seed=BENCHMARK_SEED)


# Records: one JSON a run, so that no figure in the book is typed.

def write_record(name: str, record: Mapping[str, Any], folder: str | Path = RESULTS) -> Path:
    """Write ``folder/name.json``, whole or not at all.

    Args:
        record: what, data, seeds (list), budget (dict), commit, device, seconds, figures (dict); more is kept too.

    Raises:
        ValueError: if a field is missing, of another type, or a number is not finite.
        OSError: if the disk refuses.
    """
    path = Path(folder) / f"{_name(name)}.json"
    for key, kind in FIELDS.items():
        if not isinstance(record.get(key), kind):
            raise ValueError(f"record {name!r} must have {key} of type {kind}, got {record.get(key)!r}")
    try:
        text = json.dumps(dict(record), indent=1, allow_nan=False, default=_plain)
    except ValueError as error:
        raise ValueError(f"record {name!r} must hold finite numbers: {error}") from error
    write_atomic(path, (text + "\n").encode())
    return path


def read_record(name: str, folder: str | Path = RESULTS) -> dict[str, Any]:
    """The record of that name.

    Raises:
        OSError: if there is none.
        ValueError: if the file is damaged or lacks a field.
    """
    path = Path(folder) / f"{_name(name)}.json"
    try:
        record = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} must be JSON: {error}") from error
    if missing := [key for key in FIELDS if key not in record]:
        raise ValueError(f"{path} must have the fields {list(FIELDS)}, missing {missing}")
    return record


def read_seeds(arm: str, folder: str | Path = RESULTS) -> list[dict[str, Any]]:
    """The records of an arm, ``folder/<arm>-<seed>.json``, one for each seed, by seed; none if it has not been run.

    Raises:
        ValueError: if a file is damaged or lacks a field.
    """
    seeds = [path.stem.removeprefix(f"{_name(arm)}-") for path in Path(folder).glob(f"{arm}-*.json")]
    return [read_record(f"{arm}-{seed}", folder) for seed in sorted(filter(str.isdigit, seeds), key=int)]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean ± standard deviation over seeds, as a table shows them; a single value alone, and "-" for none."""
    if not len(values):
        return "-"
    deviation = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):.{digits}f}{deviation}"


def commit() -> str:
    """The commit the code is at, "+" behind it where files have changed; "unknown" outside a checkout."""
    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True)
        return done.stdout.strip()
    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "facealign_lite", "tools")
        return git("rev-parse", "--short=12", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def describe_device(device: str = "auto") -> str:
    """Processor, threads and torch version, for a record."""
    if _device(device).type == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name}, {torch.get_num_threads()} threads, torch {torch.__version__}"


Arm = Callable[[int, Path], Mapping[str, Any]]


def run_arms(paper: str, arms: Mapping[str, Arm], seeds: Sequence[int], what: str, data: str,
             budget: Mapping[str, Any], folder: str | Path = RESULTS, work: str | Path | None = None,
             device: str = "auto") -> dict[str, dict[str, Any]]:
    """Run every arm with every seed once; what is finished is read, what was killed goes on.

    Args:
        paper: first part of the records' names, ``paper-arm-seed``.
        arms: name -> function of (seed, folder for its checkpoints) that returns the figures; a function that calls
            ``fit(..., TrainConfig(out=folder), resume=True)`` resumes by itself.
        seeds: one run each.
        what, data, budget: what the records shall say; the same for all arms.
        folder: of the records.
        work: of the checkpoints; ``_build/claims`` if None.

    Returns:
        the records by name.

    Raises:
        ValueError: if a record of that name is of another setting: rename the arm or remove the record.
    """
    if not arms or not seeds:
        raise ValueError(f"arms and seeds must not be empty, got {list(arms)} and {list(seeds)}")
    records = {}
    setting = json.loads(json.dumps({"what": what, "data": data, "budget": dict(budget)}, default=_plain))
    for seed in seeds:                                      # all arms of one seed first: an unfinished table is fair
        for arm, run in arms.items():
            name = f"{_name(paper)}-{_name(arm)}-{int(seed)}"
            if (Path(folder) / f"{name}.json").exists():
                record = read_record(name, folder)
                if other := {k: record[k] for k, v in setting.items() if record[k] != v}:
                    raise ValueError(f"record {name!r} is of another setting: {other}, wanted {setting}")
            else:
                place = Path(work or ROOT / "_build" / "claims") / name
                place.mkdir(parents=True, exist_ok=True)
                start = time.perf_counter() - _spent(place)
                try:
                    figures = run(int(seed), place)
                finally:
                    write_atomic(place / "seconds", str(time.perf_counter() - start).encode())
                record = {**setting, "arm": arm, "seeds": [int(seed)], "commit": commit(),
                          "device": describe_device(device), "seconds": round(time.perf_counter() - start, 3),
                          "figures": dict(figures)}
                write_record(name, record, folder)
                record = read_record(name, folder)
            records[name] = record
    return records


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m facealign_lite.evaluation PAPER [ARM ...]``: run arms of ``tools/claims_PAPER.py``, print a table.

    Named arms only, where some are named: several processes can share the work.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    known = sorted(path.stem.removeprefix("claims_") for path in (ROOT / "tools").glob("claims_*.py"))
    if not arguments or arguments[0] not in known:
        print(f"usage: python -m facealign_lite.evaluation PAPER [ARM ...], one of: {' '.join(known)}",
              file=sys.stderr)
        return 2
    sys.path.insert(0, str(ROOT / "tools"))                     # one paper's claims may build on another's
    spec = importlib.util.spec_from_file_location("claims", ROOT / "tools" / f"claims_{arguments[0]}.py")
    claims = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(claims)                         # may look for photos that are not there
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if unknown := set(arguments[1:]) - set(claims.ARMS):
        print(f"error: arm must be one of {' '.join(claims.ARMS)}, got {' '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    arms = {name: claims.ARMS[name] for name in arguments[1:] or claims.ARMS}
    try:
        records = run_arms(arguments[0], arms, claims.SEEDS, claims.WHAT, claims.DATA, claims.BUDGET, RESULTS)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for name, record in records.items():
        print(name, *(f"{key} {value:.4g}" for key, value in record["figures"].items()
                      if isinstance(value, (int, float))))
    return 0


def _spent(place: Path) -> float:
    """Seconds that earlier, interrupted runs took (those that ended by an exception; a kill leaves no note)."""
    try:
        return float((place / "seconds").read_text())
    except (OSError, ValueError):
        return 0.0


def _name(name: str) -> str:
    if not name or name != os.path.basename(name) or name.startswith("."):
        raise ValueError(f"name must be a plain file name, got {name!r}")
    return name


def _plain(value: Any) -> Any:
    """NumPy numbers and arrays, tensors and paths as JSON."""
    if isinstance(value, (np.ndarray, np.generic, Tensor)):
        return value.tolist()
    return str(value)


def _device(device: str) -> torch.device:
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)


if __name__ == "__main__":
    sys.exit(main())
