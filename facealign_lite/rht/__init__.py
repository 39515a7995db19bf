"""RHT: the heatmaps of a known face, moved onto another, help to find its landmarks.

Wan et al., Precise Facial Landmark Detection by Reference Heatmap Transformer. ``transform`` Eq. 1 to 4, ``network``
5 and 6, ``losses`` 7 to 9; ``backbones`` the target's own features, ``references`` whom to borrow from.
"""

from .backbones import Backbone, Encoder, EncoderLayer, HourglassFeatures, sine_places
from .losses import WEIGHT, consistency_loss, heatmap_loss, overall_loss, rht_loss
from .network import (
    ABLATION,
    LITE,
    LITE_H,
    LITE_HG,
    PAPER,
    PAPER_H,
    PAPER_HG,
    FeatureFusion,
    LocalFeatures,
    MultiScaleFusion,
    ReferenceTransformer,
    Rht,
    RhtConfig,
    RhtOutput,
    Transformed,
    draw,
    read,
)
from .references import WAYS, Lender, Pairs, ReferenceBank, References, answer, as_picture, choose, low_resolution
from .transform import (
    Localization,
    best_affine,
    correlate,
    hard_transform,
    perfect_matches,
    soft_transform,
    to_matrix,
    to_theta,
    transfer,
)

__all__ = [
    "ABLATION", "LITE", "LITE_H", "LITE_HG", "PAPER", "PAPER_H", "PAPER_HG", "WAYS", "WEIGHT", "Backbone", "Encoder",
    "EncoderLayer", "FeatureFusion", "HourglassFeatures", "Lender", "LocalFeatures", "Localization", "MultiScaleFusion",
    "Pairs", "ReferenceBank", "ReferenceTransformer", "References", "Rht", "RhtConfig", "RhtOutput", "Transformed",
    "answer", "as_picture", "best_affine", "choose", "consistency_loss", "correlate", "draw", "hard_transform",
    "heatmap_loss", "low_resolution", "overall_loss", "perfect_matches", "read", "rht_loss", "sine_places",
    "soft_transform", "to_matrix", "to_theta", "transfer",
]
