from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder with the golden results of the organisers' own scripts."""
    return Path(__file__).parent / "golden"
