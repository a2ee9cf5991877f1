"""autoPET V: the replay with its six steps, and a click file of 400 points.

The file is no case of `test/input`: the scores there are those of the challenge's clicks, of which step k shows the
first k, and the first ten points of a scribble are no step of either challenge.
"""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.model_folder import write_model_folder
from helpers.tiny_phantom import GRID

from lesionclick.algorithm import Algorithm
from lesionclick.cli import main
from lesionclick.errors import InputError
from lesionclick.evaluation.jobs import find_cases
from lesionclick.evaluation.petct_replay import StrokeReplay
from lesionclick.evaluation.replay import replay_cases
from lesionclick.evaluation.report import Report
from lesionclick.evaluation.steps import Options
from lesionclick.evaluation.tables import areas_text
from lesionclick.grand_challenge.case_folder import CaseFolder
from lesionclick.grand_challenge.click_files import read_clicks, write_clicks
from lesionclick.grand_challenge.image_files import write_masks
from lesionclick.images import Volume
from lesionclick.petct.case import PetCtCase
from lesionclick.petct.model import PetCtModel
from lesionclick.petct.session import PetCtSession
from lesionclick.prompts.encodings import Fields
from lesionclick.prompts.points import BACKGROUND, TUMOR, Prompts, are_in_strokes
from lesionclick.prompts.spec import PromptSpec
from lesionclick.tasks import TASKS

TEST = Path(__file__).parents[1]
SCRIBBLES = TEST / "scribbles" / "sts_044.json"


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return read_clicks(SCRIBBLES)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    fields = PromptSpec(Fields(radius=6.0, cutoff_mm=60.0), rules="challenge")
    folder = tmp_path_factory.mktemp("model")
    return write_model_folder(folder, prompt=fields, patch_size=(16, 16, 16), spacing_zyx=(5.0, 6.0, 6.0))


class Painting:
    """A job that takes everything above SUV 20 for tumour, and what was drawn for what it was drawn as."""

    def __init__(self) -> None:
        self.files: list[bytes] = []

    def __call__(self, input_dir: Path, output_dir: Path) -> None:
        self.files.append((input_dir / "lesion-clicks.json").read_bytes())
        folder = CaseFolder.open(input_dir)
        case = PetCtCase.read(folder)
        mask = case.pet.array > 20
        for kind, is_tumor in ((BACKGROUND, False), (TUMOR, True)):
            mask[tuple(case.prompts.voxels_zyx(kind).T)] = is_tumor
        folder.prepare_output(output_dir)
        (path,) = folder.mask_paths(output_dir).values()
        write_masks({path: Volume(mask.astype(np.uint8), case.pet.grid)})


def replay(cases: Path, labels: Path, output: Path, run=None, **options) -> list[StrokeReplay]:
    options = {"labels": labels, "challenge": "autopet5", **options}
    return list(replay_cases(find_cases(cases), run or Painting(), output, Options(**options)))


class TestReplay:
    def test_each_step_draws_one_stroke_into_an_error_of_the_mask_before(self, cases, labels, tmp_path):
        run = Painting()
        (positive,) = replay(cases / "positive", labels, tmp_path / "out", run)
        assert [step.number for step in positive.steps] == [0, 1, 2, 3, 4, 5]
        assert len(positive.steps[0].prompts) == 0
        for before, after in zip(positive.steps, positive.steps[1:], strict=False):
            assert after.prompts.points[: before.n_points] == before.prompts.points
            added = Prompts(after.prompts.points[before.n_points :])
            assert len(added) > 0
            kind = added.points[0].kind
            assert {(point.kind, point.stroke) for point in added} == {(kind, before.number)}
            voxels = tuple(added.voxels_zyx(kind).T)
            assert (positive.label.array[voxels] == (kind == TUMOR)).all()
            assert (Volume.read(before.mask).array[voxels] == (kind == BACKGROUND)).all()
            assert (Volume.read(after.mask).array[voxels] == (kind == TUMOR)).all()
        # the file is the platform's, and names no strokes
        last = json.loads(run.files[-1])
        assert last["type"] == "Multiple points"
        assert [set(point) for point in last["points"]] == [{"name", "point"}] * positive.steps[-1].n_points

    def test_scores_and_areas(self, cases, labels, tmp_path):
        negative, positive = replay(cases, labels, tmp_path / "out")
        assert all(step.scores["dice"] == 0 for step in negative.steps)  # of 63 hot voxels five strokes hit 20
        assert math.isnan(negative.areas["dmm"])
        dice = [step.scores["dice"] for step in positive.steps]
        # at first 63 voxels are above SUV 20, none of them one of the 35 of the lesions
        assert dice[0] == 0
        assert dice == sorted(dice)
        assert dice[5] > 0
        assert positive.areas["dice"] == pytest.approx(sum(dice) - (dice[0] + dice[5]) / 2)
        shown = [line.split() for line in areas_text([negative.result, positive.result]).splitlines()]
        assert shown[0] == ["area", "Dice", "DMM"]
        assert shown[1] == ["negative", "0.000", "-"]
        assert shown[3] == ["mean", f"{positive.areas['dice'] / 2:.3f}", f"{positive.areas['dmm']:.3f}"]

    def test_a_case_without_lesions_and_with_an_empty_mask_is_perfect(self, cases, labels, tmp_path):
        def nothing(input_dir: Path, output_dir: Path) -> None:
            folder = CaseFolder.open(input_dir)
            folder.prepare_output(output_dir)
            (path,) = folder.mask_paths(output_dir).values()
            write_masks({path: Volume(np.zeros(GRID.shape_zyx, dtype=np.uint8), GRID)})

        (negative,) = replay(cases / "negative", labels, tmp_path / "out", nothing)
        assert negative.areas["dice"] == 5
        assert [step.n_points for step in negative.steps] == [0] * 6  # there is nothing to correct

    @pytest.mark.parametrize(("labelled", "steps"), [(False, range(6)), (True, (0, 2)), (True, range(7))])
    def test_strokes_need_a_label_and_every_step_up_to_5(self, cases, labels, tmp_path, labelled, steps):
        with pytest.raises(InputError, match=r"strokes need a label and steps 0, 1, 2, \.\.\. up to 5, found"):
            replay(cases, labels if labelled else None, tmp_path / "out", steps=steps)

    def test_a_replay_cut_short_has_no_area(self, cases, labels, tmp_path):
        assert replay(cases / "positive", labels, tmp_path / "out", steps=(0, 1))[0].areas is None

    def test_the_report_speaks_of_points_and_shows_this_challenges_measures(self, cases, labels, tmp_path):
        replays = replay(cases, labels, tmp_path / "out")
        report = Report(tmp_path / "report")
        for one in replays:
            report.add(one)
        page = report.write(run="here").read_text(encoding="utf-8")
        for text in ("Tumour points", "<dt>DMM</dt>", "<dt>Dice</dt>", "Area (AUC)", f"{replays[1].areas['dice']:.3f}"):
            assert text in page
        for text in ("Tumour clicks", "FPV ml"):
            assert text not in page
        scores = json.loads((tmp_path / "report" / "scores.json").read_text())
        assert scores["negative"]["5"] == {"dice": 0.0, "dmm": None}


class TestCommand:
    def test_in_this_process(self, cases, labels, model, tmp_path, capsys):
        fixed = ["--labels", str(labels), "--model", str(model), "--output", str(tmp_path / "out")]
        assert main(["replay", str(cases), "--challenge", "autopet5", *fixed]) == 0
        assert len(list((tmp_path / "out" / "positive").glob("step_0[0-5].mha"))) == 6
        rows = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert ["step", "points", "Dice", "DMM", "seconds"] in rows
        assert ["area", "Dice", "DMM"] in rows

    def test_in_a_container(self, cases, labels, tmp_path, capsys):
        shutil.copy(labels / "positive.mha", tmp_path / "mask.mha")
        engine = tmp_path / "engine"
        engine.write_text(f"""#!/bin/sh
[ "$1" = run ] || exit 1
for word in "$@"; do
  case "$word" in
    *:/output) out="${{word%:/output}}" ;;
    *:/input:ro) in="${{word%:/input:ro}}" ;;
  esac
done
mkdir -p "$out/images/tumor-lesion-segmentation"
cp {tmp_path}/mask.mha "$out/images/tumor-lesion-segmentation/$(basename "$in"/images/ct/*)"
""")
        engine.chmod(0o755)
        fixed = ["--labels", str(labels), "--engine", str(engine), "--image", "test", "--output", str(tmp_path / "out")]
        assert main(["replay", str(cases), "--challenge=autopet5", *fixed]) == 0
        rows = [line.split() for line in capsys.readouterr().out.splitlines()]
        assert ["positive", "5.000", "5.000"] in rows
        assert ["negative", "0.000", "-"] in rows
        assert ["mean", "2.500", "5.000"] in rows

    @pytest.mark.parametrize("other", [["--corrective"], ["--expected", "scores.json"]])
    def test_it_excludes_other_clicks(self, cases, capsys, other):
        assert main(["replay", str(cases), "--challenge", "autopet5", *other]) == 2
        assert "Mutually exclusive arguments" in capsys.readouterr().err


class TestFileOf400Points:
    def test_it_is_what_it_says(self, prompts):
        label = Volume.read(TEST / "labels" / "sts_044.mha")
        assert len(prompts) == 400
        assert set(map(len, (prompts.of(TUMOR), prompts.of(BACKGROUND)))).isdisjoint({0, 400})
        for kind in (TUMOR, BACKGROUND):
            voxels = prompts.voxels_zyx(kind)
            assert are_in_strokes(voxels, label.grid.spacing_zyx).all()
            assert ((label.array[tuple(voxels.T)] > 0) == (kind == TUMOR)).all()

    def test_a_job_handles_it(self, prompts, model, tmp_path):
        shutil.copytree(TEST / "input" / "sts_044", tmp_path / "input")
        shutil.copy(SCRIBBLES, tmp_path / "input" / "lesion-clicks.json")
        listing = tmp_path / "input" / "inputs.json"
        listing.unlink(missing_ok=True)
        (tmp_path / "output").mkdir()
        Algorithm.load(model, tasks={"task1": TASKS["task1"]}).handle(tmp_path / "input", tmp_path / "output")
        (path,) = (tmp_path / "output").rglob("*.mha")
        mask = Volume.read(path).array
        assert mask[tuple(prompts.voxels_zyx(TUMOR).T)].all()
        assert not mask[tuple(prompts.voxels_zyx(BACKGROUND).T)].any()

    def test_their_order_does_not_matter(self, prompts, model):
        case = PetCtCase.read(CaseFolder.open(TEST / "input" / "sts_044"))
        session = PetCtSession(PetCtModel.load(model, device=torch.device("cpu")), case)
        order = np.random.default_rng(0).permutation(400)
        mixed = Prompts(tuple(prompts.points[n] for n in order))
        one, other = session.segment(prompts), PetCtSession(session.model, case).segment(mixed)
        np.testing.assert_array_equal(one.lesion_logit.array, other.lesion_logit.array)
        np.testing.assert_array_equal(one.mask.array, other.mask.array)
        assert one.rules.removed == 0

    def test_writing_gives_the_same_file(self, prompts, tmp_path):
        write_clicks(tmp_path / "again.json", prompts)
        assert (tmp_path / "again.json").read_bytes() == SCRIBBLES.read_bytes()
