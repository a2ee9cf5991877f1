"""What the benchmarks of speed share: cases, model folders, watched processes, and what a machine can do at most."""

import copy
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "test"))

from helpers.model_folder import checkpoint_of, write_checkpoint, write_model_folder  # noqa: E402

from lesionclick.grand_challenge.click_files import write_clicks  # noqa: E402
from lesionclick.images import Grid, Volume  # noqa: E402
from lesionclick.longitudinal.model import LongitudinalModel  # noqa: E402
from lesionclick.network.acceleration import Arithmetic  # noqa: E402
from lesionclick.network.model_folder import read_model_folder  # noqa: E402
from lesionclick.network.preprocessing import preprocess  # noqa: E402
from lesionclick.petct.case import PetCtCase  # noqa: E402
from lesionclick.petct.model import PetCtModel  # noqa: E402
from lesionclick.prompts.encodings import Gaussian  # noqa: E402
from lesionclick.prompts.points import Prompts  # noqa: E402
from lesionclick.simulation.patients import make_patient  # noqa: E402
from lesionclick.simulation.readers import simulate  # noqa: E402
from lesionclick.simulation.uptake import Tracer  # noqa: E402

GRIDS = {
    "psma": Grid((168, 168, 326), (4.07, 4.07, 3.0)),
    "fdg": Grid((400, 400, 326), (2.036, 2.036, 3.0)),
    "tiny": Grid((96, 64, 60), (4.07, 4.07, 6.0)),
}
"""The challenge's two, and one on which a command can be tried in a minute."""

SEED = 5_000_000
SPACING_ZYX = (3.0, 2.04, 2.04)
SMALL_PATCH, OFFICIAL_PATCH = (64, 96, 96), (112, 160, 128)
OFFICIAL_NETWORK = {
    "n_stages": 6,
    "features_per_stage": [32, 64, 128, 256, 320, 320],
    "kernel_sizes": [[3, 3, 3]] * 6,
    "strides": [[1, 1, 1], *[[2, 2, 2]] * 4, [1, 2, 2]],
    "n_conv_per_stage": [2] * 6,
    "n_conv_per_stage_decoder": [2] * 5,
}
"""The organisers' network for patches of `OFFICIAL_PATCH`: 31 million weights."""

POLL_S = 0.5


@dataclass(frozen=True)
class Run:
    """A command that has ended.

    Attributes
    ----------
    seconds
        From its start to its end.
    processor_s
        Of all its processes together, on all cores. Other work on the machine changes them too, but less than seconds.
    gib
        Peak memory of all its processes.
    last_line
        What it printed last.
    """

    seconds: float
    processor_s: float
    gib: float
    last_line: str


def draw_case(grid: Grid, *, field_of_view: tuple[float, float] = (0.0, 1.0)) -> tuple[PetCtCase, Volume]:
    """Return a patient with lesions and ten click pairs, padded with air or cut to a grid, and the label."""
    tracer: Tracer = "psma" if grid is GRIDS["psma"] else "fdg"
    x_mm, y_mm, z_mm = grid.spacing_xyz
    patient = make_patient(SEED, tracer, lesions=8, spacing_xyz=(x_mm, y_mm, z_mm), field_of_view=field_of_view)
    volumes = []
    for volume, outside in ((patient.ct, -1000.0), (patient.pet, 0.0), (patient.label, 0)):
        array = np.full(grid.shape_zyx, outside, dtype=volume.array.dtype)
        sizes = [min(a, b) for a, b in zip(array.shape, volume.array.shape, strict=True)]
        target, source = (
            tuple(slice((n - size) // 2, (n - size) // 2 + size) for n, size in zip(shape, sizes, strict=True))
            for shape in (array.shape, volume.array.shape)
        )
        array[target] = volume.array[source]
        volumes.append(Volume(array, grid))
    ct, pet, label = volumes
    tumor, background = simulate(label.array > 0, pet.array, np.random.default_rng(0))
    prompts = Prompts.from_indices(tumor_zyx=tumor, background_zyx=background)
    return PetCtCase(Volume(ct.array.astype(np.float32), grid), pet, prompts), label


def write_case(case: PetCtCase, folder: Path) -> None:
    """Write a case in the platform's layout."""
    for slug, volume in (("ct", case.ct), ("pet", case.pet)):
        path = folder / "images" / slug / f"{slug}.mha"
        path.parent.mkdir(parents=True)
        volume.write(path)
    write_clicks(folder / "lesion-clicks.json", case.prompts)


def stack_channels(case: PetCtCase) -> NDArray[np.float32]:
    """Return CT, PET and the two heatmaps of the official recipe, shape (4, z, y, x)."""
    grid = case.pet.grid
    heatmaps = Gaussian(radius=3.0).encode(case.prompts.on_grid(grid.shape_zyx), grid.shape_zyx, grid.spacing_zyx)
    return np.concatenate([case.ct.array[None], case.pet.array[None], heatmaps.numpy()])


def write_official_folder(folder: Path, *, small: bool = False) -> Path:
    """Write a model folder of the official recipe without rules, with random weights of its network or a small one."""
    if small:
        write_model_folder(folder, patch_size=SMALL_PATCH, spacing_zyx=SPACING_ZYX)
    else:
        write_model_folder(folder, patch_size=OFFICIAL_PATCH, spacing_zyx=SPACING_ZYX, network_options=OFFICIAL_NETWORK)
    spec = read_model_folder(folder, task="task1", n_images=2).prompt
    # the rules after the network would only blur the comparison of the networks' masks
    (folder / "prompt.json").write_text(spec.to_json().replace('"rules": "clicks"', '"rules": "none"'))
    return folder


def train_on_case(folder: Path, case: PetCtCase, label: Volume, steps: int) -> None:
    """Train the network of a model folder on a case for some steps, so that its mask looks like one."""
    model = read_model_folder(folder, task="task1", n_images=2)
    images = preprocess(model, list(stack_channels(case)), case.pet.grid.spacing_zyx).images
    truth = functional.interpolate(torch.from_numpy(label.array > 0).float()[None, None], images.shape[1:])[0, 0] > 0
    patch = [min(n, m) // 4 * 4 for n, m in zip(SMALL_PATCH, images.shape[1:], strict=True)]
    arithmetic = Arithmetic.choose(torch.device("cpu"))
    network = arithmetic.prepare(model.networks[0]).train()
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    rng = np.random.default_rng(0)
    lesions = truth.nonzero().numpy()
    for step in range(steps):
        centre = rng.choice(lesions) if step % 2 and len(lesions) else rng.integers(0, images.shape[1:])
        low = [int(np.clip(c - n // 2, 0, m - n)) for c, n, m in zip(centre, patch, images.shape[1:], strict=True)]
        part = tuple(slice(a, a + n) for a, n in zip(low, patch, strict=True))
        with arithmetic.autocast(torch.device("cpu")):
            logits = network(images[:, *part][None])
        loss = functional.cross_entropy(logits.float(), truth[part][None].long(), torch.tensor([1.0, 10.0]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    write_checkpoint(folder / "fold_0", {**checkpoint_of(folder), "network_weights": network.state_dict()})


def watch(command: Sequence[str]) -> Run:
    """Run a command to its end and see what it takes.

    Raises
    ------
    SystemExit
        If it fails.
    """
    begin, processor_begin = time.perf_counter(), processor_seconds()
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=subprocess.DEVNULL, text=True, start_new_session=True)
    peak = 0
    try:
        while process.poll() is None:  # what it prints is less than a pipe holds
            peak = max(peak, memory_of_session(process.pid))
            time.sleep(POLL_S)
    except BaseException:  # such as Ctrl+C, which a session of its own does not get
        os.killpg(process.pid, signal.SIGKILL)
        raise
    seconds = time.perf_counter() - begin
    if process.returncode != 0:
        raise SystemExit(f"{command}: expected exit code 0, found {process.returncode}")
    assert process.stdout is not None
    lines = process.stdout.read().splitlines()
    return Run(seconds, processor_seconds() - processor_begin, peak / 2**30, lines[-1] if lines else "")


def processor_seconds() -> float:
    """Return the seconds that processes begun here, and theirs, took of the processor, as far as they have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def memory_of_session(leader: int) -> int:
    """Return the bytes that the processes of a session hold; what several share is divided among them."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(folder.name)) == leader:
                lines = (folder / "smaps_rollup").read_text().splitlines()
                total += next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
        except (OSError, StopIteration):  # it has ended meanwhile
            continue
    return total


def last_json(run: Run) -> dict[str, Any]:
    """Return what a process printed last."""
    content: dict[str, Any] = json.loads(run.last_line)
    return content


def tile_flops(network: nn.Module, channels: int, patch_size: Sequence[int]) -> int:
    """Return the operations that a tile takes, as PyTorch counts them: a multiplication and an addition are two."""
    shape = copy.deepcopy(network).to("meta")
    with FlopCounterMode(display=False) as counter:
        shape(torch.empty(1, channels, *patch_size, device="meta"))
    return counter.get_total_flops()


def flops_per_second(dtype: torch.dtype, device: torch.device) -> float:
    """Return what the device reaches in products of large matrices, the best of several: the limit of arithmetic."""
    size = 8192 if device.type == "cuda" else 2048  # on a GPU, so large that to begin and to answer take no part of it
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best = float("inf")
    for _ in range(8):
        begin = time.perf_counter()
        (a @ b)[0, 0].item()  # to see a value is to wait for it
        best = min(best, time.perf_counter() - begin)
    return 2 * size**3 / best


def time_at_once(device: torch.device, counts: Sequence[int]) -> Iterator[list[str]]:
    """Yield a row of seconds per tile for both embedded models, the best of several; the counts take turns."""
    for name, model in (("Task 1", PetCtModel.load(device=device)), ("Task 2", LongitudinalModel.load(device=device))):
        patch = model.content.configuration.patch_size
        channels = model.n_images + model.content.prompt.encoding.n_channels
        best = dict.fromkeys(counts, float("inf"))
        network = model.networks[0].to(device)
        with torch.inference_mode(), model.arithmetic.autocast(device):
            for _ in range(6):
                for count in counts:
                    tiles = torch.randn(count, channels, *patch, device=device)
                    begin = time.perf_counter()
                    network(tiles).sum().item()
                    best[count] = min(best[count], (time.perf_counter() - begin) / count)
        yield [f"{name}, {'x'.join(map(str, patch))}", *(f"{seconds:.4f}" for seconds in best.values())]


def print_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table in Markdown, row by row as they come."""
    print(f"| {' | '.join(head)} |\n|{' --- |' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(f'{cell:.2f}' if isinstance(cell, float) else str(cell) for cell in row)} |", flush=True)
    print()
