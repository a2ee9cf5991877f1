"""`test.sh` names the engine and the image in the environment."""

import os
from pathlib import Path

import pytest

from lesionclick.evaluation.engine import Engine
from lesionclick.evaluation.jobs import lay_out
from lesionclick.grand_challenge.interfaces import LESION_CLICKS
from lesionclick.prompts.points import Prompts

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def engine() -> Engine:
    if "CONTAINER_ENGINE" not in os.environ or "IMAGE" not in os.environ:
        pytest.skip("CONTAINER_ENGINE and IMAGE are not set; run ./test.sh")
    return Engine.find(os.environ["CONTAINER_ENGINE"], os.environ["IMAGE"])


@pytest.fixture
def case(tmp_path: Path) -> Path:
    """Give an `/input` of step 0."""
    sample = sorted(path for path in (ROOT / "test/input").iterdir() if path.is_dir())[0]
    lay_out(sample, tmp_path / "input", {LESION_CLICKS: Prompts()})
    return tmp_path / "input"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    folder = tmp_path / "output"
    folder.mkdir()
    folder.chmod(0o777)
    return folder
