"""The challenge's longitudinal data, as downloaded, becomes a raw nnU-Net data set of single CTs with lesions."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from lesionclick.errors import InputError
from lesionclick.images import Grid, require_same_grid

FOLDS = 5
SPLIT_SEED = 20261123
_IMAGE = re.compile(r"(?P<patient>.+)_(?P<visit>BL|FU)_img_(?P<region>\d\d)\.nii\.gz")


def convert(download: Path, dataset: Path) -> Path:
    """Write each baseline and each follow-up of a download as a case of its own.

    Training makes its pairs of single CTs (`lesionclick.training.pairs`), so that a scan counts whether or not its
    lesions can be matched with another's; the tables of matched lesions (``<id>.csv``) are not read.

    Parameters
    ----------
    download
        Folder with ``inputsTr/<id>_BL_img_<nn>.nii.gz``, ``<id>_BL_mask_<nn>.nii.gz``, ``<id>_FU_img_<nn>.nii.gz`` and
        ``targetsTr/<id>_FU_mask_<nn>.nii.gz``.
    dataset
        New folder ``Dataset<NNN>_<Name>``: CTs, masks with all lesions as 1, ``dataset.json``, and
        ``splits_final.json`` with five folds in which the scans of a patient stay together.

    Returns
    -------
    Path
        `dataset`.

    Raises
    ------
    InputError
        If there is no such image, an image has no mask, or the two lie on different grids.
    """
    patients: dict[str, list[str]] = {}
    for patient, name, image, mask in _find_scans(download):
        ct, label = (sitk.ReadImage(str(path)) for path in (image, mask))
        require_same_grid(Grid.from_image(ct), Grid.from_image(label), str(image), str(mask))
        for folder, kind, volume in (
            ("imagesTr", "_0000", ct),
            ("labelsTr", "", sitk.Cast(label != 0, sitk.sitkUInt8)),
        ):
            (dataset / folder).mkdir(parents=True, exist_ok=True)
            sitk.WriteImage(volume, str(dataset / folder / f"{name}{kind}.nii.gz"))
        patients.setdefault(patient, []).append(name)
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": sum(map(len, patients.values())),
        "file_ending": ".nii.gz",
    }
    (dataset / "dataset.json").write_text(json.dumps(description, indent=1))
    (dataset / "splits_final.json").write_text(json.dumps(_split(patients), indent=1))
    return dataset


def _find_scans(download: Path) -> Iterator[tuple[str, str, Path, Path]]:
    """Yield patient, name, image and mask of each scan."""
    inputs = download / "inputsTr"
    found = [(path, match) for path in sorted(inputs.glob("*.nii.gz")) if (match := _IMAGE.fullmatch(path.name))]
    if not found:
        raise InputError(f"{inputs}: expected images <id>_BL_img_<nn>.nii.gz and <id>_FU_img_<nn>.nii.gz, found none")
    for path, match in found:
        patient, visit, region = match.group("patient", "visit", "region")
        folder = inputs if visit == "BL" else download / "targetsTr"
        mask = folder / f"{patient}_{visit}_mask_{region}.nii.gz"
        if not mask.is_file():
            raise InputError(f"{mask}: expected the mask of {path.name}, found none")
        yield patient, f"{patient}_{visit}_{region}", path, mask


def _split(patients: dict[str, list[str]]) -> list[dict[str, list[str]]]:
    """Return nnU-Net's splits: the patients dealt out to the folds in an order drawn by a fixed seed."""
    order = np.random.default_rng(SPLIT_SEED).permutation(sorted(patients)).tolist()
    folds = []
    for fold in range(min(FOLDS, len(order))):
        held_out = set(order[fold::FOLDS])
        names = {kind: [n for p in order if (p in held_out) == kind for n in patients[p]] for kind in (False, True)}
        folds.append({"train": sorted(names[False]), "val": sorted(names[True])})
    return folds
