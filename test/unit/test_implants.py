import numpy as np
import pytest
from scipy import ndimage

from lesionclick.images import Grid, Volume
from lesionclick.simulation import implants
from lesionclick.simulation.implants import Tissue, implant_lesions

GRID = Grid((60, 50, 40), (2.0, 2.0, 3.0), (-7.0, 5.0, 11.0))
LIVER, FAT, LUNG, AIR = 110, -100, -850, -1000


@pytest.fixture
def trunk():
    """A body of fat in air that holds a liver and a lung, without noise."""
    ct = np.full(GRID.shape_zyx, AIR, dtype=np.int16)
    ct[:, 4:46, 4:56] = FAT
    ct[:, 10:40, 8:28] = LIVER
    ct[:, 10:40, 32:52] = LUNG
    return Volume(ct, GRID)


def made_lesions(trunk, count=6, seed=0):
    ct, label = implant_lesions(trunk, count, np.random.default_rng(seed))
    numbers, found = ndimage.label(label.array, np.ones((3, 3, 3)))
    return ct, label, numbers, found


def test_lesions_have_the_grid_and_the_number_asked_for(trunk):
    ct, label, _, found = made_lesions(trunk)
    assert ct.grid == label.grid == GRID
    assert (ct.array.dtype, label.array.dtype) == (np.int16, np.uint8)
    assert 4 <= found <= 6  # two may touch, one may find no room


def test_each_lesion_stands_out_from_its_tissue_and_nothing_else_changes(trunk):
    ct, label, numbers, found = made_lesions(trunk)
    far = ~ndimage.binary_dilation(label.array > 0, iterations=3)
    assert np.array_equal(ct.array[far], trunk.array[far])
    for number in range(1, found + 1):
        core = (numbers == number) & ndimage.binary_erosion(label.array > 0)
        inside = core if core.any() else numbers == number
        change = np.abs(ct.array[inside].astype(float) - trunk.array[inside]).mean()
        assert change > 15


def test_lesions_lie_inside_the_body_and_in_one_tissue(trunk):
    _, _, numbers, found = made_lesions(trunk, count=10, seed=3)
    assert not numbers[trunk.array == AIR].any()
    for number in range(1, found + 1):
        _, counts = np.unique(trunk.array[numbers == number], return_counts=True)
        assert counts.max() / counts.sum() > 0.9


def test_volumes_follow_what_was_drawn(trunk, monkeypatch):
    monkeypatch.setattr(implants, "LESION_ML", (2.0, 2.0))
    _, label = implant_lesions(trunk, 1, np.random.default_rng(1))
    assert label.array.sum() * 0.012 == pytest.approx(2.0, rel=0.1)


def test_noise_of_the_ct_stays_in_a_lesion(trunk):
    rng = np.random.default_rng(0)
    noisy = Volume((trunk.array + rng.normal(scale=10, size=GRID.shape_zyx)).astype(np.int16), GRID)
    ct, label = implant_lesions(noisy, 1, np.random.default_rng(1))
    inside = ndimage.binary_erosion(label.array > 0)
    assert inside.sum() > 8
    assert 7 < ct.array[inside].std() < 13


def test_same_seed_same_lesions(trunk):
    first, second = (implant_lesions(trunk, 4, np.random.default_rng(9)) for _ in range(2))
    assert all(np.array_equal(a.array, b.array) for a, b in zip(first, second, strict=True))


def test_air_has_no_room():
    air = Volume(np.full(GRID.shape_zyx, AIR, dtype=np.int16), GRID)
    ct, label = implant_lesions(air, 3, np.random.default_rng(0))
    assert not label.array.any()
    assert (ct.array == AIR).all()


@pytest.mark.parametrize(("darker", "hu"), [(0.0, LIVER + 50), (1.0, LIVER - 50)])
def test_a_lesion_is_darker_or_brighter_as_its_tissue_says(trunk, monkeypatch, darker, hu):
    monkeypatch.setattr(implants, "TISSUES", (Tissue(1.0, (0.0, 220.0), 5.0, (50.0, 50.0), darker),))
    ct, label = implant_lesions(trunk, 1, np.random.default_rng(1))
    inside = ndimage.binary_erosion(label.array > 0)
    assert inside.sum() > 8
    assert np.median(ct.array[inside]) == pytest.approx(hu, abs=5)


def test_a_lesion_grows_around_another_one(monkeypatch):
    monkeypatch.setattr(implants, "LESION_ML", (2.0, 2.0))
    monkeypatch.setattr(implants, "LEAST_ROOM", 0.5)
    image, label = np.full((40, 40, 40), 100.0, np.float32), np.zeros((40, 40, 40), np.uint8)
    label[:20] = 1
    options = {"tissue": implants.TISSUES[2], "spacing": np.array([3.0, 2.0, 2.0]), "rng": np.random.default_rng(0)}
    assert implants._add(image, label, image.copy(), np.array([21, 20, 20]), **options)
    assert np.count_nonzero(label[20:]) == round(2000 / 12)  # all of its 2 ml
