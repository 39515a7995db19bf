"""The three stages of MSM in one module, Algorithm 2 from crop to landmarks, and straight crops to train on.

Shapes: images (B, C, S, S), landmarks (B, K, 2) in pixels of the rough crop unless said.
"""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.utils.data import Dataset

from facealign_lite import markups
from facealign_lite.heatmaps import decode, to_image

from .exemplars import ShapeDictionary, reliable, scores
from .network import HeatConfig, HeatNet, heat
from .stgan import (
    EDGE,
    LITE,
    MARGIN,
    Generator,
    StGanConfig,
    from_frame,
    move,
    pixel_map,
    straighten,
    to_frame,
    true_theta,
)


@dataclass(frozen=True)
class MsmConfig:
    """Sizes of generator, hourglass and dictionary; see ``StGanConfig`` and ``HeatConfig``."""

    landmarks: int = 68
    image_size: int = EDGE                           # of both networks' crops
    in_channels: int = 1
    pools: int = 2
    channels: int = 40
    stacks: int = 2
    depth: int = 4
    stem: tuple[int, int, int] = (8, 16, 32)
    generator: tuple[int, ...] = LITE.generator
    exemplars: int = 500                             # as in the paper
    margin: float = MARGIN                           # around the dictionary's frame in a straight crop

    def __post_init__(self) -> None:
        if self.image_size != EDGE:
            raise ValueError(f"image_size must be {EDGE}, got {self.image_size}")
        markups.get(str(self.landmarks))
        if self.exemplars < 1:
            raise ValueError(f"exemplars must be at least 1, got {self.exemplars}")
        if not 1 + self.margin > 0:
            raise ValueError(f"1 + margin must be positive, got {1 + self.margin}")


class Stages(NamedTuple):
    """What the networks make of a crop."""

    theta: Tensor        # (B, 2, 3)
    straight: Tensor     # (B, C, S, S)
    logits: Tensor       # (B, K, H, W), of the straight crop


class Msm(nn.Module):
    """Generator, hourglass and, as a buffer, the exemplars. ``assemble`` makes one of trained parts.

    Source: MSM Fig. 1; the three were trained apart (section IV-C).
    """

    def __init__(self, config: MsmConfig = MsmConfig()):
        super().__init__()
        self.config = config
        self.generator = Generator(StGanConfig(config.in_channels, config.generator))
        self.hourglass = HeatNet(HeatConfig(config.landmarks, config.image_size, config.in_channels, config.pools,
                                            config.channels, config.stacks, config.depth, config.stem))
        self.register_buffer("exemplars", torch.zeros(config.exemplars, config.landmarks, 2))

    @classmethod
    def assemble(cls, generator: Generator, hourglass: HeatNet, dictionary: ShapeDictionary,
                 margin: float = MARGIN) -> "Msm":
        """One module, in eval mode, of parts that were trained apart; it shares the networks' weights.

        Raises:
            ValueError: if they read other channels or know other landmarks.
        """
        theirs, exemplars = hourglass.config, torch.from_numpy(dictionary.exemplars).float()
        if generator.config.in_channels != theirs.in_channels or exemplars.shape[1] != theirs.landmarks:
            raise ValueError(f"parts must fit: channels {generator.config.in_channels} and {theirs.in_channels}, "
                             f"landmarks {theirs.landmarks} and {exemplars.shape[1]}")
        model = cls(MsmConfig(**asdict(theirs), generator=generator.config.generator, exemplars=len(exemplars),
                              margin=margin))
        model.generator, model.hourglass, model.exemplars = generator, hourglass, exemplars
        return model.eval()

    @property
    def dictionary(self) -> ShapeDictionary:
        """The dictionary of the stored exemplars."""
        return ShapeDictionary(self.exemplars.double().cpu().numpy())

    def forward(self, images: Tensor) -> Stages:
        """Lines 2 and 3 of Algorithm 2: rough crops (B, C, S, S), values in [-0.5, 0.5], straightened and looked at."""
        theta = self.generator(images)
        straight = straighten(images, theta)
        return Stages(theta, straight, self.hourglass(straight)[-1])


class Found(NamedTuple):
    """The landmarks of rough crops, and how they came about."""

    landmarks: Tensor      # (B, K, 2)
    scores: Tensor         # (B, K), shares of the face's best
    reliable: Tensor       # (B, K) bool
    preliminary: Tensor    # (B, K, 2) before reconstruction, pixels of the straight crop
    theta: Tensor          # (B, 2, 3)


@torch.inference_mode()
def run(model: Msm, images: Tensor, reconstruct: bool = True, method: str = "center_of_mass", k: int = 100,
        ridge: float = 60.0, keep: bool = False) -> Found:
    """Rough crops in, landmarks out.

    Args:
        model: in eval mode.
        images: (B, C, S, S), values in [-0.5, 0.5].
        reconstruct: rebuild what scores low from what scores high; if not, the hourglass has the last word.
        method: of ``heatmaps.decode``. The paper's "argmax" is off by up to half a heatmap pixel along either axis,
            which is a whole pixel of the crop.
        k, ridge, keep: see ``ShapeDictionary.reconstruct``; k is cut to the dictionary's size. Replacing all landmarks,
            as line 13 does, served our networks better than keeping the reliable ones (chapter 15).

    Raises:
        ValueError: for a model in training mode, and as the stages do.

    Source: MSM Algorithm 2. Line 6 prints w max(w) where only w / max(w) is a share (see ``reliable``); line 13 needs
    D_s transposed; line 14 prints theta^-1, but Eq. 2 defines theta from straight to rough (see ``move``).
    """
    if model.training:
        raise ValueError("model must be in eval mode")
    config = model.config
    theta, _, logits = model(images)                                                    # lines 2, 3
    warm = heat(logits).cpu()
    size = tuple(warm.shape[-2:])
    maps = logits.float().cpu() if method == "soft_argmax" else warm
    shape = to_image(decode(maps, method).double(), size, config.image_size)            # S
    w = scores(warm.numpy())                                                            # line 4
    best = w.max(-1, keepdims=True)
    share = np.divide(w, best, out=np.zeros_like(w), where=best > 0)
    trust = reliable(w, str(config.landmarks))                                          # lines 5 to 10
    final = shape
    if reconstruct and len(shape):                                                      # lines 11 to 13
        dictionary = model.dictionary
        rebuilt = dictionary.reconstruct(to_frame(shape, config.image_size, config.margin).numpy(), trust,
                                         min(k, len(dictionary)), ridge, keep=keep)
        final = from_frame(torch.from_numpy(rebuilt), config.image_size, config.margin)
    theta = theta.cpu().double()
    return Found(move(final, theta, config.image_size), torch.from_numpy(share), torch.from_numpy(trust), shape,
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
        for name, value in (("rotation", rotation), ("scale", scale), ("shift", shift)):
            if not value >= 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        self.crops, self.mean = crops, torch.as_tensor(np.asarray(mean), dtype=torch.float64)
        self.spread, self.seed, self.margin = (rotation, scale, shift), seed, margin

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.at(0, index)

    def at(self, epoch: int, index: int) -> dict[str, Tensor]:
        """Item ``index`` as seen in ``epoch``: image, landmarks and visibility, as ``data.Crops`` gives them."""
        item = self.crops.at(epoch, index)
        rng = np.random.default_rng((self.seed, epoch, index, 1))
        rotation, scale, shift = self.spread
        angle, factor = np.deg2rad(rng.normal(0, rotation)), np.exp(rng.normal(0, scale))
        turn = factor * torch.tensor([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        size = item["image"].shape[-1]
        theta = true_theta(item["landmarks"][None].double(), self.mean, size, self.margin)[0]
        # straight <- disturbed: places are turned and moved before theta reads them
        away = theta[:, :2] @ torch.from_numpy(rng.normal(0, 2 * shift, 2)) + theta[:, 2]
        theta = torch.cat([theta[:, :2] @ turn, away[:, None]], 1)[None]
        matrix = pixel_map(theta, size)[0]
        landmarks = torch.linalg.solve(matrix[:, :2], (item["landmarks"].double() - matrix[:, 2]).mT).mT
        return {"image": straighten(item["image"][None], theta.float())[0], "landmarks": landmarks.float(),
                "visibility": item["visibility"]}
