"""Losses on heatmaps. Shapes: B batch, K landmarks, H W; points (x, y) in 0-based pixel centres."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from facealign_lite.heatmaps import decode, to_heatmap


def constant(values: tuple, device: torch.device, dtype: torch.dtype | None = None) -> Tensor:
    """Numbers of the host as a tensor, made and brought to the device once: (nested) tuples of int, float or bool.

    Each ``torch.tensor`` of a list is a copy for which the processor waits, and none can be captured as a CUDA graph.
    Not to be written to. A graph that is being compiled or exported has its own: what is made there is a stand-in
    without numbers, which must not be kept for whoever calls next.
    """
    return torch.tensor(values, dtype=dtype, device=device) if torch.compiler.is_compiling() else _kept(
        values, device, dtype)


@lru_cache(maxsize=256)
def _kept(values: tuple, device: torch.device, dtype: torch.dtype | None) -> Tensor:
    with torch.inference_mode(False):                                   # whoever asks first, training may use it too
        return torch.tensor(values, dtype=dtype, device=device)


def soft_argmax(logits: Tensor) -> Tensor:
    """The points that the network says: mean place under the softmax of each map, (..., K, H, W) -> (..., K, 2)."""
    return decode(logits, "soft_argmax", check=False)                            # a loss does not wait for the GPU


def landmark_loss(outputs: Sequence[Tensor], batch: Mapping[str, Tensor], sigma: float = 1.2,
                  heat: float = 0.3) -> Tensor:
    """L1 of the soft-argmax plus cross entropy against a Gaussian, summed over stacks.

    The L1 term is the error itself; the cross entropy keeps the map one narrow peak, which the mean alone would not.

    Args:
        outputs: logits of every stack, each (B, K, H, W).
        batch: ``image`` (B, C, S, S) and ``landmarks`` (B, K, 2) in image pixels.
        sigma: width of the target in map pixels.
        heat: weight of the cross entropy.

    Returns:
        scalar, map pixels (plus ``heat`` times nats).
    """
    points = _on_the_map(outputs[-1], batch)
    height, width = outputs[-1].shape[-2:]
    gx, mass_x = _profile(points[..., 0], width, sigma)                          # (B, K, W)
    gy, mass_y = _profile(points[..., 1], height, sigma)                         # (B, K, H)
    total = points.new_zeros(())
    for logits in outputs:
        logits = logits.float().contiguous()            # map by map: with channels last each step below would copy it
        # -sum g log softmax(h) = sum(g) logsumexp(h) - sum g h, and g = gy gx^T, so no target map is ever made
        inside = torch.einsum("bky,bkyx,bkx->bk", gy, logits, gx)
        entropy = mass_x * mass_y * logits.flatten(2).logsumexp(-1) - inside
        total = total + (soft_argmax(logits) - points).abs().mean() + heat * entropy.mean()
    return total


def mse_loss(outputs: Sequence[Tensor], batch: Mapping[str, Tensor], sigma: float = 1.0) -> Tensor:
    """Mean squared difference to Gaussian heatmaps of height 1, summed over stacks.

    Source: Newell et al. 2016, section 3.2 (there sigma is 1 pixel on a 64 x 64 map).
    """
    points = _on_the_map(outputs[-1], batch)
    height, width = outputs[-1].shape[-2:]
    target = _gauss(points[..., 1], height, sigma)[..., :, None] * _gauss(points[..., 0], width, sigma)[..., None, :]
    return sum((heatmaps.float() - target).square().mean() for heatmaps in outputs)


def _on_the_map(heatmaps: Tensor, batch: Mapping[str, Tensor]) -> Tensor:
    """Landmarks of the batch in heatmap pixels."""
    landmarks = batch["landmarks"]
    if heatmaps.shape[:2] != landmarks.shape[:2]:
        raise ValueError(f"landmarks must be (B, K) = {tuple(heatmaps.shape[:2])} like the heatmaps, "
                         f"got {tuple(landmarks.shape)}")
    return to_heatmap(landmarks, tuple(batch["image"].shape[-2:]), tuple(heatmaps.shape[-2:]))


def _gauss(centre: Tensor, size: int, sigma: float) -> Tensor:
    """exp(-(t - centre)^2 / 2 sigma^2) for t = 0 .. size - 1: (...) -> (..., size)."""
    t = torch.arange(size, device=centre.device, dtype=centre.dtype)
    return torch.exp(-((t - centre[..., None]) / sigma).square() / 2)


def _profile(centre: Tensor, size: int, sigma: float) -> tuple[Tensor, Tensor]:
    """The 1-D target and its mass: 1, but falling to 0 where the landmark lies far outside the map."""
    g = _gauss(centre, size, sigma)
    g = g / g.sum(-1, keepdim=True).clamp(min=1e-3)
    return g, g.sum(-1)
