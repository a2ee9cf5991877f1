"""A session short of time, or interrupted: what is kept for the rest, which tiles come first, what is left behind."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_petct_session import GAUSSIAN, clicks, ct_and_pet, long_session, network_stage, show_channel
from torch import Tensor

from lesionclick.budget import Budget
from lesionclick.network.preprocessing import OUTSIDE_LOGIT
from lesionclick.petct.case import PetCtCase
from lesionclick.petct.neighbourhood import boxes_around
from lesionclick.petct.session import REST_S, REST_S_PER_VOXEL, PetCtSession
from lesionclick.prompts.points import TUMOR
from lesionclick.prompts.spec import Prediction


def test_time_is_kept_for_what_follows_the_networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session, left = long_session(tmp_path), []
    predict = session._predictor.predict

    def spy(given: Any, *, budget: Budget, watch: Any) -> Any:
        left.append(budget.left_s)
        return predict(given, budget=budget, watch=watch)

    monkeypatch.setattr(session._predictor, "predict", spy)
    session.segment(budget=Budget(100.0, lambda: 0.0))
    assert left == [pytest.approx(100.0 - REST_S - REST_S_PER_VOXEL * session.case.pet.array.size)]


def test_clicked_tiles_come_first(tmp_path: Path) -> None:
    session, seconds = long_session(tmp_path), [0.0]

    def network(tile: Tensor) -> Tensor:
        seconds[0] += 1.0
        return torch.cat([tile[:, :1] * 0, tile[:, :1] * 0 + 1], dim=1)

    session.model.networks = (network,)
    session.add(TUMOR, (8, 8, 111))
    found = session.segment(budget=Budget(6.5, lambda: seconds[0])).lesion_logit.array
    assert found[111, 8, 8] == pytest.approx(1.0, abs=0.05)
    assert found[60, 8, 8] == OUTSIDE_LOGIT


def test_a_first_look_that_nobody_waits_for_leaves_nothing(tmp_path: Path) -> None:
    session = long_session(tmp_path, prompt=replace(GAUSSIAN, rules="none"))
    session.model.networks = (show_channel(2),)
    session.segment()
    session.add(TUMOR, (8, 8, 30))
    next(session.updates())
    session.undo()
    assert not session.segment().mask.array.any()


def test_a_first_look_goes_by_the_points_that_the_last_mask_was_for(tmp_path: Path) -> None:
    session = long_session(tmp_path)
    session.add(TUMOR, (8, 8, 8))
    session.segment(clicks())
    near, _ = session.updates()
    assert near.mask.array[8, 8, 8] == 1
    session.undo()
    near, final = session.updates()
    assert near.mask.array[8, 8, 8] == final.mask.array[8, 8, 8] == 0


def test_tiles_are_kept_apart_by_how_they_are_mirrored(tmp_path: Path) -> None:
    """A network that says how far right a voxel lies says 2 of each in the mean of both versions."""
    model = network_stage(tmp_path, prompt=replace(GAUSSIAN, prediction=Prediction(mirror_axes=(2,))))

    def network(tile: Tensor) -> Tensor:
        lesion = tile[:, :1] * 0 + torch.linspace(0, 4, tile.shape[-1])
        return torch.cat([lesion * 0, lesion], dim=1)

    model.networks = (network,)
    found = PetCtSession(model, PetCtCase(*ct_and_pet((16, 16, 16), (3.0, 3.0, 3.0)))).segment()
    np.testing.assert_allclose(found.lesion_logit.array, 2.0, atol=0.01)


def test_a_box_around_two_points_takes_in_a_third() -> None:
    places = np.array([[0, 15, 15], [0, 42, 12], [0, 33, 33]])
    assert boxes_around(places, np.array([0, 10, 10]), (1, 60, 60)) == [(slice(0, 1), slice(5, 53), slice(2, 44))]
