"""Train the weights that the library ships, on rendered faces only.

    python tools/train_zoo.py hourglass|acenet|tab|scpan|rht|msm [--faces 18000] [--steps 6600] [--device auto]

Renders the training faces once into ``_build/faces``, trains with checkpoints in ``_build/zoo`` (a killed run goes on
where it stopped), and writes ``facealign_lite/assets/weights/<name>.safetensors`` and ``results/training_<name>.json``.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from facealign_lite import acenet, msm, rht, scpan, tab, zoo
from facealign_lite.data import Augmentation, Crops, PackedFaces, save_packed
from facealign_lite.nets import LITE, StackedHourglass, landmark_loss, parameter_count
from facealign_lite.records import commit, describe_device, write_record
from facealign_lite.synthetic import SyntheticFaces
from facealign_lite.training import TrainConfig, fit, reestimate_normalization

ROOT = Path(__file__).resolve().parents[1]
FACE_SIZE = 160          # pixels rendered; a crop of 128 shows about 120 of them
SMALL = 64               # crops of the networks that would learn too little in our time from larger ones
TRAIN_SEED = 1           # of the rendered faces; the test faces have another
Train = Callable[..., None]      # train(model, data, loss, part="", share=1, pictures=1 in an item, **of TrainConfig)


def faces(count: int, workers: int) -> PackedFaces:
    """The training faces with their contours, rendered on the first call."""
    path = ROOT / "_build" / "faces" / f"train{TRAIN_SEED}_{FACE_SIZE}_{count}_contours"
    try:
        return PackedFaces(path)
    except OSError:
        return save_packed(path, SyntheticFaces(count, FACE_SIZE, TRAIN_SEED), workers=workers, progress=True)


# ---- recipes: data in, trained network out ---------------------------------------------------------------------------

def hourglass(samples: PackedFaces, train: Train) -> nn.Module:
    """lite stacked hourglass, 68 landmarks, rendered faces only"""
    model = StackedHourglass(LITE)
    train(model, Crops(samples, LITE.image_size, Augmentation(), seed=0), landmark_loss,
          batch_size=32, lr=2e-3, ema=0.999)
    return model


def ace(samples: PackedFaces, train: Train) -> nn.Module:
    """lite ACE network, 12 anchors and 13 contours, fully supervised on rendered faces only"""
    model, loss = acenet.AceNet(acenet.LITE), acenet.lines_loss(exact="always")
    data = acenet.TwoDomains(*(Crops(samples, acenet.LITE.image_size, Augmentation(), seed=seed) for seed in (0, 1)))
    train(model, data, loss, batch_size=16, lr=5e-3)
    # a last stretch with the statistics it will be used with, or unusual faces blow up
    reestimate_normalization(model, data, epoch=1_000_000)
    train(model, data, loss, "last", 0.1, batch_size=16, lr=1e-3, frozen_norm=True, seed=1)
    return model


def boundaries(samples: PackedFaces, train: Train) -> nn.Module:
    """lite TAB network, 15 boundaries and 68 landmarks, on rendered faces only, boundaries first"""
    model = tab.TAB(tab.LITE)
    train(model.scbe, Crops(samples, tab.LITE.image_size, Augmentation(), seed=0), tab.boundary_loss(), "boundaries",
          batch_size=16, lr=8e-3, ema=0.999)
    train(model.freeze(), Crops(samples, tab.LITE.image_size, Augmentation(), seed=1), tab.transform_loss(),
          "landmarks", batch_size=16, lr=5e-3, ema=0.999)
    return model


def pairs(samples: PackedFaces, train: Train) -> nn.Module:
    """lite SCPAN of two stages on crops of 64 pixels, 68 landmarks, rendered faces and their disturbed twins only"""
    config = replace(scpan.LITE.scaled(SMALL), stages=2)        # one SCPA model, see C12
    model, crops = scpan.Scpan(config), Crops(samples, SMALL, Augmentation(), seed=0)
    twins = scpan.Pairs(crops, turn=45, scale=(0.75, 1))
    train(model, twins, scpan.scpan_loss(config), pictures=2, batch_size=8, lr=6e-3, ema=0.995)
    return model


def borrower(samples: PackedFaces, train: Train) -> nn.Module:
    """lite RHT on crops of 64 pixels with a ResNet, 68 landmarks, rendered faces only, references among them"""
    config = rht.LITE.scaled(SMALL)
    model = rht.Rht(config)
    lent = rht.References.of([samples[i] for i in range(0, len(samples), 10)], config.heatmap_size)
    train(model, rht.Pairs(samples, lent, size=SMALL, augment=Augmentation(), seed=0), rht.rht_loss(config),
          batch_size=16, lr=6e-3, ema=0.995)
    return model


def stages(samples: PackedFaces, train: Train) -> nn.Module:
    """lite MSM: generator, two hourglasses on straight crops, and 500 exemplars, rendered faces only"""
    shapes = np.stack([samples[i].landmarks for i in range(len(samples))])
    mean, gan, heat = msm.mean_face(shapes), msm.StGan(), msm.HeatNet()
    rough = Crops(samples, heat.config.image_size, replace(Augmentation(), shift=0.1), seed=0)
    # without the adversary, behind which generators straighten less well (chapter 15)
    train(gan, rough, msm.stgan_loss(gan, torch.from_numpy(mean), adversarial=0), "generator", batch_size=16, lr=1e-3)
    straight = msm.StraightCrops(Crops(samples, heat.config.image_size, Augmentation(), seed=1), mean)
    train(heat, straight, landmark_loss, "hourglass", 0.75, batch_size=16, lr=5e-3, ema=0.999)
    return msm.Msm.assemble(gan.generator, heat, msm.ShapeDictionary.fit(shapes, 500))


RECIPES = {"hourglass": hourglass, "acenet": ace, "tab": boundaries, "scpan": pairs, "rht": borrower, "msm": stages}


# ---- running them --------------------------------------------------------------------------------------------------

def make(arguments: argparse.Namespace) -> None:
    """Train one network of ``RECIPES``, ship its weights, write its record."""
    name, history, images, seconds = arguments.name, [], [], []
    torch.manual_seed(0)

    def train(model: nn.Module, data, loss: Callable, part: str = "", share: float = 1, pictures: int = 1,
              **settings) -> None:
        config = TrainConfig(**{"seed": 0, "steps": max(1, round(share * arguments.steps)), **settings},
                             device=arguments.device, amp=arguments.amp, workers=arguments.loaders,
                             checkpoint_every=250, out=ROOT / "_build" / "zoo" / name / part)
        start, spent = time.time(), config.out / "seconds"
        history.extend(fit(model, data, loss, config, resume=True))
        images.append(config.steps * config.batch_size * pictures)
        if not spent.exists():                                                  # else this part was done before
            spent.write_text(str(time.time() - start))
        seconds.append(float(spent.read_text()))

    model = RECIPES[name](faces(arguments.faces, arguments.workers), train)
    facts = dict(what=RECIPES[name].__doc__, data=f"SyntheticFaces({arguments.faces}, size={FACE_SIZE}, "
                                                  f"seed={TRAIN_SEED})",
                 seeds=[0], budget=dict(steps=arguments.steps, images=sum(images)),
                 commit=commit(), device=describe_device(arguments.device), seconds=round(sum(seconds), 1),
                 figures=dict(parameters=parameter_count(model), loss=history[-1]["loss"], history=history[::10]))
    zoo.save(model, zoo.FOLDER / f"{name}.safetensors", {k: v for k, v in facts.items() if k != "figures"})
    zoo.write_sums()
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
    make(parser.parse_args())


if __name__ == "__main__":
    main()
