"""Baseline beside follow-up: lesions by number, points that are set and moved, places linked by the registration."""

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from helpers.bright_lesions import BOX, GRID, OTHER, OTHER_SIDE, BrightIsLesion, baseline, centre, followup
from helpers.longitudinal_folder import FOLLOWUP_POINTS, POINTS, write_longitudinal_case

from lesionclick.budget import Budget
from lesionclick.errors import InputError
from lesionclick.grand_challenge.case_folder import CaseFolder
from lesionclick.grand_challenge.click_files import read_lesion_points
from lesionclick.images import Grid, Volume
from lesionclick.longitudinal.alignment import Alignment
from lesionclick.longitudinal.case import Baseline, LongitudinalCase
from lesionclick.longitudinal.labels import LesionPoints
from lesionclick.longitudinal.lesions import find_lesions
from lesionclick.longitudinal.masks import FollowupMask, LesionMask
from lesionclick.longitudinal.session import LongitudinalSegmentation, LongitudinalSession
from lesionclick.page.longitudinal import LongitudinalStudy
from lesionclick.page.places import ras_at
from lesionclick.page.reading import Reading
from lesionclick.page.records import Records

SHIFT_MM = np.array([-40.0, 10.0, 1000.0])
"""From the baseline to the follow-up."""


@dataclass
class OneVoxelSession:
    """A session that needs no network: a lesion with a point is the voxel of it, and the scans lie side by side."""

    case: LongitudinalCase
    asked: list[dict[str, LesionPoints]] = field(default_factory=list)

    def sources(self, _budget: Budget) -> list[list[tuple[Baseline, Alignment]]]:
        alignment = Alignment("centre", 1.0, np.eye(3), SHIFT_MM)
        return [[(self.case.baselines[0], alignment)] for _ in self.case.followups]

    def segment(self, points: dict[str, LesionPoints], *, budget: Budget) -> LongitudinalSegmentation:
        self.asked.append(points)
        (followup,) = self.case.followups
        mask = np.zeros(followup.ct.grid.shape_zyx, np.uint8)
        for number, point in points[followup.region].items():
            mask[tuple(np.rint(point[::-1]).astype(int))] = number
        lesions = find_lesions(followup, self.sources(budget)[0], points[followup.region])
        masks = tuple(LesionMask(one, 0.0, looked=True) for one in lesions)
        return LongitudinalSegmentation({followup.region: FollowupMask(Volume(mask, followup.ct.grid), masks)}, {})


@pytest.fixture
def session(tmp_path: Path) -> OneVoxelSession:
    folder = write_longitudinal_case(tmp_path / "case")
    return OneVoxelSession(LongitudinalCase.read(CaseFolder.open(folder)))


@pytest.fixture
def reading(session: OneVoxelSession, tmp_path: Path) -> Iterator[Reading]:
    study = LongitudinalStudy(session, "a case")  # type: ignore[arg-type]
    reading = Reading(study, Records(tmp_path / "out", tuple(study.click_files(()))))
    reading.start()
    yield reading
    reading.stop()


def test_the_points_of_the_case_are_there(reading: Reading) -> None:
    marks = reading.state()["marks"]
    assert {int(one["kind"]): one["voxel"] for one in marks} == FOLLOWUP_POINTS
    assert {one["number"] for one in reading.study.describe()["baseline_points"]} == set(POINTS)


def test_a_point_of_a_lesion_that_has_one_moves_it_and_a_new_number_adds_one(
    reading: Reading, session: OneVoxelSession
) -> None:
    grid = reading.study.scans["primary-followup"].grid
    reading.add("primary-followup", "2", ras_at(grid, (1, 2, 3)))
    reading.add("primary-followup", "7", ras_at(grid, (9, 9, 9)))
    reading.final_answer()
    expected = {1: FOLLOWUP_POINTS[1], 2: (1.0, 2.0, 3.0), 7: (9.0, 9.0, 9.0)}
    assert session.asked[-1] == {"primary": expected}
    assert read_lesion_points(reading.records.folder / "primary-followup-lesion-clicks.json") == expected
    reading.undo()
    reading.undo()
    reading.final_answer()
    assert session.asked[-1] == {"primary": FOLLOWUP_POINTS}


def test_the_table_tells_the_volume_then_and_now(reading: Reading) -> None:
    """Baseline: 27 and 8 voxels of 36 mm3; follow-up: a voxel of 49 mm3 each, and a lesion that is new."""
    grid = reading.study.scans["primary-followup"].grid
    reading.add("primary-followup", "7", ras_at(grid, (9, 9, 9)))
    reading.remove(next(one["number"] for one in reading.state()["marks"] if one["kind"] == "2"))
    answer = reading.final_answer()
    rows = [(row["number"], row["then_ml"], row["now_ml"]) for row in answer.findings["lesions"]]
    assert rows == [
        (1, pytest.approx(0.972), pytest.approx(0.049)),
        (2, pytest.approx(0.288), 0),
        (7, None, pytest.approx(0.049)),
    ]
    assert list(csv.reader(answer.csv.splitlines()))[1:] == [
        ["1", "0.972", "0.049", "-0.923", "primary"],
        ["2", "0.288", "0.000", "-0.288", "primary"],
        ["7", "", "0.049", "", "primary"],
    ]


def test_the_masks_of_the_baselines_are_no_first_answer(
    session: OneVoxelSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def sources(budget: Budget) -> list[list[tuple[Baseline, Alignment]]]:
        seen.append(reading.state())
        return OneVoxelSession.sources(session, budget)

    monkeypatch.setattr(session, "sources", sources)
    study = LongitudinalStudy(session, "a case")  # type: ignore[arg-type]
    reading = Reading(study, Records(tmp_path / "out", tuple(study.click_files(()))))
    reading.start()
    reading.final_answer()
    reading.stop()
    assert (seen[0]["mask"], seen[0]["seconds"]) == (1, {})
    assert set(reading.state()["seconds"]) == {"first", "final"}


def test_places_are_linked_through_the_registration_both_ways(reading: Reading) -> None:
    """ITK counts to the left and to the back, the viewer to the right and to the front."""
    reading.final_answer()
    there = reading.study.link("primary-baseline", [1.0, 2.0, 3.0])
    assert there == {"primary-followup": pytest.approx([41.0, -8.0, 1003.0])}
    assert reading.study.link("primary-followup", there["primary-followup"]) == {
        "primary-baseline": pytest.approx([1.0, 2.0, 3.0])
    }
    with pytest.raises(InputError, match="expected one of"):
        reading.study.link("ct", [1.0, 2.0, 3.0])


def test_points_go_on_follow_ups_alone_under_a_number(reading: Reading) -> None:
    place = ras_at(reading.study.scans["primary-baseline"].grid, (3, 3, 3))
    with pytest.raises(InputError, match="scan: expected one of"):
        reading.add("primary-baseline", "1", place)
    place = ras_at(reading.study.scans["primary-followup"].grid, (3, 3, 3))
    for kind in ("tumor", "0", "256", "²", "03"):
        with pytest.raises(ValueError, match="number of a lesion"):
            reading.add("primary-followup", kind, place)


def test_saving_writes_each_follow_up(reading: Reading) -> None:
    names = [path.name for path in reading.save()]
    assert names == ["primary-followup-lesion-clicks.json", "primary-mask.mha", "primary-mask.nii.gz", "lesions.csv"]
    mask = Volume.read(reading.records.folder / "primary-mask.mha").array
    assert np.unique(mask).tolist() == [0, 1, 2]


HERE = Alignment("centre", 1.0, np.eye(3), np.zeros(3))


@pytest.fixture
def open_case(tmp_path: Path) -> Iterator[Callable[[LongitudinalCase], Reading]]:
    """Opens a case of bright boxes, whose scans all lie on each other."""
    readings = []

    def read(case: LongitudinalCase) -> Reading:
        session = LongitudinalSession(BrightIsLesion(), case)  # type: ignore[arg-type]
        session._sources = [[(one, HERE) for one in case.baselines if one.region in of] for of in belonging(case)]
        study = LongitudinalStudy(session, "a case")
        readings.append(Reading(study, Records(tmp_path / str(len(readings)), tuple(study.click_files(())))))
        return readings[-1]

    yield read
    for reading in readings:
        reading.stop()


def belonging(case: LongitudinalCase) -> list[set[str]]:
    """The regions of the baselines that each follow-up belongs to."""
    every = {one.region for one in case.baselines}
    return [{one.region} if len(case.followups) > 1 else every for one in case.followups]


def volumes(reading: Reading) -> dict[int, tuple[float | None, float | None]]:
    return {row["number"]: (row["then_ml"], row["now_ml"]) for row in reading.final_answer().findings["lesions"]}


class TestWithoutPoints:
    """A case of the challenge's first step: the lesions of the baseline are looked for."""

    NEW = ((10, 25, 12), 4)
    CASE = LongitudinalCase((baseline(BOX, OTHER),), (followup(BOX, OTHER, NEW),))
    ML = pytest.approx(64 * 0.012)  # 4 x 4 x 4 voxels of 2 x 2 x 3 mm

    def test_the_first_point_keeps_the_lesions_that_were_found(self, open_case) -> None:
        reading = open_case(self.CASE)
        reading.start()
        found = {1: (self.ML, self.ML), 2: (self.ML, self.ML)}
        assert volumes(reading) == found
        reading.add("primary-followup", "7", ras_at(GRID, centre(self.NEW)))
        assert volumes(reading) == {**found, 7: (None, self.ML)}
        marks = reading.state()["marks"]
        assert len({one["number"] for one in marks}) == 3
        reading.add("primary-followup", "8", ras_at(GRID, (3, 3, 3)))
        assert len({one["number"] for one in reading.state()["marks"]}) == 4
        reading.undo()
        reading.remove(next(one["number"] for one in marks if one["kind"] == "2"))
        assert volumes(reading) == {1: (self.ML, self.ML), 2: (self.ML, 0.0), 7: (None, self.ML)}
        reading.undo()
        reading.undo()
        assert reading.state()["marks"] == []
        assert volumes(reading) == found

    def test_a_point_before_the_first_masks_is_refused(self, open_case) -> None:
        reading = open_case(self.CASE)
        with pytest.raises(InputError, match="after the first masks"):
            reading.add("primary-followup", "7", ras_at(GRID, centre(self.NEW)))
        assert reading.state()["marks"] == []

    def test_a_lesion_that_the_follow_up_does_not_show_has_no_volume(self, open_case) -> None:
        half = Grid((20, 36, 20), GRID.spacing_xyz, GRID.origin_xyz)
        reading = open_case(LongitudinalCase((baseline(BOX, OTHER_SIDE),), (followup(BOX, grid=half),)))
        reading.start()
        assert volumes(reading) == {1: (self.ML, self.ML), 2: (self.ML, None)}
        assert "2,0.768,,,primary" in reading.final_answer().csv.splitlines()

    def test_a_lesion_of_two_baselines_counts_once(self, open_case) -> None:
        larger = ((10, 12, 8), 6)
        reading = open_case(LongitudinalCase((baseline(BOX), baseline(larger, region="secondary")), (followup(BOX),)))
        reading.start()
        assert volumes(reading) == {1: (self.ML, self.ML)}  # of the first, which shows more of the follow-up

    def test_equal_numbers_of_two_regions_are_two_lesions(self, open_case) -> None:
        larger = ((10, 12, 8), 6)
        case = LongitudinalCase(
            (baseline(BOX), baseline(larger, region="secondary")), (followup(BOX), followup(BOX, region="secondary"))
        )
        reading = open_case(case)
        reading.start()
        rows = [(row["region"], row["number"], row["then_ml"]) for row in reading.final_answer().findings["lesions"]]
        assert rows == [("primary", 1, self.ML), ("secondary", 1, pytest.approx(216 * 0.012))]
