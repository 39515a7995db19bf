"""The pose attention of SCPAN. Shapes: B batch, C channels, H W."""

from torch import Tensor, nn

from facealign_lite.nets import Residual


class PoseAttention(nn.Module):
    """Look again where the pose is: P' = M * Q + Q with M = sigmoid(RB2(RB1(Q))), so the mask may double a feature.

    The text lets the stage's maps come out of a residual block on Q, and the mask out of "pose information": we read
    both as one, RB1, whose output a 1x1 convolution of the network turns into maps.

    Args:
        channels: of the hourglass features Q.
        pose: channels between the two blocks; as many as ``channels`` unless said.

    Source: SCPAN Eq. 9 and 10.
    """

    def __init__(self, channels: int, pose: int | None = None):
        super().__init__()
        self.first = Residual(channels, pose or channels)
        self.second = Residual(pose or channels, channels)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features Q (B, C, H, W) -> the next stage's input (B, C, H, W), pose (B, pose, H, W), mask (B, C, H, W)."""
        pose = self.first(features)
        mask = self.second(pose).sigmoid()                                      # Eq. 9
        return mask * features + features, pose, mask                           # Eq. 10
