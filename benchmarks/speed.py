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
sys.path[:0] = [str(ROOT), str(ROOT / "test")]

from helpers.model_folder import write_model_folder  # noqa: E402

import inference  # noqa: E402  (beside the package, not in it)
from lesionclick.images import Volume  # noqa: E402
from lesionclick.petct.case import PetCtCase  # noqa: E402
from lesionclick.prompts.encodings import OFFICIAL_BASELINE, encode  # noqa: E402
from lesionclick.prompts.points import BACKGROUND, TUMOR, indices_zyx  # noqa: E402


def write_channels(case: PetCtCase, folder: Path) -> None:
    """Write CT, PET and the two heatmaps as nnU-Net wants them."""
    folder.mkdir()
    tumor, background = (indices_zyx(case.clicks, name, case.pet.grid.shape_zyx) for name in (TUMOR, BACKGROUND))
    heatmaps = encode(OFFICIAL_BASELINE, tumor, background, case.pet.grid.shape_zyx, (1, 1, 1)).numpy()
    for i, array in enumerate((case.ct.array, case.pet.array, *heatmaps)):
        sitk.WriteImage(Volume(array, case.pet.grid).to_image(), str(folder / f"case_{i:04d}.nii.gz"))


def main() -> None:
    """Time both on one case and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", type=Path, default=ROOT / "test" / "input" / "fdg_positive")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        folder = write_model_folder(work / "model", patch_size=(48, 48, 48), spacing_zyx=(5.0, 4.0, 4.0))
        write_channels(PetCtCase.read(args.case), work / "channels")

        begin = perf_counter()
        predictor = nnUNetPredictor(use_mirroring=False, device=device, allow_tqdm=False)
        predictor.initialize_from_trained_model_folder(str(folder), use_folds=None)
        predictor.predict_from_files(str(work / "channels"), str(work / "upstream"), False, True, 1, 1)
        upstream = perf_counter() - begin

        begin = perf_counter()
        mask = inference.run(inference.init_model(folder), args.case, work / "ours")
        ours = perf_counter() - begin

        same = [sitk.GetArrayFromImage(sitk.ReadImage(str(p))) for p in (mask, work / "upstream" / "case.nii.gz")]
    print(f"{device}: upstream {upstream:.1f} s, ours {ours:.1f} s, ratio {upstream / ours:.1f}")
    print(f"voxels that differ (the click rule acts in ours): {int(np.sum(same[0] != same[1]))} of {same[0].size}")


if __name__ == "__main__":
    main()
