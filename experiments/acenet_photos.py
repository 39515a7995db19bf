"""ACE-Net on photos that you have: the experiment of experiments/acenet.py with a real domain that is real.

    make reproduce PAPER=acenet DATA=folder

The folder holds training and test photos in one of two forms:
    train/ and test/, folders with 68-point .pts files beside their images (300-W), or
    train.csv and val.csv, tables of 68 landmarks as ``data.read_csv`` takes them.
If it also holds helen/annotation and helen/images (194 landmarks), the test is on these, as in the paper. Its contours
drawn by hand (GT68-line, -interp) are not here: they take HELEN's photos with 68 landmarks too.
Weights stay in _build/: some of these photos may not be used for weights that are passed on.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from experiments import acenet as rendered
from experiments.faces import packed
from facealign_lite import acenet
from facealign_lite.data import PackedFaces, read_300w, read_csv, read_helen
from facealign_lite.records import Arm
from facealign_lite.synthetic import SyntheticFaces

WHAT = "ACE-Net and its baselines, trained on photos with 68 landmarks and on rendered faces, tested on photos"
BUDGETS, SEEDS = rendered.BUDGETS, rendered.SEEDS
FACES, SEED = 4000, 41


@lru_cache(1)
def photos(folder: str) -> tuple[Sequence[Any], Sequence[Any]]:
    """Training samples and test samples.

    Raises:
        ValueError: if no folder is given.
    """
    if not folder:
        raise ValueError("say where the photos are: make reproduce PAPER=acenet DATA=folder")
    place = Path(folder)
    if (place / "train.csv").exists():
        train, test = read_csv(place / "train.csv"), read_csv(place / "val.csv")
    else:
        train, test = read_300w(place / "train"), read_300w(place / "test")
    if (place / "helen").exists():
        test = read_helen(place / "helen" / "annotation", place / "helen" / "images")
    return train, test


def data(budget: Mapping[str, Any]) -> str:
    """Photos and faces, in words."""
    train, test = photos(os.environ.get("DATA", ""))
    return (f"{len(train)} photos of 68 landmarks; {budget.get('faces', FACES)} rendered faces; "
            f"test on {len(test)} photos of {test[0].markup} landmarks")


def faces_of(folder: Path, budget: Mapping[str, Any]) -> PackedFaces:
    """The rendered half."""
    count, size = budget.get("faces", FACES), budget.get("face_size", rendered.SIZE)
    return packed(folder / f"acenet_rendered_{size}_{count}_{SEED}", lambda: SyntheticFaces(count, size, SEED))


def arms(budget: Mapping[str, Any], device: str = "auto") -> dict[str, Arm]:
    """The runs at a budget."""
    def arm(loss: Callable, photos_too: bool = True, faces_too: bool = True, landmarks: bool = False) -> Arm:
        """On photos, rendered faces or half of each; measured on photos."""
        def run(seed: int, folder: Path) -> Mapping[str, Any]:
            train, test = photos(os.environ.get("DATA", ""))
            faces = faces_of(folder.parent, budget)
            sets = train if photos_too else faces, faces if faces_too else train
            model = yield from rendered.train(budget, device, seed, folder, loss, *sets, landmarks)
            return rendered.score(rendered.reader(model.eval(), test, landmarks), test)
        return run
    two = rendered.two_domains(budget)
    own, sparse = {"config": two["config"]}, rendered.SPARSE
    return {                                                                    # Table 1, then Table 2 and controls
        "ace": arm(acenet.ace_loss(**two)), "line": arm(acenet.lines_loss(**own), faces_too=False),
        "line_star": arm(acenet.lines_loss(exact="synthetic", **own)),
        "landmarks": arm(acenet.points_loss(**own), faces_too=False, landmarks=True),
        "ace_sparse": arm(acenet.ace_loss(sparse, **two)),
        "line_sparse": arm(acenet.lines_loss(sparse, **own), faces_too=False),
        "line_star_sparse": arm(acenet.lines_loss(sparse, exact="synthetic", **own)),
        "rendered_only": arm(acenet.lines_loss(exact="always", **own), photos_too=False),
    }
