"""The pose attention of SCPAN. Shapes: B batch, C channels, H W."""

from torch import Tensor, nn

from facealign_lite.nets import Residual


class PoseAttention(nn.Module):
    """Look again where the pose is: P' = M * Q + Q, so the mask may double a feature.

    The text lets the stage's maps come out of a residual block on Q, and the mask out of "pose information". Eq. 9 is
    M = sigmoid(RB2(RB1(Q))): RB1 gives features, of which a 1x1 convolution of the network makes maps, and RB2 reads
    the features. The words "using the newly generated heatmaps as attention" have RB2 read the maps: give their number.

    Args:
        channels: of the hourglass features Q.
        maps: of a stage, K + C, if RB2 reads them; None: it reads the features that they are made of.

    Source: SCPAN Eq. 9 and 10.
    """

    def __init__(self, channels: int, maps: int | None = None):
        super().__init__()
        self.first = Residual(channels, channels)
        self.second = Residual(maps or channels, channels)

    def forward(self, features: Tensor, head: nn.Module | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """What the next stage sees, what the mask was made of, and the mask.

        Args:
            features: Q, (B, C, H, W).
            head: makes the logits of the maps (B, K + C, H, W) out of RB1's features, if RB2 reads those.

        Returns:
            (B, C, H, W); features (B, C, H, W) or, with a head, logits (B, K + C, H, W); mask (B, C, H, W).
        """
        pose = self.first(features)
        pose = pose if head is None else head(pose)
        mask = self.second(pose).sigmoid()                                      # Eq. 9
        return mask * features + features, pose, mask                           # Eq. 10
