"""RHT's claims C15 to C19: what each part adds, what the reference must be like, and whether it must be a face at all.

    make claims PAPER=rht

The paper trains on 300-W, COFW and AFLW with ImageNet's weights for 150 epochs. Here all networks are lite, start from
nothing, see rendered faces for the same few steps, and are tested on the benchmark's faces, by subset. References come
from the training faces, as in the paper: at random in training, the most correlated one in the test.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from facealign_lite import rht
from facealign_lite.data import Augmentation, PackedFaces, save_packed, write_atomic
from facealign_lite.evaluation import BENCHMARK_SEED, Evaluation, evaluate
from facealign_lite.rht import Pairs, References, Rht, rht_loss
from facealign_lite.synthetic import SyntheticFaces
from facealign_lite.training import TrainConfig, fit

WHAT = "lite RHT, its parts, backbones and references, trained and tested on rendered faces"
DATA = "SyntheticFaces(2000, seed=51), which lend too; tested on 600 faces of the benchmark"
SEEDS = [0, 1, 2]
BUDGET = {"image_size": 64, "steps": 800, "batch_size": 16, "lr": 6e-3, "amp": "bf16"}
# crops of half the lite size: a step costs about a quarter, so the same time trains further

FACES, SIZE, TRAIN_SEED, TESTED, RANDOM = 2000, 160, 51, 600, 5
SETS = {"train": (FACES, TRAIN_SEED), "test": (TESTED, BENCHMARK_SEED)}
# section III-D turns by 45 degrees, scales by 20 % and covers 40 % of the faces, for 150 epochs; milder for these few
AUGMENTATION = replace(Augmentation(), rotation=15, scale=(0.95, 1.15), shift=0.03, outlier=0, gamma=0.75,
                       contrast=(0.7, 1.3), brightness=0.1, noise=0.03, colour=0, inversion=0, light=0, blur=0,
                       motion=0, low_resolution=0, jpeg=0, occluder=0.2)


# ---- faces and references ------------------------------------------------------------------------------------------

def pack(folder: Path, name: str) -> PackedFaces:
    """The faces of one set, rendered once for all arms."""
    count, seed = SETS[name]
    path = folder / f"rht_{name}_{SIZE}_{count}_{seed}"
    try:
        return PackedFaces(path)
    except OSError:
        return save_packed(path, SyntheticFaces(count, SIZE, seed), workers=2, progress=True)


def chosen(folder: Path, way: str) -> np.ndarray:
    """Which training face each test face borrows from, asked of the bank once for all arms: (TESTED,)."""
    path = folder / f"rht_choice_{TESTED}_{FACES}_{way}.txt"
    if not path.exists():
        train, test = (pack(folder, name) for name in ("train", "test"))
        bank = References.of(train, rht.references.COMPARED).bank()
        write_atomic(path, "\n".join(map(str, rht.choose(way, test, bank))).encode())
    return np.loadtxt(path, int, ndmin=1)


def borrowed(name: str, references: References, choice: Callable[[str], np.ndarray], count: int
             ) -> tuple[References, np.ndarray]:
    """What the ``count`` test faces borrow from under a name of ``LENDERS``: references, and which of them each takes.

    Args:
        choice: way -> (count,), see ``chosen``.
    """
    if name in ("most", "least", "neutral"):
        return references, choice(name)
    if name.startswith("random"):
        return references, np.random.default_rng(int(name[-1])).integers(len(references), size=count)
    if name.startswith("most_1"):                                   # of 1 / 2 or 1 / 4 the resolution
        return references.degraded(references.images.shape[-1] // int(name[-1])), choice("most")
    if name == "mean_shape":
        return references.mean_shape(), np.zeros(count, int)
    if name == "wrong":
        return references.wrong(), choice("most")
    if name == "no_picture":
        return References(torch.zeros_like(references.images), references.landmarks), choice("most")
    raise ValueError(f"name must be one of {LENDERS}, got {name!r}")


# Table VII, then what the paper did not ask: a heatmap but no face, the landmarks of somebody else, no pixels
LENDERS = ("most", "neutral", *(f"random_{i}" for i in range(RANDOM)), "least", "most_1_2", "most_1_4",
           "mean_shape", "wrong", "no_picture")


# ---- arms ----------------------------------------------------------------------------------------------------------

def train(config: rht.RhtConfig, faces: Sequence[Any], references: References, seed: int, folder: Path | None,
          steps: int = BUDGET["steps"]) -> Rht:
    """One run; each face with another random reference at every look."""
    torch.manual_seed(seed)
    model = Rht(config)
    data = Pairs(faces, references, size=config.image_size, augment=AUGMENTATION, seed=seed)
    fit(model, data, rht_loss(config), TrainConfig(steps, BUDGET["batch_size"], BUDGET["lr"], amp=BUDGET["amp"],
                                                   seed=seed, checkpoint_every=100, out=folder),
        resume=folder is not None)
    return model


def measure(model: Rht, faces: Sequence[Any], references: References, choice: np.ndarray) -> Evaluation:
    """Errors of a trained network with those references."""
    data = Pairs(faces, references, choice, model.config.image_size)
    return evaluate(model, data)


def arm(switches: Mapping[str, Any] | None = None, base: rht.RhtConfig = rht.LITE, lenders: Sequence[str] = ("most",),
        lent: str = "") -> Callable:
    """A run, tested with the first of ``lenders``; of the others the mean error is kept.

    Args:
        switches: what differs from ``base``.
        lent: "mean_shape" or "wrong": what all references are made of, in training and test; whole faces if empty.
    """
    config = replace(base, image_size=BUDGET["image_size"], **(switches or {}))

    def run(seed: int, folder: Path) -> Mapping[str, Any]:
        faces, test = (pack(folder.parent, name) for name in ("train", "test"))
        whole = References.of(faces, config.heatmap_size)
        model = train(config, faces, getattr(whole, lent)() if lent else whole, seed, folder)
        found = {name: measure(model, test, *borrowed(name, whole, lambda way: chosen(folder.parent, way), len(test)))
                 for name in ([lent] if lent else lenders)}
        first = next(iter(found.values()))
        return first.figures() | {"subsets": first.subsets(), "errors": first.errors.round(6)} | {
            f"nme_{name}": round(float(other.errors.mean()), 6) for name, other in found.items()}
    return run


TRANS = rht.ABLATION["trans"]

ARMS = {
    # Table VIII: C15, and C16 by subset
    **{name: arm(switches, lenders=LENDERS if name == "rht" else LENDERS[:1])
       for name, switches in rht.ABLATION.items()},
    # Table IX: C18
    "no_boundaries": arm({"boundaries": False}),
    # Table V: C19
    "trans_hg": arm(TRANS, rht.LITE_HG), "rht_hg": arm(base=rht.LITE_HG),
    "trans_h": arm(TRANS, rht.LITE_H), "rht_h": arm(base=rht.LITE_H),
    # not in the paper: the fusion's layers without any reference; and trained with a reference that is no face's
    "blocks": arm({"soft": False, "hard": False}),
    "mean_shape": arm(lent="mean_shape"), "wrong": arm(lent="wrong"),
}
