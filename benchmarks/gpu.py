"""All that has to be known of a GPU, by one command in under ten minutes: masks, memory, the fall-back, and seconds.

    python benchmarks/gpu.py                                # prints a table for docs/performance.md
    python benchmarks/gpu.py --device cpu --grid tiny       # tries the command where there is no GPU

- Masks of the embedded model and of the official recipe against those of the CPU (the recipe's network is a small one
  with random weights, the worst case for rounding).
- The organisers' network, 31 million random weights, in the memory of a T4: 16 GB are allowed to PyTorch.
- Where far less is allowed, images and networks go to the CPU step by step; the mask has to be the same but for
  rounding, and the warnings are printed.
- Seconds of each stage and tiles, and the share of what the GPU reaches in products of large matrices.
- Seconds of a tile, one by one and several at once: `lesionclick.network.acceleration.VOXELS_AT_ONCE` should follow.
"""

import argparse
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from measuring import GRIDS, draw_case, flops_per_second, print_table, tile_flops, time_at_once, write_official_folder

from lesionclick.evaluation.measures import MaskPair, dice
from lesionclick.network.ensemble import list_placements
from lesionclick.petct.case import PetCtCase
from lesionclick.petct.model import PetCtModel
from lesionclick.petct.session import PetCtSession, Segmentation

T4_BYTES = 16 * 10**9
SCARCE_BYTES = (10**9, 10**8, 6 * 10**7, 3 * 10**7)
"""Memory that is allowed in turn, less each time, so that the fall-back is seen at some of it."""

AT_ONCE = (1, 2, 4, 8, 16)
CPU = torch.device("cpu")


@contextmanager
def memory_limit(device: torch.device, n_bytes: int) -> Iterator[None]:
    """Let PyTorch have so much of the GPU's memory; on a CPU nothing happens."""
    if device.type != "cuda":
        yield
        return
    index = torch.cuda.current_device() if device.index is None else device.index
    total = torch.cuda.get_device_properties(index).total_memory
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    torch.cuda.set_per_process_memory_fraction(min(n_bytes / total, 1.0), index)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, index)


@contextmanager
def warnings_of(logger: str) -> Iterator[list[str]]:
    """Collect the warnings of a logger."""
    lines: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger(logger).addHandler(handler)
    try:
        yield lines
    finally:
        logging.getLogger(logger).removeHandler(handler)


def segment(folder: Path | None, case: PetCtCase, device: torch.device) -> tuple[Segmentation, PetCtModel, int]:
    """Return what a fresh session says, its model, and the number of tiles that went through the network."""
    model = PetCtModel.load(folder, device=device)
    tiles: list[int] = []
    model.networks[0].register_forward_hook(lambda _, inputs, __: tiles.append(len(inputs[0])))
    return PetCtSession(model, case).segment(), model, sum(tiles)


def compare(found: Segmentation, expected: Segmentation) -> tuple[str, int]:
    """Return the DSC of two masks and the number of voxels that differ."""
    masks = found.mask.array, expected.mask.array
    score = dice([MaskPair(*masks, found.mask.grid.spacing_zyx)])
    return f"{score:.4f}", int(np.count_nonzero(masks[0] != masks[1]))


def check_masks(case: PetCtCase, small: Path, device: torch.device) -> None:
    """Print how far the masks are from the CPU's."""
    rows = []
    for name, folder in (("embedded", None), ("official recipe, small network", small)):
        found, expected = (segment(folder, case, where)[0] for where in (device, CPU))
        rows.append([name, *compare(found, expected)])
    print("## Masks against the CPU's\n")
    print_table(["model", "DSC", "voxels that differ"], rows)


def check_fall_back(case: PetCtCase, small: Path, device: torch.device) -> None:
    """Print what becomes of a case where the memory does not suffice."""
    print("## Where the memory does not suffice\n")
    if device.type == "cpu":
        print(f"not on a CPU, which has one placement: {list_placements(device)}\n")
        return
    expected = segment(small, case, device)[0]
    rows = []
    for n_bytes in SCARCE_BYTES:
        with memory_limit(device, n_bytes), warnings_of("lesionclick.network.ensemble") as lines:
            found = segment(small, case, device)[0]
        rows.append([f"{n_bytes / 1e9:.2f} GB", *compare(found, expected), "; ".join(lines) or "enough"])
    print_table(["allowed", "DSC", "voxels that differ", "warnings"], rows)


def time_stages(case: PetCtCase, folders: dict[str, Path | None], device: torch.device) -> None:
    """Print seconds, tiles, memory and the share of the peak in the memory of a T4; the second of two runs counts."""
    rows = []
    for name, folder in folders.items():
        with memory_limit(device, T4_BYTES), warnings_of("lesionclick.network.ensemble") as lines:
            segment(folder, case, device)  # sets the device up
            result, model, tiles = segment(folder, case, device)
            peak = torch.cuda.max_memory_reserved(device) / 1e9 if device.type == "cuda" else float("nan")
        configuration = model.content.configuration
        channels = model.n_images + model.encoding.n_channels
        flops = tile_flops(model.networks[0], channels, configuration.patch_size)
        limit_s = tiles * flops / flops_per_second(model.arithmetic.dtype, device)
        stages = [result.seconds.get(stage, 0.0) for stage in ("preprocess", "predict", "resample prediction", "rules")]
        rows.append([name, *stages, tiles, f"{limit_s / result.seconds['predict']:.0%}", peak, "; ".join(lines)])
    print(f"## Seconds of a case of {'x'.join(map(str, case.pet.grid.size_xyz))} voxels, in {T4_BYTES / 1e9:.0f} GB\n")
    head = ["model", "preprocess", "predict", "resample", "rules", "tiles", "of the limit", "GB", "warnings"]
    print_table(head, rows)


def main() -> None:
    """Check and time what there is to know."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="default: cuda")
    parser.add_argument("--grid", choices=GRIDS, default="fdg", help="of the case that is timed")
    parser.add_argument("--small-only", action="store_true", help="leave the organisers' network out")
    args = parser.parse_args()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("expected a GPU that PyTorch sees, found none; --device cpu tries the command without one")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"# {name}, PyTorch {torch.__version__}\n")
    with tempfile.TemporaryDirectory() as temporary:
        small = write_official_folder(Path(temporary, "small"), small=True)
        folders = {"embedded": None, "official recipe, small network": small}
        if not args.small_only:
            folders["official recipe, 31 million weights"] = write_official_folder(Path(temporary, "official"))
        part, _ = draw_case(GRIDS["tiny"])
        check_masks(part, small, device)
        check_fall_back(part, small, device)
        time_stages(draw_case(GRIDS[args.grid])[0] if args.grid != "tiny" else part, folders, device)
    print("## Tiles at once, seconds of each\n")
    print_table(["model", *map(str, AT_ONCE)], time_at_once(device, AT_ONCE))


if __name__ == "__main__":
    main()
