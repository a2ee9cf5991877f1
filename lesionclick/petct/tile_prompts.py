"""The prompts that each tile shows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from lesionclick.budget import STEPS
from lesionclick.network.tiles import Tile
from lesionclick.prompts.encodings import Fields, Mark, PointEncoding
from lesionclick.prompts.points import Prompts


class TilePrompts:
    """What prompts paint, and which of it lies in a tile or reaches it.

    Parameters
    ----------
    encoding
        How prompts become channels.
    prompts
        Points on the network's grid.
    spacing_zyx
        Its voxel size in mm.
    device
        Where tiles are painted; by default the CPU.

    Attributes
    ----------
    n_channels
        Number of channels of the encoding.
    prompts
        As given.
    """

    def __init__(
        self,
        encoding: PointEncoding,
        prompts: Prompts,
        spacing_zyx: Sequence[float],
        device: torch.device | None = None,
    ) -> None:
        self.n_channels = encoding.n_channels
        self.prompts = prompts
        self._encoding = encoding
        self._spacing = spacing_zyx
        self._device = device
        self._marks = encoding.marks(prompts, spacing_zyx)
        self._places = np.array([mark.index_zyx for mark in self._marks]).reshape(-1, 3)

    def reaching(self, tile: Tile, reach_mm: float) -> frozenset[Mark]:
        """Return the marks that are at most `reach_mm` from a tile, all that its channels depend on."""
        return frozenset(self._marks[n] for n in np.flatnonzero(self._distances_mm(tile) <= reach_mm))

    def paint(self, part: Tile) -> torch.Tensor | None:
        """Return the channels of a part of the grid with the marks that lie in it, or None where none does.

        The part is along z, y, x, and the result of shape (`n_channels`, z, y, x), float32; see `are_shown_by_tile`.
        """
        assert isinstance(self._encoding, Fields)
        corner = [axis.start for axis in part]
        shown = [
            Mark(mark.how, tuple(np.subtract(mark.index_zyx, corner).tolist())) for mark in self.reaching(part, 0.0)
        ]
        if not shown:
            return None
        shape = [axis.stop - axis.start for axis in part]
        return self._encoding.paint(shown, shape, self._spacing, self._device)

    def _distances_mm(self, tile: Tile) -> NDArray[np.float64]:
        """Return the distance of each mark from the nearest voxel of a tile, zero within half of a voxel."""
        first, last = ([axis.start - 0.5 for axis in tile], [axis.stop - 0.5 for axis in tile])
        gaps = self._places - np.clip(self._places, first, last)
        distances: NDArray[np.float64] = np.linalg.norm(gaps * np.asarray(self._spacing), axis=1)
        return distances


def are_shown_by_tile(encoding: PointEncoding, patch_size: Sequence[int], spacing_zyx: Sequence[float]) -> bool:
    """Tell whether a tile of `patch_size` voxels (z, y, x) of `spacing_zyx` mm need not show marks beyond itself.

    A tile weighs most in the voxels that are nearer to its middle than to that of another tile. Where no mark reaches
    from beyond the tile to these, none is shown, and a click changes the tiles over it alone.
    """
    if not isinstance(encoding, Fields):
        return False
    beyond_mm = [STEPS[0] / 2 * n * mm for n, mm in zip(patch_size, spacing_zyx, strict=True)]
    reach_mm = encoding.mark_reach_mm(spacing_zyx)
    return math.isfinite(reach_mm) and reach_mm <= min(beyond_mm)
