"""Make the real crops again that the embedded models were trained on and measured with.

git clone https://github.com/theibsi/data_sets
python benchmarks/crops.py data_sets --output out/sts           # all 51 patients
python benchmarks/crops.py data_sets --output out/sts --cards   # as for the models' cards

The download holds the IBSI's validation data set: crops of about 5 cm around the tumours of the Soft-tissue-Sarcoma
collection (CC BY 3.0; `test/input/README.md` has the citations), with the PET in SUV. Its folder `nifti` has CT and PET
of each patient, each with a mask on its own grid. From these we make MetaImage files, in a folder per patient:

- ``pet.mha`` (SUV, float32) and ``label.mha`` (uint8, 1 is tumour), unchanged;
- ``ct.mha`` (HU, int16), resampled linearly to the PET's grid, with air where the CT does not reach;
- ``ct_fullres.mha`` and ``label_fullres.mha``, the CT and its mask, unchanged.

The cards speak of 36 patients, of which twelve had the last two files; the split into patients to train on and those
held out follows from who is there. So repeat a card with `--cards`.

Checked against the crops behind the cards: from 12 CTs on their own grids, and from 2 in DICOM, the resampling gives
the same ``ct.mha``, but for 8 voxels in all that differ by 1 HU. Not checked against a clone: the names of its folders
and NIfTI files, which are those that others' scripts for this data set read.
"""

import argparse
from pathlib import Path

import numpy as np
import SimpleITK as sitk

FOLDERS = ("ibsi_validation", "ibsi_1_validation")
"""The data set's folder in the download, now and formerly."""

AIR_HU = -1000.0

CARDS_FULLRES = [f"STS_{number:03d}" for number in (1, 2, 4, 5, 8, 10, 12, 14, 15, 18, 22, 24)]
"""Patients of the cards that had the CT on its own grid."""


def in_cards(patient: str) -> bool:
    """Tell whether a patient is among the 36 of the models' cards: those whose number ends in none of 3, 6 and 9."""
    return patient[-1] not in "369"


def find_patients(download: Path) -> list[Path]:
    """List the patients' folders in the clone.

    Raises
    ------
    FileNotFoundError
        If there is none.
    """
    patients = sorted(path for name in FOLDERS for path in (download / name / "nifti").glob("STS_*") if path.is_dir())
    if not patients:
        wanted = " or ".join(f"{name}/nifti/STS_*" for name in FOLDERS)
        raise FileNotFoundError(f"{download}: expected folders {wanted}, found none")
    return patients


def resample_ct(ct: sitk.Image, pet: sitk.Image) -> sitk.Image:
    """Return the CT on the PET's grid, in whole HU, with air where it does not reach."""
    hu = sitk.Resample(sitk.Cast(ct, sitk.sitkFloat32), pet, sitk.Transform(), sitk.sitkLinear, AIR_HU)
    # rounded, since a cast would cut the decimals off
    image = sitk.GetImageFromArray(np.rint(sitk.GetArrayFromImage(hu)).astype(np.int16))
    image.CopyInformation(pet)
    return image


def write_crop(patient: Path, output: Path, *, fullres: bool) -> None:
    """Write a patient's files to `output`, with those on the CT's own grid where `fullres`."""
    ct, ct_mask, pet, pet_mask = (
        sitk.ReadImage(patient / f"{modality}_{kind}.nii.gz")
        for modality in ("CT", "PET")
        for kind in ("image", "mask")
    )
    images = {
        "ct": resample_ct(ct, pet),
        "pet": sitk.Cast(pet, sitk.sitkFloat32),
        "label": pet_mask > 0,
    }
    if fullres:
        images |= {"ct_fullres": sitk.Cast(ct, sitk.sitkInt16), "label_fullres": ct_mask > 0}
    output.mkdir(parents=True, exist_ok=True)
    for name, image in images.items():
        sitk.WriteImage(image, output / f"{name}.mha", useCompression=True)


def main() -> None:
    """Write the crops of all patients, or of those of the models' cards."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("download", type=Path, help="clone of github.com/theibsi/data_sets")
    parser.add_argument("--output", type=Path, required=True, help="folder for the crops, one folder per patient")
    parser.add_argument("--cards", action="store_true", help="only what the embedded models' cards were made with")
    args = parser.parse_args()
    try:
        patients = find_patients(args.download)
    except FileNotFoundError as error:
        parser.error(str(error))
    for patient in patients:
        if in_cards(patient.name) or not args.cards:
            fullres = not args.cards or patient.name in CARDS_FULLRES
            write_crop(patient, args.output / patient.name, fullres=fullres)
            print(args.output / patient.name)


if __name__ == "__main__":
    main()
