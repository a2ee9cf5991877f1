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
EMPTY_VOXELS = 100.0
"""Volume found in a patch without lesions, in voxels, that costs half of what a missed lesion costs at most."""
LEVEL_WEIGHTS = (1.0, 0.5)
"""Weights of the outputs at full and at half resolution; coarser ones are left out."""


class LesionLoss(nn.Module):
    """Dice of each patch with lesions, weighted cross-entropy, and that of the organs where they are known.

    It starts lenient: patches without lesions have no Dice, which costs as much there for a few voxels as a missed
    lesion does elsewhere, so that a network that does not know better yet learns to find nothing, and then is sure of
    it; and small lesions have large weights, with what is close around them, so that a network learns to see them and
    not to draw them too large. But one that is trained like this to the end takes too much for a lesion. With growing
    `strictness` the weights go down to one, and what is found in a patch without lesions costs
    n / (n + `EMPTY_VOXELS`) for n voxels.

    Parameters
    ----------
    smooth
        Added to both sides of the Dice fraction, in voxels at full resolution: the size from which on overlap counts.

    Attributes
    ----------
    strictness
        From 0 to 1.
    """

    def __init__(self, smooth: float) -> None:
        super().__init__()
        self.smooth = smooth
        self.strictness = 0.0

    def forward(self, outputs: Sequence[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """Return the loss of a batch, a scalar.

        Parameters
        ----------
        outputs
            Logits at full, half and so on resolution, shape (batch, channels, z, y, x): background, lesion, and any
            number of organs.
        targets
            For each resolution the labels and the weights of the voxels, shape (batch, 2, z, y, x).
        """
        total = torch.zeros((), device=outputs[0].device)
        for weight, output, target in zip(LEVEL_WEIGHTS, outputs, targets, strict=False):
            share = target[0, 0].numel() / targets[0][0, 0].numel()
            total = total + weight * self._lesion_loss(output, target, share)
            if output.shape[1] > FIRST_ORGAN:
                total = total + ORGAN_WEIGHT * _organ_loss(output[:, FIRST_ORGAN:], target[:, 0])
        return total / sum(LEVEL_WEIGHTS)

    def _lesion_loss(self, output: Tensor, target: Tensor, share: float) -> Tensor:
        """Return the loss at one resolution, which has `share` of the full one's voxels."""
        lesion_logit = output[:, 1].float() - output[:, 0].float()
        lesion = (target[:, 0] == 1).float()
        weight = 1 + (1 - self.strictness) * (target[:, 1].float() - 1)
        entropy = functional.binary_cross_entropy_with_logits(lesion_logit, lesion, weight)
        axes = (1, 2, 3)
        probability = lesion_logit.sigmoid()
        size, found = lesion.sum(axes), probability.sum(axes)
        smooth = self.smooth * share
        dice = (2 * (probability * lesion).sum(axes) + smooth) / (found + size + smooth)
        empty = self.strictness * found / (found + EMPTY_VOXELS * share)
        return CE_WEIGHT * entropy + torch.where(size > 0, 1 - dice, empty).mean()


def _organ_loss(output: Tensor, label: Tensor) -> Tensor:
    """Return the mean cross-entropy over the voxels of organs, 0 if there are none."""
    organ = label.long() - FIRST_ORGAN
    known = int((organ >= 0).sum())
    summed = functional.cross_entropy(output.float(), organ.clamp(min=-1), ignore_index=-1, reduction="sum")
    return summed / max(known, 1)
