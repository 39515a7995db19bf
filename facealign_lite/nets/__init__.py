"""Networks shared by the papers, and the losses that train them."""

from .blocks import Hierarchical, Residual, parameter_count, to_grey
from .capture import captured
from .devices import pick_device
from .folding import folded
from .hourglass import LITE, PAPER, Hourglass, HourglassConfig, HourglassStack, StackedHourglass, check_images
from .hrnet import HRNet, HRNetConfig
from .losses import constant, landmark_loss, mse_loss, soft_argmax
from .reading import Reading, fold_mirrored, read_maps
from .resnet import ResNet, ResNetConfig
from .vgg import VGG

__all__ = [
    "LITE", "PAPER", "VGG", "HRNet", "HRNetConfig", "Hierarchical", "Hourglass", "HourglassConfig", "HourglassStack",
    "Reading", "ResNet", "ResNetConfig", "Residual", "StackedHourglass", "captured", "check_images", "constant",
    "fold_mirrored", "folded", "landmark_loss", "mse_loss", "parameter_count", "pick_device", "read_maps",
    "soft_argmax", "to_grey",
]
