"""The three stages of MSM in one module, Algorithm 2 from crop to landmarks, and straight crops to train on.

Shapes: images (B, C, S, S), landmarks (B, K, 2) in pixels of the rough crop unless said.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.utils.data import Dataset

from facealign_lite import markups
from facealign_lite.nets import Reading, fold_mirrored

from .exemplars import INNER, OUTLINE, ShapeDictionary, reliable
from .network import HEAT_PAPER, HeatConfig, HeatNet, look
from .stgan import (
    EDGE,
    LITE,
    MARGIN,
    PAPER,
    Generator,
    StGanConfig,
    fit_theta,
    from_frame,
    move,
    move_back,
    product,
    straighten,
    to_frame,
    true_theta,
)


@dataclass(frozen=True)
class MsmConfig(HeatConfig):
    """Sizes of hourglass, generator and dictionary, and all that decides how a crop is read.

    The defaults are the lite model; the paper's values stand beside them.
    """

    generator: tuple[int, ...] = LITE.generator
    exemplars: int = 500                             # as in the paper
    margin: float = MARGIN                           # around the dictionary's frame in a straight crop
    # which landmarks to rebuild, and how; see ``reliable`` and ``ShapeDictionary.reconstruct``. Chosen with the shipped
    # weights on 400 rendered faces that neither training nor tests know, under cards of 0 to 40 % of the face, for
    # J, the share of landmarks in sight that is called reliable less that of the hidden ones, among the settings that
    # rebuild best: 0.12 at r = 2 and the paper's thresholds.
    outline: float = OUTLINE                         # as in the paper, Table IX
    inner: float = 0.7                               # paper 0.6, J 0.36; here 0.45, and shapes rebuilt as well
    floor: float = 0.5                               # share of a clean peak's score; the paper has none. With 0.4 a
                                                     # blank crop keeps 4 reliable landmarks of 68, with 0.5 none
    relative: bool = True                            # as in the paper: thresholds are shares of the face's best score;
                                                     # if not, of a clean peak's
    k: int = 100                                     # as in the paper; cut to the dictionary's size
    ridge: float = 60.0                              # as in the paper
    keep: bool = False                               # as in the paper, Algorithm 2 line 13

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image_size != EDGE:
            raise ValueError(f"image_size must be {EDGE}, got {self.image_size}")
        markups.get(str(self.landmarks))
        for name in ("exemplars", "k"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 1 + self.margin > 0:
            raise ValueError(f"1 + margin must be positive, got {1 + self.margin}")
        for name in ("outline", "inner", "floor"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if not 0 <= self.ridge < np.inf:
            raise ValueError(f"ridge must not be negative, got {self.ridge}")
        if not isinstance(self.relative, (bool, np.bool_)):
            raise ValueError(f"relative must be True or False, got {self.relative!r}")

    @property
    def heat(self) -> HeatConfig:
        """The part that is the hourglass's."""
        return HeatConfig(**{field.name: getattr(self, field.name) for field in fields(HeatConfig)})


MSM_PAPER = MsmConfig(**asdict(HEAT_PAPER), generator=PAPER.generator, outline=OUTLINE, inner=INNER, floor=0.0)


class Stages(NamedTuple):
    """What the networks make of a crop."""

    theta: Tensor        # (B, 2, 3)
    straight: Tensor     # (B, C, S, S)
    logits: Tensor       # (B, K, H, W), of the straight crop


class Msm(nn.Module):
    """Generator, hourglass and, as a buffer, the exemplars. ``assemble`` makes one of trained parts.

    Exemplars that are all zero, as in a new module, are none: such a model rebuilds nothing, and its landmarks are the
    hourglass's. The generator that is shipped was trained without the adversary (b = 0 in Eq. 5): it is no ST-GAN.

    Source: MSM Fig. 1; the three were trained apart (section IV-C).
    """

    inputs = ("image",)

    def __init__(self, config: MsmConfig = MsmConfig()):
        super().__init__()
        self.config = config
        self.generator = Generator(StGanConfig(config.in_channels, config.generator))
        self.hourglass = HeatNet(config.heat)
        self.register_buffer("exemplars", torch.zeros(config.exemplars, config.landmarks, 2))

    @classmethod
    def assemble(cls, generator: Generator, hourglass: HeatNet, dictionary: ShapeDictionary,
                 margin: float = MARGIN, **reading: Any) -> "Msm":
        """One module, in eval mode, of parts that were trained apart; it shares the networks' weights.

        Args:
            reading: further fields of ``MsmConfig``, such as thresholds.

        Raises:
            ValueError: if they read other channels or know other landmarks.
        """
        theirs, exemplars = hourglass.config, torch.from_numpy(dictionary.exemplars).float()
        if generator.config.in_channels != theirs.in_channels or exemplars.shape[1] != theirs.landmarks:
            raise ValueError(f"parts must fit: channels {generator.config.in_channels} and {theirs.in_channels}, "
                             f"landmarks {theirs.landmarks} and {exemplars.shape[1]}")
        own = {"generator": generator.config.generator, "exemplars": len(exemplars), "margin": margin}
        model = cls(MsmConfig(**{**asdict(theirs), **own, **reading}))
        model.generator, model.hourglass, model.exemplars = generator, hourglass, exemplars
        return model.eval()

    @property
    def dictionary(self) -> ShapeDictionary | None:
        """The dictionary of the stored exemplars; None if there are none."""
        exemplars = self.exemplars.cpu().double().numpy()
        return ShapeDictionary(exemplars) if exemplars.any() else None

    def forward(self, images: Tensor) -> Stages:
        """Lines 2 and 3 of Algorithm 2: rough crops (B, C, S, S), values in [-0.5, 0.5], straightened and looked at."""
        theta = self.generator(images)
        straight = straighten(images, theta)
        return Stages(theta, straight, self.hourglass(straight)[-1])

    def graph(self, outputs: Stages) -> dict[str, Tensor]:
        """What of ``read`` is tensors all the way, for ``export``: it ends before landmarks are rebuilt from exemplars.

        Returns:
            points (B, K, 2) in pixels of the rough crop and scores (B, K), what ``run(reconstruct=False)`` gives;
            ``preliminary`` (B, K, 2), the points in pixels of the straight crop, ``w`` (B, K), the scores before they
            are cut at 1, and ``theta`` (B, 2, 3), from which ``reliable``, ``dictionary.reconstruct`` and ``move`` make
            those of ``read``.
        """
        shape, w = look(outputs.logits, self.config)
        w, theta = w / self.config.clean_score, outputs.theta.float()
        return {"points": move(shape, theta, self.config.image_size), "scores": w.clamp(max=1), "preliminary": shape,
                "w": w, "theta": theta}

    def read(self, outputs: Stages, mirrored: bool = False) -> Reading:
        """Landmarks in pixels of the rough crop, rebuilt as ``config`` says; see ``nets.reading`` and ``run``.

        A score is that of Eq. 9 over the one of a clean peak, at most 1, so that a wall scores less than a face.
        """
        found, like = _read(outputs, self.config, self.dictionary), outputs.theta.detach().float()
        reading = Reading(found.landmarks.to(like), found.scores.to(like), reliable=found.reliable.to(like.device),
                          theta=like)
        flip = markups.get(str(self.config.landmarks)).flip
        return fold_mirrored(reading, self.config.image_size, flip) if mirrored else reading


class Found(NamedTuple):
    """The landmarks of rough crops, and how they came about."""

    landmarks: Tensor      # (B, K, 2)
    scores: Tensor         # (B, K), shares of a clean peak's, at most 1
    reliable: Tensor       # (B, K) bool
    preliminary: Tensor    # (B, K, 2) before reconstruction, pixels of the straight crop
    theta: Tensor          # (B, 2, 3)


@torch.inference_mode()
def run(model: Msm, images: Tensor, reconstruct: bool = True, method: str | None = None, **reading: Any) -> Found:
    """Rough crops in, landmarks out, and what lay between.

    Args:
        model: in eval mode.
        images: (B, C, S, S), values in [-0.5, 0.5].
        reconstruct: rebuild what scores low from what scores high; if not, the hourglass has the last word, as it has
            in a model without exemplars.
        method: of ``heatmaps.decode``; None for ``config.reading``. The paper's "argmax" is off by up to half a
            heatmap pixel along either axis, which is a whole pixel of the crop.
        reading: fields of ``MsmConfig`` to read by instead of the model's own: radius, outline, inner, floor, relative,
            k, ridge, keep. Replacing all landmarks, as line 13 does, served our networks better than keeping the
            reliable ones (chapter 15).

    Returns:
        float64, on the CPU.

    Raises:
        ValueError: for a model in training mode, and as the stages do.

    Source: MSM Algorithm 2. Line 6 prints w max(w) where only w / max(w) is a share (see ``reliable``); line 13 needs
    D_s transposed; line 14 prints theta^-1, but Eq. 2 defines theta from straight to rough (see ``move``).
    """
    if model.training:
        raise ValueError("model must be in eval mode")
    config = replace(model.config, **reading, **({} if method is None else {"reading": method}))
    return _read(model(images), config, model.dictionary if reconstruct else None)      # lines 2, 3


def _read(outputs: Stages, config: MsmConfig, dictionary: ShapeDictionary | None) -> Found:
    """Lines 3 to 14 of Algorithm 2; without a dictionary nothing is rebuilt."""
    shape, w = (x.detach().cpu().double() for x in look(outputs.logits, config))        # S, w: lines 3, 4
    w = w / config.clean_score
    trust = reliable(w.numpy(), str(config.landmarks), config.outline, config.inner, config.floor,
                     config.relative)                                                   # lines 5 to 10
    theta, final = outputs.theta.detach().cpu().double(), shape
    if dictionary is not None and len(shape):                                           # lines 11 to 13
        rebuilt = dictionary.reconstruct(to_frame(shape, config.image_size, config.margin).numpy(), trust,
                                         min(config.k, len(dictionary)), config.ridge, keep=config.keep)
        final = from_frame(torch.from_numpy(rebuilt), config.image_size, config.margin)
    return Found(move(final, theta, config.image_size), w.clamp(max=1), torch.from_numpy(trust), shape,
                 theta)                                                                 # line 14


# ---- training ------------------------------------------------------------------------------------------------------

class StraightCrops(Dataset):
    """Crops straightened by their landmarks, and then, as no generator is perfect, disturbed a little.

    What the hourglass of the second stage trains on. Every item is a pure function of (seed, epoch, index).

    Args:
        crops: ``data.Crops`` of annotated faces, with an augmentation of its own or none.
        mean: (K, 2), see ``true_theta``.
        rotation: standard deviation of the disturbance, degrees. The defaults are what a lite generator leaves on
            faces that it was trained on.
        scale: the same, of the log of the size.
        shift: the same along either axis, in sides of the crop.

    Source: MSM section IV-C: "cropped by ground truth bounding boxes", augmented as the first stage's crops.
    """

    def __init__(self, crops: Any, mean: ArrayLike, rotation: float = 12.0, scale: float = 0.12, shift: float = 0.09,
                 seed: int = 0, margin: float = MARGIN):
        _check_spread(rotation, scale, shift)
        self.crops, self.mean = crops, torch.as_tensor(np.asarray(mean), dtype=torch.float64)
        self.spread, self.seed, self.margin = (rotation, scale, shift), seed, margin

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.at(0, index)

    def at(self, epoch: int, index: int) -> dict[str, Tensor]:
        """Item ``index`` as seen in ``epoch``: image, landmarks and visibility, as ``data.Crops`` gives them."""
        item = self.crops.at(epoch, index)
        landmarks, normals = item["landmarks"][None].double(), self.normals(epoch, index)[None]
        theta = true_theta(landmarks, self.mean, item["image"].shape[-1], self.margin)
        image, landmarks = _straightened(item["image"][None], landmarks, theta, normals, self.spread)
        return {"image": image[0], "landmarks": landmarks[0].float(), "visibility": item["visibility"]}

    def normals(self, epoch: int, index: int) -> Tensor:
        """The chance of an item, four standard normal numbers: turn, size, shift along x and y."""
        return torch.from_numpy(np.random.default_rng((self.seed, epoch, index, 1)).standard_normal(4))


def straight_batch(images: Tensor, landmarks: Tensor, uniforms: Tensor, mean: Tensor, rotation: float = 12.0,
                   scale: float = 0.12, shift: float = 0.09, margin: float = MARGIN) -> tuple[Tensor, Tensor]:
    """What ``StraightCrops`` does to a crop, for a batch at once on any device, without waiting for it.

    Args:
        images: (B, C, S, S).
        landmarks: (B, K, 2) pixels of ``images``, finite; nobody looks.
        uniforms: (B, 4) from 0 to 1, the only source of chance: turn, size, shift along x and y.
        mean: (K, 2), see ``true_theta``; on the device of the landmarks.
        rotation, scale, shift, margin: see ``StraightCrops``.

    Returns:
        images (B, C, S, S) and landmarks (B, K, 2) in their pixels.

    Raises:
        ValueError: for wrong shapes.
    """
    if landmarks.shape[1:] != mean.shape or uniforms.shape != (len(landmarks), 4) or len(images) != len(landmarks):
        raise ValueError(f"images, landmarks and uniforms must be (B, C, S, S), (B, {len(mean)}, 2) and (B, 4), got "
                         f"{tuple(images.shape)}, {tuple(landmarks.shape)} and {tuple(uniforms.shape)}")
    size = images.shape[-1]
    theta = fit_theta(landmarks, from_frame(mean.to(landmarks), size, margin), size)
    # P(z < x) = (1 + erf(x / sqrt 2)) / 2; at the ends, which float32 does reach, z would be infinite
    normals = math.sqrt(2) * torch.erfinv((2 * uniforms - 1).clamp(-1 + 1e-6, 1 - 1e-6))
    return _straightened(images, landmarks, theta, normals.to(landmarks), (rotation, scale, shift))


class StraightBatches:
    """``StraightCrops`` as batched data, which a training loop makes on the device, see ``data.batches``.

    Args:
        crops: ``data.BatchedCrops`` of annotated faces, with an augmentation of its own or none.
        mean, rotation, scale, shift, seed, margin: see ``StraightCrops``.
    """

    def __init__(self, crops: Any, mean: ArrayLike, rotation: float = 12.0, scale: float = 0.12, shift: float = 0.09,
                 seed: int = 0, margin: float = MARGIN):
        _check_spread(rotation, scale, shift)
        self.crops, self.seed, self.options = crops, seed, (rotation, scale, shift, margin)
        self.mean = torch.as_tensor(np.asarray(mean), dtype=torch.float32).to(crops.device)

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Crop ``index`` as in epoch 0."""
        return self.at(0, index)

    @property
    def device(self) -> torch.device:
        return self.crops.device

    def to(self, device: str | torch.device) -> "StraightBatches":
        """Move the faces; the same object."""
        self.crops.to(device)
        self.mean = self.mean.to(device)
        return self

    def at(self, epoch: int, index: int) -> dict[str, Tensor]:
        """Crop ``index`` as seen in ``epoch`` and in any batch."""
        draws = {name: tensor.to(self.device) for name, tensor in self.draws([(epoch, index)]).items()}
        return {name: tensor[0] for name, tensor in self.batch(draws).items()}

    def draws(self, keys: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        """The chance of some crops, on the CPU: that of ``crops``, and ``away`` (B, 4), see ``straight_batch``."""
        away = [np.random.default_rng((self.seed, epoch, index, 1)).random(4, np.float32) for epoch, index in keys]
        return {**self.crops.draws(keys), "away": torch.from_numpy(np.stack(away))}

    @torch.no_grad()
    def batch(self, draws: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Image, landmarks and visibility from draws that lie on the device of the faces."""
        crops = self.crops.batch(draws)
        image, landmarks = straight_batch(crops["image"], crops["landmarks"], draws["away"], self.mean, *self.options)
        return {"image": image, "landmarks": landmarks, "visibility": crops["visibility"]}


def _check_spread(rotation: float, scale: float, shift: float) -> None:
    for name, value in (("rotation", rotation), ("scale", scale), ("shift", shift)):
        if not value >= 0:
            raise ValueError(f"{name} must not be negative, got {value}")


def _straightened(images: Tensor, landmarks: Tensor, theta: Tensor, normals: Tensor,
                  spread: tuple[float, float, float]) -> tuple[Tensor, Tensor]:
    """Crops straightened by a theta that is off by ``normals`` (B, 4) times ``spread``, and their landmarks."""
    rotation, scale, shift = spread
    angle, factor = math.radians(rotation) * normals[:, 0], (scale * normals[:, 1]).exp()
    cos, sin = factor * angle.cos(), factor * angle.sin()
    turn = torch.stack([cos, -sin, sin, cos], -1).view(-1, 2, 2)
    # straight <- disturbed: places are turned and moved before theta reads them
    away = product(theta[..., :2], 2 * shift * normals[:, 2:, None]) + theta[..., 2:]
    theta = torch.cat([product(theta[..., :2], turn), away], -1)
    return straighten(images, theta.to(images.dtype)), move_back(landmarks, theta, images.shape[-1])
