"""`lesionclick suggest` on a small case with a model of random weights."""

import json
from pathlib import Path

import pytest
from helpers.case_folder import SIZE_XYZ, write_case
from helpers.longitudinal_folder import write_longitudinal_case
from helpers.model_folder import write_model_folder

from lesionclick.cli import main
from lesionclick.prompts.encodings import Ball
from lesionclick.prompts.spec import PromptSpec


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    folder = write_model_folder(
        tmp_path / "model", prompt=PromptSpec(Ball(radius=2.0)), patch_size=(16, 16, 16), spacing_zyx=(5.0, 4.5, 4.0)
    )
    return ["suggest", str(write_case(tmp_path / "case")), "--model", str(folder)]


def test_the_table_and_the_json_tell_the_same_places(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert main(arguments) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert "reason" in head
    assert 0 < len(found) == len(lines) <= 3
    for one, line in zip(found, lines, strict=True):
        assert one["kind"] in ("tumor", "background")
        assert all(0 <= p < n for p, n in zip(one["point_xyz"], SIZE_XYZ, strict=True))
        for text in (one["kind"], ", ".join(map(str, one["point_xyz"])), one["reason"]):
            assert text in line


def test_count_limits_the_places(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--json", "--count", "1"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 1


def test_a_longitudinal_case_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = write_longitudinal_case(tmp_path / "case")
    assert main(["suggest", str(case)]) == 1
    assert f"{case}: expected a PET/CT" in capsys.readouterr().err
