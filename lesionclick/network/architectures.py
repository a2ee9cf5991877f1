"""Networks that are not nnU-Net's own; plans name them by their import path."""

from __future__ import annotations

from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import Tensor

PET_CHANNEL = 1


class LogUptakeUNet(PlainConvUNet):  # type: ignore[misc]
    """nnU-Net's plain U-Net, which sees the PET a second time as log(1 + SUV), in one more channel behind the others.

    Half of a lesion's uptake is its edge, whatever its uptake: in the logarithm that is one difference, where weak
    lesions beside hot organs are lost in the linear image, whose features are normalised by what is hottest.

    Parameters
    ----------
    input_channels
        Channels of what comes in: CT, PET, and those of the prompts.
    suv_per_unit
        SUV of one unit of the normalised PET, which is zero in air.
    arguments
        Those of the plain U-Net.
    """

    def __init__(self, input_channels: int, *, suv_per_unit: float, **arguments: Any) -> None:
        super().__init__(input_channels + 1, **arguments)
        self.suv_per_unit = suv_per_unit

    def forward(self, x: Tensor) -> Any:
        """Return the logits of a batch, shape (batch, channels, z, y, x), at each resolution where training asks.

        Parameters
        ----------
        x
            CT, PET in units of `suv_per_unit`, and the channels of the prompts, shape (batch, channels, z, y, x).
        """
        suv = x[:, PET_CHANNEL : PET_CHANNEL + 1].clamp(min=0) * self.suv_per_unit
        return super().forward(torch.cat([x, torch.log1p(suv)], dim=1))
