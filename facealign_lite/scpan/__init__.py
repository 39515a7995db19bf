"""SCPAN: boundary fields that carry the landmarks, and pictures that calibrate their own disturbed twins.

Wan, Xi, Zhou, Lai, Pedrycz, Wang, Sun, Robust and Precise Facial Landmark Detection by Self-Calibrated Pose Attention
Network. ``fields`` Eq. 1 to 5, ``attention`` 9 and 10, ``network`` Fig. 2, ``disturbances`` and ``losses`` 6 to 8 and
11 to 20, ``learning`` Algorithm 1.
"""

from .attention import PoseAttention
from .disturbances import (
    DRAWS,
    add_noise,
    add_salt,
    determinant,
    disturb,
    disturb_by,
    draw_linear,
    linear_map,
    linear_of,
    low_resolution,
    move_images,
    move_maps,
    move_offsets,
    move_points,
    occlude,
    widen,
)
from .fields import (
    Field,
    bali_field,
    boundaries_of,
    curves,
    decode_bali,
    decode_field,
    landmark_offsets,
    square_offsets,
)
from .learning import Pairs, Twins, scpan_loss
from .losses import (
    WEIGHTS,
    Maps,
    Truth,
    Weights,
    calibration_mechanism_loss,
    calibration_terms,
    coordinate_loss,
    distribution,
    divergence,
    field_divergence,
    js_divergence,
    original_divergence,
    original_loss,
    overall_loss,
    self_calibrated_divergence,
    self_calibrated_loss,
    semi_supervised_loss,
    squared,
    supervised_terms,
    targets,
    truth,
)
from .network import LITE, PAPER, Scpan, ScpanConfig, read

__all__ = [
    "DRAWS", "Field", "LITE", "Maps", "PAPER", "Pairs", "PoseAttention", "Scpan", "ScpanConfig", "Truth", "Twins",
    "WEIGHTS", "Weights", "add_noise", "add_salt", "bali_field", "boundaries_of", "calibration_mechanism_loss",
    "calibration_terms", "coordinate_loss", "curves", "decode_bali", "decode_field", "determinant", "distribution",
    "disturb", "disturb_by", "divergence", "draw_linear", "field_divergence", "js_divergence", "landmark_offsets",
    "linear_map", "linear_of", "low_resolution", "move_images", "move_maps", "move_offsets", "move_points", "occlude",
    "original_divergence", "original_loss", "overall_loss", "read", "scpan_loss", "self_calibrated_divergence",
    "self_calibrated_loss", "semi_supervised_loss", "square_offsets", "squared", "supervised_terms", "targets",
    "truth", "widen",
]
