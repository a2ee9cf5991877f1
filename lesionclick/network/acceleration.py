"""How a network computes on the device at hand: in which precision, and in which layout of memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

VOXELS_AT_ONCE = {"cuda": 2**20}
"""Voxels of the tiles that a device computes together. A CPU, which is not named, computes one tile at a time: two and
more took 0.9 to 1.5 times as long each (docs/performance.md). On an H100 eight tiles of Task 1 took an eighth as long
each as one, and sixteen three fifths of that; `benchmarks/gpu.py` measures it."""
VECTOR, MANY_VOXELS = 16, 1000
"""Channels of which PyTorch's group norm takes whole vectors, and voxels from which on that is fast."""


@dataclass(frozen=True)
class Arithmetic:
    """How networks compute.

    Attributes
    ----------
    dtype
        Of convolutions; other steps stay in float32 where autocast wants it so.
    exact
        Whether all is done as nnU-Net does it.
    """

    dtype: torch.dtype = torch.float32
    exact: bool = True

    @classmethod
    def choose(cls, device: torch.device, *, exact: bool = False) -> Arithmetic:
        """Return the fastest arithmetic of a device, or where `exact` that of nnU-Net.

        That is half precision on a GPU, which is nnU-Net's own, and bfloat16 on a CPU that multiplies in it. A CPU that
        only imitates it would be slower than with float32.
        """
        if device.type == "cuda":
            return cls(torch.float16, exact)
        return cls(torch.float32 if exact or not multiplies_bfloat16() else torch.bfloat16, exact)

    def dtype_on(self, device: torch.device) -> torch.dtype:
        """Return the precision of convolutions on a device, which need not be the one that this was chosen for."""
        fits = (device.type == "cuda") == (self.dtype == torch.float16)
        return self.dtype if fits else torch.float32

    def autocast(self, device: torch.device) -> torch.autocast:
        """Return the context in which networks run on a device."""
        dtype = self.dtype_on(device)
        enabled = dtype != torch.float32
        return torch.autocast(device.type, dtype=dtype if enabled else None, enabled=enabled)

    def tiles_at_once(self, device: torch.device, patch_size: Sequence[int]) -> int:
        """Return how many tiles a device computes together; where `exact`, one, as nnU-Net does."""
        return 1 if self.exact else max(1, VOXELS_AT_ONCE.get(device.type, 0) // math.prod(patch_size))

    def prepare(self, network: nn.Module) -> nn.Module:
        """Change a network in place to suit this arithmetic, and return it.

        On a CPU its channels lie last in memory.
        """
        if self.dtype != torch.float16 and not self.exact:
            put_channels_last(network)
        return network


def multiplies_bfloat16() -> bool:
    """Tell whether the CPU has instructions for products in bfloat16 (AVX-512 BF16 or AMX), by PyTorch's own word.

    PyTorch has no public name for it; one that lacks these functions is taken for a no.
    """
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


class ChannelsLastInstanceNorm(nn.Module):
    """An instance norm for tensors whose channels lie last, while PyTorch's copies them to the other layout and back.

    The norm of one sample's channels is its batch norm, and its group norm with one channel to a group; PyTorch has
    kernels for both. That of the group norm is a third faster where whole vectors of channels and many voxels come,
    and up to eighty times slower elsewhere; its gradient is slow everywhere (docs/performance.md).

    Parameters
    ----------
    norm
        The norm that this one replaces; the two share their parameters.
    """

    def __init__(self, norm: nn.InstanceNorm3d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise each channel of each sample; shape (batch, channels, z, y, x)."""
        channels = x.shape[1]
        if not self.training and channels % VECTOR == 0 and x[0, 0].numel() >= MANY_VOXELS:
            return functional.group_norm(x, channels, self.weight, self.bias, self.eps)
        samples = [
            functional.batch_norm(one, None, None, self.weight, self.bias, training=True, eps=self.eps)
            for one in x.chunk(len(x))
        ]
        return torch.cat(samples) if len(samples) > 1 else samples[0]


def put_channels_last(network: nn.Module) -> None:
    """Change the layout of a network in place, with the norms that suit it; names of weights stay."""
    network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    for module in list(network.modules()):
        for name, child in module.named_children():
            if type(child) is nn.InstanceNorm3d and not child.track_running_stats:
                setattr(module, name, ChannelsLastInstanceNorm(child))
