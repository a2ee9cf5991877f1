"""A session without a network: hot voxels are lesion, and a ball around each tumour click, none around the others."""

import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lesionclick.budget import Budget, Plan
from lesionclick.images import Grid, Volume
from lesionclick.petct.case import PetCtCase
from lesionclick.petct.rules import RulesActed
from lesionclick.petct.session import Segmentation
from lesionclick.petct.suggestions import Suggestion
from lesionclick.prompts.points import BACKGROUND, TUMOR, Prompts

HOT_SUV = 5.0
REACH_MM = 9.0


class GrowingSession:
    """Behaves as `PetCtSession` does; `pause_s` is what its network takes, in hundred tiles."""

    def __init__(self, case: PetCtCase, pause_s: float = 0.0) -> None:
        self.case = case
        self.prompts = case.prompts
        self.pause_s = pause_s

    def change(self, prompts: Prompts) -> None:
        self.prompts = prompts

    def updates(self, *, budget: Budget) -> Iterator[Segmentation]:
        first = self._segmentation(self.prompts)
        yield first
        self._work(budget)
        yield self._segmentation(self.prompts)

    def _work(self, budget: Budget) -> None:
        for _ in range(100):
            time.sleep(self.pause_s / 100)
            budget.now()  # as networks look at the clock after each tile

    def suggest(self, *, budget: Budget) -> tuple[Suggestion, ...]:
        self._work(budget)
        return (Suggestion(TUMOR, (1, 2, 3), 4.5, 0.4, 0.3, 2.5, "the mirrored passes do not agree"),)

    def _segmentation(self, prompts: Prompts) -> Segmentation:
        pet = self.case.pet
        mask = pet.array > HOT_SUV
        for point in prompts:
            mask = mask | self._ball(pet.grid, point.point_xyz) if point.kind == TUMOR else mask
        for point in prompts.of(BACKGROUND):
            mask &= ~self._ball(pet.grid, point.point_xyz)
        volume = Volume(mask.astype(np.uint8), pet.grid)
        return Segmentation(volume, volume, RulesActed(), (Plan(1),), {})

    def _ball(self, grid: Grid, point_xyz: tuple[float, float, float]) -> NDArray[np.bool_]:
        steps = np.indices(grid.shape_zyx).reshape(3, -1).T - np.array(point_xyz[::-1])
        ball: NDArray[np.bool_] = np.linalg.norm(steps * grid.spacing_zyx, axis=1).reshape(grid.shape_zyx) <= REACH_MM
        return ball
