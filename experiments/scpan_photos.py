"""SCPAN on photos that you have: does self-calibration carry a network to them from rendered faces, and Table I.

    make reproduce PAPER=scpan DATA=folder
    make reproduce PAPER=scpan DATA=folder ARMS="table_shn table_bali table_scpa table_scpan" OPTIONS="--budget paper"

The folder holds training and test photos: train.csv and val.csv, tables of 68 landmarks as ``data.read_csv`` takes
them, or train/ and test/, folders with 68-point .pts files beside their images (300-W). The arms of Table I learn from
the training photos and their labels, at the budget "paper" as long as the paper's did, with networks of its size. The
others learn from rendered faces, and are given the training photos without their labels, but for the box around them.
Weights stay in _build/: some of these photos may not be used for weights that are passed on.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from experiments import scpan as rendered
from facealign_lite import scpan
from facealign_lite.data import Augmentation, Crops, read_300w, read_csv
from facealign_lite.evaluation import evaluate
from facealign_lite.nets import parameter_count
from facealign_lite.records import Arm
from facealign_lite.training import reestimate_normalization

WHAT = "lite SCPAN of two stages on labelled pairs of rendered faces and unlabelled pairs, tested on photos"
BUDGETS, SEEDS, PAPER = rendered.BUDGETS, rendered.SEEDS, rendered.PAPER
# photos differ in light and sharpness, so here labelled faces do, too
AUGMENTATION = replace(Augmentation(), rotation=15, scale=(0.95, 1.2), outlier=0, inversion=0, occluder=0)


@lru_cache(1)
def photos(folder: str) -> tuple[Sequence[Any], Sequence[Any]]:
    """Photos to learn from, and to test on."""
    place = Path(folder)
    if (place / "train").is_dir() and not (place / "train.csv").exists():
        return read_300w(place / "train"), read_300w(place / "test")
    return read_csv(place / "train.csv"), read_csv(place / "val.csv")


def data(budget: Mapping[str, Any]) -> str:
    """Faces and photos, in words."""
    train, test = photos(os.environ.get("DATA") or ".")
    faces = rendered.words(budget).split(", tested")[0]
    return f"{faces} with labels; {len(train)} photos without; test on {len(test)} photos"


def arms(budget: Mapping[str, Any], device: str = "auto") -> dict[str, Arm]:
    """The runs at a budget."""
    config = rendered.lite(budget, **rendered.TWO)

    def arm(unlabelled: str | None, share: float = 1.0, eta: float = 1.0) -> Arm:
        """All rendered faces with labels, and half a step of ``unlabelled`` pairs, "photos", "rendered" or None.

        The figures with "adapted" before them are of the same weights, with batch-norm statistics of the photos (also
        without labels): what that alone is worth, calibration must beat.
        """
        def run(seed: int, folder: Path) -> Mapping[str, Any]:
            train, test = photos(os.environ.get("DATA") or ".")
            faces, own_test = (rendered.pack(folder.parent, name, budget) for name in ("train", "test"))
            loss = scpan.scpan_loss(config, unlabelled=eta)
            others = {"photos": train, "rendered": faces, None: None}[unlabelled]
            model = yield from rendered.train(budget, device, seed, folder, config, loss, faces, others, share,
                                              AUGMENTATION)
            on_photos = evaluate(model, test, device=device)
            own = evaluate(model, own_test, device=device).figures()
            reestimate_normalization(model, Crops(train, config.image_size, AUGMENTATION, seed), epoch=1_000_000)
            adapted = evaluate(model, test, device=device)
            kept = ("nme", "failures", "auc")
            return on_photos.figures() | {f"rendered_{name}": own[name] for name in kept} | {
                f"adapted_{name}": adapted.figures()[name] for name in kept} | {
                "pairs": rendered.pairs_of(budget, share), "errors": on_photos.errors.round(6),
                "adapted_errors": adapted.errors.round(6)}
        return run

    def table(parts: Mapping[str, Any], weights: scpan.Weights = scpan.WEIGHTS) -> Arm:
        """A row of Table I: labelled photos and their twins, four stages."""
        def run(seed: int, folder: Path) -> Mapping[str, Any]:
            train, test = photos(os.environ.get("DATA") or ".")
            own = rendered.lite(budget, **parts)
            loss = scpan.scpan_loss(own, weights, labelled_count=rendered.pairs_of(budget), per_landmark=True)
            model = yield from rendered.train(budget, device, seed, folder, own, loss, train, augmentation=AUGMENTATION)
            found = evaluate(model, test, device=device)
            return found.figures() | {"errors": found.errors.round(6), "parameters": parameter_count(model)}
        return run
    uncalibrated = rendered.uncalibrated()
    return {"photos": arm("photos"), "labels_half": arm(None, 0.5), "labels": arm(None), "rendered": arm("rendered"),
            "photos_eta": arm("photos", eta=4.0),
            "table_shn": table(rendered.SHN, uncalibrated), "table_bali": table({"attention": False}, uncalibrated),
            "table_scpa": table({"bali": False}), "table_scpan": table({})}
