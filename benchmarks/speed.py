"""Seconds per case against nnU-Net's own predictor, with one model folder on one sample case, in one run.

The folder holds a small U-Net of random weights with the official recipe of four channels. Upstream reads the
four NIfTI files and predicts as `nnUNetv2_predict` does, with its worker processes; ours takes the same case from the
platform's layout. Both use the GPU where there is one.
"""

import argparse
import sys
import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
import SimpleITK as sitk
import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "test"))

from helpers.model_folder import write_model_folder  # noqa: E402

from lesionclick.algorithm import Algorithm  # noqa: E402
from lesionclick.grand_challenge.case_folder import CaseFolder  # noqa: E402
from lesionclick.images import Volume  # noqa: E402
from lesionclick.petct.case import PetCtCase  # noqa: E402
from lesionclick.prompts.encodings import Gaussian  # noqa: E402


def write_channels(case: PetCtCase, folder: Path) -> None:
    """Write CT, PET and the two heatmaps as nnU-Net wants them."""
    folder.mkdir()
    grid = case.pet.grid
    heatmaps = Gaussian(radius=3.0).encode(case.prompts.on_grid(grid.shape_zyx), grid.shape_zyx, grid.spacing_zyx)
    for i, array in enumerate((case.ct.array, case.pet.array, *heatmaps.numpy())):
        sitk.WriteImage(Volume(array, grid).to_image(), str(folder / f"case_{i:04d}.nii.gz"))


def main() -> None:
    """Time both on one case and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", type=Path, default=ROOT / "test" / "input" / "fdg_positive")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        folder = write_model_folder(work / "model", patch_size=(48, 48, 48), spacing_zyx=(5.0, 4.0, 4.0))
        write_channels(PetCtCase.read(CaseFolder.open(args.case)), work / "channels")

        begin = perf_counter()
        predictor = nnUNetPredictor(use_mirroring=False, device=device, allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(folder), use_folds=None)
        predictor.predict_from_files(str(work / "channels"), str(work / "upstream"), False, True, 1, 1)
        upstream = perf_counter() - begin

        begin = perf_counter()
        (mask,) = Algorithm(folder).handle(args.case, work / "ours").masks
        ours = perf_counter() - begin

        same = [sitk.GetArrayFromImage(sitk.ReadImage(str(p))) for p in (mask, work / "upstream" / "case.nii.gz")]
    print(f"{device}: upstream {upstream:.1f} s, ours {ours:.1f} s, ratio {upstream / ours:.1f}")
    print(f"voxels that differ (the click rule acts in ours): {int(np.sum(same[0] != same[1]))} of {same[0].size}")


if __name__ == "__main__":
    main()
