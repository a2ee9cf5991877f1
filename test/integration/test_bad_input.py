"""Bad cases and bad surroundings through the container's entry point: exit code, message, and nothing written."""

import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import SimpleITK as sitk
from helpers.case_folder import CT_NAME, change_header, ct_path, pet_path, write_case
from helpers.model_folder import write_model_folder
from helpers.read_only import read_only_folder

from lesionclick.errors import InputError
from lesionclick.petct.session import PetCtSession

SCRIPT = Path(__file__).parents[2] / "inference.py"
MASK = f"images/tumor-lesion-segmentation/{CT_NAME}.mha"


@pytest.fixture(scope="module")
def inference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("inference", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that works, with random weights."""
    return write_model_folder(tmp_path_factory.mktemp("model"), patch_size=(16, 16, 16), spacing_zyx=(5.0, 4.5, 4.0))


@pytest.fixture
def case(tmp_path: Path) -> Path:
    return write_case(tmp_path / "input")


@pytest.fixture
def main(inference: ModuleType, model: Path, case: Path, tmp_path: Path) -> Callable[..., int]:
    """`inference.py` on the test's case, in this process."""

    def run(model: Path = model, output: Path = tmp_path / "output") -> int:
        return inference.main(["--input", str(case), "--output", str(output), "--model", str(model)])

    return run


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def errors_in(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.levelno >= logging.ERROR]


def rewrite(path: Path, change: Callable[[sitk.Image], sitk.Image]) -> None:
    sitk.WriteImage(change(sitk.ReadImage(str(path))), str(path), useCompression=True)


def set_voxel(image: sitk.Image, value: float) -> sitk.Image:
    image[5, 6, 7] = value
    return image


def shift(image: sitk.Image, mm: float) -> sitk.Image:
    x, y, z = image.GetOrigin()
    image.SetOrigin((x + mm, y, z))
    return image


def write_points(case: Path, *points: object) -> None:
    content = {"version": {"major": 1, "minor": 0}, "type": "Multiple points", "points": points}
    (case / "lesion-clicks.json").write_text(json.dumps(content))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def link_out(path: Path) -> None:
    outside = path.rename(path.parents[3] / "outside.mha")
    path.symlink_to(outside)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        pytest.param(shutil.rmtree, "input: expected the folder of a case", id="no input folder"),
        pytest.param(lambda case: ct_path(case).unlink(), "images/ct: expected exactly one file", id="no CT"),
        pytest.param(lambda case: shutil.rmtree(case / "images" / "pet"), "found ['images/ct'", id="no PET folder"),
        pytest.param(lambda case: (case / "lesion-clicks.json").unlink(), "found ['images/ct'", id="no clicks"),
        pytest.param(lambda case: (case / "images/mr").mkdir(), "'images/mr'", id="an unknown socket"),
        pytest.param(lambda case: (case / "inputs.json").write_text("{"), "inputs.json: expected", id="broken listing"),
        pytest.param(
            lambda case: shutil.copy(pet_path(case), pet_path(case).with_name("b.mha")), "found 2: ", id="two PETs"
        ),
        pytest.param(lambda case: truncate(pet_path(case)), "bytes of voxels", id="truncated PET"),
        pytest.param(lambda case: ct_path(case).write_bytes(b""), "ct.mha: expected an image", id="empty CT"),
        pytest.param(lambda case: link_out(pet_path(case)), "found a link to", id="link out of the folder"),
        pytest.param(
            lambda case: rewrite(pet_path(case), lambda pet: shift(pet, 0.002)), "0.002 mm apart", id="other grid"
        ),
        pytest.param(lambda case: rewrite(ct_path(case), lambda ct: ct[1:]), "their sizes", id="other size"),
        pytest.param(
            lambda case: rewrite(pet_path(case), lambda pet: sitk.JoinSeries([pet, pet])), "found 4-D", id="4-D"
        ),
        pytest.param(
            lambda case: rewrite(ct_path(case), lambda ct: sitk.Compose([ct, ct])), "3-D with 2", id="vectors"
        ),
        pytest.param(lambda case: change_header(pet_path(case), "DimSize", "0 18 16"), "found 0 in", id="no voxels"),
        pytest.param(
            lambda case: change_header(ct_path(case), "DimSize", "9999 9999 9999"),
            "found 999700029999",
            id="absurd size",
        ),
        pytest.param(
            lambda case: rewrite(pet_path(case), lambda pet: set_voxel(pet, np.nan)), "found 1 NaN", id="NaN voxel"
        ),
        pytest.param(
            lambda case: rewrite(pet_path(case), lambda pet: set_voxel(pet, np.inf)), "1 infinite", id="infinite voxel"
        ),
        pytest.param(lambda case: rewrite(pet_path(case), lambda pet: pet * 0), "in every voxel", id="constant PET"),
        pytest.param(
            lambda case: write_points(case, {"name": "lesion", "point": [1, 2, 3]}), "found 'lesion'", id="unknown name"
        ),
        pytest.param(
            lambda case: write_points(case, {"name": "tumor", "point": [1, 2]}),
            "point 0: expected three",
            id="2-vector",
        ),
        pytest.param(lambda case: (case / "lesion-clicks.json").write_text("x"), "expected JSON", id="no JSON"),
        pytest.param(lambda case: os.truncate(case / "lesion-clicks.json", 50_000_000), "at most", id="50 MB"),
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
    (record,) = errors_in(caplog)
    assert message in record.getMessage()
    assert len(record.getMessage().splitlines()) == 1
    assert record.exc_info is None
    assert not (tmp_path / "output").exists()


def test_good_case_gives_one_mask_on_the_pets_grid(
    main: Callable[..., int], case: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert main() == 0
    assert errors_in(caplog) == []
    assert files_in(tmp_path / "output") == [MASK]
    mask, pet = sitk.ReadImage(str(tmp_path / "output" / MASK)), sitk.ReadImage(str(pet_path(case)))
    assert mask.GetPixelID() == sitk.sitkUInt8
    assert mask.IsSameImageGeometryAs(pet, 0, 0)
    voxels = sitk.GetArrayFromImage(mask)
    assert set(np.unique(voxels)) <= {0, 1}
    assert (voxels[8, 7, 6], voxels[3, 2, 1]) == (1, 0)  # the clicks


@pytest.mark.parametrize(
    ("spoil", "warning"),
    [
        pytest.param(
            lambda case: rewrite(pet_path(case), lambda pet: set_voxel(pet, 5e4)), "looks like Bq/ml", id="Bq/ml"
        ),
        pytest.param(
            lambda case: rewrite(ct_path(case), lambda ct: shift(ct, 0.0005)), "differ by rounding", id="rounded grid"
        ),
        pytest.param(
            lambda case: write_points(case, {"name": "tumor", "point": [20, 0, 0]}),
            "and are ignored",
            id="click outside",
        ),
        pytest.param(
            lambda case: write_points(case, {"name": "background", "point": [2.5, 0, 0]}), "half to even", id="fraction"
        ),
        pytest.param(
            lambda case: write_points(case, *[{"name": "tumor", "point": [2, 3, 4]}] * 2), "and are kept", id="repeated"
        ),
    ],
)
def test_tolerated_oddity_is_one_warning_and_a_mask(
    main: Callable[..., int],
    case: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    spoil: Callable[[Path], object],
    warning: str,
) -> None:
    spoil(case)
    assert main() == 0
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and "CUDA" not in r.getMessage()]
    assert len(warnings) == 1
    assert warning in warnings[0]
    assert files_in(tmp_path / "output") == [MASK]


@pytest.mark.parametrize(
    "points", [(), ({"name": "background", "point": [1, 2, 3]},)], ids=["no click", "background alone"]
)
def test_steps_without_tumor_clicks_are_ordinary(
    main: Callable[..., int], case: Path, tmp_path: Path, points: tuple[object, ...]
) -> None:
    write_points(case, *points)
    assert main() == 0
    assert files_in(tmp_path / "output") == [MASK]


@pytest.mark.parametrize("spoiled", ["plans.json", "dataset.json", "fold_0", "fold_0/checkpoint_final.pth"])
def test_broken_model_ends_with_2_and_one_message(
    main: Callable[..., int], model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, spoiled: str
) -> None:
    broken = Path(shutil.copytree(model, tmp_path / "broken"))
    (broken / spoiled).rename(tmp_path / "gone")
    assert main(model=broken) == 2
    (record,) = errors_in(caplog)
    assert str(broken) in record.getMessage()
    assert record.exc_info is None
    assert not (tmp_path / "output").exists()


def test_missing_model_ends_with_2(main: Callable[..., int], tmp_path: Path) -> None:
    assert main(model=tmp_path / "none") == 2


def test_output_that_cannot_be_written_ends_with_1_before_the_network_runs(
    main: Callable[..., int],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "output").touch()
    monkeypatch.setattr(PetCtSession, "segment", lambda *_, **__: pytest.fail("the network ran"))
    assert main() == 1
    (record,) = errors_in(caplog)
    assert f"expected a folder that user {os.getuid()} can write" in record.getMessage()


def test_read_only_output_ends_with_1(main: Callable[..., int], tmp_path: Path) -> None:
    output = read_only_folder(tmp_path / "output")
    assert main(output=output) == 1
    assert not [name for name in files_in(output) if name.endswith(".mha")]


@pytest.mark.parametrize(("error", "code"), [(InputError("late"), 1), (MemoryError("full"), 3), (KeyError("x"), 3)])
def test_failure_while_predicting_leaves_no_file(
    main: Callable[..., int],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    code: int,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(PetCtSession, "segment", fail)
    assert main() == code
    (record,) = errors_in(caplog)
    assert (record.exc_info is not None) == (code == 3)  # a traceback for the unexpected alone
    assert files_in(tmp_path / "output") == []


class TestProcess:
    """The same as a process, as the platform runs it."""

    @staticmethod
    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(SCRIPT), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def test_good_case(self, model: Path, case: Path, tmp_path: Path) -> None:
        done = self.run("--input", case, "--output", tmp_path / "output", "--model", model)
        assert done.returncode == 0, done.stderr
        assert files_in(tmp_path / "output") == [MASK]
        for stage in ("load model", "read case", "predict", "wrote"):
            assert stage in done.stdout
        assert "ERROR" not in done.stderr

    def test_bad_case_says_why_on_stderr_without_a_traceback(self, model: Path, case: Path, tmp_path: Path) -> None:
        pet_path(case).unlink()
        done = self.run("--input", case, "--output", tmp_path / "output", "--model", model)
        assert done.returncode == 1
        assert "images/pet: expected exactly one file" in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "output").exists()

    def test_help_explains(self) -> None:
        done = self.run("--help")
        assert done.returncode == 0
        for word in ("--input", "/input", "--output", "/output", "--model", "/opt/ml/model", "--trust-checkpoint"):
            assert word in done.stdout
