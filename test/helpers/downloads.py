"""Tiny downloads in the public layouts, of cut-out phantoms with voxels of 6 mm."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from lesionclick.evaluation.samples import make_visits
from lesionclick.grand_challenge.click_files import write_clicks
from lesionclick.images import Volume
from lesionclick.longitudinal.labels import LesionPoints
from lesionclick.prompts.points import Point, Prompts
from lesionclick.simulation.phantoms import Phantom, make_phantom


@cache
def cut_out(seed: int) -> Phantom:
    """Return a part of a phantom with some lesions."""
    return make_phantom(seed, "fdg", lesions=6, spacing_xyz=(6.0, 6.0, 6.0), field_of_view=(0.3, 0.6))


def write_volume(volume: Volume, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    volume.write(path)


def write_challenge_petct(folder: Path, names: Sequence[str] = ("fdg_a_1", "fdg_b_1", "psma_c_1")) -> Path:
    """Write `imagesTr/<case>_0000` and `_0001`, and `labelsTr/<case>`."""
    for seed, name in enumerate(names):
        phantom = cut_out(seed)
        for channel, volume in enumerate((phantom.ct, phantom.pet)):
            write_volume(volume, folder / "imagesTr" / f"{name}_{channel:04}.nii.gz")
        write_volume(phantom.label, folder / "labelsTr" / f"{name}.nii.gz")
    return folder


def write_studies(folder: Path, patients: Sequence[str] = ("PETCT_a", "PETCT_b", "PSMA_c")) -> Path:
    """Write `<patient>/<study>/{CTres,SUV,SEG}.nii.gz`, two studies of the first patient."""
    studies = [(patients[0], "01-02-2003 whole body"), *((patient, "04-05-2006") for patient in patients)]
    for seed, (patient, study) in enumerate(studies):
        phantom = cut_out(seed)
        for name, volume in (("CTres", phantom.ct), ("SUV", phantom.pet), ("SEG", phantom.label)):
            write_volume(volume, folder / patient / study / f"{name}.nii.gz")
    return folder


def write_longitudinal(folder: Path, patients: Sequence[str] = ("a", "b")) -> Path:
    """Write two visits of each patient, with a mask and a click file for each."""
    for seed, patient in enumerate(patients):
        phantom = cut_out(seed)
        visits = make_visits(phantom.ct, phantom.label, seed)
        inputs, targets = folder / "inputsTr", folder / "targetsTr"
        for visit, ct, mask, points, masks in (
            ("BL", visits.baseline.ct, visits.baseline.lesions, visits.baseline.points, inputs),
            ("FU", visits.followup.ct, visits.label, visits.followup.points, targets),
        ):
            write_volume(Volume(ct.array.astype(np.int16), ct.grid), inputs / f"{patient}_{visit}_img_00.nii.gz")
            write_volume(mask, masks / f"{patient}_{visit}_mask_00.nii.gz")
            write_clicks(inputs / f"{patient}_{visit}_00.json", _named(points))
    return folder


def _named(points: LesionPoints) -> Prompts:
    return Prompts(tuple(Point(str(number), place) for number, place in points.items()))
