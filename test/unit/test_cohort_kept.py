"""What a cohort keeps: its masks where only labels are others, and no record where its masks are being replaced."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.longitudinal_folder import write_longitudinal_case
from helpers.model_folder import write_model_folder

from lesionclick.algorithm import Algorithm
from lesionclick.cohort.fingerprints import digest_models
from lesionclick.cohort.work import CohortCase, Work
from lesionclick.cohort.worker import is_done, run_case
from lesionclick.errors import InputError, LesionClickError
from lesionclick.evaluation.records import CohortFolder, OptionsRecord, Record
from lesionclick.images import Volume
from lesionclick.prompts.encodings import LesionPair
from lesionclick.prompts.spec import PromptSpec


@pytest.fixture
def case(cases: Path) -> CohortCase:
    return CohortCase("positive", cases / "positive")


@pytest.fixture
def work(tmp_path: Path, labels: Path, folder: Path) -> Work:
    with CohortFolder(tmp_path / "out").opened() as out:
        return Work(out.folder, OptionsRecord((0, 3)), digest_models(folder), labels, folder)


def done(case: CohortCase, work: Work) -> Record:
    assert run_case(case, work).error is None
    record = CohortFolder(work.output).record(case.name)
    assert record is not None
    assert is_done(case, work)
    return record


def contents(work: Work) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (work.output / "masks/positive").iterdir()}


def test_labels_that_come_later_are_scored_without_the_network(
    case: CohortCase, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    before, masks = done(case, replace(work, labels=tmp_path / "empty")), contents(work)
    assert any("not scored" in one for one in before.warnings)
    out = CohortFolder(work.output)
    with out.working_folder(case.name) as folder:
        out.amend(replace(before, warnings=(*before.warnings, "fold 1 is left out")), folder)
    assert [step.scores for step in before.steps] == [None, None]
    monkeypatch.setattr(Algorithm, "model", None)  # who needs one fails
    after = done(case, work)
    assert contents(work) == masks
    assert "fold 1 is left out" in after.warnings
    assert not any("not scored" in one for one in after.warnings)
    assert after.fingerprint != before.fingerprint
    for old, new in zip(before.steps, after.steps, strict=True):
        assert (new.masks, new.rules) == (old.masks, old.rules)
        assert {stage: seconds for stage, seconds in new.seconds.items() if stage != "score"} == old.seconds
    monkeypatch.undo()
    fresh = replace(work, output=tmp_path / "fresh")
    with CohortFolder(fresh.output).opened():
        assert [step.scores for step in done(case, fresh).steps] == [step.scores for step in after.steps]


def test_another_label_gives_other_scores(case: CohortCase, work: Work) -> None:
    before, masks = done(case, work), contents(work)
    path = work.labels / "positive.mha"  # type: ignore[operator]
    label = Volume.read(path)
    Volume(1 - label.array, label.grid).write(path)
    after = done(case, work)
    assert contents(work) == masks
    assert after.steps[0].scores != before.steps[0].scores


def test_masks_that_are_gone_are_made_again(case: CohortCase, work: Work) -> None:
    before, masks = done(case, work), contents(work)
    for again in (replace(work, labels=None), work, work):
        next((work.output / "masks/positive").iterdir()).unlink()
        assert not is_done(case, again)
        after = done(case, again)
        assert contents(work) == masks
        assert after.inputs == before.inputs
    assert after.fingerprint == before.fingerprint


def test_a_failure_replaces_a_record_whose_masks_are_gone(
    case: CohortCase, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise LesionClickError("out of memory")

    done(case, work)
    next((work.output / "masks/positive").iterdir()).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(Algorithm, "model", fail)
        assert run_case(case, work).error == "out of memory"
    record = CohortFolder(work.output).record(case.name)
    assert record is not None
    assert not record.done
    done(case, work)


def test_a_file_system_that_cannot_be_synced_will_do(
    case: CohortCase, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(_: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "fsync", unsupported)
    done(case, work)


def test_a_stop_while_masks_are_replaced_leaves_no_record(
    case: CohortCase, work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would tell of masks that are gone."""
    out, record = CohortFolder(work.output), done(case, work)
    (tmp_path / "new" / "masks").mkdir(parents=True)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", stop)
    with pytest.raises(KeyboardInterrupt):
        out.keep(replace(record, fingerprint="other"), tmp_path / "new")
    assert out.record(case.name) is None


def test_a_label_that_does_not_fit_costs_no_mask(case: CohortCase, work: Work) -> None:
    assert work.labels
    before, masks = done(case, work), contents(work)
    path = work.labels / "positive.mha"
    label = path.read_bytes()
    volume = Volume.read(path)
    Volume(volume.array[1:], replace(volume.grid, size_xyz=volume.array[1:].shape[::-1])).write(path)
    outcome = run_case(case, work)
    assert "must lie on one grid" in (outcome.error or "")
    assert (outcome.error or "").endswith("; what was done before stays")
    assert (CohortFolder(work.output).record(case.name), contents(work)) == (before, masks)
    assert not is_done(case, work)
    path.write_bytes(label)
    assert done(case, work).finished == before.finished


def test_scoring_again_keeps_the_seconds_that_the_case_took(case: CohortCase, work: Work) -> None:
    before = done(case, replace(work, labels=None))
    after = done(case, work)
    assert after.steps[0].scores is not None
    assert after.seconds == before.seconds


def test_a_record_that_cannot_be_written_is_no_fault_of_its_case(
    case: CohortCase, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = done(case, work)
    (pet,) = (case.path / "images/pet").iterdir()
    os.utime(pet)  # its times alone are new, so that the record is all that is written

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lesionclick.evaluation.records.write_durably", full)
    with pytest.raises(InputError, match="No space left on device"):
        run_case(case, work)
    assert CohortFolder(work.output).record(case.name) == before


def test_a_done_case_without_a_model_of_its_task_stays_done(case: CohortCase, work: Work) -> None:
    before = done(case, work)
    assert "what was done before stays" in (run_case(case, replace(work, models={})).error or "")
    assert CohortFolder(work.output).record(case.name) == before
    assert is_done(case, work)


def test_a_model_of_the_other_task_costs_no_mask(work: Work, folder: Path, tmp_path: Path) -> None:
    """A folder that holds one model, without `task1` or `task2`, has none for the cases of the other task."""
    model = write_model_folder(tmp_path / "model2", prompt=PromptSpec(LesionPair(radius=10.0)), patch_size=(16, 16, 16))
    case = CohortCase("two", write_longitudinal_case(tmp_path / "cases" / "two"))
    own = replace(work, models=digest_models(model), labels=None, model=model, options=OptionsRecord())
    before = done(case, own)
    outcome = run_case(case, replace(own, models=digest_models(folder), model=folder))
    assert "expected a model of task2" in (outcome.error or "")
    assert CohortFolder(own.output).record(case.name) == before
    assert is_done(case, own)


def test_a_linked_fold_is_a_part_of_the_model(folder: Path) -> None:
    (folder / "fold_0").rename(folder.parent / "elsewhere")
    (folder / "fold_0").symlink_to(folder.parent / "elsewhere")
    before = digest_models(folder)
    write_model_folder(folder, patch_size=(16, 16, 16), seed=1)
    assert digest_models(folder) != before


def test_names_that_are_not_utf8_are_told_as_they_are(case: CohortCase, work: Work, tmp_path: Path) -> None:
    odd = os.fsdecode(b"M\xfcller")
    with pytest.raises(InputError, match=r"udcfcller': expected a path in UTF-8"):
        CohortCase("one", tmp_path / odd)
    (pet,) = (case.path / "images/pet").iterdir()
    pet.write_bytes(pet.read_bytes()[:-40])
    pet.rename(pet.with_name(f"{odd}.mha"))
    assert r"M\udcfcller.mha" in (run_case(case, work).error or "")
