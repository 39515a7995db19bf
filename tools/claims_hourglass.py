"""How much augmentation is worth to the hourglass baseline.

    make claims PAPER=hourglass

Arms: crops varied in everything, in placement only, and not at all. Same faces, steps and test faces for all.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from facealign_lite.data import Augmentation, Crops, PackedFaces, save_packed
from facealign_lite.evaluation import benchmark, evaluate
from facealign_lite.nets import LITE, StackedHourglass, landmark_loss
from facealign_lite.synthetic import SyntheticFaces
from facealign_lite.training import TrainConfig, fit

WHAT = "augmentation of the lite hourglass, trained and tested on rendered faces"
DATA = "SyntheticFaces(3000, seed=2), tested on the benchmark"
SEEDS = [0]
BUDGET = {"steps": 800, "batch_size": 32}

FACES, FACE_SIZE, FACE_SEED = 3000, 160, 2
FULL = Augmentation()
PLACEMENT = replace(FULL, gamma=0, contrast=(1, 1), brightness=0, noise=0, colour=0, inversion=0, light=0, blur=0,
                    motion=0, low_resolution=0, jpeg=0, occluder=0)


def arm(augment: Augmentation | None) -> Any:
    """A run with that augmentation."""
    def run(seed: int, folder: Path) -> dict[str, Any]:
        torch.manual_seed(seed)
        model = StackedHourglass(LITE)
        config = TrainConfig(**BUDGET, seed=seed, checkpoint_every=100, out=folder)
        fit(model, Crops(faces(folder.parent), LITE.image_size, augment, seed), landmark_loss, config, resume=True)
        result = evaluate(model, benchmark(FACE_SIZE))
        return result.figures() | {"subsets": result.subsets(), "errors": result.errors.round(6)}
    return run


def faces(folder: Path) -> PackedFaces:
    """The training faces, rendered once for all arms."""
    path = folder / f"faces{FACE_SEED}_{FACE_SIZE}_{FACES}"
    try:
        return PackedFaces(path)
    except OSError:
        return save_packed(path, SyntheticFaces(FACES, FACE_SIZE, FACE_SEED), workers=2, progress=True)


ARMS = {"all": arm(FULL), "placement": arm(PLACEMENT), "none": arm(None)}
