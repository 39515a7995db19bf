"""What every network answers when it is asked where the landmarks are.

A network of this library has three things beside ``forward``:

- ``config``: a frozen dataclass with ``image_size`` and ``in_channels``, and every number that decides how the outputs
  are read. It is kept in the weights file.
- ``inputs``: the entries of a batch that ``forward`` is called with, in order; ``("image",)`` for most. A network that
  wants more has ``lend(images, reference=None)``, which gives the others for a batch of crops.
- ``read(outputs, mirrored=False)``: a ``Reading`` of what ``forward`` gave. With ``mirrored`` the second half of the
  batch are the mirror images of the first, and the reading is of both together.

One whose ``read`` is not made of tensors alone has ``graph(outputs)`` too, tensors by name: how far an exported graph
can go (``export``).

Shapes: B crops, K landmarks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from numpy.typing import NDArray
from torch import Tensor

from facealign_lite import heatmaps, markups

WAYS = ("soft_argmax", "center_of_mass")   # for logits; for heat, which is 1 at a landmark


@dataclass(frozen=True)
class Reading:
    """Landmarks of B crops, and what else a network has to say. Points are (x, y) in crop pixels, 0-based centres."""

    points: Tensor                                        # (B, K, 2)
    scores: Tensor                                        # (B, K) in [0, 1], how sure the network is of each
    anchors: Tensor | None = None                         # (B, 12, 2), in the order of ``markups.ANCHORS``
    contours: Sequence[Mapping[str, NDArray]] | None = None   # curves of each crop by name of ``markups.CONTOURS``
    reliable: Tensor | None = None                        # (B, K) bool: which landmarks were seen, not rebuilt
    theta: Tensor | None = None                           # (B, 2, 3) by which the crop was straightened
    contour_scores: Sequence[Mapping[str, float]] | None = None   # in [0, 1], how sure the network is of each curve


def read_maps(maps: Tensor, size: int | tuple[int, int], way: str = "soft_argmax", mirrored: bool = False) -> Reading:
    """A reading of the last maps of a network.

    Args:
        maps: (B, K, H, W), logits or heat.
        size: of the crops in pixels, one side or (height, width).
        way: "soft_argmax" reads logits, and a score is the share of the softmax near its peak; "center_of_mass" reads
            heat, and a score is the height of the peak.
        mirrored: the second half are the mirror images of the first, see ``fold_mirrored``; K names the markup.

    Raises:
        ValueError: for another way, NaN, or an odd number of crops with their mirror images.
    """
    if way not in WAYS:
        raise ValueError(f"way must be one of {WAYS}, got {way!r}")
    maps, size = maps.float(), (size, size) if isinstance(size, int) else size
    if way == "soft_argmax":
        points, scores = heatmaps.decode_with_peak(maps)
    else:
        points, scores = heatmaps.decode(maps, way), maps.amax((-2, -1)).clamp(0, 1)
    reading = Reading(heatmaps.to_image(points, tuple(maps.shape[-2:]), size), scores)
    return fold_mirrored(reading, size[1], markups.get(str(maps.shape[1])).flip) if mirrored else reading


def fold_mirrored(reading: Reading, size: int, flip: Sequence[int]) -> Reading:
    """One reading of B crops from those of 2 B, the second half being the mirror images of the first.

    Args:
        reading: of 2 B crops, points and scores (contours cannot be averaged point by point: average the maps).
        size: width of the crops in pixels.
        flip: where the mirror image of each landmark stands.

    Raises:
        ValueError: if the number of crops is odd or ``flip`` is not an order of the landmarks.
    """
    points, scores = reading.points, reading.scores
    if len(points) % 2 or sorted(flip) != list(range(points.shape[1])):
        raise ValueError(f"reading must be of an even number of crops and flip an order of its {points.shape[1]} "
                         f"landmarks, got {len(points)} crops and {tuple(flip)}")
    order, half = list(flip), len(points) // 2
    # x in the mirror is size - 1 - x
    back = (points[half:] * points.new_tensor([-1.0, 1.0]) + points.new_tensor([size - 1.0, 0.0]))[:, order]
    reliable = None if reading.reliable is None else reading.reliable[:half]
    theta = None if reading.theta is None else reading.theta[:half]
    return replace(reading, points=(points[:half] + back) / 2, scores=(scores[:half] + scores[half:][:, order]) / 2,
                   reliable=reliable, theta=theta)
