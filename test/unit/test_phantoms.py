import numpy as np
import pytest
from scipy import ndimage

from lesionclick.simulation.anatomy import BENIGN_UPTAKE, ORGANS, TISSUES
from lesionclick.simulation.phantoms import LESION_ML, make_phantom

COARSE = (6.0, 6.0, 6.0)


@pytest.fixture(scope="module")
def fdg():
    return make_phantom(11, "fdg", lesions=5, spacing_xyz=COARSE)


@pytest.fixture(scope="module")
def psma():
    return make_phantom(12, "psma", lesions=4, spacing_xyz=COARSE)


def test_same_seed_same_phantom(fdg):
    again = make_phantom(11, "fdg", lesions=5, spacing_xyz=COARSE)
    for name in ("ct", "pet", "label", "organs"):
        np.testing.assert_array_equal(getattr(again, name).array, getattr(fdg, name).array)


def test_another_seed_is_another_patient(fdg):
    other = make_phantom(13, "fdg", lesions=5, spacing_xyz=COARSE)
    assert other.ct.array.shape != fdg.ct.array.shape or (other.ct.array != fdg.ct.array).mean() > 0.1


def test_images_share_a_grid_and_have_the_platforms_types(fdg):
    assert fdg.ct.grid == fdg.pet.grid == fdg.label.grid == fdg.organs.grid
    assert fdg.ct.grid.spacing_xyz == COARSE
    assert (fdg.ct.array.dtype, fdg.pet.array.dtype, fdg.label.array.dtype) == (np.int16, np.float32, np.uint8)
    assert fdg.pet.array.min() >= 0
    assert set(np.unique(fdg.label.array)) == {0, 1}


def test_no_lesion_means_an_empty_label_but_benign_foci():
    phantom = make_phantom(14, "fdg", lesions=0, spacing_xyz=COARSE)
    assert not phantom.label.array.any()
    assert (phantom.organs.array == BENIGN_UPTAKE).any()


@pytest.mark.parametrize("name", ["fdg", "psma"])
def test_lesions_have_plausible_volumes_and_uptake(name, request):
    phantom = request.getfixturevalue(name)
    numbers, count = ndimage.label(phantom.label.array, np.ones((3, 3, 3)))
    assert 1 <= count <= 5
    volumes = ndimage.sum_labels(phantom.label.array, numbers, range(1, count + 1)) * phantom.label.grid.voxel_ml
    assert volumes.min() >= 0.5 * LESION_ML[0]
    assert volumes.max() <= 5 * LESION_ML[1]
    body = np.median(phantom.pet.array[phantom.organs.array == ORGANS["muscle"]])
    assert ndimage.maximum(phantom.pet.array, numbers, range(1, count + 1)).min() > 1.5 * body


@pytest.mark.parametrize("name", ["fdg", "psma"])
def test_organs_look_as_the_literature_says(name, request):
    phantom = request.getfixturevalue(name)
    checked = 0
    for organ in ("muscle", "lung", "liver", "brain", "kidneys"):
        inside = ndimage.binary_erosion(phantom.organs.array == ORGANS[organ], iterations=2)
        inside &= phantom.label.array == 0
        if inside.sum() < 20:
            continue
        checked += 1
        tissue = TISSUES[organ]
        low, high = getattr(tissue, name)
        assert 0.7 * low < np.median(phantom.pet.array[inside]) < 1.3 * high, organ
        assert tissue.hu[0] - 40 < np.median(phantom.ct.array[inside]) < tissue.hu[1] + 40, organ
    assert checked >= 4


def test_lesions_leave_hot_organs_alone(psma):
    in_lesion = set(np.unique(psma.organs.array[psma.label.array > 0]))
    assert not in_lesion & {ORGANS[name] for name in ("kidneys", "bladder", "salivary_glands", "air")}


def test_noise_grows_with_the_signal(psma):
    residual = psma.pet.array - ndimage.uniform_filter(psma.pet.array, 3)
    liver = ndimage.binary_erosion(psma.organs.array == ORGANS["liver"], iterations=2) & (psma.label.array == 0)
    muscle = ndimage.binary_erosion(psma.organs.array == ORGANS["muscle"], iterations=3) & (psma.label.array == 0)
    assert residual[liver].std() > 1.3 * residual[muscle].std()


def test_direction_changes_the_geometry_and_no_voxel(fdg):
    tilt = np.deg2rad(20)
    direction = (np.cos(tilt), -np.sin(tilt), 0, np.sin(tilt), np.cos(tilt), 0, 0, 0, -1)
    tilted = make_phantom(11, "fdg", lesions=5, spacing_xyz=COARSE, direction=direction)
    np.testing.assert_array_equal(tilted.pet.array, fdg.pet.array)
    assert tilted.pet.grid.direction == pytest.approx(direction)
    image = tilted.pet.to_image()
    centre = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
    assert centre == pytest.approx((0, 0, 0), abs=1e-6)


def test_field_of_view_cuts_the_patient():
    chest = make_phantom(11, "fdg", lesions=0, spacing_xyz=COARSE, field_of_view=(0.5, 0.7))
    found = set(np.unique(chest.organs.array))
    assert ORGANS["lung"] in found
    assert not {ORGANS["brain"], ORGANS["bladder"]} & found


def test_contrast_agent_makes_lesions_stand_out_from_their_surroundings():
    settings = {"lesions": 12, "spacing_xyz": (4.0, 4.0, 4.0), "field_of_view": (0.3, 0.7)}
    plain, enhanced = (make_phantom(5, "fdg", contrast_agent=agent, **settings) for agent in (False, True))

    def contrast(phantom):
        """Difference in HU between a lesion and what touches it: the lower quartile over the lesions."""
        numbers, count = ndimage.label(phantom.label.array)
        ct = ndimage.gaussian_filter(phantom.ct.array.astype(float), 0.5)
        found = []
        for number in range(1, count + 1):
            inside = numbers == number
            around = ndimage.binary_dilation(inside, iterations=2) & ~ndimage.binary_dilation(inside)
            found.append(abs(np.median(ct[inside]) - np.median(ct[around])))
        return np.quantile(found, 0.25)

    assert contrast(plain) < 25
    assert contrast(enhanced) > 30
    liver = ORGANS["liver"]
    hu = [np.median(phantom.ct.array[phantom.organs.array == liver]) for phantom in (plain, enhanced)]
    assert 45 <= hu[0] <= 70
    assert 90 <= hu[1] <= 130
