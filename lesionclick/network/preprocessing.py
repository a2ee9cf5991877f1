"""What a network sees of a case, and the way back to the image: crop, padding, and the part that needs a prediction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class NetworkInput:
    """A preprocessed case.

    `images` (C, z, y, x) and `needed` (z, y, x), where a prediction is wanted (None: everywhere), are a part of the
    network's grid, whose shape is `grid_shape`; their first voxel lies there at `origin`, which is negative where they
    are padded. The others belong to the transposed image: its shape, the half-open bounds (low, high) of the part that
    nnU-Net cropped, and its voxel size in mm.
    """

    images: Tensor
    needed: Tensor | None
    origin: tuple[int, ...]
    grid_shape: tuple[int, ...]
    shape: tuple[int, ...]
    bounds: tuple[tuple[int, int], ...]
    spacing: tuple[float, ...]

    @property
    def window(self) -> tuple[slice, ...]:
        """The part of the transposed image that nnU-Net cropped."""
        return tuple(slice(low, high) for low, high in self.bounds)


def focus(case: NetworkInput, patch_size: Sequence[int]) -> NetworkInput:
    """Cut a case to the bounding box of what is needed, padded with air up to the patch.

    Tiles are not spent on the air around a body, and click channels are made on the padded grid, as in training; zeros
    would mean something else in them.
    """
    assert case.needed is not None
    low, high = (corner.tolist() for corner in case.needed.nonzero().aminmax(dim=0))
    box = [slice(a, b + 1) for a, b in zip(low, high, strict=True)]
    missing = [max(n - (b + 1 - a), 0) for a, b, n in zip(low, high, patch_size, strict=True)]
    padding = [side for n in reversed(missing) for side in (n // 2, n - n // 2)]
    return replace(
        case,
        images=functional.pad(case.images[:, *box], padding),
        needed=functional.pad(case.needed[*box], padding),
        origin=tuple(a - n // 2 for a, n in zip(low, missing, strict=True)),
    )


def shrink_mask(mask: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Bring a mask to another shape: all voxels that overlap it, and their neighbours, which interpolation needs."""
    pooled = functional.adaptive_max_pool3d(mask[None].float(), shape)
    return functional.max_pool3d(pooled, 3, stride=1, padding=1)[0].bool()
