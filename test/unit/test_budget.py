"""The time that is left, and what is chosen to fit into it."""

import math

import pytest

from lesionclick import budget as timing
from lesionclick.budget import SAFETY, Budget, Plan, Stopwatch, choose_plan, list_plans


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def test_time_passes() -> None:
    clock = Clock()
    budget = Budget(10.0, clock)
    clock.seconds += 4
    assert budget.left_s == 6.0
    assert budget.without(2.5).left_s == 3.5
    assert budget.within(1.5).left_s == 1.5
    clock.seconds += 7
    assert budget.left_s == -1.0


def test_no_limit_stays_none() -> None:
    assert Budget().left_s == Budget().without(100.0).left_s == math.inf


def test_less_mirroring_then_fewer_folds_then_less_overlap() -> None:
    assert list_plans(3, (0, 2)) == [
        Plan(3, (0, 2)),
        Plan(3, (0,)),
        Plan(3),
        Plan(2),
        Plan(1),
        Plan(1, (), 0.75),
        Plan(1, (), 1.0),
    ]
    assert [plan.passes for plan in list_plans(3, (0, 2))] == [12, 6, 3, 2, 1, 1, 1]


def count_tiles(step: float) -> int:
    return {0.5: 64, 0.75: 20, 1.0: 8}[step]


@pytest.mark.parametrize(
    ("left_s", "plan"),
    [
        (1e6, Plan(2, (0,))),
        (64 * 4 * 0.5 * SAFETY, Plan(2, (0,))),
        (64 * 4 * 0.5 * SAFETY - 0.1, Plan(2)),
        (64 * 0.5 * SAFETY, Plan(1)),
        (20 * 0.5 * SAFETY, Plan(1, (), 0.75)),
        (8 * 0.5 * SAFETY, Plan(1, (), 1.0)),
        (0.1, Plan(1, (), 1.0)),
        (-5.0, Plan(1, (), 1.0)),
    ],
)
def test_the_first_plan_that_fits_is_chosen(left_s: float, plan: Plan) -> None:
    assert choose_plan(list_plans(2, (0,)), count_tiles, 0.5, left_s) == plan


def test_a_stage_that_comes_again_adds_to_its_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.0, 2.0, 10.0, 11.0, 20.0, 23.0])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(seconds))
    watch = Stopwatch()
    for name in ("read", "predict", "read"):
        with watch.stage(name):
            pass
    assert watch.seconds == {"read": 5.0, "predict": 1.0}
