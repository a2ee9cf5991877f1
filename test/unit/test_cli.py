import glob
import json
import math
import re
import shlex
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from helpers.answering_algorithm import AnsweringAlgorithm
from helpers.tiny_phantom import tiny_phantom

from lesionclick import __version__
from lesionclick.cli import app, main
from lesionclick.errors import ModelError
from lesionclick.grand_challenge.case_folder import CaseFolder
from lesionclick.grand_challenge.click_files import read_clicks
from lesionclick.images import Volume
from lesionclick.prompts.points import BACKGROUND, TUMOR
from lesionclick.tasks import TASKS, read_case, task_of

COMMANDS = (
    *("replay", "evaluate", "card", "score", "phantom", "longitudinal-phantom", "clicks"),
    *("dataset", "train", "export", "held-out", "suggest", "import", "export-dicom"),
)


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Help is as wide as on a usual terminal, and without colours."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("FORCE_COLOR", raising=False)


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


def test_score_refuses_voxels_that_are_no_number(labels, tmp_path, capsys):
    image = sitk.Cast(sitk.ReadImage(labels / "positive.mha"), sitk.sitkFloat32)
    image[0, 0, 0] = math.nan
    sitk.WriteImage(image, tmp_path / "nan.mha")
    for pair in (("nan.mha", "positive.mha"), ("positive.mha", "nan.mha")):
        paths = [str(tmp_path / name if name == "nan.mha" else labels / name) for name in pair]
        assert main(["score", *paths]) == 1
        assert "nan.mha: expected a mask, found voxels that are NaN" in capsys.readouterr().err


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
    assert main(["clicks", *images, "--output", str(path), "--clicks", "4", *options]) == 0
    assert [point.kind for point in read_clicks(path)] == [TUMOR] * 4 + [BACKGROUND] * 4


def test_clicks_that_cannot_be_written_or_drawn_are_bad_input(cases, labels, tmp_path, capsys):
    label, pet = labels / "positive.mha", next((cases / "positive/images/pet").iterdir())
    (tmp_path / "file").touch()
    assert main(["clicks", str(label), str(pet), "--output", str(tmp_path / "file/clicks.json")]) == 1
    assert "expected a folder that user" in capsys.readouterr().err
    image = sitk.Cast(sitk.ReadImage(label), sitk.sitkFloat32)
    image[0, 0, 0] = math.nan
    sitk.WriteImage(image, tmp_path / "nan.mha")
    assert main(["clicks", str(tmp_path / "nan.mha"), str(pet), "--output", str(tmp_path / "clicks.json")]) == 1
    assert "nan.mha: expected finite voxels" in capsys.readouterr().err
    assert not (tmp_path / "clicks.json").exists()


def test_view_names_the_image_that_is_not_there(tmp_path, capsys):
    assert main(["view", str(tmp_path / "ct.nii"), str(tmp_path / "pet.nii"), "--no-browser"]) == 1
    assert re.search(r'ct\.nii: expected an image, found: The file ".*" does not exist', capsys.readouterr().err)


def test_series_are_chosen_of_a_dicom_study_alone(cases, tmp_path, capsys):
    ct, pet = (str(next((cases / "positive/images" / kind).iterdir())) for kind in ("ct", "pet"))
    assert main(["import", ct, pet, str(tmp_path / "case"), "--pet", "3"]) == 1
    assert "expected no --pet and no --ct with two images" in capsys.readouterr().err
    assert not (tmp_path / "case").exists()
    assert main(["view", str(cases / "positive"), "--ct", "3", "--no-browser"]) == 1
    assert "expected the folder of a DICOM study, of which --pet and --ct choose series" in capsys.readouterr().err


def test_phantom_tells_how_many_lesions_it_has_where_that_is_not_what_was_asked_for(tmp_path, capsys):
    options = ["phantom", "--seed", "7", "--tracer", "psma", "--lesions", "40", "--spacing", "12", "12", "12"]
    assert main([*options, "--output", str(tmp_path / "case"), "--label", str(tmp_path / "label.mha")]) == 0
    label = sitk.ReadImage(tmp_path / "label.mha")
    count = sitk.GetArrayFromImage(sitk.ConnectedComponent(label > 0, True)).max()
    assert count < 40
    assert f"{count} lesions in place of 40" in capsys.readouterr().err


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
    assert len(read_case(tmp_path / "a" / "case").prompts) == 20
    assert sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / "a" / "label.mha")).any()
    sockets = json.loads(first["case/inputs.json"])
    assert [entry["socket"]["relative_path"] for entry in sockets] == ["images/ct", "images/pet", "lesion-clicks.json"]
    assert sockets[2]["value"] == json.loads(first["case/lesion-clicks.json"])


def test_sample_images_are_rounded_and_compressed_but_not_spoiled(cases):
    phantom, case = tiny_phantom(), read_case(cases / "positive")
    assert np.abs(case.pet.array - phantom.pet.array).max() <= 1 / 128
    (pet,) = (cases / "positive" / "images" / "pet").iterdir()
    assert b"CompressedData = True" in pet.read_bytes()[:1000]
    assert (case.ct.array == phantom.ct.array).all()


@pytest.fixture
def trained(monkeypatch) -> list[Any]:
    """What the trainer is called with; it does nothing."""
    calls: list[Any] = []
    module = types.ModuleType("lesionclick.training.train")
    module.train = lambda *arguments, **options: calls.append((arguments, options))  # type: ignore[attr-defined]
    module.prepare = module.train  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lesionclick.training.train", module)
    return calls


@pytest.mark.parametrize("task", ["task1", "task2"])
def test_train_forwards_to_the_trainer(trained, tmp_path, task):
    arguments = ["train", task, "--dataset", "data", "--config", "small", "--output", str(tmp_path)]
    assert main([*arguments, "--minutes", "3", "--resume"]) == 0
    options = {"minutes": 3.0, "processes": 2}
    options |= {"device": "auto", "fold": "0", "gpus": 1, "resume": True, "initial": None}
    assert trained == [((task, Path("data"), "small", tmp_path), options)]


def test_train_may_end_with_the_preprocessed_data(trained, tmp_path):
    arguments = ["train", "task1", "--dataset", "data", "--config", "large", "--output", str(tmp_path)]
    assert main([*arguments, "--prepare-only", "--processes", "4"]) == 0
    assert trained == [(("task1", Path("data"), "large", tmp_path), {"minutes": 75.0, "processes": 4})]


@pytest.mark.parametrize(("fold", "code"), [("all", 0), ("3", 0), ("some", 2), ("-1", 2)])
def test_fold_is_a_number_or_all(trained, fold, code):
    assert main(["train", "task1", "--dataset", "a", "--config", "small", "--output", "b", f"--fold={fold}"]) == code
    assert [options["fold"] for _, options in trained] == ([fold] if code == 0 else [])


def test_longitudinal_phantom_is_a_case_of_task_2_with_its_labels(tmp_path):
    case, labels = tmp_path / "case", tmp_path / "labels"
    options = "--seed 3 --lesions 4 --spacing 8 8 8 --field-of-view 0.5 0.75 --secondary-field-of-view 0.1 0.35"
    output = ["--output", str(case), "--labels", str(labels)]
    assert main(["longitudinal-phantom", *options.split(), *output]) == 0
    read = read_case(case)
    assert [one.region for one in read.baselines] == [one.region for one in read.followups] == ["primary", "secondary"]
    assert set(read.baselines[0].points) & set(read.baselines[1].points) == set()
    for followup in read.followups:
        label = Volume.read(labels / f"{followup.region}.mha")
        assert label.grid == followup.ct.grid
        assert set(np.unique(label.array)) - {0} == set(followup.points)


LONGITUDINAL = ["longitudinal-phantom", "--seed", "1", "--output", "out"]
PHANTOM = ["phantom", "--seed", "1", "--tracer", "fdg", "--output", "out"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["courses"], 'Unknown command "courses"'),
        (["score", "a"], "PREDICTION"),
        (["score", "a", "b", "c"], "'c'"),
        ([*PHANTOM, "--tracre", "fdg"], "Did you mean --tracer?"),
        ([*PHANTOM[:3], "--tracer", "x", "--output", "out"], 'Choose from: "fdg", "psma"'),
        ([*PHANTOM, "--spacing", "1", "2"], "--spacing requires 3"),
        ([*PHANTOM, "--spacing", "1", "2", "0"], "--spacing. Must be > 0"),
        ([*PHANTOM, "--field-of-view", "0.6", "0.2"], "--field-of-view. Expected two numbers from 0 to 1"),
        ([*PHANTOM, "--field-of-view", "0.6", "1.2"], "--field-of-view. Expected two numbers from 0 to 1"),
        ([*PHANTOM, "--lesions=-1"], "--lesions. Must be >= 0"),
        (["clicks", "a", "b", "--output", "c", "--budget", "4"], "--budget"),
        (["clicks", "a", "b", "--output", "c", "--clicks", "0"], "--clicks. Must be > 0"),
        (["clicks", "a", "b", "--output", "c", "--seed", "x"], "--seed"),
        ([*LONGITUDINAL, "--halved", "baseline", "--secondary-field-of-view", "0", "1"], "Mutually exclusive"),
        (["train", "task3", "--dataset", "a", "--config", "small", "--output", "b"], 'Choose from: "task1", "task2"'),
    ],
)
def test_wrong_usage_is_told_in_one_line(arguments, message, capsys):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert out == ""


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ModelError("plans.json: broken"), 2, "error: plans.json: broken"),
        (PermissionError(13, "Permission denied", "/x"), 3, "error: [Errno 13] Permission denied: '/x'"),
        (ModuleNotFoundError("", name="tqdm"), 3, "error: expected the package tqdm, found none; "),
        (KeyError("x"), 3, "error: unexpected KeyError: 'x'"),
    ],
)
def test_errors_of_a_command_end_the_process_with_their_code(monkeypatch, capsys, error, code, line):
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("lesionclick.training.raw_sets.build_raw_set", fail)
    assert main(["dataset", "a", "--output", "b"]) == code
    out, err = capsys.readouterr()
    assert err.splitlines()[-1].startswith(line)
    assert out == ""


@pytest.mark.parametrize("arguments", [["--verbose", "score", "a", "b"], ["score", "a", "b", "--verbose"]])
def test_verbose_may_stand_anywhere_and_shows_where_an_error_came_from(arguments):
    command = [sys.executable, "-m", "lesionclick.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: a: expected")


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


def test_the_overview_lists_every_command_with_what_it_does(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    for command in COMMANDS:
        (line,) = [line for line in printed.splitlines() if line.startswith(f"│ {command} ")]
        assert len(line.strip("│ ").split(maxsplit=1)) == 2


def test_help_imports_nothing_heavy():
    script = "import sys; from lesionclick.cli import main; [main([name, '--help']) for name in sys.argv[1:]]"
    arguments = [sys.executable, "-c", f"{script}; print(*sys.modules)", *COMMANDS]
    loaded = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout.splitlines()[-1].split()
    assert "lesionclick.commands.replay" in loaded
    assert not {"numpy", "torch", "SimpleITK"} & set(loaded)


@pytest.fixture
def example(capsys) -> Callable[[str], list[str]]:
    """Returns the arguments of the example that a command's help shows, wildcards replaced as by a shell."""

    def read(command: str) -> list[str]:
        assert main([command, "--help"]) == 0
        _, _, after = capsys.readouterr().out.partition("For example:")
        lines, _, _ = after.partition("╭")
        program, *arguments = shlex.split(" ".join(line.strip().removesuffix("\\") for line in lines.splitlines()))
        assert program == "lesionclick"
        assert arguments[0] == command
        return [path for word in arguments for path in (sorted(glob.glob(word)) if "*" in word else [word])]

    return read


def test_examples_work_one_after_the_other(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lesionclick.algorithm.Algorithm", AnsweringAlgorithm({"task1": Path("out/labels/7.mha")}))
    assert main(example("phantom")) == 0
    for command in ("clicks", "replay", "score", "longitudinal-phantom"):
        assert main(example(command)) == 0, command
    assert len(read_clicks(Path("out/lesion-clicks.json"))) == 20
    assert len(list(Path("out/replay/7").iterdir())) == 11
    assert task_of(CaseFolder.open(Path("out/cases/8"))) == TASKS["task2"]


@pytest.mark.parametrize("command", ["dataset", "train", "export", "held-out", "suggest", "import", "export-dicom"])
def test_examples_that_need_data_have_the_options_that_there_are(example, command):
    app.parse_args(example(command))
