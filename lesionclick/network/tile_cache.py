"""Outputs of tiles, kept while their input stays the same, within a given memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from torch import Tensor

from lesionclick.network.tiles import Tile

Key = Hashable


class TileCache:
    """Outputs by what they were computed from; the ones that were not asked for the longest go first.

    Parameters
    ----------
    max_bytes
        Memory that the outputs may take.
    """

    def __init__(self, max_bytes: int) -> None:
        self._outputs: OrderedDict[Key, Tensor] = OrderedDict()
        self._max_bytes = max_bytes
        self._bytes = 0

    def get(self, key: Key) -> Tensor | None:
        """Return an output, if it is kept."""
        if key in self._outputs:
            self._outputs.move_to_end(key)
        return self._outputs.get(key)

    def put(self, key: Key, output: Tensor) -> None:
        """Keep an output, and let go of old ones for it."""
        if key in self._outputs:
            self._bytes -= self._outputs.pop(key).nbytes
        self._outputs[key] = output
        self._bytes += output.nbytes
        while self._bytes > self._max_bytes:
            _, oldest = self._outputs.popitem(last=False)
            self._bytes -= oldest.nbytes

    def __len__(self) -> int:
        return len(self._outputs)

    def of(self, name: Callable[[Tile], Key], tile_bytes: int) -> KeyedTiles:
        """Return the cache for the tiles of one prediction.

        Parameters
        ----------
        name
            Tells them from all other predictions' tiles.
        tile_bytes
            Memory of each output.
        """
        return KeyedTiles(self, name, tile_bytes)

    def has_room_for(self, n_bytes: int) -> bool:
        """Tell whether so much could be kept if nothing else was."""
        return n_bytes <= self._max_bytes


@dataclass(frozen=True)
class KeyedTiles:
    """A cache as `lesionclick.network.tiles.predict` takes it."""

    cache: TileCache
    name: Callable[[Tile], Key]
    tile_bytes: int

    def has_room_for(self, count: int) -> bool:
        """Tell whether the outputs of so many tiles could be kept together."""
        return self.cache.has_room_for(count * self.tile_bytes)

    def get(self, tile: Tile) -> Tensor | None:
        """Return the output of a tile, if it is kept."""
        return self.cache.get(self.name(tile))

    def put(self, tile: Tile, output: Tensor) -> None:
        """Keep the output of a tile."""
        self.cache.put(self.name(tile), output)
