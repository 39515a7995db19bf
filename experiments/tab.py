"""TAB's claims C7 to C9 and C25 ff.: which stem, which features and how much of them; and whether lines pay at all.

    make claims PAPER=tab

The paper starts its stems from ImageNet; nothing is fetched here, so all start from random weights. What is compared is
their shape alone; part of the differences that the paper reports may come from ImageNet. Arms that differ only in the
landmark part share the boundary part of their seed.

Every arm takes as many steps in all as TAB in its two stages, on the same faces, except where it says "one stage". What
an arm would show, were the claim false, stands beside it in ``arms``.
"""

import contextlib
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.faces import FACE_SEED, FACE_SIZE, cut, pack, words
from facealign_lite import heatmaps, tab
from facealign_lite.data import Augmentation, Crops, PackedFaces, Sample
from facealign_lite.data.files import write_atomic
from facealign_lite.evaluation import evaluate
from facealign_lite.nets import VGG, HourglassStack, Reading, Residual, landmark_loss, read_maps
from facealign_lite.records import Arm, shared
from facealign_lite.synthetic import SyntheticFaces, denser
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
EARLY = (4, 2)                        # a quarter and half of stage two: where its speed is looked at
data = words


# ---- stage one: the boundary part ----------------------------------------------------------------------------------

@dataclass(frozen=True)
class Boundaries:
    """How a boundary part is built and taught; arms that say the same share it."""

    stem: str = "vgg"                 # one of tab.STEMS, or "vgg_small": see ``small_vgg``
    stacks: int = 2
    every_stack: bool = True          # intermediate supervision; else the last stack alone is taught
    markup: str = "68"                # of the landmarks that the lines are drawn through

    @property
    def name(self) -> str:
        """For the folder of its checkpoint."""
        more = (f"{self.stacks}stacks" * (self.stacks != 2), "last" * (not self.every_stack),
                self.markup * (self.markup != "68"))
        return "-".join([self.stem, *filter(None, more)])

    def build(self) -> tab.SCBE:
        """The network, with random weights."""
        small = self.stem == "vgg_small"
        model = tab.SCBE(replace(tab.LITE, stem="vgg" if small else self.stem, stacks=self.stacks))
        if small:
            model.stem = small_vgg(tab.LITE.channels)
        return model

    def loss(self) -> Callable:
        """Of stage one."""
        whole = tab.boundary_loss(self.markup)
        if self.every_stack:
            return whole
        return lambda outputs, batch: whole((outputs[0][-1:], outputs[1]), batch)


def small_vgg(channels: int) -> nn.Module:
    """VGG's shape at half its width, and a 1x1 convolution to the width wanted: at 32 channels 4,936 weights, where the
    ResNet's stem has 4,872 and the hourglass's 5,928."""
    half = channels // 2
    return nn.Sequential(tab.Backbone(VGG(((half // 2,) * 2, (half,) * 2))), nn.Conv2d(half, channels, 1))


class Denser:
    """Packed faces of ``SyntheticFaces(n, FACE_SIZE, FACE_SEED)`` with 98 landmarks; pictures and boxes stay."""

    def __init__(self, faces: PackedFaces):
        self.faces, self.recipes = faces, SyntheticFaces(len(faces), FACE_SIZE, FACE_SEED)
        self.found: dict[int, Any] = {}

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, index: int) -> Sample:
        face = self.faces[index]
        if index not in self.found:
            self.found[index] = denser(self.recipes.scene(index), FACE_SIZE)
        return Sample(face.image, self.found[index], None, face.box, "98", face.tags)


def settings(budget: Mapping[str, Any], device: str, seed: int, stage: str, out: Path) -> TrainConfig:
    """The run of one stage, "boundary" or "landmark"; "whole" takes the steps of both at the second one's rate."""
    lr = budget["lr"] if stage == "boundary" else budget["landmark_lr"]
    count = budget["boundary_steps"] + budget["landmark_steps"] if stage == "whole" else budget[f"{stage}_steps"]
    return TrainConfig(count, budget["batch_size"], lr, amp=budget["amp"], seed=seed, checkpoint_every=100, out=out,
                       device=device, log_every=20)


def boundaries(budget: Mapping[str, Any], device: str, seed: int, kind: Boundaries, folder: Path
               ) -> Generator[int, None, tab.SCBE]:
    """The trained boundary part of one kind and seed; the first arm that needs it trains it, all others read it."""
    torch.manual_seed(seed)
    model = kind.build()
    faces = pack(folder, "train", budget)
    crops = cut(budget, faces if kind.markup == "68" else Denser(faces), tab.LITE.image_size, Augmentation(), seed)
    out = folder / f"tab-boundaries-{kind.name}-{seed}"
    yield from shared(lambda: steps(model, crops, kind.loss(), settings(budget, device, seed, "boundary", out),
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


# ---- the rivals: networks without lines, or without landmark maps --------------------------------------------------

class Direct(HourglassStack):
    """The boundary part's own body, taught landmarks at once: a stacked hourglass whose every stack predicts them."""

    inputs = ("image",)

    def __init__(self, config: tab.TabConfig):
        super().__init__(tab.stem(config), config.channels, config.landmarks, config.stacks, config.depth, Residual)
        self.config = config

    def forward(self, images: Tensor) -> list[Tensor]:
        """(B, C, S, S) -> logits of every stack, (B, K, h, w) each."""
        return self.run(images)[0]

    def read(self, outputs: Sequence[Tensor], mirrored: bool = False) -> Reading:
        """See ``nets.reading``."""
        return read_maps(outputs[-1], self.config.image_size, mirrored=mirrored)


class Coordinates(nn.Module):
    """From boundary maps to numbers instead of maps: the encoder of BALT, a convolution and one matrix.

    What Wu et al. 2018 do with boundaries, and the paper argues against (its second contribution). The head weighs
    about what BALT's decoder does.
    """

    inputs = ("image",)

    def __init__(self, scbe: tab.SCBE, config: tab.TabConfig):
        super().__init__()
        self.config, self.scbe, self.balt = config, scbe, tab.BALT(config)
        self.balt.up, self.balt.head = nn.ModuleList(), nn.Identity()                    # the decoder is not wanted
        side, bottom = config.heatmap_size >> config.levels + 1, config.widths[-1]
        self.squeeze = nn.Sequential(nn.Conv2d(bottom, 64, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(64),
                                     nn.ReLU(), nn.Flatten())
        self.matrix = nn.Linear(64 * side**2, 2 * config.landmarks)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, S, S) -> (B, K, 2) in map pixels."""
        with torch.no_grad():
            maps, features = self.scbe(images)
        x = self.balt.encode(maps[-1], features)[-1]
        # numbers of the order of one; half the map is one
        return (self.matrix(self.squeeze(x)).float().view(len(x), -1, 2) + 1) * self.config.heatmap_size / 2

    def loss(self, outputs: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean absolute error in map pixels, as in ``nets.landmark_loss``."""
        size = self.config.heatmap_size
        points = heatmaps.to_heatmap(batch["landmarks"], tuple(batch["image"].shape[-2:]), (size, size))
        return (outputs - points).abs().mean()

    def read(self, outputs: Tensor, mirrored: bool = False) -> Reading:
        """See ``nets.reading``."""
        if mirrored:
            raise ValueError("mirrored must be False, got True")
        points = heatmaps.to_image(outputs, (self.config.heatmap_size,) * 2, (self.config.image_size,) * 2)
        return Reading(points, points.new_ones(points.shape[:2]))

    def train(self, mode: bool = True) -> "Coordinates":
        """As ``nn.Module.train``, but the boundary part stays in eval mode."""
        super().train(mode)
        self.scbe.eval()
        return self


# ---- arms ----------------------------------------------------------------------------------------------------------

def figures(model: nn.Module, test: PackedFaces, device: str) -> dict[str, Any]:
    """What every record says of its network."""
    result = evaluate(model, test, device=device)
    found = result.figures() | {"subsets": result.subsets(), "errors": result.errors.round(6),
                                "parameters": sum(p.numel() for p in model.parameters())}
    if isinstance(part := getattr(model, "scbe", None), tab.SCBE):
        found |= {"stem_parameters": sum(p.numel() for p in part.stem.parameters())}
    return found


def arm(budget: Mapping[str, Any], device: str = "auto", stem: str = "vgg", scales: str = "multi", fusion: int = 2,
        early: bool = False, **kind: Any) -> Arm:
    """A run of both stages.

    Args:
        stem, kind: of the boundary part, see ``Boundaries``.
        scales, fusion: of the landmark part.
        early: whether the landmark part is measured on its way, too (``EARLY``).
    """
    def run(seed: int, folder: Path) -> Mapping[str, Any]:
        faces, test = (pack(folder.parent, name, budget) for name in ("train", "test"))
        part = Boundaries(stem, **kind)
        boundary_part = yield from boundaries(budget, device, seed, part, folder.parent)
        torch.manual_seed(seed + 1)
        known = stem if stem in tab.STEMS else "vgg"
        model = tab.TAB(replace(tab.LITE, stem=known, stacks=part.stacks, scales=scales, fusion=fusion))
        if stem != known:
            model.scbe = part.build()
        model.scbe.load_state_dict(boundary_part.state_dict())
        crops = cut(budget, faces, tab.LITE.image_size, Augmentation(), seed + 1000)
        config = settings(budget, device, seed, "landmark", folder)
        looked = folder / "early.json"                                          # a run that is resumed has it already
        with contextlib.closing(steps(model.freeze(), crops, tab.transform_loss(), config, resume=True)) as going:
            for done in going:
                if early and done in [config.steps // share for share in EARLY]:
                    errors = evaluate(model, test, device=device).errors.round(6)
                    seen = json.loads(looked.read_text()) if looked.exists() else {}
                    seen |= {f"nme_{done}": errors.mean(), f"errors_{done}": errors.tolist()}
                    write_atomic(looked, json.dumps(seen).encode())
                yield done
        found = json.loads(looked.read_text()) if early else {}
        return figures(model, test, device) | quality(model.scbe, test) | found
    return run


def at_once(budget: Mapping[str, Any], device: str, build: Callable[[], nn.Module], loss: Callable, rate: float = 1.0
            ) -> Arm:
    """One stage of as many steps as both, at ``rate`` times the learning rate of the second."""
    def run(seed: int, folder: Path) -> Mapping[str, Any]:
        faces, test = (pack(folder.parent, name, budget) for name in ("train", "test"))
        torch.manual_seed(seed)
        model = build()
        crops = cut(budget, faces, tab.LITE.image_size, Augmentation(), seed)
        config = settings(budget, device, seed, "whole", folder)
        yield from steps(model, crops, loss, replace(config, lr=rate * config.lr), resume=True)
        return figures(model, test, device)
    return run


def coordinates(budget: Mapping[str, Any], device: str) -> Arm:
    """Both stages, the second of which regresses numbers."""
    def run(seed: int, folder: Path) -> Mapping[str, Any]:
        faces, test = (pack(folder.parent, name, budget) for name in ("train", "test"))
        part = yield from boundaries(budget, device, seed, Boundaries(), folder.parent)
        torch.manual_seed(seed + 1)
        model = Coordinates(part.requires_grad_(False), tab.LITE)
        crops = cut(budget, faces, tab.LITE.image_size, Augmentation(), seed + 1000)
        yield from steps(model, crops, model.loss, settings(budget, device, seed, "landmark", folder), resume=True)
        return figures(model, test, device) | quality(part, test)
    return run


def arms(budget: Mapping[str, Any], device: str = "auto") -> dict[str, Arm]:
    """The runs at a budget, the most important first."""
    def one(**parts: Any) -> Arm:
        return arm(budget, device, **parts)

    def plain(rate: float = 1.0) -> Arm:
        return at_once(budget, device, lambda: Direct(tab.LITE), lambda maps, batch: landmark_loss(maps, batch), rate)

    def free(rate: float = 1.0) -> Arm:
        return at_once(budget, device, lambda: tab.TAB(tab.LITE), tab.transform_loss(), rate)
    return {
        "vgg": one(),                                                   # C7; also C8's multi-scale and C9's fusion 2
        "fusion0": one(fusion=0), "single": one(scales="single"),       # C9; C8
        "hourglass": one(stem="hourglass"), "resnet": one(stem="resnet"),           # C7
        "fusion1": one(fusion=1), "fusion3": one(fusion=3),             # C9
        # C25, lines first against landmarks at once. "plain" is the boundary part's body with landmark maps in the
        # place of lines; it weighs a quarter of TAB. "free" is TAB to the last weight, never shown a line, trained from
        # end to end: it alone tells lines from size. The claim is wrong if either errs no more than TAB.
        # The rate of TAB's second stage was chosen for TAB: arms with "_low" behind them have less than half of it,
        # those with "_high" about that of TAB's first stage.
        "plain": plain(), "free": free(), "plain_low": plain(0.4), "free_low": free(0.4),
        "plain_high": plain(1.6), "free_high": free(1.6),
        # C26, landmark maps against coordinates, from the same frozen boundary part
        "coordinates": coordinates(budget, device),
        # C27, faster convergence by boundary features: "vgg" and "fusion0" once more, measured on the way. The claim is
        # wrong if the arm with features is not ahead early. Their ends also tell whether "vgg" and "fusion0", which
        # older code recorded, are repeated within the spread of seeds.
        "early2": one(early=True), "early0": one(fusion=0, early=True),
        # C28, intermediate supervision; and beside it one stack
        "last": one(every_stack=False), "one_stack": one(stacks=1),
        # C29, boundaries from another markup: the same faces with 98 landmarks, so that nothing but the lines differs
        "lines98": one(markup="98"),
        # C7: VGG's shape at the size of the other stems
        "vgg_small": one(stem="vgg_small"),
    }
