"""Longitudinal cases in a real browser: two regions that count their lesions by the same numbers, and the keys."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from helpers.bright_lesions import BOX, GRID, OTHER, BrightIsLesion, baseline, followup
from helpers.screen import wait_for
from helpers.served_page import serving

from lesionclick.longitudinal.alignment import Alignment
from lesionclick.longitudinal.case import LongitudinalCase
from lesionclick.longitudinal.session import LongitudinalSession
from lesionclick.page.longitudinal import LongitudinalStudy
from lesionclick.page.places import ras_at
from lesionclick.page.reading import Reading
from lesionclick.page.records import Records

HERE = Alignment("centre", 1.0, np.eye(3), np.zeros(3))
CURRENT = "document.querySelector('#panel tr.current td').innerText"


def test_all_lesions_are_reached_and_the_right_row_is_marked(tmp_path: Path, open_page: Callable[[str], Any]) -> None:
    regions = ("primary", "secondary")
    case = LongitudinalCase(
        tuple(baseline(BOX, OTHER, region=one) for one in regions),
        tuple(followup(BOX, OTHER, region=one) for one in regions),
    )
    session = LongitudinalSession(BrightIsLesion(), case)  # type: ignore[arg-type]
    session._sources = [[(one, HERE)] for one in case.baselines]
    study = LongitudinalStudy(session, "a case")
    with serving(Reading(study, Records(tmp_path, tuple(study.click_files(()))))) as served:
        page = open_page(served.access.url)
        assert "looked for" in page.locator("#panel .empty").inner_text()
        for expected in ("1 primary", "2 primary", "1 secondary", "2 secondary", "1 primary"):
            page.keyboard.press("n")
            wait_for(page, f"{CURRENT} === '{expected}'")
        page.locator("#panel tbody tr", has_text="2 secondary").click()
        wait_for(page, f"{CURRENT} === '2 secondary'")
        served.reading.add("secondary-followup", "2", ras_at(GRID, OTHER[0]))
        wait_for(
            page, "[...document.querySelectorAll('.points button')].some((one) => one.innerText === '2 secondary')"
        )


def test_the_list_of_keys_tells_what_two_times_know_alone(tmp_path: Path, open_page: Callable[[str], Any]) -> None:
    case = LongitudinalCase((baseline(BOX),), (followup(BOX),))
    study = LongitudinalStudy(LongitudinalSession(BrightIsLesion(), case), "a case")  # type: ignore[arg-type]
    with serving(Reading(study, Records(tmp_path, tuple(study.click_files(()))))) as served:
        page = open_page(served.access.url)
        page.keyboard.press("?")
        told = page.locator("#keys").inner_text()
        assert "point of the chosen lesion" in told
        assert not any(word in told for word in ("tumour", "background", "MIP", "PET", "null"))
