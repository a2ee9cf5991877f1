"""Which cases a cohort has, and what its command shows of them."""

import os
import pty
import re
import shutil
import sys
import termios
from contextlib import suppress
from pathlib import Path

import pytest

from lesionclick.cli import main
from lesionclick.cohort.cases import find_cohort
from lesionclick.cohort.work import CohortCase, Outcome
from lesionclick.commands.cohort import _follow
from lesionclick.errors import InputError


def test_cases_come_from_a_folder_a_list_or_a_pattern(cases: Path, tmp_path: Path) -> None:
    names = ["negative", "positive"]
    assert [case.name for case in find_cohort(cases)] == names
    assert find_cohort(cases / "positive") == [CohortCase("positive", cases / "positive")]
    (tmp_path / "list.txt").write_text("cases/positive\r\n# mine\r\n\r\ncases/negative\r\n", encoding="utf-8-sig")
    assert find_cohort(tmp_path / "list.txt") == [CohortCase(name, cases / name) for name in names]
    for subject in ("sub-02", "sub-01"):
        shutil.copytree(cases / "positive", tmp_path / "bids" / subject / "ses-1")
    found = find_cohort(tmp_path / "bids", "sub-*/ses-*")
    assert [case.name for case in found] == ["sub-01_ses-1", "sub-02_ses-1"]
    (tmp_path / "twice.txt").write_text("cases/positive\nbids/../cases/positive\n")
    with pytest.raises(InputError, match="another name for each case, found 1 twice, such as positive"):
        find_cohort(tmp_path / "twice.txt")
    with pytest.raises(InputError, match="match 'x-\\*'"):
        find_cohort(tmp_path / "bids", "x-*")
    for pattern in ("", "/abs/*"):
        with pytest.raises(InputError, match="expected a pattern of folders below it"):
            find_cohort(tmp_path / "bids", pattern)


@pytest.mark.parametrize("option", ["--exact", "--trust-checkpoint"])
def test_what_a_container_cannot_be_told_is_refused(
    cases: Path, tmp_path: Path, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["cohort", str(cases), "--output", str(tmp_path / "out"), "--container", "image", option]) == 1
    assert "expected no --exact and no --trust-checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("mounted", [False, True])
def test_labels_that_are_not_there_stop_the_command_before_any_case(
    cases: Path, tmp_path: Path, mounted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """A share that is not mounted may leave an empty folder."""
    labels = tmp_path / "share"
    if mounted:
        labels.mkdir()
    assert main(["cohort", str(cases), "--labels", str(labels), "--output", str(tmp_path / "out")]) == 1
    assert f"{labels}: expected a folder with labels, such as negative.mha" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_case_always_has_a_name_of_its_own(cases: Path) -> None:
    """Masks are called by it: without one, those of all cases would be taken for the case's."""
    (cases / "list.txt").write_text(".\npositive/..\n./negative/\n")
    with pytest.raises(InputError, match=f"found 1 twice, such as {cases.name}"):
        find_cohort(cases / "list.txt")
    (cases / "list.txt").write_text(".\nnegative/.\n")
    assert [case.name for case in find_cohort(cases / "list.txt")] == [cases.name, "negative"]
    assert "" not in {case.name for case in find_cohort(cases, "**")}
    for name in ("", ".", "..", "a/b"):
        with pytest.raises(InputError, match="name of its own"):
            CohortCase(name, cases)


def test_links_to_cases_are_called_by_their_own_names(cases: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "links" / name).mkdir(parents=True)
        (tmp_path / "links" / name / "images").symlink_to(cases / "positive" / "images")
        (tmp_path / f"{name}.link").symlink_to(cases / "positive")
    (tmp_path / "list.txt").write_text("one.link\ntwo.link\n")
    found = find_cohort(tmp_path / "list.txt")
    assert found == [CohortCase(f"{name}.link", cases / "positive") for name in ("one", "two")]


def test_the_command_tells_of_missing_labels_and_of_records_of_other_cases(
    cases: Path, tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels, out = tmp_path / "mine", tmp_path / "out"
    labels.mkdir()
    shutil.copy(cases.parent / "labels" / "positive.mha", labels)
    (out / "records").mkdir(parents=True)
    (out / "records" / "earlier.json").write_text("{")
    arguments = ["cohort", str(cases), "--labels", str(labels), "--output", str(out), "--model", str(folder)]
    assert main(arguments) != 0
    told = capsys.readouterr().err
    assert f"{labels}: 1 of 2 cases have no label, such as negative.mha" in told
    assert f"{out}: 1 records of cases that are not among these stay, such as earlier" in told


OUTCOMES = [Outcome("a", None, 1.25), Outcome("b", "no PET", 0.5)]


def test_each_case_is_a_line_of_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    assert _follow(OUTCOMES, 3, 5) == 1
    assert capsys.readouterr().err.splitlines() == ["4/5 a: 1.2 s, done", "5/5 b: 0.5 s, failed: no PET"]


def test_a_terminal_shows_rate_and_remaining_time_and_only_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        assert _follow(OUTCOMES, 3, 5) == 1
    shown = ""
    with suppress(OSError):  # at the end of what was written
        while part := os.read(ours, 2**16).decode():
            shown += part
    os.close(ours)
    assert "failed: no PET" in shown
    assert "a: 1.2 s" not in shown
    assert re.search(r"5/5 \[\d\d:\d\d<\d\d:\d\d, .*case.*failed=1\]", shown), shown
