"""TAB's claims C7 to C9: which stem, which features, and how much of them.

    make claims PAPER=tab

The paper starts its stems from ImageNet; nothing is fetched here, so all start from random weights. What is compared is
their shape, and part of what the paper reports for them may be what they had seen before. Arms that differ in the
landmark part only share the boundary part of their seed.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from shared_faces import pack

from facealign_lite import tab
from facealign_lite.data import Augmentation, Crops, PackedFaces
from facealign_lite.evaluation import evaluate
from facealign_lite.training import TrainConfig, fit

WHAT = "lite TAB networks from random weights, boundaries first, then landmarks with the boundary part frozen"
DATA = "SyntheticFaces(3000, seed=2), tested on the first 600 faces of the benchmark"
SEEDS = [0, 1, 2]
BUDGET = {"boundary_steps": 400, "landmark_steps": 320, "lr": 8e-3, "landmark_lr": 5e-3, "batch_size": 16,
          "amp": "bf16"}



def settings(seed: int, stage: str, out: Path) -> TrainConfig:
    """The run of one stage, "boundary" or "landmark"."""
    lr = BUDGET["lr"] if stage == "boundary" else BUDGET["landmark_lr"]
    return TrainConfig(BUDGET[f"{stage}_steps"], BUDGET["batch_size"], lr, amp=BUDGET["amp"], seed=seed,
                       checkpoint_every=100, out=out)


def boundaries(seed: int, stem: str, folder: Path) -> tab.SCBE:
    """The trained boundary part of one stem and seed; the first arm that needs it trains it, all others read it."""
    torch.manual_seed(seed)
    model = tab.SCBE(replace(tab.LITE, stem=stem))
    crops = Crops(pack(folder, "train"), tab.LITE.image_size, Augmentation(), seed)
    fit(model, crops, tab.boundary_loss(), settings(seed, "boundary", folder / f"tab-boundaries-{stem}-{seed}"),
        resume=True)
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


def arm(stem: str = "vgg", scales: str = "multi", fusion: int = 2) -> Callable[[int, Path], Mapping[str, Any]]:
    """A run of both stages."""
    def run(seed: int, folder: Path) -> Mapping[str, Any]:
        boundary_part = boundaries(seed, stem, folder.parent)
        torch.manual_seed(seed + 1)
        model = tab.TAB(replace(tab.LITE, stem=stem, scales=scales, fusion=fusion))
        model.scbe.load_state_dict(boundary_part.state_dict())
        crops = Crops(pack(folder.parent, "train"), tab.LITE.image_size, Augmentation(), seed + 1000)
        fit(model.freeze(), crops, tab.transform_loss(), settings(seed, "landmark", folder), resume=True)
        faces = pack(folder.parent, "test")
        result = evaluate(model, faces)
        return result.figures() | quality(model.scbe, faces) | {
            "subsets": result.subsets(), "parameters": sum(p.numel() for p in model.parameters()),
            "stem_parameters": sum(p.numel() for p in model.scbe.stem.parameters()), "errors": result.errors.round(6)}
    return run


ARMS = {
    "vgg": arm(), "resnet": arm("resnet"), "hourglass": arm("hourglass"),           # C7; "vgg" is also C8's multi-scale
    "single": arm(scales="single"),                                                 # C8        and C9's fusion 2
    "fusion0": arm(fusion=0), "fusion1": arm(fusion=1), "fusion3": arm(fusion=3),   # C9
}
