"""Faults of the case with the image for the invoke API: one server, which goes on after each."""

from pathlib import Path

import pytest
from helpers.fault_table import FAULTS, Fault, write_good_case

from lesionclick.evaluation.engine import ServerJob
from lesionclick.evaluation.jobs import ReplayError


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.container], ids=lambda fault: fault.name)
def test_server_answers_with_its_status(fault: Fault, server: ServerJob, tmp_path: Path, output: Path) -> None:
    case = write_good_case(tmp_path / "case/input", fault.task)
    fault.spoil(case)
    if fault.status == 201:
        server(case, output)
    else:
        with pytest.raises(ReplayError, match=f"expected 201, found {fault.status}"):
            server(case, output)
    assert fault.message in server.log()
    assert len([path for path in output.rglob("*") if path.is_file()]) == (fault.status == 201)
    assert server.ask("ready", "0.1").returncode == 0
