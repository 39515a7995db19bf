"""Soft and hard transformation of a reference's features onto a target (RHT Eq. 1 to 4).

Shapes: B batch, C channels, H W of the coarse (1x) map, s = 1, 2, 4 a finer scale. The query is the target face, the
key the reference face, the value the reference's heatmap features. Positions are counted row by row. An affine map
``theta`` (B, 2, 3) acts on coordinates in which the map reaches from -1 to 1, so that one serves all scales.
"""

from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from facealign_lite import geometry

TINY = 1e-8      # a shorter patch has no direction
PACE = 0.02      # of the affine map: at the rate of all other weights it ran off the reference within tens of steps, to
                 # where all features are 0 and Eq. 8 is cheap


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
    1x, and the finer scales fetch the block that lies at the same place. Yang et al. (Learning Texture Transformer
    Network for Image Super-Resolution, CVPR 2020), whose step this resembles, fetch patches that overlap and average
    them.
    """
    confidence, index = correlate(query, key, patch, block)
    return transfer(value, index, confidence), confidence, index


def correlate(query: Tensor, key: Tensor, patch: int = 3, block: int = 256) -> tuple[Tensor, Tensor]:
    """The greatest cosine of each target patch with any reference patch, and where that is: (B, 1, H, W), (B, H W).

    The H W x H W cosines are never held at once: at most B block H W of them, then B C patch^2 H W numbers each for
    the patches of query, key and the chosen ones. For 64 channels of 128 x 128, forward and backward, that is 0.3 GiB
    at its peak in place of 1.2. Gradients reach the chosen pairs only, as those of a maximum do.
    A patch of zeros is like no other: its confidence is 0, and no gradient passes. Cosines are compared in single
    precision, under autocast too: in bf16 up to 4 % of the places choose another.

    Source: RHT Eq. 1 and 2; both must run over the reference positions, where the print has the target's.
    """
    if query.ndim != 4 or query.shape != key.shape:
        raise ValueError(f"query and key must both be (B, C, H, W), got {tuple(query.shape)} and {tuple(key.shape)}")
    if patch < 1 or patch % 2 == 0:
        raise ValueError(f"patch must be odd and at least 1, got {patch}")
    if block < 1:
        raise ValueError(f"block must be at least 1, got {block}")
    with _single(query):
        precise = torch.promote_types(query.dtype, torch.float32)
        q, k = (_directions(face.to(precise), patch) for face in (query, key))          # (B, C patch^2, H W)
        with torch.no_grad():
            # D^i = argmax_j <q_i, k_j>
            index = torch.cat([(part.mT @ k).argmax(-1) for part in q.split(block, dim=-1)], dim=-1)
        chosen = k.gather(-1, index[:, None].expand_as(k))
        confidence = (q * chosen).sum(1).clamp(-1, 1)           # rounding; the gradient of a cosine is 0 there anyway
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
    s = scale_of(value, confidence)
    if index.shape != (value.shape[0], height * width):
        raise ValueError(f"index must be ({value.shape[0]}, {height * width}), got {tuple(index.shape)}")
    blocks = F.pixel_unshuffle(value, s).flatten(2)                                     # (B, C' s^2, H W)
    fetched = blocks.gather(-1, index[:, None].expand_as(blocks)).unflatten(-1, (height, width))
    # F_S = F_T * A
    return F.pixel_shuffle(fetched * confidence.to(fetched.dtype), s)


def _single(x: Tensor) -> AbstractContextManager:
    """Within it no autocast turns products into half floats."""
    kind = x.device.type
    return torch.autocast(kind, enabled=False) if torch.amp.is_autocast_available(kind) else nullcontext()


def _directions(features: Tensor, patch: int) -> Tensor:
    patches = F.unfold(features, patch, padding=patch // 2)                             # (B, C patch^2, H W)
    length = torch.linalg.vector_norm(patches, dim=1, keepdim=True)
    return patches / length.masked_fill(length < TINY, torch.inf)


def scale_of(fine: Tensor, coarse: Tensor) -> int:
    """How many times finer ``fine`` is than ``coarse``, a whole number."""
    if fine.ndim != 4 or coarse.ndim != 4 or coarse.shape[:2] != (fine.shape[0], 1):
        raise ValueError(f"features and confidence must be (B, C, sH, sW) and (B, 1, H, W), got {tuple(fine.shape)} "
                         f"and {tuple(coarse.shape)}")
    s = fine.shape[-1] // coarse.shape[-1]
    if s < 1 or fine.shape[-2:] != (s * coarse.shape[-2], s * coarse.shape[-1]):
        raise ValueError(f"features must be a whole number of times as fine as the confidence, got "
                         f"{tuple(fine.shape[-2:])} and {tuple(coarse.shape[-2:])}")
    return s


def perfect_matches(target: Tensor, reference: Tensor, size: tuple[int, int]) -> Tensor:
    """For each place of the target, the place of the reference whose heat is most like the target's own: (B, H W).

    So a soft transformation would choose that knew the answer; what it fetches is the best that whole places can give,
    and how good that is depends on how many places there are.

    Args:
        target, reference: true heatmaps (B, M, sH, sW) of both faces.
        size: (H, W), places.

    Source: not in the paper.
    """
    a, b = (F.pixel_unshuffle(heat, heat.shape[-1] // size[1]).flatten(2) for heat in (target, reference))
    # argmin_j |a_i - b_j|^2 = argmin_j |b_j|^2 - 2 <a_i, b_j>
    with _single(a):
        return (b.square().sum(1)[:, None] - 2 * a.mT @ b).argmin(-1)


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
    if value.ndim != 4 or theta.shape != (value.shape[0], 2, 3):
        raise ValueError(f"value and theta must be (B, C, H, W) and (B, 2, 3), got {tuple(value.shape)} and "
                         f"{tuple(theta.shape)}")
    # places in half floats would be off by a tenth of a pixel
    precise = torch.promote_types(value.dtype, torch.float32)
    grid = F.affine_grid(theta.to(precise), list(value.shape), align_corners=False)
    return F.grid_sample(value.to(precise), grid, align_corners=False).to(value.dtype)


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


def best_affine(target: Tensor, reference: Tensor) -> Tensor:
    """The affine map that brings the target's landmarks nearest to the reference's: theta (B, 2, 3).

    Args:
        target, reference: landmarks (B, K, 2) as shares of the picture: 0 and 1 are its outer edges.

    Source: not in the paper; it is what RHT Eq. 4 could do at best.
    """
    u, v = (2 * points - 1 for points in (target, reference))
    a = torch.cat([u, torch.ones_like(u[..., :1])], -1)                                            # (B, K, 3)
    # (a^T a) theta^T = a^T v
    with _single(a):
        return torch.linalg.solve_ex(a.mT @ a, a.mT @ v)[0].mT


class Localization(nn.Module):
    """Six affine numbers from the local features of target and reference; the identity before training.

    Source: RHT section III-A after Jaderberg et al. 2015; the paper gives no layers.
    """

    def __init__(self, channels: int, hidden: int = 32):
        super().__init__()
        self.look = nn.Sequential(convolution(2 * channels, hidden, 2), convolution(hidden, hidden, 2),
                                  nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.move = nn.Linear(16 * hidden, 6)
        nn.init.zeros_(self.move.weight)
        nn.init.zeros_(self.move.bias)

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """(B, C, H, W) twice -> (B, 2, 3)."""
        move = self.move(self.look(torch.cat([query, key], 1))).unflatten(-1, (2, 3))
        return torch.eye(2, 3, device=move.device) + PACE * move.float()


def convolution(a: int, b: int, stride: int = 1, size: int = 3) -> nn.Sequential:
    """Convolution, normalisation, rectifier."""
    return nn.Sequential(nn.Conv2d(a, b, size, stride, size // 2, bias=False), nn.BatchNorm2d(b), nn.ReLU())
