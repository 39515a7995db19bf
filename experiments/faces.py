"""The rendered faces that the experiments of several papers train and are tested on."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from facealign_lite.data import Augmentation, BatchedCrops, Crops, PackedFaces, save_packed
from facealign_lite.evaluation import benchmark
from facealign_lite.records import lock
from facealign_lite.synthetic import SyntheticFaces

FACES, FACE_SIZE, FACE_SEED, TEST_FACES = 3000, 160, 2, 600


def pack(folder: Path, name: str, budget: Mapping[str, Any] | None = None) -> PackedFaces:
    """"train" or "test" faces, rendered by the first arm that asks for them, read by all others.

    Args:
        budget: its ``faces`` is the number of training faces, its ``face_size`` the side of a picture.
    """
    budget = budget or {}
    size, train = budget.get("face_size", FACE_SIZE), name == "train"
    count = budget.get("faces", FACES) if train else TEST_FACES
    path = folder / (f"faces{FACE_SEED}_{size}_{count}" if train else f"benchmark_{size}_{count}")
    return packed(path, lambda: SyntheticFaces(count, size, FACE_SEED) if train else benchmark(size, count))


def packed(path: Path, faces: Callable[[], Sequence[Any]]) -> PackedFaces:
    """The faces packed at ``path``, rendered now if nobody has before; another process that wants them waits."""
    with lock(path.with_name(f"{path.name}.rendering"), wait=True):
        try:
            return PackedFaces(path)
        except OSError:
            made = faces()
            workers = min(16, os.cpu_count() or 1) if len(made) > 100 else 0             # a few are not worth starting
            return save_packed(path, made, workers=workers, progress=True)


def cut(budget: Mapping[str, Any], faces: Sequence[Any], size: int, augment: Augmentation | None, seed: int,
        colour: bool = False) -> Crops | BatchedCrops:
    """Training crops: one at a time, or a whole batch at once on the device where the budget says "crops": "batched".

    Both have the same distributions, but other draws; so a budget keeps to one of them.
    """
    kind = {"batched": BatchedCrops, "single": Crops}[budget.get("crops", "single")]
    return kind(faces, size, augment, seed, colour=colour)


def words(budget: Mapping[str, Any], test: str = "the first 600 faces of the benchmark") -> str:
    """What a record says of these faces."""
    return f"SyntheticFaces({budget.get('faces', FACES)}, seed={FACE_SEED}), tested on {test}"
