"""The cases of a data set that a fold was not trained on, as the platform gives cases, to replay and to score."""

import json
import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from lesionclick.errors import InputError
from lesionclick.evaluation.samples import write_case
from lesionclick.grand_challenge.click_files import read_lesion_points
from lesionclick.grand_challenge.interfaces import CT, LESION_CLICKS, PET, PRIMARY
from lesionclick.images import Volume
from lesionclick.prompts.points import Point, Prompts
from lesionclick.simulation.readers import simulate

logger = logging.getLogger(__name__)


def write_held_out(dataset: Path, fold: int, output: Path, *, seed: int = 0) -> list[str]:
    """Write the validation cases of a fold, and their true masks.

    Cases of Task 1 get clicks by the challenge's procedure. For Task 2 a patient's baseline and follow-up of one body
    region make a case, with the masks, numbers and points of the download.

    Parameters
    ----------
    dataset
        Data set folder that `lesionclick.training.raw_sets.build_raw_set` has built.
    fold
        Number of the fold in its ``splits_final.json``.
    output
        Folder for ``cases/<case>`` and ``labels/<case>.mha``; for Task 2 ``labels/<case>/primary.mha``. They appear
        when they are complete.
    seed
        Of the clicks; they also follow from the case's name, so that they do not depend on the other cases.

    Returns
    -------
    list
        Names of the cases.

    Raises
    ------
    InputError
        If the data set or the fold is not there, a file of the download is gone, or something lies in `output`.
    """
    part = output / ".part"
    shutil.rmtree(part, ignore_errors=True)
    if output.exists() and any(output.iterdir()):  # cases of another fold, which its model has seen
        raise InputError(f"{output}: expected a new or an empty folder, found {next(output.iterdir()).name} in it")
    known, splits = (_read_json(dataset / name) for name in ("cases.json", "splits_final.json"))
    if not 0 <= fold < len(splits):
        raise InputError(f"{dataset / 'splits_final.json'}: expected a fold from 0 to {len(splits) - 1}, found {fold}")
    cases = {name: known["cases"][name] for name in splits[fold]["val"]}
    if not cases:
        raise InputError(f"{dataset / 'splits_final.json'}: expected cases in val of fold {fold}, found none")
    try:
        if len(next(iter(cases.values()))["images"]) > 1:
            for name in cases:
                _write_petct(dataset, name, part, seed)
            written = list(cases)
        else:
            written = _write_longitudinal(cases, part)
        if not written:
            raise InputError(f"{dataset}: expected a baseline with its follow-up in fold {fold}, found none")
        for path in sorted(part.glob("*"), reverse=True):  # the cases last
            path.rename(output / path.name)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return written


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected a file that lesionclick dataset has written, found {error}") from error


def _write_petct(dataset: Path, name: str, output: Path, seed: int) -> None:
    ct, pet = (Volume.read(dataset / "imagesTr" / f"{name}_{channel:04}.nii.gz") for channel in range(2))
    label = Volume.read(dataset / "labelsTr" / f"{name}.nii.gz")
    rng = np.random.default_rng([seed, *name.encode()])
    tumor, background = simulate(label.array > 0, pet.array, rng)
    clicks = Prompts.from_indices(tumor_zyx=tumor, background_zyx=background)
    write_case(output / "cases" / name, name, {CT: ct, PET: pet}, {LESION_CLICKS: clicks})
    _write_label(label, output / "labels" / f"{name}.mha", np.uint8)


def _write_longitudinal(cases: Mapping[str, Any], output: Path) -> list[str]:
    written = []
    for name in (name for name in cases if "_BL_" in name):
        baseline, followup = cases[name], cases.get(name.replace("_BL_", "_FU_"))
        if followup is None:
            logger.warning("%s has no follow-up and is left out", name)
            continue
        case = name.replace("_BL_", "_")
        images = {
            PRIMARY.baseline_ct: Volume.read(baseline["images"][0]),
            PRIMARY.baseline_mask: Volume.read(baseline["label"]),
            PRIMARY.followup_ct: Volume.read(followup["images"][0]),
        }
        clicks = {
            socket: _named(read_lesion_points(Path(visit["points"])))
            for socket, visit in ((PRIMARY.baseline_clicks, baseline), (PRIMARY.followup_clicks, followup))
        }
        write_case(output / "cases" / case, case, images, clicks)
        label = Volume.read(followup["label"])
        _write_label(label, output / "labels" / case / f"{PRIMARY.name}.mha", np.uint16)
        written.append(case)
    return written


def _named(points: Mapping[int, tuple[float, float, float]]) -> Prompts:
    return Prompts(tuple(Point(str(number), place) for number, place in points.items()))


def _write_label(label: Volume, path: Path, kind: type[np.integer]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Volume(label.array.astype(kind), label.grid).write(path)
