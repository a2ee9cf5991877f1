"""A click on what is seen becomes the voxel that was seen, whichever way the voxels lie."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.page import GRIDS, HOT_XYZ, Served, hot_case, make_reading, serving
from helpers.screen import dark_spots

VIEWS = ("axial", "sagittal", "coronal")


def points(served: Served) -> list[tuple[float, ...]]:
    return [mark["voxel"] for mark in served.reading.state()["marks"]]


def click_and_take_back(page: Any, served: Served, place: tuple[float, float]) -> tuple[float, ...]:
    """Click, return the voxel that the server got, and undo."""
    before = served.reading.state()["revision"]
    page.mouse.click(*place)
    page.wait_for_function(f"Number(document.body.dataset.revision) === {before + 1}")
    (voxel,) = points(served)
    page.keyboard.press("Control+z")
    page.wait_for_function(f"Number(document.body.dataset.revision) === {before + 2}")
    assert points(served) == []
    return voxel


@pytest.mark.parametrize("name", list(GRIDS))
def test_the_voxel_under_the_cursor_is_the_voxel_of_the_point(
    name: str, tmp_path: Path, open_page: Callable[[str], Any]
) -> None:
    with serving(make_reading(tmp_path, hot_case(GRIDS[name]))) as served:
        page = open_page(served.access.url)
        page.keyboard.press("m")  # the mask would hide the spots
        found = {}
        for _ in HOT_XYZ:
            page.keyboard.press("n")
            for third, view in enumerate(VIEWS):
                spots = dark_spots(page, ".row[data-name=PET]", third)
                for spot in spots:
                    found.setdefault(view, set()).add(click_and_take_back(page, served, spot))
    assert found == {view: {tuple(map(float, voxel)) for voxel in HOT_XYZ} for view in VIEWS}
