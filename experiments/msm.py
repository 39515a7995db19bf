"""MSM's claims C20 to C24: what straightening the crop, and rebuilding the shape, are worth.

    make claims PAPER=msm

All arms see rough crops: turned by up to 30 degrees, too wide or too narrow, off the middle. Those without ST-GAN
learn to answer on them, those with it on straightened ones, disturbed as much as their own generator disturbs rendered
faces that neither training nor tests know ("validation"). On these too the rule is chosen by which landmarks count as
reliable: the radius r of Eq. 9, both thresholds, and whether they are shares of the face's best score, as in the paper,
or of a clean peak's. Nothing is chosen on the test faces.

Reconstruction follows any network that gives heat, so its figures stand in the same records, all of the same weights
and the same faces. After "nme" stands by which landmarks shapes were rebuilt, all landmarks replaced (line 13):

    nme             not rebuilt
    nme_scores      by the scores, under the rule chosen on validation faces
    nme_paper       by the scores, under the paper's thresholds and r as large in the crop as on the paper's map
    nme_judged      by the scores, under the rule that tells best on validation faces what was in sight
    nme_config      by the scores, as the shipped model itself reads them
    nme_all         by all landmarks: a shape model, but no scores
    nme_random      by as many landmarks as the scores trust in each face, drawn at random
    nme_oracle      by those that are in sight, which only the renderer knows
    nme_right       by those that the network has put in the right place, which only the labels know
    nme_keep        as "scores", but the reliable ones stay where they are, as the text has it
    nme_printed     as "scores", by Eq. 11 as printed: shape and exemplars are not brought into one pose
    nme_still       not rebuilt, behind the mean of all true theta in the place of the generator's
    nme_true        not rebuilt, behind the true theta

The sweeps of C22 to C24 are on faces of which 20 % is hidden, all landmarks replaced, by the scores and, in the row
beside it, by what is in sight ("oracle_").
"""

from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata

from experiments.faces import FACE_SIZE, cut, pack, packed, words
from facealign_lite import metrics, msm, zoo
from facealign_lite.data import Augmentation, BatchedCrops, Crops, PackedFaces, write_atomic
from facealign_lite.heatmaps import decode, to_image
from facealign_lite.msm import network, stgan
from facealign_lite.nets import landmark_loss
from facealign_lite.records import Arm, lock, shared
from facealign_lite.synthetic import SyntheticFaces
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
VALIDATION_FACES, VALIDATION_SEED = 240, 11     # rendered faces on which everything is chosen
HIDDEN = (0.0, 0.2, 0.4, 0.6)                   # share of the landmarks' bounding box under a grey block
CHOSEN_AT = (0.0, 0.2, 0.4)                     # what is chosen is chosen on all of these together
SWEPT = 0.2                                     # what C22 to C24 are measured at; COFW hides 23 % on average
FAILURE = 0.1
RIGHT = 0.05                                    # a landmark nearer than this to its place, in eye distances, is right
SIZES, NEIGHBOURS = (100, 200, 500, 1000), (10, 25, 50, 100, 200, 500)
TABLE_9 = tuple(product((0.3, 0.4, 0.5), (0.4, 0.5, 0.6, 0.7)))     # (outline, inner) of the paper's Table IX
SINGLE = (0.4, 0.5, 0.6, 0.7)                   # one threshold for all landmarks; the table has the first two
# r in pixels of the lite map; r pixels of the paper's map, of twice the side, are (r - 1/2) / 2 of it. So these are
# 1/2, the least that the lite map knows, 1, 2, 5/2 and 9/2 pixels of the paper's
RADII = (0.0, 0.25, 0.75, 1.0, 2.0)
# rules to choose from: r, thresholds of outline and the rest, whether they are shares of the face's best score
RULES = tuple(product((0.0, 0.75), (0.4, 0.6, 0.75), (0.6, 0.7, 0.75, 0.8, 0.85), (True, False)))
STEPS = tuple(round(0.05 * i, 2) for i in range(4, 20))      # of thresholds, where only the judgement is asked for
CONTROLS = {"stgan": (stgan.ADVERSARIAL, 1.0), "pure": (0.0, 1.0), "stgan_005": (0.005, 1.0), "stgan_05": (0.05, 1.0),
            "stgan_slow": (stgan.ADVERSARIAL, 0.1), "stgan_05_slow": (0.05, 0.1)}   # b of Eq. 5, the rate of D over G's
SHORT = 0.2                                     # of the steps: enough to compare settings of the game


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


def validation(folder: Path) -> PackedFaces:
    """Rendered faces that neither training nor tests know."""
    return packed(folder / f"msm-validation_{FACE_SIZE}_{VALIDATION_FACES}",
                  lambda: SyntheticFaces(VALIDATION_FACES, FACE_SIZE, VALIDATION_SEED))


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

def settings(budget: Mapping[str, Any], device: str, part: str, seed: int, out: Path, **more: Any) -> TrainConfig:
    """The run of a part: "", "generator_" or "regression_"."""
    return TrainConfig(budget[f"{part}steps"], budget["batch_size"], budget[f"{part}lr"], amp=budget["amp"], seed=seed,
                       checkpoint_every=150, out=out, device=device, **more)


def straightener(budget: Mapping[str, Any], device: str, seed: int, folder: Path,
                 adversarial: float = stgan.ADVERSARIAL, rate: float = 1.0, share: float = 1.0
                 ) -> Generator[int, None, stgan.Generator]:
    """The generator of a seed; the first arm that needs it trains it, all others read it.

    Args:
        adversarial: b of Eq. 5.
        rate: of the discriminator, a share of the generator's.
        share: of the budget's steps.
    """
    torch.manual_seed(seed)
    gan = stgan.StGan()
    mean = torch.from_numpy(msm.mean_face(shapes(folder, budget)))
    crops = cut(budget, pack(folder, "train", budget), SIZE, ROUGH, seed)
    out = folder / f"msm-generator-{adversarial}-{rate}-{share}-{seed}"
    run = settings(budget, device, "generator_", seed, out, rates={"discriminator": rate})
    run = replace(run, steps=max(1, round(share * run.steps)))
    yield from shared(lambda: steps(gan, crops, stgan.stgan_loss(gan, mean, adversarial), run, resume=True))
    return gan.generator.eval()


def spread(generator: stgan.Generator, folder: Path, budget: Mapping[str, Any]) -> dict[str, float]:
    """What a generator leaves on validation faces: the disturbance that its landmark network learns to live with.

    Returns:
        rotation, scale and shift of ``msm.StraightCrops``, roots of mean squares.
    """
    test = rough(validation(folder), 0)
    left = stgan.pose_residual(thetas(test, generator), true(test, folder, budget))
    # a distance in sides of the frame has two axes, and a crop is 1 + MARGIN frames wide
    return {"rotation": left.rotation.square().mean().sqrt().item(),
            "scale": left.scale.log().square().mean().sqrt().item(),
            "shift": (left.shift.square().mean() / 2).sqrt().item() / (1 + stgan.MARGIN)}


def trained(budget: Mapping[str, Any], device: str, seed: int, folder: Path, regression: bool,
            generator: stgan.Generator | None) -> Generator[int, None, torch.nn.Module]:
    """The landmark network of an arm: on rough crops, or on crops as a generator leaves them."""
    torch.manual_seed(seed + 1)
    crops = cut(budget, pack(folder.parent, "train", budget), SIZE, ROUGH, seed + 1000)
    if generator is not None:
        kind = msm.StraightBatches if isinstance(crops, BatchedCrops) else msm.StraightCrops
        crops = kind(crops, msm.mean_face(shapes(folder.parent, budget)), seed=seed,
                     **spread(generator, folder.parent, budget))
    if regression:
        model, loss, prefix = network.RegressionNet(), network.point_loss, "regression_"
    else:
        model, loss, prefix = network.HeatNet(), landmark_loss, ""
    yield from steps(model, crops, loss, settings(budget, device, prefix, seed, folder), resume=True)
    return model.eval()


# ---- measuring -----------------------------------------------------------------------------------------------------

class Rule(NamedTuple):
    """Which landmarks count as reliable."""

    radius: float
    outline: float
    inner: float
    relative: bool = True        # shares of the face's best score; if not, of a clean peak's


PAPER_RULE = Rule(0.75, msm.OUTLINE, msm.INNER)


class Answer(NamedTuple):
    """What a network makes of test crops; points in the crop that it saw, straight or rough."""

    points: NDArray                          # (N, 68, 2)
    scores: Mapping[float, NDArray]          # by radius, each (N, 68); empty for a regression network
    theta: torch.Tensor                      # (N, 2, 3), the identity without ST-GAN
    hottest: NDArray | None = None           # (N, 68, 2), as Eq. 8 reads the same heat


def batches(images: torch.Tensor, model: torch.nn.Module) -> Iterator[torch.Tensor]:
    device = next(model.parameters()).device
    for batch in images.split(32):
        yield batch.to(device, memory_format=torch.channels_last)


@torch.inference_mode()
def thetas(test: Test, generator: stgan.Generator | None) -> torch.Tensor:
    """The generator's theta of every crop, (N, 2, 3); the identity if there is none."""
    if generator is None:
        return torch.eye(2, 3, dtype=torch.float64).repeat(len(test.images), 1, 1)
    return torch.cat([generator(images).double().cpu() for images in batches(test.images, generator)])


def true(test: Test, folder: Path, budget: Mapping[str, Any]) -> torch.Tensor:
    """The true theta of every crop, (N, 2, 3)."""
    mean = torch.from_numpy(msm.mean_face(shapes(folder, budget)))
    return stgan.true_theta(test.landmarks.double(), mean, SIZE)


@torch.inference_mode()
def answer(test: Test, model: torch.nn.Module, theta: torch.Tensor, radii: tuple[float, ...] = RADII) -> Answer:
    """What ``model`` finds in the crops that ``theta`` straightens, read as the library reads heat."""
    points, hottest, scores = [], [], {radius: [] for radius in radii}
    for images, one in zip(batches(test.images, model), theta.split(32)):
        if not torch.equal(one, torch.eye(2, 3, dtype=one.dtype).expand_as(one)):
            images = stgan.straighten(images, one.to(images))
        if isinstance(model, network.RegressionNet):
            points.append(model(images).double().cpu())
            continue
        warm = network.heat(model(images)[-1].float().cpu())
        for found, method in ((points, "center_of_mass"), (hottest, "argmax")):
            found.append(to_image(decode(warm, method).double(), tuple(warm.shape[-2:]), (SIZE, SIZE)))
        for radius, found in scores.items():
            found.append(msm.scores(warm.numpy(), radius))
    if not hottest:
        return Answer(torch.cat(points).numpy(), {}, theta)
    return Answer(torch.cat(points).numpy(), {radius: np.concatenate(one) for radius, one in scores.items()}, theta,
                  torch.cat(hottest).numpy())


def trusted(found: Answer, rule: Rule) -> NDArray:
    """Which landmarks are reliable, (N, 68)."""
    scores = found.scores[rule.radius] / msm.clean_score(network.SIGMA, rule.radius)
    return msm.reliable(scores, outline=rule.outline, inner=rule.inner, relative=rule.relative)


def rebuilt(found: Answer, dictionary: msm.ShapeDictionary, trust: NDArray, k: int = 100, keep: bool = False,
            align: bool = True) -> Answer:
    """Reconstruction behind the network from the landmarks ``trust`` (N, 68), Algorithm 2 lines 11 to 13."""
    frame = stgan.to_frame(torch.from_numpy(found.points), SIZE).numpy()
    frame = dictionary.reconstruct(frame, trust, min(k, len(dictionary)), align=align, keep=keep)
    return found._replace(points=stgan.from_frame(torch.from_numpy(frame), SIZE).numpy())


def placed(found: Answer) -> NDArray:
    """Its points in the rough crop, (N, 68, 2)."""
    return stgan.move(torch.from_numpy(found.points), found.theta, SIZE).numpy()


def errors(found: Answer, test: Test) -> NDArray:
    """NME by outer eye corners of every face, in the rough crop."""
    return metrics.nme(placed(found), test.landmarks.double().numpy(), "inter_ocular", "68")


def right(found: Answer, test: Test) -> NDArray:
    """Which landmarks lie nearer to their place than ``RIGHT``, (N, 68)."""
    return metrics.per_landmark(placed(found), test.landmarks.double().numpy(), "inter_ocular", "68") < RIGHT


def summary(each: NDArray, suffix: str) -> dict[str, Any]:
    return {f"nme{suffix}": each.mean(), f"failures{suffix}": (each > FAILURE).mean()}


def judgement(trust: NDArray, visible: NDArray) -> dict[str, float]:
    """What ``trust`` knows of occlusion (Fig. 15): "reliable" as an answer to "in sight".

    Returns:
        precision, recall, the share that is in sight, and Youden's J: the share of landmarks in sight that is called
        reliable less that of the hidden ones; 1 knows all, 0 nothing.
    """
    recall = (trust & visible).sum() / max(visible.sum(), 1)
    return {"precision": (trust & visible).sum() / max(trust.sum(), 1), "recall": recall, "visible": visible.mean(),
            "reliable": trust.mean(), "J": recall - (trust & ~visible).sum() / max((~visible).sum(), 1)}


def rank(scores: NDArray, yes: NDArray) -> float:
    """How likely a landmark of ``yes`` (N, 68) scores more than another, scores as shares of the face's best: AUC."""
    ranks, count = rankdata(scores / np.maximum(scores.max(1, keepdims=True), 1e-9)).reshape(yes.shape), yes.sum()
    return float((ranks[yes].sum() - count * (count + 1) / 2) / max(count * (yes.size - count), 1))


def choose(known: list[tuple[Answer, Test]], book: msm.ShapeDictionary) -> dict[str, Rule]:
    """Rules chosen on validation faces: "scores" rebuilds best, "judged" has the greatest J."""
    visible = np.concatenate([test.visible for _, test in known])

    def told(rule: Rule) -> float:
        return judgement(np.concatenate([trusted(found, rule) for found, _ in known]), visible)["J"]

    def error(rule: Rule) -> float:
        return float(np.mean([errors(rebuilt(found, book, trusted(found, rule)), test).mean()
                              for found, test in known]))
    judged = [Rule(*some) for some in product((0.0, 0.75), STEPS, STEPS, (True, False))]
    return {"scores": min((Rule(*some) for some in RULES), key=error), "judged": max(judged, key=told)}


def sweeps(found: Answer, test: Test, rule: Rule, folder: Path, budget: Mapping[str, Any]) -> dict[str, Any]:
    """Errors after reconstruction over dictionary size, neighbours, thresholds and radius.

    ``N_all`` keeps every training shape. Errors of every face stand beside those that claims compare.
    """
    books = {n: dictionary(folder, n, budget) for n in SIZES}
    books["all"] = msm.ShapeDictionary(msm.canonical(shapes(folder, budget)))
    figures = {}
    for prefix, trust in (("", trusted(found, rule)), ("_oracle", test.visible)):
        each = {f"{prefix}_N_{n}": errors(rebuilt(found, book, trust), test) for n, book in books.items()}
        each |= {f"{prefix}_k_{k}": errors(rebuilt(found, books[500], trust, k), test) for k in NEIGHBOURS}
        figures |= {f"nme{name}": one.mean() for name, one in each.items()}
        figures |= {f"errors{name}": one.round(4) for name, one in each.items() if not prefix}
    for pair in (*TABLE_9, *((one, one) for one in SINGLE[2:])):
        each = errors(rebuilt(found, books[500], trusted(found, Rule(rule.radius, *pair))), test)
        figures[f"nme_t_{pair[0]}_{pair[1]}"] = each.mean()
        if pair == PAPER_RULE[1:3] or pair[0] == pair[1]:
            figures[f"errors_t_{pair[0]}_{pair[1]}"] = each.round(4)
    for radius in RADII:
        trust = trusted(found, PAPER_RULE._replace(radius=radius))
        figures |= {f"nme_r_{radius}": errors(rebuilt(found, books[500], trust), test).mean(),
                    f"scores_r_{radius}": judgement(trust, test.visible) | {
                        "auc": rank(found.scores[radius], test.visible),
                        "auc_right": rank(found.scores[radius], right(found, test))}}
    return figures


def pose(theta: torch.Tensor, target: torch.Tensor) -> dict[str, float]:
    """What is left to straighten: means of rotation (degrees), of the factor in size, of the shift (faces).

    ``bias`` is the mean factor with its sign: below 1 faces are left too small.
    """
    left = stgan.pose_residual(theta, target)
    return {"rotation": left.rotation.abs().mean().item(), "size": left.scale.log().abs().mean().exp().item(),
            "shift": left.shift.mean().item(), "bias": left.scale.log().mean().exp().item()}


def ending(hidden: float) -> str:
    """What the names of figures end in."""
    return f"_{hidden:.0%}".replace("%", "") if hidden else ""


def measure(model: torch.nn.Module, generator: stgan.Generator | None, folder: Path, budget: Mapping[str, Any],
            swept: bool = True, own: Rule | None = None) -> dict[str, Any]:
    """All figures of an arm; ``folder`` is the one that all arms share, ``own`` the rule that its model comes with."""
    book, regression = dictionary(folder, 500, budget), isinstance(model, network.RegressionNet)
    unknown = [rough(validation(folder), hidden) for hidden in CHOSEN_AT]
    known = [(answer(test, model, thetas(test, generator)), test) for test in unknown]
    mean = true(unknown[0], folder, budget).mean(0)
    figures: dict[str, Any] = {f"validation_nme{ending(hidden)}": errors(*one).mean()
                               for hidden, one in zip(CHOSEN_AT, known)}
    rules = {} if regression else choose(known, book) | {"paper": PAPER_RULE} | ({"config": own} if own else {})
    judged: list[tuple[dict[str, NDArray], NDArray]] = []
    figures |= {f"rule_{name}": rule._asdict() for name, rule in rules.items()}
    if generator is not None:
        figures["spread"] = spread(generator, folder, budget)
    for hidden in HIDDEN:
        test, end = rough(pack(folder, "test", budget), hidden), ending(hidden)
        found, target = answer(test, model, thetas(test, generator)), true(test, folder, budget)
        each = {"": errors(found, test)}
        if generator is not None:
            figures[f"pose{end}"] = pose(found.theta, target)
        if generator is not None and hidden < HIDDEN[-1]:
            for name, theta in (("_still", mean.expand_as(target)), ("_true", target)):
                each[name] = errors(answer(test, model, theta, radii=()), test)
        if not regression:
            trust = {name: trusted(found, rule) for name, rule in rules.items()}
            figures |= {f"judgement_{name}{end}": judgement(one, test.visible) for name, one in trust.items()}
            judged += [(dict(trust), test.visible)] if hidden in CHOSEN_AT else []
            # as many as the scores trust in each face: those of the smallest random numbers
            order = np.random.default_rng(TEST_SEED).random(trust["scores"].shape).argsort(1).argsort(1)
            trust |= {"all": np.ones_like(test.visible), "random": order < trust["scores"].sum(1, keepdims=True),
                      "oracle": test.visible, "right": right(found, test)}
            each |= {f"_{name}": errors(rebuilt(found, book, one), test) for name, one in trust.items()}
            each["_keep"] = errors(rebuilt(found, book, trust["scores"], keep=True), test)
            each["_printed"] = errors(rebuilt(found, book, trust["scores"], align=False), test)
            hottest = found._replace(points=found.hottest)
            each["_argmax"] = errors(hottest, test)
            each["_argmax_scores"] = errors(rebuilt(hottest, book, trust["scores"]), test)
            if swept and hidden == SWEPT:
                figures |= sweeps(found, test, rules["scores"], folder, budget)
        for name, one in each.items():
            figures |= summary(one, name + end)
        compared = ("", "_scores", "_paper", "_judged", "_config", "_all", "_random", "_oracle", "_printed", "_true")
        if hidden < HIDDEN[-1]:
            figures |= {f"errors{name}{end}": one.round(4) for name, one in each.items() if name in compared}
    for name in rules:                                  # over all shares together, as it was chosen
        trust, visible = (np.concatenate(some) for some in zip(*[(one[name], seen) for one, seen in judged]))
        figures[f"judgement_{name}_together"] = judgement(trust, visible)
    return figures


def arms(budget: Mapping[str, Any], device: str = "auto") -> dict[str, Arm]:
    """The runs at a budget, the most important first."""
    def arm(regression: bool, of: str | None) -> Arm:
        """A landmark network on rough crops, or behind the generator of the arm ``of``."""
        def run(seed: int, folder: Path) -> Mapping[str, Any]:
            pack(folder.parent, "train", budget), pack(folder.parent, "test", budget)    # rendered before the training
            generator = (yield from straightener(budget, device, seed, folder.parent, *CONTROLS[of])) if of else None
            model = yield from trained(budget, device, seed, folder, regression, generator)
            return measure(model, generator, folder.parent, budget, swept=of != "pure")
        return run

    def poses(name: str, share: float = 1.0) -> Arm:
        """The generator alone, at some b and rate of the discriminator, with a share of the budget's steps."""
        def run(seed: int, folder: Path) -> Mapping[str, Any]:
            pack(folder.parent, "train", budget)
            generator = yield from straightener(budget, device, seed, folder.parent, *CONTROLS[name], share)
            figures: dict[str, Any] = {}
            for prefix, faces in (("", pack(folder.parent, "test", budget)),
                                  ("validation_", validation(folder.parent))):
                for hidden in HIDDEN:
                    test = rough(faces, hidden)
                    target, same = true(test, folder.parent, budget), thetas(test, None)
                    still = true(rough(validation(folder.parent), 0), folder.parent, budget).mean(0).expand_as(target)
                    for state, theta in (("", thetas(test, generator)), ("before_", same), ("still_", still)):
                        figures |= {f"{prefix}{state}{key}{ending(hidden)}": value
                                    for key, value in pose(theta, target).items()}
            return figures
        return run
    def shipped(name: str) -> Arm:
        """Weights that the library ships, trained on a GPU for seven times as many steps as the lite arms."""
        def run(seed: int, folder: Path) -> Mapping[str, Any]:
            model = zoo.load(name, "cpu" if device == "auto" else device)
            if name != "msm":
                return measure(model, None, folder.parent, budget)
            config = model.config
            own = Rule(config.radius, config.outline, config.inner, config.relative)
            return measure(model.hourglass, model.generator, folder.parent, budget, own=own)
        return run
    return {
        "shipped": shipped("msm"), "hourglass": shipped("hourglass"),                   # C21 to C24, nothing is trained
        "hg": arm(False, None), "stgan_hg": arm(False, "stgan"), "pure_hg": arm(False, "pure"),      # C20 to C24
        "regression": arm(True, None), "stgan_regression": arm(True, "stgan"),                       # C20
        **{name: poses(name) for name in CONTROLS},                                     # the adversary's worth
        **{f"short_{name}": poses(name, SHORT) for name in CONTROLS},
    }
