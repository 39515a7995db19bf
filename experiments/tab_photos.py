"""TAB on the photos of the paper: its tables 1 to 10, with data sets that you have.

    make reproduce PAPER=tab DATA=folder

The folder holds the sets as they are published, under the names that ``data.inventory`` looks for: wflw/, 300w/, cofw/
(with COFW68_Data/ in it), aflw/, 300w_lp/ and aflw2000/. An arm is a row or two of a table and needs its own sets only:

    ARMS=wflw           Table 1                     needs wflw
    ARMS=300w_own       Table 2 with its star, 3, 5   needs 300w; cofw for Table 5
    ARMS=300w           Table 2 and 3, boundaries from WFLW   needs 300w and wflw
    ARMS=cofw           Table 4                     needs cofw and wflw
    ARMS=aflw           Table 6                     needs aflw and wflw
    ARMS=aflw2000       Table 7                     needs 300w_lp, aflw2000 and wflw
    ARMS="hourglass resnet single fusion0 fusion1 fusion3"   Tables 8, 9 and 10   need 300w

If there is weights/vgg16_bn.safetensors or weights/resnet50.safetensors, public ImageNet weights under torchvision's
names, stems of the paper's size start from them, as in the paper; the record says whether they did. At the lite budget
networks are small and few steps are taken: that shows that all runs, and no more. Weights stay in _build/: most of
these photos may not be used for weights that are passed on.

What differs from the paper at the gpu budget: boxes are those of the landmarks, where the paper has HRNet's; a step has
16 crops, since the paper does not say how many; what covers a face is a piece of another one or a plain shape, where
the paper drops coarse pixels; "random brightness" has no figure there.
"""

import os
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from experiments import tab as rendered
from facealign_lite import metrics, tab
from facealign_lite.data import Augmentation, BatchedCrops, Crops, Sample
from facealign_lite.data.readers import SETS
from facealign_lite.evaluation import Evaluation, evaluate
from facealign_lite.records import Arm, shared
from facealign_lite.training import TrainConfig, steps

WHAT = "TAB on photos: boundaries first, then landmarks with the boundary part frozen"
# TAB section 4.3. Steps are those of 140 epochs of WFLW; a smaller set has fewer, see ``settings``.
TAB_PAPER = TrainConfig(steps=65_625, batch_size=16, lr=1e-4, optimizer="adam", schedule="steps",
                        milestones=(80 / 140, 120 / 140), factors=(0.1, 0.1), warmup=0, weight_decay=0, clip=0)
EPOCHS = 140
AUGMENTATION = replace(Augmentation(), rotation=60, scale=(0.75, 1.25), shift=0, outlier=0, gamma=0, contrast=(1, 1),
                       brightness=0.2, noise=0, colour=0, inversion=0, light=0, blur=0, motion=0, low_resolution=0,
                       jpeg=0, occluder=0.5)
BUDGETS = {
    "lite": rendered.BUDGETS["lite"],
    "gpu": {"boundary_steps": TAB_PAPER.steps, "landmark_steps": TAB_PAPER.steps, "lr": TAB_PAPER.lr,
            "landmark_lr": TAB_PAPER.lr, "batch_size": TAB_PAPER.batch_size, "amp": "bf16", "crops": "batched",
            "network": "paper", "epochs": EPOCHS},
}
SEEDS = {"lite": [0], "gpu": [0, 1, 2, 3, 4]}
WEIGHTS = {"vgg": "vgg16_bn.safetensors", "resnet": "resnet50.safetensors"}


# ---- photos --------------------------------------------------------------------------------------------------------

def place() -> Path:
    """The folder of the photos.

    Raises:
        ValueError: if none is given.
    """
    if not os.environ.get("DATA"):
        raise ValueError("say where the photos are: make reproduce PAPER=tab DATA=folder")
    return Path(os.environ["DATA"])


@lru_cache(16)
def photos(root: Path, name: str) -> Sequence[Sample]:
    """One set of ``data.readers.SETS``. Raises as its reader."""
    folder, _, read = SETS[name]
    return read(root / folder)


def part(samples: Sequence[Sample], *splits: str) -> list[Sample]:
    """The faces of 300-W of these splits, see ``data.read_300w``.

    Raises:
        ValueError: if there are none.
    """
    found = [sample for sample in samples if sample.tags.get("split") in splits]
    if not found:
        raise ValueError(f"300w must hold faces of {' or '.join(splits)}, in the folders that it is published in")
    return found


def data(budget: Mapping[str, Any]) -> str:
    """Which sets lie there, in words."""
    there = [name for name, (folder, _, _) in SETS.items() if (place() / folder).is_dir()]
    return f"photos of {', '.join(there)}" if there else "no photos"


# ---- training ------------------------------------------------------------------------------------------------------

def network(budget: Mapping[str, Any], landmarks: int, **parts: Any) -> tab.TabConfig:
    """The configuration at a budget."""
    return replace(tab.PAPER if budget.get("network") == "paper" else tab.LITE, landmarks=landmarks, **parts)


def settings(budget: Mapping[str, Any], device: str, seed: int, stage: str, out: Path, faces: int) -> TrainConfig:
    """The run of one stage, "boundary" or "landmark", on so many faces."""
    lite = rendered.settings(budget, device, seed, stage, out)
    if "epochs" not in budget:
        return lite
    count = min(lite.steps, max(1, budget["epochs"] * faces // budget["batch_size"]))
    return replace(TAB_PAPER, steps=count, batch_size=lite.batch_size, lr=lite.lr, amp=lite.amp, seed=seed,
                   device=device, out=out, checkpoint_every=1000)


def crops(budget: Mapping[str, Any], faces: Sequence[Sample], config: tab.TabConfig, seed: int) -> Crops | BatchedCrops:
    """Training crops with the paper's augmentation."""
    kind = BatchedCrops if budget.get("crops") == "batched" else Crops
    return kind(faces, config.image_size, AUGMENTATION, seed, config.in_channels == 3)


def scbe(budget: Mapping[str, Any], device: str, seed: int, config: tab.TabConfig, faces: Sequence[Sample], name: str,
         folder: Path) -> Generator[int, None, tuple[tab.SCBE, str]]:
    """The boundary part trained on a set, once for all arms; and where its stem started, "random" or "ImageNet"."""
    torch.manual_seed(seed)
    config = replace(config, landmarks=68, scales="multi", fusion=2)            # what it does not depend on
    model, start = tab.SCBE(config), "random"
    if budget.get("network") == "paper":
        tab.start_small(model)
        weights = place() / "weights" / WEIGHTS.get(config.stem, "")
        if weights.is_file():
            model.stem.body.load_weights(weights)
            start = "ImageNet"
    out = folder / f"tab_photos-boundaries-{name}-{config.stem}-{seed}"
    run = settings(budget, device, seed, "boundary", out, len(faces))
    yield from shared(lambda: steps(model, crops(budget, faces, config, seed),
                                    tab.boundary_loss(faces[0].markup, config), run, resume=True))
    return model, start


# ---- tables --------------------------------------------------------------------------------------------------------

def row(result: Evaluation) -> dict[str, Any]:
    """NME, and failures and AUC up to 8 and 10 %, as the tables have them."""
    errors = result.errors
    found = {"nme": errors.mean(), "errors": errors.round(6), "images": len(errors)}
    for most in (8, 10):
        found |= {f"failures_{most}": metrics.failure_rate(errors, most / 100),
                  f"auc_{most}": metrics.auc(errors, most / 100)}
    return found


Tests = Callable[[Path], Mapping[str, tuple[Sequence[Sample], str]]]       # name -> faces, normaliser


def wflw_tests(root: Path) -> dict[str, tuple[Sequence[Sample], str]]:
    """Table 1."""
    test = photos(root, "WFLW test")
    groups = {flag: [s for s in test if s.tags[flag]] for flag in
              ("pose", "expression", "illumination", "make_up", "occlusion", "blur")}
    return {name: (faces, "inter_ocular") for name, faces in {"all": test, **groups}.items() if faces}


def w300_tests(root: Path) -> dict[str, tuple[Sequence[Sample], str]]:
    """Tables 2, 3 and 5; the private set and COFW-68 only if they are there."""
    faces, found = photos(root, "300-W"), {}
    subsets = {"challenging": ("challenging",), "common": ("common",), "full": ("common", "challenging")}
    for name, splits in subsets.items():
        for length in ("inter_ocular", "inter_pupil"):
            found[f"{name}_{length}"] = (part(faces, *splits), length)
    if any(s.tags.get("split") == "private" for s in faces):
        found["private"] = (part(faces, "private"), "inter_ocular")
    if (root / "cofw" / "COFW68_Data").is_dir():
        found["cofw68"] = (photos(root, "COFW-68"), "box")
    return found


def aflw_tests(root: Path) -> dict[str, tuple[Sequence[Sample], str]]:
    """Table 6."""
    test = photos(root, "AFLW test")
    frontal = [s for s in test if s.visibility.all()]
    return {"full": (test, "given_box")} | ({"frontal": (frontal, "given_box")} if frontal else {})


def aflw2000_tests(root: Path) -> dict[str, tuple[Sequence[Sample], str]]:
    """Table 7."""
    test = photos(root, "AFLW2000-3D")
    bins = {name: [s for s in test if s.tags.get("yaw") == name] for name in ("0-30", "30-60", "60-90")}
    return {"all": (test, "box")} | {name: (faces, "box") for name, faces in bins.items() if faces}


def arm(budget: Mapping[str, Any], device: str, train: Callable[[Path], Sequence[Sample]], tests: Tests,
        lines: str | None = "WFLW train", stem: str = "vgg", **parts: Any) -> Arm:
    """A run of both stages and the rows of its tables.

    Args:
        train: the faces of the second stage, and of the first if ``lines`` is None.
        tests: what is measured.
        lines: the set that the boundary part learns from; the paper takes WFLW's for every set but 300-W's starred row.
        stem, parts: of the network.
    """
    def run(seed: int, folder: Path) -> Mapping[str, Any]:
        root = place()
        faces = train(root)
        others = faces if lines is None else photos(root, lines)
        config = network(budget, len(faces[0].landmarks), stem=stem, **parts)
        name = "own-" + faces[0].markup if lines is None else lines.replace(" ", "_").lower()
        boundary_part, start = yield from scbe(budget, device, seed, config, others, name, folder.parent)
        torch.manual_seed(seed + 1)
        model = tab.TAB(config)
        model.scbe.load_state_dict(boundary_part.state_dict())
        yield from steps(model.freeze(), crops(budget, faces, config, seed + 1000), tab.transform_loss(config),
                         settings(budget, device, seed, "landmark", folder, len(faces)), resume=True)
        found = {test: row(evaluate(model, some, length, device=device))
                 for test, (some, length) in tests(root).items()}
        first = next(iter(found.values()))
        return {"nme": first["nme"], "errors": first["errors"], "rows": found, "stem": start,
                "train": len(faces), "train_boundaries": len(others),
                "parameters": sum(p.numel() for p in model.parameters())}
    return run


def arms(budget: Mapping[str, Any], device: str = "auto") -> dict[str, Arm]:
    """The runs at a budget."""
    def w300(root: Path) -> Sequence[Sample]:
        return part(photos(root, "300-W"), "train")

    def one(*some: Any, **more: Any) -> Arm:
        return arm(budget, device, *some, **more)

    def of(name: str) -> Callable[[Path], Sequence[Sample]]:
        return lambda root: photos(root, name)
    ablated = {"hourglass": {"stem": "hourglass"}, "resnet": {"stem": "resnet"}, "single": {"scales": "single"},
               "fusion0": {"fusion": 0}, "fusion1": {"fusion": 1}, "fusion3": {"fusion": 3}}
    return {
        "wflw": one(of("WFLW train"), wflw_tests), "300w_own": one(w300, w300_tests, None),
        "300w": one(w300, w300_tests), "cofw": one(of("COFW train"), lambda root: {
            "all": (photos(root, "COFW test"), "inter_pupil")}),
        "aflw": one(of("AFLW train"), aflw_tests), "aflw2000": one(of("300W-LP"), aflw2000_tests),
        **{name: one(w300, w300_tests, None, **parts) for name, parts in ablated.items()},
    }
