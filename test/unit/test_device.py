"""What a process sets for its networks."""

import subprocess
import sys

import pytest

TILES = """
import resource, sys
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from torch import nn
from lesionclick.network.acceleration import multiplies_bfloat16
from lesionclick.network.device import keep_memory
if sys.argv[1] == "kept":
    keep_memory()
network = PlainConvUNet(
    2, 4, [16, 32, 64, 128], nn.Conv3d, 3, [1, 2, 2, 2], 2, 2, 1, norm_op=nn.InstanceNorm3d, nonlin=nn.LeakyReLU
)
tile = torch.zeros(1, 2, 64, 48, 48)
counts = []
native = multiplies_bfloat16()  # to imitate it takes a minute for each tile
with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=native):
    for _ in range(12):
        network(tile)
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(counts[-1] - counts[3])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="sets what Linux has")
def test_the_system_clears_no_memory_for_a_tile_that_tiles_before_have_used() -> None:
    faults = {}
    for setting in ("kept", "not kept"):
        command = [sys.executable, "-c", TILES, setting]
        # the C library raises this threshold by itself, now and then so far that nothing is given back
        environment = {"PATH": "", "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "131072"}
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
        faults[setting] = int(done.stdout)
    layer = 16 * 64 * 48 * 48 * 4 / 4096  # pages of one layer's output
    assert faults["not kept"] > 8 * layer
    assert faults["kept"] < 2 * layer  # the heap may grow once more
