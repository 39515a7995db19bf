"""MSM's claims C20 to C24: what straightening the crop, and rebuilding the shape, are worth.

    make claims PAPER=msm

All arms see rough crops: turned by up to 30 degrees, too wide or too narrow, off the middle. Those without ST-GAN
learn to answer on them, those with it on straightened ones. Reconstruction follows any network that gives heat, so its
figures stand in the same records, once with the reliable landmarks kept ("sr") and once with all replaced ("every");
so do the sweeps of C22 to C24, on faces of which 20 % is hidden.
"""

from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.faces import cut, pack, words
from facealign_lite import metrics, msm
from facealign_lite.data import Augmentation, BatchedCrops, Crops, PackedFaces, write_atomic
from facealign_lite.heatmaps import decode, to_image
from facealign_lite.msm import network, stgan
from facealign_lite.nets import landmark_loss
from facealign_lite.records import Arm, lock, shared
from facealign_lite.training import TrainConfig, steps

WHAT = "lite networks of MSM, each with and without ST-GAN before it and reconstruction behind it, on rough crops"
BUDGETS = {
    "lite": {"generator_steps": 3000, "generator_lr": 1e-3, "steps": 1200, "lr": 5e-3,
             "regression_steps": 4800, "regression_lr": 7e-4, "batch_size": 16, "amp": "bf16"},   # about equal seconds
    "gpu": {"generator_steps": 30_000, "generator_lr": 1e-3, "steps": 12_000, "lr": 2.5e-3,
            "regression_steps": 48_000, "regression_lr": 7e-4, "batch_size": 32, "amp": "bf16", "faces": 12_000,
            "crops": "batched"},
}
SEEDS = {"lite": [0, 1, 2], "gpu": [0, 1, 2, 3, 4]}

SIZE = 128
ROUGH = replace(Augmentation(), shift=0.1, gamma=0.5, contrast=(0.8, 1.2), brightness=0.1, noise=0.02, inversion=0,
                light=0.1, blur=0.1, motion=0, low_resolution=0.1, jpeg=0, occluder=0.3)   # milder: few steps
PLACED = replace(ROUGH, flip=0, outlier=0, gamma=0, contrast=(1, 1), brightness=0, noise=0, colour=0, inversion=0,
                 light=0, blur=0, motion=0, low_resolution=0, jpeg=0, occluder=0)
TEST_SEED = 7                                   # of the rough boxes and of what hides the faces
HIDDEN = (0.0, 0.2, 0.4, 0.6)                   # share of the landmarks' bounding box under a grey block
SWEPT = 0.2                                     # what C22 to C24 are measured at; COFW hides 23 % on average
FAILURE = 0.1
SIZES, NEIGHBOURS, THRESHOLDS = (50, 100, 200, 500, 1000), (10, 25, 50, 100, 200, 500), (0.2, 0.4, 0.6, 0.8)


# ---- data ----------------------------------------------------------------------------------------------------------

def data(budget: Mapping[str, Any]) -> str:
    """The faces, in words."""
    return words(budget, "rough crops of the first 600 faces of the benchmark")


def shapes(folder: Path, budget: Mapping[str, Any] | None = None) -> NDArray:
    """Landmarks of the training faces, (N, 68, 2)."""
    faces = pack(folder, "train", budget)
    return np.stack([faces[i].landmarks for i in range(len(faces))])


def dictionary(folder: Path, n: int, budget: Mapping[str, Any] | None = None) -> msm.ShapeDictionary:
    """``n`` exemplars of the training faces; all arms share them, and K-means takes a minute at n = 1000."""
    path = folder / f"msm-exemplars-{n}.f64"
    with lock(path.with_suffix(".sorting"), wait=True):
        if not path.exists():
            write_atomic(path, msm.ShapeDictionary.fit(shapes(folder, budget), n).exemplars.tobytes())
    return msm.ShapeDictionary(np.fromfile(path).reshape(n, -1, 2))


class Test(NamedTuple):
    """Rough crops of the test faces: images (N, 1, S, S), landmarks (N, 68, 2), visible (N, 68)."""

    images: torch.Tensor
    landmarks: torch.Tensor
    visible: NDArray


def rough(faces: PackedFaces, hidden: float) -> Test:
    """The same crops at every ``hidden``, with a block of one tone over that share of each face."""
    crops = Crops(faces, SIZE, PLACED, TEST_SEED)
    items = [crops[i] for i in range(len(faces))]
    images, landmarks, visible = (torch.stack([item[k] for item in items])
                                  for k in ("image", "landmarks", "visibility"))
    visible = visible.numpy() > 0.5
    for i, points in enumerate(landmarks.numpy()):
        rng = np.random.default_rng((TEST_SEED, i))
        low, side = points.min(0), np.ptp(points, axis=0) * np.sqrt(hidden)
        start = low + rng.uniform(0, 1, 2) * (points.max(0) - side - low)
        tone = rng.uniform(-0.4, 0.4)
        if hidden:
            x0, y0, x1, y1 = np.concatenate([start, start + side]).round().clip(0, SIZE).astype(int)
            images[i, :, y0:y1, x0:x1] = tone
            visible[i] &= ~((points >= start) & (points <= start + side)).all(1)
    return Test(images, landmarks, visible)


# ---- training ------------------------------------------------------------------------------------------------------

def settings(budget: Mapping[str, Any], device: str, part: str, seed: int, out: Path) -> TrainConfig:
    """The run of a part: "", "generator_" or "regression_"."""
    return TrainConfig(budget[f"{part}steps"], budget["batch_size"], budget[f"{part}lr"], amp=budget["amp"], seed=seed,
                       checkpoint_every=150, out=out, device=device)


def straightener(budget: Mapping[str, Any], device: str, seed: int, folder: Path,
                 adversarial: float = stgan.ADVERSARIAL) -> Generator[int, None, stgan.Generator]:
    """The generator of a seed; the first arm that needs it trains it, all others read it."""
    torch.manual_seed(seed)
    gan = stgan.StGan()
    mean = torch.from_numpy(msm.mean_face(shapes(folder, budget)))
    crops = cut(budget, pack(folder, "train", budget), SIZE, ROUGH, seed)
    out = folder / f"msm-generator-{adversarial}-{seed}"
    yield from shared(lambda: steps(gan, crops, stgan.stgan_loss(gan, mean, adversarial),
                                    settings(budget, device, "generator_", seed, out), resume=True))
    return gan.generator.eval()


def trained(budget: Mapping[str, Any], device: str, seed: int, folder: Path, regression: bool, straight: bool
            ) -> Generator[int, None, torch.nn.Module]:
    """The landmark network of an arm."""
    torch.manual_seed(seed + 1)
    crops = cut(budget, pack(folder.parent, "train", budget), SIZE, ROUGH, seed + 1000)
    if straight:
        kind = msm.StraightBatches if isinstance(crops, BatchedCrops) else msm.StraightCrops
        crops = kind(crops, msm.mean_face(shapes(folder.parent, budget)), seed=seed)
    if regression:
        model, loss, prefix = network.RegressionNet(), network.point_loss, "regression_"
    else:
        model, loss, prefix = network.HeatNet(), landmark_loss, ""
    yield from steps(model, crops, loss, settings(budget, device, prefix, seed, folder), resume=True)
    return model.eval()


# ---- measuring -----------------------------------------------------------------------------------------------------

class Answer(NamedTuple):
    """What a network makes of test crops; points in the crop that it saw, straight or rough."""

    points: NDArray               # (N, 68, 2)
    scores: NDArray | None        # (N, 68)
    theta: torch.Tensor           # (N, 2, 3), the identity without ST-GAN


def batches(images: torch.Tensor, model: torch.nn.Module) -> Iterator[torch.Tensor]:
    device = next(model.parameters()).device
    for batch in images.split(32):
        yield batch.to(device, memory_format=torch.channels_last)


@torch.inference_mode()
def answer(test: Test, model: torch.nn.Module, generator: stgan.Generator | None,
           method: str = "soft_argmax") -> Answer:
    """``method`` of ``heatmaps.decode``: the mean of the map is what the loss trains, "argmax" what Eq. 8 takes."""
    points, scores, thetas = [], [], []
    for images in batches(test.images, model):
        theta = torch.eye(2, 3, device=images.device).expand(len(images), -1, -1)
        if generator is not None:
            theta = generator(images)
            images = stgan.straighten(images, theta)
        thetas.append(theta.double().cpu())
        if isinstance(model, network.RegressionNet):
            points.append(model(images).double().cpu())
            continue
        logits = model(images)[-1].float().cpu()
        warm = network.heat(logits)
        found = decode(logits if method == "soft_argmax" else warm, method).double()
        points.append(to_image(found, tuple(warm.shape[-2:]), (SIZE, SIZE)))
        scores.append(msm.scores(warm.numpy()))
    return Answer(torch.cat(points).numpy(), np.concatenate(scores) if scores else None, torch.cat(thetas))


def rebuilt(found: Answer, dictionary: msm.ShapeDictionary, k: int = 100, outline: float = 0.4,
            inner: float = 0.6, keep: bool = True) -> Answer:
    """Reconstruction behind the network (Algorithm 2 lines 5 to 13)."""
    trust = msm.reliable(found.scores, outline=outline, inner=inner)
    frame = stgan.to_frame(torch.from_numpy(found.points), SIZE).numpy()
    frame = dictionary.reconstruct(frame, trust, min(k, len(dictionary)), keep=keep)
    return found._replace(points=stgan.from_frame(torch.from_numpy(frame), SIZE).numpy())


def errors(found: Answer, test: Test) -> NDArray:
    """NME by outer eye corners of every face, in the rough crop."""
    points = stgan.move(torch.from_numpy(found.points), found.theta, SIZE).numpy()
    return metrics.nme(points, test.landmarks.double().numpy(), "inter_ocular", "68")


def summary(each: NDArray, suffix: str) -> dict[str, Any]:
    return {f"nme{suffix}": each.mean(), f"failures{suffix}": (each > FAILURE).mean()}


def knows(found: Answer, test: Test) -> dict[str, float]:
    """What scores know of occlusion (Fig. 15): precision and recall of "reliable" as an answer to "visible"."""
    trust = msm.reliable(found.scores)
    return {"precision": (trust & test.visible).sum() / max(trust.sum(), 1),
            "recall": (trust & test.visible).sum() / test.visible.sum(), "visible": test.visible.mean()}


def sweeps(found: Answer, test: Test, folder: Path, budget: Mapping[str, Any]) -> dict[str, NDArray]:
    """Errors of every face after reconstruction over dictionary size, neighbours and thresholds.

    ``all`` keeps every training shape.
    """
    books = {n: dictionary(folder, n, budget) for n in SIZES}
    books["all"] = msm.ShapeDictionary(msm.canonical(shapes(folder, budget)))
    each = {f"_N_{n}": errors(rebuilt(found, book), test) for n, book in books.items()}
    each |= {f"_k_{k}": errors(rebuilt(found, books[500], k), test) for k in NEIGHBOURS}
    return each | {f"_t_{a}_{b}": errors(rebuilt(found, books[500], 100, a, b), test)
                   for a in THRESHOLDS for b in THRESHOLDS}


def pose(theta: torch.Tensor, test: Test, mean: torch.Tensor) -> dict[str, float]:
    """What is left to straighten: means of rotation (degrees), of the factor in size, of the shift (faces)."""
    left = stgan.pose_residual(theta, stgan.true_theta(test.landmarks.double(), mean, SIZE))
    return {"rotation": left.rotation.abs().mean().item(), "size": left.scale.log().abs().mean().exp().item(),
            "shift": left.shift.mean().item()}


def measure(model: torch.nn.Module, generator: stgan.Generator | None, folder: Path, budget: Mapping[str, Any]
            ) -> dict[str, Any]:
    """All figures of an arm; ``folder`` is the one that all arms share."""
    figures, book = {}, dictionary(folder, 500, budget)
    for hidden in HIDDEN:
        test, end = rough(pack(folder, "test", budget), hidden), f"_{hidden:.0%}".replace("%", "") if hidden else ""
        found = answer(test, model, generator)
        each = {"": errors(found, test)}
        if not hidden:
            figures["pose"] = pose(found.theta, test, torch.from_numpy(msm.mean_face(shapes(folder, budget))))
        if found.scores is not None:
            for name, one in (("", found), ("_argmax", answer(test, model, generator, "argmax"))):
                each |= {name: errors(one, test), f"{name}_sr": errors(rebuilt(one, book), test),
                         f"{name}_every": errors(rebuilt(one, book, keep=False), test)}
            figures |= {f"scores{end}": knows(found, test)}
            if hidden == SWEPT:
                for name, one in sweeps(found, test, folder, budget).items():
                    figures |= {f"nme{name}": one.mean(), f"errors{name}": one.round(5)}
        for name, one in each.items():
            figures |= summary(one, name + end)
        if hidden < HIDDEN[-1]:
            figures |= {f"errors{name}{end}": one.round(5) for name, one in each.items() if "argmax" not in name}
    return figures


def arms(budget: Mapping[str, Any], device: str = "auto") -> dict[str, Arm]:
    """The runs at a budget, the most important first."""
    def arm(regression: bool, straight: bool) -> Arm:
        def run(seed: int, folder: Path) -> Mapping[str, Any]:
            pack(folder.parent, "train", budget), pack(folder.parent, "test", budget)    # rendered before the training
            generator = (yield from straightener(budget, device, seed, folder.parent)) if straight else None
            model = yield from trained(budget, device, seed, folder, regression, straight)
            return measure(model, generator, folder.parent, budget)
        return run

    def without_adversary(seed: int, folder: Path) -> Mapping[str, Any]:
        """The hourglass of the arm "stgan_hg" behind a generator that knew no discriminator."""
        place = folder.with_name(folder.name.replace("pure_hg", "stgan_hg"))
        model = yield from shared(lambda: trained(budget, device, seed, place, False, True))
        generator = yield from straightener(budget, device, seed, folder.parent, 0)
        return measure(model, generator, folder.parent, budget)

    def poses(adversarial: float) -> Arm:
        """The generator alone, with or without the discriminator."""
        def run(seed: int, folder: Path) -> Mapping[str, Any]:
            pack(folder.parent, "train", budget)
            test = rough(pack(folder.parent, "test", budget), 0)
            generator = yield from straightener(budget, device, seed, folder.parent, adversarial)
            with torch.inference_mode():
                theta = torch.cat([generator(images).double().cpu() for images in batches(test.images, generator)])
            mean = torch.from_numpy(msm.mean_face(shapes(folder.parent, budget)))
            same = torch.eye(2, 3, dtype=torch.float64).expand(len(theta), -1, -1)
            return pose(theta, test, mean) | {f"before_{k}": v for k, v in pose(same, test, mean).items()}
        return run
    return {
        "hg": arm(False, False), "stgan_hg": arm(False, True),                          # C20 to C24
        "stgan": poses(stgan.ADVERSARIAL), "pure": poses(0), "pure_hg": without_adversary,   # the adversary's worth
        "regression": arm(True, False), "stgan_regression": arm(True, True),            # C20
    }
