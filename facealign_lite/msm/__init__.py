"""MSM: straighten the crop, look, and rebuild what was not seen from remembered faces.

Wang, Cheng, Zhou, Tao, Kwan, Multistage Model for Robust Face Alignment Using Deep Neural Networks. ``stgan`` Eq. 1 to
6 and Algorithm 1, ``network`` Fig. 3 and the regression baseline, ``exemplars`` Eq. 9 to 11, ``model`` Algorithm 2.
The weights that are shipped were trained with b = 0 in Eq. 5, without the discriminator: a spatial transformer, no
ST-GAN (claim C20a).
"""

from .exemplars import (
    FRAME,
    INNER,
    OUTLINE,
    PUPILS,
    RADIUS,
    ShapeDictionary,
    canonical,
    clean_score,
    mean_face,
    reliable,
    scores,
)
from .model import (
    MSM_PAPER,
    Found,
    Msm,
    MsmConfig,
    Stages,
    StraightBatches,
    StraightCrops,
    run,
    straight_batch,
)
from .network import (
    HEAT_LITE,
    HEAT_PAPER,
    REGRESSION_LITE,
    REGRESSION_PAPER,
    HeatConfig,
    HeatNet,
    RegressionConfig,
    RegressionNet,
    heat,
    heat_loss,
    point_loss,
)
from .stgan import LITE as STGAN_LITE
from .stgan import PAPER as STGAN_PAPER
from .stgan import (
    Discriminator,
    Generator,
    Pose,
    StGan,
    StGanConfig,
    adversarial_loss,
    discriminator_objective,
    fit_theta,
    from_frame,
    grid,
    move,
    move_back,
    parameter_loss,
    pixel_map,
    pose_residual,
    stgan_loss,
    straighten,
    to_frame,
    true_theta,
)

__all__ = [
    "FRAME", "HEAT_LITE", "HEAT_PAPER", "INNER", "MSM_PAPER", "OUTLINE", "PUPILS", "RADIUS", "REGRESSION_LITE",
    "REGRESSION_PAPER", "STGAN_LITE", "STGAN_PAPER", "Discriminator", "Found", "Generator", "HeatConfig", "HeatNet",
    "Msm", "MsmConfig", "Pose", "RegressionConfig", "RegressionNet", "ShapeDictionary", "StGan", "StGanConfig",
    "Stages", "StraightBatches", "StraightCrops", "adversarial_loss", "canonical", "clean_score",
    "discriminator_objective", "fit_theta", "from_frame", "grid", "heat", "heat_loss", "mean_face", "move", "move_back",
    "parameter_loss", "pixel_map", "point_loss", "pose_residual", "reliable", "run", "scores", "stgan_loss",
    "straight_batch", "straighten", "to_frame", "true_theta",
]
