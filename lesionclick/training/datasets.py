"""The data sets of the embedded models: phantoms, and real crops of soft-tissue sarcomas."""

import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from lesionclick.images import Grid, Volume
from lesionclick.simulation.implants import implant_lesions
from lesionclick.simulation.patients import TRAINING_CLASSES, make_patient, training_classes
from lesionclick.simulation.phantoms import Tracer, make_phantom
from lesionclick.simulation.transplants import Tumour
from lesionclick.training.losses import FIRST_ORGAN

SPLIT_SEED = 20261123
HELD_OUT = 9
"""Real patients that are never trained on."""
VALIDATION_SEED = 3_000_000
VALIDATION_PHANTOMS = 12
TRANSPLANT_SHARES = (0.55, 0.3, 0.15)
"""Shares of the phantoms with none, one and two real tumours."""
TRANSPLANT_STREAM = 1
"""Keeps the choice of tumours apart from what a phantom draws by the same seed."""
RANDOMISED_SHARE = 0.5
"""Share of the phantoms whose organs have shapes and uptake that are not found in people."""
RANDOMISED_STREAM = 3
"""Keeps the choice of these phantoms apart from what a phantom draws by the same seed."""
IMPLANT_STREAM = 2
"""Keeps the lesions made in real CTs apart from the choice of tumours by the same number."""
COPIES = 12
"""How often each real CT is used as a background, with other lesions each time."""
SPACING_XYZ = {"task1": (4.0, 4.0, 3.27), "task2": (2.0, 2.0, 3.0)}
"""Voxel size of the small configurations in mm."""
SCANNED_XYZ = {
    SPACING_XYZ["task1"]: 0.4,
    (4.07, 4.07, 3.0): 0.15,
    (4.07, 4.07, 5.0): 0.15,
    (2.73, 2.73, 3.27): 0.1,
    (5.47, 5.47, 5.0): 0.15,
    (2.04, 2.04, 3.0): 0.05,
}
"""Voxel sizes of the training phantoms of Task 1 in mm, and their shares; nnU-Net resamples them to the first."""
LESIONS = (8, 21)
"""Range of the number of lesions in a phantom of Task 2; the upper end is left out."""
LARGEST_MM = 34.0
"""Size up to which real lesions of Task 2 are left as they are. Sarcomas are many times larger than most metastases:
larger ones are shown smaller, by another voxel size, so that they fit a patch.
"""


def split_patients(patients: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the patients to train on and those held out, drawn once by a fixed seed."""
    order = np.random.default_rng(SPLIT_SEED).permutation(sorted(patients)).tolist()
    return sorted(order[HELD_OUT:]), sorted(order[:HELD_OUT])


def build_dataset(
    sts: Path,
    output: Path,
    phantoms: int,
    processes: int = 2,
    *,
    real_share: float = 0.25,
    left_out: Sequence[str] = (),
) -> Path:
    """Write the raw nnU-Net data set, with a split that draws real patients with probability `real_share`.

    Real tumours of the patients to train on are put into some of the phantoms. The labels hold the phantoms' organs
    beside the lesions. Validation patches come from `VALIDATION_PHANTOMS` further phantoms; the patients held out are
    no part of the data set.

    Parameters
    ----------
    sts
        Folder with one folder per patient that holds ``ct.mha``, ``pet.mha`` and ``label.mha``.
    output
        Parent of the new folder ``Dataset001_PhantomsAndSarcomas``.
    phantoms
        Number of phantoms, half of them FDG and half PSMA, with the seeds 0, 1, 2 and so on.
    left_out
        Patients that are left out beside those held out.

    Returns
    -------
    Path
        The data set folder.
    """
    dataset = output / "Dataset001_PhantomsAndSarcomas"
    patients = [name for name in split_patients(list_patients(sts))[0] if name not in left_out]
    for patient in patients:
        _write_case(dataset, patient, *_read_images(sts / patient, "label", "ct", "pet"))
    donors = [sts / patient for patient in patients]
    with ProcessPoolExecutor(processes) as pool:
        training = list(pool.map(partial(_write_phantom, dataset, donors), range(phantoms)))
        further = range(VALIDATION_SEED, VALIDATION_SEED + VALIDATION_PHANTOMS)
        validation = list(pool.map(partial(_write_phantom, dataset, ()), further))
    split = _split(patients, training, validation, real_share)
    count = len(patients) + len(training) + len(validation)
    _describe(dataset, split, count, ["CT", "PET"], organs=["other", *TRAINING_CLASSES])
    return dataset


def build_longitudinal_dataset(
    sts: Path,
    output: Path,
    phantoms: int,
    processes: int = 2,
    *,
    real_share: float = 0.3,
    backgrounds: Sequence[Path] = (),
) -> Path:
    """Write the raw nnU-Net data set of Task 2: single CTs with lesions, of which training makes pairs.

    The arguments are those of `build_dataset`; patients have ``ct_fullres.mha`` and ``label_fullres.mha`` where there
    are such. Phantoms, half of them of either generator, are scanned after contrast agent. `backgrounds` are files of
    real CTs without lesions that matter; `COPIES` of each get lesions made in them. The new folder is
    ``Dataset002_LesionsInCT``.

    Returns
    -------
    Path
        The data set folder.
    """
    dataset = output / "Dataset002_LesionsInCT"
    patients = list_patients(sts)
    for patient in patients:
        suffix = "_fullres" if (sts / patient / "label_fullres.mha").is_file() else ""
        images = _read_images(sts / patient, f"label{suffix}", f"ct{suffix}")
        _write_case(dataset, patient, *_shrunk_to_fit(images))
    implants = [(which, path, number) for which, path in enumerate(backgrounds) for number in range(COPIES)]
    with ProcessPoolExecutor(processes) as pool:
        drawn = pool.map(partial(_write_enhanced_phantom, dataset), range(phantoms))
        made = pool.map(partial(_write_implants, dataset), *zip(*implants, strict=True)) if implants else ()
        names = [*drawn, *made]
    training, held_out = split_patients(patients)
    _describe(dataset, _split(training, names, held_out, real_share), len(patients) + len(names), ["CT"])
    return dataset


def list_patients(sts: Path) -> list[str]:
    """Return the names of the patients' folders, which hold a label, in order."""
    return sorted(path.name for path in sts.iterdir() if (path / "label.mha").is_file())


def _read_images(folder: Path, *kinds: str) -> list[sitk.Image]:
    return [sitk.ReadImage(str(folder / f"{kind}.mha")) for kind in kinds]


def _shrunk_to_fit(images: Sequence[sitk.Image]) -> Sequence[sitk.Image]:
    """Give the images, of which the first is the label, a voxel size with which no lesion exceeds `LARGEST_MM`."""
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(sitk.ConnectedComponent(images[0] > 0))
    boxes = [shape.GetBoundingBox(number)[3:] for number in shape.GetLabels()]
    largest = max(float(np.max(np.multiply(box, images[0].GetSpacing()))) for box in boxes)
    factor = min(1.0, LARGEST_MM / largest)
    for image in images:
        image.SetSpacing([factor * mm for mm in image.GetSpacing()])
    return images


def _split(
    patients: Sequence[str], phantoms: Sequence[str], validation: Sequence[str], real_share: float
) -> dict[str, list[str]]:
    """Return a split that lists the patients often enough to make up `real_share` of the training cases."""
    repeats = max(1, round(real_share / (1 - real_share) * len(phantoms) / len(patients)))
    return {"train": [*[*patients] * repeats, *phantoms], "val": [*validation]}


def _describe(
    dataset: Path, split: dict[str, list[str]], count: int, channels: Sequence[str], *, organs: Sequence[str] = ()
) -> None:
    """Write the split and the description of a data set of `count` cases."""
    (dataset / "splits_final.json").write_text(json.dumps([split], indent=1))
    description = {
        "channel_names": {str(number): name for number, name in enumerate(channels)},
        "labels": {"background": 0, "lesion": 1},
        **({"organs": organs} if organs else {}),
        "numTraining": count,
        "file_ending": ".nii.gz",
    }
    (dataset / "dataset.json").write_text(json.dumps(description, indent=1))


def _write_phantom(dataset: Path, donors: Sequence[Path], seed: int) -> str:
    """Write a phantom, some of them with tumours of the patients in the folders `donors`, and return its name."""
    tracer: Tracer = "psma" if seed % 2 else "fdg"
    name = f"phantom_{tracer}_{seed:04d}"
    if not _is_written(dataset, name):
        rng = np.random.default_rng([seed, TRANSPLANT_STREAM])
        count = min(int(rng.choice(len(TRANSPLANT_SHARES), p=TRANSPLANT_SHARES)), len(donors))
        tumours = [_read_tumour(donors[number]) for number in rng.choice(len(donors), count, replace=False)]
        spacing = list(SCANNED_XYZ)[rng.choice(len(SCANNED_XYZ), p=list(SCANNED_XYZ.values()))]
        randomised = bool(np.random.default_rng([seed, RANDOMISED_STREAM]).uniform() < RANDOMISED_SHARE)
        phantom = make_patient(seed, tracer, spacing_xyz=spacing, transplants=tumours, randomised=randomised)
        organs = training_classes()[phantom.organs.array] + FIRST_ORGAN
        label = Volume(np.where(phantom.label.array > 0, 1, organs).astype(np.uint8), phantom.label.grid)
        _write_case(dataset, name, *(volume.to_image() for volume in (label, phantom.ct, phantom.pet)))
    return name


def _read_tumour(folder: Path) -> Tumour:
    pet, ct, label = (
        Volume(sitk.GetArrayFromImage(image), Grid.from_image(image))
        for image in _read_images(folder, "pet", "ct", "label")
    )
    return Tumour(pet=pet, ct=ct, label=label)


def _write_enhanced_phantom(dataset: Path, seed: int) -> str:
    """Write a phantom after contrast agent, with an odd seed one from real organ shapes, and return its name."""
    name = f"phantom_{seed:04d}"
    if not _is_written(dataset, name):
        lesions = int(np.random.default_rng(seed).integers(*LESIONS))
        make = make_patient if seed % 2 else make_phantom
        phantom = make(seed, "fdg", lesions=lesions, spacing_xyz=SPACING_XYZ["task2"], contrast_agent=True)
        _write_case(dataset, name, phantom.label.to_image(), phantom.ct.to_image())
    return name


def _write_implants(dataset: Path, which: int, background: Path, number: int) -> str:
    """Write a real CT with lesions made in it, and return its name; `which` tells CTs of one name apart."""
    name = f"{background.name.split('.')[0]}_{background.parent.name}_{which:02d}_{number:02d}"
    if not _is_written(dataset, name):
        rng = np.random.default_rng([number, IMPLANT_STREAM])
        ct, label = implant_lesions(Volume.read(background), int(rng.integers(*LESIONS)), rng)
        _write_case(dataset, name, label.to_image(), ct.to_image())
    return name


def _is_written(dataset: Path, name: str) -> bool:
    return (dataset / "labelsTr" / f"{name}.nii.gz").is_file()


def _write_case(dataset: Path, name: str, label: sitk.Image, *images: sitk.Image) -> None:
    """Write a case; the label comes last, as a sign that it is complete."""
    for folder in ("imagesTr", "labelsTr"):
        (dataset / folder).mkdir(parents=True, exist_ok=True)
    for channel, image in enumerate(images):
        sitk.WriteImage(image, str(dataset / "imagesTr" / f"{name}_{channel:04d}.nii.gz"))
    sitk.WriteImage(label, str(dataset / "labelsTr" / f"{name}.nii.gz"))
