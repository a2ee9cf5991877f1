import json
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from helpers.longitudinal_folder import FOLLOWUP_XYZ, followup_ct, on_grid_of, write_longitudinal_case
from helpers.model_folder import write_model_folder
from helpers.tiny_phantom import tiny_phantom

from lesionclick import cli
from lesionclick.cli import main
from lesionclick.evaluation.jobs import read_volume
from lesionclick.petct.case import LongitudinalCase, PetCtCase
from lesionclick.prompts.points import BACKGROUND, TUMOR, read_clicks

ENGINE = """#!/bin/sh
[ "$1" = run ] || exit 1
for word in "$@"; do
  case "$word" in
    *:/output) out="${word%:/output}" ;;
    *:/input:ro) in="${word%:/input:ro}" ;;
  esac
done
mkdir -p "$out/images/tumor-lesion-segmentation"
cp FOLDER/mask.mha "$out/images/tumor-lesion-segmentation/$(basename "$in"/images/ct/*)"
"""


@pytest.fixture
def replay(cases, labels, tmp_path):
    """`lesionclick replay` with a fake container engine that answers every case with the positive one's label."""
    shutil.copy(labels / "positive.mha", tmp_path / "mask.mha")
    engine = tmp_path / "engine"
    engine.write_text(ENGINE.replace("FOLDER", str(tmp_path)))
    engine.chmod(0o755)
    fixed = ["--engine", str(engine), "--image", "test", "--labels", str(labels), "--output", str(tmp_path / "out")]
    return lambda *more, source=cases: main(["replay", str(source), *fixed, "--steps", "0,10", *map(str, more)])


def test_replay_writes_masks_scores_and_report(replay, tmp_path, capsys):
    assert replay() == 0
    assert sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*")) == [
        "negative/step_00.mha",
        "negative/step_10.mha",
        "picture.png",
        "positive/step_00.mha",
        "positive/step_10.mha",
        "report.html",
        "scores.json",
    ]
    printed = capsys.readouterr().out
    assert "   0       0  1.000    0.00    0.00" in printed
    assert "  10      10      -    2.80       -" in printed  # negative: 35 voxels of 0.08 ml


def test_replay_compares_with_expected_scores(replay, tmp_path, capsys):
    path = tmp_path / "expected.json"
    assert replay("--write-expected", path) == 0
    assert replay("--expected", path) == 0
    assert "all as expected" in capsys.readouterr().out

    scores = json.loads(path.read_text())
    scores["positive"]["10"]["dsc"] = 0.9
    path.write_text(json.dumps(scores))
    assert replay("--expected", path) == 1
    assert "DIFFERENT  positive  step 10  dsc: expected 0.9, found 1.0" in capsys.readouterr().out


def test_replay_of_one_case_is_compared_with_that_case_alone(replay, cases, tmp_path):
    path = tmp_path / "expected.json"
    replay("--write-expected", path)
    assert replay("--expected", path, source=cases / "positive") == 0
    shutil.rmtree(cases / "negative")
    assert replay("--expected", path) == 1


def test_errors_are_one_line_with_the_exit_code_of_their_class(replay, tmp_path, capsys):
    (tmp_path / "mask.mha").unlink()
    assert replay() == 3
    (tmp_path / "empty").mkdir()
    assert replay(source=tmp_path / "empty") == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.startswith("error: ") for line in lines if "empty: expected a case" in line] == [True]


def test_replay_in_this_process_runs_the_entry_point_with_the_model_given(cases, tmp_path):
    model = write_model_folder(tmp_path / "model", patch_size=(16, 16, 16), spacing_zyx=(5.0, 4.0, 4.0))
    output = tmp_path / "out"
    arguments = ["replay", str(cases / "positive"), "--model", str(model), "--steps", "0,2", "--output", str(output)]
    assert main(arguments) == 0
    assert len(list((output / "positive").iterdir())) == 2
    assert "in one process on c" in (output / "report.html").read_text()
    (model / "plans.json").unlink()
    assert main(arguments) == 2


INFERENCE = """import shutil
from types import SimpleNamespace

def init_model(folder, trust_checkpoint=False, task="task1"):
    with open("LOG", "a") as log:
        print(task, folder, file=log)
    return SimpleNamespace(device="cpu", task=task)

def run(model, input_dir, output_dir):
    slug, mask = ("ct", "MASKS/positive.mha")
    target = "tumor-lesion-segmentation"
    if (input_dir / "images" / "primary-followup-ct").is_dir():
        assert model.task == "task2"
        slug, mask, target = "primary-followup-ct", "MASKS/later/primary.mha", "primary-followup-ct-tumor-lesion-seg"
    else:
        assert model.task == "task1"
    (image,) = (input_dir / "images" / slug).iterdir()
    (output_dir / "images" / target).mkdir(parents=True)
    shutil.copy(mask, output_dir / "images" / target / image.name)
"""


@pytest.fixture
def replay_both(cases, labels, tmp_path, monkeypatch):
    """`lesionclick replay` of Task 1's two cases and one of Task 2, with an entry point that answers with labels."""
    write_longitudinal_case(cases / "later")
    (labels / "later").mkdir()
    mask = np.zeros(FOLLOWUP_XYZ[::-1], dtype=np.uint8)
    mask[2:4, 2:4, 2:4] = 2
    sitk.WriteImage(on_grid_of(followup_ct(), mask), labels / "later" / "primary.mha", useCompression=True)
    source = INFERENCE.replace("LOG", str(tmp_path / "log")).replace("MASKS", str(labels))
    (tmp_path / "inference.py").write_text(source)
    monkeypatch.setattr(cli, "ROOT", tmp_path)
    fixed = ["--labels", str(labels), "--output", str(tmp_path / "out"), "--steps", "0"]
    return lambda *more: main(["replay", str(cases), *fixed, *map(str, more)])


def test_replay_runs_each_case_by_its_kind_with_the_model_of_its_task(replay_both, tmp_path, capsys):
    assert replay_both() == 0
    assert sorted((tmp_path / "log").read_text().splitlines()) == ["task1 None", "task2 None"]
    assert sorted(path.name for path in (tmp_path / "out" / "later").iterdir()) == [
        "step_00_primary.mha",
        "step_01_primary.mha",
    ]
    assert [path.name for path in (tmp_path / "out" / "positive").iterdir()] == ["step_00.mha"]
    printed = capsys.readouterr().out
    assert "step  points    DSC  FPV ml  FNV ml  lesion DSC  seconds" in printed
    assert "   0       0  1.000    0.00    0.00       1.000" in printed
    assert "   1       2  1.000    0.00    0.00       1.000" in printed


def test_replay_gives_one_model_to_all_cases(replay_both, tmp_path):
    assert replay_both("--model", tmp_path / "mine") == 0
    assert sorted((tmp_path / "log").read_text().splitlines()) == [f"task{n} {tmp_path}/mine" for n in (1, 2)]


def test_both_steps_of_task_2_are_compared(replay_both, tmp_path, capsys):
    path = tmp_path / "expected.json"
    assert replay_both("--write-expected", path) == 0
    assert replay_both("--expected", path) == 0
    scores = json.loads(path.read_text())
    assert scores["later"]["1"] == {"dsc": 1.0, "fpv_ml": 0.0, "fnv_ml": 0.0, "lesion_dsc": 1.0}
    scores["later"]["1"]["lesion_dsc"] = 0.9
    path.write_text(json.dumps(scores))
    assert replay_both("--expected", path) == 1
    assert "DIFFERENT  later  step  1  lesion_dsc: expected 0.9, found 1.0" in capsys.readouterr().out


def test_corrective_replay_refuses_task_2(replay_both, tmp_path, capsys):
    assert replay_both("--corrective") == 1
    assert "later: corrective clicks need a PET/CT case" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("steps", ["", "11", "-1", "one", "0-10"])
def test_replay_refuses_unknown_steps(replay, steps, capsys):
    with pytest.raises(SystemExit) as caught:
        replay(f"--steps={steps}")
    assert caught.value.code == 2
    assert "expected numbers from 0 to 10" in capsys.readouterr().err


def test_replay_with_an_engine_needs_an_image(cases, tmp_path, capsys):
    assert main(["replay", str(cases), "--engine", "docker", "--output", str(tmp_path)]) == 1
    assert "--image" in capsys.readouterr().err


def test_score_prints_the_metrics_as_json(labels, capsys):
    assert main(["score", str(labels / "positive.mha"), str(labels / "positive.mha")]) == 0
    same = json.loads(capsys.readouterr().out)
    assert same == {"dsc": 1.0, "fpv_ml": 0.0, "fnv_ml": 0.0, "hausdorff95_mm": 0.0, "mean_mm": 0.0}
    assert main(["score", str(labels / "negative.mha"), str(labels / "positive.mha")]) == 0
    negative = json.loads(capsys.readouterr().out)
    assert negative["fpv_ml"] == pytest.approx(35 * 0.08)
    assert negative["dsc"] is None


def test_score_refuses_masks_of_different_grids(labels, tmp_path, capsys):
    image = sitk.ReadImage(labels / "positive.mha")
    image.SetSpacing((4, 4, 4))
    sitk.WriteImage(image, tmp_path / "other.mha")
    assert main(["score", str(labels / "positive.mha"), str(tmp_path / "other.mha")]) == 1
    assert "prediction" in capsys.readouterr().err


def test_score_of_a_missing_file_is_one_line(labels, tmp_path, capsys):
    assert main(["score", str(labels / "positive.mha"), str(tmp_path / "none.mha")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "none.mha" in line


@pytest.mark.parametrize("options", [["--seed", "3"], ["--official"]])
def test_clicks_writes_a_click_file(cases, labels, tmp_path, options):
    (pet,) = (cases / "positive" / "images" / "pet").iterdir()
    path = tmp_path / "clicks.json"
    images = [str(labels / "positive.mha"), str(pet)]
    assert main(["clicks", *images, "--output", str(path), "--budget", "4", *options]) == 0
    clicks = read_clicks(path)
    assert [click.name for click in clicks] == [TUMOR] * 4 + [BACKGROUND] * 4


def test_phantom_writes_the_same_readable_case_again(tmp_path):
    def write(name: str) -> dict[str, bytes]:
        folder = tmp_path / name
        options = ["--seed", "7", "--tracer", "psma", "--lesions", "2", "--spacing", "12", "12", "12"]
        code = main(["phantom", *options, "--output", str(folder / "case"), "--label", str(folder / "label.mha")])
        assert code == 0
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.*")}

    first, second = write("a"), write("b")
    assert first == second
    assert len(first) == 5
    case = PetCtCase.read(tmp_path / "a" / "case")
    assert len(case.clicks) == 20
    assert sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "a" / "label.mha")).any()
    sockets = json.loads(first["case/inputs.json"])
    assert [entry["socket"]["relative_path"] for entry in sockets] == ["images/ct", "images/pet", "lesion-clicks.json"]
    assert sockets[2]["value"] == json.loads(first["case/lesion-clicks.json"])


def test_sample_images_are_rounded_and_compressed_but_not_spoiled(cases):
    phantom, case = tiny_phantom(), PetCtCase.read(cases / "positive")
    assert np.abs(case.pet.array - phantom.pet.array).max() <= 1 / 128
    (pet,) = (cases / "positive" / "images" / "pet").iterdir()
    assert b"CompressedData = True" in pet.read_bytes()[:1000]
    assert (case.ct.array == phantom.ct.array).all()


@pytest.mark.parametrize("task", ["task1", "task2"])
def test_train_forwards_to_the_trainer(monkeypatch, tmp_path, task):
    calls = []
    module = types.ModuleType("lesionclick.training.train")
    module.train = lambda *arguments, **options: calls.append((arguments, options))
    monkeypatch.setitem(sys.modules, "lesionclick.training.train", module)
    arguments = ["train", task, "--dataset", "data", "--config", "small", "--output", str(tmp_path)]
    assert main([*arguments, "--minutes", "3", "--resume"]) == 0
    options = {"minutes": 3.0, "fold": "0", "resume": True, "initial": None}
    assert calls == [((task, Path("data"), "small", tmp_path, "auto"), options)]


def test_courses_are_a_case_of_task_2_with_its_labels(tmp_path):
    arguments = [
        "courses",
        "--seed",
        "3",
        "--lesions",
        "4",
        "--spacing",
        "8",
        "8",
        "8",
        "--field-of-view",
        "0.5",
        "0.75",
    ]
    case, labels = tmp_path / "case", tmp_path / "labels"
    assert main([*arguments, "--secondary", "0.1", "0.35", "--output", str(case), "--labels", str(labels)]) == 0
    read = LongitudinalCase.read(case)
    assert [one.region for one in read.baselines] == [one.region for one in read.followups] == ["primary", "secondary"]
    assert set(read.baselines[0].points) & set(read.baselines[1].points) == set()
    for followup in read.followups:
        label = read_volume(labels / f"{followup.region}.mha")
        assert label.grid == followup.ct.grid
        assert set(np.unique(label.array)) - {0} == set(followup.points)
