"""What a process sets for its networks."""

import subprocess
import sys

import pytest

BLOCKS = """
import resource, sys
import torch
from lesionclick.network.device import keep_memory
if sys.argv[1] == "kept":
    keep_memory()
for turn in range(11):
    blocks = [torch.ones(4 * 2**20) for _ in range(4)]  # 16 MiB each
    blocks.clear()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt if turn == 0 else before
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="sets what Linux has")
def test_blocks_that_are_freed_are_not_cleared_again_by_the_system() -> None:
    faults = {}
    for setting in ("kept", "not kept"):
        command = [sys.executable, "-c", BLOCKS, setting]
        environment = {"PATH": "", "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        faults[setting] = int(done.stdout)
    pages = 10 * 4 * 4096
    assert faults["kept"] < 0.01 * pages
    assert faults["not kept"] > 0.1 * pages
