import csv
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.cohort_record import SLUG, record, step, write_records
from helpers.page import Page

from lesionclick.cli import main
from lesionclick.cohort.fingerprints import digest_models
from lesionclick.errors import InputError
from lesionclick.evaluation.measures import CHALLENGE, MaskPair, Scores, score
from lesionclick.evaluation.results.card import Facts, make_card, markdown_text
from lesionclick.evaluation.results.files import read_runs
from lesionclick.evaluation.results.pictures import view_longitudinal
from lesionclick.evaluation.results.report import write_evaluation
from lesionclick.evaluation.results.runs import OTHER, CaseFiles, CaseResult, Origin, RunResult
from lesionclick.images import Volume

DASH = "\N{EN DASH}"


def write_cohort(out: Path, cases: Path, found: dict[str, str], model: str = "3d41") -> Path:
    """A cohort that finds nothing at step 0, and at step 10 all lesions of some cases; one more case has failed.

    `found` gives for each case its folder, `positive` or `negative`, and whether step 10 finds all: ``positive all``.
    """
    labels, records = cases.parent / "labels", []
    for name, what in found.items():
        source, _, outcome = what.partition(" ")
        label = Volume.read(labels / f"{source}.mha")
        steps = []
        for number, is_whole in ((0, False), (10, outcome == "all")):
            mask = label.array if is_whole else np.zeros_like(label.array)
            scores = score(CHALLENGE, [MaskPair(label.array, mask, label.grid.spacing_zyx)])
            steps.append(step(name, number, **{key: None if np.isnan(one) else one for key, one in scores.items()}))
            path = out / steps[-1]["masks"][SLUG]
            path.parent.mkdir(parents=True, exist_ok=True)
            Volume(mask, label.grid).write(path)
        files = {"path": str(cases / source), "labels": {SLUG: str(labels / f"{source}.mha")}}
        records.append(record(name, steps=steps, model=model, **files))
    error = {"type": "InputError", "message": "pet: found <nothing>"}
    return write_records(out, *records, record("lost", task=None, error=error, model=""))


@pytest.fixture
def cohort(cases) -> Path:
    found = {"fdg_good": "positive all", "fdg_<missed>": "positive", "psma_none": "negative"}
    return write_cohort(cases.parent / "first", cases, found)


@pytest.fixture
def other(cases) -> Path:
    return write_cohort(
        cases.parent / "second $x_1$", cases, {"fdg_good": "positive all", "fdg_<missed>": "positive all"}
    )


def read_page(report: Path) -> str:
    text = report.read_text(encoding="utf-8")
    assert "http" not in text
    assert not re.search(r"<(script|link|iframe|object)|@import|url\(", text)
    return text


def test_report_of_one_run(cohort, tmp_path):
    page = read_page(write_evaluation(tmp_path / "out", read_runs(cohort)))
    shown = Page(page)
    assert shown.titles == [
        "Task 1, whole-body PET/CT",
        "Failed cases",
        "Worst cases first",
        "1. fdg_<missed>",
        "2. fdg_good",
        "3. psma_none",
    ]
    groups, head, *rows = shown.tables[0]
    assert groups == ["", "Last step"]
    assert head == ["Group", "Cases", "with lesions", "DSC", "FPV ml", "FNV ml"]  # two steps have no area
    volume = f"{35 * 0.08:.2f}"  # 35 voxels of 0.08 ml
    assert [row[:3] for row in rows] == [["FDG", "2", "2"], ["PSMA", "1", "0"], ["all", "3", "2"]]
    assert rows[0][3:] == ["0.5000.000 to 1.000", "0.000.00 to 0.00", f"1.400.00 to {volume}"]
    assert rows[1][3:] == [DASH, "0.00", DASH]
    assert shown.tables[2][1] == ["first", "lost", "InputError: pet: found <nothing>"]
    assert page.count('src="data:image/png;base64,') == 3 * 2  # each case at its first and last step
    assert not re.search("<(missed|nothing)>", page)


def test_report_of_two_runs_ranks_and_compares_them(cohort, other, tmp_path):
    runs = [*read_runs(cohort), *read_runs(other)]
    page = read_page(write_evaluation(tmp_path / "out", runs))
    shown = Page(page)
    assert shown.titles[:2] == ["Task 1, whole-body PET/CT", "second $x_1$ against first"]
    ranking = shown.tables[0]
    assert [row[:3] for row in ranking[2:]] == [["1", "second $x_1$", "1.125"], ["2", "first", "1.875"]]
    dsc = shown.tables[3][1]
    assert dsc == ["DSC", "2", "0.500", "1.000", "0.5000.000 to 1.000", "1", "0", "1.000", "1.000"]
    worst = page.split("1. fdg_&lt;missed&gt;")[1].split("</section>")[0]
    captions = re.findall("<figcaption>(.*?)</figcaption>", worst)
    assert [caption.split(" \N{MIDDLE DOT} ")[0] for caption in captions] == ["first"] * 2 + ["second $x_1$"] * 2


def test_a_case_without_files_is_shown_without_pictures(cohort, tmp_path):
    (cohort / "masks" / "fdg_good" / "step_10.mha").unlink()
    page = read_page(write_evaluation(tmp_path / "out", read_runs(cohort), worst=2))
    assert page.count('src="data:image/png;base64,') == 2
    assert re.search("No picture of first: .*step_10.mha", page)
    assert "3. psma_none" not in page


def test_a_longitudinal_case_is_shown_with_its_regions(tmp_path):
    """The sample with two follow-ups, whose labels stand for the masks of both steps."""
    name, root = "longitudinal_two_followups", Path(__file__).parents[1]
    slugs = {region: f"{region}-followup-ct-tumor-lesion-seg" for region in ("primary", "secondary")}
    labels = {slug: root / "labels" / name / f"{region}.mha" for region, slug in slugs.items()}
    files = CaseFiles(root / "input" / name, labels, {0: labels, 1: labels})
    scores = {number: Scores({"dsc": 1.0, "lesion_dsc": 1.0}) for number in (0, 1)}
    run = RunResult("a", "task2", [CaseResult(name, OTHER, scores, files=files)])
    page = read_page(write_evaluation(tmp_path, [run]))
    assert Page(page).titles == ["Task 2, longitudinal CT", "Worst cases first", f"1. {name}"]
    captions = re.findall("<figcaption>(.*?)</figcaption>", page)
    assert [caption.split(":")[0] for caption in captions] == ["Primary region", "Secondary region"]

    half = replace(files, masks={1: {slugs["primary"]: labels[slugs["primary"]]}})
    with pytest.raises(InputError, match=r"expected files of .*secondary.*, found those of \['primary"):
        view_longitudinal(CaseResult(name, OTHER, scores, files=half))


def test_runs_without_any_lesion_are_told_by_their_false_positives(tmp_path):
    nan = float("nan")
    first, second = (
        RunResult(
            name,
            "task1",
            [
                CaseResult(
                    f"fdg_{n}", "FDG", {k: Scores({"dsc": nan, "fpv_ml": ml * n, "fnv_ml": nan}) for k in range(11)}
                )
                for n in (1, 2)
            ],
        )
        for name, ml in (("_first", 3.0), ("second", 1.0))
    )
    ranking, scores, *_ = Page(read_page(write_evaluation(tmp_path, [first, second], worst=0))).tables
    assert ranking[1:] == [
        ["Place", "Run", "Mean rank", "FPV ml, 12.5 %", "AUC FPV, 12.5 %"],
        ["1", "second", "1.000", "1.50", "15.00"],
        ["2", "_first", "2.000", "4.50", "45.00"],
    ]
    assert scores[2] == ["_first", "2", "0", "4.503.00 to 6.00", "45.0030.00 to 60.00"]


def test_the_same_runs_and_seed_give_the_same_figures(tmp_path):
    values = np.random.default_rng(0).random(9)
    cases = [CaseResult(f"fdg_{n}", "FDG", {10: Scores({"dsc": value})}) for n, value in enumerate(values)]
    runs = [RunResult("a", "task1", cases)]
    first, second, third = (
        Page(read_page(write_evaluation(tmp_path / str(n), runs, seed=seed, worst=0))).tables
        for n, seed in enumerate((0, 0, 1))
    )
    assert first == second
    assert first != third


def test_csv_has_every_case_and_step(cohort, tmp_path):
    write_evaluation(tmp_path / "out", read_runs(cohort), worst=0)
    with (tmp_path / "out" / "scores.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    by_step = {(row["case"], row["step"]): row for row in rows}
    assert len(by_step) == len(rows) == 3 * 2 + 1
    assert float(by_step["fdg_<missed>", "10"]["fnv_ml"]) == pytest.approx(35 * 0.08)
    assert by_step["psma_none", "0"]["dsc"] == ""
    assert by_step["lost", ""]["error"] == "InputError: pet: found <nothing>"


def test_csv_has_the_areas_of_complete_curves(tmp_path):
    steps = {number: Scores({"dsc": 0.5}) for number in range(11)}
    write_evaluation(tmp_path, [RunResult("a", "task1", [CaseResult("x", "FDG", steps)])], worst=0)
    assert "a,task1,x,FDG,area,5.0," in (tmp_path / "scores.csv").read_text()


def test_runs_without_scores_or_without_common_cases_are_refused(tmp_path):
    a, b = (RunResult(name, "task1", [CaseResult(name, "FDG", {0: Scores({"dsc": 1.0})})]) for name in "ab")
    with pytest.raises(InputError, match="a and b: expected cases of the same names"):
        write_evaluation(tmp_path / "out", [a, b])
    with pytest.raises(InputError, match="c: expected cases with scores"):
        write_evaluation(tmp_path / "out", [RunResult("c", "task1", [CaseResult("x", "FDG", {}, "broken")])])
    later = RunResult("d", "task1", [CaseResult("a", "FDG", {1: Scores({"dsc": 1.0})})])
    with pytest.raises(InputError, match=r"a, d: expected cases with one last step, found \[0, 1\]"):
        write_evaluation(tmp_path / "out", [a, later])
    assert not (tmp_path / "out").exists()


def scored(**values: float) -> RunResult:
    return RunResult("v", "task1", [CaseResult("x", "FDG", {0: Scores(values), 5: Scores(values)})], ORIGIN)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"dice": 0.5, "dmm": 0.25}, "Dice, DMM"),
        ({"dsc": float("nan"), "fnv_ml": float("nan"), "dmm": 0.25}, "DMM"),
        ({"dsc": float("nan"), "fpv_ml": float("nan")}, "none at all"),
    ],
)
def test_runs_without_the_challenges_measures_are_refused(tmp_path, values, found):
    expected = f"v: expected any of DSC, FPV, FNV at the last step, found {found}$"
    with pytest.raises(InputError, match=expected):
        write_evaluation(tmp_path / "out", [replace(scored(dsc=0.5), name="iv"), scored(**values)])
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match=expected):
        make_card("a", FACTS, [scored(**values)])


def test_runs_with_one_of_the_challenges_measures_are_shown(tmp_path):
    scores = Page(read_page(write_evaluation(tmp_path / "out", [scored(fpv_ml=2.0, dice=0.5)], worst=0))).tables[0]
    assert scores[1:] == [["Cases", "with lesions", "FPV ml"], ["1", "0", "2.00"]]


# --- the command line and the card ------------------------------------------------------------------------------------

FACTS = Facts(
    task="task1",
    network="PlainConvUNet",
    n_parameters=1_260_000,
    n_folds=1,
    channels=["CT", "PET"],
    encoding="fields",
    n_click_channels=5,
    spacing_zyx=[3.0, 4.0, 4.0],
    patch_zyx=[64, 48, 48],
    rules="challenge",
    dataset="Dataset001_Phantoms",
    n_training=219,
    digest="3d41",
)
ORIGIN = Origin("phantoms <new>", "held out", "1000000", "3d41", "python a.py | tee b")


def labelled(values: dict[int, float], origin: Origin = ORIGIN) -> RunResult:
    steps = {number: Scores({"dsc": dsc, "fpv_ml": 2.0, "fnv_ml": 0.0}) for number, dsc in values.items()}
    return RunResult("pipe | run", "task1", [CaseResult(f"fdg_{n}", "FDG", steps) for n in range(3)], origin)


def test_card_holds_the_figures_of_the_results_with_their_origin():
    card = make_card("A & B", FACTS, [labelled({0: 0.25, 10: 0.75})])
    lines = card.splitlines()
    assert lines[0] == "# A &amp; B"
    assert "`PlainConvUNet`, 1.26 million parameters" in card
    assert "Data: phantoms &lt;new>. Split: held out. Seed: 1000000. Command: `python a.py | tee b`." in card
    assert "| 3 | 3 | 0.750 (0.750 to 0.750) | 2.00 (2.00 to 2.00) | 0.00 (0.00 to 0.00) |" in lines
    assert "| DSC | 0.250 | 0.750 |" in lines
    assert r"### pipe \| run" in lines


def test_a_template_of_ones_own_fills_the_blocks():
    template = '{% extends "model_card.md" %}{% block limits %}## Limits\n\nSmall.\n{% endblock %}'
    card = make_card("a", FACTS, [labelled({10: 0.5})], template=template)
    assert card.endswith("## Limits\n\nSmall.\n")
    assert "| 3 | 3 | 0.500" in card
    assert "| Step |" not in card  # one step is no curve


@pytest.mark.parametrize(("field", "option"), [("data", "--data"), ("split", "--split"), ("seed", "--data-seed")])
def test_a_card_without_data_split_or_seed_is_refused(field, option):
    origin = replace(ORIGIN, **{field: ""})
    with pytest.raises(InputError, match=rf"expected the {field} .*{option} names it"):
        make_card("a", FACTS, [labelled({10: 0.5}, origin)])


def test_a_card_holds_no_results_of_another_model():
    with pytest.raises(InputError, match="expected results of the model 9f31, found those of 3d41"):
        make_card("a", replace(FACTS, digest="9f31"), [labelled({10: 0.5})])


def test_a_card_is_of_its_task():
    with pytest.raises(InputError, match="expected results of task2"):
        make_card("a", replace(FACTS, task="task2"), [labelled({10: 0.5})])


def test_markdown_shows_names_as_they_are():
    assert markdown_text("a|b <c> `d`\n*e* f_g") == r"a\|b &lt;c> \`d\` \*e\* f_g"


def test_evaluate_and_card_go_together(cases, folder, tmp_path, capsys):
    out, digest = tmp_path / "evaluated", digest_models(folder)["task1"]
    cohort = write_cohort(tmp_path / "cohort", cases, {"fdg_1": "positive all", "fdg_2": "positive"}, digest)
    named = ["--data", "tiny phantoms", "--split", "never trained on", "--data-seed", "5"]
    assert main(["evaluate", str(cohort), "--output", str(out), "--worst", "0", *named]) == 0
    assert capsys.readouterr().out == f"report: {out / 'report.html'}\n"
    assert main(["card", str(folder), "--results", str(out / "results.json"), "--title", "Tiny"]) == 0
    card = (folder / "MODEL_CARD.md").read_text()
    assert card.startswith("# Tiny\n")
    assert "Data: tiny phantoms. Split: never trained on. Seed: 5. 1 of 3 cases failed" in card
    assert "| 2 | 2 | 0.500 (0.000 to 1.000) |" in card
    assert f"| files | `{digest}`" in card


def test_evaluate_refuses_a_cohort_of_two_models(cohort, capsys, tmp_path):
    path = cohort / "records" / "fdg_good.json"
    path.write_text(path.read_text().replace('"3d41"', '"77aa"'))
    assert main(["evaluate", str(cohort), "--output", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert f"{cohort}: expected records of one model" in error
    assert "found task1 2 of model 3d41 (all clicks), 1 of model 77aa (all clicks)" in error
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_bad_input(cohort, folder, tmp_path, capsys):
    (tmp_path / "file").touch()
    for command in (
        ["evaluate", str(cohort), "--output", str(tmp_path / "file"), "--worst", "0"],
        ["replay", str(tmp_path / "cases"), "--model", str(folder), "--output", str(tmp_path / "file")],
    ):
        assert main(command) == 1
        assert re.search(
            rf"error: {tmp_path}/file.*: expected a folder that user \d+ can write", capsys.readouterr().err
        )


def test_evaluate_wants_a_run(capsys):
    assert main(["evaluate"]) == 1
    assert "expected one output folder" in capsys.readouterr().err
