"""Which face to borrow from: sets of annotated faces, how to choose among them, and pairs to train on.

Shapes: N references, K landmarks, S the side of a picture.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from facealign_lite import geometry
from facealign_lite.data import (
    MARGIN,
    Augmentation,
    Crops,
    crop,
    grey,
    load_image,
    upright_matrix,
)
from facealign_lite.heatmaps import to_heatmap
from facealign_lite.nets import to_grey

COMPARED = 128   # side of the pictures that are compared, for which the bank's ``reach`` is made
SHIPPED = Path(__file__).parents[1] / "assets" / "references.npz"


@dataclass(frozen=True)
class References:
    """Annotated faces in crops of one kind, ready to be borrowed from."""

    images: Tensor                  # (N, C, S, S) in [-0.5, 0.5]
    landmarks: Tensor               # (N, K, 2) in pixels of the crop

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or len(self.images) == 0 or self.landmarks.shape[::2] != (len(self.images), 2):
            raise ValueError(f"images must be (N, C, S, S), N > 0, and landmarks (N, K, 2), got "
                             f"{tuple(self.images.shape)} and {tuple(self.landmarks.shape)}")

    @classmethod
    def of(cls, samples: Sequence[Any], size: int, colour: bool = False, margin: float = MARGIN) -> "References":
        """Plain crops of annotated samples, ``size`` pixels a side."""
        crops = Crops(samples, size, colour=colour, margin=margin)
        rows = [crops[i] for i in range(len(crops))]
        return cls(torch.stack([row["image"] for row in rows]), torch.stack([row["landmarks"] for row in rows]))

    @classmethod
    def shipped(cls) -> "References":
        """A few dozen rendered faces, grey, 128 pixels a side; tools/build_references.py made them."""
        with np.load(SHIPPED) as file:
            images, landmarks = torch.from_numpy(file["images"]), torch.from_numpy(file["landmarks"])
        return cls(images[:, None].float() / 255 - 0.5, landmarks)

    @classmethod
    def given(cls, photo: Any, landmarks: ArrayLike, size: int, colour: bool = False) -> "References":
        """The one face of a photo, in an upright crop ``size`` pixels a side.

        Args:
            photo: as ``data.load_image`` takes it.
            landmarks: (K, 2) in its pixels.

        Raises:
            ValueError: if landmarks are not finite or make no face.
        """
        picture, matrix = load_image(photo), upright_matrix(landmarks, size)
        shown = torch.from_numpy(crop(picture if colour else grey(picture), matrix, size)).float() / 255 - 0.5
        points = torch.from_numpy(geometry.transform(np.asarray(landmarks, np.float64), matrix)).float()
        images = shown.view(size, size, -1).permute(2, 0, 1)[None]
        return cls(images.expand(-1, 3 if colour else 1, -1, -1), points[None])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, which: ArrayLike) -> "References":
        """Those named, in that order."""
        which = torch.as_tensor(np.atleast_1d(which))
        return References(self.images[which], self.landmarks[which])

    def resized(self, size: int) -> "References":
        """The same crops with ``size`` pixels a side."""
        images = F.interpolate(self.images, (size, size), mode="bilinear", align_corners=False, antialias=True)
        return References(images, to_heatmap(self.landmarks, tuple(self.images.shape[-2:]), size))

    def degraded(self, side: int) -> "References":
        """The pictures as ``side`` pixels would show them; corr_m1 and corr_m2 of RHT Table VII."""
        return References(low_resolution(self.images, side), self.landmarks)

    def mean_shape(self) -> "References":
        """One reference without a picture, its landmarks the mean of all: any heatmap at all, but no face.

        Source: not in the paper.
        """
        return References(torch.zeros_like(self.images[:1]), self.landmarks.mean(0, keepdim=True))

    def wrong(self) -> "References":
        """Every picture with the landmarks of another: what is similar is no longer where its heat is.

        Source: not in the paper.
        """
        return References(self.images, self.landmarks.roll(len(self) // 2 or 1, 0))

    def shifted(self, share: float = 0.25, seed: int = 0) -> "References":
        """Every face's landmarks moved as one, each face's in a direction of its own.

        Args:
            share: how far, of the picture's side; a quarter is four places of 16 x 16.

        Source: not in the paper.
        """
        angle = torch.rand(len(self), generator=torch.Generator().manual_seed(seed)) * 2 * torch.pi
        way = share * self.images.shape[-1] * torch.stack([angle.cos(), angle.sin()], -1)
        return References(self.images, self.landmarks + way[:, None])

    def bank(self, **settings: Any) -> "ReferenceBank":
        """The bank that chooses among them; ``settings`` as it takes them."""
        shown = self.resized(COMPARED)
        return ReferenceBank([as_picture(image) for image in shown.images], shown.landmarks.numpy(), **settings)


class Pairs(Crops):
    """Crops of faces, each with a reference face whose landmarks are known: what ``Rht`` is trained and tested on.

    Args:
        samples, size, augment, seed, colour, margin: see ``data.Crops``.
        references: pictures of half the ``size``.
        choice: (N,) which reference each sample has; None for a random one at every look, as in the paper's training.

    Raises:
        ValueError: if references are of another size or colour, or the choice does not fit.
    """

    def __init__(self, samples: Sequence[Any], references: References, choice: ArrayLike | None = None,
                 size: int = 128, augment: Augmentation | None = None, seed: int = 0, colour: bool = False,
                 margin: float = MARGIN):
        super().__init__(samples, size, augment, seed, colour, margin)
        wanted = (3 if colour else 1, size // 2, size // 2)
        if tuple(references.images.shape[1:]) != wanted:
            raise ValueError(f"references must have pictures {wanted}, got {tuple(references.images.shape[1:])}")
        if choice is not None:
            choice = np.asarray(choice)
            if choice.shape != (len(samples),) or choice.min() < 0 or choice.max() >= len(references):
                raise ValueError(f"choice must be {len(samples)} numbers in 0 .. {len(references) - 1}, got {choice}")
        self.references, self.choice = references, choice

    def at(self, epoch: int, index: int) -> dict[str, Tensor]:
        """Crop ``index`` as seen in ``epoch``, and ``reference`` (C, S/2, S/2) with ``reference_landmarks`` (K, 2)."""
        item = super().at(epoch, index)
        which = np.random.default_rng((self.seed, epoch, index, 1)).integers(len(self.references)) \
            if self.choice is None else self.choice[index]
        return item | {"reference": self.references.images[which], "chosen": torch.tensor(int(which)),
                       "reference_landmarks": self.references.landmarks[which]}


@lru_cache(maxsize=4)
def shipped_for(size: int) -> tuple[References, "ReferenceBank"]:
    """The shipped faces, half the ``size`` of the crops that borrow, and the bank that chooses among them.

    The bank sees its own faces as those crops would show them: SIFT finds other keypoints where a small crop is blown
    up to be compared.
    """
    faces = References.shipped()
    seen = faces if size >= COMPARED else faces.resized(size)
    return faces.resized(size // 2), seen.bank()


class Lender(nn.Module):
    """``Pairs`` with random references for batches made on a device: ``data.Further(faces, 1, Lender(references))``.

    Args:
        references: pictures of half the size of the crops.
    """

    def __init__(self, references: References):
        super().__init__()
        self.register_buffer("images", references.images, persistent=False)
        self.register_buffer("landmarks", references.landmarks, persistent=False)

    def forward(self, batch: Mapping[str, Tensor], chance: Tensor) -> dict[str, Tensor]:
        """The batch, and what ``Pairs.at`` adds to a crop, chosen by the first of ``chance`` (B, 1) in [0, 1)."""
        which = (chance[:, 0] * len(self.images)).long()
        return dict(batch) | {"reference": self.images.index_select(0, which), "chosen": which,
                              "reference_landmarks": self.landmarks.index_select(0, which)}


WAYS = ("most", "least", "neutral", "random")


def choose(way: str, samples: Sequence[Any], bank: "ReferenceBank", seed: int = 0, margin: float = MARGIN) -> NDArray:
    """A reference for each sample: (N,) places in the bank.

    Args:
        way: "most" or "least" correlated by SIFT (corr_m, corr_l), "neutral", or "random".
        samples: faces with boxes.
        seed: of the random ones.

    Raises:
        ValueError: for another way.

    Source: RHT section III-D and Table VII.
    """
    if way not in WAYS:
        raise ValueError(f"way must be one of {WAYS}, got {way!r}")
    if way == "neutral":
        return np.full(len(samples), bank.neutral())
    if way == "random":
        return np.random.default_rng(seed).integers(len(bank), size=len(samples))
    crops = Crops(samples, COMPARED, margin=margin)
    return np.concatenate([answer(bank, crops[i]["image"][None], way) for i in range(len(crops))])


def answer(bank: "ReferenceBank", crops: Tensor, way: str = "most") -> NDArray:
    """The most, or "least", correlated face of the bank for each crop (B, 1 or 3, S, S) in [-0.5, 0.5]: (B,)."""
    ask = bank.most_correlated if way == "most" else bank.least_correlated
    if crops.shape[-1] != COMPARED:
        crops = F.interpolate(crops, (COMPARED, COMPARED), mode="bilinear", align_corners=False, antialias=True)
    return np.array([ask(as_picture(crop)) for crop in crops])


def as_picture(image: Tensor) -> NDArray[np.uint8]:
    """(1 or 3, S, S) in [-0.5, 0.5] -> grey (S, S) uint8."""
    return ((to_grey(image[None])[0, 0] + 0.5) * 255).round().clamp(0, 255).byte().cpu().numpy()


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
