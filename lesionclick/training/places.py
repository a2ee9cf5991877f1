"""Where patches are drawn from: places listed in the properties of preprocessed cases, which nnU-Net's loader reads."""

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cc3d
import numpy as np
from numpy.typing import NDArray

from lesionclick.training.losses import FIRST_ORGAN

LISTED_VOXELS = 100
"""Places per lesion."""
LISTED_PLACES = 2000
"""Places per case of each other kind."""
HOT_SUV = 2.5
"""Uptake from which on a place outside the lesions counts as hot, in cases without labels of organs."""
HOTTEST_SUV = 10.0
"""Uptake above which organs are drawn no more often."""
BODY_HU = -500.0
OFF_CENTRE = 0.25
"""Largest distance of a place from what it stands for, as a fraction of the patch: lesions lie anywhere in a tile."""

Places = NDArray[np.int64]


def balance_lesions(folder: Path) -> None:
    """Let nnU-Net's loader draw all lesions of a case equally often, and not by their volume.

    It draws from the voxels that each case's properties list; here each lesion gets `LISTED_VOXELS` of them, some of
    them several times where it has fewer. Cases without a lesion keep their list.

    Parameters
    ----------
    folder
        Preprocessed cases of one configuration; their properties are changed in place.
    """
    for name, _, label, properties, rng in _load_cases(folder):
        places = _on_lesions(label, rng)
        if len(places):
            _write(folder / f"{name}.pkl", properties, {1: places})


def list_places(folder: Path, patch_size: Sequence[int], intensities: dict[str, dict[str, float]]) -> None:
    """Let nnU-Net's loader draw two of five patches on lesions, two on uptake outside them, and one anywhere.

    It draws one of the lists with equal probability, then a voxel from it. Without lesions, two of three patches lie on
    uptake. Where organs are labelled, each is drawn as often as its mean uptake says, whatever its size: salivary
    glands are a hundredth of what is hot, and the first thing that a network takes for lesions if it rarely sees them.

    Parameters
    ----------
    folder
        Preprocessed cases of CT and PET; their properties are changed in place.
    patch_size
        Shape (z, y, x) of a patch.
    intensities
        The plans' properties of CT (``0``) and PET (``1``), by which the images are normalised.
    """
    body_limit = (BODY_HU - intensities["0"]["mean"]) / intensities["0"]["std"]
    for name, images, label, properties, rng in _load_cases(folder):
        lesions = _on_lesions(label, rng)
        suv = images[1] * intensities["1"]["std"] + intensities["1"]["mean"]
        uptake = _draw(_uptake_weights(suv, label), rng)
        body = _draw((images[0] > body_limit).astype(np.float64), rng)
        kinds = [lesions, lesions, uptake, uptake, body]
        moved = [_off_centre(places, label.shape, patch_size, rng) for places in kinds if len(places)]
        _write(folder / f"{name}.pkl", properties, dict(enumerate(moved, start=1)))


def _load_cases(folder: Path) -> Any:
    """Yield name, images, label (z, y, x), properties and a generator of each case."""
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

    cases = infer_dataset_class(str(folder))(str(folder))
    rng = np.random.default_rng(0)
    for name in cases.identifiers:
        images, label, _, properties = cases.load_case(name)
        yield name, images, np.asarray(label[0]), properties, rng


def _uptake_weights(suv: NDArray[np.floating], label: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return how often each voxel outside the lesions is drawn, relative to others, for the sake of its uptake."""
    if label.max() < FIRST_ORGAN:
        hot: NDArray[np.bool_] = (suv > HOT_SUV) & (label != 1)
        return hot.astype(np.float64)
    labels = np.maximum(label, 0)
    sizes = np.bincount(labels.ravel())
    weights: NDArray[np.float64] = np.clip(suv, 0, HOTTEST_SUV) / sizes[labels]
    weights[label < FIRST_ORGAN] = 0.0
    return weights


def _draw(weights: NDArray[np.float64], rng: np.random.Generator) -> Places:
    """Draw `LISTED_PLACES` voxels by their weights, shape (n, 3); none where all weights are zero."""
    cumulated = np.cumsum(weights)
    count = LISTED_PLACES if cumulated[-1] > 0 else 0
    drawn = np.searchsorted(cumulated, rng.uniform(0, cumulated[-1], count), side="right")
    return np.stack(np.unravel_index(drawn, weights.shape), axis=1)


def _on_lesions(label: NDArray[np.integer], rng: np.random.Generator) -> Places:
    """Return as many voxels of each lesion, shape (n, 3)."""
    numbers, count = cc3d.connected_components(label == 1, connectivity=26, return_N=True)
    voxels = [rng.choice(np.argwhere(numbers == n), LISTED_VOXELS) for n in range(1, count + 1)]
    return np.concatenate(voxels) if voxels else np.empty((0, 3), dtype=np.int64)


def _off_centre(places: Places, shape: Sequence[int], patch_size: Sequence[int], rng: np.random.Generator) -> Places:
    reach = OFF_CENTRE * np.asarray(patch_size)
    moved = places + np.rint(rng.uniform(-reach, reach, places.shape)).astype(np.int64)
    return np.clip(moved, 0, np.asarray(shape) - 1)


def _write(path: Path, properties: dict[str, Any], places: dict[int, Places]) -> None:
    """Write the properties with these places; nnU-Net's have a channel in front."""
    properties["class_locations"] = {kind: np.insert(listed, 0, 0, axis=1) for kind, listed in places.items()}
    with path.open("wb") as file:
        pickle.dump(properties, file)
