"""A prediction whose time is over before all tiles are computed: what was clicked counts all the same."""

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.model_folder import write_model_folder

from lesionclick.budget import Budget
from lesionclick.images import Grid, Volume
from lesionclick.petct.case import PetCtCase
from lesionclick.petct.model import PetCtModel
from lesionclick.petct.session import PetCtSession
from lesionclick.prompts.encodings import Gaussian
from lesionclick.prompts.points import Prompts
from lesionclick.prompts.spec import PromptSpec

GRID = Grid((64, 64, 64), (2.0, 2.0, 3.0))
TUMOR = [(60, 60, 60), (58, 60, 60), (60, 58, 58)]
BACKGROUND = [(62, 62, 62), (55, 62, 62), (62, 55, 55)]


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("rules", ["clicks", "challenge"])
def test_clicks_have_the_last_word_where_no_tile_was_computed(tmp_path: Path, rules: str, exact: bool) -> None:
    folder = write_model_folder(tmp_path, prompt=PromptSpec(Gaussian(3.0), stage="image", rules=rules))
    model = PetCtModel.load(folder, device=torch.device("cpu"), exact=exact)
    rng = np.random.default_rng(0)
    ct, pet = rng.normal(0, 100, GRID.shape_zyx), rng.gamma(2, 1, GRID.shape_zyx)
    case = PetCtCase.from_volumes(Volume(ct.astype(np.float32), GRID), Volume(pet.astype(np.float32), GRID))
    seconds, calls = [0.0], itertools.count()

    def take_time(*_: object) -> None:
        seconds[0] += 1.0 if next(calls) == 0 else 8.0  # the tile that is timed is quick, the others are not

    model.networks[0].register_forward_pre_hook(take_time)
    prompts = Prompts.from_indices(tumor_zyx=TUMOR, background_zyx=BACKGROUND)
    found = PetCtSession(model, case).segment(prompts, budget=Budget(62.0, clock=lambda: seconds[0]))
    assert 1 < next(calls) < 28  # of 27 tiles and one that was timed
    assert np.isfinite(found.lesion_logit.array).all()
    assert [int(found.mask.array[place]) for place in TUMOR] == [1, 1, 1]
    assert [int(found.mask.array[place]) for place in BACKGROUND] == [0, 0, 0]
