"""MSM: straighten the crop, look, and rebuild what was not seen from remembered faces.

Wang, Cheng, Zhou, Tao, Kwan, Multistage Model for Robust Face Alignment Using Deep Neural Networks. ``stgan`` Eq. 1 to
6 and Algorithm 1, ``exemplars`` Eq. 9 to 11.
"""

from .exemplars import (
    FRAME,
    INNER,
    OUTLINE,
    PUPILS,
    ShapeDictionary,
    canonical,
    mean_face,
    reliable,
    scores,
)
from .stgan import (
    Discriminator,
    Generator,
    Pose,
    StGan,
    StGanConfig,
    adversarial_loss,
    discriminator_objective,
    from_frame,
    grid,
    move,
    parameter_loss,
    pixel_map,
    pose_residual,
    stgan_loss,
    straighten,
    to_frame,
    true_theta,
)

__all__ = [
    "FRAME", "INNER", "OUTLINE", "PUPILS", "Discriminator", "Generator", "Pose", "ShapeDictionary", "StGan",
    "StGanConfig", "adversarial_loss", "canonical", "discriminator_objective", "from_frame", "grid", "mean_face",
    "move", "parameter_loss", "pixel_map", "pose_residual", "reliable", "scores", "stgan_loss", "straighten",
    "to_frame", "true_theta",
]
