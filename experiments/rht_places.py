"""RHT with four times the places: what a reference, and perfect matches with it, add on a grid of 16 x 16.

    python -m experiments rht_places

On crops of 64 pixels, as in ``experiments.rht`` at the lite budget, the faces are compared on 8 x 8 places, and even
perfect matches leave more error than a network without a reference has (chapter 12b). Crops of 128 pixels have
16 x 16. A look costs four times as much, so there are only the arms that decide, fewer looks, and no maps of
boundaries. The networks have a hidden layer before their maps, without which narrow features hold them back (chapter
12).
"""

from collections.abc import Mapping
from typing import Any

from experiments.rht import Oracle, arm, data
from facealign_lite.records import Arm

__all__ = ["BUDGETS", "SEEDS", "WHAT", "arms", "data"]

WHAT = "lite RHT on 16 x 16 places: no reference, found matches, perfect matches; rendered faces"
BUDGETS = {
    "lite": {"image_size": 128, "steps": 700, "batch_size": 8, "lr": 4e-3, "amp": "bf16"},
    # the paper's 32 x 32
    "gpu": {"image_size": 256, "steps": 12_000, "batch_size": 32, "lr": 2e-3, "amp": "bf16", "face_size": 320,
            "faces": 4000, "crops": "batched"},
}
SEEDS = {"lite": [0, 1, 2], "gpu": [0, 1, 2, 3, 4]}
SIGMA = 1 / 16             # of the heat, as a share of the map, as in the records of ``experiments.rht``: broad heat is
                           # learnt in fewer steps


def arms(budget: Mapping[str, Any], device: str = "auto") -> dict[str, Arm]:
    """The runs at a budget, the most important first."""
    common = {"boundaries": False, "hard": False, "sigma": SIGMA * budget["image_size"] / 2}
    return {
        "blocks": arm(budget, device, common | {"soft": False}),
        "stm_oracle": arm(budget, device, common, kind=Oracle),
        "stm": arm(budget, device, common, lenders=("most", "random_0", "wrong", "own")),
        "stm_wrong": arm(budget, device, common, lent="wrong"),
    }
