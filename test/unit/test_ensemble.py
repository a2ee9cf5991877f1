"""The folds within time and memory, with networks that take the time of a clock that they turn themselves."""

import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import pytest
import torch
from test_budget import Clock
from torch import Tensor, nn

from lesionclick.budget import DEFAULT_BUDGET_S, SAFETY, Budget, Plan
from lesionclick.errors import OutOfMemoryError
from lesionclick.network import ensemble
from lesionclick.network.ensemble import Placement, in_memory, list_placements
from lesionclick.network.tile_cache import TileCache

PATCH = (4, 4, 4)
DATA = torch.ones(1, 4, 4, 16)
"""Seven tiles at half overlap, along x."""
CPU, GPU = torch.device("cpu"), torch.device("meta")


class Slow:
    """A network that takes `seconds`, and says `value` of each voxel."""

    def __init__(self, clock: Clock, seconds: float, value: float = 1.0) -> None:
        self.clock, self.seconds, self.value = clock, seconds, value
        self.tiles = 0

    def __call__(self, tile: Tensor) -> Tensor:
        self.tiles += 1
        self.clock.seconds += self.seconds
        return torch.cat([tile * 0, tile * self.value], dim=1)


def run(folds: Sequence[Slow], left_s: float, mirror_axes: Sequence[int] = (), first=()) -> Tensor | None:
    budget = Budget(left_s, folds[0].clock)
    return ensemble.predict(
        folds, DATA, PATCH, mirror_axes=mirror_axes, device=CPU, budget=budget, first_zyx=first
    ).logits


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_without_limit_nothing_is_timed_and_everything_is_done(clock: Clock) -> None:
    folds = [Slow(clock, 1.0, 1.0), Slow(clock, 1.0, 3.0)]
    logits = run(folds, float("inf"), (2,))
    assert [fold.tiles for fold in folds] == [14, 14]
    assert logits[1] == pytest.approx(torch.full((4, 4, 16), 2.0), abs=0.01)


@pytest.mark.parametrize(
    ("left_s", "tiles"),
    [
        (1 + 28 * SAFETY, [15, 14]),  # the first fold's tile that is timed, two folds, mirrored
        (2 + 14 * SAFETY, [9, 7]),  # timed twice, not mirrored
        (2 + 7 * SAFETY, [9, 0]),
        (2 + 4 * SAFETY, [6, 0]),  # tiles side by side
    ],
)
def test_what_fits_is_done_and_the_time_is_kept(clock: Clock, left_s: float, tiles: list[int]) -> None:
    begin = clock.seconds
    folds = [Slow(clock, 1.0), Slow(clock, 1.0)]
    logits = run(folds, left_s, (2,))
    assert [fold.tiles for fold in folds] == tiles
    assert not logits.isnan().any()
    assert clock.seconds - begin <= left_s


def test_the_plan_and_its_reason_are_one_line(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run([Slow(clock, 1.0), Slow(clock, 1.0)], 2 + 7 * SAFETY, (2,))
    (line,) = (record.getMessage() for record in caplog.records)
    assert "plan: 1 of 2 folds, mirrored along 0 of 1 axes, 7 tiles; a tile takes 1.00 s, everything 28 s" in line


def test_tiles_that_slow_down_cut_the_prediction_short(clock: Clock) -> None:
    class Slowing(Slow):
        def __call__(self, tile: Tensor) -> Tensor:
            self.seconds = 1.0 if self.tiles < 3 else 4.0
            return super().__call__(tile)

    begin = clock.seconds
    logits = run([Slowing(clock, 1.0)], 12.0)
    # timed at 1 s a tile; then two at 1 s, and each further takes 4 s: the third of them ends after 15 s
    assert clock.seconds - begin <= 12.0 + 4.0
    assert not logits[:, :, :, :8].isnan().any()
    assert logits[:, :, :, -2:].isnan().all()


def test_a_fold_that_is_cut_short_is_left_out(clock: Clock) -> None:
    class Late(Slow):
        def __call__(self, tile: Tensor) -> Tensor:
            self.seconds = 0.0 if self.tiles < 3 else 100.0
            return super().__call__(tile)

    logits = run([Slow(clock, 1.0, 1.0), Late(clock, 0.0, 5.0)], 1 + 14 * SAFETY)
    assert (logits[1] == 1.0).all()


def test_what_was_done_is_told(clock: Clock) -> None:
    everything = [Slow(clock, 1.0), Slow(clock, 1.0)]
    folds = ensemble.predict(everything, DATA, PATCH, mirror_axes=(2,), device=CPU, budget=Budget())
    assert folds.plan == Plan(folds=2, mirror_axes=(2,), step=0.5)
    hurried = Budget(2 + 4 * SAFETY, clock)
    assert ensemble.predict(everything, DATA, PATCH, device=CPU, budget=hurried).plan == Plan(1, (), 1.0)
    assert ensemble.predict(everything, DATA, PATCH, device=CPU, budget=Budget(0.0, clock)).plan.folds == 0


def test_clicked_tiles_come_first_where_not_all_fit(clock: Clock) -> None:
    logits = run([Slow(clock, 1.0)], 3.5, first=[(1, 1, 14.0)])
    assert logits[0, 0, 0].isfinite().tolist() == [False] * 12 + [True] * 4


@pytest.mark.parametrize("adaptive", [False, True])
def test_clicked_tiles_come_first_where_tiles_turn_out_slower_than_the_plan_hoped(clock: Clock, adaptive: bool) -> None:
    class Slowing(Slow):
        def __call__(self, tile: Tensor) -> Tensor:
            self.seconds = 1.0 if self.tiles < 2 else 8.0
            return super().__call__(tile)

    work = ensemble.predict_adaptively if adaptive else ensemble.predict
    budget = Budget(1 + 7 * SAFETY, clock)
    found = work([Slowing(clock, 1.0)], DATA, PATCH, device=CPU, budget=budget, first_zyx=[(1, 1, 14.0)])
    assert found.plan.step == 0.5
    assert found.logits[0, 0, 0].isfinite().tolist()[12:] == [True] * 4
    assert found.logits[0, 0, 0].isnan().any()


@pytest.mark.parametrize(
    ("left_s", "in_order", "starts"),
    [
        (float("inf"), False, [12, 0, 2, 4, 6, 8, 10]),
        (float("inf"), True, [0, 2, 4, 6, 8, 10, 12]),
        (2 + 7 * SAFETY, True, [12, 0, 2, 4, 6, 8, 10]),  # one of two folds
    ],
)
def test_in_order_clicked_tiles_come_first_only_where_the_time_is_short(
    clock: Clock, left_s: float, in_order: bool, starts: list[int]
) -> None:
    class Noting(Slow):
        def __call__(self, tile: Tensor) -> Tensor:
            noted.append(int(tile[0, 0, 0, 0, 0]))
            return super().__call__(tile)

    noted: list[int] = []
    data, budget = torch.arange(16.0).expand(1, 4, 4, 16), Budget(left_s, clock)
    folds, first = [Noting(clock, 1.0), Slow(clock, 1.0)], [(1, 1, 14.0)]
    ensemble.predict(folds, data, PATCH, device=CPU, budget=budget, first_zyx=first, in_order=in_order)
    assert noted[-7:] == starts


@pytest.mark.parametrize(("then_s", "done"), [(2.0, 16), (2.5, 14)])
def test_the_time_is_that_of_the_tiles_that_are_computed_together(clock: Clock, then_s: float, done: int) -> None:
    """Two tiles together take 2 s when they are timed: 1 s a tile, which all seven fit into."""

    class Changing(Slow):
        def __call__(self, tile: Tensor) -> Tensor:
            self.seconds = then_s if self.tiles else 2.0
            return super().__call__(tile)

    left_s, begin = 2 + 7 * SAFETY, clock.seconds
    found = ensemble.predict([Changing(clock, 2.0)], DATA, PATCH, device=CPU, budget=Budget(left_s, clock), at_once=2)
    assert found.plan == Plan(1)
    assert int(found.logits[0, 0, 0].isfinite().sum()) == done  # after three times 2.5 s 1.25 s are left
    assert clock.seconds - begin <= left_s


def test_each_fold_keeps_its_own_tiles(clock: Clock) -> None:
    cache, folds = TileCache(max_bytes=10**6), [Slow(clock, 1.0, 1.0), Slow(clock, 1.0, 3.0)]
    for _ in range(2):
        found = ensemble.predict(
            folds,
            DATA,
            PATCH,
            device=CPU,
            budget=Budget(),
            kept=lambda plan, fold: cache.of(lambda tile: (plan, fold, tile[2].start), tile_bytes=2 * 4**3 * 4),
        )
        assert found.logits[1] == pytest.approx(torch.full((4, 4, 16), 2.0), abs=0.01)
        assert [fold.tiles for fold in folds] == [7, 7]


@pytest.mark.parametrize("left_s", [0.0, -3.0, 1.5])
def test_no_time_gives_none(clock: Clock, left_s: float) -> None:
    assert run([Slow(clock, 1.0)], left_s) is None


class TestAdaptively:
    """The first fold says 1 from the twelfth voxel on along x, and -8 before: only there are the others asked."""

    @staticmethod
    def fold(clock: Clock, lesion: float, took: Mapping[int, float] = MappingProxyType({})) -> Slow:
        """Return a fold that takes no time, but where `took` has seconds for a pass by its number."""

        class Half(Slow):
            def __call__(self, tile: Tensor) -> Tensor:
                self.tiles += 1
                self.clock.seconds += took.get(self.tiles, 0.0)
                return torch.cat([tile * 0, torch.where(tile > 0.5, lesion, -8.0)], dim=1)

        return Half(clock, 1.0)

    DATA = torch.cat([torch.zeros(1, 4, 4, 12), torch.ones(1, 4, 4, 4)], dim=-1)

    def run(self, folds: Sequence[Slow], **options: object) -> ensemble.Prediction:
        defaults = {"mirror_axes": (2,), "device": CPU, "budget": Budget()}
        return ensemble.predict_adaptively(folds, self.DATA, PATCH, **{**defaults, **options})

    def test_all_folds_are_asked_where_the_first_is_not_sure(self, clock: Clock) -> None:
        folds = [self.fold(clock, 1.0), self.fold(clock, 4.0)]
        found = self.run(folds)
        # tiles of four voxels begin at 0, 2 and so on to 12; the last two hold an unsure voxel
        assert [fold.tiles for fold in folds] == [7 + 2 + 2 * 2, 2 * 2]
        assert found.logits[1, 0, 0, 12:].tolist() == [2.5] * 4
        assert found.logits[1, 0, 0, :12].tolist() == [-8.0] * 12
        assert found.plan.folds == 2

    @pytest.mark.parametrize(("lesion", "asked"), [(-2.9, True), (-3.1, False)])
    def test_the_first_is_sure_of_background_below_a_probability_of_5_percent(
        self, clock: Clock, lesion: float, asked: bool
    ) -> None:
        folds = [self.fold(clock, lesion), self.fold(clock, 4.0)]
        self.run(folds)
        assert (folds[1].tiles > 0) == asked

    def test_a_tile_that_the_first_fold_had_no_time_for_a_second_time_stays_as_it_was(self, clock: Clock) -> None:
        # passes: 1 is timed, 2 to 8 are all tiles; 9 is timed, 10 is the first of the two tiles that are asked again
        folds = [self.fold(clock, 1.0, {1: 1.0, 9: 1.0, 10: 17.5}), self.fold(clock, 4.0)]
        found = self.run(folds, budget=Budget(20.0, clock))
        assert found.plan == Plan(2, (2,))
        assert found.logits[1, 0, 0, 10:].tolist() == [-8.0] * 2 + [2.5] * 2 + [1.0] * 2

    def test_where_the_others_have_no_time_the_plan_is_that_of_the_first(self, clock: Clock) -> None:
        # passes 12 and 13 are timed for all folds: 9 s are left, and two tiles once would take 12.5 s
        folds = [self.fold(clock, 1.0, {1: 1.0, 12: 5.0, 13: 5.0}), self.fold(clock, 4.0)]
        found = self.run(folds, budget=Budget(20.0, clock))
        assert folds[0].tiles == 15
        assert found.plan == Plan(1)
        assert found.logits[1, 0, 0].tolist() == [-8.0] * 12 + [1.0] * 4

    def test_a_click_asks_them_too(self, clock: Clock) -> None:
        folds = [self.fold(clock, 1.0), self.fold(clock, 4.0)]
        self.run(folds, first_zyx=[(1, 1, 1.0)])
        assert [fold.tiles for fold in folds] == [7 + 3 + 2 * 3, 2 * 3]

    def test_a_click_beyond_the_low_border_counts_at_it(self, clock: Clock) -> None:
        folds = [self.fold(clock, 1.0), self.fold(clock, 4.0)]
        self.run(folds, first_zyx=[(1, 1, -40.0)])
        assert [fold.tiles for fold in folds] == [7 + 3 + 2 * 3, 2 * 3]

    def test_a_click_where_nothing_is_asked_for_asks_nobody(self, clock: Clock) -> None:
        folds = [self.fold(clock, -7.0), self.fold(clock, 4.0)]
        needed = torch.zeros(4, 4, 16, dtype=torch.bool)
        needed[..., :8] = True
        self.run(folds, needed=needed, first_zyx=[(1, 1, 14.0)])
        assert folds[1].tiles == 0

    def test_what_others_add_alike_counts_as_if_all_tiles_were_asked(self) -> None:
        # tiles of sixteen voxels begin at 0, 8, 16 and 24; three hold an unsure voxel, one of them near its middle
        patch, data = (4, 4, 16), torch.full((1, 4, 4, 40), -9.0)
        data[..., 15:18] = 20.0

        def fold(tile: Tensor) -> Tensor:  # what it says depends on where the tile lies
            return torch.cat([tile * 0, tile + 2 * tile.mean()], dim=1)

        def further(tile: Tensor) -> Tensor:
            return fold(tile) + torch.tensor([0.0, 3.0])[None, :, None, None, None]

        options = {"device": CPU, "budget": Budget()}
        everywhere = ensemble.predict([fold, further], data, patch, **options).logits
        first = ensemble.predict([fold], data, patch, **options).logits
        found = ensemble.predict_adaptively([fold, further], data, patch, **options).logits
        unsure = first[1] - first[0] > -ensemble.SURE_BACKGROUND
        near = ensemble.predict([fold, further], data, patch, needed=unsure, nearest=True, **options).logits
        assert unsure.sum() == 4 * 4 * 3
        assert (near[1][unsure] - everywhere[1][unsure]).abs().max() > 0.05
        torch.testing.assert_close(found[1][unsure], everywhere[1][unsure], rtol=0, atol=0.02)
        torch.testing.assert_close(found[:, ~unsure], first[:, ~unsure], rtol=0, atol=0)

    def test_one_fold_without_mirroring_is_asked_once(self, clock: Clock) -> None:
        fold = self.fold(clock, 1.0)
        self.run([fold], mirror_axes=())
        assert fold.tiles == 7

    def test_where_there_is_no_time_for_the_others_the_first_counts(self, clock: Clock) -> None:
        folds = [Slow(clock, 1.0, 1.0), Slow(clock, 1.0, 5.0)]
        found = self.run(folds, budget=Budget(8.5 * SAFETY, clock))
        assert folds[1].tiles == 0
        assert not found.logits.isnan().any()


class GpuError(RuntimeError):
    """As PyTorch's own, whose class is another in each version."""


class TestMemory:
    def test_the_cpu_has_one_place(self) -> None:
        assert list_placements(CPU) == [Placement(CPU, CPU)]

    @pytest.mark.parametrize("failures", [0, 1, 2, 3])
    def test_the_next_place_needs_less_of_the_device(self, failures: int, caplog: pytest.LogCaptureFixture) -> None:
        seen: list[Placement] = []

        def work(place: Placement) -> str:
            seen.append(place)
            if len(seen) <= failures:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried\nto allocate")
            return "done"

        assert in_memory(work, [], GPU) == "done"
        one_by_one = [Placement(GPU, GPU, True), Placement(GPU, CPU, True), Placement(CPU, CPU, True)]
        assert seen == [Placement(GPU, GPU), *one_by_one][: failures + 1]
        warnings = [record.getMessage() for record in caplog.records]
        assert len(warnings) == failures
        assert all("CUDA out of memory. Tried" in line for line in warnings)

    def test_networks_are_moved_before_each_try_and_stay_where_it_succeeded(self, monkeypatch) -> None:
        network = nn.Linear(1, 1)
        moves: list[torch.device] = []
        monkeypatch.setattr(network, "to", moves.append)

        def work(place: Placement) -> None:
            if place.network != CPU:
                raise torch.OutOfMemoryError("full")

        in_memory(work, [network], GPU)
        assert moves == [GPU, GPU, GPU, CPU]
        in_memory(lambda _: None, [network], GPU)
        assert moves[4:] == [GPU]

    def test_networks_that_the_device_has_no_room_for_compute_on_the_cpu(self, monkeypatch) -> None:
        network = nn.Linear(1, 1)
        move = network.to

        def to(device: torch.device) -> nn.Module:
            if device != CPU:
                raise torch.OutOfMemoryError("no room for the weights")
            return move(device)

        monkeypatch.setattr(network, "to", to)
        assert in_memory(lambda place: place, [network], GPU) == Placement(CPU, CPU, True)

    @pytest.mark.parametrize(
        "error",
        [MemoryError("Unable to allocate 8 PiB"), RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory")],
    )
    def test_no_memory_on_the_cpu_is_the_same_error(self, error: Exception) -> None:
        def work(_: Placement) -> None:
            raise error

        with pytest.raises(OutOfMemoryError, match="allocate"):
            in_memory(work, [], CPU)

    @pytest.mark.parametrize("kind", [RuntimeError, NotImplementedError, GpuError])
    def test_other_errors_stay_what_they_are(self, kind: type[Exception]) -> None:
        def work(_: Placement) -> None:
            raise kind("CUDA error: an illegal memory access was encountered")

        with pytest.raises(kind, match="illegal memory access"):
            in_memory(work, [], CPU)

    def test_no_memory_anywhere_is_an_error(self) -> None:
        def work(_: Placement) -> None:
            raise torch.OutOfMemoryError("full")

        with pytest.raises(OutOfMemoryError, match="expected enough memory on meta or the CPU, found on neither: full"):
            in_memory(work, [], GPU)


class TestTenFolds:
    """The second-placed team's folds and mirror axes within the platform's time, at tile times of several GPUs."""

    @pytest.mark.parametrize(
        ("tile_s", "plan"),
        [
            # 7 tiles, each through 10 folds and 8 flips, and a quarter of it to spare, in 840 s
            (1.0, Plan(10, (0, 1, 2))),  # 700 of the 839 s that are left after one tile was timed
            (2.0, Plan(10, (0, 1))),  # 700 of 836 s; with all axes 1400
            (9.0, Plan(10)),  # 788 of 822 s; with one axis 1575
            (20.0, Plan(4)),  # 700 of 800 s; with five folds 875
            (70.0, Plan(1)),  # 613 of 700 s
            (100.0, Plan(1, (), 0.75)),  # 625 of 640 s with 5 tiles; with 7 of them 875
        ],
    )
    def test_they_end_in_time(self, clock: Clock, tile_s: float, plan: Plan) -> None:
        folds = [Slow(clock, tile_s) for _ in range(10)]
        begin = clock.seconds
        found = ensemble.predict(
            folds, DATA, PATCH, mirror_axes=(0, 1, 2), device=CPU, budget=Budget(DEFAULT_BUDGET_S, clock)
        )
        assert found.plan == plan
        assert clock.seconds - begin <= DEFAULT_BUDGET_S
        assert found.logits is not None
