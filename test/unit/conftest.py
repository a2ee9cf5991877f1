import shutil
from pathlib import Path

import numpy as np
import pytest
from model_folder import write_model_folder

from lesionclick.evaluation.samples import write_sample
from lesionclick.images import Grid, Volume
from lesionclick.simulation.phantoms import Phantom

GRID = Grid(
    size_xyz=(12, 10, 20),
    spacing_xyz=(4.0, 4.0, 5.0),
    origin_xyz=(-24.0, -20.0, 100.0),
    direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
)


def tiny_phantom(lesions: bool = True) -> Phantom:
    """Two lesions of 27 and 8 voxels (SUV 9 and 6) and a hot organ of 64 voxels (SUV 20 to 26)."""
    label = np.zeros(GRID.shape_zyx, dtype=np.uint8)
    organs = np.zeros(GRID.shape_zyx, dtype=np.uint8)
    pet = np.random.default_rng(0).uniform(0.5, 1.0, GRID.shape_zyx).astype(np.float32)
    organs[14:18, 3:7, 4:8] = 1
    pet[organs > 0] = 20 + np.arange(64) / 10
    if lesions:
        label[2:5, 2:5, 2:5] = 1
        label[9:11, 6:8, 8:10] = 1
        pet[2:5, 2:5, 2:5] = 9
        pet[9:11, 6:8, 8:10] = 6
    ct = np.zeros(GRID.shape_zyx, dtype=np.int16)
    return Phantom(Volume(ct, GRID), Volume(pet, GRID), Volume(label, GRID), Volume(organs, GRID), "fdg")


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    """A folder with `cases/{negative,positive}` in the platform's layout and `labels` beside it."""
    for name, lesions in (("positive", True), ("negative", False)):
        write_sample(tiny_phantom(lesions), 5, tmp_path / "cases" / name, tmp_path / "labels" / f"{name}.mha")
    return tmp_path / "cases"


@pytest.fixture
def labels(cases: Path) -> Path:
    return cases.parent / "labels"


@pytest.fixture(scope="session")
def baseline_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model_folder(tmp_path_factory.mktemp("baseline"), patch_size=(16, 16, 16))


@pytest.fixture
def folder(baseline_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(baseline_folder, tmp_path / "model"))
