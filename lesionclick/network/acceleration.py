"""How a network computes on the device at hand: in which precision, and in which layout of memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

VOXELS_AT_ONCE = {"cuda": 2**20}
"""Voxels of the tiles that a device computes together. A CPU, which is not named, computes one tile at a time: two and
more took 0.9 to 1.5 times as long each (docs/performance.md). The figure for a GPU is by its size, not measured;
`benchmarks/gpu.py` measures it."""


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

    def autocast(self, device: torch.device) -> torch.autocast:
        """Return the context in which networks run on a device."""
        enabled = self.dtype != torch.float32 and (device.type == "cuda") == (self.dtype == torch.float16)
        return torch.autocast(device.type, dtype=self.dtype if enabled else None, enabled=enabled)

    def tiles_at_once(self, device: torch.device, patch_size: Sequence[int]) -> int:
        """Return how many tiles a device computes together; where `exact`, one, as nnU-Net does."""
        return 1 if self.exact else max(1, VOXELS_AT_ONCE.get(device.type, 0) // math.prod(patch_size))

    def prepare(self, network: nn.Module) -> nn.Module:
        """Change a network in place to suit this arithmetic, and return it.

        On a CPU its channels lie last in memory, and its instance norms become group norms of one channel each: the
        same function, which PyTorch has for that layout, while its instance norm copies to the other and back.
        """
        if self.dtype != torch.float16 and not self.exact:
            network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
            for module in list(network.modules()):
                for name, child in module.named_children():
                    if type(child) is nn.InstanceNorm3d and not child.track_running_stats:
                        setattr(module, name, _group_norm(child))
        return network


def multiplies_bfloat16() -> bool:
    """Tell whether the CPU has instructions for products in bfloat16 (AVX-512 BF16 or AMX), by PyTorch's own word.

    PyTorch has no public name for it; one that lacks these functions is taken for a no.
    """
    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, name, lambda: False)() for name in names)


def _group_norm(norm: nn.InstanceNorm3d) -> nn.GroupNorm:
    group = nn.GroupNorm(norm.num_features, norm.num_features, eps=norm.eps, affine=norm.affine)
    if norm.affine:
        group.weight, group.bias = norm.weight, norm.bias
    return group
