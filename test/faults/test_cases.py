"""Faults of the case, each with the entry point as a process and with a server."""

from pathlib import Path

import pytest
from helpers.entry_point import Server, files_in, run
from helpers.fault_table import FAULTS, Fault, write_good_case

faults = pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)


@faults
def test_process_ends_with_its_code_and_says_why(fault: Fault, tmp_path: Path) -> None:
    fault.spoil(write_good_case(tmp_path / "input", fault.task))
    code, log = run("--input", tmp_path / "input", "--output", tmp_path / "output")
    assert code == fault.code, log
    assert fault.message in log
    assert "Traceback" not in log
    assert len(files_in(tmp_path / "output")) == (code == 0)


@faults
def test_server_answers_with_its_status_and_goes_on(fault: Fault, server: Server) -> None:
    server.lay_out(lambda folder: fault.spoil(write_good_case(folder, fault.task)))
    before = len(server.log_file.read_text())
    status, body = server.ask("POST", "/invoke")
    assert status == fault.status, body
    log = server.log_file.read_text()[before:]
    assert fault.message in log
    assert "Traceback" not in log
    assert len(files_in(server.output_dir)) == (status == 201)
    assert server.handles_a_good_case(fault.task)
