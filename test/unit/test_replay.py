import json
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from lesionclick.errors import InputError, ModelError
from lesionclick.evaluation import engine as engine_module
from lesionclick.evaluation.engine import Engine
from lesionclick.evaluation.jobs import ReplayError, find_cases, lay_out, read_volume
from lesionclick.evaluation.replay import replay_case, replay_cases
from lesionclick.grand_challenge.image_files import write_mask
from lesionclick.grand_challenge.interfaces import LESION_CLICKS, TUMOR_LESION_SEGMENTATION
from lesionclick.images import Volume
from lesionclick.petct import session as petct
from lesionclick.petct.case import PetCtCase, mask_path
from lesionclick.prompts.encodings import SECOND_PLACE
from lesionclick.prompts.points import BACKGROUND, TUMOR, indices_zyx, read_clicks

SOCKET = "images/tumor-lesion-segmentation"
FLAGS = (
    "--rm --network none --cap-drop ALL --security-opt no-new-privileges --memory 8g --memory-swap 8g "
    "--shm-size 128m --pids-limit 256 --read-only --tmpfs /tmp"
)


def segment(input_dir: Path, output_dir: Path) -> None:
    """A fake job: everything above SUV 5, without the voxels' clicked background component (SUV 20 or more)."""
    case = PetCtCase.read(input_dir)
    mask = case.pet.array > 5
    if any(click.name == BACKGROUND for click in case.clicks):
        mask &= case.pet.array < 15
    leave(mask, case, output_dir)


def leave(mask: NDArray[np.bool_], case: PetCtCase, output_dir: Path) -> None:
    path = mask_path(output_dir, TUMOR_LESION_SEGMENTATION, case.stem)
    path.parent.mkdir(parents=True)
    write_mask(Volume(mask.astype(np.uint8), case.pet.grid), path)


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


def counts(clicks) -> tuple[int, int]:
    names = [click.name for click in clicks]
    return names.count(TUMOR), names.count(BACKGROUND)


def test_step_k_sees_the_first_k_clicks_of_each_kind(cases, tmp_path):
    run = Recorder()
    result = replay_case(cases / "positive", run, tmp_path / "out")

    everything = read_clicks(cases / "positive" / "lesion-clicks.json")
    for k, clicks in enumerate(run.clicks):
        assert counts(clicks) == (k, k)
        for name in (TUMOR, BACKGROUND):
            ours, all_of_them = ([c for c in some if c.name == name] for some in (clicks, everything))
            assert ours == all_of_them[:k]
    assert [step.number for step in result.steps] == list(range(11))
    assert [step.clicks for step in result.steps] == run.clicks


def test_a_case_without_lesions_gets_background_clicks_alone(cases, tmp_path):
    run = Recorder()
    replay_case(cases / "negative", run, tmp_path / "out", steps=(0, 4, 10))
    assert [counts(clicks) for clicks in run.clicks] == [(0, 0), (0, 4), (0, 10)]


def test_inputs_json_holds_the_same_clicks_as_the_file_and_is_otherwise_kept(cases, tmp_path):
    original = json.loads((cases / "positive" / "inputs.json").read_bytes())
    clicks = read_clicks(cases / "positive" / "lesion-clicks.json")
    lay_out(cases / "positive", tmp_path / "input", {LESION_CLICKS: clicks[:1]})
    changed = json.loads((tmp_path / "input" / "inputs.json").read_bytes())

    assert changed[2]["value"] == json.loads((tmp_path / "input" / "lesion-clicks.json").read_bytes())
    assert len(changed[2]["value"]["points"]) == 1
    assert changed[:2] == original[:2]
    assert changed[2]["socket"] == original[2]["socket"]


def test_a_case_without_inputs_json_gets_none(cases, tmp_path):
    (cases / "positive" / "inputs.json").unlink()
    lay_out(cases / "positive", tmp_path / "input", {LESION_CLICKS: ()})
    assert not (tmp_path / "input" / "inputs.json").exists()


def test_images_are_readable_files_for_any_user(cases, tmp_path):
    (image,) = (cases / "positive" / "images" / "pet").iterdir()
    moved = image.rename(tmp_path / "elsewhere.mha")
    moved.chmod(0o600)
    image.symlink_to(moved)
    lay_out(cases / "positive", tmp_path / "input", {LESION_CLICKS: ()})

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
    result = replay_case(cases / "positive", segment, tmp_path / "out", steps=(0, 1), label=labels / "positive.mha")
    first, second = result.steps
    # 35 lesion voxels are found in either step; the organ of 64 voxels of 0.08 ml is taken for a lesion in the first
    assert first.scores.dsc == pytest.approx(2 * 35 / (35 + 99))
    assert first.scores.fpv_ml == pytest.approx(64 * 0.08)
    assert (second.scores.dsc, second.scores.fpv_ml, second.scores.fnv_ml) == (1, 0, 0)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["step_00.mha", "step_01.mha"]
    assert np.count_nonzero(read_volume(second.mask).array) == 35


def test_cases_without_a_label_are_replayed_without_scores(cases, labels, tmp_path, caplog):
    (labels / "negative.mha").unlink()
    negative, positive = replay_cases(find_cases(cases), segment, tmp_path / "out", steps=(0,), labels=labels)
    assert negative.steps[0].scores is None
    assert positive.steps[0].scores is not None
    assert [record.message.split(":")[0] for record in caplog.records if "label" in record.message] == ["negative"]


def test_a_label_on_another_grid_is_refused(cases, labels, tmp_path):
    image = sitk.ReadImage(labels / "positive.mha")
    image.SetOrigin((0, 0, 0))
    sitk.WriteImage(image, labels / "positive.mha")
    with pytest.raises(InputError, match="label"):
        replay_case(cases / "positive", segment, tmp_path / "out", label=labels / "positive.mha")


def test_find_cases_takes_one_case_or_a_folder_of_cases(cases, tmp_path):
    assert [path.name for path in find_cases(cases)] == ["negative", "positive"]
    assert find_cases(cases / "positive") == [cases / "positive"]
    with pytest.raises(InputError, match="found none"):
        find_cases(tmp_path / "labels")


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
        case = PetCtCase.read(input_dir)
        leave(np.zeros(case.pet.grid.shape_zyx, dtype=bool), case, output_dir)

    result = replay_case(
        cases / "positive", nothing, tmp_path / "out", steps=(0, 1, 2), label=labels / "positive.mha", corrective=True
    )
    # the centre of the lesion of 27 voxels; nothing is predicted, so there is no background to correct
    for step in result.steps:
        assert counts(step.clicks) == (step.number, 0)
        tumor = indices_zyx(step.clicks, TUMOR, result.pet.grid.shape_zyx)
        assert (tumor == (3, 3, 3)).all()

    everything = replay_case(
        cases / "positive", segment, tmp_path / "b", steps=(0, 1, 2), label=labels / "positive.mha", corrective=True
    )
    (click,) = everything.steps[1].clicks
    assert click.name == BACKGROUND
    (index_zyx,) = indices_zyx((click,), BACKGROUND, result.pet.grid.shape_zyx)
    assert result.pet.array[tuple(index_zyx)] >= 20
    assert everything.steps[2].clicks == (click,)  # the background click was heeded: no error is left


@pytest.mark.parametrize(("label", "steps"), [(None, (0, 1)), ("positive.mha", (0, 2))])
def test_corrective_clicks_need_a_label_and_every_step(cases, labels, tmp_path, label, steps):
    with pytest.raises(InputError, match="corrective"):
        replay_case(
            cases / "positive",
            segment,
            tmp_path / "out",
            steps=steps,
            label=labels / label if label else None,
            corrective=True,
        )


class WrongEverywhere:
    """A fake model that has every tumour click on the wrong side."""

    prompt = SECOND_PLACE

    def predict_margin(self, _ct: Volume, pet: Volume, *_: object) -> Volume:
        return Volume(np.full(pet.grid.shape_zyx, -1, dtype=np.float32), pet.grid)


def test_replay_tells_how_often_the_rules_acted(cases, tmp_path):
    def run(input_dir: Path, output_dir: Path) -> None:
        case = PetCtCase.read(input_dir)
        leave(petct.segment(case, WrongEverywhere()).array > 0, case, output_dir)

    result = replay_case(cases / "positive", run, tmp_path / "out", steps=(0, 2))
    assert [step.acted for step in result.steps] == [(0, 0, 0), (2, 0, 0)]
    silent = replay_case(cases / "positive", segment, tmp_path / "out", steps=(0,))
    assert silent.steps[0].acted is None


# --- a container engine, played by a script that records its arguments --------------------------------------------


def make_engine(tmp_path: Path, run: str = "", info: str = "exit 1") -> Path:
    """An engine whose `run` writes its arguments and copies a prepared mask; `run` and `info` are shell code."""
    script = tmp_path / "engine"
    script.write_text(f"""#!/bin/sh
echo "$@" >> {tmp_path}/calls
case "$1" in
info) {info} ;;
run)
  for word in "$@"; do
    case "$word" in
      *:/output) out="${{word%:/output}}" ;;
      *:/input:ro) in="${{word%:/input:ro}}" ;;
    esac
  done
  {run}
  mkdir -p "$out/{SOCKET}"
  cp {tmp_path}/mask.mha "$out/{SOCKET}/$(basename "$in"/images/ct/*)" ;;
esac
""")
    script.chmod(0o755)
    (tmp_path / "calls").touch()
    return script


@pytest.fixture
def mask(labels) -> None:
    """The mask that the fake engine's container answers with: the positive case's label."""
    shutil.copy(labels / "positive.mha", labels.parent / "mask.mha")


@pytest.mark.usefixtures("mask")
def test_engine_gets_the_platforms_flags(cases, labels, tmp_path):
    said = "echo INFO rules: corrected 3 of 5 tumour and 1 of 5 background clicks, removed 2 unmarked components"
    engine = Engine.find(str(make_engine(tmp_path, run=said)), "lesionclick:test")
    result = replay_case(cases / "positive", engine, tmp_path / "out", steps=(0, 1), label=labels / "positive.mha")

    assert [step.scores.dsc for step in result.steps] == [1, 1]
    assert [step.acted for step in result.steps] == [(3, 1, 2), (3, 1, 2)]
    info, *runs = (tmp_path / "calls").read_text().splitlines()
    assert info.startswith("info")
    assert len(runs) == 2
    assert len({line.split("--name ")[1].split()[0] for line in runs}) == 2
    for line in runs:
        words = line.split()
        assert words[3:-5] == FLAGS.split()
        assert words[-5] == words[-3] == "-v"
        assert words[-4].endswith("/input:/input:ro")
        assert words[-2].endswith("/output:/output")
        assert words[-1] == "lesionclick:test"


@pytest.mark.parametrize(("info", "gpu"), [("echo '{\"nvidia\":{}}'", True), ("echo '{\"runc\":{}}'", False)])
def test_gpus_are_passed_only_where_the_engine_knows_an_nvidia_runtime(tmp_path, info, gpu):
    engine = Engine.find(str(make_engine(tmp_path, info=info)), "image", tmp_path / "model")
    line = " ".join(engine.arguments(tmp_path / "i", tmp_path / "o", "name"))
    assert (" --gpus all " in line) is gpu
    assert f" -v {tmp_path}/model:/opt/ml/model:ro " in line


def test_a_missing_engine_is_an_error(tmp_path):
    with pytest.raises(InputError, match="container engine"):
        Engine.find(str(tmp_path / "no-such-engine"), "image")


@pytest.mark.usefixtures("mask")
def test_a_container_that_fails_shows_the_end_of_its_log(cases, tmp_path):
    engine = Engine(str(make_engine(tmp_path, run="echo the weights are broken >&2; exit 2")), "image")
    with pytest.raises(ReplayError, match=r"(?s)step 0: .*exit code 0, found 2.*the weights are broken"):
        replay_case(cases / "positive", engine, tmp_path / "out")


@pytest.mark.usefixtures("mask")
def test_a_container_that_never_ends_is_killed(cases, tmp_path, monkeypatch):
    monkeypatch.setattr(engine_module, "TIME_LIMIT_S", 0.5)
    engine = Engine(str(make_engine(tmp_path, run="exec sleep 600")), "image")
    with pytest.raises(ReplayError, match="still running"):
        replay_case(cases / "positive", engine, tmp_path / "out")
    run, kill = (tmp_path / "calls").read_text().splitlines()
    assert kill == f"kill {run.split()[2]}"
