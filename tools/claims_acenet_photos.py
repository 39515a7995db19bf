"""ACE-Net on photos that you have: the experiment of claims_acenet.py with a real domain that is real.

    make reproduce PAPER=acenet DATA=folder

The folder holds training and test photos in one of two forms:
    train/ and test/, folders with 68-point .pts files beside their images (300-W), or
    train.csv and val.csv, tables of 68 landmarks as ``data.read_csv`` takes them.
If it also holds helen/annotation and helen/images (194 landmarks), the test is on these, as in the paper.
Weights stay in _build/: some of these photos may not be used for weights that are passed on.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import claims_acenet as claims

from facealign_lite import acenet
from facealign_lite.data import PackedFaces, read_300w, read_csv, read_helen, save_packed
from facealign_lite.synthetic import SyntheticFaces

WHAT = "ACE-Net and its baselines, trained on photos with 68 landmarks and on rendered faces, tested on photos"
SEEDS = claims.SEEDS
BUDGET = claims.BUDGET
FACES, SEED = 4000, 41
if not os.environ.get("DATA"):
    raise ValueError("say where the photos are: make reproduce PAPER=acenet DATA=folder")
FOLDER = Path(os.environ["DATA"])


def photos(folder: Path) -> tuple[Sequence[Any], Sequence[Any], str]:
    """Training samples, test samples, and what they are."""
    if (folder / "train.csv").exists():
        train, test = read_csv(folder / "train.csv"), read_csv(folder / "val.csv")
    else:
        train, test = read_300w(folder / "train"), read_300w(folder / "test")
    words = f"{len(train)} photos of 68 landmarks"
    if (folder / "helen").exists():
        test = read_helen(folder / "helen" / "annotation", folder / "helen" / "images")
    return train, test, f"{words}; {FACES} rendered faces; test on {len(test)} photos of {test[0].markup} landmarks"


TRAIN, TEST, DATA = photos(FOLDER)


def rendered(folder: Path) -> PackedFaces:
    """The rendered half."""
    path = folder / f"acenet_rendered_{claims.SIZE}_{FACES}_{SEED}"
    try:
        return PackedFaces(path)
    except OSError:
        return save_packed(path, SyntheticFaces(FACES, claims.SIZE, SEED), workers=2, progress=True)


def arm(loss: Callable, photos_too: bool = True, faces_too: bool = True) -> Callable:
    """A run on photos, rendered faces or half of each, measured on photos."""
    def run(seed: int, folder: Path) -> Mapping[str, Any]:
        faces = rendered(folder.parent)
        sets = TRAIN if photos_too else faces, faces if faces_too else TRAIN
        model = claims.train(seed, folder, loss, *sets)
        return claims.score(claims.reader(model.eval(), TEST), TEST)
    return run


ARMS = {
    "ace": arm(acenet.ace_loss()),
    "line": arm(acenet.lines_loss(), faces_too=False),
    "line_star": arm(acenet.lines_loss(exact="synthetic")),
    "rendered_only": arm(acenet.lines_loss(exact="always"), photos_too=False),
}
