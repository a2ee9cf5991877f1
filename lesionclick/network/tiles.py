"""Predict a volume tile by tile: which tiles, which of them need work, and how they are gathered. Pure torch.

The tiling, the weights and the precision are nnU-Net's, so that its own predictions are matched to the voxel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import combinations, pairwise, product
from operator import itemgetter
from typing import Protocol

import torch
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from torch import Tensor
from torch.nn import functional

from lesionclick.errors import ModelError

Tile = tuple[slice, slice, slice]
"""Part of a padded volume along z, y, x."""

SEAM = 0.02
"""How far beyond the voxels nearest to its middle a tile counts as near, in units of its size: there two tiles weigh
about the same. Chosen on drawn patients (docs/performance.md)."""


class PaintedChannels(Protocol):
    """Channels beside those of the images that are made tile by tile.

    Attributes
    ----------
    n_channels
        Their number.
    """

    n_channels: int

    def paint(self, part: Tile) -> Tensor | None:
        """Return the channels of a part of the volume, shape (`n_channels`, z, y, x), or None where all are zero."""


class KeptTiles(Protocol):
    """Outputs of tiles, kept from before."""

    def has_room_for(self, count: int) -> bool:
        """Tell whether the outputs of so many tiles could be kept together."""

    def get(self, tile: Tile) -> Tensor | None:
        """Return the output of a tile, if it is known."""

    def put(self, tile: Tile, output: Tensor) -> None:
        """Keep the output of a tile."""


def predict(
    network: Callable[[Tensor], Tensor],
    data: Tensor,
    patch_size: Sequence[int],
    *,
    step: float = 0.5,
    mirror_axes: Sequence[int] = (),
    needed: Tensor | None = None,
    nearest: bool = False,
    device: torch.device | None = None,
    first_zyx: Sequence[Sequence[float]] = (),
    at_once: int = 1,
    go_on: Callable[[], bool] = lambda: True,
    kept: KeptTiles | None = None,
    painted: PaintedChannels | None = None,
) -> Tensor | None:
    r"""Apply `network` to overlapping tiles of `data` and average its outputs with Gaussian weights.

    Parameters
    ----------
    network
        Maps tiles of shape (N, C, \*patch_size) to their outputs, of shape (N, K, \*patch_size).
    data
        Shape (C, z, y, x). An axis shorter than the patch is padded with zeros, evenly on both sides.
    patch_size
        Shape of a tile along z, y, x.
    step
        Largest distance between neighbouring tiles, as a fraction of `patch_size`, above 0 and up to 1.
    mirror_axes
        Axes (0, 1, 2 for z, y, x) over all of whose combined flips the output of a tile is averaged.
    needed
        Shape (z, y, x), bool. Only tiles that hold a needed voxel are computed; needed voxels get the same result as
        without this argument, since every tile over such a voxel holds it.
    nearest
        Compute of these only the tiles that have a needed voxel near their middle. They weigh most in it.
    device
        Where the tiles are computed; by default where `data` is, which is also where they are gathered.
    first_zyx
        Points whose tiles come first, for a prediction that may be cut short.
    at_once
        Number of tiles, N, that are computed together.
    go_on
        Asked before tiles are computed; False ends the prediction with what there is.
    kept
        Outputs of tiles that are known, which are not computed, and where new ones are put. Where it has no room for
        all tiles of this prediction, it is not used. The result does not depend on what it holds.
    painted
        Further channels, after those of `data`; zero in the padding.

    Returns
    -------
    Tensor or None
        Shape (K, z, y, x), half precision, where `data` is. Voxels that no computed tile covers are NaN. None if there
        was no time for any tile.

    Raises
    ------
    ValueError
        If no voxel is needed.
    ModelError
        If the network's output is not finite, or too large for half precision.
    """
    with torch.inference_mode():
        padding = _padding(data.shape[1:], patch_size)
        padded = functional.pad(data, padding) if any(padding) else data  # which copies even where it adds nothing
        shape = padded.shape[1:]
        tiles = list_tiles(data.shape[1:], patch_size, step, needed, nearest=nearest)
        if not tiles:
            raise ValueError("no voxel is needed, so there is nothing to predict")
        if kept is not None and not kept.has_room_for(len(tiles)):
            kept = None
        points = [[p + n for p, n in zip(point, padding[4::-2], strict=True)] for point in first_zyx]
        order = sorted(range(len(tiles)), key=lambda n: not any(_holds(tiles[n], point) for point in points))
        weights = compute_gaussian(tuple(patch_size), sigma_scale=1 / 8, value_scaling_factor=10, device=padded.device)
        weight_sum = torch.zeros(shape, dtype=torch.half, device=padded.device)
        gathered = None
        outputs = _outputs(
            [(n, tiles[n]) for n in order],
            partial(_take, partial(_cut, padded, padding, painted), device or padded.device, at_once),
            lambda taken: average_flips(network, taken, mirror_axes),
            at_once=at_once,
            home=padded.device,
            go_on=go_on,
            kept=kept,
        )
        if kept is not None:  # added in one order whatever was known, so that no rounding tells
            outputs = iter(sorted(outputs, key=itemgetter(0)))
        for number, output in outputs:
            tile = tiles[number]
            if gathered is None:
                gathered = weight_sum.new_zeros((len(output), *shape))
            if output.dtype == torch.bfloat16:  # as exact in half precision, and added many times faster
                output = output.to(torch.half, memory_format=torch.contiguous_format)
            gathered[:, *tile] += output * weights
            weight_sum[tile] += weights
        if gathered is None:
            return None
        gathered /= weight_sum
        slabs = zip(gathered.transpose(0, 1), weight_sum, strict=True)  # one after the other, for the memory's sake
        if not all((logits.isfinite() == (weights > 0)).all() for logits, weights in slabs):
            raise ModelError("the network's output is not finite in half precision; expected logits below about 1000")
        inner = [slice(low, n - high) for low, high, n in zip(padding[4::-2], padding[5::-2], shape, strict=True)]
        return gathered[:, *inner]


def _outputs(
    tiles: Sequence[tuple[int, Tile]],
    take: Callable[[Sequence[Tile]], Tensor],
    compute: Callable[[Tensor], Tensor],
    *,
    at_once: int,
    home: torch.device,
    go_on: Callable[[], bool],
    kept: KeptTiles | None,
) -> Iterator[tuple[int, Tensor]]:
    """Yield the numbers of tiles with their outputs, first what is kept, then what is computed until time is over."""
    unknown = []
    for number, tile in tiles:
        output = None if kept is None else kept.get(tile)
        if output is None:
            unknown.append((number, tile))
        else:
            yield number, output
    groups = [unknown[n : n + at_once] for n in range(0, len(unknown), at_once)]
    following = take([tile for _, tile in groups[0]]) if groups else None
    for group, after in zip(groups, [*groups[1:], []], strict=False):
        if not go_on():
            return
        assert following is not None
        computed = compute(following)  # a GPU has only begun with it when this returns
        following = take([tile for _, tile in after]) if after else None
        for (number, tile), output in zip(group, computed.to(home), strict=False):
            if kept is not None:
                kept.put(tile, output.clone() if at_once > 1 else output)
            yield number, output


def _cut(padded: Tensor, padding: Sequence[int], painted: PaintedChannels | None, tile: Tile) -> Tensor:
    """Return all channels of a tile, shape (C, z, y, x), of the images' type."""
    images = padded[:, *tile]
    if painted is None:
        return images.contiguous()
    whole = images.new_zeros((len(images) + painted.n_channels, *images.shape[1:]))
    whole[: len(images)] = images
    part, inside = [], []
    for axis, low, high, n in zip(tile, padding[4::-2], padding[5::-2], padded.shape[1:], strict=True):
        start, stop = max(axis.start, low), min(axis.stop, n - high)
        part.append(slice(start - low, stop - low))
        inside.append(slice(start - axis.start, stop - axis.start))
    channels = painted.paint((part[0], part[1], part[2]))
    if channels is not None:
        whole[len(images) :, *inside] = channels
    return whole


def _take(cut: Callable[[Tile], Tensor], device: torch.device, at_once: int, tiles: Sequence[Tile]) -> Tensor:
    """Copy tiles to the device, shape (`at_once`, C, z, y, x), the last one again where there are fewer.

    So a network sees one shape, and computes a tile in one way. A copy from the CPU to a GPU goes on beside what the
    GPU computes.
    """
    filled = [*tiles, *[tiles[-1]] * (at_once - len(tiles))]
    cuts = [cut(tile) for tile in filled]
    taken = cuts[0][None] if len(cuts) == 1 else torch.stack(cuts)
    if device.type != "cuda" or taken.is_cuda:  # "cuda" and "cuda:0" are not equal
        return taken.to(device)
    beside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    with torch.cuda.stream(beside):
        moved = taken.pin_memory().to(device, non_blocking=True)
    torch.cuda.current_stream(device).wait_stream(beside)
    moved.record_stream(torch.cuda.current_stream(device))
    return moved


def list_tiles(
    shape: Sequence[int],
    patch_size: Sequence[int],
    step: float,
    needed: Tensor | None = None,
    *,
    nearest: bool = False,
) -> list[Tile]:
    """Return the tiles that `predict` computes, in nnU-Net's order, x fastest, on the padded grid."""
    padding = _padding(shape, patch_size)
    padded = [max(n, patch) for n, patch in zip(shape, patch_size, strict=True)]
    tiles = _tiles(padded, patch_size, step)
    if needed is None:
        return tiles
    mask = functional.pad(needed, padding).cpu().numpy()  # whose search in a tile is many times faster
    parts = _middles(padded, patch_size, step) if nearest else tiles
    return [tile for tile, part in zip(tiles, parts, strict=True) if mask[part].any()]


def _holds(tile: Tile, point: Sequence[float]) -> bool:
    return all(axis.start <= p < axis.stop for axis, p in zip(tile, point, strict=True))


def _padding(shape: Sequence[int], patch_size: Sequence[int]) -> list[int]:
    """Return the padding up to the patch in the order of `torch.nn.functional.pad`: x low, x high, y low, and so on."""
    missing = [max(patch - n, 0) for n, patch in zip(shape, patch_size, strict=True)]
    return [side for n in reversed(missing) for side in (n // 2, n - n // 2)]


def _middles(shape: Sequence[int], patch_size: Sequence[int], step: float) -> list[Tile]:
    """Return the part of each tile whose voxels are nearest to its middle, and what lies `SEAM` beyond, in order."""
    axes = []
    for starts, patch, n in zip(_starts(shape, patch_size, step), patch_size, shape, strict=True):
        between = [(first + second + patch) / 2 for first, second in pairwise(starts)]
        low = [0.0, *(place - SEAM * patch for place in between)]
        high = [*(place + SEAM * patch for place in between), float(n)]
        axes.append([slice(math.floor(a), math.ceil(b)) for a, b in zip(low, high, strict=True)])
    return list(product(*axes))


def _starts(shape: Sequence[int], patch_size: Sequence[int], step: float) -> list[list[int]]:
    """Return where tiles start along each axis."""
    starts: list[list[int]] = compute_steps_for_sliding_window(tuple(shape), tuple(patch_size), step)
    return starts


def _tiles(shape: Sequence[int], patch_size: Sequence[int], step: float) -> list[Tile]:
    """Return the tiles in nnU-Net's order: x fastest."""
    return [
        (slice(z, z + patch_size[0]), slice(y, y + patch_size[1]), slice(x, x + patch_size[2]))
        for z, y, x in product(*_starts(shape, patch_size, step))
    ]


def average_flips(network: Callable[[Tensor], Tensor], tile: Tensor, mirror_axes: Sequence[int]) -> Tensor:
    """Return the mean of the network's outputs for all combinations of flips, each flipped back."""
    dims = [axis + 2 for axis in mirror_axes]
    flips = [flip for count in range(1, len(dims) + 1) for flip in combinations(dims, count)]
    total = network(tile)
    for flip in flips:
        total = total + network(tile.flip(flip)).flip(flip)
    return total / (len(flips) + 1)
