"""The table of lesions: values worked out by hand, the reference values of the IBSI, and what must not change them."""

import csv
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lesionclick.errors import InputError
from lesionclick.images import Grid, Volume
from lesionclick.petct.quantification import Quantification, quantify, to_csv

EVERY_FLIP = [(), (0,), (1,), (2,), (0, 1, 2)]


def measure(mask: Any, pet: Any, spacing_xyz: tuple[float, float, float] = (2.0, 2.0, 2.0)) -> Quantification:
    mask, pet = np.asarray(mask, dtype=np.uint8), np.asarray(pet, dtype=np.float32)
    grid = Grid(mask.shape[::-1], spacing_xyz)
    return quantify(Volume(mask, grid), Volume(pet, grid))


def blank(shape: tuple[int, int, int] = (12, 14, 16)) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(shape, dtype=np.uint8), np.zeros(shape, dtype=np.float32)


def test_a_lesion_of_two_voxels_by_hand() -> None:
    mask, pet = blank()
    mask[5, 6, 7:9] = 1
    pet[5, 6, 7:9] = 4.0, 2.0
    (lesion,) = measure(mask, pet, (2.0, 3.0, 5.0)).lesions
    assert lesion.number == 1
    assert lesion.volume_ml == pytest.approx(2 * 2 * 3 * 5 / 1000)
    assert (lesion.suv_max, lesion.suv_mean) == (4.0, 3.0)
    assert lesion.glycolysis_g == pytest.approx(3.0 * 0.06)
    assert lesion.centroid_xyz == (7.5, 6.0, 5.0)
    assert lesion.hottest_xyz == (7, 6, 5)


def test_the_sphere_holds_the_voxels_whose_centres_are_within_6_2_mm() -> None:
    mask, pet = blank()
    mask[6, 7, 8], pet[6, 7, 8] = 1, 29.0
    # voxels of 4 mm: the centre, 6 at 4 mm, 12 at 5.66 mm; the next are at 6.93 mm
    assert measure(mask, pet, (4.0, 4.0, 4.0)).lesions[0].suv_peak == pytest.approx(29 / 19)
    # voxels of 6 mm: the centre and 6 at 6 mm
    assert measure(mask, pet, (6.0, 6.0, 6.0)).lesions[0].suv_peak == pytest.approx(29 / 7)
    # voxels of 6 x 7 x 3 mm (x, y, z): 0, +-3 and +-6 mm along z, +-6 mm along x
    assert measure(mask, pet, (6.0, 7.0, 3.0)).lesions[0].suv_peak == pytest.approx(29 / 7)
    # voxels larger than the sphere
    assert measure(mask, pet, (7.0, 7.0, 7.0)).lesions[0].suv_peak == pytest.approx(29)


def test_the_sphere_goes_where_the_mean_is_highest_and_reaches_beyond_the_lesion() -> None:
    mask, pet = blank()
    mask[6, 7, 4:10] = 1
    pet[6, 7, 4] = 10.0  # the hottest voxel, alone
    pet[5:8, 6:9, 8:11] = 6.0  # a warm cube that lies partly outside the lesion
    (lesion,) = measure(mask, pet, (4.0, 4.0, 4.0)).lesions
    assert lesion.hottest_xyz == (4, 7, 6)
    assert lesion.peak_xyz == (9, 7, 6)
    assert lesion.suv_peak == pytest.approx(6.0)


def test_at_the_border_of_the_image_only_what_is_there_counts() -> None:
    mask, pet = blank()
    pet[:] = 3.0
    mask[0, 0, 0] = 1
    assert measure(mask, pet).lesions[0].suv_peak == pytest.approx(3.0)


def test_the_reference_values_of_the_ibsi_are_met() -> None:
    """The digital phantom of the IBSI's reference manual (CC BY 4.0), 2 mm: mean 2.15, global intensity peak 3.10."""
    a, b = 9, 1  # outside the phantom's mask
    pet = np.array(
        [
            [[1, 4, 4, 1, 1], [1, 4, 6, 1, 1], [4, 1, 6, 4, 1], [4, 4, 6, 4, 1]],
            [[1, 4, 4, 1, 1], [1, 1, 6, 1, 1], [b, 1, 3, 1, 1], [4, 4, 6, 1, 1]],
            [[1, 4, 4, b, b], [1, 1, 1, 1, 1], [1, 1, a, 1, 1], [1, 1, 6, 1, 1]],
            [[1, 4, 4, b, b], [1, 1, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 6, 1, 1]],
        ]
    )
    mask = np.ones(pet.shape)
    for place in ((1, 2, 0), (2, 0, 3), (2, 0, 4), (3, 0, 3), (3, 0, 4), (2, 2, 2)):
        mask[place] = 0
    (lesion,) = measure(mask, pet).lesions
    assert lesion.volume_ml == pytest.approx(74 * 0.008)
    assert lesion.suv_mean == pytest.approx(2.15, abs=0.005)
    assert lesion.suv_peak == pytest.approx(3.10, abs=0.005)
    assert lesion.suv_max == 6


def test_corners_join_and_the_largest_comes_first() -> None:
    mask, pet = blank()
    mask[2, 2, 2] = mask[3, 3, 3] = 1  # touch at a corner
    mask[8, 8, 4:9] = 7  # any number is lesion
    mask[8, 11, 11] = mask[10, 11, 11] = 1  # a gap of one voxel
    pet[10, 11, 11] = 5.0
    found = measure(mask, pet)
    assert [round(one.volume_ml / 0.008) for one in found.lesions] == [5, 2, 1, 1]
    assert [one.number for one in found.lesions] == [1, 2, 3, 4]
    assert found.lesions[2].hottest_xyz == (11, 11, 10)  # of equal ones the hotter
    numbers = found.numbers.array
    assert (numbers[8, 8, 4:9] == 1).all()
    assert numbers[2, 2, 2] == numbers[3, 3, 3] == 2
    assert ((numbers > 0) == (mask > 0)).all()


def test_totals_are_sums() -> None:
    mask, pet = blank()
    mask[2, 2, 2:4], mask[8, 8, 8] = 1, 1
    pet[:] = 2.0
    found = measure(mask, pet)
    assert found.volume_ml == pytest.approx(3 * 0.008)
    assert found.glycolysis_g == pytest.approx(3 * 0.008 * 2)


def test_an_empty_mask_has_no_lesion() -> None:
    found = measure(*blank())
    assert found.lesions == ()
    assert (found.volume_ml, found.glycolysis_g) == (0.0, 0.0)
    assert not found.numbers.array.any()


def blobs(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mask, pet = blank()
    pet[:] = rng.uniform(0, 9, pet.shape)
    for size in (4, 3, 2):
        corner = [rng.integers(2, n - size - 2) for n in mask.shape]
        mask[tuple(slice(c, c + size) for c in corner)] = 1
    return mask, pet


def values(found: Quantification) -> list[list[float]]:
    return [[one.volume_ml, one.suv_max, one.suv_mean, one.suv_peak, one.glycolysis_g] for one in found.lesions]


@pytest.mark.parametrize("axes", EVERY_FLIP)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_a_mirrored_image_has_the_same_table_at_mirrored_places(axes: tuple[int, ...], seed: int) -> None:
    mask, pet = blobs(seed)
    spacing = (2.0, 3.0, 4.0)
    here, there = measure(mask, pet, spacing), measure(np.flip(mask, axes), np.flip(pet, axes), spacing)
    np.testing.assert_allclose(values(there), values(here), rtol=1e-5)
    for one, other in zip(here.lesions, there.lesions, strict=True):
        place = np.array(one.hottest_xyz[::-1])
        for axis in axes:
            place[axis] = mask.shape[axis] - 1 - place[axis]
        assert tuple(place[::-1]) == other.hottest_xyz


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), factor=st.floats(0.1, 10))
def test_uptake_scales_all_suv_and_no_volume(seed: int, factor: float) -> None:
    mask, pet = blobs(seed)
    here, there = np.array(values(measure(mask, pet))), np.array(values(measure(mask, pet * np.float32(factor))))
    np.testing.assert_allclose(there, here * [1, factor, factor, factor, factor], rtol=1e-4)


def test_a_shifted_lesion_has_the_same_values() -> None:
    mask, pet = blobs(3)
    wider = [np.pad(one, ((9, 9), (9, 9), (9, 9))) for one in (mask, pet)]
    moved = [np.roll(one, (1, -2, 3), (0, 1, 2)) for one in wider]
    assert values(measure(*moved)) == values(measure(*wider))


def test_a_voxel_that_is_divided_keeps_volume_mean_and_glycolysis() -> None:
    mask, pet = blobs(5)
    finer = [one.repeat(2, axis=0).repeat(3, axis=2) for one in (mask, pet)]
    here, there = measure(mask, pet, (6.0, 4.0, 4.0)), measure(*finer, (2.0, 4.0, 2.0))
    for one, other in zip(here.lesions, there.lesions, strict=True):
        assert other.volume_ml == pytest.approx(one.volume_ml)
        assert other.suv_mean == pytest.approx(one.suv_mean)
        assert other.glycolysis_g == pytest.approx(one.glycolysis_g)


def test_grids_that_differ_are_refused() -> None:
    mask, pet = blank()
    grid = Grid(mask.shape[::-1], (2.0, 2.0, 2.0))
    with pytest.raises(InputError, match=r"mask and PET .* one grid"):
        quantify(Volume(mask, grid), Volume(pet, Grid(grid.size_xyz, (2.0, 2.0, 2.5))))


def test_the_csv_has_a_line_for_each_lesion_and_the_total() -> None:
    mask, pet = blank()
    mask[5, 6, 7:9], mask[9, 9, 9] = 1, 1
    pet[5, 6, 7:9], pet[9, 9, 9] = (4.0, 2.0), 1.5
    rows = list(csv.DictReader(to_csv(measure(mask, pet)).splitlines()))
    assert [row["lesion"] for row in rows] == ["1", "2", "total"]
    assert rows[0]["volume_ml"] == "0.016"
    assert rows[0]["suv_max"] == "4.000"
    assert [rows[0][axis] for axis in "xyz"] == ["7", "6", "5"]
    assert rows[2]["volume_ml"] == "0.024"
    assert rows[2]["glycolysis_g"] == "0.060"
    assert rows[2]["suv_max"] == ""


def test_the_csv_has_the_place_of_the_hottest_voxel() -> None:
    grid = Grid((6, 3, 3), (5.0, 5.0, 5.0), (0.0, 0.0, 0.0))
    mask, pet = np.zeros((3, 3, 6), dtype=np.uint8), np.zeros((3, 3, 6), dtype=np.float32)
    mask[1, 1, 1:5] = 1
    pet[1, 1, 1], pet[:, :, 3:] = 10.0, 8.0
    found = quantify(Volume(mask, grid), Volume(pet, grid))
    assert found.lesions[0].peak_xyz == (4, 1, 1)
    assert to_csv(found).splitlines()[1].endswith(",1,1,1")
