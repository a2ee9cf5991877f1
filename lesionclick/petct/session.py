"""Task 1: a PET/CT and prompts become a mask of the lesions, again and again for the same images."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lesionclick.budget import SAFETY, Budget, Plan, Stopwatch
from lesionclick.images import Volume
from lesionclick.network import ensemble
from lesionclick.network.ensemble import Placement
from lesionclick.network.preprocessing import (
    OUTSIDE_LOGIT,
    NetworkInput,
    index_on_network,
    lesion_logit_on_image,
    preprocess,
)
from lesionclick.petct.case import PetCtCase
from lesionclick.petct.model import PetCtModel
from lesionclick.petct.rules import RulesActed, apply_rules
from lesionclick.prompts.points import BACKGROUND, TUMOR, Point, Prompts

logger = logging.getLogger(__name__)

SURVEY_ZOOMS = (0.8, 1.0)
"""Sizes at which a case without a click is predicted: a lesion too large for one tile is known by a smaller copy.
Chosen on the real patients held out from the training of the embedded model.
"""
SURVEY_MIRROR_AXES = (2,)
"""Axes (of z, y, x) over which such a case is mirrored as well: left and right."""

REST_S, REST_S_PER_VOXEL = 1.0, 4e-7
"""Time that is kept for what follows the networks, in all and per voxel of the image: resampling the prediction, the
rules, writing. `docs/deadline.md` has the measurement."""

# Thresholds of the body: air and lung lie below -500 HU, and even the lungs take up more than SUV 0.3.
BODY_HU = -500.0
BODY_SUV = 0.3


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
    plans
        What was predicted: one plan, or one for each size of a survey.
    seconds
        Spent on each stage.
    """

    mask: Volume
    lesion_logit: Volume
    rules: RulesActed
    plans: tuple[Plan, ...]
    seconds: Mapping[str, float]


class PetCtSession:
    """A model and a case; prompts go in, a mask comes out.

    The images are preprocessed once. This holds for models whose prompts are encoded on the network's grid (stage
    ``network``); with stage ``image`` they go through nnU-Net's preprocessing together with the images, as in training.

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
        self._inputs: dict[tuple[float, torch.device], NetworkInput] = {}

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
        """
        if kind not in (TUMOR, BACKGROUND) or not points_xyz:
            raise ValueError(f"expected {TUMOR} or {BACKGROUND} and at least one point, found {kind!r}, {points_xyz}")
        strokes = [point.stroke for point in self.prompts if point.stroke is not None]
        stroke = None if len(points_xyz) == 1 else max(strokes, default=-1) + 1
        added = [Point(kind, (float(x), float(y), float(z)), stroke) for x, y, z in points_xyz]
        self._steps.append(self.prompts.followed_by(added))

    def undo(self) -> None:
        """Take back the last click or stroke that was added; without one, nothing happens."""
        if len(self._steps) > 1:
            self._steps.pop()

    def reset(self) -> None:
        """Take back all that was added."""
        del self._steps[1:]

    def segment(self, prompts: Prompts | None = None, *, budget: Budget | None = None) -> Segmentation:
        """Return the mask of the lesions.

        Where the model asks for a survey and nothing is clicked, the highest logit at `SURVEY_ZOOMS` counts.

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
        grid, spec = self.case.pet.grid, self.model.content.prompt
        limit = (budget or Budget()).without(REST_S + REST_S_PER_VOXEL * self.case.pet.array.size)
        given = (self.prompts if prompts is None else prompts).on_grid(grid.shape_zyx)
        watch = Stopwatch()

        def work(place: Placement) -> _Predicted:
            predictor = _Predictor(self, given, place, limit, watch)
            survey = spec.prediction.survey and not len(given)
            return predictor.survey() if survey else predictor.predict(1.0, spec.prediction.mirror_axes)

        predicted = ensemble.in_memory(work, self.model.networks, self.model.device)
        with watch.stage("rules"):
            mask, acted = apply_rules(predicted.lesion_logit, given, grid.spacing_zyx, spec.rules)
        logger.info("rules: %s", acted)
        return Segmentation(
            Volume(mask.astype(np.uint8), grid),
            Volume(predicted.lesion_logit, grid),
            acted,
            predicted.plans,
            watch.seconds,
        )

    def network_input(self, zoom: float, place: Placement, watch: Stopwatch) -> NetworkInput:
        """Preprocess CT and PET at a size, cut to the body; take them from before where they are known."""
        key = zoom, place.data
        if key not in self._inputs:
            self._inputs = {known: case for known, case in self._inputs.items() if known[1] == place.data}
            ct, pet = self.case.ct.array, self.case.pet.array
            body = (ct > BODY_HU) | (pet > BODY_SUV)
            with watch.stage("preprocess"):
                self._inputs[key] = preprocess(
                    self.model.content,
                    np.stack([ct, pet]),
                    _zoomed(self.case.pet.grid.spacing_zyx, zoom),
                    body=body,
                    device=place.data,
                )
        return self._inputs[key]


class _Predicted(NamedTuple):
    lesion_logit: NDArray[np.float32]
    plans: tuple[Plan, ...]


@dataclass(frozen=True)
class _Predictor:
    """One prediction of a session's case, at one placement."""

    session: PetCtSession
    prompts: Prompts
    place: Placement
    budget: Budget
    watch: Stopwatch

    def survey(self) -> _Predicted:
        """Predict at all zooms, or those that there is time for, the largest first."""
        highest, plans = None, []
        for zoom in sorted(SURVEY_ZOOMS, reverse=True):
            begin = self.budget.now()
            lesion_logit, (plan,) = self.predict(zoom, SURVEY_MIRROR_AXES)
            highest = lesion_logit if highest is None else np.maximum(highest, lesion_logit)
            plans.append(plan)
            if SAFETY * (self.budget.now() - begin) > self.budget.left_s:  # a smaller copy takes less
                logger.info("plan: no time for further zooms than %g", zoom)
                break
        assert highest is not None
        return _Predicted(highest, tuple(plans))

    def predict(self, zoom: float, mirror_axes: Sequence[int]) -> _Predicted:
        """Predict the case with its lengths multiplied by `zoom`."""
        content, network = self.session.model.content, self.place.network
        case, data = self._input(zoom)
        places = index_on_network(content, case, self.prompts.indices_zyx())
        with self.watch.stage("predict"), torch.autocast(network.type, enabled=network.type == "cuda"):
            predicted = ensemble.predict(
                self.session.model.networks,
                data,
                content.configuration.patch_size,
                mirror_axes=mirror_axes,
                needed=case.needed,
                device=network,
                budget=self.budget,
                first_zyx=places.tolist(),
            )
        if predicted.logits is None:
            logger.warning("plan: no time for any tile; the clicks alone count")
            nothing = np.full(self.session.case.pet.array.shape, OUTSIDE_LOGIT, dtype=np.float32)
            return _Predicted(nothing, (predicted.plan,))
        with self.watch.stage("resample prediction"):
            return _Predicted(lesion_logit_on_image(content, case, predicted.logits), (predicted.plan,))

    def _input(self, zoom: float) -> tuple[NetworkInput, torch.Tensor]:
        """Return the preprocessed images, and the same with the channels of the prompts."""
        model, case = self.session.model, self.session.case
        if model.content.prompt.stage == "image":
            spacing = _zoomed(case.pet.grid.spacing_zyx, zoom)
            channels = model.encoding.encode(self.prompts, case.pet.grid.shape_zyx, spacing)
            images = np.concatenate([case.ct.array[None], case.pet.array[None], channels.numpy()])
            with self.watch.stage("preprocess"):
                prepared = preprocess(model.content, images, spacing, device=self.place.data)
            return prepared, prepared.images
        prepared = self.session.network_input(zoom, self.place, self.watch)
        moved = self.prompts.moved(lambda places: index_on_network(model.content, prepared, places))
        spacing = tuple(model.content.configuration.spacing)
        channels = model.encoding.encode(moved, prepared.images.shape[1:], spacing, self.place.data)
        return prepared, torch.cat([prepared.images, channels])


def _zoomed(spacing_zyx: Sequence[float], zoom: float) -> tuple[float, ...]:
    return tuple(zoom * mm for mm in spacing_zyx)
