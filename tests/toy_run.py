"""A model, data and loss small enough to train in a test, also in a process of its own.

``python toy_run.py kill FOLDER`` trains slowly, to be killed; ``torchrun toy_run.py share FOLDER`` trains in a group.
"""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from facealign_lite.training import TrainConfig, fit

CONFIG = TrainConfig(steps=40, batch_size=4, lr=0.02, checkpoint_every=3, log_every=7, ema=0.9, device="cpu")
SHARED = replace(CONFIG, steps=12, checkpoint_every=5)


class Toy:
    """Noisy ramps whose label is their slope; fresh noise each epoch."""

    def __init__(self, pause=0.0, level=0.1):
        self.pause, self.level = pause, level

    def __len__(self):
        return 13                                       # batches run across the ends of epochs

    def at(self, epoch, index):
        time.sleep(self.pause)
        rng = np.random.default_rng((7, epoch, index))
        slope = rng.uniform(-1, 1)
        image = slope * np.linspace(-1, 1, 8)[None, None].repeat(8, 1) + rng.normal(0, self.level, (1, 8, 8))
        return {"image": torch.from_numpy(image).float(), "slope": torch.tensor(slope).float()}


def toy_model(norm=True, drop=0.2):
    torch.manual_seed(0)
    middle = [nn.BatchNorm2d(4)] if norm else []
    return nn.Sequential(nn.Conv2d(1, 4, 3), *middle, nn.ReLU(), nn.Dropout(drop), nn.Flatten(), nn.Linear(144, 1))


def toy_loss(outputs, batch):
    return (outputs[:, 0] - batch["slope"]).square().mean()


def train(config=CONFIG, model=None, loss=toy_loss, data=None, **kind):
    model = model or toy_model()
    return model, fit(model, data or Toy(), loss, config, progress=False, **kind)


if __name__ == "__main__":
    what, folder = sys.argv[1], Path(sys.argv[2])
    if what == "kill":
        train(replace(CONFIG, out=folder), data=Toy(pause=0.01))
    else:
        plain, _ = train(replace(SHARED, out=folder / "plain"), toy_model(norm=False, drop=0))
        full, _ = train(SHARED)
        torch.save([plain.state_dict(), full.state_dict()], folder / f"{os.environ['RANK']}.pt")
