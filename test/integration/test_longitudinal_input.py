"""Task 2 through the container's entry point: all interfaces, bad cases, and what is written."""

import importlib.util
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import SimpleITK as sitk
from helpers.case_folder import write_case
from helpers.longitudinal_folder import (
    FOLLOWUP_POINTS,
    baseline_ct,
    baseline_mask,
    followup_ct,
    image_path,
    on_grid_of,
    write_baseline,
    write_followup,
    write_longitudinal_case,
)
from helpers.model_folder import write_model_folder

from lesionclick.grand_challenge.interfaces import PRIMARY, SECONDARY, Region
from lesionclick.prompts.encodings import LesionPair
from lesionclick.prompts.spec import PromptSpec

SCRIPT = Path(__file__).parents[2] / "inference.py"
PAIR = PromptSpec(LesionPair(radius=10.0, mask_mm=8.0))
REGIONS = {"primary": PRIMARY, "secondary": SECONDARY}


@pytest.fixture(scope="module")
def inference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("inference", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Task 2 model folder that works, with random weights."""
    return write_model_folder(tmp_path_factory.mktemp("model"), prompt=PAIR, patch_size=(8, 16, 16))


@pytest.fixture
def main(inference: ModuleType, model: Path, tmp_path: Path) -> Callable[..., int]:
    """`inference.py` on the test's case, in this process."""

    def run(model: Path = model) -> int:
        folders = ["--input", str(tmp_path / "input"), "--output", str(tmp_path / "output")]
        return inference.main([*folders, "--model", str(model)])

    return run


@pytest.fixture
def case(tmp_path: Path) -> Path:
    return write_longitudinal_case(tmp_path / "input")


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def mask_of(region: Region) -> str:
    return f"{region.mask.socket.relative_path}/{image_path(Path(), region.followup_ct).name}"


def read_numbers(path: Path) -> set[int]:
    return set(np.unique(sitk.GetArrayFromImage(sitk.ReadImage(str(path)))).tolist()) - {0}


@pytest.mark.parametrize(
    ("baselines", "followups"),
    [
        (["primary"], ["primary"]),
        (["primary", "secondary"], ["primary", "secondary"]),
        (["primary", "secondary"], ["primary"]),
        (["primary"], ["primary", "secondary"]),
    ],
)
def test_each_interface_gives_one_mask_for_each_followup(
    main: Callable[..., int], tmp_path: Path, baselines: list[str], followups: list[str]
) -> None:
    regions = [[REGIONS[name] for name in names] for names in (baselines, followups)]
    write_longitudinal_case(tmp_path / "input", *regions)
    assert main() == 0
    assert files_in(tmp_path / "output") == sorted(mask_of(region) for region in regions[1])
    for region in regions[1]:
        mask = sitk.ReadImage(str(tmp_path / "output" / mask_of(region)))
        assert mask.GetPixelID() == sitk.sitkUInt8
        assert mask.IsSameImageGeometryAs(followup_ct(), 0, 0)
        assert read_numbers(tmp_path / "output" / mask_of(region)) == set(FOLLOWUP_POINTS)


def test_the_first_step_has_no_followup_point(main: Callable[..., int], case: Path, tmp_path: Path) -> None:
    write_followup(case, points={})
    assert main() == 0
    assert files_in(tmp_path / "output") == [mask_of(PRIMARY)]
    assert read_numbers(tmp_path / "output" / mask_of(PRIMARY)) <= {1, 2}


@pytest.mark.parametrize(
    "empty",
    [
        pytest.param({"mask": baseline_mask() * 0, "points": {}}, id="no lesion in mask and points"),
        pytest.param({"mask": baseline_mask() * 0}, id="empty mask"),
        pytest.param({"points": {}}, id="mask without points"),
    ],
)
def test_what_a_baseline_lacks_is_no_error(
    main: Callable[..., int], case: Path, tmp_path: Path, empty: dict[str, object]
) -> None:
    write_baseline(case, **empty)
    assert main() == 0
    assert read_numbers(tmp_path / "output" / mask_of(PRIMARY)) == set(FOLLOWUP_POINTS)


def test_no_lesion_at_all_gives_an_empty_mask(main: Callable[..., int], case: Path, tmp_path: Path) -> None:
    write_baseline(case, mask=baseline_mask() * 0, points={})
    write_followup(case, points={})
    assert main() == 0
    assert read_numbers(tmp_path / "output" / mask_of(PRIMARY)) == set()


def test_large_numbers_are_kept(main: Callable[..., int], case: Path, tmp_path: Path) -> None:
    write_followup(case, points={60_000: (4.0, 7.0, 6.0)})
    assert main() == 0
    assert read_numbers(tmp_path / "output" / mask_of(PRIMARY)) == {60_000}
    assert sitk.ReadImage(str(tmp_path / "output" / mask_of(PRIMARY))).GetPixelID() == sitk.sitkUInt16


def test_another_part_of_the_body_is_told_and_the_points_count(
    main: Callable[..., int], case: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # air everywhere but in a corner: no body that could overlap
    empty = np.full(sitk.GetArrayFromImage(followup_ct()).shape, -1000, dtype=np.int16)
    write_followup(case, ct=on_grid_of(followup_ct(), empty))
    assert main() == 0
    assert "expected the same part of the body, found an overlap of 0.00" in caplog.text
    assert read_numbers(tmp_path / "output" / mask_of(PRIMARY)) == set(FOLLOWUP_POINTS)


def twice(case: Path) -> None:
    content = {"version": {"major": 1, "minor": 0}, "type": "Multiple points"}
    points = [{"name": name, "point": [1, 2, 3]} for name in ("1", "Lesion 1")]
    (case / PRIMARY.followup_clicks.relative_path).write_text(json.dumps({**content, "points": points}))


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def shifted_mask() -> sitk.Image:
    mask = baseline_mask()
    mask.SetOrigin((0.0, 0.0, 0.0))
    return mask


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(twice, "found lesion 1 again", id="lesion number twice"),
        pytest.param(
            lambda case: (case / PRIMARY.baseline_clicks.relative_path).unlink(), "expected", id="no baseline points"
        ),
        pytest.param(lambda case: shutil.rmtree(case / PRIMARY.baseline_mask.relative_path), "expected", id="no mask"),
        pytest.param(
            lambda case: write_followup(case, SECONDARY) or shutil.rmtree(case / PRIMARY.followup_ct.relative_path),
            "two baselines, one follow-up",
            id="unknown set of sockets",
        ),
        pytest.param(lambda case: cut_off(image_path(case, PRIMARY.followup_ct)), "bytes of voxels", id="truncated CT"),
        pytest.param(lambda case: write_baseline(case, mask=shifted_mask()), "must lie on one grid", id="other grid"),
        pytest.param(
            lambda case: write_baseline(case, mask=sitk.Cast(baseline_mask(), sitk.sitkFloat32) * 0.5),
            "whole numbers",
            id="mask of fractions",
        ),
        pytest.param(lambda case: write_baseline(case, mask=baseline_ct() - 500), "found", id="negative mask"),
    ],
)
def test_bad_case_ends_with_1_one_line_and_no_output_folder(
    main: Callable[..., int],
    case: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Path], object],
    message: str,
) -> None:
    spoil(case)
    assert main() == 1
    (record,) = (record for record in caplog.records if record.levelno >= logging.ERROR)
    assert message in record.getMessage()
    assert len(record.getMessage().splitlines()) == 1
    assert not (tmp_path / "output").exists()


def test_a_model_of_the_other_task_ends_with_2(
    main: Callable[..., int], case: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert main(model=write_model_folder(tmp_path / "other", patch_size=(16, 16, 16))) == 2
    assert "expected a model of task2, by the inputs of the case" in caplog.text
    shutil.rmtree(case)
    write_case(case)
    assert main() == 2
    assert "expected a model of task1, by the inputs of the case" in caplog.text
    assert not (tmp_path / "output").exists()


def test_a_transposed_model_is_refused(
    main: Callable[..., int], case: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert case.is_dir()
    folder = write_model_folder(tmp_path / "turned", prompt=PAIR, patch_size=(8, 16, 16), transpose=(1, 0, 2))
    assert main(model=folder) == 2
    assert "expected transpose_forward [0, 1, 2] in plans.json of a model of task2, found [1, 0, 2]" in caplog.text
