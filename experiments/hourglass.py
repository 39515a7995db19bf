"""How much augmentation is worth to the hourglass baseline.

    make claims PAPER=hourglass

Arms: crops varied in everything, in placement only, and not at all. Same faces, steps and test faces for all.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from experiments.faces import FACE_SIZE, cut, pack, words
from facealign_lite.data import Augmentation
from facealign_lite.evaluation import benchmark, evaluate
from facealign_lite.nets import LITE, StackedHourglass, landmark_loss
from facealign_lite.records import Arm
from facealign_lite.training import TrainConfig, steps

WHAT = "augmentation of the lite hourglass, trained and tested on rendered faces"
BUDGETS = {"lite": {"steps": 800, "batch_size": 32},
           "gpu": {"steps": 12_000, "batch_size": 64, "faces": 12_000, "crops": "batched"}}
SEEDS = {"lite": [0], "gpu": [0, 1, 2, 3, 4]}

FULL = Augmentation()
PLACEMENT = replace(FULL, gamma=0, contrast=(1, 1), brightness=0, noise=0, colour=0, inversion=0, light=0, blur=0,
                    motion=0, low_resolution=0, jpeg=0, occluder=0)


def data(budget: Mapping[str, Any]) -> str:
    """The faces, in words."""
    return words(budget, "the benchmark")


def arms(budget: Mapping[str, Any], device: str = "auto") -> dict[str, Arm]:
    """The runs at a budget."""
    def arm(augment: Augmentation | None) -> Arm:
        def run(seed: int, folder: Path) -> dict[str, Any]:
            torch.manual_seed(seed)
            model = StackedHourglass(LITE)
            config = TrainConfig(budget["steps"], budget["batch_size"], seed=seed, checkpoint_every=100, out=folder,
                                 device=device)
            faces = pack(folder.parent, "train", budget)
            yield from steps(model, cut(budget, faces, LITE.image_size, augment, seed), landmark_loss, config,
                             resume=True)
            result = evaluate(model, benchmark(FACE_SIZE), device=device)
            return result.figures() | {"subsets": result.subsets(), "errors": result.errors.round(6)}
        return run
    return {"all": arm(FULL), "none": arm(None), "placement": arm(PLACEMENT)}
