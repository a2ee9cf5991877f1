"""Training begins with the weights of a model that is there, also where the new network is wider or deeper.

What is wider or deeper begins after Chen, Goodfellow and Shlens, "Net2Net: Accelerating Learning via Knowledge
Transfer", ICLR 2016. Old channels see nothing of the new ones at first, so that a wider network computes what the
narrow one did. A stage below the old ones begins bypassed; the bypass normalises what passes, so that a deeper network
computes only nearly the same.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from lesionclick.errors import ModelError
from lesionclick.network.checkpoints import Checkpoint, find_checkpoints
from lesionclick.training.export import OUTPUTS

_N_IMAGES = 2
NEGATIVE_SLOPE = 0.01
"""Slope below zero of the leaky rectifier in nnU-Net's networks."""
_STEM = re.compile(r"(decoder\.)?encoder\.(stages\.0\.0|stem)\.convs\.0\.(conv|all_modules\.0)\.weight")
_ENCODER_STAGE = re.compile(r"(?:decoder\.)?encoder\.stages\.(\d+)\.")
_DECODER_STAGE = re.compile(r"decoder\.(stages|transpconvs|seg_layers)\.(\d+)\.")
_BEHIND_SKIP = re.compile(r"decoder\.stages\.\d+\.convs\.0\.")
_TRANSPOSED = ".transpconvs."
_VARIATES = torch.linspace(-4, 4, 4001)
"""Of the standard normal distribution, for integrals over it."""


def take_weights(network: nn.Module, initial: Path, sureness: float = 1.0) -> None:
    """Load the weights of a model folder's first fold into a network, which may be wider or have more stages.

    Its logits are multiplied by `sureness`: where a network is sure and wrong, the Dice has no gradient.

    Where the first convolution sees another number of channels, because clicks are encoded in another way, CT and PET
    take over their weights and the click channels begin anew; so do outputs for organs, which no model folder has.

    Raises
    ------
    ModelError
        If the folder cannot be read, or its weights do not fit the network.
    """
    checkpoint = Checkpoint.read(find_checkpoints(initial)[0])
    drawn = network.state_dict()
    weights = {name: _with_inputs(name, tensor.float(), drawn) for name, tensor in checkpoint.weights.items()}
    try:
        grown = grow(weights, drawn)
    except ModelError as error:
        raise ModelError(f"{initial}: {error}") from None
    for name, tensor in grown.items():
        if OUTPUTS in name:
            tensor.mul_(sureness)
    network.load_state_dict(grown)


def _with_inputs(name: str, old: Tensor, drawn: Mapping[str, Tensor]) -> Tensor:
    """Return a weight; that of the first convolution for as many channels of prompts as the new one has."""
    if not _STEM.fullmatch(name) or name not in drawn or old.shape[1] == drawn[name].shape[1]:
        return old
    return torch.cat([old[:, :_N_IMAGES], drawn[name][: len(old), _N_IMAGES:]], dim=1)


def grow(weights: Mapping[str, Tensor], drawn: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of a network that begins where a smaller one has ended.

    Parameters
    ----------
    weights
        State of the small network.
    drawn
        State of the large one as it was initialised; what is new keeps it.

    Raises
    ------
    ModelError
        If a part of the small network is missing in the large one or larger than there, or if the large one has more
        than further channels and, for a plain U-Net, further stages.
    """
    stages = _count_stages(weights)
    below = _count_stages(drawn) - stages
    grown = {name: tensor.clone() for name, tensor in drawn.items()}
    targets = {
        _DECODER_STAGE.sub(lambda part: f"decoder.{part[1]}.{int(part[2]) + below}.", name): name for name in weights
    }
    plain = not any(".blocks." in name for name in drawn)  # what a residual encoder sums up has another distribution
    new = {name for name in drawn if plain and _is_below(name, stages, below)}
    misfits = [
        name
        for name in targets.keys() | (drawn.keys() - new)
        if name not in targets or name not in drawn or not _fits(weights[targets[name]], drawn[name])
    ]
    if misfits:
        first = min(misfits)
        expected, found = _shape(drawn, first), _shape(weights, targets.get(first, ""))
        raise ModelError(
            f"{len(misfits)} weights do not fit the planned network, such as {first}: "
            f"expected {expected}, found {found}"
        )
    for name, source in targets.items():
        _fill(grown[name], weights[source], 2 if _BEHIND_SKIP.match(name) else 1, transposed=_TRANSPOSED in name)
    if below:
        _bypass(grown, weights, bottom=stages - 1, stage=below - 1)
    return grown


def _count_stages(weights: Mapping[str, Tensor]) -> int:
    return len({found[1] for name in weights if (found := _ENCODER_STAGE.match(name))})


def _is_below(name: str, stages: int, below: int) -> bool:
    """Tell whether a part lies below the stages of the small network."""
    encoder, decoder = _ENCODER_STAGE.match(name), _DECODER_STAGE.match(name)
    return bool((encoder and int(encoder[1]) >= stages) or (decoder and int(decoder[2]) < below))


def _fits(old: Tensor, new: Tensor) -> bool:
    same_kernel = old.shape[2:] == new.shape[2:]
    return old.ndim == new.ndim and same_kernel and all(a <= b for a, b in zip(old.shape, new.shape, strict=True))


def _shape(weights: Mapping[str, Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(weights[name].shape) if name in weights else None


def _fill(new: Tensor, old: Tensor, blocks: int, *, transposed: bool) -> None:
    """Write the old weights of a layer into the new ones; behind a skip connection its inputs come in two `blocks`."""
    if old.ndim > 1:
        if transposed:  # (in, out, z, y, x) in place of (out, in, z, y, x)
            new, old = new.transpose(0, 1), old.transpose(0, 1)
        new[: len(old)] = 0
        for target, source in zip(new.chunk(blocks, 1), old.chunk(blocks, 1), strict=True):
            target[: len(source), : source.shape[1]] = source
    else:
        new[: len(old)] = old


def _bypass(grown: dict[str, Tensor], weights: Mapping[str, Tensor], *, bottom: int, stage: int) -> None:
    """Let a decoder stage pass on what its skip connection brings: the lowest features of the small network.

    Those features are a rectified normal variate, nearly; the norm behind the convolution is set to their mean and
    spread, and the second rectifier changes little.
    """
    last = max(name for name in weights if re.fullmatch(rf"encoder\.stages\.{bottom}\..*\.norm\.weight", name))
    scale, shift = weights[last], weights[last.removesuffix("weight") + "bias"]
    density = torch.exp(-(_VARIATES**2) / 2)
    density /= density.sum()
    features = functional.leaky_relu(scale[:, None] * _VARIATES + shift[:, None], NEGATIVE_SLOPE)
    mean = (features * density).sum(1)
    spread = ((features - mean[:, None]) ** 2 * density).sum(1).sqrt()
    old = range(len(scale))
    for convolution, norm in (("conv", "norm"), ("all_modules.0", "all_modules.1")):
        layer = f"decoder.stages.{stage}.convs.0."
        kernel = grown[f"{layer}{convolution}.weight"]
        kernel[old] = 0
        _, skipped = kernel.chunk(2, 1)
        skipped[old, old, 1, 1, 1] = 1
        grown[f"{layer}{convolution}.bias"][old] = 0
        grown[f"{layer}{norm}.weight"][old] = spread
        grown[f"{layer}{norm}.bias"][old] = mean
