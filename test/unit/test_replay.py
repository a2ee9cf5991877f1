import json
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from lesionclick.errors import InputError, ModelError
from lesionclick.evaluation.jobs import ReplayError, find_cases, lay_out
from lesionclick.evaluation.petct_replay import PetCtReplay
from lesionclick.evaluation.registry import EVALUATIONS
from lesionclick.evaluation.replay import replay_cases
from lesionclick.evaluation.steps import Options
from lesionclick.grand_challenge.case_folder import CaseFolder
from lesionclick.grand_challenge.click_files import read_clicks
from lesionclick.grand_challenge.image_files import write_masks
from lesionclick.grand_challenge.interfaces import LESION_CLICKS
from lesionclick.images import Volume
from lesionclick.petct.case import PetCtCase
from lesionclick.petct.rules import RulesActed
from lesionclick.petct.session import Segmentation
from lesionclick.prompts.points import BACKGROUND, TUMOR, Prompts
from lesionclick.tasks import TASKS

SOCKET = "images/tumor-lesion-segmentation"


def segment(input_dir: Path, output_dir: Path) -> None:
    """A fake job: everything above SUV 5, without the voxels' clicked background component (SUV 20 or more)."""
    folder = CaseFolder.open(input_dir)
    case = PetCtCase.read(folder)
    mask = case.pet.array > 5
    if len(case.prompts.of(BACKGROUND)):
        mask &= case.pet.array < 15
    leave(mask, folder, output_dir)


def leave(mask: NDArray[np.bool_], folder: CaseFolder, output_dir: Path) -> None:
    folder.prepare_output(output_dir)
    (path,) = folder.mask_paths(output_dir).values()
    write_masks({path: Volume(mask.astype(np.uint8), PetCtCase.read(folder).pet.grid)})


def replay_case(folder: Path, run, output: Path, **options) -> PetCtReplay:
    """Replay one case; its masks go to `output` with the case's name."""
    (replay,) = replay_cases([folder], run, output, Options(**options))
    return replay


class Recorder:
    """A fake job that keeps what it saw."""

    def __init__(self) -> None:
        self.clicks, self.sockets, self.folders, self.left_over = [], [], [], []

    def __call__(self, input_dir: Path, output_dir: Path) -> None:
        self.clicks.append(read_clicks(input_dir / "lesion-clicks.json"))
        self.sockets.append(json.loads((input_dir / "inputs.json").read_bytes()))
        self.folders.append((input_dir, output_dir))
        self.left_over += output_dir.iterdir()
        segment(input_dir, output_dir)


def counts(prompts: Prompts) -> tuple[int, int]:
    return len(prompts.of(TUMOR)), len(prompts.of(BACKGROUND))


def test_step_k_sees_the_first_k_clicks_of_each_kind(cases, tmp_path):
    run = Recorder()
    result = replay_case(cases / "positive", run, tmp_path / "out")

    everything = read_clicks(cases / "positive" / "lesion-clicks.json")
    for k, clicks in enumerate(run.clicks):
        assert counts(clicks) == (k, k)
        for kind in (TUMOR, BACKGROUND):
            assert clicks.of(kind).points == everything.of(kind).points[:k]
    assert [step.number for step in result.steps] == list(range(11))
    assert [step.prompts for step in result.steps] == run.clicks


def test_a_case_without_lesions_gets_background_clicks_alone(cases, tmp_path):
    run = Recorder()
    replay_case(cases / "negative", run, tmp_path / "out", steps=(0, 4, 10))
    assert [counts(clicks) for clicks in run.clicks] == [(0, 0), (0, 4), (0, 10)]


def test_inputs_json_holds_the_same_clicks_as_the_file_and_is_otherwise_kept(cases, tmp_path):
    original = json.loads((cases / "positive" / "inputs.json").read_bytes())
    clicks = read_clicks(cases / "positive" / "lesion-clicks.json")
    lay_out(cases / "positive", tmp_path / "input", {LESION_CLICKS: Prompts(clicks.points[:1])})
    changed = json.loads((tmp_path / "input" / "inputs.json").read_bytes())

    assert changed[2]["value"] == json.loads((tmp_path / "input" / "lesion-clicks.json").read_bytes())
    assert len(changed[2]["value"]["points"]) == 1
    assert changed[:2] == original[:2]
    assert changed[2]["socket"] == original[2]["socket"]


def test_a_case_without_inputs_json_gets_none(cases, tmp_path):
    (cases / "positive" / "inputs.json").unlink()
    lay_out(cases / "positive", tmp_path / "input", {LESION_CLICKS: Prompts()})
    assert not (tmp_path / "input" / "inputs.json").exists()


def test_images_are_readable_files_for_any_user(cases, tmp_path):
    (image,) = (cases / "positive" / "images" / "pet").iterdir()
    moved = image.rename(tmp_path / "elsewhere.mha")
    moved.chmod(0o600)
    image.symlink_to(moved)
    lay_out(cases / "positive", tmp_path / "input", {LESION_CLICKS: Prompts()})

    copy = tmp_path / "input" / "images" / "pet" / image.name
    assert not copy.is_symlink()
    assert copy.read_bytes() == moved.read_bytes()
    assert stat.S_IMODE(copy.stat().st_mode) == 0o644
    assert stat.S_IMODE(copy.parent.stat().st_mode) == 0o755


def test_every_step_has_fresh_folders_that_vanish(cases, tmp_path):
    run = Recorder()
    replay_case(cases / "positive", run, tmp_path / "out")
    folders = [folder for pair in run.folders for folder in pair]
    assert len(set(folders)) == 22
    assert run.left_over == []
    assert not any(folder.exists() for folder in folders)


def test_masks_and_scores_of_every_step(cases, labels, tmp_path):
    result = replay_case(cases / "positive", segment, tmp_path / "out", steps=(0, 1), labels=labels)
    first, second = result.steps
    # 35 lesion voxels are found in either step; the organ of 64 voxels of 0.08 ml is taken for a lesion in the first
    assert first.scores["dsc"] == pytest.approx(2 * 35 / (35 + 99))
    assert first.scores["fpv_ml"] == pytest.approx(64 * 0.08)
    assert second.scores == {"dsc": 1, "fpv_ml": 0, "fnv_ml": 0}
    assert sorted(path.name for path in (tmp_path / "out" / "positive").iterdir()) == ["step_00.mha", "step_01.mha"]
    assert np.count_nonzero(Volume.read(second.mask).array) == 35


def test_cases_without_a_label_are_replayed_without_scores(cases, labels, tmp_path, caplog):
    (labels / "negative.mha").unlink()
    negative, positive = replay_cases(find_cases(cases), segment, tmp_path / "out", Options((0,), labels))
    assert negative.steps[0].scores is None
    assert positive.steps[0].scores is not None
    assert [record.message.split(":")[0] for record in caplog.records if "label" in record.message] == ["negative"]


def test_a_label_on_another_grid_is_refused(cases, labels, tmp_path):
    image = sitk.ReadImage(labels / "positive.mha")
    image.SetOrigin((0, 0, 0))
    sitk.WriteImage(image, labels / "positive.mha")
    with pytest.raises(InputError, match="label"):
        replay_case(cases / "positive", segment, tmp_path / "out", labels=labels)


def test_find_cases_takes_one_case_or_a_folder_of_cases(cases, tmp_path):
    assert [path.name for path in find_cases(cases)] == ["negative", "positive"]
    assert find_cases(cases / "positive") == [cases / "positive"]
    with pytest.raises(InputError, match="found none"):
        find_cases(tmp_path / "labels")


def test_every_task_has_an_evaluation():
    assert list(EVALUATIONS) == list(TASKS)


def shift(image: sitk.Image) -> sitk.Image:
    image.SetOrigin([x + 1 for x in image.GetOrigin()])
    return image


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "found nothing"),
        (lambda path: path.rename(path.with_name("mask.mha")), "mask.mha"),
        (lambda path: (path.parent / "notes.txt").touch(), "notes.txt"),
        (lambda path: (path.parents[2] / "results.json").touch(), "results.json"),
        (lambda path: path.write_bytes(path.read_bytes()[:100]), "expected an image"),
        (lambda path: rewrite(path, shift), "mask"),
        (lambda path: rewrite(path, lambda image: image[:-1]), "mask"),
        (lambda path: rewrite(path, lambda image: sitk.Cast(image, sitk.sitkInt16)), "16-bit signed integer"),
        (lambda path: rewrite(path, lambda image: sitk.Cast(image, sitk.sitkFloat32)), "32-bit float"),
        (lambda path: rewrite(path, lambda image: sitk.JoinSeries([image, image])), "4-D"),
        (lambda path: rewrite(path, lambda image: sitk.Compose([image, image])), "vector"),
        (lambda path: rewrite(path, lambda image: image, compress=False), "compressed"),
    ],
)
def test_an_output_that_breaks_the_contract_fails(cases, tmp_path, spoil, message):
    def run(input_dir: Path, output_dir: Path) -> None:
        segment(input_dir, output_dir)
        (mask,) = (output_dir / SOCKET).iterdir()
        spoil(mask)

    with pytest.raises(ReplayError, match=f"^positive, step 3: .*{message}"):
        replay_case(cases / "positive", run, tmp_path / "out", steps=(3,))


def rewrite(path: Path, change, compress: bool = True) -> None:
    sitk.WriteImage(change(sitk.ReadImage(path)), path, useCompression=compress)


def test_any_unsigned_type_is_allowed(cases, tmp_path):
    def run(input_dir: Path, output_dir: Path) -> None:
        segment(input_dir, output_dir)
        (mask,) = (output_dir / SOCKET).iterdir()
        rewrite(mask, lambda image: sitk.Cast(image, sitk.sitkUInt16))

    assert len(replay_case(cases / "positive", run, tmp_path / "out", steps=(0,)).steps) == 1


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [(InputError("bad PET"), InputError, 1), (ModelError("no plans"), ModelError, 2), (KeyError("x"), ReplayError, 3)],
)
def test_a_failing_job_keeps_its_class_and_says_where(cases, tmp_path, error, kind, code):
    def run(*_: Path) -> None:
        raise error

    with pytest.raises(kind, match=r"^positive, step 2: ") as caught:
        replay_case(cases / "positive", run, tmp_path / "out", steps=(2,))
    assert caught.value.exit_code == code


def test_corrective_clicks_go_into_the_largest_error(cases, labels, tmp_path):
    def nothing(input_dir: Path, output_dir: Path) -> None:
        folder = CaseFolder.open(input_dir)
        leave(np.zeros(PetCtCase.read(folder).pet.grid.shape_zyx, dtype=bool), folder, output_dir)

    options = {"steps": (0, 1, 2), "labels": labels, "corrective": True}
    result = replay_case(cases / "positive", nothing, tmp_path / "out", **options)
    # the centre of the lesion of 27 voxels; nothing is predicted, so there is no background to correct
    for step in result.steps:
        assert counts(step.prompts) == (step.number, 0)
        assert (step.prompts.voxels_zyx(TUMOR) == (3, 3, 3)).all()

    everything = replay_case(cases / "positive", segment, tmp_path / "b", **options)
    first = everything.steps[1].prompts
    assert counts(first) == (0, 1)
    (index_zyx,) = first.voxels_zyx(BACKGROUND)
    assert result.pet.array[tuple(index_zyx)] >= 20
    assert everything.steps[2].prompts == first  # the background click was heeded: no error is left


@pytest.mark.parametrize(("labelled", "steps"), [(False, (0, 1)), (True, (0, 2))])
def test_corrective_clicks_need_a_label_and_every_step(cases, labels, tmp_path, labelled, steps):
    options = {"steps": steps, "labels": labels if labelled else None, "corrective": True}
    with pytest.raises(InputError, match="corrective"):
        replay_case(cases / "positive", segment, tmp_path / "out", **options)


@dataclass(frozen=True)
class Done:
    """What a job in this process returns."""

    segmentation: object


def test_replay_keeps_what_the_job_tells_of_its_rules(cases, tmp_path):
    acted = RulesActed(tumor=2, corrected_tumor=1, removed=3)
    nothing = Volume.read(next((cases / "positive" / "images" / "pet").iterdir()))
    told = [
        Done(Segmentation(nothing, nothing, acted, (), {})),  # in this process
        acted,  # from a server
        None,  # from a container
        Done("another task's segmentation"),
    ]
    answers = iter(told)

    def run(input_dir: Path, output_dir: Path) -> object:
        segment(input_dir, output_dir)
        return next(answers)

    result = replay_case(cases / "positive", run, tmp_path / "out", steps=range(4))
    assert [step.rules for step in result.steps] == [acted, acted, None, None]


def test_a_job_that_fails_leaves_no_mask_of_an_earlier_replay(cases: Path, tmp_path: Path) -> None:
    def fail(_input_dir: Path, _output_dir: Path) -> None:
        raise ModelError("broken")

    replay_case(cases / "positive", segment, tmp_path / "out", steps=(0, 1))
    with pytest.raises(ModelError, match="step 0: broken"):
        replay_case(cases / "positive", fail, tmp_path / "out", steps=(0, 1))
    assert [path.name for path in (tmp_path / "out" / "positive").iterdir()] == ["step_01.mha"]


def test_a_mask_that_finds_no_room_is_not_left_half(
    cases: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copyfile

    def fail(source: Path, target: Path, **options: bool) -> None:
        copy(source, target, **options)
        if (tmp_path / "out") in Path(target).parents:
            raise OSError("No space left on device")

    monkeypatch.setattr("lesionclick.evaluation.jobs.shutil.copyfile", fail)
    with pytest.raises(InputError, match=r"step 0: .*No space left on device"):
        replay_case(cases / "positive", segment, tmp_path / "out")
    assert not [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
