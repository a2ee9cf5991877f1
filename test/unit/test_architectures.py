"""The network that sees the logarithm of the uptake."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from lesionclick.network.architectures import LogUptakeUNet

SUV_PER_UNIT = 5.0


@pytest.fixture
def network():
    torch.manual_seed(0)
    return LogUptakeUNet(
        3,
        suv_per_unit=SUV_PER_UNIT,
        n_stages=2,
        features_per_stage=[4, 8],
        conv_op=nn.Conv3d,
        kernel_sizes=[[3, 3, 3]] * 2,
        strides=[[1, 1, 1], [2, 2, 2]],
        n_conv_per_stage=[1, 1],
        num_classes=2,
        n_conv_per_stage_decoder=[1],
        nonlin=nn.LeakyReLU,
    ).eval()


def test_one_more_channel_holds_the_logarithm_of_the_uptake(network):
    seen = []
    network.encoder.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    x = torch.randn(1, 3, 4, 4, 4)
    with torch.no_grad():
        network(x)
    (given,) = seen
    assert given.shape == (1, 4, 4, 4, 4)
    torch.testing.assert_close(given[:, :3], x)
    suv = np.maximum(SUV_PER_UNIT * x[0, 1].numpy(), 0)
    np.testing.assert_allclose(given[0, 3].numpy(), np.log(1 + suv), rtol=1e-5)


def test_the_same_ratio_of_uptake_is_the_same_step_in_that_channel(network):
    seen = []
    network.encoder.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0][0, 3]))
    with torch.no_grad():
        for suv in (20.0, 40.0, 80.0):
            network(torch.full((1, 3, 4, 4, 4), suv / SUV_PER_UNIT))
    steps = [float((after - before).mean()) for before, after in pairwise(seen)]
    assert steps == pytest.approx([np.log(2)] * 2, abs=0.03)
