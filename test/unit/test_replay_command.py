import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from helpers.answering_algorithm import AnsweringAlgorithm
from helpers.longitudinal_folder import FOLLOWUP_XYZ, followup_ct, on_grid_of, write_longitudinal_case
from helpers.model_folder import write_model_folder

from lesionclick.cli import main

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
    rows = [line.split()[:5] for line in capsys.readouterr().out.splitlines()]
    assert ["0", "0", "1.000", "0.00", "0.00"] in rows
    assert ["10", "10", "-", "2.80", "-"] in rows  # negative: 35 voxels of 0.08 ml


def test_a_replay_that_fails_leaves_the_scores_of_the_cases_before_and_no_older_report(replay, cases, tmp_path):
    assert replay() == 0
    (cases / "positive" / "lesion-clicks.json").write_text("{")
    assert replay() == 1
    assert json.loads((tmp_path / "out" / "scores.json").read_text()).keys() == {"negative"}
    assert not (tmp_path / "out" / "report.html").exists()
    assert not (tmp_path / "out" / "picture.png").exists()


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


def test_replay_in_this_process_runs_the_model_given(cases, tmp_path):
    model = write_model_folder(tmp_path / "model", patch_size=(16, 16, 16), spacing_zyx=(5.0, 4.0, 4.0))
    output = tmp_path / "out"
    arguments = ["replay", str(cases / "positive"), "--model", str(model), "--steps", "0,2", "--output", str(output)]
    assert main(arguments) == 0
    assert len(list((output / "positive").iterdir())) == 2
    assert "in one process on c" in (output / "report.html").read_text()
    (model / "plans.json").unlink()
    assert main(arguments) == 2


@pytest.fixture
def algorithm(labels, monkeypatch) -> AnsweringAlgorithm:
    """What the replay in this process runs: answers with the true masks of `positive` and `later`."""
    answering = AnsweringAlgorithm({"task1": labels / "positive.mha", "task2": labels / "later" / "primary.mha"})
    monkeypatch.setattr("lesionclick.algorithm.Algorithm", answering)
    return answering


@pytest.fixture
def replay_both(cases, algorithm, tmp_path):
    """`lesionclick replay` of Task 1's two cases and one of Task 2, in this process."""
    label = algorithm.masks["task2"]
    label.parent.mkdir()
    write_longitudinal_case(cases / "later")
    mask = np.zeros(FOLLOWUP_XYZ[::-1], dtype=np.uint8)
    mask[2:4, 2:4, 2:4] = 2
    sitk.WriteImage(on_grid_of(followup_ct(), mask), label, useCompression=True)
    fixed = ["--labels", str(label.parents[1]), "--output", str(tmp_path / "out"), "--steps", "0"]
    return lambda *more: main(["replay", str(cases), *fixed, *map(str, more)])


def test_replay_runs_each_case_by_its_kind_with_the_model_of_its_task(replay_both, algorithm, tmp_path, capsys):
    assert replay_both() == 0
    assert algorithm.loaded == [(None, ["task1", "task2"])]
    assert sorted(path.name for path in (tmp_path / "out" / "later").iterdir()) == [
        "step_00_primary.mha",
        "step_01_primary.mha",
    ]
    assert [path.name for path in (tmp_path / "out" / "positive").iterdir()] == ["step_00.mha"]
    rows = [line.split()[:6] for line in capsys.readouterr().out.splitlines()]
    assert ["0", "0", "1.000", "0.00", "0.00", "1.000"] in rows
    assert ["1", "2", "1.000", "0.00", "0.00", "1.000"] in rows


def test_replay_takes_the_models_from_the_folder_given(replay_both, algorithm, tmp_path):
    assert replay_both("--model", tmp_path / "mine") == 0
    assert algorithm.loaded == [(tmp_path / "mine", ["task1", "task2"])]


def test_replay_loads_no_model_of_a_task_without_cases(cases, algorithm, tmp_path):
    assert main(["replay", str(cases), "--steps", "0", "--output", str(tmp_path / "out")]) == 0
    assert algorithm.loaded == [(None, ["task1"])]


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


@pytest.mark.parametrize(
    ("options", "what"), [(["--corrective"], "corrective clicks"), (["--challenge", "autopet5"], "strokes")]
)
def test_corrections_are_refused_for_task_2(replay_both, tmp_path, capsys, options, what):
    assert replay_both(*options) == 1
    assert f"later: {what} need a PET/CT case" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_replay_that_is_refused_leaves_the_report_of_the_one_before(replay, labels, tmp_path):
    assert replay() == 0
    shutil.rmtree(labels)
    before = (tmp_path / "out" / "report.html").read_bytes()
    assert replay("--corrective") == 1
    assert (tmp_path / "out" / "report.html").read_bytes() == before


def test_a_case_has_its_name_from_its_own_folder_too(replay, cases, tmp_path, monkeypatch):
    monkeypatch.chdir(cases / "positive")
    assert replay(source=".") == 0
    assert json.loads((tmp_path / "out" / "scores.json").read_text()).keys() == {"positive"}
    assert (tmp_path / "out" / "positive" / "step_00.mha").is_file()


def test_steps_are_numbers_or_ranges(replay, tmp_path):
    assert replay("--steps", "0..2,10") == 0
    scores = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert list(scores["positive"]) == ["0", "1", "2", "10"]


@pytest.mark.parametrize("steps", ["", "11", "-1", "one", "0-10", "3..1", "0..3000000"])
def test_replay_refuses_unknown_steps(cases, steps, capsys):
    assert main(["replay", str(cases), f"--steps={steps}"]) == 2
    expected = f"--steps: expected numbers from 0 to 10, such as 0..10 or 0,5,10, found {steps!r}"
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize("given", [["--engine", "docker"], ["--image", "test"], ["--invoke"]])
def test_replay_in_a_container_needs_engine_and_image(cases, tmp_path, capsys, given):
    assert main(["replay", str(cases), *given, "--output", str(tmp_path / "out")]) == 2
    assert f"expected --engine together with --image, found {given[0]} alone" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_scores_of_corrective_clicks_have_no_expected_ones(replay, tmp_path, capsys):
    assert replay("--corrective", "--expected", tmp_path / "expected.json") == 2
    assert "error: Mutually exclusive arguments" in capsys.readouterr().err
