"""Networks shared by the papers, and the losses that train them."""

from .blocks import Residual, parameter_count, to_grey
from .hourglass import LITE, PAPER, Hourglass, HourglassConfig, StackedHourglass
from .losses import landmark_loss, mse_loss, soft_argmax

__all__ = [
    "LITE", "PAPER", "Hourglass", "HourglassConfig", "Residual", "StackedHourglass",
    "landmark_loss", "mse_loss", "parameter_count", "soft_argmax", "to_grey",
]
