"""SCPAN's claims C10 to C14: boundary fields, pose attention, calibrated pairs, with and without labels.

    make claims PAPER=scpan

The paper trains at 256 pixels and does not say for how long. Here crops of 64 pixels and twins that are turned and
shrunk half as much let a few minutes teach something.
All arms see pictures and twins, so that the baseline, too, learns from disturbed faces: what is compared is what is
made of them. Every figure comes with those of the subsets pose, occlusion, blur and expression.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from shared_faces import pack
from torch import Tensor, nn
from torch.utils.data import Subset

from facealign_lite import scpan
from facealign_lite.data import Augmentation, Crops
from facealign_lite.evaluation import Evaluation, evaluate
from facealign_lite.nets import Reading, parameter_count, read_maps
from facealign_lite.training import TrainConfig, fit

WHAT = "lite SCPAN and what it is made of, trained on pairs of rendered faces"
DATA = "SyntheticFaces(3000, seed=2), tested on the first 600 faces of the benchmark"
SEEDS = [0, 1, 2]
BUDGET = {"image_size": 64, "turn": 30, "scale": [0.75, 1.0], "steps": 700, "lr": 6e-3, "pairs_a_step": 4,
          "amp": "bf16"}

FEW = 20                        # faces with labels where most have none
# placement and tone; what else may befall a picture befalls its twin
AUGMENTATION = replace(Augmentation(), rotation=15, scale=(0.95, 1.2), outlier=0, gamma=0.5, contrast=(0.8, 1.2),
                       brightness=0.1, noise=0.02, inversion=0, light=0, blur=0, motion=0, low_resolution=0, jpeg=0,
                       occluder=0)

SHN = {"bali": False, "attention": False}
ONLY = scpan.Weights(last=1, field=0, coordinates=0, earlier=0, calibrated=0)


def lite(**parts: Any) -> scpan.ScpanConfig:
    """The lite network at this budget's size, but for those ``parts``."""
    return replace(scpan.LITE, image_size=BUDGET["image_size"], **parts)


def train(seed: int, folder: Path, config: scpan.ScpanConfig, loss: Callable, labelled: Sequence[Any],
          unlabelled: Sequence[Any] | None = None, pairs: int = BUDGET["pairs_a_step"],
          augmentation: Augmentation = AUGMENTATION) -> scpan.Scpan:
    """One run on pairs of labelled faces, or half and half with unlabelled ones."""
    torch.manual_seed(seed)
    model = scpan.Scpan(config)
    halves = [None if faces is None else Crops(faces, config.image_size, augmentation, 2 * seed + k)
              for k, faces in enumerate((labelled, unlabelled))]
    settings = TrainConfig(BUDGET["steps"], pairs, BUDGET["lr"], amp=BUDGET["amp"], seed=seed, checkpoint_every=100,
                           out=folder)
    fit(model, scpan.Pairs(*halves, seed=seed, turn=BUDGET["turn"], scale=BUDGET["scale"]), loss, settings, resume=True)
    return model


class Unvoted(nn.Module):
    """The last heatmaps of a SCPAN as logits, to be read by soft-argmax: what votes cost or gain on the same maps."""

    inputs = ("image",)

    def __init__(self, model: scpan.Scpan):
        super().__init__()
        self.model, self.config = model, model.config

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, K, S/2, S/2)."""
        heat = self.model(images).heatmaps[-1]
        return heat.clamp(min=torch.finfo(heat.dtype).tiny).log()

    def read(self, outputs: Tensor, mirrored: bool = False) -> Reading:
        """See ``nets.reading``."""
        return read_maps(outputs, self.config.image_size, mirrored=mirrored)


def figures(result: Evaluation) -> dict[str, Any]:
    """Of all faces and of every subset, and the error of each face."""
    subsets = {name: row["nme"] for name, row in result.subsets().items()}
    return result.figures() | {"subsets": subsets, "errors": np.round(result.errors, 6)}


def arm(parts: Mapping[str, Any] | None = None, weights: scpan.Weights = scpan.WEIGHTS, few: bool = False,
        unlabelled: bool = False, eta: float = 1.0, pairs: int = BUDGET["pairs_a_step"], **options: Any) -> Callable:
    """A run, measured on the benchmark.

    Args:
        parts: fields of ``scpan.ScpanConfig`` that differ from the lite one.
        weights, options: of ``scpan.scpan_loss``.
        few: labels for ``FEW`` faces only.
        unlabelled: the other faces without labels, half of each step, with the weight ``eta``.
        pairs: in a step.
    """
    def run(seed: int, folder: Path) -> Mapping[str, Any]:
        config, faces, test = lite(**parts or {}), pack(folder.parent, "train"), pack(folder.parent, "test")
        labelled = Subset(faces, range(FEW)) if few else faces
        others = Subset(faces, range(FEW, len(faces))) if unlabelled else None
        loss = scpan.scpan_loss(config, weights, unlabelled=eta, **options)
        model = train(seed, folder, config, loss, labelled, others, pairs)
        unvoted = round(float(evaluate(Unvoted(model), test).errors.mean()), 6)
        return figures(evaluate(model, test)) | {"nme_unvoted": unvoted, "parameters": parameter_count(model),
                                                 "pairs": pairs}
    return run


def uncalibrated(weights: scpan.Weights = scpan.WEIGHTS) -> scpan.Weights:
    """Pictures and twins learn from their labels alone."""
    return replace(weights, calibrated=0)


TWO = {"stages": 2}             # one SCPA model and the last hourglass: of C12's two it learns more in these few steps

ARMS = {
    # C10, with four stages as in the paper
    "shn": arm(SHN, uncalibrated()), "bali": arm({"attention": False}, uncalibrated()),
    "scpa": arm({"bali": False}), "scpan": arm(),
    # C12; and C10 again with two stages
    "scpan_2": arm(TWO), "shn_2": arm(SHN | TWO, uncalibrated()),
    "bali_2": arm({"attention": False} | TWO, uncalibrated()), "scpa_2": arm({"bali": False} | TWO),
    # C11: with few labels; and, beside it, as many labelled pairs a step as where unlabelled ones share it
    "few": arm(TWO, few=True), "few_half": arm(TWO, few=True, pairs=BUDGET["pairs_a_step"] // 2),
    "semi": arm(TWO, few=True, unlabelled=True), "semi_eta": arm(TWO, few=True, unlabelled=True, eta=4.0),
    # C13, Table VIII: last maps; earlier ones and calibration; field; with coordinates it is "scpan_2". Not in the
    # table: without calibration; and with all votes and coordinates heard, as printed
    "terms_last": arm(TWO, ONLY), "terms_earlier": arm(TWO, replace(ONLY, earlier=4, calibrated=4)),
    "terms_field": arm(TWO, replace(scpan.WEIGHTS, coordinates=0)),
    "terms_uncalibrated": arm(TWO, uncalibrated()), "terms_printed": arm(TWO, within=None, reach=None),
    # C14
    "ged": arm(TWO, shape="ged"), "student_t": arm(TWO, shape="student_t"),
}
