"""Baseline beside follow-up: lesions by number, points that are set and moved, places linked by the registration."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from helpers.longitudinal_folder import FOLLOWUP_POINTS, POINTS, write_longitudinal_case

from lesionclick.budget import Budget
from lesionclick.errors import InputError
from lesionclick.grand_challenge.case_folder import CaseFolder
from lesionclick.grand_challenge.click_files import read_lesion_points
from lesionclick.images import Volume
from lesionclick.longitudinal.alignment import Alignment
from lesionclick.longitudinal.case import Baseline, LongitudinalCase
from lesionclick.longitudinal.labels import LesionPoints
from lesionclick.longitudinal.lesions import find_lesions
from lesionclick.longitudinal.session import FollowupMask, LesionMask, LongitudinalSegmentation
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
        ["1", "0.972", "0.049", "-0.923"],
        ["2", "0.288", "0.000", "-0.288"],
        ["7", "", "0.049", ""],
    ]


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
    for kind in ("tumor", "0", "256", "²"):
        with pytest.raises(ValueError, match="number of a lesion"):
            reading.add("primary-followup", kind, place)


def test_saving_writes_each_follow_up(reading: Reading) -> None:
    names = [path.name for path in reading.save()]
    assert names == ["primary-followup-lesion-clicks.json", "primary-mask.mha", "primary-mask.nii.gz", "lesions.csv"]
    mask = Volume.read(reading.records.folder / "primary-mask.mha").array
    assert np.unique(mask).tolist() == [0, 1, 2]
