"""RHT's claims C15 to C19: what each part adds, what the reference must be like, and whether it must be a face at all;
and what perfect matches would add, so that one can see whether better matching could have helped.

    make claims PAPER=rht

The paper trains on 300-W, COFW and AFLW for 150 epochs; what its networks start from it does not say. Here all networks
are lite, start from nothing, see rendered faces for the same few steps, and are tested on the benchmark's faces, by
subset. References come from the training faces, as in the paper: at random in training, the most correlated one in the
test.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments import claims as ledger
from experiments.faces import cut, packed
from experiments.verdict import FAILS, HOLDS, OPEN
from facealign_lite import rht
from facealign_lite.data import Augmentation, Further, PackedFaces, write_atomic
from facealign_lite.evaluation import BENCHMARK_SEED, Evaluation, evaluate
from facealign_lite.heatmaps import to_heatmap
from facealign_lite.records import Arm, lock
from facealign_lite.rht import Lender, Pairs, References, Rht, rht_loss
from facealign_lite.synthetic import SyntheticFaces
from facealign_lite.training import TrainConfig, steps

WHAT = "lite RHT, its parts, backbones and references, trained and tested on rendered faces"
# crops of half the lite size: a step costs about a quarter, so the same time trains further
BUDGETS = {
    "lite": {"image_size": 64, "steps": 800, "batch_size": 16, "lr": 6e-3, "amp": "bf16"},
    # 32 x 32 places to be matched, as in the paper: with 8 x 8 even perfect matches leave 16 % of the eye distance
    "gpu": {"image_size": 256, "steps": 12_000, "batch_size": 32, "lr": 2e-3, "amp": "bf16", "face_size": 320,
            "faces": 4000, "crops": "batched"},
}
# as the runs of the lite budget were when they were recorded
RECORDED = {"normalized": False, "sigma": 2.0, "head": 0}
SEEDS = {"lite": [0, 1, 2], "gpu": [0, 1, 2, 3, 4]}

FACES, SIZE, TRAIN_SEED, TESTED, RANDOM = 2000, 160, 51, 600, 5
# section III-D turns by 45 degrees, scales by 20 % and covers 40 % of the faces, for 150 epochs; milder for these few
AUGMENTATION = replace(Augmentation(), rotation=15, scale=(0.95, 1.15), shift=0.03, outlier=0, gamma=0.75,
                       contrast=(0.7, 1.3), brightness=0.1, noise=0.03, colour=0, inversion=0, light=0, blur=0,
                       motion=0, low_resolution=0, jpeg=0, occluder=0.2)


# ---- faces and references ------------------------------------------------------------------------------------------

def data(budget: Mapping[str, Any]) -> str:
    """The faces, in words."""
    count = budget.get("faces", FACES)
    return (f"SyntheticFaces({count}, seed={TRAIN_SEED}), which lend too; tested on {TESTED} faces of the benchmark")


def pack(folder: Path, name: str, budget: Mapping[str, Any] | None = None) -> PackedFaces:
    """The faces of one set, "train" or "test", rendered once for all arms."""
    budget = budget or {}
    size = budget.get("face_size", SIZE)
    count, seed = (budget.get("faces", FACES), TRAIN_SEED) if name == "train" else (TESTED, BENCHMARK_SEED)
    return packed(folder / f"rht_{name}_{size}_{count}_{seed}", lambda: SyntheticFaces(count, size, seed))


def chosen(folder: Path, way: str, budget: Mapping[str, Any] | None = None) -> np.ndarray:
    """Which training face each test face borrows from, asked of the bank once for all arms: (TESTED,)."""
    train, test = (pack(folder, name, budget) for name in ("train", "test"))
    path = folder / f"rht_choice_{len(test)}_{len(train)}_{way}.txt"
    with lock(path.with_suffix(".asking"), wait=True):
        if not path.exists():
            bank = References.of(train, rht.references.COMPARED).bank()
            write_atomic(path, "\n".join(map(str, rht.choose(way, test, bank))).encode())
    return np.loadtxt(path, int, ndmin=1)


def borrowed(name: str, references: References, choice: Callable[[str], np.ndarray], count: int
             ) -> tuple[References, np.ndarray]:
    """What the ``count`` test faces borrow from under a name of ``LENDERS``: references, and which of them each takes.

    Args:
        choice: way -> (count,), see ``chosen``.
    """
    if name in ("most", "least", "neutral"):
        return references, choice(name)
    if name.startswith("random"):
        return references, np.random.default_rng(int(name[-1])).integers(len(references), size=count)
    if name.startswith("most_1"):                                   # of 1 / 2 or 1 / 4 the resolution
        return references.degraded(references.images.shape[-1] // int(name[-1])), choice("most")
    if name == "mean_shape":
        return references.mean_shape(), np.zeros(count, int)
    if name == "wrong":
        return references.wrong(), choice("most")
    if name == "shifted":
        return references.shifted(), choice("most")
    if name == "no_picture":
        return References(torch.zeros_like(references.images), references.landmarks), choice("most")
    raise ValueError(f"name must be one of {LENDERS}, got {name!r}")


# Table VII, then what the paper did not ask: a heatmap but no face, the landmarks of somebody else, no pixels
LENDERS = ("most", "neutral", *(f"random_{i}" for i in range(RANDOM)), "least", "most_1_2", "most_1_4",
           "mean_shape", "wrong", "shifted", "no_picture")
FEW = ("most", "random_0", "least", "mean_shape", "wrong", "shifted", "no_picture")
OWN = "own"                # the tested face lends to itself, with its true landmarks


# ---- what a transformation would give that knew the answer ---------------------------------------------------------

class Oracle(Rht):
    """An RHT whose matches and affine map come from the true landmarks of both faces, in training and test.

    Its soft half trusts all matches wholly, its hard half has the affine map with the least squared error. It is told
    where the target's landmarks are, to within a place or an affine map, and so bounds what a reference can give; it is
    no network that could be used.
    """

    @property
    def inputs(self) -> tuple[str, ...]:
        return (*super().inputs, "landmarks")

    def forward(self, image: torch.Tensor, reference: torch.Tensor, reference_landmarks: torch.Tensor,
                landmarks: torch.Tensor) -> rht.RhtOutput:
        """As ``Rht`` does it, and the target's true landmarks (B, K, 2) in its pixels."""
        size, places = self.config.heatmap_size, self.config.image_size // 8
        with torch.no_grad():
            own = to_heatmap(landmarks, self.config.image_size, size)
            index = rht.perfect_matches(*(rht.draw(points.float(), self.config, check=False)
                                          for points in (own, reference_landmarks)), (places, places))
            # pixels to shares of the picture
            theta = rht.best_affine((own + 0.5) / size, (reference_landmarks + 0.5) / size)
        return super().forward(image, reference, reference_landmarks, index, theta)


# ---- arms ----------------------------------------------------------------------------------------------------------

def train(budget: Mapping[str, Any], device: str, config: rht.RhtConfig, faces: Sequence[Any],
          references: References, seed: int, folder: Path | None, kind: type[Rht] = Rht
          ) -> Generator[int, None, Rht]:
    """One run; each face with another random reference at every look."""
    torch.manual_seed(seed)
    model = kind(config)
    if budget.get("crops") == "batched":
        pairs = Further(cut(budget, faces, config.image_size, AUGMENTATION, seed), 1, Lender(references), seed)
    else:
        pairs = Pairs(faces, references, size=config.image_size, augment=AUGMENTATION, seed=seed)
    settings = TrainConfig(budget["steps"], budget["batch_size"], budget["lr"], amp=budget["amp"], seed=seed,
                           checkpoint_every=100, out=folder, device=device)
    yield from steps(model, pairs, rht_loss(config), settings, resume=folder is not None)
    return model


def measure(model: Rht, faces: Sequence[Any], references: References, choice: np.ndarray, device: str = "auto"
            ) -> Evaluation:
    """Errors of a trained network with those references."""
    pairs = Pairs(faces, references, choice, model.config.image_size)
    return evaluate(model, pairs, device=device)


def arm(budget: Mapping[str, Any], device: str = "auto", switches: Mapping[str, Any] | None = None,
        base: rht.RhtConfig = rht.LITE, lenders: Sequence[str] = ("most",), lent: str = "",
        kind: type[Rht] = Rht) -> Arm:
    """A run, tested with the first of ``lenders``; of the others the mean error is kept.

    Args:
        switches: what differs from ``base``.
        lent: "mean_shape", "wrong" or "shifted": what all references are made of, in training and test; whole faces if
            empty.
        kind: the network.
    """
    config = base.scaled(budget["image_size"])
    recorded = RECORDED if config.image_size == BUDGETS["lite"]["image_size"] else {}
    config = replace(config, **recorded | dict(switches or {}))

    def run(seed: int, folder: Path) -> Mapping[str, Any]:
        faces, test = (pack(folder.parent, name, budget) for name in ("train", "test"))
        whole = References.of(faces, config.heatmap_size)
        model = yield from train(budget, device, config, faces, getattr(whole, lent)() if lent else whole, seed, folder,
                                 kind)
        found = {name: measure(model, test, *borrowed(name, whole, lambda way: chosen(folder.parent, way, budget),
                                                      len(test)), device)
                 for name in ([lent] if lent else lenders) if name != OWN}
        if OWN in lenders:
            found[OWN] = measure(model, test, References.of(test, config.heatmap_size), np.arange(len(test)), device)
        first = next(iter(found.values()))
        return first.figures() | {"subsets": first.subsets(), "errors": first.errors.round(6)} | {
            f"nme_{name}": round(float(other.errors.mean()), 6) for name, other in found.items()} | {
            f"errors_{name}": other.errors.round(6) for name, other in list(found.items())[1:]}
    return run


TRANS = rht.ABLATION["trans"]


def arms(budget: Mapping[str, Any], device: str = "auto") -> dict[str, Arm]:
    """The runs at a budget, the most important first."""
    def one(*some: Any, **more: Any) -> Arm:
        return arm(budget, device, *some, **more)
    table_8 = {name: one(switches, lenders=LENDERS if name == "rht" else LENDERS[:1])        # C15; C16 by subset
               for name, switches in rht.ABLATION.items()}
    # not in the paper: the fusion's layers without any reference; and trained with a reference that is no face's
    first = {"blocks": one({"soft": False, "hard": False})}
    for name in ("trans_stm_msffm", "rht", "trans"):
        first[name] = table_8.pop(name)
    # what would be gained if the matches, or the affine map, were right; and what if heat were not where it belongs
    soft, hard = (rht.ABLATION[f"trans_{one}_msffm"] for one in ("stm", "htm"))
    oracles = {
        "stm": one(soft, lenders=(*FEW, OWN)),                  # trans_stm_msffm again: same code and seeds as oracles
        "stm_oracle": one(soft, kind=Oracle), "stm_wrong": one(soft, lent="wrong"),
        "htm_oracle": one(hard, kind=Oracle), "stm_mean_shape": one(soft, lent="mean_shape"),
        "stm_shifted": one(soft, lent="shifted"),
        # what the perfect matches themselves give away: the same, moved onto the mean shape that is nobody's
        "htm_oracle_mean_shape": one(hard, lent="mean_shape", kind=Oracle),
        "stm_oracle_mean_shape": one(soft, lent="mean_shape", kind=Oracle),
    }
    return first | oracles | table_8 | {
        "mean_shape": one(lent="mean_shape"), "wrong": one(lent="wrong"),
        "no_boundaries": one({"boundaries": False}),                                         # Table IX: C18
        # Table V: C19
        "trans_hg": one(TRANS, rht.LITE_HG), "rht_hg": one(base=rht.LITE_HG),
        "trans_h": one(TRANS, rht.LITE_H), "rht_h": one(base=rht.LITE_H),
    }


# ---- what the oracles say -------------------------------------------------------------------------------------------

NOT_RUN = "not run yet"


def diagnosis(oracle: str, found: str, without: str, folder: Path | None = None, lent: str = "matches"
              ) -> tuple[str, list[ledger.Found]]:
    """What an arm that must find its matches and one that is given them say together.

    Both are compared with the same layers that have nothing to borrow. If given matches are no gain, the idea fails
    here, for no better matching could help. If they are and found ones surely are not, this does not yet show that the
    matching fails: who hands the matches over gives away where the landmarks are, and that may be all of the gain. So
    the words say only what was seen.

    Args:
        oracle, found, without: arms as in ``experiments.claims``, "rht-stm_oracle".
        folder: of the records.
        lent: what one is given and the other must find, in the plural.

    Returns:
        the diagnosis in words, and both comparisons; none if an arm has not been run.
    """
    rows = [ledger.judge({"id": arm, "metric": "nme", "compare": [{"better": arm, "worse": without}]}, folder=folder)
            for arm in (oracle, found)]
    if not all(rows):
        return NOT_RUN, []
    both = [row[0] for row in rows]
    perfect, own = (one.verdict.says for one in both)
    if perfect == FAILS:
        return f"the idea fails here: even with given {lent} the error is larger than with nothing to borrow", both
    if perfect == OPEN:
        return f"cannot be told: it is open whether given {lent} make the error smaller", both
    if own == HOLDS:
        return (f"as the paper says: with {lent} that must be found, the error is smaller than with nothing to borrow, "
                "and so it is with given ones"), both
    if own == FAILS:
        return (f"given {lent} make the error smaller; with {lent} that must be found, it is larger than with nothing "
                "to borrow"), both
    return (f"cannot be told: given {lent} make the error smaller; it is open whether {lent} that must be found do",
            both)
