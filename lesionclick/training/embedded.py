"""The data set of the embedded Task 1 model: phantoms of both tracers, and real crops of soft-tissue sarcomas."""

import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from lesionclick.simulation.phantoms import Tracer, make_phantom

SPLIT_SEED = 20261123
HELD_OUT = 9
"""Real patients that are never trained on."""
SPACING_XYZ = (4.0, 4.0, 3.27)
"""Voxel size of the training phantoms in mm, that of the small configuration."""


def split_patients(patients: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the patients to train on and those held out, drawn once by a fixed seed."""
    order = np.random.default_rng(SPLIT_SEED).permutation(sorted(patients)).tolist()
    return sorted(order[HELD_OUT:]), sorted(order[:HELD_OUT])


def build_dataset(sts: Path, output: Path, phantoms: int, processes: int = 2, real_share: float = 0.62) -> Path:
    """Write the raw nnU-Net data set, with a split that draws real patients with probability `real_share`.

    Parameters
    ----------
    sts
        Folder with one folder per patient that holds ``ct.mha``, ``pet.mha`` and ``label.mha``.
    output
        Parent of the new folder ``Dataset001_PhantomsAndSarcomas``.
    phantoms
        Number of phantoms, half of them FDG and half PSMA, with the seeds 0, 1, 2 and so on.

    Returns
    -------
    Path
        The data set folder.
    """
    dataset = output / "Dataset001_PhantomsAndSarcomas"
    for folder in ("imagesTr", "labelsTr"):
        (dataset / folder).mkdir(parents=True, exist_ok=True)
    patients = sorted(path.name for path in sts.iterdir() if (path / "label.mha").is_file())
    training, held_out = split_patients(patients)
    for patient in patients:
        images = [sitk.ReadImage(str(sts / patient / f"{kind}.mha")) for kind in ("ct", "pet", "label")]
        _write_case(dataset, patient, *images)
    with ProcessPoolExecutor(processes) as pool:
        names = list(pool.map(partial(_write_phantom, dataset), range(phantoms)))
    repeats = max(1, round(real_share / (1 - real_share) * len(names) / len(training)))
    split = [{"train": training * repeats + names, "val": held_out}]
    (dataset / "splits_final.json").write_text(json.dumps(split, indent=1))
    description = {
        "channel_names": {"0": "CT", "1": "PET"},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": len(patients) + len(names),
        "file_ending": ".nii.gz",
    }
    (dataset / "dataset.json").write_text(json.dumps(description, indent=1))
    return dataset


def _write_phantom(dataset: Path, seed: int) -> str:
    tracer: Tracer = "psma" if seed % 2 else "fdg"
    name = f"phantom_{tracer}_{seed:04d}"
    if not (dataset / "labelsTr" / f"{name}.nii.gz").is_file():
        phantom = make_phantom(seed, tracer, spacing_xyz=SPACING_XYZ)
        _write_case(dataset, name, *(volume.to_image() for volume in (phantom.ct, phantom.pet, phantom.label)))
    return name


def _write_case(dataset: Path, name: str, ct: sitk.Image, pet: sitk.Image, label: sitk.Image) -> None:
    sitk.WriteImage(ct, str(dataset / "imagesTr" / f"{name}_0000.nii.gz"))
    sitk.WriteImage(pet, str(dataset / "imagesTr" / f"{name}_0001.nii.gz"))
    sitk.WriteImage(label, str(dataset / "labelsTr" / f"{name}.nii.gz"))
