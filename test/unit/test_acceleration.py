"""How networks compute: which precision a device gets, and that a prepared network is the same function."""

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from helpers.model_folder import write_model_folder
from torch import nn

from lesionclick.network import acceleration
from lesionclick.network.acceleration import Arithmetic
from lesionclick.network.model_folder import read_model_folder

CPU, GPU = torch.device("cpu"), torch.device("cuda")
BFLOAT16 = Arithmetic(torch.bfloat16, exact=False)


@pytest.mark.parametrize(
    ("device", "native", "exact", "expected"),
    [
        (CPU, True, False, BFLOAT16),
        (CPU, False, False, Arithmetic(torch.float32, exact=False)),
        (CPU, True, True, Arithmetic(torch.float32, exact=True)),
        (GPU, True, False, Arithmetic(torch.float16, exact=False)),
        (GPU, False, True, Arithmetic(torch.float16, exact=True)),
    ],
)
def test_the_fastest_arithmetic_that_the_device_has(
    monkeypatch: pytest.MonkeyPatch, device: torch.device, native: bool, exact: bool, *, expected: Arithmetic
) -> None:
    monkeypatch.setattr(acceleration, "multiplies_bfloat16", lambda: native)
    assert Arithmetic.choose(device, exact=exact) == expected


@pytest.mark.parametrize(
    ("arithmetic", "device", "dtype"),
    [
        (BFLOAT16, CPU, torch.bfloat16),
        (Arithmetic(), CPU, torch.float32),
        (Arithmetic(torch.float16), CPU, torch.float32),  # a GPU's, whose memory did not suffice
    ],
)
def test_convolutions_run_in_its_precision(arithmetic: Arithmetic, device: torch.device, dtype: torch.dtype) -> None:
    with arithmetic.autocast(device):
        assert nn.Conv3d(1, 1, 1)(torch.zeros(1, 1, 2, 2, 2)).dtype == dtype


@pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet"])
def test_a_prepared_network_is_the_same_function(tmp_path: Path, kind: str) -> None:
    network = read_model_folder(write_model_folder(tmp_path, network=kind), task="task1", n_images=2).networks[0].eval()
    for module in network.modules():
        if isinstance(module, nn.InstanceNorm3d):  # trained ones are not ones and zeros
            nn.init.uniform_(module.weight, 0.5, 2.0)
            nn.init.uniform_(module.bias, -1.0, 1.0)
    prepared = BFLOAT16.prepare(deepcopy(network))
    assert not any(isinstance(module, nn.InstanceNorm3d) for module in prepared.modules())
    tile = torch.randn(1, 4, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        torch.testing.assert_close(prepared(tile), network(tile), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(1, 16, 12, 12, 12), (2, 16, 12, 12, 12), (1, 16, 4, 3, 3), (3, 5, 12, 12, 12)])
def test_the_norm_for_channels_last_is_the_instance_norm(shape: tuple[int, ...], *, training: bool) -> None:
    norm = nn.InstanceNorm3d(shape[1], affine=True).train(training)
    nn.init.uniform_(norm.weight, 0.5, 2.0)
    nn.init.uniform_(norm.bias, -1.0, 1.0)
    tile = (3 * torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 1).requires_grad_()
    weights = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    results = []
    for layer in (norm, acceleration.ChannelsLastInstanceNorm(norm)):
        tile.grad = norm.weight.grad = norm.bias.grad = None
        output = layer(tile.contiguous(memory_format=torch.channels_last_3d))
        (weights * output).sum().backward()
        results.append([output, tile.grad, norm.weight.grad, norm.bias.grad])
    assert layer.training == training
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_other_arithmetic_leaves_a_network_as_it_is(tmp_path: Path) -> None:
    network = read_model_folder(write_model_folder(tmp_path), task="task1", n_images=2).networks[0]
    assert Arithmetic().prepare(network) is network
    assert any(isinstance(module, nn.InstanceNorm3d) for module in network.modules())
