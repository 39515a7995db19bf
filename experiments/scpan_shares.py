"""SCPAN again, with sizes that are shares of the map: do the arrows help, and if not, why not?

    make claims PAPER=scpan_shares

The arms of ``experiments.scpan`` had the paper's R = 5 and r = 3, made for maps of 128 pixels, on maps of 32, where
even perfect fields are read worse than none. They could not have told that arrows help. Here R, r, sigma and reach are
shares of the map; the last block has 64 channels for its 107 outputs instead of 32; the loss of the field is taken per
landmark, as Eq. 16 has it; a step has as many labelled pairs as it says. The lite budget has crops of 64 pixels, the
other of 128.

Each trained network is read four ways, from one forward pass: "votes" (those that land within reach), "window" (the
same window, no arrows), "soft_argmax" (of the whole map), "printed" (Eq. 5). And an oracle stands in for one of its two
halves: the true field on the learnt heat, the true heat with the learnt field, both true.

The field ``budget`` of a record is the one that all arms share. The rate of "scpan_double" and the rates and steps of
the "pilot_..." are their own: they stand in ``arms`` below, and in the records' ``history``.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Subset

from experiments import scpan as before
from experiments.faces import pack, words
from facealign_lite import heatmaps, metrics, scpan
from facealign_lite.data import Crops
from facealign_lite.evaluation import Evaluation
from facealign_lite.looks import in_eval_mode
from facealign_lite.nets import parameter_count
from facealign_lite.records import Arm
from facealign_lite.scpan.network import READINGS

WHAT = "lite SCPAN and what it is made of, sizes as shares of the map, read four ways"
BUDGETS = {
    # the rate is that of the first experiment; the arms "pilot_..." try others on training faces that were held back
    "lite": {"image_size": 64, "turn": 30, "scale": [0.75, 1.0], "shift": 0.05, "steps": 500, "lr": 6e-3,
             "pairs_a_step": 4, "amp": "bf16", "crops": "batched"},
    # the paper: 256 pixels, turns of 60 degrees, 200,000 iterations
    "gpu": {"image_size": 128, "turn": 30, "scale": [0.75, 1.0], "shift": 0.05, "steps": 20_000, "lr": 3e-3,
            "pairs_a_step": 16, "amp": "bf16", "faces": 12_000, "crops": "batched"},
}
SEEDS = {"lite": [0, 1, 2], "gpu": [0, 1, 2, 3, 4]}
HELD_BACK = 300                 # of the training faces, for the pilot

CONFIG = replace(scpan.LITE, stages=2, stem=(16, 64, 64))
# on maps of 32 pixels: shares of the map, but no length below a pixel, for a narrower peak is hardly one
SMALL = {"radius": 2, "decode_radius": 1, "reach": 1.0, "within": 3, "sigma": 1.0, "sigma_earlier": 0.75}
WEIGHTS = scpan.WEIGHTS
HALVES = ("learnt field, learnt heat", "true field, learnt heat", "learnt field, true heat", "true field, true heat")


def data(budget: Mapping[str, Any]) -> str:
    """Faces, in words."""
    return words(budget)


def measure(model: scpan.Scpan, faces: Any, device: str = "cpu") -> dict[str, Any]:
    """Figures of a trained network: of every reading, of both halves made true in turn, and how good its arrows are."""
    config, crops = model.config, Crops(faces, model.config.image_size)
    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    found: dict[str, list] = {}
    rows: list[tuple[NDArray, NDArray]] = []
    squares = np.zeros((2, 2))                              # [whole mask, near], [error, true arrow]: sums of squares
    with in_eval_mode(model.to(device, memory_format=torch.channels_last)), torch.inference_mode():
        for batch in DataLoader(crops, 32):
            said, points = model(batch["image"].to(device)), batch["landmarks"].to(device)
            size = said.heatmaps[-1].shape[-1]
            on_map = heatmaps.to_heatmap(points, config.image_size, size)
            for way in READINGS:
                found.setdefault(way, []).append(scpan.read(said, replace(config, reading=way))[0])
            if config.bali:
                true, mask = scpan.fields.vectors(on_map, config.boundaries, size, config.square)
                heat = heatmaps.encode(on_map, size, config.sigma)
                for name, field, maps in zip(HALVES, (said.offsets, true, said.offsets, true),
                                             (said.heatmaps[-1], said.heatmaps[-1], heat, heat)):
                    for way in ("votes", "printed"):
                        some = scpan.Maps([maps], [], field)
                        found.setdefault(f"{name}, {way}", []).append(
                            scpan.read(some, replace(config, reading=way))[0])
                for row, where in zip(squares, (mask, mask & (true.square().sum(2) < (config.reach or 1.5) ** 2))):
                    for i, part in enumerate((said.offsets.float() - true, true)):
                        row[i] += float((part * where[:, :, None]).square().sum())
            rows.append((on_map.double().cpu().numpy(), np.array(size)))
    target = np.concatenate([points for points, _ in rows])
    errors = {way: metrics.nme(torch.cat(some).double().cpu().numpy(), target) for way, some in found.items()}
    samples = [faces[i] for i in range(len(faces))]
    main = Evaluation(torch.cat(found[config.reading]).double().cpu().numpy(), target,
                      np.concatenate([target.min(1), target.max(1)], -1), [s.tags for s in samples])
    figures = before.figures(main) | {"parameters": parameter_count(model)}
    for way in READINGS:
        figures |= {f"nme_{way}": round(float(errors[way].mean()), 6), f"errors_{way}": errors[way].round(5),
                    f"failures_{way}": float((errors[way] > 0.1).mean())}
    if config.bali:
        figures["oracle"] = {name: {way: round(float(errors[f"{name}, {way}"].mean()), 6)
                                    for way in ("votes", "printed")} for name in HALVES}
        # share of the true arrows' squares that is explained; below 0 no arrows at all would be better
        figures["arrows"] = {name: round(1 - float(row[0] / row[1]), 4) for name, row in zip(("all", "near"), squares)}
    return figures


def arm(budget: Mapping[str, Any], device: str = "auto", parts: Mapping[str, Any] | None = None,
        weights: scpan.Weights = WEIGHTS, labels: int | None = None, unlabelled: bool = False, share: float = 1.0,
        pilot: bool = False, **options: Any) -> Arm:
    """A run, measured on the benchmark.

    Args:
        parts: fields of ``scpan.ScpanConfig`` that differ from ``CONFIG``.
        weights, options: of ``scpan.scpan_loss``.
        labels: of so many faces only.
        unlabelled: as many pairs again in each step, of the other faces without labels.
        share: of a step's labelled pairs that are taken.
        pilot: train without the last ``HELD_BACK`` training faces, and measure on those.
    """
    def run(seed: int, folder: Path) -> Mapping[str, Any]:
        small = SMALL if budget["image_size"] == 64 else {}
        config = replace(CONFIG.scaled(budget["image_size"]), **small | dict(parts or {}))
        faces, test = pack(folder.parent, "train", budget), pack(folder.parent, "test", budget)
        if pilot:
            kept = len(faces) - HELD_BACK
            faces, test = Subset(faces, range(kept)), Subset(faces, range(kept, kept + HELD_BACK))
        labelled = faces if labels is None else Subset(faces, range(labels))
        others = Subset(faces, range(labels or 0, len(faces))) if unlabelled else None
        pairs = before.pairs_of(budget, share) // (2 if unlabelled else 1)
        loss = scpan.scpan_loss(config, weights, labelled_count=pairs, per_landmark=True, **options)
        model = yield from before.train(budget, device, seed, folder, config, loss, labelled, others, share)
        return measure(model, test, device) | {"pairs": before.pairs_of(budget, share)}
    return run


SHN, UNCALIBRATED = before.SHN, before.uncalibrated(WEIGHTS)
PILOT_STEPS = 0.5               # of a run's, for the rate and the weight of the field


def arms(budget: Mapping[str, Any], device: str = "auto") -> dict[str, Arm]:
    """The runs at a budget, the most important first."""
    def one(*some: Any, **more: Any) -> Arm:
        return arm(budget, device, *some, **more)

    def pilot(rate: float, *some: Any) -> Arm:
        return arm({**budget, "lr": rate * budget["lr"], "steps": max(1, round(PILOT_STEPS * budget["steps"]))},
                   device, *some, pilot=True)
    last = replace(WEIGHTS, field=0, coordinates=0, earlier=0, calibrated=0)
    return {
        # C10 with one SCPA model; and what SCPA is made of
        "shn": one(SHN, UNCALIBRATED), "bali": one({"attention": False}, UNCALIBRATED),
        "scpan": one(), "scpa": one({"bali": False}),
        "attention": one({"bali": False}, UNCALIBRATED), "calibration": one(SHN),
        # at the rate that was best for it in the pilots below; for SHN the rate of all was best
        "scpan_double": arm({**budget, "lr": 2 * budget["lr"]}, device),
        # as printed: every vote and every landmark counts in training
        "printed": one(within=None, reach=None),
        # C11: half of a step without labels against the labelled half alone. All stages calibrated (Eq. 17), or those
        # before the last (Eq. 20): that changes what labelled pairs are charged, too, so either has its other half
        "few_half": one(labels=20, share=0.5), "semi": one(labels=20, unlabelled=True, calibrate_last=True),
        "semi_eq20": one(labels=20, unlabelled=True),
        "few_half_eq17": one(labels=20, share=0.5, calibrate_last=True),
        # C12, and C10 as the paper has it
        "scpan_4": one({"stages": 4}), "shn_4": one(SHN | {"stages": 4}, UNCALIBRATED),
        "bali_4": one({"attention": False, "stages": 4}, UNCALIBRATED), "scpa_4": one({"bali": False, "stages": 4}),
        # C13, Table VIII: the last maps; earlier ones and calibration; the field; with coordinates it is "scpan"
        "terms_last": one(None, last), "terms_earlier": one(None, replace(last, earlier=4, calibrated=4)),
        "terms_field": one(None, replace(WEIGHTS, coordinates=0)),
        "terms_field_half": one(None, replace(WEIGHTS, coordinates=0, field=WEIGHTS.field / 2)),
        "terms_field_double": one(None, replace(WEIGHTS, coordinates=0, field=WEIGHTS.field * 2)),
        "terms_coordinates_20": one(None, replace(WEIGHTS, coordinates=20)),
        "terms_coordinates_60": one(None, replace(WEIGHTS, coordinates=60)),
        # the mask made of the heatmaps themselves
        "mask_maps": one({"mask": "maps"}),
        # C14, Table VII: shapes of peaks and boundaries
        **{shape: one(shape=shape, line_shape=shape)
           for shape in ("ged", "ged_wide", "ged_narrow", "student_t", "student_t_wide")},
        # C11 with more labels
        "few_half_100": one(labels=100, share=0.5),
        "semi_100": one(labels=100, unlabelled=True, calibrate_last=True),
        "few_half_500": one(labels=500, share=0.5),
        "semi_500": one(labels=500, unlabelled=True, calibrate_last=True),
        # on faces that were held back: rates, as shares of the budget's, and weights of the field
        "pilot_shn_half": pilot(0.5, SHN, UNCALIBRATED), "pilot_shn": pilot(1, SHN, UNCALIBRATED),
        "pilot_shn_double": pilot(2, SHN, UNCALIBRATED), "pilot_shn_four": pilot(4, SHN, UNCALIBRATED),
        "pilot_scpan_half": pilot(0.5), "pilot_scpan": pilot(1), "pilot_scpan_double": pilot(2),
        "pilot_scpan_four": pilot(4),
        "pilot_field_4": pilot(1, None, replace(WEIGHTS, field=4)),
        "pilot_field_64": pilot(1, None, replace(WEIGHTS, field=64)),
    }
