import shutil
from pathlib import Path

import pytest
from helpers.model_folder import write_model_folder
from helpers.tiny_phantom import tiny_phantom


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    """A folder with `cases/{negative,positive}` in the platform's layout and `labels` beside it."""
    from lesionclick.evaluation.samples import write_sample

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
