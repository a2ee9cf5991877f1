"""The folds of a model, tile by tile, within the time and the memory that there are."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from lesionclick.budget import Budget, Plan, choose_plan, list_plans
from lesionclick.errors import OutOfMemoryError
from lesionclick.network import tiles
from lesionclick.network.tiles import KeptTiles, PaintedChannels

logger = logging.getLogger(__name__)

SURE_BACKGROUND = 3.0
"""Negative lesion logit of one fold below which a voxel is taken for background without asking the others: a
probability of 5 %. Chosen on drawn patients with perturbed folds (docs/performance.md)."""

T = TypeVar("T")
Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Prediction:
    """What the folds say.

    Attributes
    ----------
    logits
        Shape (K, z, y, x), half precision, on the CPU; NaN where nothing was predicted. None if there was no time for
        any tile. The mean over the folds is taken in half precision, as in nnU-Net.
    plan
        What was done; with fewer folds than planned where the time was over early.
    """

    logits: Tensor | None
    plan: Plan


class Placement(NamedTuple):
    """Where the networks compute, where images and logits are kept, and whether tiles are computed one by one."""

    network: torch.device
    data: torch.device
    one_by_one: bool = False


def list_placements(device: torch.device) -> list[Placement]:
    """Return the placements to try: each needs less of the device's memory than the one before."""
    cpu = torch.device("cpu")
    if device.type == "cpu":
        return [Placement(cpu, cpu)]
    smaller = [(device, device), (device, cpu), (cpu, cpu)]
    return [Placement(device, device), *(Placement(*devices, one_by_one=True) for devices in smaller)]


def in_memory(work: Callable[[Placement], T], networks: Sequence[nn.Module], device: torch.device) -> T:
    """Return the result of `work` at the first placement where the memory suffices, for the networks too.

    The networks stay where that was; the next call moves them again.

    Raises
    ------
    OutOfMemoryError
        If it suffices nowhere.
    """
    reason = ""
    for placement in list_placements(device):
        try:
            if device.type != "cpu":
                _move(networks, placement.network)
            return work(placement)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            reason = str(error).partition("\n")[0]
            is_full = isinstance(error, torch.OutOfMemoryError | MemoryError)
            if not is_full and "DefaultCPUAllocator" not in reason:  # all that PyTorch says of a CPU's memory
                raise
        logger.warning("out of memory with networks on %s and images on %s: %s", *placement[:2], reason)
        torch.cuda.empty_cache()  # not while the error lives, which holds the tensors
    raise OutOfMemoryError(f"expected enough memory on {device} or the CPU, found on neither: {reason}")


def _move(networks: Sequence[nn.Module], device: torch.device) -> None:
    for network in networks:
        network.to(device)


def predict(
    networks: Sequence[Network],
    data: Tensor,
    patch_size: Sequence[int],
    *,
    mirror_axes: Sequence[int] = (),
    needed: Tensor | None = None,
    nearest: bool = False,
    device: torch.device,
    budget: Budget,
    first_zyx: Sequence[Sequence[float]] = (),
    at_once: int = 1,
    kept: Callable[[Plan, int], KeptTiles] | None = None,
    painted: PaintedChannels | None = None,
    in_order: bool = False,
) -> Prediction:
    """Return the mean over the folds, or what the time suffices for, and the plan that was taken.

    One tile is timed, and the plan chosen by it (`lesionclick.budget.list_plans`). If tiles turn out slower, the
    prediction is cut short: a fold that has gaps which the ones before do not have is left out, and of a first fold
    that has gaps the rest counts.

    Parameters
    ----------
    networks
        One per fold.
    data, patch_size, mirror_axes, needed, nearest, painted
        As for `lesionclick.network.tiles.predict`.
    device
        Where the networks are.
    budget
        Time for all of it.
    first_zyx
        Points whose tiles come first.
    at_once
        Number of tiles that are computed together.
    kept
        Gives what is known of the tiles of a plan and a fold.
    in_order
        Begin with the tiles of `first_zyx` only where the plan says that the time is short; otherwise tiles are added
        in nnU-Net's order, which their rounding depends on.
    """

    def count_tiles(step: float) -> int:
        return len(tiles.list_tiles(data.shape[1:], patch_size, step, needed, nearest=nearest))

    plans = list_plans(len(networks), mirror_axes)
    channels = len(data) + (0 if painted is None else painted.n_channels)
    few = data.new_zeros((at_once, channels, *patch_size), device=device)
    plan, pass_s = _plan(plans, count_tiles, lambda: _time_pass(networks[0], few, budget) / at_once, budget)
    mean: Tensor | None = None
    folds = 0
    for network in networks[: plan.folds]:
        logits = tiles.predict(
            network,
            data,
            patch_size,
            step=plan.step,
            mirror_axes=plan.mirror_axes,
            needed=needed,
            nearest=nearest,
            device=device,
            first_zyx=() if in_order and plan == plans[0] else first_zyx,
            at_once=at_once,
            go_on=lambda: budget.left_s > at_once * plan.passes / plan.folds * pass_s,
            kept=None if kept is None else kept(plan, folds),
            painted=painted,
        )
        if logits is None and mean is None:
            break
        if logits is None or (mean is not None and not torch.equal(logits[0].isnan().cpu(), mean[0].isnan())):
            logger.warning("plan: the time is over, fold %d is left out", folds)
            break
        mean = logits.cpu() if mean is None else mean + logits.cpu()
        folds += 1
    return Prediction(mean / folds if mean is not None and folds > 1 else mean, replace(plan, folds=folds))


def predict_adaptively(
    networks: Sequence[Network],
    data: Tensor,
    patch_size: Sequence[int],
    *,
    mirror_axes: Sequence[int] = (),
    needed: Tensor | None = None,
    device: torch.device,
    budget: Budget,
    first_zyx: Sequence[Sequence[float]] = (),
    at_once: int = 1,
    kept: Callable[[Plan, int], KeptTiles] | None = None,
    painted: PaintedChannels | None = None,
) -> Prediction:
    """Let the first fold look everywhere, and all folds, mirrored, only where it is not sure of background.

    Those places are the voxels whose lesion logit is above -`SURE_BACKGROUND`, and those of `first_zyx`. All folds look
    at the tiles alone that have one of these near their middle. What they add there to what the first fold says in the
    same tiles, is added to what it says everywhere: it is a control variate, and takes with it what the tiles that are
    left out would have changed. Elsewhere the result is that of the first fold. The parameters are those of `predict`.
    """
    options: dict[str, Any] = {
        "device": device,
        "budget": budget,
        "first_zyx": first_zyx,
        "at_once": at_once,
        "kept": kept,
        "painted": painted,
    }
    first = predict(networks[:1], data, patch_size, needed=needed, **options)
    if first.logits is None or (len(networks) == 1 and not mirror_axes):
        return first
    unsure = first.logits[1] - first.logits[0] > -SURE_BACKGROUND  # False where nothing was predicted
    for place in first_zyx:
        unsure[tuple(min(max(round(p), 0), n - 1) for p, n in zip(place, unsure.shape, strict=True))] = True
    if needed is not None:
        unsure &= needed.cpu()
    if not unsure.any():
        return first
    options |= {"needed": unsure.to(data.device), "nearest": True}
    there = predict(networks[:1], data, patch_size, **options)
    all_folds = predict(networks, data, patch_size, mirror_axes=mirror_axes, **options)
    # where there was no time for more than the first has done, it counts
    if there.logits is None or all_folds.logits is None or all_folds.plan.passes == 1:
        return first
    better = unsure & ~all_folds.logits[0].isnan() & ~there.logits[0].isnan()
    corrected = first.logits + (all_folds.logits - there.logits)
    return Prediction(torch.where(better, corrected, first.logits), all_folds.plan)


def _plan(
    plans: Sequence[Plan], count_tiles: Callable[[float], int], time_pass: Callable[[], float], budget: Budget
) -> tuple[Plan, float]:
    """Choose a plan, say why in the log, and return it with the seconds of a pass."""
    best = plans[0]
    if math.isinf(budget.left_s):
        return best, 0.0
    plan, pass_s = plans[-1], 0.0
    for _ in range(2):  # where not everything fits, time again: the first pass on a device also sets it up
        if budget.left_s <= 0:
            break
        pass_s = time_pass()
        plan = choose_plan(plans, count_tiles, pass_s, budget.left_s)
        if plan == best:
            break
    everything_s = count_tiles(best.step) * best.passes * pass_s
    logger.info(
        "plan: %d of %d folds, mirrored along %d of %d axes, %d tiles; a tile takes %.2f s, everything %.0f s, %s",
        *(plan.folds, best.folds, len(plan.mirror_axes), len(best.mirror_axes), count_tiles(plan.step)),
        *(pass_s, everything_s, f"and {budget.left_s:.0f} s are left"),
    )
    return plan, pass_s


def _time_pass(network: Network, few: Tensor, budget: Budget) -> float:
    """Return the seconds that a few tiles take once through a network."""
    begin = budget.now()
    with torch.inference_mode():
        network(few).sum().item()  # to see the value is to wait for it
    return budget.now() - begin
