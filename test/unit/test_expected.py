import math
from pathlib import Path

import pytest

from lesionclick.errors import InputError
from lesionclick.evaluation import expected
from lesionclick.evaluation.longitudinal_replay import LongitudinalStep
from lesionclick.evaluation.measures import LONGITUDINAL, PETCT, Scores
from lesionclick.evaluation.petct_replay import MASK, PetCtStep
from lesionclick.evaluation.steps import Result
from lesionclick.prompts.points import Prompts

BAD_MEASURE = '{"a": {"0": {"jaccard": 1}}}'
BAD_VALUE = '{"a": {"0": {"dsc": "1,0"}}}'
BAD_STEP = '{"a": {"first": {"dsc": 1, "fpv_ml": 0, "fnv_ml": 0}}}'


def row(dsc: float | None = 0.5, fpv_ml: float = 1.0, fnv_ml: float | None = 100.0) -> dict:
    return {"dsc": dsc, "fpv_ml": fpv_ml, "fnv_ml": fnv_ml}


@pytest.mark.parametrize(
    ("found", "measures"),
    [
        (row(), []),
        (row(dsc=0.51), []),
        (row(dsc=0.49), []),
        (row(dsc=0.511), ["dsc"]),
        (row(dsc=0.489), ["dsc"]),
        (row(dsc=None), ["dsc"]),
        (row(fpv_ml=1.3), []),
        (row(fpv_ml=1.31), ["fpv_ml"]),
        (row(fpv_ml=0.69), ["fpv_ml"]),
        (row(fnv_ml=103.0), []),
        (row(fnv_ml=97.0), []),
        (row(fnv_ml=103.1), ["fnv_ml"]),
        (row(fnv_ml=96.9), ["fnv_ml"]),
        (row(0.0, 50.0, None), ["dsc", "fpv_ml", "fnv_ml"]),
    ],
)
def test_differences_beyond_the_tolerance_are_found(found, measures):
    listed = expected.differences({"a": {"0": row()}}, {"a": {"0": found}}, steps=(0,))
    assert [one.measure for one in listed] == measures


def test_undefined_equals_undefined():
    empty = {"a": {"0": row(dsc=None, fnv_ml=None)}}
    assert expected.differences(empty, empty, steps=(0,)) == []


@pytest.mark.parametrize("absent", [{}, {"a": {}}, {"a": {"0": row()}}])
def test_a_case_or_step_that_only_one_side_has_is_a_difference(absent):
    full = {"a": {"0": row(), "1": row()}}
    missing = 2 - len(absent.get("a", {}))
    assert len(expected.differences(full, absent, steps=(0, 1))) == 3 * missing
    assert len(expected.differences(absent, full, steps=(0, 1))) == 3 * missing


def test_steps_that_were_not_asked_for_do_not_count():
    assert expected.differences({"a": {"0": row(), "1": row()}}, {"a": {"0": row()}}, steps=(0,)) == []


def row2(lesion_dsc: float | None = 0.5, **values: float | None) -> dict:
    return row(**values) | {"lesion_dsc": lesion_dsc}


def test_both_steps_of_task_2_count_whatever_steps_of_task_1_are_asked_for():
    expect = {"a": {"0": row(), "1": row()}, "b": {"0": row2(), "1": row2()}}
    found = {"a": {"0": row()}, "b": {"0": row2(), "1": row2(0.4)}}
    (one,) = expected.differences(expect, found, steps=(0, 10))
    assert (one.case, one.step, one.measure, one.expected, one.found) == ("b", "1", "lesion_dsc", 0.5, 0.4)


@pytest.mark.parametrize(
    ("found", "measures"),
    [
        (row2(0.53), []),
        (row2(0.47), []),
        (row2(0.531), ["lesion_dsc"]),
        (row2(None), ["lesion_dsc"]),
        (row2(dsc=0.53), ["dsc"]),
        (row(), ["lesion_dsc"]),
    ],
)
def test_lesions_have_a_tolerance_of_their_own(found, measures):
    for one, other in ((row2(), found), (found, row2())):
        listed = expected.differences({"a": {"0": one}}, {"a": {"0": other}}, steps=(0,))
        assert [difference.measure for difference in listed] == measures


def test_a_case_of_which_nothing_was_found_lacks_all_its_steps():
    listed = expected.differences({"a": {"0": row(), "1": row()}}, {}, steps=(0,))
    assert {one.step for one in listed} == {"0", "1"}


def test_scores_of_task_2_survive_the_file(tmp_path):
    def step(number: int, *values: float) -> LongitudinalStep:
        keys = [measure.key for measure in LONGITUDINAL]
        return LongitudinalStep(
            number, {}, Scores(dict(zip(keys, values, strict=True))) if values else None, 1.0, 0, {}
        )

    nan = math.nan
    steps = (step(0, 0.5, 0, 0, 0.25, 50, 100, 2, 30), step(1, nan, 0.5, nan, nan, nan, nan, nan, nan))
    scores = expected.scores_of(
        [Result("one", LONGITUDINAL, steps), Result("unlabelled", LONGITUDINAL, (step(0), step(1)))]
    )
    assert scores == {
        "one": {"0": row2(0.25, dsc=0.5, fpv_ml=0, fnv_ml=0), "1": row2(None, dsc=None, fpv_ml=0.5, fnv_ml=None)}
    }
    expected.write_scores(tmp_path / "scores.json", scores)
    assert expected.read_scores(tmp_path / "scores.json") == scores


def test_scores_survive_the_file(tmp_path):
    def result(name: str, number: int, *values: float) -> Result:
        scores = Scores(dict(zip(("dsc", "fpv_ml", "fnv_ml"), values, strict=True))) if values else None
        step = PetCtStep(number, {MASK: tmp_path}, scores, 1.0, Prompts())
        return Result(name, PETCT, (step,))

    scores = expected.scores_of(
        [
            result("positive", 0, 0.123456, 0.0, 2.0),
            result("negative", 10, math.nan, 5.12, math.nan),
            result("unlabelled", 0),
        ]
    )
    assert scores == {"positive": {"0": row(0.123456, 0.0, 2.0)}, "negative": {"10": row(None, 5.12, None)}}
    expected.write_scores(tmp_path / "new" / "scores.json", scores)
    assert expected.read_scores(tmp_path / "new" / "scores.json") == scores
    expected.write_scores(tmp_path / "short.json", scores, digits=4)
    assert expected.read_scores(tmp_path / "short.json")["positive"] == {"0": row(0.1235, 0.0, 2.0)}


def test_the_expected_scores_of_the_samples_are_written_as_they_are_read(tmp_path):
    path = Path(__file__).parents[1] / "expected" / "scores.json"
    expected.write_scores(tmp_path / "scores.json", expected.read_scores(path))
    assert (tmp_path / "scores.json").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("text", [None, "{", "[1]", BAD_MEASURE, BAD_VALUE, BAD_STEP])
def test_a_broken_file_of_scores_is_refused(tmp_path, text):
    path = tmp_path / "scores.json"
    if text:
        path.write_text(text)
    with pytest.raises(InputError, match=r"scores\.json: expected a JSON file of scores"):
        expected.read_scores(path)
