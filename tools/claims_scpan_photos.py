"""Does self-calibration carry a network from rendered faces to photos? C11 with photos that you have.

    make reproduce PAPER=scpan DATA=folder

The folder holds train.csv and val.csv, tables of 68 landmarks as ``data.read_csv`` takes them. The photos of train.csv
are given without their labels, but for the box around them; the test is on those of val.csv.
Weights stay in _build/: some of these photos may not be used for weights that are passed on.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import claims_scpan as claims

from facealign_lite import scpan
from facealign_lite.data import Augmentation, Crops, read_csv
from facealign_lite.evaluation import evaluate
from facealign_lite.training import reestimate_normalization

FOLDER = Path(os.environ.get("DATA") or ".")
TRAIN, TEST = read_csv(FOLDER / "train.csv"), read_csv(FOLDER / "val.csv")
WHAT = "lite SCPAN of two stages on labelled pairs of rendered faces and unlabelled pairs, tested on photos"
DATA = f"SyntheticFaces(3000, seed=2) with labels; {len(TRAIN)} photos without; test on {len(TEST)} photos"
SEEDS = claims.SEEDS
BUDGET = claims.BUDGET
CONFIG = claims.lite(**claims.TWO)
# photos differ in light and sharpness, so here labelled faces do, too
AUGMENTATION = replace(Augmentation(), rotation=15, scale=(0.95, 1.2), outlier=0, inversion=0, occluder=0)


def arm(unlabelled: str | None, pairs: int = BUDGET["pairs_a_step"], eta: float = 1.0) -> Callable:
    """A run on all rendered faces with labels and half a step of ``unlabelled`` pairs, "photos", "rendered" or None.

    The figures with "adapted" before them are of the same weights, with batch-norm statistics of the photos (also
    without labels): what that alone is worth, calibration must beat.
    """
    def run(seed: int, folder: Path) -> Mapping[str, Any]:
        faces, loss = claims.pack(folder.parent, "train"), scpan.scpan_loss(CONFIG, unlabelled=eta)
        others = {"photos": TRAIN, "rendered": faces, None: None}[unlabelled]
        model = claims.train(seed, folder, CONFIG, loss, faces, others, pairs, AUGMENTATION)
        found = evaluate(model, TEST).figures()
        rendered = evaluate(model, claims.pack(folder.parent, "test")).figures()
        reestimate_normalization(model, Crops(TRAIN, CONFIG.image_size, AUGMENTATION, seed), epoch=1_000_000)
        adapted = evaluate(model, TEST).figures()
        return found | {f"rendered_{name}": rendered[name] for name in ("nme", "failures", "auc")} | {
            f"adapted_{name}": adapted[name] for name in ("nme", "failures", "auc")} | {"pairs": pairs}
    return run


ARMS = {"labels": arm(None), "labels_half": arm(None, BUDGET["pairs_a_step"] // 2), "rendered": arm("rendered"),
        "photos": arm("photos"), "photos_eta": arm("photos", eta=4.0)}
