"""Why does the lite RHT learn slowly? ``python benchmarks/rht_training.py [--steps 240] [--faces 32]``.

Two questions. What could the last layer say at best: maps that are mixtures of w features at a pixel have rank w, and
the best such approximation of true heat is known without any training (a singular value decomposition). And what do
small networks that differ in one thing each learn by heart in the same few steps: their error on the faces they are
taught, at how many places their encoder looks, and which part the gradient moves.
"""

import argparse
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from facealign_lite import heatmaps, rht
from facealign_lite.evaluation import evaluate
from facealign_lite.records import commit, describe_device, write_record
from facealign_lite.synthetic import SyntheticFaces
from facealign_lite.training import TrainConfig, fit

FACE_SIZE, SEED, SIZE = 160, 51, 64
RANKS = (16, 24, 32, 48, 64)
ALONE = rht.ABLATION["trans"]
# what differs from the first, which is the network of the recorded experiment without its reference
RUNS: dict[str, tuple[Mapping[str, Any], float]] = {
    "as recorded": (ALONE, 6e-3), "a third of the rate": (ALONE, 2e-3), "no encoder": (rht.ABLATION["backbone"], 6e-3),
    "normalised encoder": (ALONE | {"normalized": True}, 6e-3), "hidden layer": (ALONE | {"head": 96}, 6e-3),
    "heat half as wide": (ALONE | {"sigma": 1.0}, 6e-3),
    "half as wide, hidden layer": (ALONE | {"sigma": 1.0, "head": 96}, 6e-3),
    "with a reference": ({"hard": False}, 6e-3),
}


def mixtures(landmarks: Tensor, size: int, sigma: float) -> dict[str, dict[str, float]]:
    """What the best mixtures of so many features would say: Eq. 7 and NME in percent, by rank; 0 for nothing said.

    Args:
        landmarks: (N, 68, 2) as shares of the picture.
    """
    config = replace(rht.LITE, image_size=2 * size, sigma=sigma)
    points = landmarks * size - 0.5
    maps = rht.draw(points, config).double()
    count = maps.shape[1]
    # Eq. 7 weighs a landmark's map by 1 / 68, a boundary's by 1 / 15
    weight = torch.tensor([68.0] * 68 + [count - 68.0] * (count - 68), dtype=torch.float64).rsqrt()
    rows = maps.movedim(1, -1).flatten(0, -2) * weight                                         # (pixels, maps)
    mean = rows.mean(0)
    directions = torch.linalg.eigh((rows - mean).mT @ (rows - mean))[1].flip(-1)
    found = {"0": {"loss": round(float(rows.square().sum() / len(maps)), 2)}}
    for rank in RANKS:
        kept = directions[:, :rank]
        said = (rows - mean) @ kept @ kept.mT + mean
        read = heatmaps.decode((said / weight).view(len(maps), size, size, count)[..., :68].movedim(-1, 1).float(),
                               "center_of_mass")
        eyes = (points[:, 36] - points[:, 45]).norm(dim=-1, keepdim=True)
        found[str(rank)] = {"loss": round(float((said - rows).square().sum() / len(maps)), 2),
                            "nme": round(100 * float(((read - points).norm(dim=-1) / eyes).mean()), 2)}
    return found


@torch.no_grad()
def places_seen(net: rht.Rht, images: Tensor) -> list[float]:
    """At how many places the heads of each encoder layer look, as if evenly: the exponential of the entropy."""
    found, hooks = [], []

    def seen(layer: nn.Module, given: tuple[Tensor, Tensor]) -> None:
        x, places = given
        q, k = (t.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for t in layer.places(x + places).chunk(2, -1))
        scale = q.shape[-1]**-0.5
        if layer.sharpness is not None:
            q, k, scale = F.normalize(q, dim=-1), F.normalize(k, dim=-1), layer.sharpness.clamp(
                max=math.log(rht.backbones.SHARPEST)).exp()
        a = (q @ k.mT * scale).softmax(-1)
        found.append(round(float((-(a * a.clamp(min=1e-12).log()).sum(-1)).exp().mean()), 1))
    for layer in net.backbone.encoder.layers:
        hooks.append(layer.register_forward_pre_hook(seen))
    net.backbone(images)
    for hook in hooks:
        hook.remove()
    return found


def learnt(name: str, samples: list, steps: int) -> dict[str, Any]:
    """One small network, taught ``samples`` by heart."""
    switches, rate = RUNS[name]
    config = replace(rht.LITE.scaled(SIZE), **{"normalized": False, "sigma": 2.0, "head": 0} | dict(switches))
    torch.manual_seed(0)
    net, lent = rht.Rht(config), rht.References.of(samples, config.heatmap_size)
    pairs = rht.Pairs(samples, lent, np.roll(np.arange(len(samples)), 1), SIZE)
    plan = TrainConfig(steps, 16, rate, log_every=40, device="cpu")
    history = fit(net, pairs, rht.rht_loss(config), plan, progress=False)
    batch = torch.utils.data.default_collate([pairs[i] for i in range(len(samples))])
    empty = rht.draw(heatmaps.to_heatmap(batch["landmarks"], SIZE, config.heatmap_size), config).square().sum((2, 3))
    nothing = float(empty[:, :68].mean() + (empty[:, 68:].mean() if config.boundaries else 0))
    net.zero_grad()
    sum(rht.rht_loss(config)(net(*(batch[key] for key in net.inputs)), batch).values()).backward()
    parts: dict[str, float] = {}
    for key, value in net.named_parameters():
        part = ".".join(key.split(".")[:2]) if key.startswith("backbone") else key.split(".")[0]
        parts[part] = parts.get(part, 0.0) + float(value.grad.square().sum()) if value.grad is not None else 0.0
    return {"nme": round(100 * float(evaluate(net, pairs, device="cpu").errors.mean()), 2),
            "loss": round(history[-1]["heatmaps"], 2), "nothing": round(nothing, 2),
            "history": [round(row["heatmaps"], 2) for row in history],
            "places_seen": places_seen(net, batch["image"]), "places": (SIZE // 8)**2,
            "gradient": {part: round(math.sqrt(value), 2) for part, value in parts.items()}}


def main() -> int:
    """Measure, print, write results/rht_training.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--faces", type=int, default=32)
    parser.add_argument("--drawn", type=int, default=60, help="faces whose true heat is approximated")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start, faces = time.perf_counter(), SyntheticFaces(max(options.faces, options.drawn), FACE_SIZE, SEED)
    samples = [faces[i] for i in range(len(faces))]
    shares = (rht.References.of(samples[:options.drawn], 128).landmarks + 0.5) / 128
    drawn = {f"map of {size}, sigma {sigma:g}": mixtures(shares, size, sigma)
             for size, sigma in ((32, 2.0), (64, 2.0), (64, 4.0))}
    figures: dict[str, Any] = {"mixtures": drawn}
    for name, rows in figures["mixtures"].items():
        print(name, rows, flush=True)
    figures["learnt"] = {}
    for name in RUNS:
        figures["learnt"][name] = learnt(name, samples[:options.faces], options.steps)
        print(name, figures["learnt"][name], flush=True)
    write_record("rht_training", {
        "what": "mixtures: what the best approximation of true heatmaps (68 landmarks, 15 boundaries) by so many "
                "features a pixel would say, Eq. 7 and NME in percent by outer eye corners; learnt: networks that "
                "learn the same faces by heart, NME in percent on those, Eq. 7 and what saying nothing costs, places "
                "that each encoder layer looks at, gradient by part at the end",
        "data": f"SyntheticFaces, seed {SEED}: {options.drawn} drawn, {options.faces} learnt", "seeds": [0],
        "budget": {"steps": options.steps, "batch_size": 16, "image_size": SIZE}, "commit": commit(),
        "device": describe_device("cpu"), "seconds": round(time.perf_counter() - start, 1), "figures": figures})
    return 0


if __name__ == "__main__":
    sys.exit(main())
