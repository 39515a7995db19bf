"""Losses on heatmaps. Shapes: B batch, K landmarks, H W; points (x, y) in 0-based pixel centres."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def soft_argmax(logits: Tensor) -> Tensor:
    """Expectation of the pixel position under the softmax of each map: (..., H, W) -> (..., 2), map pixels."""
    height, width = logits.shape[-2:]
    weight = logits.float().flatten(-2).softmax(-1).unflatten(-1, (height, width))
    x = torch.arange(width, device=logits.device, dtype=torch.float32)
    y = torch.arange(height, device=logits.device, dtype=torch.float32)
    return torch.stack([weight.sum(-2) @ x, weight.sum(-1) @ y], -1)


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
        logits = logits.float()
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
    """Landmarks of the batch in heatmap pixels: q = (p + 0.5) * s - 0.5."""
    size, landmarks = batch["image"].shape[-2:], batch["landmarks"]
    if heatmaps.shape[:2] != landmarks.shape[:2]:
        raise ValueError(f"landmarks must be (B, K) = {tuple(heatmaps.shape[:2])} like the heatmaps, "
                         f"got {tuple(landmarks.shape)}")
    scale = landmarks.new_tensor([heatmaps.shape[-1] / size[1], heatmaps.shape[-2] / size[0]])
    return (landmarks + 0.5) * scale - 0.5


def _gauss(centre: Tensor, size: int, sigma: float) -> Tensor:
    """exp(-(t - centre)^2 / 2 sigma^2) for t = 0 .. size - 1: (...) -> (..., size)."""
    t = torch.arange(size, device=centre.device, dtype=centre.dtype)
    return torch.exp(-((t - centre[..., None]) / sigma).square() / 2)


def _profile(centre: Tensor, size: int, sigma: float) -> tuple[Tensor, Tensor]:
    """The 1-D target and its mass: 1, but falling to 0 where the landmark lies far outside the map."""
    g = _gauss(centre, size, sigma)
    g = g / g.sum(-1, keepdim=True).clamp(min=1e-3)
    return g, g.sum(-1)
