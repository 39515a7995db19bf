"""Learning from pairs, with and without labels (Algorithm 1).

Shapes: B pairs, K landmarks, C boundaries, H W. A batch of pairs holds each picture and its twin in turn.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from facealign_lite import markups

from .disturbances import SCALE, TURN, disturb, move_points
from .fields import boundaries_of
from .losses import WEIGHTS, Maps, Weights, overall_loss, semi_supervised_loss, truth
from .network import ScpanConfig


class Pairs(Dataset):
    """Pictures and their disturbed twins; with unlabelled crops, labelled (even items) and unlabelled ones in turn.

    Args:
        labelled: ``data.Crops`` with landmarks.
        unlabelled: ``data.Crops`` whose landmarks, should they have any, nobody looks at.
        seed: of the disturbances; a pair is a function of (seed, epoch, index).
        turn, scale: of the twins, up to so many degrees and from and to such a size, see ``draw_linear``.

    Source: SCPAN Algorithm 1, steps 1 and 2, but for this: the twin is drawn anew in every epoch.
    """

    def __init__(self, labelled: Dataset, unlabelled: Dataset | None = None, seed: int = 0, turn: float = TURN,
                 scale: tuple[float, float] = SCALE):
        self.parts = (labelled,) if unlabelled is None else (labelled, unlabelled)
        self.seed, self.turn, self.scale = seed, turn, scale

    def __len__(self) -> int:
        return len(self.parts) * max(map(len, self.parts))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.at(0, index)

    def at(self, epoch: int, index: int) -> dict[str, Tensor]:
        """Pair ``index`` as seen in ``epoch``; the smaller part starts anew, otherwise augmented, when used up.

        Returns:
            image (2, C, S, S); landmarks (2, K, 2) in crop pixels, NaN where unlabelled; linear (2, 2), what was done
            to the twin; labelled, 1 or 0.

        Raises:
            IndexError: beyond the last pair.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"index must be in 0 .. {len(self) - 1}, got {index}")
        kind, nth = index % len(self.parts), index // len(self.parts)
        part = self.parts[kind]
        turns = -(-len(self) // (len(self.parts) * len(part)))
        item = part.at(epoch * turns + nth // len(part), nth % len(part))
        number = np.random.SeedSequence((self.seed, epoch, index)).generate_state(1, np.uint64)[0]
        draw = torch.Generator().manual_seed(int(number >> 1))
        image, points = item["image"][None], item["landmarks"][None]
        twin, linear = disturb(image, draw, self.turn, self.scale)
        moved = move_points(points, linear, tuple(image.shape[-2:]), _flip(points))
        landmarks = torch.cat([points, moved])
        return {"image": torch.cat([image, twin]), "linear": linear[0], "labelled": torch.tensor(float(kind == 0)),
                "landmarks": landmarks if kind == 0 else torch.full_like(landmarks, torch.nan)}


def scpan_loss(config: ScpanConfig, weights: Weights = WEIGHTS, unlabelled: float = 1.0, shape: str = "gaussian",
               **lengths: Any) -> Callable:
    """The loss of SCPAN on batches of ``Pairs``: the supervised objective of the labelled ones, and the self-calibrated
    one of the others.

    Args:
        config: of the network; its lengths are those of the targets, and votes within its ``reach`` count, all of them
            where it reads as printed.
        weights: as in ``overall_loss``.
        unlabelled: weight of the self-calibrated loss of unlabelled pairs; the paper prints none.
        shape: of the landmarks' heat, see ``heatmaps.encode``.
        lengths: fields of the configuration that shall be others in the loss; ``reach`` and ``within`` None for the
            paper's.

    Returns:
        a loss for ``training.fit``. Means are taken over the labelled and over the unlabelled pairs of a batch.

    Source: SCPAN Eq. 19 and 20, Algorithm 1, step 3.2.
    """
    config = replace(config, **lengths)
    boundaries, boundary_flip = boundaries_of(str(config.landmarks)) if config.bali else ((), ())
    reach = None if config.reading == "printed" else config.reach
    sigmas, sizes = config.sigmas, (config.square, config.window)

    def loss(said: Maps, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        labelled, linear = batch["labelled"].bool(), batch["linear"]
        points, size = batch["landmarks"], tuple(batch["image"].shape[-2:])
        swap, parts = (_flip(points), boundary_flip), {}
        if labelled.any():
            pair = [_rows(said, labelled, k) for k in (0, 1)]
            maps = [maps.shape[-1] for maps in said.heatmaps]
            truths = [truth(points[labelled, k], size, maps, boundaries, sigmas, sizes[0], shape) for k in (0, 1)]
            parts = overall_loss(pair, truths, boundaries, linear[labelled], *swap, weights, sizes[0], reach, sigmas,
                                 config.within, sizes[1])
        if not labelled.all():
            pair = [_rows(said, ~labelled, k) for k in (0, 1)]
            parts = semi_supervised_loss(parts, pair, linear[~labelled], *swap, sigmas)
            parts["unlabelled"] = unlabelled * parts["unlabelled"]
        return parts
    return loss


def _rows(said: Maps, which: Tensor, kind: int) -> Maps:
    """The pictures (``kind`` 0) or twins (1) of some pairs."""
    def some(maps: Tensor) -> Tensor:
        return maps[kind::2][which]
    return Maps([some(maps) for maps in said.heatmaps], [some(maps) for maps in said.confidences], some(said.offsets))


def _flip(points: Tensor) -> tuple[int, ...]:
    return tuple(markups.get(str(points.shape[-2])).flip)
