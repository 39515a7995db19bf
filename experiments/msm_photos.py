"""MSM on the photos of the paper: its tables III to VIII, with data sets that you have.

    make reproduce PAPER=msm DATA=folder

The folder holds the sets as they are published, under the names that ``data.inventory`` looks for: 300w/, menpo/, cofw/
(with COFW68_Data/ in it) and wflw/. An arm needs its own sets only:

    ARMS="300w 300w_pure 300w_hg"    Tables III, IV, V and VIII    needs 300w; menpo and cofw if they are there
    ARMS="wflw wflw_pure wflw_hg"    Tables VI and VII             needs wflw

"300w" is the whole model, "_hg" the hourglass on the given boxes, and "_pure" the whole with a generator that knew no
discriminator, which the paper does not have. Each is measured with and without reconstruction ("rows" and
"not_rebuilt"). At the lite budget networks are small and few steps are taken: that shows that all runs, and no more.
Weights stay in _build/: most of these photos may not be used for weights that are passed on.

What differs from the paper at the gpu budget: both players move once a step; the hourglass learns on crops set upright
by their landmarks and disturbed a little, where the paper crops by the true box; all of Menpo's faces of 68 landmarks
stand in for its "semi-frontal" ones; colour jitter has no figure in the paper.
"""

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.tab_photos import Tests, part, photos, row, w300_tests, wflw_tests
from facealign_lite import msm
from facealign_lite.data import Augmentation, BatchedCrops, Crops, Sample
from facealign_lite.data.readers import SETS
from facealign_lite.evaluation import evaluate
from facealign_lite.msm import network, stgan
from facealign_lite.nets import landmark_loss
from facealign_lite.records import Arm, shared
from facealign_lite.training import TrainConfig, steps

WHAT = "MSM on photos: generator, hourglass and dictionary, trained apart"
# MSM section IV-C, with the 3,148 faces of 300-W: 1,000 epochs halved once after 400, and 300 halved once after 100
GENERATOR_PAPER = TrainConfig(steps=196_750, batch_size=16, lr=5e-4, optimizer="adam", schedule="steps",
                              milestones=(400 / 1000,), factors=(0.5,), warmup=0, weight_decay=0, clip=0)
HOURGLASS_PAPER = replace(GENERATOR_PAPER, steps=59_025, milestones=(100 / 300,))
AUGMENTATION = replace(Augmentation(), rotation=30, scale=(0.9, 1.1), shift=0, flip=0.5, outlier=0, gamma=0.3,
                       contrast=(0.8, 1.2), brightness=0.1, noise=0, inversion=0, light=0, blur=0, motion=0,
                       low_resolution=0, jpeg=0, occluder=0)
BUDGETS = {
    "lite": {"generator_steps": 3000, "generator_lr": 1e-3, "steps": 1200, "lr": 5e-3, "batch_size": 16, "amp": "bf16"},
    "gpu": {"generator_steps": GENERATOR_PAPER.steps, "generator_lr": GENERATOR_PAPER.lr,
            "steps": HOURGLASS_PAPER.steps, "lr": HOURGLASS_PAPER.lr, "batch_size": 16, "amp": "bf16",
            "crops": "batched", "network": "paper"},
}
SEEDS = {"lite": [0], "gpu": [0, 1, 2, 3, 4]}
EXEMPLARS = 500                                    # section IV-C


def place() -> Path:
    """The folder of the photos.

    Raises:
        ValueError: if none is given.
    """
    if not os.environ.get("DATA"):
        raise ValueError("say where the photos are: make reproduce PAPER=msm DATA=folder")
    return Path(os.environ["DATA"])


def data(budget: Mapping[str, Any]) -> str:
    """Which sets lie there, in words."""
    there = [name for name, (folder, _, _) in SETS.items() if (place() / folder).is_dir()]
    return f"photos of {', '.join(there)}" if there else "no photos"


def settings(budget: Mapping[str, Any], device: str, seed: int, prefix: str, out: Path) -> TrainConfig:
    """The run of the generator ("generator_") or of the hourglass ("")."""
    own = {"steps": budget[f"{prefix}steps"], "lr": budget[f"{prefix}lr"], "batch_size": budget["batch_size"],
           "amp": budget["amp"], "seed": seed, "device": device, "out": out, "checkpoint_every": 500}
    if budget.get("network") != "paper":
        return TrainConfig(**own)
    return replace(GENERATOR_PAPER if prefix else HOURGLASS_PAPER, **own)


def shapes(faces: Sequence[Sample]) -> np.ndarray:
    """Landmarks of all faces, (N, K, 2)."""
    return np.stack([face.landmarks for face in faces])


def exemplars(root: Path, faces: Sequence[Sample]) -> msm.ShapeDictionary:
    """Of the training faces, and for 68 landmarks of Menpo's too, if they are there."""
    known, markup = shapes(faces), faces[0].markup
    if markup == "68" and (root / SETS["Menpo 2D"][0]).is_dir():
        known = np.concatenate([known, shapes(photos(root, "Menpo 2D"))])
    return msm.ShapeDictionary.fit(known, min(EXEMPLARS, len(known)), markup)


def arm(budget: Mapping[str, Any], device: str, train: Callable[[Path], Sequence[Sample]], tests: Tests,
        adversarial: float | None) -> Arm:
    """A run of all stages and the rows of its tables.

    Args:
        train: the faces to learn from.
        tests: what is measured.
        adversarial: b of Eq. 5; None: no generator, the hourglass works on the given boxes.
    """
    whole = budget.get("network") == "paper"
    config = network.HEAT_PAPER if whole else network.HEAT_LITE
    kind = BatchedCrops if budget.get("crops") == "batched" else Crops

    def run(seed: int, folder: Path) -> Generator[int, None, Mapping[str, Any]]:
        root = place()
        faces = train(root)
        own, markup = replace(config, landmarks=len(faces[0].landmarks)), faces[0].markup
        mean = msm.mean_face(shapes(faces), markup)

        def crops(other: int) -> Crops | BatchedCrops:
            return kind(faces, own.image_size, AUGMENTATION, other, own.in_channels == 3)
        torch.manual_seed(seed)
        gan = stgan.StGan(stgan.PAPER if whole else stgan.LITE)
        if adversarial is not None:
            out = folder.parent / f"msm_photos-generator-{markup}-{adversarial}-{seed}"
            loss = stgan.stgan_loss(gan, torch.from_numpy(mean), adversarial)
            yield from shared(lambda: steps(gan, crops(seed), loss, settings(budget, device, seed, "generator_", out),
                                            resume=True))
        torch.manual_seed(seed + 1)
        heat, some = network.HeatNet(own), crops(seed + 1000)
        if adversarial is not None:
            some = (msm.StraightBatches if kind is BatchedCrops else msm.StraightCrops)(some, mean, seed=seed)
        yield from steps(heat, some, landmark_loss, settings(budget, device, seed, "", folder), resume=True)
        # a generator that has learnt nothing leaves crops as they are
        generator = gan.generator if adversarial is not None else stgan.Generator(gan.config)
        model = msm.Msm.assemble(generator.cpu(), heat.cpu(), exemplars(root, faces), outline=msm.OUTLINE,
                                 inner=msm.INNER, floor=0.0)
        asked, found = tests(root), {}
        for name in ("rows", "not_rebuilt"):
            found[name] = {test: row(evaluate(model, each, length, device=device))
                           for test, (each, length) in asked.items()}
            model.exemplars = torch.zeros_like(model.exemplars)
        first = next(iter(found["rows"].values()))
        return {"nme": first["nme"], "errors": first["errors"], **found, "train": len(faces),
                "parameters": sum(p.numel() for p in model.parameters())}
    return run


def arms(budget: Mapping[str, Any], device: str = "auto") -> dict[str, Arm]:
    """The runs at a budget."""
    def w300(root: Path) -> Sequence[Sample]:
        return part(photos(root, "300-W"), "train")

    def wflw(root: Path) -> Sequence[Sample]:
        return photos(root, "WFLW train")
    return {f"{name}{end}": arm(budget, device, train, tests, b)
            for name, train, tests in (("300w", w300, w300_tests), ("wflw", wflw, wflw_tests))
            for end, b in (("", stgan.ADVERSARIAL), ("_pure", 0.0), ("_hg", None))}
