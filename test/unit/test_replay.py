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
from lesionclick.evaluation import engine as engine_module
from lesionclick.evaluation.engine import Engine, ServerJob
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
FLAGS = (
    "--rm --network none --cap-drop ALL --security-opt no-new-privileges --memory 8g --memory-swap 8g "
    "--shm-size 128m --pids-limit 256 --read-only --tmpfs /tmp"
)


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
    engine = Engine.find(str(make_engine(tmp_path)), "lesionclick:test")
    result = replay_case(cases / "positive", engine, tmp_path / "out", steps=(0, 1), labels=labels)

    assert [step.scores["dsc"] for step in result.steps] == [1, 1]
    assert [step.rules for step in result.steps] == [None, None]
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


@pytest.mark.parametrize(
    ("answer", "rules"),
    [
        ('{"masks": [], "rules": null}', None),
        (
            '{"masks": [], "rules": {"tumor": 5, "background": 4, "corrected_tumor": 3, "corrected_background": 2, '
            '"removed": 1}}',
            RulesActed(5, 4, 3, 2, 1),
        ),
    ],
)
def test_a_server_tells_what_its_rules_did(tmp_path, answer, rules):
    script = tmp_path / "engine"
    script.write_text(f"#!/bin/sh\n[ $1 = logs ] || printf '%s' '201 {answer}'\n")
    script.chmod(0o755)
    folders = [tmp_path / name for name in ("case", "out", "input", "output")]
    for folder in folders:
        folder.mkdir()
    for folder in folders[2:]:
        (folder / "of the case before").touch()
    server = ServerJob(Engine(str(script), "image"), "name", *folders[2:])
    assert server(*folders[:2]) == rules
    assert not [path for folder in folders[1:] for path in folder.iterdir()]
