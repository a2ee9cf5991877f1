"""Points are set, taken back and saved in a real browser; tabs agree, and a server that dies loses nothing."""

import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from helpers.screen import dark_spots, wait_for
from helpers.served_page import HOT_XYZ, TOKEN, hot_case, make_reading, serving, wait_until

from lesionclick.grand_challenge.click_files import read_clicks
from lesionclick.images import Volume

ROOT = Path(__file__).parents[2]
Open = Callable[[str], Any]


def centre_of(page: Any, selector: str, third: int = 0) -> tuple[float, float]:
    """Return the middle of one of the three slices of a row."""
    box = page.locator(selector).bounding_box()
    return box["x"] + box["width"] * (third + 0.5) / 3, box["y"] + box["height"] / 2


def kinds(clicks: Path) -> list[str]:
    return [one.kind for one in read_clicks(clicks)] if clicks.exists() else []


def test_points_are_set_taken_back_deleted_and_saved(tmp_path: Path, open_page: Open) -> None:
    clicks = tmp_path / "lesion-clicks.json"
    with serving(make_reading(tmp_path)) as served:
        page = open_page(served.access.url)
        x, y = centre_of(page, ".row[data-name=CT]")
        page.mouse.click(x, y)
        wait_until(lambda: kinds(clicks) == ["tumor"])
        page.mouse.click(x + 40, y, button="right")
        wait_until(lambda: kinds(clicks) == ["tumor", "background"])
        page.keyboard.press("Control+z")
        wait_until(lambda: kinds(clicks) == ["tumor"])
        page.keyboard.press("Control+y")
        wait_until(lambda: kinds(clicks) == ["tumor", "background"])
        wait_for(page, "document.querySelectorAll('.points button').length === 2")

        page.locator(".points button").nth(1).click()  # goes there, so that the slice shows the point
        page.mouse.click(x + 40, y)
        wait_until(lambda: kinds(clicks) == ["tumor"])
        page.keyboard.press("b")
        page.keyboard.press("Space")
        wait_until(lambda: kinds(clicks) == ["tumor", "background"])

        page.keyboard.press("Control+s")
        wait_for(page, "document.getElementById('message').textContent.startsWith('saved in')")
        page.reload()
        page.wait_for_selector("body[data-ready=true][data-final=true]")
        assert page.locator(".points button").count() == 2
        state = served.reading.state()
    saved = Volume.read(tmp_path / "mask.mha").array
    assert (saved == Volume.read(tmp_path / "mask.nii.gz").array).all()
    assert saved.sum() > len(HOT_XYZ)
    assert [one.point_xyz for one in read_clicks(clicks)] == [mark["voxel"] for mark in state["marks"]]
    assert len((tmp_path / "lesions.csv").read_text().splitlines()) == len(state["findings"]["lesions"]) + 2


def test_two_tabs_see_the_same(tmp_path: Path, open_page: Open) -> None:
    with serving(make_reading(tmp_path)) as served:
        one, other = open_page(served.access.url), open_page(served.address)
        one.mouse.click(*centre_of(one, ".row[data-name=PET]"))
        wait_for(other, "document.querySelectorAll('.points button').length === 1")
        wait_until(lambda: served.reading.state()["final"])
        mask = served.reading.state()["mask"]
        for tab in (one, other):
            wait_for(tab, f"document.body.dataset.mask === '{mask}'")
        other.keyboard.press("Control+z")
        wait_for(one, "document.querySelectorAll('.points button').length === 0")


def test_the_page_answers_while_the_network_works(tmp_path: Path, open_page: Open) -> None:
    reading = make_reading(tmp_path)
    session = reading.study._session  # type: ignore[attr-defined]
    with serving(reading) as served:
        page = open_page(served.access.url)
        session.pause_s = 1000.0
        x, y = centre_of(page, ".row[data-name=PET]")
        page.mouse.click(x, y)
        wait_until(lambda: not served.reading.state()["final"])
        wait_for(page, "/first mask.*computing/.test(document.getElementById('progress').textContent)")
        page.mouse.click(x + 30, y)
        wait_until(lambda: len(served.marks) == 2)
        session.pause_s = 0.0
        page.keyboard.press("Control+z")
        page.wait_for_selector("body[data-final=true]")
        assert len(served.marks) == 1


def test_the_mask_and_the_windows_change_what_is_seen(tmp_path: Path, open_page: Open) -> None:
    with serving(make_reading(tmp_path, hot_case())) as served:
        page = open_page(served.access.url)
        page.keyboard.press("n")
        wait_until(lambda: len(dark_spots(page, ".row[data-name=PET]", 0)) != 2)  # the mask is drawn after its table
        page.keyboard.press("m")
        wait_until(lambda: len(dark_spots(page, ".row[data-name=PET]", 0)) == 2)
        page.keyboard.press("?")
        assert page.locator("#keys").is_visible()


@contextmanager
def command(case: Path, output: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    """Run `lesionclick view` as a user does."""
    arguments = [sys.executable, "-m", "lesionclick.cli", "view", str(case), "--output", str(output)]
    environment = os.environ | {"LESIONCLICK_TOKEN": TOKEN, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [*arguments, "--port", str(port), "--no-browser"], env=environment, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert process.stdout is not None
        wait_until(lambda: process.stdout.readline().startswith("open: "), 300)  # type: ignore[union-attr]
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_server_that_dies_and_comes_back_with_the_embedded_model(tmp_path: Path, open_page: Open) -> None:
    case, clicks = ROOT / "test/input/sts_002", tmp_path / "lesion-clicks.json"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with command(case, tmp_path, port) as process:
        page = open_page(f"http://127.0.0.1:{port}/?token={TOKEN}")
        before = page.locator("#panel tfoot").inner_text()
        page.mouse.click(*centre_of(page, ".row[data-name=PET]", 1), button="right")
        wait_until(lambda: kinds(clicks)[20:] == ["background"])
        wait_for(
            page, f"![undefined, {json.dumps(before)}].includes(document.querySelector('#panel tfoot')?.innerText)"
        )
        process.send_signal(signal.SIGSTOP)  # takes connections and says nothing
        page.wait_for_selector("#banner:not([hidden])")
        process.send_signal(signal.SIGCONT)
        page.wait_for_selector("#banner", state="hidden")
        process.send_signal(signal.SIGKILL)
        page.wait_for_selector("#banner:not([hidden])")
        page.mouse.click(*centre_of(page, ".row[data-name=PET]", 0))
        wait_for(page, "document.getElementById('message').textContent.includes('did not get this')")
        page.get_by_role("button", name="CSV").click()  # and the page is still there
        wait_for(page, "document.querySelectorAll('.points button').length === 21")
    with command(case, tmp_path, port):
        page.wait_for_selector("#banner", state="hidden")
        wait_for(page, "document.querySelectorAll('.points button').length === 21")
        page.wait_for_selector("body[data-ready=true][data-final=true]")
    assert len(kinds(clicks)) == 21


def test_the_table_is_taken_home_as_a_file(tmp_path: Path, open_page: Open) -> None:
    with serving(make_reading(tmp_path)) as served:
        page = open_page(served.access.url)
        with page.expect_download() as download:
            page.get_by_role("button", name="CSV").click()
        assert download.value.suggested_filename == "lesions.csv"
        assert Path(download.value.path()).read_text() == served.reading.final_answer().csv


def test_a_mask_that_cannot_be_fetched_is_told_until_it_can(
    tmp_path: Path, open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_scan: str) -> Volume:
        raise OSError(28, "No space left on device")

    message = "document.getElementById('message').textContent"
    with serving(make_reading(tmp_path)) as served:
        page = open_page(served.access.url)
        with monkeypatch.context() as failing:
            failing.setattr(served.reading, "mask", fail)
            page.mouse.click(*centre_of(page, ".row[data-name=PET]"))
            wait_for(page, f"{message}.includes('not the newest')")
        wait_for(page, f"{message} === ''")
        assert page.evaluate("document.body.dataset.mask") == str(served.reading.state()["mask"])


def test_a_click_that_got_lost_is_told_though_the_next_one_did_not(tmp_path: Path, open_page: Open) -> None:
    with serving(make_reading(tmp_path)) as served:
        page = open_page(served.access.url)
        page.route("**/api/points", lambda route: route.abort(), times=1)
        x, y = centre_of(page, ".row[data-name=PET]")
        page.mouse.click(x, y)
        page.mouse.click(x + 40, y)
        wait_for(page, "document.querySelectorAll('.points button').length === 1")
        assert "did not get this" in page.locator("#message").inner_text()


def test_the_projection_is_completed_when_the_server_is_back(tmp_path: Path, open_page: Open) -> None:
    with serving(make_reading(tmp_path)) as served:
        page = open_page(served.access.url)
        page.route("**/api/projection/5", lambda route: route.abort(), times=1)
        page.reload()
        wait_for(page, "document.getElementById('message').textContent.includes('projection is not complete')")
        page.wait_for_selector("body[data-frames='36']", state="attached")
        wait_for(page, "document.getElementById('message').textContent === ''")


def test_keys_wait_until_all_images_are_there(tmp_path: Path, open_page: Open) -> None:
    with serving(make_reading(tmp_path)) as served:
        page = open_page(served.access.url)
        held: list[Any] = []
        page.route("**/api/scans/ct.nii", lambda route: held.append(route))
        page.reload()
        wait_until(lambda: page.wait_for_timeout(20) or bool(held))
        page.mouse.click(*centre_of(page, ".row[data-name=PET]"))
        for key in ("m", "Space", "ArrowUp", "r"):
            page.keyboard.press(key)
        held[0].continue_()
        page.wait_for_selector("body[data-ready=true][data-final=true]")
        assert served.marks == []


def test_a_session_that_failed_is_told_in_all_tabs_until_it_works_again(
    tmp_path: Path, open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: Any) -> Iterator[Any]:
        raise RuntimeError("no luck")

    message = "document.getElementById('message').textContent"
    with serving(make_reading(tmp_path)) as served:
        one, other = open_page(served.access.url), open_page(served.address)
        with monkeypatch.context() as failing:
            failing.setattr(served.reading.study, "answers", fail)
            one.mouse.click(*centre_of(one, ".row[data-name=PET]"))
            for tab in (one, other):
                wait_for(tab, f"{message}.includes('no luck')")
                assert tab.locator("#progress").inner_text() == "failed"
                assert "computed" not in tab.locator("#panel").inner_text()
        one.keyboard.press("Control+z")
        for tab in (one, other):
            wait_for(tab, f"{message} === '' && document.body.dataset.final === 'true'")
            assert tab.locator("#warnings").is_hidden()


def test_a_browser_that_cannot_draw_is_told_so(tmp_path: Path, browser: Any) -> None:
    """Such as one without a graphics driver, on a remote desktop."""
    page = browser.new_page()
    page.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
    with serving(make_reading(tmp_path)) as served:
        page.goto(served.access.url)
        page.wait_for_selector("#banner:not([hidden])")
        assert "WebGL 2" in page.locator("#banner").inner_text()
    page.close()


def test_what_was_warned_of_stays_over_the_slices(tmp_path: Path, open_page: Open) -> None:
    reading = make_reading(tmp_path)
    with serving(reading) as served:
        assert open_page(served.access.url).locator("#warnings").is_hidden()
        reading.study.warnings = ("PET: looks like Bq/ml", "CT: covers 80 %")
        page = open_page(served.access.url)
        assert page.locator("#warnings").inner_text().splitlines() == list(reading.study.warnings)
        logger, answers = logging.getLogger("lesionclick.longitudinal.registration"), reading.study.answers

        def warn(marks: Any, budget: Any) -> Iterator[Any]:
            logger.warning("registration: the affine alignment counts")
            yield from answers(marks, budget)

        reading.study.answers = warn  # type: ignore[method-assign]
        page.mouse.click(*centre_of(page, ".row[data-name=PET]"))
        wait_for(page, "document.getElementById('warnings').innerText.endsWith('the affine alignment counts')")


def test_a_browser_without_the_token_sees_nothing(tmp_path: Path, browser: Any) -> None:
    with serving(make_reading(tmp_path)) as served:
        page = browser.new_page()
        assert page.goto(served.address).status == 403
        page.close()
