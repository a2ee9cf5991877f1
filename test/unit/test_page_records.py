"""What the page leaves on the disk: clicks of one image, by one command, whole or not at all."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.dicom_series import ct_slices
from helpers.served_page import GRIDS, hot_case, make_reading, wait_until

from lesionclick.budget import Budget
from lesionclick.dicom.objects import save
from lesionclick.errors import InputError
from lesionclick.grand_challenge.click_files import read_clicks, write_clicks
from lesionclick.images import Grid, Volume
from lesionclick.page.marks import Marks
from lesionclick.page.places import ras_at
from lesionclick.page.reading import Reading
from lesionclick.page.records import IMAGES, Records, replacing
from lesionclick.page.study import Answer
from lesionclick.prompts.points import Point, Prompts

CLICKS = "lesion-clicks.json"
FOLLOWUP = "primary-followup-lesion-clicks.json"
GRID = GRIDS["identity"]
ONE = Prompts((Point("tumor", (3.0, 4.0, 5.0)),))


@pytest.fixture
def reading(tmp_path: Path) -> Iterator[Reading]:
    reading = make_reading(tmp_path)
    reading.start()
    yield reading
    reading.stop()


def add(reading: Reading, x: int) -> None:
    reading.add("pet", "tumor", ras_at(GRID, (x, 4, 5)))


def xs(reading: Reading) -> list[float]:
    return [mark["voxel"][0] for mark in reading.state()["marks"]]


def fail(*_arguments: object) -> None:
    raise InputError("full disk")


class TestWritesThatFail:
    @pytest.mark.parametrize(
        "step", [Reading.undo, Reading.redo, lambda reading: add(reading, 9)], ids=["undo", "redo", "do"]
    )
    def test_no_step_is_lost(
        self, reading: Reading, monkeypatch: pytest.MonkeyPatch, step: Callable[[Reading], object]
    ) -> None:
        for x in (1, 2, 3, 4):
            add(reading, x)
        reading.undo()
        reading.undo()
        with monkeypatch.context() as patch:
            patch.setattr(reading.records, "write", fail)
            with pytest.raises(InputError, match="full disk"):
                step(reading)
        assert xs(reading) == [1, 2]
        reading.redo()
        reading.redo()
        assert xs(reading) == [1, 2, 3, 4]
        reading.redo()
        assert xs(reading) == [1, 2, 3, 4]
        for left in ([1, 2, 3], [1, 2], [1], []):
            reading.undo()
            assert xs(reading) == left
        assert not reading.state()["can_undo"]

    def test_of_two_click_files_none_is_written_unless_both_can_be(self, tmp_path: Path) -> None:
        records = Records(tmp_path, ("a.json", "b.json"))
        records.write({"a.json": Prompts(), "b.json": Prompts()}, {})
        (tmp_path / "b.json").unlink()
        (tmp_path / "b.json").mkdir()
        with pytest.raises(InputError, match="expected a folder that user"):
            records.write({"a.json": ONE, "b.json": ONE}, {})
        assert len(read_clicks(tmp_path / "a.json")) == 0
        assert {path.name for path in tmp_path.iterdir()} == {"a.json", "b.json"}

    def test_a_file_that_is_not_finished_takes_no_place(self, tmp_path: Path) -> None:
        path = tmp_path / "lesions.csv"
        path.write_text("before")

        def break_off() -> None:
            with replacing(path) as temporary:
                temporary.write_text("half")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            break_off()
        assert [one.read_text() for one in tmp_path.iterdir()] == ["before"]


class TestSavingTwiceAtOnce:
    @pytest.mark.parametrize("name", ["mask.nii.gz", "segmentation.dcm"])
    def test_all_threads_of_a_process_may_write_one_file(self, tmp_path: Path, name: str) -> None:
        array = np.random.default_rng(0).integers(0, 9, (40, 40, 40)).astype(np.uint8)
        volume = Volume(array, Grid((40,) * 3, (1.0,) * 3))
        dataset = ct_slices(array.astype(np.int16), volume.grid)[0]
        errors: list[Exception] = []

        def write() -> None:
            try:
                volume.write(tmp_path / name) if name.endswith("gz") else save(dataset, tmp_path / name)
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=write) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert [path.name for path in tmp_path.iterdir()] == [name]

    def test_one_save_ends_before_the_next_begins(self, reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
        reading.final_answer()
        inside: list[int] = []
        most: list[int] = []
        begun, go_on = threading.Event(), threading.Event()

        def slow(_folder: Path, _answer: Answer) -> list[Path]:
            inside.append(1)
            most.append(len(inside))
            begun.set()
            go_on.wait(60)
            inside.pop()
            return []

        monkeypatch.setattr(reading.study, "save", slow)
        threads = [threading.Thread(target=reading.save) for _ in range(2)]
        threads[0].start()
        assert begun.wait(60)
        threads[1].start()
        add(reading, 3)  # is not kept waiting
        go_on.set()
        for thread in threads:
            thread.join(60)
        assert most == [1, 1]


class TestWhichImageClicksBelongTo:
    def test_the_clicks_of_another_image_are_refused_with_both_grids(self, tmp_path: Path) -> None:
        add(make_reading(tmp_path), 3)
        for other in (GRIDS["anisotropic"], replace(GRID, origin_xyz=(0.0, 0.0, 0.0)), GRIDS["flipped"]):
            with pytest.raises(InputError, match="expected clicks on the image that is open") as caught:
                make_reading(tmp_path, hot_case(other))
            assert str(GRID) in str(caught.value)
            assert str(other) in str(caught.value)
        assert xs(make_reading(tmp_path)) == [3]

    def test_files_without_a_grid_are_read_and_then_have_one(self, tmp_path: Path) -> None:
        write_clicks(tmp_path / CLICKS, ONE)
        reading = make_reading(tmp_path, hot_case(GRIDS["flipped"]))
        assert xs(reading) == [3]
        reading.remove(0)
        with pytest.raises(InputError, match="another image"):
            make_reading(tmp_path)

    def test_a_grid_whose_clicks_are_deleted_does_not_count(self, tmp_path: Path) -> None:
        add(make_reading(tmp_path), 3)
        (tmp_path / CLICKS).unlink()
        reading = make_reading(tmp_path, hot_case(GRIDS["flipped"]))
        reading.add("pet", "tumor", ras_at(GRIDS["flipped"], (7, 4, 5)))
        assert xs(make_reading(tmp_path, hot_case(GRIDS["flipped"]))) == [7]

    @pytest.mark.parametrize("content", ["", "[]", '{"lesion-clicks.json": {"size_xyz": [1]}}'])
    def test_broken_grids_are_refused(self, tmp_path: Path, content: str) -> None:
        (tmp_path / IMAGES).write_text(content)
        with pytest.raises(InputError, match="expected the grids that clicks lie on"):
            make_reading(tmp_path)


@pytest.mark.parametrize(
    ("file", "name", "expected"),
    [
        (CLICKS, "Lesion 3", "expected a name among"),
        (CLICKS, "", "expected a name among"),
        (FOLLOWUP, "", "expected a lesion's number"),
        (FOLLOWUP, " ", "expected a lesion's number"),
        (FOLLOWUP, "tumor", "expected a lesion's number"),
    ],
)
def test_points_of_another_kind_are_refused(tmp_path: Path, file: str, name: str, expected: str) -> None:
    write_clicks(tmp_path / file, Prompts((Point(name, (3.0, 4.0, 5.0)),)))
    with pytest.raises(InputError, match=f"{file}, point 0: {expected}"):
        Records(tmp_path, (file,)).read({})


def test_one_click_file_without_the_other_is_refused(tmp_path: Path) -> None:
    """The next click would write both, and what a reader did before would be gone."""
    write_clicks(tmp_path / FOLLOWUP, Prompts((Point("1", (3.0, 4.0, 5.0)),)))
    other = FOLLOWUP.replace("primary", "secondary")
    with pytest.raises(InputError, match=f"expected {other} beside {FOLLOWUP}, found none"):
        Records(tmp_path, (FOLLOWUP, other)).read({})


def test_lesions_are_read_by_number(tmp_path: Path) -> None:
    write_clicks(tmp_path / FOLLOWUP, Prompts((Point("7", (1.0, 2.0, 3.0)), Point("lesion 2", (4.0, 5.0, 6.0)))))
    read: Mapping[str, Prompts] | None = Records(tmp_path, (FOLLOWUP,)).read({})
    assert read is not None
    assert [point.kind for point in read[FOLLOWUP]] == ["Lesion 2", "Lesion 7"]


HOLD = """
import sys
from pathlib import Path
from lesionclick.page.records import Records
with Records(Path(sys.argv[1]), ()).locked():
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_second_command_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    records = Records(tmp_path, ())
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "locked\n"
        with pytest.raises(InputError, match="expected no other `lesionclick view`"), records.locked():
            pass
        other.kill()
    with records.locked():
        pass


def test_an_answer_to_marks_that_have_changed_is_not_shown(reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = reading.final_answer().masks["pet"]
    answers, seen = reading.study.answers, []

    def late(marks: Marks, budget: Budget) -> Iterator[Answer]:
        seen.append((reading.state()["seconds"], reading.mask("pet")))
        for answer in answers(marks, budget):
            if len(seen) == 1:  # after the session's last look at the marks
                add(reading, 9)
            yield answer

    monkeypatch.setattr(reading.study, "answers", late)
    add(reading, 3)
    wait_until(lambda: reading.state()["final"])
    assert seen == [({}, mask), ({}, mask)]
    assert set(reading.state()["seconds"]) == {"first", "final"}


def test_proposals_that_a_click_overtakes_come_with_the_next_mask(
    reading: Reading, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading.final_answer()
    suggest, asked = reading.study.suggest, []

    def slow(budget: Budget) -> list[dict[str, object]]:
        asked.append(reading.state()["revision"])
        if len(asked) == 1:
            add(reading, 3)
        return suggest(budget)

    monkeypatch.setattr(reading.study, "suggest", slow)
    reading.ask_for_suggestions()
    wait_until(lambda: reading.state()["suggestions"] is not None)
    assert asked == [0, 1]
    assert not reading.state()["busy"]
    assert json.loads((reading.records.folder / CLICKS).read_text())["points"][0]["point"] == [3, 4, 5]
