"""The loss of interactive training: small missed lesions count, and organs are learnt beside the lesions."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

FIRST_ORGAN = 2
"""Label of the first organ: labels are 0 (nothing is known of the voxel but that it is no lesion), 1 (lesion), 2 and
so on (organs)."""
CE_WEIGHT = 10.0
"""Weight of the cross-entropy beside the Dice, whose gradient vanishes where a lesion is missed with certainty."""
ORGAN_WEIGHT = 0.5
LEVEL_WEIGHTS = (1.0, 0.5)
"""Weights of the outputs at full and at half resolution; coarser ones are left out."""


class LesionLoss(nn.Module):
    """Dice of each patch with lesions, weighted cross-entropy, and that of the organs where they are known.

    Patches without lesions have no Dice: it costs as much there for a few voxels as a missed lesion does elsewhere, and
    a network that does not know better yet learns to find nothing, and then is sure of it.

    Parameters
    ----------
    smooth
        Added to both sides of the Dice fraction, in voxels at full resolution: the size from which on overlap counts.
    """

    def __init__(self, smooth: float) -> None:
        super().__init__()
        self.smooth = smooth

    def forward(self, outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """Return the loss of a batch, a scalar.

        Parameters
        ----------
        outputs
            Logits at full, half and so on resolution, shape (batch, channels, z, y, x): background, lesion, and any
            number of organs.
        targets
            For each resolution the labels and the weights of the lesions' voxels, shape (batch, 2, z, y, x).
        """
        total = torch.zeros((), device=outputs[0].device)
        for weight, output, target in zip(LEVEL_WEIGHTS, outputs, targets, strict=False):
            share = target[0, 0].numel() / targets[0][0, 0].numel()
            total = total + weight * self._lesion_loss(output, target, self.smooth * share)
            if output.shape[1] > FIRST_ORGAN:
                total = total + ORGAN_WEIGHT * _organ_loss(output[:, FIRST_ORGAN:], target[:, 0])
        return total / sum(LEVEL_WEIGHTS)

    @staticmethod
    def _lesion_loss(output: Tensor, target: Tensor, smooth: float) -> Tensor:
        lesion_logit = output[:, 1].float() - output[:, 0].float()
        lesion = (target[:, 0] == 1).float()
        weight = target[:, 1].float()
        entropy = functional.binary_cross_entropy_with_logits(lesion_logit, lesion, weight)
        axes = (1, 2, 3)
        probability = lesion_logit.sigmoid()
        size = lesion.sum(axes)
        dice = (2 * (probability * lesion).sum(axes) + smooth) / (probability.sum(axes) + size + smooth)
        return CE_WEIGHT * entropy + torch.where(size > 0, 1 - dice, 0.0).mean()


def _organ_loss(output: Tensor, label: Tensor) -> Tensor:
    """Return the mean cross-entropy over the voxels of organs, 0 if there are none."""
    organ = label.long() - FIRST_ORGAN
    known = int((organ >= 0).sum())
    summed = functional.cross_entropy(output.float(), organ.clamp(min=-1), ignore_index=-1, reduction="sum")
    return summed / max(known, 1)
