"""TAB's claims C7 to C9: which stem, which features, and how much of them.

    make claims PAPER=tab

The paper starts its stems from ImageNet; nothing is fetched here, so all start from random weights. What is compared is
their shape, and part of what the paper reports for them may be what they had seen before. Arms that differ in the
landmark part only share the boundary part of their seed.
"""

from collections.abc import Generator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from experiments.faces import cut, pack, words
from facealign_lite import tab
from facealign_lite.data import Augmentation, Crops, PackedFaces
from facealign_lite.evaluation import evaluate
from facealign_lite.records import Arm, shared
from facealign_lite.training import TrainConfig, steps

WHAT = "lite TAB networks from random weights, boundaries first, then landmarks with the boundary part frozen"
BUDGETS = {
    "lite": {"boundary_steps": 400, "landmark_steps": 320, "lr": 8e-3, "landmark_lr": 5e-3, "batch_size": 16,
             "amp": "bf16"},
    # at lite size: what three seeds of few steps could not tell, eight of many may
    "gpu": {"boundary_steps": 8000, "landmark_steps": 6400, "lr": 4e-3, "landmark_lr": 2.5e-3, "batch_size": 32,
            "amp": "bf16", "faces": 12_000, "crops": "batched"},
}
SEEDS = {"lite": [0, 1, 2], "gpu": [0, 1, 2, 3, 4, 5, 6, 7]}
data = words


def settings(budget: Mapping[str, Any], device: str, seed: int, stage: str, out: Path) -> TrainConfig:
    """The run of one stage, "boundary" or "landmark"."""
    lr = budget["lr"] if stage == "boundary" else budget["landmark_lr"]
    return TrainConfig(budget[f"{stage}_steps"], budget["batch_size"], lr, amp=budget["amp"], seed=seed,
                       checkpoint_every=100, out=out, device=device)


def boundaries(budget: Mapping[str, Any], device: str, seed: int, stem: str, folder: Path
               ) -> Generator[int, None, tab.SCBE]:
    """The trained boundary part of one stem and seed; the first arm that needs it trains it, all others read it."""
    torch.manual_seed(seed)
    model = tab.SCBE(replace(tab.LITE, stem=stem))
    crops = cut(budget, pack(folder, "train", budget), tab.LITE.image_size, Augmentation(), seed)
    out = folder / f"tab-boundaries-{stem}-{seed}"
    yield from shared(lambda: steps(model, crops, tab.boundary_loss(), settings(budget, device, seed, "boundary", out),
                                    resume=True))
    return model


def quality(model: tab.SCBE, faces: PackedFaces) -> dict[str, Any]:
    """Mean square error of the boundary maps, that of empty ones, and the overlap of their bands, by boundary."""
    errors, empty, overlap = [], [], []
    device = next(model.parameters()).device
    with torch.inference_mode():
        for batch in torch.utils.data.DataLoader(Crops(faces, model.config.image_size), 32):
            maps = model(batch["image"].to(device, memory_format=torch.channels_last))[0][-1].float().cpu()
            target = tab.boundary_targets(batch, "68", tuple(maps.shape[-2:]))
            errors.append(tab.boundary_mse(maps, target))
            empty.append(tab.boundary_mse(torch.zeros_like(target), target))
            overlap.append(tab.boundary_overlap(maps, target))
    each = torch.cat(overlap).mean(0)
    return {"boundary_mse": torch.cat(errors).mean().item(), "empty_mse": torch.cat(empty).mean().item(),
            "overlap": each.mean().item(), "overlap_of_each": each.numpy().round(4)}


def arm(budget: Mapping[str, Any], device: str = "auto", stem: str = "vgg", scales: str = "multi", fusion: int = 2
        ) -> Arm:
    """A run of both stages."""
    def run(seed: int, folder: Path) -> Mapping[str, Any]:
        faces, test = (pack(folder.parent, name, budget) for name in ("train", "test"))
        boundary_part = yield from boundaries(budget, device, seed, stem, folder.parent)
        torch.manual_seed(seed + 1)
        model = tab.TAB(replace(tab.LITE, stem=stem, scales=scales, fusion=fusion))
        model.scbe.load_state_dict(boundary_part.state_dict())
        crops = cut(budget, faces, tab.LITE.image_size, Augmentation(), seed + 1000)
        yield from steps(model.freeze(), crops, tab.transform_loss(),
                         settings(budget, device, seed, "landmark", folder), resume=True)
        result = evaluate(model, test, device=device)
        return result.figures() | quality(model.scbe, test) | {
            "subsets": result.subsets(), "parameters": sum(p.numel() for p in model.parameters()),
            "stem_parameters": sum(p.numel() for p in model.scbe.stem.parameters()), "errors": result.errors.round(6)}
    return run


def arms(budget: Mapping[str, Any], device: str = "auto") -> dict[str, Arm]:
    """The runs at a budget, the most important first."""
    def one(**parts: Any) -> Arm:
        return arm(budget, device, **parts)
    return {
        "vgg": one(),                                                   # C7; also C8's multi-scale and C9's fusion 2
        "fusion0": one(fusion=0), "single": one(scales="single"),       # C9; C8
        "hourglass": one(stem="hourglass"), "resnet": one(stem="resnet"),           # C7
        "fusion1": one(fusion=1), "fusion3": one(fusion=3),             # C9
    }
