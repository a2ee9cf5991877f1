"""Sample cases: phantoms with simulated clicks and courses, and real crops, as the platform lays out its `/input`."""

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import cc3d
import numpy as np
from numpy.typing import NDArray

from lesionclick.errors import InputError
from lesionclick.grand_challenge.case_folder import LISTING
from lesionclick.grand_challenge.click_files import write_clicks
from lesionclick.grand_challenge.interfaces import CT, LESION_CLICKS, PET, PRIMARY, REGION_OF, REGIONS, Region, Socket
from lesionclick.images import Volume, points_from_indices
from lesionclick.longitudinal.case import Baseline, Followup
from lesionclick.longitudinal.labels import LesionPoints
from lesionclick.prompts.points import Point, Prompts
from lesionclick.simulation.courses import make_pair
from lesionclick.simulation.phantoms import Phantom, make_phantom
from lesionclick.simulation.readers import official, simulate

PET_STEP_SUV = 1 / 128
"""The PET is rounded to multiples of this, far below its noise, so that its file compresses."""


def write_sample(phantom: Phantom, seed: int, output: Path, label: Path | None = None) -> None:
    """Write a phantom and its clicks as a case.

    The images' names are UUIDs that follow from tracer and seed, so that the same command gives the same files.

    Parameters
    ----------
    phantom
        What to write.
    seed
        Of the phantom; the clicks are drawn with it too.
    output
        Case folder: `images/ct/<uuid>.mha`, `images/pet/<uuid>.mha`, `lesion-clicks.json` and `inputs.json`.
    label
        File for the true mask, which belongs outside the case.
    """
    suv = np.rint(phantom.pet.array / PET_STEP_SUV) * PET_STEP_SUV
    pet = Volume(suv.astype(np.float32), phantom.pet.grid)
    if label is not None:
        _write_image(phantom.label, label)
    tumor, background = simulate(phantom.label.array > 0, pet.array, np.random.default_rng(seed))
    clicks = Prompts.from_indices(tumor_zyx=tumor, background_zyx=background)
    name = f"phantom {phantom.tracer} {seed}"
    write_case(output, name, {CT: phantom.ct, PET: pet}, {LESION_CLICKS: clicks})


def write_real_sample(crop: Path, output: Path, label: Path) -> None:
    """Write the crop of a real patient as a case, with the clicks that the organisers' script gives for it.

    Parameters
    ----------
    crop
        Folder of a patient with ``ct.mha``, ``pet.mha`` and ``label.mha``, as ``benchmarks/crops.py`` makes it. The
        images' names follow from the folder's.
    output
        Case folder, laid out as by `write_sample`; CT and PET keep every voxel value.
    label
        File for the true mask.
    """
    ct, pet, truth = (Volume.read(crop / f"{name}.mha") for name in ("ct", "pet", "label"))
    _write_image(truth, label)
    tumor, background = official(truth.array > 0, pet.array)
    clicks = Prompts.from_indices(tumor_zyx=tumor, background_zyx=background)
    write_case(output, crop.name, {CT: ct, PET: pet}, {LESION_CLICKS: clicks})


@dataclass(frozen=True)
class Visits:
    """A body region at two times.

    Attributes
    ----------
    baseline, followup
        As they are read from a case; the follow-up has a point for each lesion that it shows.
    label
        The follow-up's true mask, uint16, with the lesions' numbers.
    """

    baseline: Baseline
    followup: Followup
    label: Volume


def make_visits(ct: Volume, lesions: Volume, seed: int, region: Region = PRIMARY, *, first: int = 1) -> Visits:
    """Make a baseline and a follow-up of one CT.

    Parameters
    ----------
    ct
        HU.
    lesions
        Any value but 0 is a lesion; each 26-connected component has a course of its own.
    seed
        Of the courses and of the follow-up's posture and noise.
    region
        What it is a region of.
    first
        Number of the first lesion.
    """
    components = cc3d.connected_components(lesions.array > 0, connectivity=26)
    numbers = np.where(components > 0, components + (first - 1), 0).astype(np.uint16)
    pair = make_pair(ct.array.astype(np.float32), numbers, ct.grid.spacing_zyx, np.random.default_rng(seed))
    before, after = (np.rint(scan).astype(np.float32) for scan in (pair.baseline_ct, pair.followup_ct))
    return Visits(
        Baseline(
            region.name,
            Volume(before, ct.grid),
            Volume(pair.baseline_lesions, ct.grid),
            _centres(pair.baseline_lesions),
        ),
        Followup(region.name, Volume(after, ct.grid), _centres(pair.followup_lesions)),
        Volume(pair.followup_lesions, ct.grid),
    )


def phantom_visits(
    seed: int,
    lesions: int = 12,
    *,
    spacing_xyz: tuple[float, float, float] = (2.0, 2.0, 3.0),
    field_of_view: tuple[float, float] | None = None,
    region: Region = PRIMARY,
    first: int = 1,
) -> Visits:
    """Draw a patient after contrast agent, and make a baseline and a follow-up; see `make_phantom`, `make_visits`."""
    phantom = make_phantom(
        seed, "fdg", lesions=lesions, spacing_xyz=spacing_xyz, field_of_view=field_of_view, contrast_agent=True
    )
    return make_visits(phantom.ct, phantom.label, seed, region, first=first)


def _centres(lesions: NDArray[np.uint16]) -> LesionPoints:
    """Return the centre of gravity of each lesion, as a voxel index (x, y, z) with one decimal."""
    centres = {}
    for number in np.unique(lesions[lesions > 0]).tolist():
        x, y, z = np.round(points_from_indices(np.argwhere(lesions == number)).mean(axis=0), 1).tolist()
        centres[number] = (x, y, z)
    return centres


def write_longitudinal_sample(
    visits: Sequence[Visits],
    name: str,
    output: Path,
    labels: Path | None = None,
    *,
    halved: Literal["baseline", "follow-up"] | None = None,
) -> None:
    """Write one or two body regions as a longitudinal case.

    Parameters
    ----------
    visits
        The regions, each under the sockets that it names.
    name
        Of the case; the images' UUIDs follow from it.
    output
        Case folder.
    labels
        Folder for the true masks, `<region>.mha`.
    halved
        Which scan of a single region comes as two: its upper half as the primary region, its lower as the secondary.
    """
    baselines = [visit.baseline for visit in visits]
    followups = [(visit.followup, visit.label) for visit in visits]
    if halved == "baseline":
        baselines = _halve_baseline(*baselines)
    elif halved == "follow-up":
        followups = _halve_followup(*followups[0])
    images: dict[Socket, Volume] = {}
    points: dict[Socket, LesionPoints] = {}
    for baseline in baselines:
        region = REGION_OF[baseline.region]
        images[region.baseline_ct] = _typed(baseline.ct, np.int16)
        images[region.baseline_mask] = _numbered(baseline.lesions)
        points[region.baseline_clicks] = baseline.points
    for followup, label in followups:
        region = REGION_OF[followup.region]
        images[region.followup_ct] = _typed(followup.ct, np.int16)
        points[region.followup_clicks] = followup.points
        if labels is not None:
            _write_image(_numbered(label), labels / f"{region.name}.mha")
    clicks = {
        socket: Prompts(tuple(Point(str(number), point) for number, point in given.items()))
        for socket, given in points.items()
    }
    write_case(output, f"phantom {name}", images, clicks)


def _halve_baseline(whole: Baseline) -> list[Baseline]:
    return [
        Baseline(region.name, _cut(whole.ct, part), _cut(whole.lesions, part), _points_in(whole.points, part))
        for region, part in zip(REGIONS, _halves(whole.lesions.array), strict=True)
    ]


def _halve_followup(whole: Followup, label: Volume) -> list[tuple[Followup, Volume]]:
    return [
        (
            Followup(region.name, _cut(whole.ct, part), _points_in(whole.points, part)),
            _cut(label, part),
        )
        for region, part in zip(REGIONS, _halves(label.array), strict=True)
    ]


def _halves(lesions: NDArray[np.uint16]) -> tuple[slice, slice]:
    """Return what lies above and below the level nearest to the middle that cuts no lesion, along z."""
    free = np.flatnonzero(~lesions.any(axis=(1, 2)))
    free = free[free > 0]
    if not free.size:
        raise InputError("halves: expected a level without a lesion, found one in each; fewer lesions leave some")
    level = int(free[np.abs(free - len(lesions) / 2).argmin()])
    return slice(level, len(lesions)), slice(0, level)


def _cut(volume: Volume, part: slice) -> Volume:
    """Return the levels of `part` along z."""
    x, y, _ = volume.grid.size_xyz
    origin = tuple(volume.grid.to_physical((0, 0, part.start))[0].tolist())
    grid = replace(volume.grid, size_xyz=(x, y, part.stop - part.start), origin_xyz=origin)
    return Volume(volume.array[part], grid)


def _points_in(points: LesionPoints, part: slice) -> LesionPoints:
    """Return the points that lie in the levels of `part`, as indices there."""
    return {
        number: (x, y, round(z - part.start, 1))
        for number, (x, y, z) in points.items()
        if part.start <= z + 0.5 < part.stop
    }


def _typed(volume: Volume, kind: type[np.integer]) -> Volume:
    return Volume(volume.array.astype(kind), volume.grid)


def _numbered(lesions: Volume) -> Volume:
    """Return a mask in the smallest type that holds its numbers."""
    return _typed(lesions, np.uint8 if lesions.array.max() < 2**8 else np.uint16)


def _uuid(text: str) -> uuid.UUID:
    return uuid.uuid5(uuid.NAMESPACE_OID, f"lesionclick {text}")


def _write_image(volume: Volume, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    volume.write(path, compression=9)


def write_case(output: Path, name: str, images: Mapping[Socket, Volume], clicks: Mapping[Socket, Prompts]) -> None:
    """Write a case from its images and clicks, and the file in which the platform lists them.

    Parameters
    ----------
    output
        Case folder.
    name
        Of the case; the images' UUIDs follow from it, and its first word begins their plain names.
    images, clicks
        What lies at each socket.

    Raises
    ------
    InputError
        If the folder holds a case: of two images at one socket the platform shows none.
    """
    if (output / LISTING).exists():
        raise InputError(f"{output}: expected a new case folder, found a case")
    entries = []
    for socket, volume in images.items():
        _write_image(volume, output / socket.relative_path / f"{_uuid(f'{name} {socket.slug}')}.mha")
        entries.append(_list(socket, image={"name": f"{name.split()[0]}_{socket.slug}.mha"}))
    for socket, prompts in clicks.items():
        path = output / socket.relative_path
        write_clicks(path, prompts)
        entries.append(_list(socket, value=json.loads(path.read_bytes())))
    (output / LISTING).write_text(json.dumps(entries, indent=2) + "\n", encoding="utf-8")


def _list(socket: Socket, *, image: object = None, value: object = None) -> dict[str, object]:
    kinds = {f"is_{kind}_kind": socket.kind == kind for kind in ("image", "json")}
    described = {"slug": socket.slug, "relative_path": socket.relative_path, **kinds}
    return {"socket": described, "file": None, "image": image, "value": value}
