import json
import math

import pytest
from helpers.cohort_record import record, step, write_records

from lesionclick.errors import InputError
from lesionclick.evaluation.measures import Scores
from lesionclick.evaluation.results.challenge import CHALLENGES
from lesionclick.evaluation.results.files import read_groups, read_runs, write_runs
from lesionclick.evaluation.results.runs import ALL, OTHER, CaseResult, Origin, RunResult, tracer_in
from lesionclick.evaluation.results.summary import compare_runs, rank_runs, summarise, with_names, worst_first

NAN = math.nan
STEPS = range(11)


def scores(dsc: float, fpv_ml: float, fnv_ml: float) -> Scores:
    return Scores({"dsc": dsc, "fpv_ml": fpv_ml, "fnv_ml": fnv_ml})


def case(name: str, *values: float, steps=STEPS) -> CaseResult:
    """A case with the same scores at every step."""
    return CaseResult(name, tracer_in(name), {number: scores(*values) for number in steps})


def run(name: str, *cases: CaseResult) -> RunResult:
    return RunResult(name, "task1", cases)


# --- the challenge's columns ------------------------------------------------------------------------------------------


def test_weights_are_the_challenges_and_sum_to_one():
    """autoPET/CT IV: DSC, FPV, FNV at the last step, then their areas; Task 2 the former alone."""
    weights = {task: [column.weight for column in one.columns if column.weight] for task, one in CHALLENGES.items()}
    assert weights == {"task1": [0.25, 0.125, 0.125, 0.25, 0.125, 0.125], "task2": [0.5, 0.25, 0.25]}


def test_columns_are_the_last_step_and_the_area():
    steps = {number: scores(number / 10, 11 - number, NAN) for number in STEPS}
    found = CHALLENGES["task1"].values(steps)
    assert found == pytest.approx(
        {"dsc_last": 1, "fpv_ml_last": 1, "fnv_ml_last": NAN, "dsc_area": 5, "fpv_ml_area": 60, "fnv_ml_area": NAN},
        nan_ok=True,
    )


def test_there_is_no_area_without_all_steps_and_no_value_without_any():
    some = CHALLENGES["task1"].values({0: scores(0.1, 9, 9), 5: scores(0.5, 2, 3)})
    assert (some["dsc_last"], some["fpv_ml_last"]) == (0.5, 2)
    assert math.isnan(some["dsc_area"])
    assert all(math.isnan(value) for value in CHALLENGES["task1"].values({}).values())


# --- sums over cases --------------------------------------------------------------------------------------------------


def test_means_are_per_tracer_and_over_all():
    """The case without a lesion has a false positive volume alone."""
    one = run("a", case("fdg_1", 0.8, 2, 1), case("fdg_2", NAN, 6, NAN), case("psma_1", 0.4, 1, 3))
    fdg, psma, every = summarise(one, seed=0)
    assert [(group.name, group.n_cases, group.n_lesions) for group in (fdg, psma, every)] == [
        ("FDG", 2, 1),
        ("PSMA", 1, 1),
        (ALL, 3, 2),
    ]
    assert (fdg.columns["dsc_last"].mean, fdg.columns["dsc_last"].n) == (0.8, 1)
    assert (every.columns["dsc_last"].mean, every.columns["dsc_area"].mean) == pytest.approx((0.6, 6))
    assert (every.columns["fpv_ml_last"].mean, every.columns["fpv_ml_last"].n) == (3, 3)
    assert every.steps[10]["fnv_ml"].mean == 2


def test_a_run_of_one_group_has_one_row():
    assert [group.name for group in summarise(run("a", case("fdg_1", 1, 0, 0), case("fdg_2", 0, 0, 0)), 0)] == [ALL]


def test_intervals_follow_from_the_seed_and_from_no_other_case():
    cases = [case(f"fdg_{n}", n / 10, n, n) for n in range(8)]
    alone = summarise(run("a", *cases), 3)[-1].columns
    beside = summarise(run("a", *cases, case("psma_1", 0.5, 1, 1)), 3)[0].columns
    assert alone == beside
    assert summarise(run("a", *cases), 4)[-1].columns != alone


def test_failed_cases_are_in_no_mean():
    failed = CaseResult("fdg_2", "FDG", {}, error="InputError: broken")
    one = run("a", case("fdg_1", 0.8, 2, 1), failed)
    assert summarise(one, 0)[-1].n_cases == 1
    assert one.failed == [failed]


# --- runs against each other ------------------------------------------------------------------------------------------


def test_runs_are_compared_on_their_common_cases_and_corrected_together():
    """Five cases, each better by another amount: p is 2 / 32 in all columns that differ, times the number of tests."""
    a = run("a", *(case(f"fdg_{n}", 0.5, 10, 0) for n in range(5)), case("fdg_9", 0, 0, 0))
    b = run("b", *(case(f"fdg_{n}", 0.5 + (n + 1) / 100, 10 - n - 1, 0) for n in range(5)))
    (found,) = compare_runs(a, [b], seed=0)
    by_key = {one.column.key: one for one in found}
    assert [one.found.p for one in found] == pytest.approx([1 / 16, 1 / 16, 1, 1 / 16, 1 / 16, 1])
    assert [one.p_holm for one in found] == pytest.approx([6 / 16] * 2 + [1] + [6 / 16] * 2 + [1])
    assert (by_key["dsc_last"].better, by_key["dsc_last"].worse) == (5, 0)
    assert (by_key["fpv_ml_last"].better, by_key["fpv_ml_last"].worse) == (5, 0)
    assert by_key["fpv_ml_last"].found.difference.mean == pytest.approx(-3)
    assert by_key["fnv_ml_last"].found.difference.n == 5


def test_runs_are_ranked_by_weighted_ranks_of_their_means():
    """Ranks by DSC 1, 2, 3, by FPV 2.5, 2.5, 1, by FNV 2 each; DSC has half of the weight, the others a quarter."""
    runs = [run("a", case("x", 0.9, 5, 1)), run("b", case("x", 0.8, 5, 1)), run("c", case("x", 0.7, 4, 1))]
    found = [(place.place, place.run, place.rank) for place in rank_runs(runs)]
    assert found == [(1, "a", 0.5 + 0.625 + 0.5), (2, "b", 1 + 0.625 + 0.5), (3, "c", 1.5 + 0.25 + 0.5)]


def test_of_runs_of_equal_rank_the_one_with_the_higher_dsc_comes_first():
    careful, bold = run("careful", case("x", 0.8, 1, 1)), run("bold", case("x", 0.9, 2, 2))
    found = rank_runs([careful, bold])
    assert [(place.place, place.run, place.rank) for place in found] == [(1, "bold", 1.5), (2, "careful", 1.5)]


def test_runs_that_nothing_tells_apart_share_a_place():
    found = rank_runs([run("a", case("x", 0.8, 1, 1)), run("b", case("x", 0.8, 1, 1)), run("c", case("x", 0.1, 2, 2))])
    assert [(place.place, place.run) for place in found] == [(1, "a"), (1, "b"), (3, "c")]


def test_ranking_is_over_the_cases_that_all_have():
    a = run("a", case("x", 0.5, 1, 1), case("easy", 1, 0, 0))
    assert rank_runs([a, run("b", case("x", 0.6, 1, 1))])[1].means["dsc_last"] == 0.5


def test_ranking_is_by_the_columns_that_all_have():
    """The second run lacks steps, so that there is no area; by the last step it is the better one."""
    found = rank_runs([run("a", case("x", 0.5, 1, 1)), run("b", case("x", 0.6, 1, 1, steps=(10,)))])
    assert [(place.run, place.rank) for place in found] == [
        ("b", (0.25 + 0.1875 * 2) / 0.5),
        ("a", (0.5 + 0.375) / 0.5),
    ]


def test_runs_that_no_measure_compares_have_no_ranking():
    runs = [run(name, case("a", NAN, NAN, NAN)) for name in ("one", "two")]
    with pytest.raises(InputError, match="expected a measure with a value in each run, found none in one, two"):
        rank_runs(runs)

    lesions = CaseResult("a", OTHER, {1: Scores({"dsc": NAN, "fpv_ml": NAN, "fnv_ml": NAN, "lesion_dsc": 0.5})})
    with pytest.raises(InputError, match="found none in one"):  # what is only shown ranks nothing
        rank_runs([RunResult("one", "task2", [lesions])])


def test_ranking_without_any_lesion_is_by_false_positives_alone():
    found = rank_runs([run("a", case("x", NAN, 2, NAN)), run("b", case("x", NAN, 1, NAN))])
    assert [(place.place, place.run, place.rank) for place in found] == [(1, "b", 1), (2, "a", 2)]


def test_worst_cases_come_first():
    cases = [case("good", 0.9, 0, 0), case("bad", 0.1, 3, 2), case("clean", NAN, 0, NAN), case("flood", NAN, 90, NAN)]
    assert [one.name for one in worst_first(run("a", *cases))] == ["flood", "bad", "clean", "good"]


def test_runs_of_one_name_are_numbered():
    assert [one.name for one in with_names([run("a"), run("b"), run("a")])] == ["a", "b", "a (2)"]
    earlier = [run("a"), run("a (2)")]  # as an evaluation of two runs has called them
    assert [one.name for one in with_names([*earlier, run("a")])] == ["a", "a (2)", "a (3)"]


# --- files ------------------------------------------------------------------------------------------------------------


def test_cohorts_records_are_read(tmp_path):
    steps = [step("psma_1", 0, dsc=0.5, fpv_ml=1.0, fnv_ml=None), step("psma_1", 10, dsc=0.75, fpv_ml=0.0, fnv_ml=2.0)]
    error = {"type": "InputError", "message": "no PET"}
    out = write_records(
        tmp_path / "out",
        record("psma_1", steps=steps),
        record("broken", task=None, error=error, model=""),
        record("unlabelled", labels={}, steps=[step("unlabelled", None)]),
    )
    (found,) = read_runs(out)
    broken, psma, unlabelled = found.cases
    assert (found.name, found.task, found.origin.model) == ("out", "task1", "3d41")
    assert (psma.group, psma.error, sorted(psma.steps)) == ("PSMA", None, [0, 10])
    assert dict(psma.steps[0]) == pytest.approx({"dsc": 0.5, "fpv_ml": 1, "fnv_ml": NAN}, nan_ok=True)
    assert psma.files is not None
    assert psma.files.masks[10] == {"tumor-lesion-segmentation": out / "masks/psma_1/step_10.mha"}
    assert (broken.error, broken.steps, broken.files) == ("InputError: no PET", {}, None)
    assert (unlabelled.steps, unlabelled.files) == ({}, None)


def options(*, exact: bool = False, container: str | None = None) -> dict[str, object]:
    return {"steps": [0, 10], "exact": exact, "container": container}


def test_records_of_two_models_are_no_run(tmp_path):
    """A case that failed early tells no model; one that failed later does."""
    error = {"type": "InputError", "message": "no PET"}
    out = write_records(
        tmp_path / "out",
        record("a"),
        record("b", model="77aa"),
        record("c", model="77aa", error=error),
        record("d", task=None, error=error, model=""),
    )
    expected = r"/out: .*found task1 2 of model 77aa \(all clicks\), 1 of model 3d41 \(all clicks\); finish the cohort"
    with pytest.raises(InputError, match=expected):
        read_runs(out)


def test_records_of_several_options_are_no_run(tmp_path):
    out = write_records(
        tmp_path / "out",
        *(record(name, options=options()) for name in "abc"),
        *(record(name, options=options(exact=True)) for name in "de"),
        record("f", options=options(container="lc:1"), model=""),
        record("g", task="task2"),
        record("h", task="task2", options=options()),
    )
    with pytest.raises(InputError) as caught:
        read_runs(out)
    assert (
        "found task1 3 of model 3d41 (steps 0 10), 2 of model 3d41 (steps 0 10, exact), "
        "1 of an unknown model (steps 0 10, container lc:1); "
        "task2 1 of model 3d41 (all clicks), 1 of model 3d41 (steps 0 10); finish"
    ) in str(caught.value)


def test_each_task_has_a_model_and_options_of_its_own(tmp_path):
    error = {"type": "InputError", "message": "no PET"}
    out = write_records(
        tmp_path / "out",
        record("a"),
        record("b", task=None, error=error, model="", options=options()),
        record("c", task="task2", model="77aa", options=options()),
    )
    assert [(one.task, one.origin.model) for one in read_runs(out)] == [("task1", "3d41"), ("task2", "77aa")]


def test_records_without_a_model_are_one_run(tmp_path):
    (found,) = read_runs(write_records(tmp_path / "out", record("a", model=""), record("b", model="")))
    assert (len(found.cases), found.origin.model) == (2, "")


def test_a_job_with_all_clicks_is_the_last_step(tmp_path):
    (found,) = read_runs(
        write_records(tmp_path / "out", record("a", steps=[step("a", None, dsc=1, fpv_ml=0, fnv_ml=0)]))
    )
    assert list(found.cases[0].steps) == [10]


def test_each_task_is_a_run_of_its_own(tmp_path):
    out = write_records(tmp_path / "out", record("a"), record("b", task="task2"))
    assert [(one.task, [case.name for case in one.cases]) for one in read_runs(out)] == [
        ("task1", ["a"]),
        ("task2", ["b"]),
    ]


def test_scores_of_a_replay_are_read(tmp_path):
    table = {"fdg_1": {"0": {"dsc": None}}, "later": {"1": {"dsc": 0.5, "lesion_dsc": 0.25}}}
    (tmp_path / "scores.json").write_text(json.dumps(table))
    first, second = read_runs(tmp_path)
    assert [(one.task, one.cases[0].name, one.cases[0].group) for one in (first, second)] == [
        ("task1", "fdg_1", "FDG"),
        ("task2", "later", OTHER),
    ]
    assert math.isnan(first.cases[0].steps[0]["dsc"])
    assert read_runs(tmp_path / "scores.json")[1].cases[0].steps[1]["lesion_dsc"] == 0.25


def test_results_are_read_as_they_were_written(tmp_path):
    failed = CaseResult("z", OTHER, {}, error="InputError: broken")
    given = RunResult("a", "task1", [case("fdg_1", 1 / 3, 0.5, NAN), failed], Origin("phantoms", "fresh", "7"))
    write_runs(tmp_path / "results.json", [given])
    (found,) = read_runs(tmp_path)
    assert (found.name, found.task, found.origin) == (given.name, given.task, given.origin)
    assert found.cases[1] == failed
    assert dict(found.cases[0].steps[10]) == pytest.approx({"dsc": 1 / 3, "fpv_ml": 0.5, "fnv_ml": NAN}, nan_ok=True)
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "Invalid JSON"),
        ("[]", "Input should be an object"),
        ('{"runs": [{"name": "a"}]}', "runs / 0 / task: Field required"),
        ('{"runs": [{"name": "a", "task": "task3"}]}', "runs / 0 / task: Input should be 'task1' or 'task2'"),
        ('{"case": {"0": {"iou": 1}}}', "iou"),
    ],
)
def test_a_broken_file_is_named(tmp_path, text, reason):
    path = tmp_path / "some.json"
    path.write_text(text)
    with pytest.raises(InputError, match=rf"some\.json.*{reason}"):
        read_runs(path)


def test_a_broken_record_is_named(tmp_path):
    with pytest.raises(InputError, match=r"records/b\.json.*unknown measure 'iou'"):
        read_runs(write_records(tmp_path / "out", record("a"), record("b", steps=[step("b", 3, iou=1.0)])))
    with pytest.raises(InputError, match=r"records/c\.json"):
        read_runs(write_records(tmp_path / "other", {"case": "c"}))


@pytest.mark.parametrize(("name", "text"), [("scores.json", "{}"), ("results.json", '{"runs": []}')])
def test_what_holds_no_scores_is_no_run(tmp_path, name, text):
    """A replay without labels leaves such a file."""
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match="expected scores of cases, found none; were there labels"):
        read_runs(tmp_path)


@pytest.mark.parametrize("name", ["nothing", "."])
def test_a_folder_of_something_else_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="expected a folder with records"):
        read_runs(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "tracer"),
    [
        ("fdg_0011f3deaf_03-23-2003", "FDG"),
        ("phantom_psma_0003", "PSMA"),
        ("sub-01_trc-FDG_pet", "FDG"),
        ("STS_002", OTHER),
        ("fdgs_1", OTHER),
    ],
)
def test_the_tracer_is_in_the_name(name, tracer):
    assert tracer_in(name) == tracer


def test_a_table_of_groups_comes_before_the_name(tmp_path):
    (tmp_path / "groups.csv").write_text('case,group\n\nfdg_1,"LMU, FDG"\n\n', encoding="utf-8-sig")
    (tmp_path / "scores.json").write_text('{"fdg_1": {"0": {"dsc": 1}}, "fdg_2": {"0": {"dsc": 1}}}')
    (found,) = read_runs(tmp_path, read_groups(tmp_path / "groups.csv"))
    assert [one.group for one in found.cases] == ["LMU, FDG", "FDG"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "the head $"),
        ("case;group\na;b\n", "the head case;group$"),
        ("case,group\na,b,c\n", "the row a,b,c$"),
        ("case,group\na\n", "the row a$"),
        ("case,group\na,\n", "the row a,$"),
        ("a,one\nb,two\n", "the head a,one$"),
        ("case,group\na,FDG\na,PSMA\n", "a several times$"),
        ("case,group\na,all\n", "the group all"),
        (f"case,group\na,{'x' * 200_000}\n", "limit"),
    ],
)
def test_a_broken_table_of_groups_is_named(tmp_path, text, found):
    (tmp_path / "groups.csv").write_text(text)
    with pytest.raises(
        InputError, match=rf"groups\.csv: expected the head case,group and rows of these, found .*{found}"
    ):
        read_groups(tmp_path / "groups.csv")


def test_what_a_run_tells_of_its_origin_is_kept():
    own = RunResult("a", "task1", [], Origin(data="mine"))
    assert own.with_origin(Origin(data="given", split="held out")).origin == Origin(data="mine", split="held out")
