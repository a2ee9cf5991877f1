"""What a worker does with a case, and what is left of it, without a cluster."""

import json
import os
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers.longitudinal_folder import followup_ct, on_grid_of, write_longitudinal_case
from helpers.model_folder import write_model_folder
from helpers.read_only import read_only_folder

from lesionclick.algorithm import Algorithm
from lesionclick.cohort.fingerprints import digest_models
from lesionclick.cohort.run import write_table
from lesionclick.cohort.work import CohortCase, Work
from lesionclick.cohort.worker import give_up, is_done, run_case
from lesionclick.commands.cohort import cohort
from lesionclick.errors import InputError, ModelError
from lesionclick.evaluation.engine import Engine
from lesionclick.evaluation.records import CohortFolder, OptionsRecord, Record
from lesionclick.evaluation.replay import replay_cases
from lesionclick.evaluation.steps import Options
from lesionclick.images import Volume
from lesionclick.prompts.encodings import LesionPair
from lesionclick.prompts.spec import PromptSpec

MASK = "tumor-lesion-segmentation"
STEPS = OptionsRecord(steps=(0, 1, 3))


@pytest.fixture
def out(tmp_path: Path) -> Iterator[CohortFolder]:
    with CohortFolder(tmp_path / "out").opened() as folder:
        yield folder


@pytest.fixture
def case(cases: Path) -> CohortCase:
    return CohortCase("positive", cases / "positive")


@pytest.fixture
def work(out: CohortFolder, labels: Path, folder: Path) -> Work:
    return Work(out.folder, OptionsRecord(), digest_models(folder), labels, folder)


def record_of(case: CohortCase, work: Work) -> Record:
    record = CohortFolder(work.output).record(case.name)
    assert record is not None
    return record


def done(case: CohortCase, work: Work) -> Record:
    outcome = run_case(case, work)
    assert outcome.error is None
    return record_of(case, work)


def left(out: CohortFolder) -> list[str]:
    """Return all files in the folder but the lock."""
    paths = (path.relative_to(out.folder) for path in out.folder.rglob("*") if path.is_file())
    return sorted(str(path) for path in paths if path.name != "lock")


def test_a_case_gives_the_mask_that_the_algorithm_writes(
    case: CohortCase, work: Work, tmp_path: Path, folder: Path
) -> None:
    record = done(case, work)
    (step,) = record.steps
    handled = Algorithm(folder).handle(case.path, tmp_path / "alone")
    assert (work.output / step.masks[MASK]).read_bytes() == handled.masks[0].read_bytes()
    assert (record.task, step.step, step.n_points, step.masks) == ("task1", None, 20, {MASK: "masks/positive/mask.mha"})
    assert step.rules == vars(handled.segmentation.rules)
    assert {"fingerprint", "load model", "read case", "total"} == record.seconds.keys()
    assert {"predict", "write", "score"} <= step.seconds.keys()
    assert sum(step.seconds.values()) < record.seconds["total"]


def test_steps_give_the_masks_and_scores_of_a_replay(
    case: CohortCase, work: Work, tmp_path: Path, folder: Path
) -> None:
    record = done(case, replace(work, options=STEPS))
    (replayed,) = replay_cases(
        [case.path], Algorithm(folder).handle, tmp_path / "replay", Options(steps=(0, 1, 3), labels=work.labels)
    )
    assert [step.step for step in record.steps] == [0, 1, 3]
    for ours, theirs in zip(record.steps, replayed.steps, strict=True):
        assert (work.output / ours.masks[MASK]).read_bytes() == theirs.mask.read_bytes()
        assert ours.scores == pytest.approx(dict(theirs.scores))
        assert (ours.n_points, ours.rules) == (theirs.n_points, vars(theirs.rules))


def test_a_longitudinal_case_has_steps_0_and_1_and_scores_of_its_lesions(out: CohortFolder, tmp_path: Path) -> None:
    prompt = PromptSpec(LesionPair(radius=10.0))
    model = write_model_folder(tmp_path / "model2", prompt=prompt, patch_size=(16, 16, 16))
    case = CohortCase("two", write_longitudinal_case(tmp_path / "cases" / "two"))
    work = Work(out.folder, OptionsRecord(), digest_models(model), tmp_path / "labels", model)
    (tmp_path / "labels" / "two").mkdir(parents=True)
    image = followup_ct()
    empty = Volume.from_image(image).array.astype("uint8") * 0
    Volume.from_image(on_grid_of(image, empty)).write(tmp_path / "labels" / "two" / "primary.mha")

    handled = Algorithm(model).handle(case.path, tmp_path / "alone")
    (whole,) = done(case, work).steps
    assert whole.masks == {"primary-followup-ct-tumor-lesion-seg": "masks/two/primary.mha"}
    assert (work.output / "masks/two/primary.mha").read_bytes() == handled.masks[0].read_bytes()

    first, second = done(case, replace(work, options=OptionsRecord(steps=(5,)))).steps
    assert [(one.step, one.n_points) for one in (first, second)] == [(0, 0), (1, 2)]
    assert second.masks == {"primary-followup-ct-tumor-lesion-seg": "masks/two/step_01_primary.mha"}
    assert (work.output / "masks/two/step_01_primary.mha").read_bytes() == handled.masks[0].read_bytes()
    assert first.scores is not None
    assert first.scores["dsc"] is None  # no lesion is left
    assert first.scores["vanished_empty_percent"] is not None


def change_clicks(case: CohortCase, work: Work) -> Work:
    path = case.path / "lesion-clicks.json"
    clicks = json.loads(path.read_bytes())
    clicks["points"].pop()
    path.write_text(json.dumps(clicks))
    return work


def change_image(case: CohortCase, work: Work) -> Work:
    (path,) = (case.path / "images/pet").iterdir()
    volume = Volume.read(path)
    volume.array[0, 0, 0] += 1
    volume.write(path)
    return work


def change_label(case: CohortCase, work: Work) -> Work:
    assert work.labels
    volume = Volume.read(work.labels / f"{case.name}.mha")
    volume.array[0, 0, 0] = 1
    volume.write(work.labels / f"{case.name}.mha")
    return work


def change_model(_: CohortCase, work: Work) -> Work:
    assert work.model
    write_model_folder(work.model, patch_size=(16, 16, 16), seed=1)
    return replace(work, models=digest_models(work.model))


def change_options(_: CohortCase, work: Work) -> Work:
    return replace(work, options=STEPS)


CHANGES = (change_clicks, change_image, change_label, change_model, change_options)


def test_what_is_done_is_skipped_until_anything_changes_that_it_depends_on(case: CohortCase, work: Work) -> None:
    assert not is_done(case, work)
    before = done(case, work)
    assert is_done(case, work)
    for change in CHANGES:
        work = change(case, work)
        assert not is_done(case, work), change
        after = done(case, work)
        assert after.fingerprint != before.fingerprint, change
        assert is_done(case, work)
        before = after


def test_files_that_were_only_copied_anew_are_read_but_not_segmented_again(case: CohortCase, work: Work) -> None:
    done(case, work)
    mask = work.output / "masks/positive/mask.mha"
    written = mask.stat().st_mtime_ns
    os.utime(case.path / "lesion-clicks.json")
    assert not is_done(case, work)
    done(case, work)
    assert is_done(case, work)
    assert mask.stat().st_mtime_ns == written


def test_a_case_that_fails_says_why_and_is_done_once_it_is_repaired(case: CohortCase, work: Work) -> None:
    done(case, work)
    (pet,) = (case.path / "images/pet").iterdir()
    content = pet.read_bytes()
    pet.write_bytes(content[:-40])
    outcome = run_case(case, work)
    record = record_of(case, work)
    assert record.error is not None
    assert (outcome.error, record.error.type) == (record.error.message, "InputError")
    assert "expected 9600 bytes of voxels" in record.error.message
    assert left(CohortFolder(work.output)) == ["records/positive.json"]  # the masks of the other images are gone
    assert not is_done(case, work)

    pet.write_bytes(content)
    assert done(case, work).fingerprint is not None


@pytest.mark.parametrize("part", ["", "images/pet"])
@pytest.mark.parametrize("mounted", [True, False], ids=["an empty folder is there", "nothing is there"])
def test_a_done_case_whose_files_vanish_stays_done(case: CohortCase, work: Work, part: str, mounted: bool) -> None:
    before, out = done(case, work), CohortFolder(work.output)
    mask = work.output / "masks/positive/mask.mha"
    content, written, files = mask.read_bytes(), mask.stat().st_mtime_ns, left(out)
    gone, away = case.path / part, work.output.parent / "away"
    gone.rename(away)
    if mounted:
        gone.mkdir()
    assert not is_done(case, work)
    for outcome in (run_case(case, work), give_up(case, work, RuntimeError("worker died"))):
        assert (outcome.error or "").endswith("; what was done before stays")
        assert record_of(case, work) == before
        assert (left(out), mask.read_bytes()) == (files, content)
    (row,) = pq.read_table(write_table(out)).to_pylist()
    assert before.steps[0].scores is not None
    assert (row["error"], row["dsc"]) == (None, before.steps[0].scores["dsc"])

    if mounted:
        gone.rmdir()
    away.rename(gone)
    assert is_done(case, work)
    assert done(case, work).finished == before.finished
    assert mask.stat().st_mtime_ns == written


def test_a_done_case_whose_clicks_cannot_be_read_stays_done(case: CohortCase, work: Work) -> None:
    before = done(case, work)
    clicks, mask = case.path / "lesion-clicks.json", work.output / "masks/positive/mask.mha"
    content, written = clicks.read_bytes(), mask.stat().st_mtime_ns
    clicks.write_bytes(content[:-9])
    assert run_case(case, work).error is not None
    assert record_of(case, work) == before

    clicks.write_bytes(content)
    assert not is_done(case, work)  # its times are new
    assert done(case, work).fingerprint == before.fingerprint
    assert mask.stat().st_mtime_ns == written


def test_a_case_that_failed_and_vanishes_tells_the_last_error(case: CohortCase, work: Work) -> None:
    (pet,) = (case.path / "images/pet").iterdir()
    pet.write_bytes(pet.read_bytes()[:-40])
    assert run_case(case, work).error is not None
    shutil.rmtree(case.path)
    outcome, error = run_case(case, work), record_of(case, work).error
    assert error is not None
    assert outcome.error == error.message == f"{case.path}: expected the folder of a case, found none"


def test_a_case_that_kills_its_workers_with_new_clicks_is_not_done(case: CohortCase, work: Work) -> None:
    before = done(case, work)
    change_clicks(case, work)
    assert give_up(case, work, RuntimeError("worker died")).error == "worker died"
    after = record_of(case, work)
    assert not after.done
    assert after.fingerprint not in (None, before.fingerprint)
    assert left(CohortFolder(work.output)) == ["records/positive.json"]


def test_a_folder_that_is_no_case_is_recorded(work: Work, tmp_path: Path) -> None:
    (tmp_path / "odd").mkdir()
    outcome = run_case(CohortCase("odd", tmp_path / "odd"), work)
    record = record_of(CohortCase("odd", tmp_path / "odd"), work)
    assert outcome.error is not None
    assert "found nothing" in outcome.error
    assert (record.task, record.fingerprint, record.steps) == (None, None, ())


def test_without_a_label_a_case_is_not_scored_and_says_so(case: CohortCase, work: Work, tmp_path: Path) -> None:
    record = done(case, replace(work, labels=tmp_path))
    assert record.steps[0].scores is None
    assert any("not scored" in warning for warning in record.warnings)
    assert not any("not scored" in warning for warning in done(case, work).warnings)


@contextmanager
def disk_of(n_bytes: int) -> Iterator[None]:
    """What a file holds beyond so many bytes is refused, as by a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("n_bytes", [0, 60, 1000], ids=["nothing", "part of a mask", "the mask, not the record"])
def test_on_a_full_disk_nothing_is_half_written(case: CohortCase, work: Work, n_bytes: int) -> None:
    with disk_of(n_bytes), pytest.raises(InputError, match=r"can write, found .*too large"):
        run_case(case, work)
    assert left(CohortFolder(work.output)) == []
    done(case, work)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="can write"), CohortFolder(read_only_folder(tmp_path / "closed")).opened():
        pass


def test_a_second_command_on_the_same_folder_is_refused(out: CohortFolder) -> None:
    with pytest.raises(InputError, match="no other command"), CohortFolder(out.folder).opened():
        pass


def test_whoever_was_taken_for_dead_does_not_spoil_what_another_did(case: CohortCase, work: Work) -> None:
    record = done(case, work)
    out = CohortFolder(work.output)
    with out.working_folder(case.name) as late:
        failed = replace(record, error=give_up_error(case, work), steps=())
        assert left(out) == ["masks/positive/mask.mha", "records/positive.json"]
        out.keep(failed, late)
    assert out.record(case.name) == record


def give_up_error(case: CohortCase, work: Work):
    """Return the error of a case that no worker could do."""
    other = CohortCase("other", case.path)
    assert give_up(other, work, RuntimeError("worker died")).error == "worker died"
    path = CohortFolder(work.output).record_path("other")
    error = record_of(other, work).error
    path.unlink()
    return error


def test_a_worker_refuses_another_model_than_the_commands(case: CohortCase, work: Work) -> None:
    outcome = run_case(case, replace(work, models={"task1": "another"}))
    assert outcome.error is not None
    assert "expected the command's own" in outcome.error
    with pytest.raises(ModelError, match=r"expected plans\.json in it or in its task1 or task2"):
        digest_models(case.path)


ENGINE = """#!/bin/sh
if [ "$1" = image ]; then echo sha256:1234; exit; fi
[ "$1" = run ] || exit 1
for word in "$@"; do
  case "$word" in
    *:/output) out="${word%:/output}" ;;
    *:/input:ro) in="${word%:/input:ro}" ;;
  esac
done
grep -o '"name"' "$in/lesion-clicks.json" | wc -l >> "$(dirname "$0")/seen"
mkdir -p "$out/images/tumor-lesion-segmentation"
cp MASK "$out/images/tumor-lesion-segmentation/$(basename "$in"/images/ct/*)"
"""


def test_in_containers_each_job_is_one_and_the_image_counts(case: CohortCase, work: Work, tmp_path: Path) -> None:
    assert work.labels
    engine = tmp_path / "engine"
    engine.write_text(ENGINE.replace("MASK", str(work.labels / "positive.mha")))
    engine.chmod(0o755)
    models = digest_models(None, Engine(str(engine), "image"))
    options = replace(STEPS, container="image")
    contained = replace(work, options=options, models=models, model=None, engine=str(engine))
    record = done(case, contained)
    assert [step.scores["dsc"] if step.scores else None for step in record.steps] == [1.0, 1.0, 1.0]
    assert [int(n) for n in (tmp_path / "seen").read_text().split()] == [step.n_points for step in record.steps]
    assert record.worker.device == "container"
    assert record.steps[0].seconds.keys() == {"container", "score"}
    engine.write_text(engine.read_text().replace("1234", "5678"))
    assert digest_models(None, Engine(str(engine), "image")) != models

    engine.write_text("#!/bin/sh\nexit 2\n")
    whole = replace(contained, options=OptionsRecord(container="image"))
    assert (run_case(case, whole).error or "").startswith("positive: container: expected exit code 0, found 2")


def test_the_table_has_a_row_for_each_step_and_each_failure(case: CohortCase, work: Work, tmp_path: Path) -> None:
    record = done(case, replace(work, options=STEPS))
    run_case(CohortCase("odd", tmp_path), work)
    rows = pq.read_table(write_table(CohortFolder(work.output))).to_pylist()
    assert [(row["case"], row["step"]) for row in rows] == [
        ("odd", None),
        ("positive", 0),
        ("positive", 1),
        ("positive", 3),
    ]
    assert "expected" in rows[0]["error"]
    assert rows[0]["dsc"] is None
    for row, step in zip(rows[1:], record.steps, strict=True):
        assert step.scores is not None
        assert row["dsc"] == step.scores["dsc"]
        assert dict(row["masks"]) == step.masks
        assert dict(row["stages"]) == step.seconds
    assert CohortFolder(work.output).folder.joinpath("cohort.parquet").is_file()


def test_nothing_to_do_starts_no_worker(case: CohortCase, work: Work, capsys: pytest.CaptureFixture[str]) -> None:
    done(case, work)
    output = work.output.parent / "second"
    shutil.copytree(work.output, output, ignore=shutil.ignore_patterns("lock"))
    code = cohort(case.path, output=output, labels=work.labels, model=work.model)
    assert code == 0
    assert "1 cases: 1 were done, 0 done now, 0 failed" in capsys.readouterr().out
