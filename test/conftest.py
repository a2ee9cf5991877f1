import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the challenge's golden results and data, which lies beside the repository and not in it."""
    folder = Path(os.environ.get("LESIONCLICK_SHARED", Path(__file__).parents[2] / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"no golden results in {folder}; set LESIONCLICK_SHARED to the folder that holds golden/ and data/")
    return folder
