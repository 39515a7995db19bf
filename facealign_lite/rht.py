"""RHT: the heatmaps of a known face, moved onto another, help to find its landmarks.

Wan et al., Precise Facial Landmark Detection by Reference Heatmap Transformer.

Shapes: B batch, C channels, H W of the coarse (1x) map, s = 1, 2, 4 a finer scale. The query is the target face, the
key the reference face, the value the reference's heatmap features. Positions are counted row by row. An affine map
``theta`` (B, 2, 3) acts on coordinates in which the map reaches from -1 to 1, so that one serves all scales.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from facealign_lite import geometry

WEIGHT = 0.1     # lambda, of the affine consistency (section III-D)
TINY = 1e-8      # a shorter patch has no direction


# ---- soft transformation -------------------------------------------------------------------------------------------

def soft_transform(query: Tensor, key: Tensor, value: Tensor, patch: int = 3, block: int = 256
                   ) -> tuple[Tensor, Tensor, Tensor]:
    """For each place of the target, the features of the most similar place of the reference, times the similarity.

    Args:
        query, key: (B, C, H, W) local features of target and reference.
        value: (B, C', sH, sW) features of the reference's heatmaps; at s > 1 a place is a block of s x s pixels.
        patch: side of the compared patches, odd; 1 compares single positions. Beyond the border there is 0.
        block: target positions compared at a time, see ``correlate``.

    Returns:
        features: (B, C', sH, sW), weighted by the confidence.
        confidence: (B, 1, H, W) in [-1, 1].
        index: (B, H W) positions of the reference.

    Raises:
        ValueError: for shapes that do not fit, an even patch, or an empty block.

    Source: RHT Eq. 3. The paper transforms at three scales and does not say how; here the faces are compared once, at
    1x, and the finer scales fetch what lies at the same place, as in Yang et al. 2020 (its [43]).
    """
    confidence, index = correlate(query, key, patch, block)
    return transfer(value, index, confidence), confidence, index


def correlate(query: Tensor, key: Tensor, patch: int = 3, block: int = 256) -> tuple[Tensor, Tensor]:
    """The greatest cosine of each target patch with any reference patch, and where that is: (B, 1, H, W), (B, H W).

    The H W x H W cosines are never held at once: at most B block H W of them, then B C patch^2 H W numbers each for
    the patches of query, key and the chosen ones. For 64 channels of 128 x 128, forward and backward, that is 0.3 GiB
    at its peak in place of 1.2. Gradients reach the chosen pairs only, as those of a maximum do.
    A patch of zeros is like no other: its confidence is 0, and no gradient passes.

    Source: RHT Eq. 1 and 2; both must run over the reference positions, where the print has the target's.
    """
    if query.ndim != 4 or query.shape != key.shape:
        raise ValueError(f"query and key must both be (B, C, H, W), got {tuple(query.shape)} and {tuple(key.shape)}")
    if patch < 1 or patch % 2 == 0:
        raise ValueError(f"patch must be odd and at least 1, got {patch}")
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block}")
    q, k = _directions(query, patch), _directions(key, patch)                           # (B, C patch^2, H W)
    with torch.no_grad():
        # D^i = argmax_j <q_i, k_j>
        index = torch.cat([(part.mT @ k).argmax(-1) for part in q.split(block, dim=-1)], dim=-1)
    chosen = k.gather(-1, index[:, None].expand_as(k))
    confidence = (q * chosen).sum(1).clamp(-1, 1)               # rounding; the gradient of a cosine is 0 there anyway
    return confidence.unflatten(-1, query.shape[-2:])[:, None], index


def transfer(value: Tensor, index: Tensor, confidence: Tensor) -> Tensor:
    """Features at the chosen places of the reference, times the confidence: (B, C', sH, sW).

    Args:
        value: (B, C', sH, sW).
        index: (B, H W) positions of the coarse map.
        confidence: (B, 1, H, W), the same for all s x s pixels of a place.

    Source: RHT Eq. 3.
    """
    height, width = confidence.shape[-2:]
    s = _scale(value, confidence)
    if index.shape != (len(value), height * width):
        raise ValueError(f"index must be ({len(value)}, {height * width}), got {tuple(index.shape)}")
    blocks = F.pixel_unshuffle(value, s).flatten(2)                                     # (B, C' s^2, H W)
    fetched = blocks.gather(-1, index[:, None].expand_as(blocks)).unflatten(-1, (height, width))
    # F_S = F_T * A
    return F.pixel_shuffle(fetched * confidence, s)


def _directions(features: Tensor, patch: int) -> Tensor:
    patches = F.unfold(features, patch, padding=patch // 2)                             # (B, C patch^2, H W)
    length = torch.linalg.vector_norm(patches, dim=1, keepdim=True)
    return patches / length.masked_fill(length < TINY, torch.inf)


def _scale(fine: Tensor, coarse: Tensor) -> int:
    """How many times finer ``fine`` is than ``coarse``, a whole number."""
    if fine.ndim != 4 or coarse.ndim != 4 or coarse.shape[:2] != (len(fine), 1):
        raise ValueError(f"features and confidence must be (B, C, sH, sW) and (B, 1, H, W), got {tuple(fine.shape)} "
                         f"and {tuple(coarse.shape)}")
    s = fine.shape[-1] // coarse.shape[-1]
    if s < 1 or fine.shape[-2:] != (s * coarse.shape[-2], s * coarse.shape[-1]):
        raise ValueError(f"features must be a whole number of times as fine as the confidence, got "
                         f"{tuple(fine.shape[-2:])} and {tuple(coarse.shape[-2:])}")
    return s


# ---- hard transformation -------------------------------------------------------------------------------------------

def hard_transform(value: Tensor, theta: Tensor) -> Tensor:
    """The reference's features, moved by one affine map and read bilinearly; 0 beyond its border.

    Args:
        value: (B, C, H, W).
        theta: (B, 2, 3), where each place of the output looks in ``value``: from target to reference.

    Returns:
        (B, C, H, W).

    Raises:
        ValueError: if the shapes do not fit.

    Source: RHT Eq. 4. -1 and 1 are the outer edges of the border pixels, -0.5 and W - 0.5, not their centres.
    """
    if value.ndim != 4 or theta.shape != (len(value), 2, 3):
        raise ValueError(f"value and theta must be (B, C, H, W) and (B, 2, 3), got {tuple(value.shape)} and "
                         f"{tuple(theta.shape)}")
    grid = F.affine_grid(theta.to(value.dtype), list(value.shape), align_corners=False)
    return F.grid_sample(value, grid, align_corners=False)


def to_theta(matrix: ArrayLike, size: tuple[int, int]) -> NDArray[np.float64]:
    """The (2, 3) map of pixels of a (height, width) map as ``hard_transform`` wants it."""
    # x = (w u + w - 1) / 2 for u in [-1, 1]
    to_pixels = _from_unit(size)
    return geometry.compose(geometry.invert(to_pixels), geometry.compose(matrix, to_pixels))


def to_matrix(theta: ArrayLike, size: tuple[int, int]) -> NDArray[np.float64]:
    """The (2, 3) map ``theta`` in pixels of a (height, width) map; the inverse of ``to_theta``."""
    to_pixels = _from_unit(size)
    return geometry.compose(to_pixels, geometry.compose(theta, geometry.invert(to_pixels)))


def _from_unit(size: tuple[int, int]) -> NDArray[np.float64]:
    height, width = size
    if height < 1 or width < 1:
        raise ValueError(f"size must be at least one pixel, got {size}")
    return np.array([[width / 2, 0, (width - 1) / 2], [0, height / 2, (height - 1) / 2]])


class Localization(nn.Module):
    """Six affine numbers from the local features of target and reference; the identity before training.

    Source: RHT section III-A after Jaderberg et al. 2015; the paper gives no layers.
    """

    def __init__(self, channels: int, hidden: int = 32):
        super().__init__()
        self.look = nn.Sequential(_convolution(2 * channels, hidden, 2), _convolution(hidden, hidden, 2),
                                  nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.theta = nn.Linear(16 * hidden, 6)
        nn.init.zeros_(self.theta.weight)
        with torch.no_grad():
            self.theta.bias.copy_(torch.eye(2, 3).flatten())

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """(B, C, H, W) twice -> (B, 2, 3)."""
        return self.theta(self.look(torch.cat([query, key], 1))).unflatten(-1, (2, 3))


# ---- the transformer and the fusion --------------------------------------------------------------------------------

@dataclass(frozen=True)
class RhtConfig:
    """Size of the reference branch and of the fusion. The defaults are lite; the paper's values stand beside them."""

    maps: int = 68 + 13                       # heatmaps of the reference: landmarks, then boundaries
    image_size: int = 128                     # as in the paper; the finest features are as large
    in_channels: int = 1                      # paper 3 (RGB)
    widths: tuple[int, int, int] = (64, 32, 16)  # at 1x, 2x, 4x; paper (256, 128, 64)
    patch: int = 3                            # not given in the paper

    def __post_init__(self) -> None:
        for name in ("maps", "image_size", "in_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.image_size % 4:
            raise ValueError(f"image_size must be a multiple of 4, got {self.image_size}")
        if len(self.widths) != 3 or min(self.widths) < 1:
            raise ValueError(f"widths must be three positive numbers, got {self.widths}")
        if self.patch < 1 or self.patch % 2 == 0:
            raise ValueError(f"patch must be odd and at least 1, got {self.patch}")


LITE = RhtConfig()
PAPER = RhtConfig(in_channels=3, widths=(256, 128, 64))


class Transformed(NamedTuple):
    """What the reference gives: features at 1x, 2x, 4x, and where they came from."""

    soft: list[Tensor]       # (B, C_s, sH, sW), weighted by the confidence
    hard: list[Tensor]       # the same shapes
    confidence: Tensor       # (B, 1, H, W)
    index: Tensor            # (B, H W)
    theta: Tensor            # (B, 2, 3)


class LocalFeatures(nn.Module):
    """Convolution, normalisation, rectifier: features of an image, or of a stack of heatmaps, at three scales."""

    def __init__(self, in_channels: int, widths: tuple[int, int, int]):
        super().__init__()
        coarse, middle, fine = widths
        self.to_4x = nn.Sequential(_convolution(in_channels, fine), _convolution(fine, fine))
        self.to_2x = nn.Sequential(_convolution(fine, middle, 2), _convolution(middle, middle))
        self.to_1x = nn.Sequential(_convolution(middle, coarse, 2), _convolution(coarse, coarse))

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, in_channels, S, S) -> features of sides S/4, S/2, S."""
        fine = self.to_4x(x)
        middle = self.to_2x(fine)
        return [self.to_1x(middle), middle, fine]


class ReferenceTransformer(nn.Module):
    """Soft and hard transformation of a reference's heatmaps onto a target, at three scales.

    Source: RHT section III-A and Fig. 2.
    """

    def __init__(self, config: RhtConfig = LITE):
        super().__init__()
        self.config = config
        self.looks = LocalFeatures(config.in_channels, config.widths)      # one extractor for both faces
        self.values = LocalFeatures(config.maps, config.widths)
        self.localization = Localization(config.widths[0])

    def forward(self, target: Tensor, reference: Tensor, heatmaps: Tensor) -> Transformed:
        """Both faces (B, in_channels, S, S), the reference's true heatmaps (B, maps, S, S).

        Raises:
            ValueError: for other shapes; S must be a multiple of 4.
        """
        shape = tuple(target.shape)
        if len(shape) != 4 or shape[1] != self.config.in_channels or shape[2] % 4 or shape[3] % 4:
            raise ValueError(f"target must be (B, {self.config.in_channels}, H, W) with H and W multiples of 4, "
                             f"got {shape}")
        if tuple(reference.shape) != shape or tuple(heatmaps.shape) != (shape[0], self.config.maps, *shape[2:]):
            raise ValueError(f"reference and heatmaps must be {shape} and {(shape[0], self.config.maps, *shape[2:])}, "
                             f"got {tuple(reference.shape)} and {tuple(heatmaps.shape)}")
        query, key, values = self.looks(target)[0], self.looks(reference)[0], self.values(heatmaps)
        confidence, index = correlate(query, key, self.config.patch)
        theta = self.localization(query, key)
        return Transformed([transfer(value, index, confidence) for value in values],
                           [hard_transform(value, theta) for value in values], confidence, index, theta)


class FeatureFusion(nn.Module):
    """The target's own features plus one convolution of all three joined.

    Source: RHT Eq. 5.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.join = nn.Conv2d(3 * channels, channels, 3, padding=1)

    def forward(self, hard: Tensor, soft: Tensor, features: Tensor) -> Tensor:
        """(B, C, H, W) thrice -> the same shape."""
        # F' = F_G + Conv(F_E, F_S, F_G)
        return features + self.join(torch.cat([hard, soft, features], 1))


class MultiScaleFusion(nn.Module):
    """Fuse at 1x, go up by a transposed convolution, fuse at 2x, go up, fuse at 4x.

    Source: RHT Eq. 5, 6 and Fig. 3.
    """

    def __init__(self, widths: tuple[int, int, int] = LITE.widths):
        super().__init__()
        self.fuse = nn.ModuleList(FeatureFusion(width) for width in widths)
        self.up = nn.ModuleList(nn.ConvTranspose2d(a, b, 4, stride=2, padding=1) for a, b in zip(widths, widths[1:]))

    def forward(self, hard: Sequence[Tensor], soft: Sequence[Tensor], features: Tensor) -> Tensor:
        """Three scales of each, and the backbone's (B, C_1, H, W) -> (B, C_4, 4H, 4W)."""
        if len(hard) != len(self.fuse) or len(soft) != len(self.fuse):
            raise ValueError(f"hard and soft must have {len(self.fuse)} scales, got {len(hard)} and {len(soft)}")
        features = self.fuse[0](hard[0], soft[0], features)
        for fuse, up, e, s in zip(self.fuse[1:], self.up, hard[1:], soft[1:]):
            features = fuse(e, s, up(features))
        return features


def _convolution(a: int, b: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b), nn.ReLU())


# ---- losses --------------------------------------------------------------------------------------------------------

def heatmap_loss(landmarks: Tensor, true_landmarks: Tensor, visible: Tensor, boundaries: Tensor,
                 true_boundaries: Tensor) -> Tensor:
    """Squared error of a map, summed over its pixels; mean over landmarks (hidden ones count as 0), over boundaries.

    Args:
        landmarks, true_landmarks: heatmaps (B, M, H, W).
        visible: (B, M), 1 or 0.
        boundaries, true_boundaries: heatmaps (B, P, H, W).

    Returns:
        (), mean over the batch.

    Raises:
        ValueError: if shapes differ.

    Source: RHT Eq. 7.
    """
    for name, maps, truth in (("landmarks", landmarks, true_landmarks), ("boundaries", boundaries, true_boundaries)):
        if maps.ndim != 4 or maps.shape != truth.shape:
            raise ValueError(f"{name} must be two (B, M, H, W), got {tuple(maps.shape)} and {tuple(truth.shape)}")
    if visible.shape != landmarks.shape[:2]:
        raise ValueError(f"visible must be {tuple(landmarks.shape[:2])}, got {tuple(visible.shape)}")
    of_landmarks = (landmarks - true_landmarks).square().sum((-2, -1))                  # (B, M)
    of_boundaries = (boundaries - true_boundaries).square().sum((-2, -1))               # (B, P)
    return (visible * of_landmarks).mean() + of_boundaries.mean()


def consistency_loss(hard: Tensor, soft: Tensor, confidence: Tensor) -> Tensor:
    """Sum of |hard A - soft| over channels and pixels, mean over the batch: ().

    Args:
        hard, soft: (B, C, sH, sW) of one scale; ``soft`` is already weighted.
        confidence: A, (B, 1, H, W).

    Raises:
        ValueError: if the shapes do not fit.

    Source: RHT Eq. 8. With Eq. 3 it is the sum of |A| |F_E - F_T|: no confidence, or no features, is no loss either.
    """
    if hard.shape != soft.shape:
        raise ValueError(f"hard and soft must have one shape, got {tuple(hard.shape)} and {tuple(soft.shape)}")
    s = _scale(hard, confidence)
    attention = confidence.repeat_interleave(s, -2).repeat_interleave(s, -1)
    return (hard * attention - soft).abs().sum((1, 2, 3)).mean()


def overall_loss(heatmaps: Tensor, consistency: Tensor, weight: float = WEIGHT) -> Tensor:
    """Heatmap loss plus ``weight`` times consistency.

    Source: RHT Eq. 9; lambda = 0.1 in section III-D.
    """
    return heatmaps + weight * consistency


# ---- the choice of a reference -------------------------------------------------------------------------------------

class ReferenceBank:
    """Annotated faces, and which of them to borrow from.

    Faces are compared by SIFT: each keypoint of one looks for its most similar keypoint of the other within ``reach``,
    and the mean of these similarities (cosines of square-rooted descriptors, 0 where none is near) is the score. All
    descriptors of the bank, and how well each face answers to some ``words`` drawn from them, are computed once. A new
    face is first scored by its keypoints' nearest words, a product of a matrix and a vector; only the ``shortlist``
    best are matched exactly.

    Args:
        images: N grey images (H, W) uint8, crops placed alike.
        landmarks: (N, K, 2) in their pixels, for ``neutral``.
        keypoints: per face, the strongest ones.
        reach: how many pixels apart two keypoints may lie; 12 is for crops of 128. None compares them wherever they
            are, as plain matching does; it tells poses apart less well.
        words: descriptors, with their places, drawn from the bank.
        shortlist: faces matched exactly; N is slow and sure.
        seed: of the words.

    Raises:
        ValueError: for no images, or images of another kind.

    Source: RHT section III-D ("SIFT feature matching", after its [42], [43]) and Table VII; the rest is ours.
    """

    def __init__(self, images: Sequence[NDArray] | NDArray, landmarks: ArrayLike | None = None, keypoints: int = 48,
                 reach: float | None = 12.0, words: int = 2048, shortlist: int = 100, seed: int = 0):
        for name, number in (("keypoints", keypoints), ("words", words), ("shortlist", shortlist)):
            if number < 1:
                raise ValueError(f"{name} must be at least 1, got {number}")
        if reach is not None and not reach > 0:
            raise ValueError(f"reach must be positive or None, got {reach}")
        if not len(images):
            raise ValueError("images must be at least one")
        if landmarks is not None and np.shape(landmarks)[::2] != (len(images), 2):
            raise ValueError(f"landmarks must be ({len(images)}, K, 2), got shape {np.shape(landmarks)}")
        self.keypoints, self.reach, self.shortlist = keypoints, reach, shortlist
        self.landmarks = None if landmarks is None else np.asarray(landmarks, np.float64)
        # a weak threshold, so that soft faces too have enough keypoints
        self._sift = cv2.SIFT_create(nfeatures=keypoints, contrastThreshold=0.01)
        # the strongest is repeated where there are too few: a maximum does not mind
        faces = [self._describe(image) for image in images]
        faces = [np.concatenate([face, face[:1].repeat(keypoints - len(face), 0)]) for face in faces]
        self._faces = np.stack(faces)                                                   # (N, keypoints, 130)
        self._words = np.random.default_rng(seed).permutation(np.unique(np.concatenate(faces), axis=0))[:words]
        self._answers = np.stack([self._similarity(self._words, face).max(1) for face in faces])   # (N, words)

    def __len__(self) -> int:
        return len(self._faces)

    def scores(self, image: NDArray, which: ArrayLike | None = None) -> NDArray[np.float32]:
        """Similarity in [0, 1] of every face of the bank, or of those named, matched exactly: (N,)."""
        return self._exact(self._describe(image), slice(None) if which is None else np.asarray(which))

    def most_correlated(self, image: NDArray) -> int:
        """The face most like ``image`` among the shortlist (corr_m)."""
        return self._extreme(image, 1)

    def least_correlated(self, image: NDArray) -> int:
        """The face least like ``image`` among the shortlist from the other end (corr_l)."""
        return self._extreme(image, -1)

    def random(self, rng: np.random.Generator) -> int:
        """Any face, as in training."""
        return int(rng.integers(len(self)))

    def neutral(self) -> int:
        """The face whose landmarks are nearest the mean shape, place, size and turn apart.

        Raises:
            ValueError: if the bank has no landmarks.
        """
        if self.landmarks is None:
            raise ValueError("neutral needs the landmarks of the bank, got none")
        mean = self.landmarks[0]
        for _ in range(3):
            shapes = np.stack([geometry.transform(s, geometry.procrustes(s, mean)) for s in self.landmarks])
            mean = shapes.mean(0)
        return int(np.square(shapes - mean).sum((1, 2)).argmin())

    def _extreme(self, image: NDArray, sign: int) -> int:
        face, count = self._describe(image), min(3, len(self._words))
        likeness = self._similarity(face, self._words)
        nearest = np.argpartition(-likeness, count - 1, axis=1)[:, :count]
        weights = np.bincount(nearest.ravel(), np.take_along_axis(likeness, nearest, 1).ravel(), len(self._words))
        rough = self._answers @ weights.astype(np.float32)
        few = np.argsort(-sign * rough, kind="stable")[:self.shortlist]
        return int(few[(sign * self._exact(face, few)).argmax()])

    def _exact(self, face: NDArray, which: slice | NDArray) -> NDArray[np.float32]:
        bank = self._faces[which]
        return self._similarity(face, bank.reshape(-1, 130)).reshape(len(face), len(bank), -1).max(-1).mean(0)

    def _similarity(self, a: NDArray, b: NDArray) -> NDArray[np.float32]:
        """(n, 130) and (m, 130) -> (n, m): cosines, 0 beyond ``reach``."""
        cosines = a[:, :128] @ b[:, :128].T
        if self.reach is None:
            return cosines
        apart = np.square(a[:, 128:129] - b[:, 128]) + np.square(a[:, 129:] - b[:, 129])
        return np.where(apart <= self.reach**2, cosines, 0)

    def _describe(self, image: NDArray) -> NDArray[np.float32]:
        """Unit descriptors and places (n, 128 + 2) of the strongest keypoints; one row of zeros if there is none."""
        image = np.asarray(image)
        if image.ndim != 2 or image.dtype != np.uint8:
            raise ValueError(f"image must be (H, W) uint8, got {image.dtype} of shape {image.shape}")
        points, found = self._sift.detectAndCompute(image, None)
        if found is None:
            return np.zeros((1, 130), np.float32)
        strongest = np.argsort([-point.response for point in points], kind="stable")[:self.keypoints]
        # square roots of shares: their inner product is at most 1, and large entries count for less
        descriptors = np.sqrt(found / np.maximum(found.sum(1, keepdims=True), 1e-6))
        return np.column_stack([descriptors, [point.pt for point in points]]).astype(np.float32)[strongest]


def low_resolution(images: Tensor, side: int) -> Tensor:
    """Images (B, C, H, W) shrunk to ``side`` and back, bicubic: corr_m1 and corr_m2 of RHT Table VII."""
    if side < 1:
        raise ValueError(f"side must be at least 1, got {side}")
    small = F.interpolate(images, (side, side), mode="bicubic", align_corners=False, antialias=True)
    return F.interpolate(small, tuple(images.shape[-2:]), mode="bicubic", align_corners=False)
