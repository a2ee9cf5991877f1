"""Task 1: a PET/CT and prompts become a mask of the lesions, again and again for the same images."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lesionclick.budget import Budget, Plan, Stopwatch
from lesionclick.images import Volume
from lesionclick.petct.case import PetCtCase
from lesionclick.petct.model import PetCtModel
from lesionclick.petct.prediction import PetCtPredictor
from lesionclick.petct.rules import RulesActed, apply_rules
from lesionclick.petct.suggestions import Findings, Suggestion, find_suggestions
from lesionclick.prompts.points import BACKGROUND, TUMOR, Point, Prompts
from lesionclick.prompts.spec import Rules

logger = logging.getLogger(__name__)

REST_S, REST_S_PER_VOXEL = 1.0, 4e-7
"""Time that is kept for what follows the networks, in all and per voxel of the image: resampling the prediction, the
rules, writing. `docs/deadline.md` has the measurement."""


@dataclass(frozen=True)
class Segmentation:
    """What a session says of a PET/CT.

    Attributes
    ----------
    mask
        1 for lesion and 0 elsewhere, uint8, on the grid of the PET.
    lesion_logit
        The lesion's logit minus the background's, before the rules, float32; `OUTSIDE_LOGIT` where nothing was
        predicted: outside the part that nnU-Net crops to, with stage ``network`` in tiles without body, and in tiles
        that there was no time for.
    rules
        What the rules after the network did.
    plan
        What there was time for.
    seconds
        Spent on each stage.
    """

    mask: Volume
    lesion_logit: Volume
    rules: RulesActed
    plan: Plan
    seconds: Mapping[str, float]


class PetCtSession:
    """A model and a case; prompts go in, a mask comes out.

    The images are preprocessed once, and with an encoding of a finite reach, tiles that a further prompt leaves as they
    are keep their logits; a fresh session gives the same mask. This holds for models whose prompts are encoded on the
    network's grid (stage ``network``); with stage ``image`` they go through nnU-Net's preprocessing together with the
    images, as in training.

    Parameters
    ----------
    model
        What predicts.
    case
        The images, and the prompts to begin with.
    """

    def __init__(self, model: PetCtModel, case: PetCtCase) -> None:
        self.model = model
        self.case = case
        self._steps = [case.prompts]
        self._predictor = PetCtPredictor(model, case)
        self._latest: tuple[Prompts, Segmentation] | None = None

    @property
    def prompts(self) -> Prompts:
        """What was clicked and drawn so far."""
        return self._steps[-1]

    def add(self, kind: str, *points_xyz: Sequence[float]) -> None:
        """Add a click, or the points of one stroke.

        Parameters
        ----------
        kind
            ``tumor`` or ``background``.
        points_xyz
            Voxel indices (x, y, z) on the PET.

        Raises
        ------
        ValueError
            If the kind is another, or there is no point.
        """
        if kind not in (TUMOR, BACKGROUND) or not points_xyz:
            raise ValueError(f"expected {TUMOR} or {BACKGROUND} and at least one point, found {kind!r}, {points_xyz}")
        strokes = [point.stroke for point in self.prompts if point.stroke is not None]
        stroke = None if len(points_xyz) == 1 else max(strokes, default=-1) + 1
        added = [Point(kind, (float(x), float(y), float(z)), stroke) for x, y, z in points_xyz]
        self._steps.append(self.prompts.followed_by(added))

    def change(self, prompts: Prompts) -> None:
        """Take other prompts in place of all so far, as one step: for callers that keep the points themselves."""
        self._steps.append(prompts)

    def undo(self) -> None:
        """Take back the last click, stroke or change; without one, nothing happens."""
        if len(self._steps) > 1:
            self._steps.pop()

    def reset(self) -> None:
        """Take back all that was added or changed."""
        del self._steps[1:]

    def segment(self, prompts: Prompts | None = None, *, budget: Budget | None = None) -> Segmentation:
        """Return the mask of the lesions.

        Parameters
        ----------
        prompts
            Counted alone; by default those of the case and all that was added.
        budget
            Time until the mask has to be written; `REST_S_PER_VOXEL` is kept of it. By default there is no limit.

        Raises
        ------
        OutOfMemoryError
            If the memory does not suffice.
        """
        grid = self.case.pet.grid
        limit = (budget or Budget()).without(REST_S + REST_S_PER_VOXEL * self.case.pet.array.size)
        prompts = self.prompts if prompts is None else prompts
        given = prompts.on_grid(grid.shape_zyx)
        watch = Stopwatch()
        predicted = self._predictor.predict(given, budget=limit, watch=watch)
        with watch.stage("rules"):
            rules = self.model.content.prompt.rules
            mask, acted = apply_rules(predicted.lesion_logit, given, grid.spacing_zyx, rules)
        logger.info("rules: %s", acted)
        found = Segmentation(
            Volume(mask.view(np.uint8), grid),
            Volume(predicted.lesion_logit, grid),
            acted,
            predicted.plan,
            watch.seconds,
        )
        self._latest = prompts, found
        return found

    def suggest(self, count: int = 3, *, budget: Budget | None = None) -> tuple[Suggestion, ...]:
        """Return up to `count` places where a click is likely to help, the most worthwhile first.

        They are for the mask that `segment` gives for the points that were added. Neither points nor mask change.

        Parameters
        ----------
        count
            How many at most.
        budget
            Without a limit; its clock may raise to stop this between two tiles.

        Raises
        ------
        OutOfMemoryError
            If the memory does not suffice.
        """
        grid = self.case.pet.grid
        latest, given = self.segment(budget=budget), self.prompts.on_grid(grid.shape_zyx)
        probability = self.model.content.prompt.calibration.probability
        likely = probability(latest.lesion_logit.array)
        findings = Findings(latest.mask.array > 0, likely, self.case.pet.array, grid.spacing_zyx)
        voxels = findings.doubtful()
        if not len(voxels):
            return ()
        views = probability(self._predictor.predict_views(given, voxels, watch=Stopwatch(), budget=budget))
        return find_suggestions(findings, views, given, count=count, threshold=float(probability(np.zeros(1))[0]))

    def updates(self, *, budget: Budget | None = None) -> Iterator[Segmentation]:
        """Yield what is known of the points that changed, as soon as it is, and in the end what `segment` says.

        The first mask is the last one with another neighbourhood of the points that were added or taken back since, by
        the first fold and without the rules that look at the whole mask. It comes where tiles keep their logits from
        prompt to prompt, and there is a last mask, which may itself be such a first one.

        Parameters
        ----------
        budget
            As for `segment`.

        Raises
        ------
        OutOfMemoryError
            If the memory does not suffice.
        """
        if self._latest is not None and self._predictor.keeps_tiles:
            before, latest = self._latest
            changed = _changed(before, self.prompts).on_grid(self.case.pet.grid.shape_zyx)
            if len(changed):
                near = self._look_near(latest, changed)
                self._latest = self.prompts, near
                yield near
        yield self.segment(budget=budget)

    def _look_near(self, latest: Segmentation, changed: Prompts) -> Segmentation:
        """Return the latest segmentation with another neighbourhood of the points that changed."""
        grid, watch = self.case.pet.grid, Stopwatch()
        given = self.prompts.on_grid(grid.shape_zyx)
        nears = self._predictor.predict_near(given, changed, watch=watch)
        # large copies are made by PyTorch, with all threads
        mask, lesion_logit = (torch.from_numpy(one.array).clone().numpy() for one in (latest.mask, latest.lesion_logit))
        for near in nears:
            np.copyto(lesion_logit[near.window], near.lesion_logit, where=np.isfinite(near.lesion_logit))
        rules: Rules = "none" if self.model.content.prompt.rules == "none" else "clicks"
        windows = [near.window for near in nears]
        whole, acted = apply_rules(lesion_logit, given, grid.spacing_zyx, rules, within=windows)
        for near in nears:
            part = whole[near.window]
            corrected = part != (lesion_logit[near.window] > 0)
            np.copyto(mask[near.window], part, where=np.isfinite(near.lesion_logit) | corrected)
        return Segmentation(Volume(mask, grid), Volume(lesion_logit, grid), acted, Plan(1), watch.seconds)


def _changed(before: Prompts, after: Prompts) -> Prompts:
    """Return the points that only one of the two holds, or holds more often."""
    first, second = Counter(before), Counter(after)
    return Prompts((*(second - first).elements(), *(first - second).elements()))
