"""A click on what is seen becomes the voxel that was seen, whichever way the voxels lie."""

import re
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from helpers.screen import dark_spots, wait_for
from helpers.served_page import GRIDS, HOT_XYZ, Served, hot_case, make_reading, serving, wait_until

IN_SLICES_OF_FIRST = ((0, 1), (0, 2), (0, 3))
"""Which of `HOT_XYZ` are seen in the axial, sagittal and coronal slices of the first."""


def click_and_take_back(page: Any, served: Served, place: tuple[float, float]) -> tuple[float, ...]:
    """Click, return the voxel that the server got, and undo."""
    page.mouse.click(*place)
    wait_until(lambda: len(served.marks) == 1)
    (voxel,) = served.marks
    page.keyboard.press("Control+z")
    wait_until(lambda: not served.marks)
    return voxel


def look_at(page: Any, spot: tuple[float, float]) -> tuple[float, ...]:
    """Click on the projection; return SUV, HU, and place in mm to the right, to the front and to the head."""
    page.keyboard.press("PageUp")  # away from the voxel, so that what comes next is the click's doing
    wait_for(page, "document.getElementById('values').textContent.includes('SUV 0.30')")
    page.mouse.click(*spot)
    wait_for(page, "document.getElementById('values').textContent.includes('SUV 12.00')")
    text = page.locator("#values").inner_text()
    return tuple(float(value) for value in re.findall(r"(?:SUV|HU|R|A|S) (-?[\d.]+)", text))


@pytest.mark.parametrize("name", list(GRIDS))
def test_the_voxel_under_the_cursor_is_the_voxel_of_the_point(
    name: str, tmp_path: Path, open_page: Callable[[str], Any]
) -> None:
    case = hot_case(GRIDS[name])
    hounsfield = {voxel: float(case.ct.array[voxel[::-1]]) for voxel in HOT_XYZ}
    with serving(make_reading(tmp_path, case)) as served:
        page = open_page(served.access.url)
        page.keyboard.press("m")  # the mask would hide the spots
        for third, seen in enumerate(IN_SLICES_OF_FIRST):
            page.locator("#panel tbody tr").first.click()
            spots = dark_spots(page, ".row[data-name=PET]", third)
            assert {click_and_take_back(page, served, spot) for spot in spots} == {HOT_XYZ[n] for n in seen}

        page.keyboard.press("v")
        page.wait_for_selector("body[data-frames='36']", state="attached")
        for turns, side in ((0, 1), (18, -1)):  # from the front, and from the back
            for _ in range(turns):
                page.keyboard.press("ArrowRight")
            spots = dark_spots(page, "#mip canvas", edge_px=4)
            found = [look_at(page, spot) for spot in spots]
            assert {hu for _, hu, *_ in found} == set(hounsfield.values())
            for (spot, one), (other_spot, other) in combinations(zip(spots, found, strict=True), 2):
                if spot[1] < other_spot[1] - 3:
                    assert one[4] > other[4], "the head is above"
                if spot[0] < other_spot[0] - 3:
                    assert side * one[2] > side * other[2], "from the front, the patient's right is on the left"
