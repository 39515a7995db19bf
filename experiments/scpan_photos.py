"""Does self-calibration carry a network from rendered faces to photos? C11 with photos that you have.

    make reproduce PAPER=scpan DATA=folder

The folder holds train.csv and val.csv, tables of 68 landmarks as ``data.read_csv`` takes them. The photos of train.csv
are given without their labels, but for the box around them; the test is on those of val.csv.
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
from facealign_lite.data import Augmentation, Crops, read_csv
from facealign_lite.evaluation import evaluate
from facealign_lite.records import Arm
from facealign_lite.training import reestimate_normalization

WHAT = "lite SCPAN of two stages on labelled pairs of rendered faces and unlabelled pairs, tested on photos"
BUDGETS, SEEDS = rendered.BUDGETS, rendered.SEEDS
# photos differ in light and sharpness, so here labelled faces do, too
AUGMENTATION = replace(Augmentation(), rotation=15, scale=(0.95, 1.2), outlier=0, inversion=0, occluder=0)


@lru_cache(1)
def photos(folder: str) -> tuple[Sequence[Any], Sequence[Any]]:
    """Photos to learn from without their labels, and to test on."""
    return read_csv(Path(folder) / "train.csv"), read_csv(Path(folder) / "val.csv")


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
    return {"photos": arm("photos"), "labels_half": arm(None, 0.5), "labels": arm(None), "rendered": arm("rendered"),
            "photos_eta": arm("photos", eta=4.0)}
