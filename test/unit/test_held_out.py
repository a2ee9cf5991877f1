"""What a fold was not trained on comes out as cases of the platform, with their true masks."""

import json
from pathlib import Path

import numpy as np
import pytest

from lesionclick.errors import InputError
from lesionclick.evaluation.held_out import write_held_out
from lesionclick.grand_challenge.click_files import write_clicks
from lesionclick.images import Grid, Volume
from lesionclick.longitudinal.case import LongitudinalCase
from lesionclick.petct.case import PetCtCase
from lesionclick.prompts.points import BACKGROUND, TUMOR, Point, Prompts
from lesionclick.tasks import read_case
from lesionclick.training.raw_sets import build_raw_set

GRID = Grid((16, 14, 12), (2.0, 2.0, 3.0), (-5.0, 3.0, 9.0))
RNG = np.random.default_rng(0)
CT = RNG.integers(-1000, 1000, GRID.shape_zyx).astype(np.int16)
LESIONS = np.zeros(GRID.shape_zyx, dtype=np.uint8)
LESIONS[2:5, 2:5, 2:5], LESIONS[7:10, 7:10, 9:12] = 1, 3
PET = np.where(LESIONS > 0, 8.0, RNG.uniform(0, 1, GRID.shape_zyx)).astype(np.float32)
PET[10, 1:4, 12:15] = np.linspace(9, 10, 9).reshape(3, 3)


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Volume(array, GRID).write(path)


@pytest.fixture
def petct(tmp_path: Path) -> Path:
    download = tmp_path / "download"
    for name in ("fdg_a_1", "fdg_b_1", "psma_c_1"):
        for part, array in (("imagesTr", CT), ("imagesTr", PET), ("labelsTr", (LESIONS > 0).astype(np.uint8))):
            ending = "" if part == "labelsTr" else f"_000{int(array is PET)}"
            write(download / part / f"{name}{ending}.nii.gz", array)
    return build_raw_set(download, tmp_path / "Dataset221_A").folder


@pytest.fixture
def longitudinal(tmp_path: Path) -> Path:
    download = tmp_path / "download"
    for patient in ("a", "b"):
        for visit, masks in (("BL", "inputsTr"), ("FU", "targetsTr")):
            write(download / "inputsTr" / f"{patient}_{visit}_img_00.nii.gz", CT + (visit == "FU"))
            write(download / masks / f"{patient}_{visit}_mask_00.nii.gz", LESIONS)
            points = Prompts((Point("1", (3.0, 3.0, 3.0)), Point("Lesion 3", (10.5, 8.0, 8.0))))
            write_clicks(download / "inputsTr" / f"{patient}_{visit}_00.json", points)
    return build_raw_set(download, tmp_path / "Dataset300_A").folder


def test_petct_cases_have_clicks_that_do_not_depend_on_the_others(petct: Path, tmp_path: Path) -> None:
    splits = json.loads((petct / "splits_final.json").read_text())
    names = write_held_out(petct, 1, tmp_path / "out")
    assert names == splits[1]["val"]
    (name,) = names
    case = read_case(tmp_path / "out" / "cases" / name)
    assert isinstance(case, PetCtCase)
    assert case.pet.grid == GRID
    assert np.array_equal(case.ct.array, CT)
    assert np.array_equal(case.pet.array, PET)
    label = Volume.read(tmp_path / "out" / "labels" / f"{name}.mha")
    assert np.array_equal(label.array, LESIONS > 0)
    assert len(case.prompts.of(TUMOR)) == len(case.prompts.of(BACKGROUND)) == 10
    assert label.array[tuple(case.prompts.voxels_zyx(TUMOR).T)].all()
    assert not label.array[tuple(case.prompts.voxels_zyx(BACKGROUND).T)].any()

    (petct / "splits_final.json").write_text(json.dumps([{"train": [], "val": sorted([*splits[0]["val"], name])}]))
    with pytest.raises(InputError, match="expected a new or an empty folder"):
        write_held_out(petct, 0, tmp_path / "out")  # cases that the fold's model has seen would be among its own
    write_held_out(petct, 0, tmp_path / "more")
    assert read_case(tmp_path / "more" / "cases" / name).prompts == case.prompts
    write_held_out(petct, 0, tmp_path / "other", seed=1)
    assert read_case(tmp_path / "other" / "cases" / name).prompts != case.prompts


def test_two_visits_of_a_patient_make_a_case_with_their_numbers(longitudinal: Path, tmp_path: Path) -> None:
    (name,) = write_held_out(longitudinal, 0, tmp_path / "out")
    case = read_case(tmp_path / "out" / "cases" / name)
    assert isinstance(case, LongitudinalCase)
    ((baseline,), (followup,)) = case.baselines, case.followups
    assert np.array_equal(baseline.lesions.array, LESIONS)
    assert np.array_equal(followup.ct.array, CT + 1)
    assert followup.points == {1: (3.0, 3.0, 3.0), 3: (10.5, 8.0, 8.0)}
    label = Volume.read(tmp_path / "out" / "labels" / name / "primary.mha")
    assert np.array_equal(label.array, LESIONS)


def test_a_baseline_without_a_followup_is_left_out_with_a_warning(
    longitudinal: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (longitudinal / "splits_final.json").write_text(
        json.dumps([{"train": [], "val": ["a_BL_00", "b_BL_00", "b_FU_00"]}])
    )
    assert write_held_out(longitudinal, 0, tmp_path / "out") == ["b_00"]
    assert [record.getMessage() for record in caplog.records] == ["a_BL_00 has no follow-up and is left out"]


def test_a_fold_without_any_followup_is_refused(longitudinal: Path, tmp_path: Path) -> None:
    (longitudinal / "splits_final.json").write_text(json.dumps([{"train": [], "val": ["a_BL_00"]}]))
    with pytest.raises(InputError, match="expected a baseline with its follow-up in fold 0, found none"):
        write_held_out(longitudinal, 0, tmp_path / "out")


def test_what_is_not_there_is_named(petct: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"splits_final\.json: expected a fold from 0 to 2, found 3"):
        write_held_out(petct, 3, tmp_path / "out")
    (petct / "splits_final.json").write_text(json.dumps([{"train": ["fdg_a_1"], "val": []}]))
    with pytest.raises(InputError, match=r"splits_final\.json: expected cases in val of fold 0, found none"):
        write_held_out(petct, 0, tmp_path / "out")
    (petct / "cases.json").unlink()
    with pytest.raises(InputError, match=r"cases\.json: expected a file that lesionclick dataset has written"):
        write_held_out(petct, 0, tmp_path / "out")


def test_what_fails_leaves_no_part_of_the_cases(petct: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as changed:
        changed.setattr("lesionclick.evaluation.held_out._write_label", fail)
        with pytest.raises(OSError, match="no space left"):
            write_held_out(petct, 1, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())
    (tmp_path / "out" / ".part" / "cases").mkdir(parents=True)  # of a command that was killed
    write_held_out(petct, 1, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"cases", "labels"}
