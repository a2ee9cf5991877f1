"""The Python lines of the README, as a reader would run them in an empty folder."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "test/input/sts_002"


@pytest.fixture(scope="module")
def lines() -> str:
    """The README's one block of Python."""
    (block,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    return block


@pytest.fixture(scope="module")
def folder(lines: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the sample case's images, after the lines were run there; what they printed is in ``printed``."""
    folder = tmp_path_factory.mktemp("readme")
    for kind in ("ct", "pet"):
        shutil.copy(next((SAMPLE / "images" / kind).iterdir()), folder / f"{kind}.mha")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", lines], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (folder / "printed").write_text(done.stdout, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def mask(folder: Path) -> NDArray[np.uint8]:
    """The mask as an array (z, y, x)."""
    return sitk.GetArrayFromImage(sitk.ReadImage(folder / "mask.mha"))


def test_at_most_ten_lines(lines: str) -> None:
    assert len([line for line in lines.splitlines() if line.strip()]) <= 10


def test_mask_lies_on_the_pet(folder: Path) -> None:
    mask, pet = (sitk.ReadImage(folder / name) for name in ("mask.mha", "pet.mha"))
    assert mask.IsSameImageGeometryAs(pet)
    assert mask.GetPixelID() == sitk.sitkUInt8


def test_mask_is_most_of_the_tumour(mask: NDArray[np.uint8]) -> None:
    assert np.unique(mask).tolist() == [0, 1]
    truth = sitk.GetArrayFromImage(sitk.ReadImage(ROOT / "test/labels/sts_002.mha"))
    overlap = 2 * (mask * truth).sum() / (mask.sum() + truth.sum())
    assert overlap > 0.7  # 0.79 with the first clicks of the sample case


def test_mask_obeys_the_clicks(lines: str, mask: NDArray[np.uint8]) -> None:
    clicks = re.findall(r'add\("(\w+)", \((\d+), (\d+), (\d+)\)\)', lines)
    assert [kind for kind, *_ in clicks] == ["tumor", "background"]
    for kind, *point_xyz in clicks:
        x, y, z = map(int, point_xyz)
        assert mask[z, y, x] == (kind == "tumor"), kind


def test_the_number_of_voxels_is_printed(folder: Path, mask: NDArray[np.uint8]) -> None:
    assert (folder / "printed").read_text(encoding="utf-8").split()[0] == str(mask.sum())
