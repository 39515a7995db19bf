"""SCPAN's claims C10 to C14: boundary fields, pose attention, calibrated pairs, with and without labels.

    make claims PAPER=scpan

The paper trains at 256 pixels for 200,000 iterations. Here crops of 64 pixels and twins that are turned and shrunk half
as much let a few minutes teach something. What came out decided little, for the lengths of the fields were those of
larger maps: see ``experiments.scpan_shares``.
All arms see pictures and twins, so that the baseline, too, learns from disturbed faces: what is compared is what is
made of them. Every figure comes with those of the subsets pose, occlusion, blur and expression.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from experiments.faces import cut, pack, words
from facealign_lite import scpan
from facealign_lite.data import Augmentation, Further, Halves
from facealign_lite.evaluation import Evaluation, evaluate
from facealign_lite.nets import Reading, parameter_count, read_maps
from facealign_lite.records import Arm
from facealign_lite.training import TrainConfig, steps

WHAT = "lite SCPAN and what it is made of, trained on pairs of rendered faces"
BUDGETS = {
    "lite": {"image_size": 64, "turn": 30, "scale": [0.75, 1.0], "steps": 700, "lr": 6e-3, "pairs_a_step": 4,
             "amp": "bf16"},
    # maps four times as large; the paper: 256 pixels, turns of 60 degrees, 200,000 iterations
    "gpu": {"image_size": 128, "turn": 30, "scale": [0.75, 1.0], "steps": 20_000, "lr": 3e-3, "pairs_a_step": 16,
            "amp": "bf16", "faces": 12_000, "crops": "batched"},
}
SEEDS = {"lite": [0, 1, 2], "gpu": [0, 1, 2, 3, 4]}
# The paper's own training, for who has its photos and cards: ``--budget paper`` of ``scpan_photos``. Optimiser, batch
# and precision are ours, it gives none.
PAPER = {"image_size": 256, "network": "paper", "turn": 60, "scale": [0.5, 1.0], "steps": 200_000, "lr": 2.5e-4,
         "schedule": "steps", "milestones": [0.05, 0.2, 0.5], "factors": [0.2, 0.5, 0.5],     # at 10, 40, 100 thousand
         "warmup": 0.0, "optimizer": "adam", "weight_decay": 0.0, "clip": 0.0, "pairs_a_step": 16, "amp": "bf16",
         "workers": 8}
SETTINGS = ("schedule", "milestones", "factors", "warmup", "optimizer", "weight_decay", "clip", "workers")
data = words

FEW = 20                        # faces with labels where most have none
# placement and tone; what else may befall a picture befalls its twin
AUGMENTATION = replace(Augmentation(), rotation=15, scale=(0.95, 1.2), outlier=0, gamma=0.5, contrast=(0.8, 1.2),
                       brightness=0.1, noise=0.02, inversion=0, light=0, blur=0, motion=0, low_resolution=0, jpeg=0,
                       occluder=0)

# lengths on the small maps of the lite budget as they were when its runs were recorded: as if for maps of 128
RECORDED = {"radius": 5, "decode_radius": 3, "reach": 1.5, "within": 5, "sigma": 1.5, "sigma_earlier": None}
SHN = {"bali": False, "attention": False}
ONLY = scpan.Weights(last=1, field=0, coordinates=0, earlier=0, calibrated=0)


def lite(budget: Mapping[str, Any], **parts: Any) -> scpan.ScpanConfig:
    """The lite network at a budget's size, or the paper's where the budget says so, but for those ``parts``."""
    if budget.get("network") == "paper":
        return replace(scpan.PAPER, **parts)
    config = scpan.LITE.scaled(budget["image_size"])
    return replace(config, **(RECORDED if config.image_size == BUDGETS["lite"]["image_size"] else {}) | parts)


def train(budget: Mapping[str, Any], device: str, seed: int, folder: Path, config: scpan.ScpanConfig, loss: Callable,
          labelled: Sequence[Any], unlabelled: Sequence[Any] | None = None, share: float = 1.0,
          augmentation: Augmentation = AUGMENTATION) -> Generator[int, None, scpan.Scpan]:
    """One run on pairs of labelled faces, or half and half with unlabelled ones; ``share`` of a step's pairs."""
    torch.manual_seed(seed)
    model = scpan.Scpan(config)
    halves = [cut(budget, faces, config.image_size, augmentation, 2 * seed + k, config.in_channels == 3)
              for k, faces in enumerate((labelled, unlabelled)) if faces is not None]
    items = pairs_of(budget, share)
    spread = {name: budget[name] for name in ("turn", "scale", "shift") if name in budget}
    if budget.get("crops") == "batched":
        items //= len(halves)                           # an item is a pair of each kind
        flag = "unlabelled" if len(halves) == 2 else None
        twins = scpan.Twins(**spread, unlabelled=flag)
        pairs = Further(Halves(*halves, flag) if flag else halves[0], twins.count, twins, seed)
    else:
        pairs = scpan.Pairs(*halves, seed=seed, **spread)
    settings = TrainConfig(budget["steps"], items, budget["lr"], amp=budget["amp"], seed=seed, checkpoint_every=100,
                           out=folder, device=device, **{name: budget[name] for name in SETTINGS if name in budget})
    yield from steps(model, pairs, loss, settings, resume=True)
    return model


def pairs_of(budget: Mapping[str, Any], share: float = 1.0) -> int:
    """Pairs in a step."""
    return max(1, round(budget["pairs_a_step"] * share))


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


def arm(budget: Mapping[str, Any], device: str = "auto", parts: Mapping[str, Any] | None = None,
        weights: scpan.Weights = scpan.WEIGHTS, few: bool = False, unlabelled: bool = False, eta: float = 1.0,
        share: float = 1.0, **options: Any) -> Arm:
    """A run, measured on the benchmark.

    Args:
        parts: fields of ``scpan.ScpanConfig`` that differ from the lite one.
        weights, options: of ``scpan.scpan_loss``.
        few: labels for ``FEW`` faces only.
        unlabelled: the other faces without labels, half of each step, with the weight ``eta``.
        share: of the pairs of a step that are taken.
    """
    def run(seed: int, folder: Path) -> Mapping[str, Any]:
        config = lite(budget, **parts or {})
        faces, test = (pack(folder.parent, name, budget) for name in ("train", "test"))
        labelled = Subset(faces, range(FEW)) if few else faces
        others = Subset(faces, range(FEW, len(faces))) if unlabelled else None
        pairs, batched = pairs_of(budget, share), budget.get("crops") == "batched"
        known = (pairs // 2 if batched else None) if unlabelled else pairs
        loss = scpan.scpan_loss(config, weights, unlabelled=eta, labelled_count=known, **options)
        model = yield from train(budget, device, seed, folder, config, loss, labelled, others, share)
        unvoted = evaluate(Unvoted(model), test, device=device).errors
        return figures(evaluate(model, test, device=device)) | {
            "nme_unvoted": round(float(unvoted.mean()), 6), "errors_unvoted": unvoted.round(6),
            "parameters": parameter_count(model), "pairs": pairs_of(budget, share)}
    return run


def uncalibrated(weights: scpan.Weights = scpan.WEIGHTS) -> scpan.Weights:
    """Pictures and twins learn from their labels alone."""
    return replace(weights, calibrated=0)


TWO = {"stages": 2}             # one SCPA model and the last hourglass: of C12's two it learns more in these few steps


def arms(budget: Mapping[str, Any], device: str = "auto") -> dict[str, Arm]:
    """The runs at a budget, the most important first."""
    def one(*some: Any, **more: Any) -> Arm:
        return arm(budget, device, *some, **more)
    return {
        # C10 with two stages, and C12
        "shn_2": one(SHN | TWO, uncalibrated()), "scpan_2": one(TWO),
        "bali_2": one({"attention": False} | TWO, uncalibrated()), "scpa_2": one({"bali": False} | TWO),
        # C10, with four stages as in the paper
        "shn": one(SHN, uncalibrated()), "scpan": one(),
        "bali": one({"attention": False}, uncalibrated()), "scpa": one({"bali": False}),
        # C11: with few labels; and, beside it, as many labelled pairs a step as where unlabelled ones share it
        "few_half": one(TWO, few=True, share=0.5), "semi": one(TWO, few=True, unlabelled=True),
        "few": one(TWO, few=True), "semi_eta": one(TWO, few=True, unlabelled=True, eta=4.0),
        # C13, Table VIII: last maps; earlier ones and calibration; field; with coordinates it is "scpan_2". Not in
        # the table: without calibration; and with all votes and coordinates heard, as printed
        "terms_last": one(TWO, ONLY), "terms_earlier": one(TWO, replace(ONLY, earlier=4, calibrated=4)),
        "terms_field": one(TWO, replace(scpan.WEIGHTS, coordinates=0)),
        "terms_uncalibrated": one(TWO, uncalibrated()), "terms_printed": one(TWO, within=None, reach=None),
        # C14
        "ged": one(TWO, shape="ged"), "student_t": one(TWO, shape="student_t"),
    }
