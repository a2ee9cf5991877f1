"""Time: how much a case has, what fits into it, and what it was spent on. No files, no network, no environment."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)

PLATFORM_LIMIT_S = 900.0
"""The challenge's limit for one case, the start of the container and loading included."""
DEFAULT_BUDGET_S = PLATFORM_LIMIT_S - 60.0
"""Time from the start of the process to the mask; the rest is the platform's start of the container."""


class Budget:
    """The time that a case has, from the moment that the object is made.

    Parameters
    ----------
    seconds
        May be infinite.
    clock
        Returns seconds; one that no change of the time of day moves.
    """

    def __init__(self, seconds: float = math.inf, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds

    @property
    def left_s(self) -> float:
        """Seconds left; negative when the time is over."""
        return self._end - self._clock()

    def now(self) -> float:
        """Return the clock's seconds, to measure with."""
        return self._clock()

    def within(self, seconds: float) -> Budget:
        """Return a budget of so many seconds that begins now."""
        return Budget(seconds, self._clock)

    def without(self, seconds: float) -> Budget:
        """Return a budget that ends earlier by `seconds`, which are kept for what follows."""
        shorter = Budget(0.0, self._clock)
        shorter._end = self._end - seconds
        return shorter


@dataclass(frozen=True)
class Stopwatch:
    """Seconds per stage of a work.

    Attributes
    ----------
    seconds
        By the name of the stage; a stage that comes again adds to its seconds.
    """

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time what happens inside, and log it."""
        begin = time.perf_counter()
        yield
        spent = time.perf_counter() - begin
        self.seconds[name] = self.seconds.get(name, 0.0) + spent
        logger.info("%s: %.1f s", name, spent)


SAFETY = 1.25
"""What a plan may take of the time left, inversely: tiles are not all equally fast, and others use the machine."""
STEPS = (0.5, 0.75, 1.0)
"""Distances of neighbouring tiles in units of the tile: nnU-Net's own, and coarser ones."""


@dataclass(frozen=True)
class Plan:
    """How much is done for a prediction by tiles.

    Attributes
    ----------
    folds
        Number of networks, the first ones.
    mirror_axes
        Axes (of z, y, x) over all of whose combined flips each tile is averaged.
    step
        Distance of neighbouring tiles in units of the tile.
    """

    folds: int
    mirror_axes: tuple[int, ...] = ()
    step: float = STEPS[0]

    @property
    def passes(self) -> int:
        """How often a tile goes through a network."""
        return self.folds * int(2 ** len(self.mirror_axes))


def list_plans(folds: int, mirror_axes: Sequence[int]) -> list[Plan]:
    """Return the plans for so many folds and mirror axes, best first.

    Mirroring goes first, since it repeats what the network knows, while folds know different things; overlap goes last,
    since without it the borders of tiles show.
    """
    axes = tuple(mirror_axes)
    plans = [Plan(folds, axes[:count]) for count in range(len(axes), -1, -1)]
    plans += [Plan(count) for count in range(folds - 1, 0, -1)]
    return plans + [Plan(1, (), step) for step in STEPS[1:]]


def choose_plan(plans: Sequence[Plan], count_tiles: Callable[[float], int], pass_s: float, left_s: float) -> Plan:
    """Return the first plan that fits into the time left, else the last.

    Parameters
    ----------
    plans
        Best first.
    count_tiles
        Returns the number of tiles for a step.
    pass_s
        Seconds that one tile takes once through one network.
    left_s
        Seconds left, which the plan may use up but for `SAFETY`.
    """
    for plan in plans:
        if SAFETY * count_tiles(plan.step) * plan.passes * pass_s <= left_s:
            return plan
    return plans[-1]
