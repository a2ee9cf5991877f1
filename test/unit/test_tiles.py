from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lesionclick.errors import ModelError
from lesionclick.network import tiles
from lesionclick.network.tile_cache import TileCache
from lesionclick.network.tiles import Tile, list_tiles, predict

PATCH = (4, 6, 8)


def two_channels(tile: Tensor) -> Tensor:
    """A network for tests: the first channel plus one, and its negative."""
    return torch.cat([tile[:, :1] + 1, -tile[:, :1]], dim=1)


class Counted:
    """A network that remembers the tiles that it was given."""

    def __init__(self, network: Callable[[Tensor], Tensor]) -> None:
        self.network = network
        self.tiles: list[Tensor] = []

    def __call__(self, tile: Tensor) -> Tensor:
        self.tiles.append(tile.clone())
        return self.network(tile)


@pytest.mark.parametrize("shape", [(4, 6, 8), (5, 6, 17), (11, 13, 9), (3, 20, 2), (1, 1, 1)])
@pytest.mark.parametrize("step", [0.5, 1.0])
def test_a_constant_stays_constant_everywhere(shape: tuple[int, int, int], step: float) -> None:
    logits = predict(two_channels, torch.full((3, *shape), 2.0), PATCH, step=step)
    assert logits.dtype == torch.half
    torch.testing.assert_close(logits[0], torch.full(shape, 3.0, dtype=torch.half), rtol=2e-3, atol=0)
    torch.testing.assert_close(logits[1], torch.full(shape, -2.0, dtype=torch.half), rtol=2e-3, atol=0)


def test_a_voxelwise_network_gives_its_value_at_every_voxel() -> None:
    # whole numbers: in half precision the weights at a tile's corner are so small that fractions are rounded away
    data = torch.randint(0, 100, (2, 7, 9, 11), generator=torch.Generator().manual_seed(0)).float()
    logits = predict(two_channels, data, PATCH)
    torch.testing.assert_close(logits[0], (data[0] + 1).half(), rtol=3e-3, atol=0)


def test_tiles_lie_at_most_half_a_patch_apart_and_reach_both_ends() -> None:
    network = Counted(two_channels)
    positions = torch.arange(10.0).expand(1, 4, 6, 10)
    predict(network, positions, (4, 6, 4))
    assert [tile[0, 0, 0, 0].tolist() for tile in network.tiles] == [[n, n + 1, n + 2, n + 3] for n in (0, 2, 4, 6)]


def test_an_image_smaller_than_the_patch_is_padded_with_zeros_around_it() -> None:
    network = Counted(two_channels)
    logits = predict(network, torch.full((1, 4, 6, 5), 7.0), PATCH)
    (tile,) = network.tiles
    assert tile.shape == (1, 1, *PATCH)
    assert tile[0, 0, 0, 0].tolist() == [0, 7, 7, 7, 7, 7, 0, 0]
    assert logits.shape == (2, 4, 6, 5)


class Cut:
    """Channels of the whole volume, given part by part."""

    def __init__(self, channels: Tensor) -> None:
        self.channels = channels
        self.n_channels = len(channels)

    def paint(self, part: tuple[slice, slice, slice]) -> Tensor:
        return self.channels[:, *part]


@pytest.mark.parametrize("shape", [(4, 6, 8), (3, 5, 7), (9, 6, 5), (2, 13, 20)])
def test_channels_that_are_made_tile_by_tile_follow_those_of_the_images(shape: tuple[int, int, int]) -> None:
    images, channels = torch.rand(5, *shape, generator=torch.Generator().manual_seed(0)).split((2, 3))
    whole, by_tile = Counted(two_channels), Counted(two_channels)
    expected = predict(whole, torch.cat([images, channels]), PATCH, at_once=2)
    found = predict(by_tile, images, PATCH, at_once=2, painted=Cut(channels))
    torch.testing.assert_close(torch.stack(by_tile.tiles), torch.stack(whole.tiles), rtol=0, atol=0)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_the_middle_of_a_tile_counts_more_than_its_rim() -> None:
    class Numbered:
        calls = 0

        def __call__(self, tile: Tensor) -> Tensor:
            self.calls += 1
            return torch.full_like(tile, float(self.calls))

    line = predict(Numbered(), torch.zeros(1, 8, 8, 12), (8, 8, 8))[0, 4, 4]
    assert (line.diff() >= 0).all()
    assert line[4] < 1.1
    assert line[8] > 1.9
    assert line[6] == pytest.approx(1.5, abs=1e-2)


def test_only_tiles_with_needed_voxels_are_computed() -> None:
    data = torch.rand(1, 4, 6, 40, generator=torch.Generator().manual_seed(0))
    full = Counted(two_channels)
    everything = predict(full, data, PATCH)
    needed = torch.zeros(4, 6, 40, dtype=torch.bool)
    needed[1, 2, 17] = True
    part = Counted(two_channels)
    logits = predict(part, data, PATCH, needed=needed)
    # tiles of 8 voxels start at 0, 4, ..., 32; those that start at 12 and 16 hold voxel 17
    assert len(full.tiles) == 9
    assert [tile[0, 0, 0, 0, 0] for tile in part.tiles] == [data[0, 0, 0, 12], data[0, 0, 0, 16]]
    assert torch.equal(logits[..., 16:20], everything[..., 16:20])
    assert logits[..., :12].isnan().all()
    assert logits[..., 24:].isnan().all()
    assert logits[..., 12:24].isfinite().all()


def test_needed_voxels_get_what_they_get_without_the_argument() -> None:
    data = torch.rand(2, 13, 17, 23, generator=torch.Generator().manual_seed(1))
    needed = torch.rand(13, 17, 23, generator=torch.Generator().manual_seed(2)) > 0.998
    assert needed.any()
    network = torch.nn.Conv3d(2, 3, 3, padding=1)
    assert torch.equal(
        predict(network, data, PATCH, needed=needed)[:, needed], predict(network, data, PATCH)[:, needed]
    )


def test_the_tiles_nearest_to_needed_voxels_alone() -> None:
    network = Counted(two_channels)
    data = torch.arange(16.0).expand(1, *PATCH[:2], 16)
    needed = torch.zeros(data.shape[1:], dtype=torch.bool)
    needed[..., 4] = True
    # tiles of eight voxels begin at 0, 4 and 8, with their middles at 4, 8 and 12: two hold voxel 4, one is nearest
    assert len(list_tiles(data.shape[1:], PATCH, 0.5, needed)) == 2
    assert [tile[2] for tile in list_tiles(data.shape[1:], PATCH, 0.5, needed, nearest=True)] == [slice(0, 8)]
    logits = predict(network, data, PATCH, needed=needed, nearest=True)
    assert len(network.tiles) == 1
    assert logits.isnan().any(dim=0)[0, 0].tolist() == [False] * 8 + [True] * 8
    needed[..., 5] = True  # which touches the seam between two tiles
    assert len(list_tiles(data.shape[1:], PATCH, 0.5, needed, nearest=True)) == 2
    needed[..., 10:] = True
    assert [tile[2].start for tile in list_tiles(data.shape[1:], PATCH, 0.5, needed, nearest=True)] == [0, 4, 8]


def test_needing_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no voxel is needed"):
        predict(two_channels, torch.zeros(1, 4, 6, 8), PATCH, needed=torch.zeros(4, 6, 8, dtype=torch.bool))


@pytest.mark.parametrize("axes", [(0,), (1, 2), (0, 1, 2)])
def test_flips_change_nothing_for_an_equivariant_network(axes: tuple[int, ...]) -> None:
    data = torch.rand(1, 9, 11, 13, generator=torch.Generator().manual_seed(3))
    network = Counted(two_channels)
    mirrored = predict(network, data, PATCH, mirror_axes=axes)
    plain = Counted(two_channels)
    torch.testing.assert_close(mirrored, predict(plain, data, PATCH), rtol=2e-3, atol=1e-3)
    assert len(network.tiles) == 2 ** len(axes) * len(plain.tiles)


def test_flips_are_undone_and_averaged() -> None:
    def index_along_x(tile: Tensor) -> Tensor:
        return torch.arange(0.0, 16.0, 2.0).expand(tile.shape)

    logits = predict(index_along_x, torch.zeros(1, *PATCH), PATCH, mirror_axes=(2,))
    # voxel i gets the mean of 2 i and 14 - 2 i
    torch.testing.assert_close(logits, torch.full_like(logits, 7.0), rtol=2e-3, atol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e6])
def test_logits_that_are_not_finite_in_half_precision_are_refused(value: float) -> None:
    with pytest.raises(ModelError, match="not finite"):
        predict(lambda tile: torch.full_like(tile, value), torch.zeros(1, 5, 6, 9), PATCH)


@pytest.mark.parametrize(("room", "asked"), [(9, 9), (8, 0)])
def test_outputs_are_kept_together_or_not_at_all(room: int, asked: int) -> None:
    class Kept(dict[int, Tensor]):
        def has_room_for(self, count: int) -> bool:
            return count <= room

        def get(self, tile: tuple[slice, ...]) -> Tensor | None:  # type: ignore[override]
            return super().get(tile[2].start)

        def put(self, tile: tuple[slice, ...], output: Tensor) -> None:
            self[tile[2].start] = output

    # tiles of 8 voxels start at 0, 4, ..., 32
    kept, data = Kept(), torch.randint(0, 100, (1, 4, 6, 40), generator=torch.Generator().manual_seed(0)).float()
    first, second = (predict(network := Counted(two_channels), data, PATCH, kept=kept) for _ in range(2))
    assert len(kept) == asked
    assert len(network.tiles) == 9 - asked
    assert torch.equal(first, predict(two_channels, data, PATCH))
    assert torch.equal(second, first)


@pytest.mark.parametrize("at_once", [2, 5, 100])
@pytest.mark.parametrize("axes", [(), (0, 2)])
def test_tiles_that_are_computed_together_give_what_they_give_one_by_one(at_once: int, axes: tuple[int, ...]) -> None:
    data = torch.rand(2, 13, 17, 23, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    network = Counted(torch.nn.Conv3d(2, 3, 3, padding=1))
    single = predict(network, data, PATCH, mirror_axes=axes)
    tiles, network.tiles = len(network.tiles) // 2 ** len(axes), []
    together = predict(network, data, PATCH, mirror_axes=axes, at_once=at_once)
    torch.testing.assert_close(together, single, rtol=2e-3, atol=2e-3)
    assert len(network.tiles) == -(-tiles // at_once) * 2 ** len(axes)
    assert {tile.shape for tile in network.tiles} == {(at_once, 2, *PATCH)}  # one shape, filled up in the end


def test_together_or_not_the_prediction_ends_when_the_time_is_over() -> None:
    network, asked = Counted(two_channels), iter([True, True, False])
    logits = predict(network, torch.rand(1, 4, 6, 40), PATCH, at_once=2, go_on=lambda: next(asked))
    # tiles of 8 voxels start at 0, 4, ..., 32; four of the nine are computed
    assert logits[..., :20].isfinite().all()
    assert logits[..., 20:].isnan().all()


def test_where_a_point_lies_counts_in_the_padded_image() -> None:
    network = Counted(two_channels)
    # tiles of 8 voxels begin at 0, 4 and 8; the two slices are padded to four
    predict(network, torch.arange(16.0).expand(1, 2, 6, 16), PATCH, first_zyx=[(1, 0, 11)])
    assert [int(tile[0, 0, 1, 0, 0]) for tile in network.tiles] == [4, 8, 0]


@pytest.mark.parametrize("known", [0, 1, 2])
def test_what_is_known_and_which_tiles_come_first_changes_no_bit_where_tiles_are_kept(known: int) -> None:
    data = torch.rand(2, 9, 13, 17, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    network = torch.nn.Conv3d(2, 3, 3, padding=1)
    cache = TileCache(max_bytes=10**7)
    kept = cache.of(lambda tile: tuple(axis.start for axis in tile), tile_bytes=3 * 4 * 6 * 8 * 4)
    with torch.inference_mode():
        for tile in list_tiles(data.shape[1:], PATCH, 0.5)[::-1][: known * 20 : 2]:
            kept.put(tile, network(data[:, *tile][None])[0])
    first = [(8, 12, 16), (4, 6, 8)]
    assert torch.equal(predict(network, data, PATCH, kept=kept, first_zyx=first), predict(network, data, PATCH))


@pytest.mark.parametrize("at_once", [1, 4])
def test_a_kept_output_holds_no_memory_of_others(at_once: int) -> None:
    cache = TileCache(max_bytes=10**6)
    starts, tile_bytes = (0, 4, 8, 12, 16), 2 * 4 * 6 * 8 * 4
    kept = cache.of(lambda tile: tile[2].start, tile_bytes)
    predict(two_channels, torch.rand(1, 4, 6, 24), PATCH, kept=kept, at_once=at_once)
    assert [cache.get(start).untyped_storage().nbytes() for start in starts] == [tile_bytes] * 5


class OnGpu(Tensor):
    """Stands for a tensor in the memory of the first GPU, which PyTorch names ``cuda:0`` whoever asked for ``cuda``."""

    device = torch.device("cuda", 0)
    is_cuda = True

    def pin_memory(self, *_: object) -> Tensor:
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")

    def to(self, *_: object, **__: object) -> Tensor:
        return self


@pytest.mark.parametrize("device", [torch.device("cuda"), torch.device("cuda", 0)])
@pytest.mark.parametrize("at_once", [1, 2])
def test_tiles_on_the_gpu_stay_there_by_whatever_name_it_goes(device: torch.device, at_once: int) -> None:
    image = torch.arange(3 * 4 * 6 * 8.0).reshape(3, 4, 6, 8)

    def cut(tile: Tile) -> Tensor:
        return image[:, *tile].as_subclass(OnGpu)

    whole = (slice(0, 4), slice(0, 6), slice(0, 8))
    taken = tiles._take(cut, device, at_once, [whole])
    assert isinstance(taken, OnGpu)
    torch.testing.assert_close(taken.as_subclass(Tensor), image.expand(at_once, -1, -1, -1, -1))
