import pytest
import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from helpers.model_folder import write_model_folder
from torch import nn

from lesionclick.errors import ModelError
from lesionclick.network.model_folder import read_model_folder
from lesionclick.prompts.encodings import Fields
from lesionclick.prompts.spec import PromptSpec
from lesionclick.training.warm_start import grow, take_weights


def test_weights_of_another_architecture_are_refused(tmp_path):
    folder = write_model_folder(tmp_path / "model")
    with pytest.raises(ModelError, match=r"do not fit the planned network, such as bias: expected \(2,\), found None"):
        take_weights(torch.nn.Conv3d(1, 2, 1), folder)


def test_images_take_over_their_weights_where_clicks_are_encoded_in_another_way(tmp_path):
    old = write_model_folder(tmp_path / "old", seed=1)
    fields = PromptSpec(Fields(radius=6.0))
    folder = write_model_folder(tmp_path / "new", prompt=fields, seed=2)
    network = read_model_folder(folder, task="task1", n_images=2).networks[0]
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    take_weights(network, old)
    source = read_model_folder(old, task="task1", n_images=2).networks[0].state_dict()
    changed = [name for name, tensor in source.items() if tensor.shape != before[name].shape]
    assert changed
    for name, tensor in network.state_dict().items():
        if name in changed:
            torch.testing.assert_close(tensor[:, :2], source[name][:, :2])
            torch.testing.assert_close(tensor[:, 2:], before[name][:, 2:])
        else:
            torch.testing.assert_close(tensor, source[name])


def test_logits_begin_less_sure_by_the_factor(tmp_path):
    folder = write_model_folder(tmp_path / "model", seed=1)
    sure, unsure = (read_model_folder(folder, task="task1", n_images=2).networks[0].eval() for _ in range(2))
    take_weights(unsure, folder, sureness=0.25)
    tile = torch.randn(1, 4, 16, 16, 16)
    with torch.inference_mode():
        torch.testing.assert_close(unsure(tile), sure(tile) / 4)


def unet(features, seed, outputs=2):
    """A plain U-Net as the plans describe it, whose norms are not those of a new network."""
    torch.manual_seed(seed)
    n = len(features)
    network = PlainConvUNet(
        3,
        n,
        features,
        nn.Conv3d,
        [3] * n,
        [1] + [2] * (n - 1),
        [2] * n,
        outputs,
        [1] * (n - 1),
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        deep_supervision=True,
    )
    for module in network.modules():
        if isinstance(module, nn.InstanceNorm3d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return network


def grown(small, large):
    large.load_state_dict(grow(small.state_dict(), large.state_dict()))
    return large


IMAGE = torch.randn(1, 3, 32, 32, 32, generator=torch.Generator().manual_seed(0))


def test_a_wider_network_computes_what_the_narrow_one_did():
    small, large = unet([4, 8, 12], 1), unet([6, 8, 20], 2, outputs=5)
    for before, after in zip(small(IMAGE), grown(small, large)(IMAGE), strict=True):
        torch.testing.assert_close(after[:, :2], before, rtol=1e-4, atol=1e-4)


def test_all_that_is_new_learns():
    network = grown(unet([4, 8], 1), unet([6, 12, 12], 2))
    for _ in range(2):  # at first, what new channels send to old ones is zero
        network.zero_grad()
        network(IMAGE)[0].square().sum().backward()
        with torch.no_grad():
            for parameter in network.parameters():
                if parameter.grad is not None:
                    parameter -= 1e-4 * parameter.grad.sign()
    still = [
        name
        for name, parameter in network.named_parameters()
        if "seg_layers.0" not in name and not name.endswith("conv.bias") and not parameter.grad.any()
    ]
    assert still == []


@pytest.mark.parametrize("further", [[16], [16, 16]])
def test_a_deeper_network_computes_nearly_what_the_shallow_one_did(further):
    small = unet([4, 8, 12], 1)
    large = grown(small, unet([4, 8, 12, *further], 2))
    drawn = unet([4, 8, 12, *further], 2)
    before, after, unlike = (network(IMAGE)[0][0, 1].flatten() for network in (small, large, drawn))
    assert torch.corrcoef(torch.stack([before, after]))[0, 1] > 0.98
    assert torch.corrcoef(torch.stack([before, unlike]))[0, 1] < 0.5


def test_a_smaller_network_is_refused():
    with pytest.raises(ModelError, match=r"weights do not fit the planned network, such as decoder.encoder.stages.0"):
        grow(unet([4, 8], 1).state_dict(), unet([3, 8], 2).state_dict())
    with pytest.raises(ModelError, match=r"weights do not fit"):
        grow(unet([4, 8, 8], 1).state_dict(), unet([4, 8], 2).state_dict())
