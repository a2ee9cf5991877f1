"""From a case folder to its masks: which model is taken, what is read and computed once, and what is written."""

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from helpers.case_folder import CT_NAME, ct_path, pet_path, write_case
from helpers.longitudinal_folder import POINTS, image_path, write_baseline, write_longitudinal_case, write_points
from helpers.model_folder import write_model_folder

from lesionclick import algorithm as algorithm_module
from lesionclick.algorithm import Algorithm
from lesionclick.budget import Budget
from lesionclick.errors import InputError, ModelError
from lesionclick.grand_challenge import case_folder
from lesionclick.grand_challenge.click_files import write_clicks
from lesionclick.grand_challenge.interfaces import LONGITUDINAL_CT, PET_CT, PRIMARY, REGIONS
from lesionclick.images import Volume
from lesionclick.longitudinal import session as longitudinal
from lesionclick.network import model_folder
from lesionclick.petct import case as case_module
from lesionclick.petct import prediction
from lesionclick.petct.session import PetCtSession
from lesionclick.prompts.encodings import Ball, LesionPair
from lesionclick.prompts.points import Prompts
from lesionclick.prompts.spec import PromptSpec
from lesionclick.tasks import TASKS, read_case, task_of

PATCH = (16, 16, 16)
PETCT, PAIR = PromptSpec(Ball(radius=2.0)), PromptSpec(LesionPair(radius=10.0))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with a model for each task."""
    write_model_folder(tmp_path / "models" / "task1", prompt=PETCT, patch_size=PATCH)
    write_model_folder(tmp_path / "models" / "task2", prompt=PAIR, patch_size=(8, 16, 16))
    return tmp_path / "models"


@pytest.fixture
def preprocessed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time that images are preprocessed."""
    calls: list[int] = []
    preprocess = prediction.preprocess

    def spy(*args: Any, **options: Any) -> Any:
        calls.append(1)
        return preprocess(*args, **options)

    monkeypatch.setattr(prediction, "preprocess", spy)
    return calls


def test_every_interface_has_one_task() -> None:
    for interface in (*PET_CT, *LONGITUDINAL_CT):
        assert [interface in task.interfaces for task in TASKS.values()].count(True) == 1


def test_the_case_tells_the_task(models: Path, tmp_path: Path) -> None:
    algorithm = Algorithm(models)
    write_case(tmp_path / "petct")
    write_longitudinal_case(tmp_path / "longitudinal")
    (mask,) = algorithm.handle(tmp_path / "petct", tmp_path / "out").masks
    assert mask == tmp_path / "out" / "images" / "tumor-lesion-segmentation" / f"{CT_NAME}.mha"
    assert Volume.read(mask).grid == Volume.read(pet_path(tmp_path / "petct")).grid
    (mask,) = algorithm.handle(tmp_path / "longitudinal", tmp_path / "out").masks
    assert mask.parent.name == "primary-followup-ct-tumor-lesion-seg"
    assert type(read_case(tmp_path / "petct")).__name__ == "PetCtCase"
    assert task_of(case_folder.CaseFolder.open(tmp_path / "longitudinal")).name == "task2"


class TestChoiceOfTheModel:
    """One rule, whether the models are loaded before the cases, as by a server, or with them."""

    @pytest.mark.parametrize("load", [Algorithm, Algorithm.load], ids=["exec", "invoke"])
    def test_a_task_that_the_given_folder_has_no_model_for_is_refused(self, load: Any, tmp_path: Path) -> None:
        algorithm = load(write_model_folder(tmp_path / "model", prompt=PETCT, patch_size=PATCH))
        algorithm.handle(write_case(tmp_path / "petct"), tmp_path / "out")
        with pytest.raises(ModelError, match=r"model: expected a model of task2.*one of task1"):
            algorithm.handle(write_longitudinal_case(tmp_path / "longitudinal"), tmp_path / "nothing")
        assert not (tmp_path / "nothing").exists()

    @pytest.mark.parametrize("load", [Algorithm, Algorithm.load], ids=["exec", "invoke"])
    def test_the_platforms_folder_counts_as_a_given_one(
        self, load: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder = write_model_folder(tmp_path / "model" / "task2", prompt=PAIR, patch_size=(8, 16, 16)).parent
        monkeypatch.setattr(model_folder, "PLATFORM_MODEL", folder)
        algorithm = load()
        algorithm.handle(write_longitudinal_case(tmp_path / "longitudinal"), tmp_path / "out")
        with pytest.raises(ModelError, match=r"plans\.json"):
            algorithm.handle(write_case(tmp_path / "petct"), tmp_path / "out")

    def test_all_models_of_a_folder_are_loaded_at_once(self, models: Path, tmp_path: Path) -> None:
        algorithm = Algorithm.load(models)
        for path in models.rglob("*.pth"):
            path.unlink()
        algorithm.handle(write_case(tmp_path / "petct"), tmp_path / "out")
        algorithm.handle(write_longitudinal_case(tmp_path / "longitudinal"), tmp_path / "out")

    def test_a_folder_without_a_model_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ModelError, match="expected a model folder"):
            Algorithm.load(tmp_path)


class TestMasksOfEarlierRuns:
    @staticmethod
    def leave(folder: Path, *names: str) -> list[Path]:
        """Write an old mask and another file into each of some folders; return the other files."""
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text("old")
            (folder / name).with_name("another.mha").write_text("old")
        return sorted(path for path in folder.rglob("another.mha"))

    def test_a_run_that_fails_in_the_end_leaves_none(
        self, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise RuntimeError("lost the device")

        others = self.leave(tmp_path / "out", f"images/tumor-lesion-segmentation/{CT_NAME}.mha")
        monkeypatch.setattr("lesionclick.petct.session.PetCtSession.segment", fail)
        with pytest.raises(RuntimeError, match="lost the device"):
            Algorithm(models).handle(write_case(tmp_path / "case"), tmp_path / "out")
        assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == others

    @pytest.mark.parametrize("broken", [ct_path, pet_path])
    def test_a_case_that_is_refused_leaves_none(self, models: Path, tmp_path: Path, broken: Any) -> None:
        broken(write_case(tmp_path / "case")).write_text("not an image")
        others = self.leave(tmp_path / "out", f"images/tumor-lesion-segmentation/{CT_NAME}.mha")
        with pytest.raises(InputError, match="expected an image"):
            Algorithm(models).handle(tmp_path / "case", tmp_path / "out")
        assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == others

    def test_a_case_of_no_interface_leaves_none(self, models: Path, tmp_path: Path) -> None:
        pet_path(write_case(tmp_path / "case")).parent.rename(tmp_path / "pet")
        others = self.leave(tmp_path / "out", f"images/tumor-lesion-segmentation/{CT_NAME}.mha")
        with pytest.raises(InputError, match="expected images/ct, images/pet"):
            Algorithm(models).handle(tmp_path / "case", tmp_path / "out")
        assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == others

    def test_none_of_two_regions_stays(self, models: Path, tmp_path: Path) -> None:
        case = write_longitudinal_case(tmp_path / "case", followups=REGIONS)
        image_path(case, PRIMARY.followup_ct).write_text("not an image")
        names = [f"images/{one.mask.socket.slug}/{image_path(case, one.followup_ct).name}" for one in REGIONS]
        others = self.leave(tmp_path / "out", *names)
        assert len(others) == 2
        with pytest.raises(InputError, match="expected an image"):
            Algorithm(models).handle(case, tmp_path / "out")
        assert sorted(path for path in (tmp_path / "out").rglob("*") if path.is_file()) == others

    def test_a_folder_that_cannot_be_changed_is_refused(self, models: Path, tmp_path: Path) -> None:
        (tmp_path / "out").touch()
        with pytest.raises(InputError, match="expected a folder that user"):
            Algorithm(models).handle(write_case(tmp_path / "case"), tmp_path / "out")


class TestSteps:
    def test_a_further_step_of_a_case_needs_no_second_preprocessing(
        self, models: Path, tmp_path: Path, preprocessed: list[int]
    ) -> None:
        algorithm, case = Algorithm(models), write_case(tmp_path / "case")
        first = algorithm.handle(case, tmp_path / "out")
        ct_path(case).rename(ct_path(case).with_stem("another-name"))
        write_clicks(case / "lesion-clicks.json", Prompts())
        second = algorithm.handle(case, tmp_path / "out")
        assert len(preprocessed) == 1
        assert [len(done.masks) for done in (first, second)] == [1, 1]
        assert second.masks[0].name == "another-name.mha"
        fresh = Algorithm(models).handle(case, tmp_path / "fresh")
        assert len(preprocessed) == 2
        np.testing.assert_array_equal(Volume.read(second.masks[0]).array, Volume.read(fresh.masks[0]).array)

    def test_other_images_are_another_case(self, models: Path, tmp_path: Path, preprocessed: list[int]) -> None:
        algorithm, case = Algorithm(models), write_case(tmp_path / "case")
        algorithm.handle(case, tmp_path / "out")
        pet = sitk.ReadImage(str(pet_path(case)))
        pet[3, 4, 5] = 8.75
        sitk.WriteImage(pet, str(pet_path(case)), useCompression=True)
        algorithm.handle(case, tmp_path / "out")
        assert len(preprocessed) == 2

    def test_scans_are_registered_once_while_the_points_of_the_followup_change(
        self, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[object] = []
        register = longitudinal.register
        monkeypatch.setattr(longitudinal, "register", lambda *args: calls.append(args) or register(*args))
        algorithm, case = Algorithm(models), write_longitudinal_case(tmp_path / "case", followup_points={})
        algorithm.handle(case, tmp_path / "out")
        write_points(case, PRIMARY.followup_clicks, {1: (4.0, 7.0, 6.0)})
        second = algorithm.handle(case, tmp_path / "out")
        assert len(calls) == 1
        assert [one.lesion.number for one in second.segmentation.followups["primary"].lesions] == [1]
        write_baseline(case, points={**POINTS, 2: (14.0, 11.0, 8.0)})
        algorithm.handle(case, tmp_path / "out")
        assert len(calls) == 2

    def test_a_case_folder_is_looked_through_once(
        self, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls: list[Path] = []
        present = case_folder._present
        monkeypatch.setattr(case_folder, "_present", lambda path: calls.append(path) or present(path))
        Algorithm(models).handle(write_case(tmp_path / "case"), tmp_path / "out")
        assert calls == [tmp_path / "case"]

    def test_a_case_is_gone_from_memory_before_the_next_one_is_read(
        self, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        algorithm, first = Algorithm(models), write_case(tmp_path / "first")
        algorithm.handle(first, tmp_path / "out")
        session = weakref.ref(algorithm._latest[1])
        gone: list[bool] = []
        read = case_module.ImageFile.read

        def spy(*args: Any) -> Any:
            gc.collect()
            gone.append(session() is None)
            return read(*args)

        monkeypatch.setattr(case_module.ImageFile, "read", spy)
        pet = sitk.ReadImage(str(pet_path(first)))
        pet[3, 4, 5] = 8.75
        sitk.WriteImage(pet, str(pet_path(first)), useCompression=True)
        algorithm.handle(first, tmp_path / "out")
        assert gone == [True, True]

    def test_a_case_that_is_refused_needs_no_model(
        self, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(algorithm_module, "_REFUSED_WITHIN_S", 60.0)  # however busy the machine is
        pet_path(write_case(tmp_path / "case")).write_text("not an image")
        algorithm = Algorithm(models)
        with pytest.raises(InputError, match="expected an image"):
            algorithm.handle(tmp_path / "case", tmp_path / "out")
        assert algorithm._models == {}

    def test_the_session_has_the_budget_of_the_case(
        self, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        segment, given = PetCtSession.segment, []

        def spy(*args: Any, budget: Budget | None = None) -> Any:
            given.append(budget)
            return segment(*args, budget=budget)

        monkeypatch.setattr(PetCtSession, "segment", spy)
        budget = Budget(1000.0)
        Algorithm(models).handle(write_case(tmp_path / "case"), tmp_path / "out", budget)
        assert given == [budget]

    def test_the_seconds_of_every_stage_are_told(self, models: Path, tmp_path: Path) -> None:
        done = Algorithm(models).handle(write_case(tmp_path / "case"), tmp_path / "out")
        assert set(done.seconds) >= {"read case", "preprocess", "predict", "resample prediction", "rules", "write"}
        assert all(seconds >= 0 for seconds in done.seconds.values())
