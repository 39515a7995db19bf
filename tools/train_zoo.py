"""Train the weights that the library ships, on rendered faces only.

    python tools/train_zoo.py hourglass|acenet|scpan|rht [--faces 18000] [--steps 6600] [--device auto]

Renders the training faces once into ``_build/faces``, trains with checkpoints in ``_build/zoo`` (a killed run goes on
where it stopped), and writes ``facealign_lite/assets/weights/<name>.safetensors`` and ``results/training_<name>.json``.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from facealign_lite import acenet, rht, scpan, zoo
from facealign_lite.data import Augmentation, Crops, PackedFaces, save_packed
from facealign_lite.evaluation import commit, describe_device, write_record
from facealign_lite.nets import LITE, StackedHourglass, landmark_loss, parameter_count
from facealign_lite.synthetic import SyntheticFaces
from facealign_lite.training import TrainConfig, fit, reestimate_normalization

ROOT = Path(__file__).resolve().parents[1]
FACE_SIZE = 160          # pixels rendered; a crop of 128 shows about 120 of them
TRAIN_SEED = 1           # of the rendered faces; the test faces have another


RECIPES = {"hourglass": "lite stacked hourglass, 68 landmarks, rendered faces only",
           "acenet": "lite ACE network, 12 anchors and 13 contours, fully supervised on rendered faces only",
           "scpan": "lite SCPAN, 68 landmarks, on rendered faces and their disturbed twins only",
           "rht": "lite RHT with a ResNet, 68 landmarks, rendered faces only, references among them"}


def faces(count: int, workers: int) -> PackedFaces:
    """The training faces with their contours, rendered on the first call."""
    path = ROOT / "_build" / "faces" / f"train{TRAIN_SEED}_{FACE_SIZE}_{count}_contours"
    try:
        return PackedFaces(path)
    except OSError:
        return save_packed(path, SyntheticFaces(count, FACE_SIZE, TRAIN_SEED), workers=workers, progress=True)


def recipe(name: str, samples: PackedFaces) -> tuple[nn.Module, Any, Callable, dict[str, Any]]:
    """Network, data, loss and what its run needs beyond the common settings."""
    if name == "hourglass":
        return (StackedHourglass(LITE), Crops(samples, LITE.image_size, Augmentation(), seed=0), landmark_loss,
                {"batch_size": 32, "lr": 2e-3, "ema": 0.999})
    if name == "scpan":
        crops = Crops(samples, scpan.LITE.image_size, Augmentation(), seed=0)
        return (scpan.Scpan(scpan.LITE), scpan.Pairs(crops), scpan.scpan_loss(scpan.LITE),
                {"batch_size": 8, "lr": 4e-3, "ema": 0.999})                    # pairs: 16 images
    if name == "rht":
        lent = rht.References.of([samples[i] for i in range(0, len(samples), 10)], rht.LITE.heatmap_size)
        return (rht.Rht(rht.LITE), rht.Pairs(samples, lent, augment=Augmentation(), seed=0), rht.rht_loss(rht.LITE),
                {"batch_size": 16, "lr": 6e-3, "ema": 0.999})
    halves = (Crops(samples, acenet.LITE.image_size, Augmentation(), seed=seed) for seed in (0, 1))
    return (acenet.AceNet(acenet.LITE), acenet.TwoDomains(*halves), acenet.lines_loss(exact="always"),
            {"batch_size": 16, "lr": 5e-3})


def train(arguments: argparse.Namespace) -> None:
    """Train one network of ``RECIPES``, ship its weights, write its record."""
    name = arguments.name
    model, data, loss, settings = recipe(name, faces(arguments.faces, arguments.workers))
    config = TrainConfig(steps=arguments.steps, **settings, seed=0, device=arguments.device, amp=arguments.amp,
                         workers=arguments.loaders, checkpoint_every=250, out=ROOT / "_build" / "zoo" / name)
    start = time.time()
    history = fit(model, data, loss, config, resume=True)
    if name == "acenet":        # a last stretch with the statistics it will be used with, or unusual faces blow up
        reestimate_normalization(model, data, epoch=1_000_000)
        history += fit(model, data, loss, replace(config, steps=max(1, config.steps // 10), lr=1e-3, frozen_norm=True,
                                                  seed=1, out=config.out / "last"), resume=True)
    facts = dict(what=RECIPES[name], data=f"SyntheticFaces({arguments.faces}, size={FACE_SIZE}, seed={TRAIN_SEED})",
                 seeds=[0], budget=dict(steps=config.steps, batch_size=config.batch_size,
                                        images=config.steps * config.batch_size),
                 commit=commit(), device=describe_device(arguments.device), seconds=time.time() - start,
                 figures=dict(parameters=parameter_count(model), loss=history[-1]["loss"], history=history[::10]))
    zoo.save(model, zoo.FOLDER / f"{name}.safetensors", {k: v for k, v in facts.items() if k != "figures"})
    write_record(f"training_{name}", facts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=list(RECIPES))
    parser.add_argument("--faces", type=int, default=18_000)
    parser.add_argument("--steps", type=int, default=6_600)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--amp", default="auto", choices=["auto", "bf16", "off"])
    parser.add_argument("--workers", type=int, default=2, help="processes that render")
    parser.add_argument("--loaders", type=int, default=1, help="processes that crop")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
