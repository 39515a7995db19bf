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
from facealign_lite.data import effects

from .disturbances import DRAWS, SCALE, TURN, disturb, disturb_by, move_points
from .fields import boundaries_of
from .losses import WEIGHTS, Maps, Weights, calibration_terms, supervised_terms
from .network import ScpanConfig


class Pairs(Dataset):
    """Pictures and their disturbed twins; with unlabelled crops, labelled (even items) and unlabelled ones in turn.

    Args:
        labelled: ``data.Crops`` with landmarks.
        unlabelled: ``data.Crops`` whose landmarks, should they have any, nobody looks at.
        seed: of the disturbances; a pair is a function of (seed, epoch, index).
        turn, scale, shift: of the twins, up to so many degrees, from and to such a size, and up to such a share of a
            side, see ``draw_linear``.

    Source: SCPAN Algorithm 1, steps 1 and 2, but for this: the twin is drawn anew in every epoch.
    """

    def __init__(self, labelled: Dataset, unlabelled: Dataset | None = None, seed: int = 0, turn: float = TURN,
                 scale: tuple[float, float] = SCALE, shift: float = 0.0):
        self.parts = (labelled,) if unlabelled is None else (labelled, unlabelled)
        self.seed, self.turn, self.scale, self.shift = seed, turn, scale, shift

    def __len__(self) -> int:
        return len(self.parts) * max(map(len, self.parts))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.at(0, index)

    def at(self, epoch: int, index: int) -> dict[str, Tensor]:
        """Pair ``index`` as seen in ``epoch``; the smaller part starts anew, otherwise augmented, when used up.

        Returns:
            image (2, C, S, S); landmarks (2, K, 2) in crop pixels, NaN where unlabelled; linear (2, 2), or (2, 3) with
            a shift, what was done to the twin; labelled, 1 or 0.

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
        twin, linear = disturb(image, draw, self.turn, self.scale, self.shift)
        moved = move_points(points, linear, tuple(image.shape[-2:]), _flip(points))
        landmarks = torch.cat([points, moved])
        return {"image": torch.cat([image, twin]), "linear": linear[0], "labelled": torch.tensor(float(kind == 0)),
                "landmarks": landmarks if kind == 0 else torch.full_like(landmarks, torch.nan)}


class Twins:
    """``Pairs`` of batches that are made on a device: the ``change`` of ``data.Further(faces, twins.count, twins)``.

    Args:
        turn, scale, shift: as in ``draw_linear``.
        unlabelled: name of the flag of ``data.Halves(labelled, unlabelled, flag)``; None where all faces have labels.
            The labelled pairs come first, as ``labelled_count`` of ``scpan_loss`` wants them.

    Source: SCPAN Algorithm 1, steps 1 and 2.
    """

    def __init__(self, turn: float = TURN, scale: tuple[float, float] = SCALE, shift: float = 0.0,
                 unlabelled: str | None = None):
        self.turn, self.scale, self.shift, self.unlabelled = turn, scale, shift, unlabelled
        self.kinds = 1 if unlabelled is None else 2
        self.count = self.kinds * (DRAWS + 1)

    def __call__(self, batch: Mapping[str, Tensor], chance: Tensor) -> dict[str, Tensor]:
        """Image (B, 2, C, S, S), landmarks (B, 2, K, 2), linear and labelled, see ``Pairs.at``, and all else."""
        image, points = batch["image"], batch["landmarks"]
        # what is drawn for a key serves a face of each kind
        chance = chance.unflatten(1, (self.kinds, DRAWS + 1)).transpose(0, 1).flatten(0, 1)
        grain = effects.uniform((chance[:, DRAWS] * 2**24).int(),
                                torch.Size((len(image), 1 + image.shape[1], *image.shape[2:])))
        twin, linear = disturb_by(image, chance[:, :DRAWS], grain, self.turn, self.scale, self.shift)
        moved = move_points(points, linear, tuple(image.shape[-2:]), _flip(points))
        labelled = torch.ones_like(linear[:, 0, 0]) if self.unlabelled is None else 1 - batch[self.unlabelled]
        landmarks = torch.stack([points, moved], 1)
        landmarks = torch.where(labelled[:, None, None, None] > 0, landmarks, torch.full_like(landmarks, torch.nan))
        return dict(batch) | {"image": torch.stack([image, twin], 1), "linear": linear, "labelled": labelled,
                              "landmarks": landmarks}


def scpan_loss(config: ScpanConfig, weights: Weights = WEIGHTS, unlabelled: float = 1.0, shape: str = "gaussian",
               labelled_count: int | None = None, per_landmark: bool = False, calibrate_last: bool = False,
               line_shape: str = "gaussian", **lengths: Any) -> Callable:
    """The loss of SCPAN on batches of ``Pairs``: the supervised objective of the labelled ones, and the self-calibrated
    one of the others.

    Args:
        config: of the network; its lengths are those of the targets, and votes within its ``reach`` count, all of them
            where it reads as printed.
        weights: as in ``overall_loss``.
        unlabelled: weight of the self-calibrated loss of unlabelled pairs; the paper prints none.
        shape: of the landmarks' heat, see ``heatmaps.encode``.
        line_shape: of the boundaries', see ``bali_field``.
        labelled_count: so many pairs of a batch, the first ones, have labels, the others none: halves of a fixed size.
            None: those have that the batch names in ``labelled``, in any order and number.
        per_landmark: as in ``supervised_terms``; the weight of the field is then of some five times as large a sum.
        calibrate_last: as ``last`` in ``calibration_terms``.
        lengths: fields of the configuration that shall be others in the loss; ``reach`` and ``within`` None for the
            paper's.

    Returns:
        a loss for ``training.fit``, of "last", "earlier", "field", "coordinates", "calibrated" and "unlabelled", those
        of them that a batch can have. Means are taken over the labelled and over the unlabelled pairs. Shapes depend on
        no value and nothing waits for a GPU.

    Raises:
        ValueError: for a negative ``labelled_count``.

    Source: SCPAN Eq. 19 and 20, Algorithm 1, step 3.2.
    """
    config = replace(config, **lengths)
    boundaries, boundary_flip = boundaries_of(str(config.landmarks)) if config.bali else ((), ())
    if labelled_count is not None and labelled_count < 0:
        raise ValueError(f"labelled_count must not be negative, got {labelled_count}")
    how = {"sigma": config.sigmas, "radius": config.square, "decode_radius": config.window, "within": config.within,
           "reach": None if config.reading == "printed" else config.reach, "shape": shape,
           "per_landmark": per_landmark, "line_shape": line_shape}

    def loss(said: Maps, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        points, size, linear = batch["landmarks"], tuple(batch["image"].shape[-2:]), batch["linear"]
        count, parts, labelled = len(points), {}, None
        if labelled_count is None:
            labelled = batch["labelled"].to(linear)                                     # (B,)
            points = torch.where(labelled[:, None, None, None] > 0, points, torch.zeros_like(points))
        known = count if labelled_count is None else min(labelled_count, count)
        if known:
            some = said if known == count else _first(said, 2 * known)
            terms = supervised_terms(some, points[:known].flatten(0, 1), size, boundaries, **how)
            # of picture and twin
            parts = {name: getattr(weights, name) * _mean(term.unflatten(0, (known, 2)).sum(1), labelled)
                     for name, term in terms.items()}
        others = unlabelled and (labelled_count is None or known < count)
        if weights.calibrated or others:
            rows = calibration_terms(said, linear, _flip(points), boundary_flip, config.sigmas, calibrate_last)
        if known:
            parts["calibrated"] = weights.calibrated * _mean(rows[:known], labelled) if weights.calibrated else \
                torch.zeros_like(parts["last"])
        if others:
            parts["unlabelled"] = unlabelled * (_mean(rows[known:], None) if labelled is None else
                                                _mean(rows, 1 - labelled))
        return parts
    return loss


def _mean(rows: Tensor, weight: Tensor | None) -> Tensor:
    """Of (B,), all or as they weigh; 0 where none does."""
    return rows.mean() if weight is None else (rows * weight).sum() / weight.sum().clamp(min=1)


def _first(said: Maps, count: int) -> Maps:
    """The maps of the first ``count`` pictures and twins."""
    return Maps([maps[:count] for maps in said.heatmaps], [maps[:count] for maps in said.confidences],
                said.offsets[:count])


def _flip(points: Tensor) -> tuple[int, ...]:
    return tuple(markups.get(str(points.shape[-2])).flip)
