from collections.abc import Iterator

import pytest

from lesionclick.evaluation.engine import Engine, ServerJob


@pytest.fixture(scope="session")
def server(engine: Engine) -> Iterator[ServerJob]:
    with engine.serve() as server:
        yield server
