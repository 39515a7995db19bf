"""A network made ready to be asked, not trained: the same answers with fewer passes over memory. B, C, H, W."""

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .blocks import Residual


class Rectified(nn.Module):
    """Batch normalisation in eval mode and ReLU as two passes, the second in place: max(0, a x + b) for each channel.

    Args:
        norm: whose running mean m and variance v, weight w and bias c give a = w / sqrt(v + eps), b = c - a m.
    """

    def __init__(self, norm: nn.BatchNorm2d):
        super().__init__()
        scale = norm.weight.detach() * torch.rsqrt(norm.running_var + norm.eps)
        self.register_buffer("scale", scale[:, None, None])                                    # (C, 1, 1)
        self.register_buffer("shift", (norm.bias.detach() - scale * norm.running_mean)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> same shape."""
        return torch.addcmul(self.shift, x, self.scale).relu_()


class Sum(nn.Module):
    """A residual unit whose branch is folded, as one straight line, and which adds in place.

    Nine calls of functions in the place of a dozen of modules: on a small map those cost as much as the convolutions.
    """

    def __init__(self, unit: Residual):
        super().__init__()
        rectified, *steps = [step for step in unit.branch if type(step) is not nn.Identity]
        self.narrow, self.around, self.widen = [step for step in steps if type(step) is nn.Conv2d]
        self.register_buffer("scale", rectified.scale)
        self.register_buffer("shift", rectified.shift)
        self.skip = None if type(unit.skip) is nn.Identity else unit.skip

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) -> (B, out_channels, H, W)."""
        narrow, around, widen, skip = self.narrow, self.around, self.widen, self.skip
        h = torch.addcmul(self.shift, x, self.scale).relu_()
        h = torch.conv2d(h, narrow.weight, narrow.bias).relu_()
        h = torch.conv2d(h, around.weight, around.bias, padding=1).relu_()
        # nobody else holds what the last convolution gives
        return torch.conv2d(h, widen.weight, widen.bias).add_(x if skip is None else torch.conv2d(x, skip.weight))


def folded(network: nn.Module) -> nn.Module:
    """A copy for inference alone, in eval mode and without gradients, that answers as ``network`` but for rounding.

    In every ``nn.Sequential``, batch normalisation behind a convolution goes into its weights, batch normalisation
    before a ReLU becomes one factor and one summand a channel, and a ReLU behind either works in place. Nothing that
    took a place in it goes away: what is left over is an identity. A residual unit becomes a ``Sum``. All other parts
    are copied.
    """
    copy = deepcopy(network).eval().requires_grad_(False)
    for part in list(copy.modules()):
        if type(part) is nn.Sequential:
            _fold(part)
    for part in list(copy.modules()):
        for name, child in part.named_children():
            if type(child) is Residual:
                setattr(part, name, Sum(child))
    return copy.eval()                  # the new parts too


def _fold(steps: nn.Sequential) -> None:
    for i in range(len(steps) - 1):
        if type(steps[i]) is nn.Conv2d and _known(steps[i + 1]):
            steps[i], steps[i + 1] = fuse_conv_bn_eval(steps[i], steps[i + 1]), nn.Identity()
    left = [i for i, step in enumerate(steps) if type(step) is not nn.Identity]
    for i, j in zip(left, left[1:]):
        if type(steps[j]) is nn.ReLU:
            if _known(steps[i]):
                steps[i], steps[j] = Rectified(steps[i]), nn.Identity()
            elif type(steps[i]) is nn.Conv2d:
                steps[j] = nn.ReLU(inplace=True)


def _known(part: nn.Module) -> bool:
    """Whether it is a batch normalisation by numbers that are known."""
    return type(part) is nn.BatchNorm2d and part.affine and part.running_var is not None
