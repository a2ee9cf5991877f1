"""Simulated clicks: where a reader would click, given the true label, the PET and perhaps a prediction.

All arrays are (z, y, x) on one grid and all clicks are voxel indices of shape (n, 3) in the order z, y, x. Distances
are in voxels, because the challenge's own procedure ignores the spacing. Components are 26-connected.
"""

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

HOT_PERCENTILE = 99.75
"""Uptake above this percentile of all uptake outside the label attracts background clicks (autoPET IV)."""

Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]


def simulate(
    label: Mask,
    pet: NDArray[np.floating],
    rng: np.random.Generator,
    n_clicks: int = 10,
) -> tuple[Indices, Indices]:
    """Place clicks as the text of the challenge describes them.

    Tumour clicks go to the centres of up to `n_clicks` randomly chosen components of the label, then to random boundary
    voxels of random ones among them until there are `n_clicks`. Background clicks are placed in the same way in the
    components of hot uptake outside the label.

    Parameters
    ----------
    label
        True tumour voxels, shape (z, y, x).
    pet
        Uptake on the same grid, shape (z, y, x); any unit.
    rng
        The only source of randomness.
    n_clicks
        Clicks of each kind.

    Returns
    -------
    tumor_zyx, background_zyx : (n, 3) int64
        n is `n_clicks`, or 0 where there is no tumour or no hot uptake outside it (a constant PET has none).

    Raises
    ------
    ValueError
        If the arrays differ in shape.
    """
    _require_same_shape(label, pet)
    label = np.asarray(label, dtype=bool)
    return (
        place_clicks(label, rng, n_clicks),
        place_clicks(hot_uptake(label, pet), rng, n_clicks),
    )


def corrective_pair(label: Mask, prediction: Mask, rng: np.random.Generator) -> tuple[Indices | None, Indices | None]:
    """Place the next click of each kind in the largest error of a prediction.

    The tumour click goes to the centre of the largest component (by voxels) that the prediction misses, the background
    click to that of the largest component that it adds; ties are broken at random.

    Parameters
    ----------
    label, prediction
        True and predicted tumour voxels.
    rng
        The only source of randomness.

    Returns
    -------
    tumor_zyx, background_zyx : (3,) int64 or None
        None where there is no error of that kind.

    Raises
    ------
    ValueError
        If the arrays differ in shape.
    """
    _require_same_shape(label, prediction)
    label, prediction = np.asarray(label, dtype=bool), np.asarray(prediction, dtype=bool)
    return _centre_of_largest(label & ~prediction, rng), _centre_of_largest(prediction & ~label, rng)


def official(
    label: Mask, pet: NDArray[np.floating], *, seed: int = 42, n_clicks: int = 10, tumor_only: bool = False
) -> tuple[Indices, Indices]:
    """Place clicks exactly as the organisers' published script does, quirks included.

    It draws from NumPy's legacy generator in a fixed order: tumour components, further tumour clicks, hot components,
    further background clicks; the further ones visit the chosen components in turn. Two of its ways differ from the
    text of the challenge: further background clicks fall on any voxel of a hot component, not only on its boundary,
    and for a component whose distance map is constant (one voxel thick) on any voxel outside it, hot or cold.

    Parameters
    ----------
    label
        True tumour voxels, shape (z, y, x).
    pet
        Uptake on the same grid, shape (z, y, x); any unit.
    seed
        Seed of the legacy generator; the script's own is 42.
    n_clicks
        Clicks of each kind.
    tumor_only
        Leave the background clicks out, as for longitudinal CT.

    Returns
    -------
    tumor_zyx, background_zyx : (n, 3) int64
        n is `n_clicks`; 0 tumour clicks where the label is empty, 0 background clicks with `tumor_only`.

    Raises
    ------
    ValueError
        If the arrays differ in shape; if the label fills the image; where the script fails with an assertion because
        a background click hits the tumour; where it never ends because no uptake outside the label is hot.
    """
    _require_same_shape(label, pet)
    label = np.asarray(label, dtype=bool)
    if label.all():
        raise ValueError("the official clicks need voxels outside the label, but it fills the image")
    draws = np.random.RandomState(seed)
    tumor = _place_officially(label, draws, n_clicks, boundary_only=True)
    if tumor_only:
        return tumor, np.empty((0, 3), dtype=np.int64)
    hot = hot_uptake(label, pet)
    if not hot.any():
        raise ValueError("the official script never ends here: no uptake outside the label exceeds its own percentile")
    background = _place_officially(hot, draws, n_clicks, boundary_only=False)
    if label[tuple(background.T)].any():
        raise ValueError("the official script fails here: it drew a background click inside the label")
    return tumor, background


def _require_same_shape(label: NDArray[np.generic], other: NDArray[np.generic]) -> None:
    if label.shape != other.shape or label.ndim != 3:
        raise ValueError(f"expected two (z, y, x) arrays of one shape, found {label.shape} and {other.shape}")


def hot_uptake(label: Mask, pet: NDArray[np.floating]) -> Mask:
    """Return the voxels above `HOT_PERCENTILE` of the uptake outside the label; they attract background clicks."""
    outside = ~label
    if not outside.any():
        return outside
    # In double precision, because the threshold lies between two voxel values.
    hot: Mask = outside & (pet > np.percentile(pet[outside].astype(np.float64), HOT_PERCENTILE))
    return hot


def place_clicks(region: Mask, rng: np.random.Generator, n_clicks: int) -> Indices:
    """Return centres of up to `n_clicks` random components of `region`, then random boundary voxels of the same."""
    numbers, count = cc3d.connected_components(region, connectivity=26, return_N=True)
    boxes = ndimage.find_objects(numbers)
    chosen = rng.permutation(count)[:n_clicks]
    if len(chosen) == 0:
        return np.empty((0, 3), dtype=np.int64)
    origins, depths = zip(*(_depth(numbers, i + 1, boxes[i]) for i in chosen), strict=True)

    clicks = [(i, _pick(depth == depth.max(), rng)) for i, depth in enumerate(depths)]
    if len(clicks) < n_clicks:
        rims = [depth == 1 for depth in depths]
        clicks += [(i, _pick(rims[i], rng)) for i in rng.integers(len(rims), size=n_clicks - len(clicks))]
    return np.stack([origins[i] + click for i, click in clicks])


def _depth(
    numbers: NDArray[np.unsignedinteger], number: int, box: tuple[slice, ...]
) -> tuple[Indices, NDArray[np.float64]]:
    """Return the distance of a component's voxels from its outside, and the first voxel of that array.

    The array is the component's bounding box and one voxel more, but not beyond the image: the border of the image is
    not the border of a component, which may go on behind it. A component that fills its array is 1 throughout.
    """
    origin = np.array([max(axis.start - 1, 0) for axis in box], dtype=np.int64)
    component = numbers[tuple(slice(a, axis.stop + 1) for a, axis in zip(origin, box, strict=True))] == number
    if component.all():
        return origin, np.ones(component.shape)
    return origin, ndimage.distance_transform_edt(component)


def _pick(mask: Mask, rng: np.random.Generator) -> Indices:
    candidates = np.flatnonzero(mask)
    return np.array(np.unravel_index(candidates[rng.integers(len(candidates))], mask.shape), dtype=np.int64)


def _place_officially(region: Mask, draws: np.random.RandomState, n_clicks: int, *, boundary_only: bool) -> Indices:
    # Components are numbered as in the script where x is fastest in memory; all else follows the order of the axes,
    # which the script has as x, y, z.
    region_xyz = np.ascontiguousarray(region).T
    numbers, count = cc3d.connected_components(region_xyz, connectivity=26, return_N=True)
    if count == 0:
        return np.empty((0, 3), dtype=np.int64)
    boxes = ndimage.find_objects(numbers)
    clicks: list[int] = []  # all voxels as flat indices in C order over x, y, z
    sources = []
    for i in draws.choice(count, size=min(n_clicks, count), replace=False):
        origin, depth = _depth(numbers, i + 1, boxes[i])
        inside = np.argwhere(depth) + origin
        depths, voxels = depth[depth > 0], np.ravel_multi_index(tuple(inside.T), numbers.shape)
        clicks.append(voxels[depths.argmax()])
        if boundary_only:
            sources.append((voxels[depths == 1], False))
        else:
            sources.append((voxels, depths.min() == depths.max()))
    for k in range(n_clicks - len(clicks)):
        voxels, complement = sources[k % len(sources)]
        if complement:
            rank = draws.choice(numbers.size - len(voxels))
            clicks.append(rank + np.searchsorted(voxels - np.arange(len(voxels)), rank, side="right"))
        else:
            clicks.append(voxels[draws.choice(len(voxels))])
    return np.stack(np.unravel_index(clicks, numbers.shape)[::-1], axis=1)


def _centre_of_largest(region: Mask, rng: np.random.Generator) -> Indices | None:
    numbers, count = cc3d.connected_components(region, connectivity=26, return_N=True)
    if count == 0:
        return None
    sizes = np.bincount(numbers.ravel())[1:]
    largest = rng.choice(np.flatnonzero(sizes == sizes.max()))
    origin, depth = _depth(numbers, largest + 1, ndimage.find_objects(numbers)[largest])
    return origin + _pick(depth == depth.max(), rng)
