"""The whole way of a DICOM study: opened, clicked on, and taken home as a DICOM segmentation."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
from helpers.dicom_series import ct_slices, pet_slices, write
from helpers.growing_session import GrowingSession
from helpers.screen import dark_spots, wait_for
from helpers.served_page import serving, wait_until

from lesionclick.dicom.study import read_study
from lesionclick.images import Grid
from lesionclick.page.petct import PetCtStudy
from lesionclick.page.reading import Reading
from lesionclick.page.records import Records

GRID = Grid((24, 20, 16), (4.0, 4.0, 4.0), (5.0, 6.0, 7.0), (0.8, 0.0, -0.6, 0.0, 1.0, 0.0, 0.6, 0.0, 0.8))
HOT_XYZ = (9, 12, 6)


def test_clicks_on_a_dicom_study_become_its_segmentation(tmp_path: Path, open_page: Callable[[str], Any]) -> None:
    stored = np.full(GRID.shape_zyx, 400, np.int16)
    stored[HOT_XYZ[::-1]] = 9000  # 18000 Bq/ml, SUV 9
    write(pet_slices(stored, GRID), tmp_path / "study/a")
    write(ct_slices(np.full(GRID.shape_zyx, 1024, np.int16), GRID), tmp_path / "study/b")
    study = read_study(tmp_path / "study")
    case = PetCtStudy(GrowingSession(study.case), "study", study.pet)  # type: ignore[arg-type]
    reading = Reading(case, Records(tmp_path / "out", ("lesion-clicks.json",)))
    with serving(reading) as served:
        page = open_page(served.access.url)
        page.keyboard.press("m")
        page.keyboard.press("n")
        (spot,) = dark_spots(page, ".row[data-name=PET]", 0)
        page.mouse.click(*spot)
        wait_until(lambda: served.marks == [HOT_XYZ])
        page.keyboard.press("Control+s")
        wait_for(page, "document.getElementById('message').textContent.includes('segmentation.dcm')")
        mask = reading.final_answer().masks["pet"].array > 0

    volume = highdicom.seg.segread(tmp_path / "out/segmentation.dcm").get_volume(combine_segments=True)
    voxels = GRID.to_index(volume.map_indices_to_reference(np.argwhere(volume.array)))
    found = np.zeros(GRID.shape_zyx, dtype=bool)
    found[tuple(np.rint(voxels).astype(int)[:, ::-1].T)] = True
    assert mask.sum() > 1
    np.testing.assert_array_equal(found, mask)
