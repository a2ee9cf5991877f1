"""Patients drawn from organ shapes: volumes, uptake, lesions, and real tumours among them."""

import numpy as np
import pytest
from scipy import ndimage

from lesionclick.images import Grid, Volume
from lesionclick.simulation.atlas import list_organs, load_organ
from lesionclick.simulation.canvas import NAMES, ORGANS, Build, Canvas
from lesionclick.simulation.lesions import draw_count, grow_region
from lesionclick.simulation.patients import TRAINING_CLASSES, make_patient, training_classes
from lesionclick.simulation.scanner import scan_pet
from lesionclick.simulation.transplants import Tumour, find_place
from lesionclick.simulation.uptake import TISSUES

COARSE = (6.0, 6.0, 6.0)
WHOLE = (0.0, 1.02)
TEXTBOOK_ML = {
    ("liver",): (1000, 2200),
    ("spleen",): (80, 340),
    ("kidney_cortex", "kidney_medulla", "kidney_pelvis"): (220, 440),
    ("lung",): (1800, 5500),
    ("brain",): (900, 1700),
    ("bladder",): (35, 450),
}


@pytest.fixture(scope="module")
def patients():
    """Six patients without lesions, FDG and PSMA in turn."""
    return [
        make_patient(seed, ("fdg", "psma")[seed % 2], lesions=0, spacing_xyz=COARSE, field_of_view=WHOLE)
        for seed in range(6)
    ]


def sphere(radius, spacing, inside, outside, size=25):
    z, y, x = np.indices((size, size, size)) - size // 2
    return np.where((z**2 + y**2 + x**2) * spacing**2 <= radius**2, inside, outside)


def tumour(radius=13.0, spacing=2.0, suv=10.0):
    grid = Grid((25, 25, 25), (spacing,) * 3)
    images = (sphere(radius, spacing, suv, 1.0), sphere(radius, spacing, 40.0, -100.0), sphere(radius, spacing, 1, 0))
    pet, ct, label = (Volume(image.astype(kind), grid) for image, kind in zip(images, ("f4", "i2", "u1"), strict=True))
    return Tumour(pet, ct, label)


def empty_canvas(organ="muscle", size=40, spacing=2.0):
    build = Build("male", 1.0, 1.0, 15.0, "out", True)
    canvas = Canvas(Grid((size,) * 3, (spacing,) * 3), build, 300.0, np.random.default_rng(0))
    canvas.organs[:] = ORGANS[organ]
    return canvas


def test_every_organ_of_the_atlas_loads_and_has_its_centre_inside_its_box():
    for person, name in list_organs():
        organ = load_organ(person, name)
        low, high = organ.corners
        assert (low < organ.centre).all()
        assert (organ.centre < high).all()
        assert organ.ml > 1


def test_both_kidneys_lie_on_their_side():
    for person in ("female", "male", "torso"):
        assert load_organ(person, "kidney_left").centre[2] > 20
        assert load_organ(person, "kidney_right").centre[2] < -20


def test_every_organ_has_a_row_of_ranges_in_order():
    assert set(TISSUES) == set(NAMES) - {"benign_uptake"}
    for tissue in TISSUES.values():
        for low, high in tissue[:4]:
            assert low <= high


def test_training_classes_cover_the_body():
    table = training_classes()
    assert len(TRAINING_CLASSES) == 19
    assert [name for name, number in ORGANS.items() if table[number] == 0] == ["air", "table"]
    assert table[ORGANS["kidney_cortex"]] == table[ORGANS["kidney_medulla"]]


def test_organs_have_textbook_volumes(patients):
    for patient in patients:
        for names, (low, high) in TEXTBOOK_ML.items():
            voxels = np.isin(patient.organs.array, [ORGANS[name] for name in names]).sum()
            assert low < voxels * patient.organs.grid.voxel_ml < high, names


def test_liver_is_right_of_the_spleen_and_below_the_lungs(patients):
    for patient in patients:
        (z, _, liver), (_, _, spleen), (top, _, _) = (
            ndimage.center_of_mass(patient.organs.array == ORGANS[name]) for name in ("liver", "spleen", "lung")
        )
        assert liver < spleen
        assert z < top


def test_uptake_is_near_the_table_after_the_scanner(patients):
    for patient in patients:
        for name in ("liver", "spleen", "brain", "lung"):
            inside = ndimage.binary_erosion(patient.organs.array == ORGANS[name], iterations=2)
            low, high = getattr(TISSUES[name], patient.tracer)
            assert 0.85 * low < patient.pet.array[inside].mean() < 1.15 * high + 0.15, name


def test_psma_kidneys_are_far_above_the_liver(patients):
    for patient in patients[1::2]:
        means = [patient.pet.array[patient.organs.array == ORGANS[name]].mean() for name in ("kidney_cortex", "liver")]
        assert means[0] > 2.5 * means[1]


def test_images_have_the_units_and_types_of_scans(patients):
    for patient in patients:
        air = patient.organs.array == ORGANS["air"]
        fat = ndimage.binary_erosion(patient.organs.array == ORGANS["fat"])
        assert patient.ct.array.dtype == np.int16
        assert patient.pet.array.dtype == np.float32
        assert patient.pet.array.min() >= 0
        assert -1024 <= patient.ct.array.min() < -950
        assert np.median(patient.ct.array[air]) < -990
        assert -125 < np.median(patient.ct.array[fat]) < -80
        assert np.median(patient.pet.array[air]) < 0.05


def test_patients_without_lesions_have_no_label_but_some_benign_foci(patients):
    assert not any(patient.label.array.any() for patient in patients)
    assert any((patient.organs.array == ORGANS["benign_uptake"]).any() for patient in patients)


def test_same_seed_same_patient_and_another_seed_another():
    settings = {"spacing_xyz": COARSE, "field_of_view": (0.3, 0.6), "lesions": 4}
    first, second, other = (make_patient(seed, "fdg", **settings) for seed in (3, 3, 4))
    for name in ("ct", "pet", "label", "organs"):
        np.testing.assert_array_equal(getattr(first, name).array, getattr(second, name).array)
    assert first.pet.grid != other.pet.grid or (first.pet.array != other.pet.array).any()


def test_spacing_and_field_of_view_are_those_asked_for():
    patient = make_patient(2, "psma", spacing_xyz=(5.0, 6.0, 7.0), field_of_view=(0.4, 0.6))
    half = make_patient(2, "psma", spacing_xyz=(5.0, 6.0, 7.0), field_of_view=(0.4, 0.5))
    assert patient.pet.grid.spacing_xyz == (5.0, 6.0, 7.0)
    assert patient.pet.array.shape[0] / half.pet.array.shape[0] == pytest.approx(2, rel=0.05)
    assert not (patient.organs.array == ORGANS["brain"]).any()


@pytest.mark.parametrize("tracer", ["fdg", "psma"])
def test_lesions_lie_in_the_body_and_are_hotter_than_what_is_around(tracer):
    patient = make_patient(5, tracer, lesions=10, spacing_xyz=(4.0, 4.0, 4.0), field_of_view=(0.15, 0.8))
    inside = patient.label.array > 0
    components, count = ndimage.label(inside, np.ones((3, 3, 3)))
    assert 3 <= count <= 10
    assert (patient.organs.array[inside] > ORGANS["table"]).all()
    assert (patient.organs.array[inside] != ORGANS["benign_uptake"]).all()
    assert np.bincount(components.ravel())[1:].max() * patient.label.grid.voxel_ml <= 510
    shell = ndimage.binary_dilation(inside, iterations=2) & ~ndimage.binary_dilation(inside)
    assert np.median(patient.pet.array[inside]) > 1.3 * np.median(patient.pet.array[shell])


def test_a_third_of_the_patients_has_no_lesion():
    rng = np.random.default_rng(0)
    counts = np.array([draw_count(rng) for _ in range(3000)])
    assert (counts == 0).mean() == pytest.approx(1 / 3, abs=0.03)
    assert counts.max() <= 40
    assert 3 <= np.median(counts[counts > 0]) <= 6


def test_a_focus_grows_to_its_size_around_what_is_barred():
    level = np.abs(np.arange(-5, 6, dtype=np.float32))[None, None] / 4
    free = np.ones((1, 1, 11), dtype=bool)
    np.testing.assert_array_equal(grow_region(level, free, 3)[0, 0].nonzero()[0], [4, 5, 6])
    free[..., :5] = False
    np.testing.assert_array_equal(grow_region(level, free, 3)[0, 0].nonzero()[0], [5, 6, 7])
    free[..., 6:] = False
    assert grow_region(level, free, 3) is None


def test_blur_keeps_the_activity_and_noise_grows_with_it():
    suv = np.zeros((30, 30, 60), dtype=np.float32)
    suv[..., 30:] = 9.0
    suv[..., :30] = 1.0
    pet = scan_pet(suv, np.array((3.0, 3.0, 3.0)), np.random.default_rng(1))
    cold, hot = pet[..., 5:20], pet[..., 40:55]
    assert cold.mean() == pytest.approx(1, abs=0.05)
    assert hot.mean() == pytest.approx(9, abs=0.15)
    assert hot.std() / cold.std() == pytest.approx(3, rel=0.15)  # root of 9 / 1


def test_a_transplanted_tumour_keeps_its_volume_and_uptake():
    canvas = empty_canvas()
    real = tumour()
    label = np.zeros(canvas.organs.shape, dtype=np.uint8)
    transplant = find_place(canvas, label, real, np.random.default_rng(2), scale=1.0)
    pet = np.ones(canvas.organs.shape, dtype=np.float32)
    transplant.blend(pet, transplant.suv)
    label[transplant.window][transplant.label] = 1
    assert transplant.blurred
    assert label.sum() == pytest.approx(real.label.array.sum(), rel=0.05)
    assert pet[label > 0].mean() == pytest.approx(10, abs=0.5)
    assert pet[0, 0, 0] == 1


def test_a_shrunk_tumour_has_the_cube_of_the_factor():
    canvas = empty_canvas(spacing=1.0)
    real = tumour()
    nothing = np.zeros(canvas.organs.shape, dtype=np.uint8)
    transplant = find_place(canvas, nothing, real, np.random.default_rng(2), scale=0.5)
    ml = transplant.label.sum() / 1000
    assert ml == pytest.approx(real.label.array.sum() * 8 / 1000 / 8, rel=0.1)
    assert not transplant.blurred


def test_no_place_in_the_brain():
    canvas = empty_canvas("brain")
    nothing = np.zeros(canvas.organs.shape, dtype=np.uint8)
    assert find_place(canvas, nothing, tumour(), np.random.default_rng(2), scale=1.0) is None


def test_no_place_where_other_lesions_are():
    canvas = empty_canvas()
    label = np.ones(canvas.organs.shape, dtype=np.uint8)
    assert find_place(canvas, label, tumour(), np.random.default_rng(2), scale=1.0) is None


def test_air_in_the_place_of_a_tumour_stays_air():
    canvas = empty_canvas()
    canvas.organs[np.random.default_rng(0).uniform(size=canvas.organs.shape) < 0.01] = ORGANS["air"]
    nothing = np.zeros(canvas.organs.shape, dtype=np.uint8)
    transplant = find_place(canvas, nothing, tumour(), np.random.default_rng(2), scale=1.0)
    air = canvas.organs[transplant.window] == ORGANS["air"]
    assert (air & ndimage.binary_dilation(transplant.label)).any()
    assert not transplant.label[air].any()
    assert not transplant.weight[air].any()
    assert (transplant.weight[transplant.label] == 1).all()


def test_a_patient_with_a_transplant_shows_it():
    patient = make_patient(
        3, "fdg", lesions=0, spacing_xyz=(3.0, 3.0, 3.0), field_of_view=(0.1, 0.35), transplants=[tumour(6.5)]
    )
    inside = patient.label.array > 0
    assert 0.5 < inside.sum() * patient.label.grid.voxel_ml < 1.6
    assert patient.pet.array[inside].max() > 4
