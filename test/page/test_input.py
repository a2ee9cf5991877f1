"""Mouse and keys do what they say in a real browser, and no more: no second point, no point lost, no key lost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.longitudinal_folder import write_longitudinal_case
from helpers.screen import screenshot, wait_for
from helpers.served_page import GRIDS, HOT_XYZ, Served, hot_case, make_reading, serving, wait_until

from lesionclick.budget import Budget
from lesionclick.grand_challenge.case_folder import CaseFolder
from lesionclick.images import Volume
from lesionclick.longitudinal.case import LongitudinalCase
from lesionclick.longitudinal.labels import LesionPoints
from lesionclick.longitudinal.session import FollowupMask, LongitudinalSegmentation
from lesionclick.page.longitudinal import LongitudinalStudy
from lesionclick.page.places import ras_at
from lesionclick.page.reading import Reading
from lesionclick.page.records import Records

Open = Callable[[str], Any]
ROW = ".row[data-name=CT]"
LESION_1 = (60, 205, 255)
"""The colour of its point."""


def centre_of(page: Any, selector: str = ROW) -> tuple[float, float]:
    """Return the middle of the axial slice of a row."""
    box = page.locator(selector).bounding_box()
    return box["x"] + box["width"] / 6, box["y"] + box["height"] / 2


def kinds(served: Served) -> list[str]:
    return [mark["kind"] for mark in served.reading.state()["marks"]]


def wait_for_points(page: Any, count: int) -> None:
    """Wait until the page has heard of so many points."""
    wait_for(page, f"document.querySelectorAll('.points button').length === {count}")


def values(page: Any) -> str:
    return str(page.locator("#values").inner_text())


def is_painted(page: Any, place: tuple[float, float]) -> bool:
    """Tell whether something is drawn over the image at a place of the row."""
    return bool(
        page.evaluate(
            """([selector, x, y]) => {
                const over = document.querySelector(`${selector} canvas.over`);
                const box = over.getBoundingClientRect();
                const ratio = over.width / box.width;
                const at = [(x - box.left) * ratio, (y - box.top) * ratio].map(Math.round);
                return over.getContext("2d").getImageData(...at, 1, 1).data[3] > 0;
            }""",
            [ROW, *place],
        )
    )


def test_a_click_that_looks_and_a_double_click_lose_and_add_no_point(tmp_path: Path, open_page: Open) -> None:
    with serving(make_reading(tmp_path)) as served:
        page = open_page(served.access.url)
        x, y = centre_of(page)
        page.mouse.dblclick(x, y)
        page.mouse.dblclick(x + 40, y, button="right")
        wait_for_points(page, 2)
        page.keyboard.press("v")
        for button in ("left", "right"):
            page.mouse.click(x, y, button=button)
        page.keyboard.press("t")
        page.mouse.click(x - 40, y)
        wait_for_points(page, 3)
        assert kinds(served) == ["tumor", "background", "tumor"]

        page.mouse.dblclick(x - 40, y)
        wait_for_points(page, 2)
        page.mouse.click(x, y + 30)
        wait_for_points(page, 3)
        assert kinds(served) == ["tumor", "background", "tumor"]


def test_tumour_is_a_disc_and_background_a_ring(tmp_path: Path, open_page: Open) -> None:
    with serving(make_reading(tmp_path)) as served:
        page = open_page(served.access.url)
        x, y = centre_of(page)
        for dx, button, filled in ((0, "left", True), (40, "right", False)):
            page.mouse.click(x + dx, y, button=button)
            wait_for_points(page, 1 + dx // 40)
            page.locator(".points button").last.click()  # its slice
            place = disc_centre(page, (x + dx, y))
            assert is_painted(page, place) == filled
        shapes = "[...document.querySelectorAll('.points .dot')].map((dot) => getComputedStyle(dot).backgroundColor)"
        tumour, background = page.evaluate(shapes)
        assert (tumour, background) == ("rgb(255, 107, 87)", "rgba(0, 0, 0, 0)")


def disc_centre(page: Any, near: tuple[float, float]) -> tuple[float, float]:
    """Return the middle of the point that is drawn near a place."""
    pixels, (left, top) = screenshot(page, ROW)
    spread = pixels.max(axis=-1) - pixels.min(axis=-1)
    places = np.argwhere(spread > 90) + np.array([top, left])
    own = places[np.abs(places - (near[1], near[0])).max(axis=1) < 15]
    row, column = (own.min(axis=0) + own.max(axis=0)) / 2
    return float(column) + 0.5, float(row) + 0.5


def test_a_held_key_acts_once_but_goes_through_the_slices(tmp_path: Path, open_page: Open) -> None:
    with serving(make_reading(tmp_path)) as served:
        page = open_page(served.access.url)
        for _ in range(5):
            page.keyboard.down("Space")
        page.keyboard.up("Space")
        wait_until(lambda: len(kinds(served)) >= 1)
        before = values(page)
        page.keyboard.down("ArrowUp")
        once = values(page)
        page.keyboard.down("ArrowUp")
        assert len({before, once, values(page)}) == 3
        page.keyboard.up("ArrowUp")
        page.keyboard.press("Space")
        wait_until(lambda: len(kinds(served)) >= 2)
        assert len(kinds(served)) == 2


def test_with_a_slider_focused_the_plain_keys_are_its_own_and_the_others_act(tmp_path: Path, open_page: Open) -> None:
    with serving(make_reading(tmp_path)) as served:
        page = open_page(served.access.url)
        page.mouse.click(*centre_of(page))
        wait_until(lambda: len(kinds(served)) == 1)
        page.locator("#fusion").focus()
        before = values(page)
        page.keyboard.press("ArrowUp")
        assert page.locator("#fusion").input_value() == "0.65"
        page.keyboard.press("Control+z")
        wait_until(lambda: kinds(served) == [])
        page.locator("#window-ct").focus()
        page.keyboard.press("Control+y")
        wait_until(lambda: len(kinds(served)) == 1)
        wait_for_points(page, 1)
        assert values(page) == before

        page.mouse.click(*centre_of(page))  # gives the keys back to the views
        wait_until(lambda: kinds(served) == [])
        page.keyboard.press("Space")
        wait_until(lambda: len(kinds(served)) == 1)


def test_behind_the_list_of_keys_none_acts(tmp_path: Path, open_page: Open) -> None:
    with serving(make_reading(tmp_path)) as served:
        page = open_page(served.access.url)
        page.keyboard.press("Space")
        wait_until(lambda: len(kinds(served)) == 1)
        before = values(page)
        page.keyboard.press("?")
        for key in ("Control+z", "ArrowUp", "Space", "b"):
            page.keyboard.press(key)
        page.keyboard.press("Escape")
        wait_for(page, "!document.querySelector('dialog[open]')")
        assert values(page) == before
        page.keyboard.press("PageUp")
        page.keyboard.press("Space")
        wait_until(lambda: len(kinds(served)) >= 2)
        assert kinds(served) == ["tumor", "tumor"]


def test_the_focus_stays_in_the_table_when_its_lesions_change(tmp_path: Path, open_page: Open) -> None:
    with serving(make_reading(tmp_path, hot_case())) as served:
        page = open_page(served.access.url)
        page.locator("#panel tbody tr").nth(1).focus()
        page.evaluate("document.activeElement.isSame = true")
        page.evaluate("document.body.dataset.final = 'waiting'")
        with served.reading._lock:
            served.reading._tell()  # as a heartbeat, which changes nothing
        wait_for(page, "document.body.dataset.final === 'true'")
        assert page.evaluate("document.activeElement.isSame") is True
        page.keyboard.press("Enter")
        wait_for(page, "document.activeElement.className === 'current' && !document.activeElement.isSame")
        revision = served.reading.state()["revision"]
        served.reading.add("pet", "tumor", ras_at(GRIDS["identity"], (3, 3, 14)))
        wait_for(page, f"document.body.dataset.revision === '{revision + 1}' && document.body.dataset.final === 'true'")
        assert page.locator("#panel tbody tr").count() == len(HOT_XYZ) + 1
        assert page.evaluate("document.activeElement.dataset.key") == "lesion 2"


def test_a_failure_that_is_no_json_is_told_in_its_own_words(
    tmp_path: Path, open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> list[Path]:
        raise RuntimeError("nobody has foreseen this")

    with serving(make_reading(tmp_path)) as served:
        page = open_page(served.access.url)
        monkeypatch.setattr(served.reading, "save", fail)
        page.locator("#save").click()
        wait_for(page, "document.getElementById('message').textContent === 'Internal Server Error'")


def test_the_wheel_sideways_and_the_button_that_goes_back_do_nothing(tmp_path: Path, open_page: Open) -> None:
    with serving(make_reading(tmp_path)) as served:
        page = open_page(served.access.url)
        x, y = centre_of(page)
        page.mouse.move(x, y)
        before = values(page)
        page.mouse.wheel(100, 0)
        page.mouse.wheel(-100, 0)
        page.evaluate("addEventListener('pointerup', () => (document.body.dataset.up = 'true'), { capture: true })")
        page.evaluate("addEventListener('mouseup', (event) => event.preventDefault())")  # the page stays
        devices = page.context.new_cdp_session(page)
        button = {"x": x, "y": y, "button": "back", "buttons": 8, "clickCount": 1}
        for kind in ("mousePressed", "mouseReleased"):
            devices.send("Input.dispatchMouseEvent", {"type": kind, **button})
        wait_for(page, "document.body.dataset.up === 'true'")
        assert values(page) == before
        page.mouse.click(x, y, button="right")
        wait_for_points(page, 1)
        assert kinds(served) == ["background"]


def test_a_window_of_the_mouse_s_own_is_told_and_the_others_can_be_chosen_again(
    tmp_path: Path, open_page: Open
) -> None:
    with serving(make_reading(tmp_path)) as served:
        page = open_page(served.access.url)
        for name, menu, once, text in (("PET", "pet", "0-5", "0.0 to 7.5"), ("CT", "ct", "soft tissue", "-260 to 340")):
            x, y = centre_of(page, f".row[data-name={name}]")
            page.mouse.move(x, y)
            page.mouse.down(button="right")
            page.mouse.move(x + 100, y)
            page.mouse.up(button="right")
            selected = f"document.getElementById('window-{menu}').selectedOptions[0].text"
            assert page.evaluate(selected) == text
            page.locator(f"#window-{menu}").select_option(once)
            assert page.evaluate(selected) == once
        assert kinds(served) == []


def test_the_chosen_lesion_stays_the_chosen_one_under_another_number(tmp_path: Path, open_page: Open) -> None:
    with serving(make_reading(tmp_path, hot_case())) as served:
        page = open_page(served.access.url)
        page.keyboard.press("n")
        place = values(page)
        revision = served.reading.state()["revision"]
        served.reading.add("pet", "tumor", ras_at(GRIDS["identity"], (3, 3, 14)))  # the largest now
        wait_for(page, f"document.body.dataset.revision === '{revision + 1}' && document.body.dataset.final === 'true'")
        assert page.locator("#panel tr.current td").first.inner_text() == "2"
        page.locator("#panel tr.current").click()
        assert values(page) == place


def test_save_can_be_reached_in_a_narrow_window(tmp_path: Path, open_page: Open) -> None:
    with serving(make_reading(tmp_path)) as served:
        page = open_page(served.access.url)
        page.set_viewport_size({"width": 760, "height": 640})
        page.locator("#save").click()
        wait_for(page, "document.getElementById('message').textContent.startsWith('saved in')")
        for name in ("#save", "#help", "#message", "#progress"):
            box = page.locator(name).bounding_box()
            assert box["x"] + box["width"] <= 760


class PointsSession:
    """A session that needs no network: no lesion is found."""

    def __init__(self, case: LongitudinalCase) -> None:
        self.case = case

    def sources(self, _budget: Budget) -> list[list[Any]]:
        return [[] for _ in self.case.followups]

    def segment(self, _points: dict[str, LesionPoints], *, budget: Budget) -> LongitudinalSegmentation:
        budget.now()
        masks = {
            one.region: FollowupMask(Volume(np.zeros(one.ct.grid.shape_zyx, np.uint8), one.ct.grid), ())
            for one in self.case.followups
        }
        return LongitudinalSegmentation(masks, {})


def test_only_the_chosen_lesion_s_own_point_is_deleted(tmp_path: Path, open_page: Open) -> None:
    case = LongitudinalCase.read(CaseFolder.open(write_longitudinal_case(tmp_path / "case")))
    study = LongitudinalStudy(PointsSession(case), "a case")  # type: ignore[arg-type]
    with serving(Reading(study, Records(tmp_path / "out", tuple(study.click_files(()))))) as served:
        page = open_page(served.access.url)
        page.locator(".points button").first.click()
        pixels, (left, top) = screenshot(page, ".row[data-name='primary followup']")
        axial = pixels[:, : pixels.shape[1] // 3]
        row, column = np.argwhere((axial == LESION_1).all(axis=-1)).mean(axis=0)
        place = (left + float(column) + 0.5, top + float(row) + 0.5)
        page.keyboard.press("m")

        page.get_by_role("button", name="New: 3").click()
        page.mouse.click(*place)
        wait_for_points(page, 3)
        assert sorted(kinds(served)) == ["1", "2", "3"]
        page.locator(".points button").first.click()
        page.keyboard.press("v")
        page.mouse.click(*place)
        page.keyboard.press("t")
        page.mouse.click(*place)
        wait_until(lambda: len(kinds(served)) != 3)
        assert sorted(kinds(served)) == ["2", "3"]
