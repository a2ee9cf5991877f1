"""What a model of Task 2 says of a patch: the mean over the folds and the mirrored versions that a plan names."""

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.model_folder import write_model_folder
from torch import Tensor, nn

from lesionclick.budget import Plan
from lesionclick.errors import ModelError
from lesionclick.longitudinal.model import LongitudinalModel
from lesionclick.network import ensemble
from lesionclick.network.acceleration import Arithmetic
from lesionclick.network.ensemble import Placement
from lesionclick.prompts.encodings import LesionPair
from lesionclick.prompts.spec import Prediction, PromptSpec

CPU = torch.device("cpu")


class Ramp(nn.Module):
    """Takes for lesion what lies to the right: the lesion's logit is `factor` times the index along x."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        ramp = self.factor * torch.arange(x.shape[-1], dtype=torch.float32).expand(len(x), 1, *x.shape[2:])
        return torch.cat([torch.zeros_like(ramp), ramp], dim=1)


@pytest.fixture
def model(tmp_path: Path) -> LongitudinalModel:
    prompt = PromptSpec(LesionPair(radius=10.0), prediction=Prediction((0, 2)))
    model = LongitudinalModel.load(write_model_folder(tmp_path, prompt=prompt, folds=(0, 1)), device=CPU)
    model.networks = (Ramp(1.0), Ramp(3.0))
    return model


@pytest.mark.parametrize(
    ("plan", "along_x"),
    [
        (Plan(1), [0.0, 1.0, 2.0, 3.0]),
        (Plan(2), [0.0, 2.0, 4.0, 6.0]),
        (Plan(1, (0, 1)), [0.0, 1.0, 2.0, 3.0]),
        (Plan(2, (2,)), [3.0, 3.0, 3.0, 3.0]),
    ],
)
def test_a_plan_says_which_folds_and_mirrored_versions_count(
    model: LongitudinalModel, plan: Plan, along_x: list[float]
) -> None:
    patches = [np.zeros((5, 2, 3, 4), dtype=np.float32)] * 2
    found = model.predict_lesion_logits(patches, plan)
    assert len(found) == 2
    for lesion_logit in found:
        np.testing.assert_allclose(lesion_logit, np.broadcast_to(along_x, (2, 3, 4)), atol=1e-6)


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_an_error(model: LongitudinalModel, factor: float) -> None:
    model.networks = (Ramp(1.0), Ramp(factor))
    with pytest.raises(ModelError, match="expected finite logits"):
        model.predict_lesion_logits([np.zeros((5, 2, 3, 4), dtype=np.float32)], Plan(2))


def test_only_what_had_a_size_is_mirrored(model: LongitudinalModel) -> None:
    assert model.first_plan == Plan(1)
    assert model.close_plan(sized=True) == Plan(2, (0, 2))
    assert model.close_plan(sized=False) == Plan(2)


def test_where_exact_the_first_look_is_by_all(model: LongitudinalModel) -> None:
    model.arithmetic = Arithmetic(torch.float32, exact=True)
    assert model.first_plan == Plan(2, (0, 2))


def test_where_the_memory_is_short_patches_are_predicted_one_by_one(
    model: LongitudinalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Large(Ramp):
        def forward(self, x: Tensor) -> Tensor:
            together.append(len(x))
            if len(x) > 1:
                raise torch.OutOfMemoryError("full")
            return super().forward(x) + x[:, :1]

    together: list[int] = []
    places = [Placement(CPU, CPU), Placement(CPU, CPU, one_by_one=True)]
    monkeypatch.setattr(ensemble, "list_placements", lambda _: places)
    model.networks = (Large(2.0),)
    found = model.predict_lesion_logits([np.zeros((5, 2, 3, 4), dtype=np.float32)] * 3, Plan(1))
    assert together == [3, 1, 1, 1]
    assert [one[0, 0].tolist() for one in found] == [[0.0, 2.0, 4.0, 6.0]] * 3


def test_a_ct_that_is_normalised_stays_as_it_was(model: LongitudinalModel) -> None:
    ct = np.array([[[-2000.0, 0.0, 300.0]]], dtype=np.float32)
    # the plans clip to -900 HU, and divide by 300
    assert model.normalise(ct).tolist() == [[[-3.0, 0.0, 1.0]]]
    assert ct.tolist() == [[[-2000.0, 0.0, 300.0]]]
