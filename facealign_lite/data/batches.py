"""Crops of a whole batch at once, made where the network is.

Two kinds of data feed a training loop. ``Crops`` reads a photo of any size when it is asked for it. *Batched data* has
all its faces in one array on the device, and three things a loop needs:

- ``draws(keys)``: all chance of a batch, a dict of tensors on the CPU, for a sequence of (epoch, index). It is a pure
  function of (seed, epoch, index) and of the same shapes for as many keys; it uses numpy alone, so that a thread can
  draw the next batch while the device computes this one.
- ``batch(draws)``: the batch, from those draws on the device. It waits for nothing and has fixed shapes, so that a CUDA
  graph can hold it together with the training step.
- ``to(device)``: moves the faces.

Shapes: B crops, C channels, S side of a crop, N faces, K landmarks.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from facealign_lite import markups
from facealign_lite.arrays import number

from . import effects
from .augmentation import Augmentation
from .crops import MARGIN
from .packed import PackedFaces
from .samples import box_of, check_box, load_image, stacked_contours
from .tensors import sent

CHANCES = 64          # uniform numbers of one crop; what an effect does not use, nobody does
ENTRIES = ("image", "landmarks", "visibility", "matrix", "index", "anchors", "contours")   # of a batch
SMALLEST = 8          # side of a crop: low resolution goes down to as much
TOGETHER = 16         # crops that a CPU makes at a time: what they need stays in its cache, and is several times faster
WEIGHTS = (0.299, 0.587, 0.114)   # of red, green and blue in grey


class BatchedCrops:
    """Training or test crops of faces of one image size, like ``Crops`` but for their chance and by batches.

    Every crop is a pure function of (seed, epoch, index): the batch in which it stands changes nothing. Placement and
    light have the distributions that ``Augmentation`` states; single crops differ from those of ``Crops``.

    Args:
        faces: ``PackedFaces``, or any sequence of objects with the attributes of ``Sample`` that have landmarks, one
            markup and images of one size.
        size: side of the crop in pixels, at least 8.
        augment: how to vary the crops; None for the plain centred crop.
        seed: of the augmentation.
        colour: RGB crops (3, S, S) instead of grey (1, S, S).
        margin: room around the box, see ``crop_matrix``.
        device: where the faces lie and the crops are made.

    Raises:
        ValueError: if there are no faces, one has no landmarks, another image size or markup, or a box without area,
            the size is too small, or there is no room around boxes.
    """

    def __init__(self, faces: Sequence[Any], size: int = 128, augment: Augmentation | None = None, seed: int = 0,
                 colour: bool = False, margin: float = MARGIN, device: str | torch.device = "cpu"):
        if len(faces) == 0:
            raise ValueError("faces must not be empty")
        if number(size, "size") < SMALLEST or size % 1:
            raise ValueError(f"size must be a whole number of at least {SMALLEST} pixels, got {size}")
        if not 0 < 1 + number(margin, "margin") < np.inf:
            raise ValueError(f"1 + margin must be positive, got {1 + margin}")
        size = int(size)
        self.size, self.augment, self.seed, self.colour, self.margin = size, augment, seed, colour, margin
        arrays = _packed(faces) if isinstance(faces, PackedFaces) else _stacked(faces)
        self.markup, self.boxes = arrays.markup, arrays.boxes
        fine = np.isfinite(self.boxes).all(1) & (self.boxes[:, :2] < self.boxes[:, 2:]).all(1)
        if not fine.all():
            raise ValueError("faces must have boxes with left < right and top < bottom, others are at "
                             f"{np.flatnonzero(~fine).tolist()}")
        self.channels = 3 if colour or arrays.images.ndim == 4 else 1                   # until the crop turns grey
        pack = {"images": arrays.images, "landmarks": arrays.landmarks, "visibility": arrays.visibility,
                "flip": np.array(markups.get(self.markup).flip)}
        if arrays.contours is not None:
            pack |= {"anchors": arrays.anchors, "contours": arrays.contours,
                     "anchor_flip": np.array(markups.ANCHOR_FLIP), "contour_flip": np.array(markups.CONTOUR_FLIP)}
        with warnings.catch_warnings():                                                 # of a pack that must not be
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # written to: nobody does
            self.pack = {name: torch.from_numpy(array) for name, array in pack.items()}
        # the larger the square around the face, the more pixels make one of the crop: never more than so many a side,
        # nor more than the image has, which is one pixel then
        pixels = _sides(self.boxes, margin).max() * _largest_scale(augment) / size
        self.levels = int(np.clip(pixels, 1, max(arrays.images.shape[1:3])))
        self.widths = {name: np.shape(column)[-1] for name, column in self._numbers(np.zeros((1, 2), int)).items()}
        self.to(device)

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Crop ``index`` as in epoch 0."""
        return self.at(0, index)

    def to(self, device: str | torch.device) -> "BatchedCrops":
        """Move the faces; the same object."""
        self.pack = {name: sent(tensor, torch.device(device)) for name, tensor in self.pack.items()}
        self.device = self.pack["images"].device
        effects.tables(self.device)                                                     # before any graph is captured
        return self

    def at(self, epoch: int, index: int) -> dict[str, Tensor]:
        """Crop ``index`` as seen in ``epoch`` and in any batch, without the first dimension of ``batch``.

        Raises:
            IndexError: beyond the last face.
        """
        draws = {name: sent(tensor, self.device) for name, tensor in self.draws([(epoch, index)]).items()}
        return {name: tensor[0] for name, tensor in self.batch(draws).items()}

    def draws(self, keys: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        """The chance of some crops, on the CPU.

        Args:
            keys: B pairs (epoch, index).

        Returns:
            index (B,) int64 and matrix (B, 2, 3) float64, image -> crop; with augmentation also other (B,) int64, the
            face whose pieces may cover this one, key (B,) int32, from which the device draws noise, and numbers (B, n)
            float32, what happens to the crop, see ``named``.

        Raises:
            IndexError: beyond the last face.
        """
        keys = np.asarray(keys, np.int64).reshape(-1, 2)
        index = keys[:, 1]
        if len(index) and not (0 <= index.min() and index.max() < len(self)):
            raise IndexError(f"index must be in 0 .. {len(self) - 1}, got {index.min()} .. {index.max()}")
        if self.augment is None:
            still = np.zeros(len(keys))
            return _tensors({"index": index, "matrix": _matrices(self.boxes[index], self.size, self.margin, still,
                                                                 still + 1, np.zeros((2, len(keys))), still)})
        state = _state(self.seed, keys)
        chance = iter(_uniform(state, CHANCES))
        placement = draw_placement(self.augment, chance)
        matrix = _matrices(self.boxes[index], self.size, self.margin, **placement)
        light = draw_photometry(self.augment, chance, self.size, self.channels)
        other = (next(chance) * len(self)).astype(np.int64)
        numbers = np.concatenate(list(light.values()), 1).astype(np.float32)
        return _tensors({"index": index, "matrix": matrix, "other": other, "numbers": numbers,
                         "key": (state & np.uint64(0xFFFFFFFF)).astype(np.uint32).view(np.int32)})

    def named(self, numbers: Tensor) -> dict[str, Tensor]:
        """The columns of ``draws(keys)["numbers"]`` by name, (B, n) each; see ``draw_photometry``."""
        return dict(zip(self.widths, numbers.split(list(self.widths.values()), 1)))

    def _numbers(self, keys: NDArray) -> dict[str, NDArray]:
        if self.augment is None:
            return {}
        return draw_photometry(self.augment, iter(_uniform(_state(0, keys), CHANCES)), self.size, self.channels)

    @torch.no_grad()
    def batch(self, draws: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Crops from their draws, which lie on the device of the faces.

        Returns:
            image (B, C, S, S) float32 in [-0.5, 0.5]; landmarks (B, K, 2) float32 in crop pixels; visibility (B, K)
            float32, 1 where nobody said; matrix (B, 2, 3) float64 image -> crop; index (B,). Where all faces know their
            contours also anchors (B, 12, 2) and contours (B, 13, CONTOUR_POINTS, 2), float32 crop pixels.
        """
        if self.device.type == "cpu" and len(draws["index"]) > TOGETHER:
            parts = [self.batch(dict(zip(draws, some))) for some in zip(*(t.split(TOGETHER) for t in draws.values()))]
            return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        index, matrix = draws["index"], draws["matrix"]
        with torch.autocast(self.device.type, enabled=False):
            image = sample(self._planes(index), matrix, self.size, self.levels)
            if self.channels > image.shape[1]:
                image = image.expand(-1, self.channels, -1, -1)
            image = image / 255 if self.augment is None else self._photometry(image, draws)
            if self.channels == 3 and not self.colour:
                image = _grey(image)
            known = {name: self._points(name, flip, draws) for name, flip in
                     (("landmarks", "flip"), ("anchors", "anchor_flip"), ("contours", "contour_flip"))
                     if name in self.pack}
            seen = self.pack["visibility"].index_select(0, index).float()
            mirrored = _determinant(matrix) < 0
            seen = torch.where(mirrored[:, None], seen.index_select(1, self.pack["flip"]), seen)
        return {"image": image.sub_(0.5), "visibility": seen, "matrix": matrix, "index": index, **known}

    def _planes(self, index: Tensor) -> Tensor:
        """Whole images (B, C, H, W) of grey levels, float32."""
        images = self.pack["images"].index_select(0, index).float()
        return images[:, None] if images.ndim == 3 else images.permute(0, 3, 1, 2)

    def _points(self, name: str, flip: str, draws: Mapping[str, Tensor]) -> Tensor:
        """Points moved along, (B, K, ..., 2) float32; K change names in the mirror."""
        points, matrix = self.pack[name].index_select(0, draws["index"]), draws["matrix"]
        rows = points.to(matrix.dtype).flatten(1, -2)
        moved = (rows @ matrix[..., :2].mT + matrix[:, None, :, 2]).view(points.shape).float()
        mirrored = (_determinant(matrix) < 0).view(-1, *[1] * (points.ndim - 1))
        return torch.where(mirrored, moved.index_select(1, self.pack[flip]), moved)

    def _photometry(self, image: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        """``Augmentation.photometry`` of crops (B, C, S, S) of grey levels, in [0, 1]."""
        number, key, size = self.named(draws["numbers"]), draws["key"], self.size
        one = {name: column[:, 0] for name, column in number.items()}
        apply = effects.apply
        image = effects.tone(image, number["gain"], one["exponent"], one["inverted"])
        image = apply(number["amount"].abs().amax(1) > 0, effects.ramp, image, number["ramp"], number["amount"],
                      one["edge"], one["steep"])
        occluders = [number["kinds"], *(number[name].unflatten(1, (2, 2)) for name in ("place", "sides", "turn")),
                     number["ellipse"], number["tones"].unflatten(1, (2, self.channels)),
                     number["rolls"].unflatten(1, (2, 2)), key]
        image = apply(number["kinds"].amax(1) > 0, lambda x, *rest: effects.occlude(
            x, *rest[:-1], self._whole, rest[-1]), image, *occluders, draws["other"])
        image = apply(one["blur"] > 0, lambda x, sigma: effects.separable(x, effects.gaussian_matrix(size, sigma)),
                      image, one["blur"])
        image = apply(one["motion"] > 0, lambda x, *streak: effects.filtered(x, effects.streak_kernels(
            _reach(size), *streak)), image, one["motion"], number["streak"])
        image = apply(one["small"] > 0, lambda x, *small: effects.separable(x, effects.low_resolution_matrix(
            size, *small)), image, one["small"], one["nearest"])
        contrast, offset = one["contrast"].view(-1, 1, 1, 1), one["offset"].view(-1, 1, 1, 1)
        # (image - 1/2) contrast + 1/2 + offset
        image = torch.addcmul(0.5 - 0.5 * contrast + offset, image, contrast)
        if self.augment.noise > 0:
            image = image.addcmul_(effects.normal(key, image.shape), one["noise"].view(-1, 1, 1, 1))
        return apply(one["quality"] > 0, effects.jpeg, image.clamp_(0, 1), one["quality"])

    def _whole(self, index: Tensor) -> Tensor:
        """Whole images in [0, 1] as large as a crop, (B, C, S, S)."""
        whole = self._planes(index)
        if whole.shape[-2:] != (self.size, self.size):
            rows, columns = (effects.area_matrix(n, self.size, whole.device) for n in whole.shape[-2:])
            whole = (rows @ whole @ columns.mT).round_()
        return (whole / 255).expand(-1, self.channels, -1, -1)


class Halves:
    """Two kinds of faces in every batch: B keys give B crops of the first, then B of the second.

    Args:
        first, second: of one size and number of channels. The smaller one starts anew, otherwise augmented, when used
            up; an epoch shows every crop of the larger one once.
        flag: name of an entry (2 B,) that is 0 for the first and 1 for the second.

    Raises:
        ValueError: if the two do not fit together or the flag is the name of another entry.
    """

    def __init__(self, first: BatchedCrops, second: BatchedCrops, flag: str):
        if wrong := [type(part).__name__ for part in (first, second) if not isinstance(part, BatchedCrops)]:
            raise ValueError(f"first and second must be BatchedCrops, got {' and '.join(wrong)}")
        for name in ("size", "colour", "markup"):
            values = [getattr(part, name) for part in (first, second)]
            if values[0] != values[1]:
                raise ValueError(f"first and second must be of one {name}, got {values[0]!r} and {values[1]!r}")
        if not isinstance(flag, str) or not flag or flag in ENTRIES:
            raise ValueError(f"flag must be a word and none of {ENTRIES}, got {flag!r}")
        self.parts, self.flag = (first, second), flag

    def __len__(self) -> int:
        return max(map(len, self.parts))

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Pair ``index`` as in epoch 0."""
        return self.at(0, index)

    def to(self, device: str | torch.device) -> "Halves":
        """Move the faces of both; the same object."""
        for part in self.parts:
            part.to(device)
        return self

    def at(self, epoch: int, index: int) -> dict[str, Tensor]:
        """A crop of the first and one of the second, stacked."""
        device = self.parts[0].device
        return self.batch({name: sent(tensor, device) for name, tensor in self.draws([(epoch, index)]).items()})

    def draws(self, keys: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        """The chance of both parts, see ``BatchedCrops.draws``; names begin with the number of the part.

        Raises:
            IndexError: beyond the last pair.
        """
        keys, drawn = np.asarray(keys, np.int64).reshape(-1, 2), {}
        epoch, index = keys.T
        if len(index) and not (0 <= index.min() and index.max() < len(self)):
            raise IndexError(f"index must be in 0 .. {len(self) - 1}, got {index.min()} .. {index.max()}")
        for i, part in enumerate(self.parts):
            rounds = -(-len(self) // len(part))
            own = np.stack([epoch * rounds + index // len(part), index % len(part)], 1)
            drawn |= {f"{i}.{name}": tensor for name, tensor in part.draws(own).items()}
        return drawn

    def batch(self, draws: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The crops of both, see ``BatchedCrops.batch``; NaN where only the other part knows anchors and contours."""
        halves = [part.batch({name[2:]: tensor for name, tensor in draws.items() if name.startswith(f"{i}.")})
                  for i, part in enumerate(self.parts)]
        both = halves[0] | halves[1]
        halves = [{name: half[name] if name in half else torch.full_like(both[name], torch.nan) for name in both}
                  for half in halves]
        which = torch.cat([torch.full_like(half["image"][:, 0, 0, 0], i) for i, half in enumerate(halves)])
        return {name: torch.cat([half[name] for half in halves]) for name in both} | {self.flag: which}


class Further:
    """Batched data to whose batches something more is done, with chance of its own: twins, rough boxes, references.

    Args:
        data: batched data.
        count: uniform numbers that the change takes for each key.
        change: ``change(batch, chance)`` -> batch, with chance (B, count) float32 in [0, 1), on the device; fit for a
            CUDA graph where it is to be captured. One with ``to``, such as a module with buffers, is moved along.
        seed: of the change.

    Raises:
        ValueError: for a negative count.
    """

    def __init__(self, data: Any, count: int, change: Callable[[dict[str, Tensor], Tensor], dict[str, Tensor]],
                 seed: int = 0):
        if number(count, "count") < 0 or count % 1:
            raise ValueError(f"count must be a whole number, not negative, got {count}")
        self.data, self.count, self.change, self.seed = data, count, change, seed
        # so that one change has not the chance of another, nor that of the crop
        self.depth = 1 + getattr(data, "depth", 0)

    def __len__(self) -> int:
        return len(self.data)

    def to(self, device: str | torch.device) -> "Further":
        """Move the faces, and the change if it can; the same object."""
        self.data.to(device)
        if hasattr(self.change, "to"):
            self.change.to(device)
        return self

    def draws(self, keys: Sequence[tuple[int, int]]) -> dict[str, Tensor]:
        """The chance of the data, its names after "data.", and that of the change, (B, count) float32."""
        state = _state(self.seed, np.asarray(keys, np.int64).reshape(-1, 2))
        # 24 bits, which float32 holds: more would round up to 1
        chance = np.floor(_uniform(state, self.count, self.depth << 20).T * 2**24).astype(np.float32) / 2**24
        inner = {f"data.{name}": tensor for name, tensor in self.data.draws(keys).items()}
        return inner | _tensors({"chance": chance})

    def batch(self, draws: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The batch of the data, changed."""
        inner = {name[len("data."):]: tensor for name, tensor in draws.items() if name.startswith("data.")}
        return self.change(self.data.batch(inner), draws["chance"])


def draw_placement(augment: Augmentation, chance: Iterator[NDArray]) -> dict[str, NDArray]:
    """``Augmentation.placement`` of B crops, from uniform numbers (B,): angle, scale, shift (2, B), mirrored."""
    worse = next(chance) < augment.outlier
    low, high = augment.scale
    middle, reach = (low + high) / 2, (high - low) / 2 * np.where(worse, 2, 1)
    angle = np.deg2rad(_between(-augment.rotation, augment.rotation, chance))
    scale = np.maximum(middle + _between(-reach, reach, chance), 0.5 * low)
    # two normal numbers from two uniform ones: sqrt(-2 log u) (cos, sin)(2 pi v)
    radius, turn = np.sqrt(-2 * np.log(1 - next(chance))), 2 * np.pi * next(chance)
    shift = augment.shift * np.where(worse, 3, 1) * radius * np.stack([np.cos(turn), np.sin(turn)])
    return {"angle": angle, "scale": scale, "shift": shift, "mirrored": next(chance) < augment.flip}


def draw_photometry(augment: Augmentation, chance: Iterator[NDArray], size: int, channels: int
                    ) -> dict[str, NDArray]:
    """What happens to B crops by ``Augmentation.photometry``, from uniform numbers (B,).

    Returns:
        (B, n) each, as ``effects`` takes them; an effect that does not happen has 0 in the first number named. gain C,
        exponent, inverted; amount C, ramp 2, edge, steep (0 is a soft ramp); kinds 2 (of two occluders), place 4, sides
        4, turn 4, ellipse 2, tones 2 C, rolls 4; blur (sigma in pixels); motion (length in pixels), streak 2; small
        (pixels), nearest; contrast, offset, noise (standard deviation); quality.
    """
    def maybe(probability: float, value: NDArray) -> NDArray:
        return np.where(next(chance) < probability, value, 0)
    drawn = {"gain": [_between(1 - augment.colour, 1 + augment.colour, chance) for _ in range(3)][:channels],
             "exponent": [2 ** _between(-augment.gamma, augment.gamma, chance)],
             "inverted": [next(chance) < augment.inversion]}
    angle, steep = 2 * np.pi * next(chance), _between(2, 10, chance)
    drawn |= {"ramp": _direction(angle), "edge": [_between(-0.5, 0.5, chance)], "steep": [maybe(0.3, steep)]}
    amount, lit = _between(-0.7, 0.7, chance), next(chance) < augment.light
    drawn["amount"] = [(amount + _between(-0.2, 0.2, chance)) * lit for _ in range(3)][:channels]
    drawn |= _occluders(augment, chance, size, channels)
    drawn["blur"] = [maybe(augment.blur, _between(0.5, 2, chance) * size / 128)]
    drawn["motion"] = [maybe(augment.motion, np.maximum(2, _between(3, 9, chance) * size / 128))]
    drawn["streak"] = _direction(np.pi * next(chance))
    drawn["small"] = [maybe(augment.low_resolution, np.maximum(8, np.floor(size * _between(0.2, 0.7, chance))))]
    drawn["nearest"] = [next(chance) < 0.15]
    drawn["contrast"] = [_between(*augment.contrast, chance)]
    drawn["offset"] = [_between(-augment.brightness, augment.brightness, chance)]
    drawn["noise"] = [_between(0, augment.noise, chance)]
    drawn["quality"] = [maybe(augment.jpeg, np.floor(_between(8, 60, chance)))]
    return {name: np.stack(columns, -1) for name, columns in drawn.items()}


def _occluders(augment: Augmentation, chance: Iterator[NDArray], size: int, channels: int) -> dict[str, list]:
    """The part of ``draw_photometry`` that tells of occluders."""
    any_, two = next(chance) < augment.occluder, next(chance) < 0.5
    lent = next(chance) <= 0.3 * augment.occluder                               # another face is at hand
    drawn = {name: [] for name in ("kinds", "place", "sides", "turn", "ellipse", "tones", "rolls")}
    for there in (any_, any_ & two):
        drawn["place"] += [size * next(chance), size * next(chance)]
        drawn["sides"] += [size * _between(0.1, 0.4, chance), size * _between(0.1, 0.4, chance)]
        ellipse, turn = next(chance) >= 0.5, next(chance)
        drawn["ellipse"] += [ellipse]
        drawn["turn"] += _direction(turn * np.where(ellipse, np.pi, np.pi / 2))
        kind = next(chance)
        black = (kind >= 0.6) & (kind < 0.75)
        filled = np.where(kind < 0.6, effects.NOISE, effects.TONE)
        filled = np.where((kind < 0.35) & lent, effects.PIECE, filled)
        drawn["kinds"] += [np.where(there, filled, effects.NONE)]
        drawn["tones"] += [next(chance) * ~black for _ in range(3)][:channels]
        drawn["rolls"] += [np.floor(size * next(chance)), np.floor(size * next(chance))]
    return drawn


def sample(planes: Tensor, matrix: Tensor, size: int, levels: int = 1) -> Tensor:
    """``crop`` of every image (B, C, H, W) of grey levels, float32, through its matrix (B, 2, 3) image -> crop.

    Args:
        levels: where a crop pixel shows n x n image pixels, they are averaged for n up to so many.

    Returns:
        (B, C, size, size) float32 of whole numbers.
    """
    (a, b, c), (d, e, f) = (row.unbind(1) for row in matrix.unbind(1))
    determinant = a * e - b * d
    back = torch.stack([e, -b, b * f - c * e, -d, a, c * d - a * f], 1) / determinant[:, None]
    image = _sampled(planes, back, size)
    step = (1 / determinant.abs().sqrt()).floor().clamp(1, levels)
    for n in range(2, levels + 1):
        image = effects.apply(step == n, lambda _, *which, n=n: _sampled(*which, size, n), image, planes, back)
    return image.round_()


def _sampled(planes: Tensor, back: Tensor, size: int, step: int = 1) -> Tensor:
    """Crops of images of which ``step`` x ``step`` pixels are averaged, through (B, 6) maps from crop to image."""
    if step > 1:
        missing = [-n % step for n in planes.shape[-2:]]
        planes = F.pad(planes, [0, missing[1], 0, missing[0]], mode="replicate") if any(missing) else planes
        planes = F.avg_pool2d(planes, step).round_()
    # pixel q of the small image shows pixel p = (q + 1/2) step - 1/2, and grid_sample's -1 .. 1 are q = -1/2 .. n - 1/2
    at, grid = torch.arange(size, device=planes.device, dtype=torch.float32), []
    for row, n in ((back[:, :3], planes.shape[-1]), (back[:, 3:], planes.shape[-2])):
        x, y, constant = (row * (2 / step / n)).float()[..., None].unbind(1)            # (B, 1)
        grid.append((x * at + (constant + (1 / step / n - 1)))[:, None] + (y * at)[..., None])
    return F.grid_sample(planes, torch.stack(grid, -1), padding_mode="border", align_corners=False)


def _grey(image: Tensor) -> Tensor:
    return sum(weight * plane for weight, plane in zip(WEIGHTS, image.unbind(1)))[:, None]


def _determinant(matrix: Tensor) -> Tensor:
    return matrix[:, 0, 0] * matrix[:, 1, 1] - matrix[:, 0, 1] * matrix[:, 1, 0]


def _reach(size: int) -> int:
    """Half the longest streak, in whole pixels."""
    return int(np.ceil(max(2.0, 9 * size / 128) / 2))


# ---- chance --------------------------------------------------------------------------------------------------------

def _between(low: ArrayLike, high: ArrayLike, chance: Iterator[NDArray]) -> NDArray:
    return low + (np.asarray(high) - low) * next(chance)


def _direction(angle: NDArray) -> list[NDArray]:
    return [np.cos(angle), np.sin(angle)]


def _state(seed: int, keys: NDArray[np.int64]) -> NDArray[np.uint64]:
    """64 mixed bits of each (seed, epoch, index): (B, 2) -> (B,)."""
    state = np.full(len(keys), seed & (2**64 - 1), np.uint64)
    for column in keys.T:
        state = _mixed(state) ^ column.astype(np.uint64)
    return _mixed(state)


def _uniform(state: NDArray[np.uint64], count: int, first: int = 0) -> NDArray[np.float64]:
    """Numbers in [0, 1) by a counter, (count, B): number k of a crop is a function of its state and k alone."""
    steps = np.arange(first + 1, first + count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return (_mixed(state + steps[:, None]) >> np.uint64(11)) * 2.0**-53


def _mixed(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of splitmix64, after a step; sums and products wrap around at 64 bits."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _tensors(arrays: Mapping[str, NDArray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}


# ---- faces and squares ---------------------------------------------------------------------------------------------

def _sides(boxes: NDArray, margin: float) -> NDArray:
    """Sides (N,) of the squares around boxes (N, 4)."""
    return (boxes[:, 2:] - boxes[:, :2]).max(1) * (1 + margin)


def _largest_scale(augment: Augmentation | None) -> float:
    if augment is None:
        return 1.0
    low, high = augment.scale
    return (low + high) / 2 + (high - low) / 2 * (2 if augment.outlier > 0 else 1)


def _matrices(boxes: NDArray, size: int, margin: float, angle: NDArray, scale: NDArray, shift: NDArray,
              mirrored: NDArray) -> NDArray[np.float64]:
    """``crop_matrix`` of B boxes, mirrored or not: (B, 2, 3)."""
    side = _sides(boxes, margin) * scale
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 + shift.T * side[:, None]
    cosine, sine = size / side * np.cos(angle), size / side * np.sin(angle)
    turn = np.stack([cosine, -sine, sine, cosine], -1).reshape(-1, 2, 2)
    matrix = np.concatenate([turn, (size - 1) / 2 - turn @ centre[..., None]], -1)
    # in the mirror x is size - 1 - x
    matrix[:, 0] *= np.where(mirrored, -1, 1)[:, None]
    matrix[:, 0, 2] += np.where(mirrored, size - 1, 0)
    return matrix


@dataclass(frozen=True)
class _Arrays:
    """Faces of one image size."""

    markup: str
    images: NDArray[np.uint8]                  # (N, H, W[, 3])
    landmarks: NDArray[np.float64]             # (N, K, 2)
    visibility: NDArray[np.bool_]              # (N, K)
    boxes: NDArray[np.float64]                 # (N, 4)
    anchors: NDArray[np.float64] | None        # (N, 12, 2)
    contours: NDArray[np.float32] | None       # (N, 13, CONTOUR_POINTS, 2)


def _packed(faces: PackedFaces) -> _Arrays:
    return _Arrays(faces.markup, faces.images, faces.landmarks, faces.visibility, faces.boxes, faces.anchors,
                   faces.contours)


def _stacked(faces: Iterable[Any]) -> _Arrays:
    rows, anchors, contours, first = [], [], [], None
    for i, face in enumerate(faces):
        if face.landmarks is None:
            raise ValueError(f"faces[{i}] must have landmarks, got None")
        image = load_image(face.image)
        first = first or (image.shape, face.markup)
        if (image.shape, face.markup) != first:
            raise ValueError(f"faces[{i}] must have image shape and markup {first}, got {(image.shape, face.markup)}")
        points = np.asarray(face.landmarks, np.float64)
        seen = np.ones(len(points), bool) if face.visibility is None else np.asarray(face.visibility, bool)
        if points.shape != (wanted := (len(markups.get(face.markup).flip), 2)) or seen.shape != wanted[:1]:
            raise ValueError(f"faces[{i}] must have {wanted} landmarks and as many visibilities, got {points.shape} "
                             f"and {seen.shape}")
        rows.append((image, points, seen, box_of(points) if face.box is None else check_box(face.box)))
        anchor, contour = stacked_contours(face)
        if contour is not None:
            anchors.append(anchor)
            contours.append(contour)
    complete = len(contours) == len(rows)
    return _Arrays(first[1], *(np.stack(column) for column in zip(*rows)), *(
        (np.stack(anchors), np.stack(contours)) if complete else (None, None)))
