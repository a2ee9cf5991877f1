import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from lesionclick.simulation.readers import corrective_pair, hot_uptake, official, simulate

TEST = Path(__file__).parents[1]
PETCT = ["STS_002_petct", "STS_044_petct", "multi_0", "multi_1"]

LESION_CENTRES = {(4, 4, 20), (4, 20, 6), (20, 5, 4)}
HOT_CENTRES = {(20, 20, 4), (20, 20, 20)}


def cubes(centres, half_width=1, shape=(31, 31, 31)):
    mask = np.zeros(shape, dtype=bool)
    for centre in centres:
        mask[tuple(slice(c - half_width, c + half_width + 1) for c in centre)] = True
    return mask


def scene():
    """Three lesions of 5^3 voxels, hotter than all else, and two hot organs of 3^3 voxels in a cold body.

    The organs' 54 voxels are fewer than 0.25 % of the voxels outside the lesions (73), but not among the hottest
    0.25 % of the whole image, which lie in the lesions.
    """
    label = cubes(LESION_CENTRES, half_width=2)
    pet = np.zeros(label.shape)
    pet[cubes(HOT_CENTRES)] = 5
    pet[label] = 20
    return label, pet


def golden_case(golden: Path, name: str):
    """Label and PET as z, y, x arrays, and the golden indices z, y, x of both kinds."""
    folder = golden / "clicks"
    if name.startswith("multi"):
        with np.load(folder / f"{name}.npz") as arrays:
            label, pet = arrays["label"].T, arrays["pet"].T.astype(np.float64)
    else:
        case = name[: len("STS_000")].lower()
        label = sitk.GetArrayFromImage(sitk.ReadImage(TEST / "labels" / f"{case}.mha")) > 0
        pet = sitk.GetArrayFromImage(sitk.ReadImage(next((TEST / "input" / case / "images/pet").iterdir())))
    points = json.loads((folder / f"{name}.json").read_text())["points"]
    wanted = {kind: [p["point"][::-1] for p in points if p["name"] == kind] for kind in ("tumor", "background")}
    return label, pet, wanted["tumor"], wanted["background"]


def as_set(indices):
    return {tuple(index) for index in indices.tolist()}


class TestOfficial:
    @pytest.mark.parametrize("name", PETCT)
    def test_golden_petct(self, golden, name):
        label, pet, tumor, background = golden_case(golden, name)
        ours = official(label, pet)
        assert ours[0].tolist() == tumor
        assert ours[1].tolist() == background

    def test_golden_longitudinal(self, golden):
        label, pet, tumor, _ = golden_case(golden, "STS_002_longitudinal")
        ours = official(label, pet, n_clicks=2, tumor_only=True)
        assert ours[0].tolist() == tumor
        assert ours[1].shape == (0, 3)

    def test_golden_empty_label(self, golden):
        label, pet, _, background = golden_case(golden, "STS_002_empty_label")
        ours = official(np.zeros_like(label), pet)
        assert ours[0].shape == (0, 3)
        assert ours[1].tolist() == background

    def test_memory_order_of_the_arguments_does_not_matter(self):
        label, pet = scene()
        expected = official(label, pet)
        ours = official(np.asfortranarray(label), np.asfortranarray(pet))
        assert ours[0].tolist() == expected[0].tolist()
        assert ours[1].tolist() == expected[1].tolist()

    def test_further_clicks_of_a_single_hot_voxel_fall_anywhere_outside_it(self):
        pet = np.zeros((3, 3, 3))
        pet[1, 1, 1] = 1
        clicks = [official(np.zeros(pet.shape, dtype=bool), pet, seed=seed)[1].tolist() for seed in range(50)]
        assert all(background[0] == [1, 1, 1] for background in clicks)
        further = {tuple(click) for background in clicks for click in background[1:]}
        assert further == as_set(np.argwhere(pet == 0))

    def test_constant_pet_is_refused(self):
        label, pet = scene()
        with pytest.raises(ValueError, match="never ends"):
            official(label, np.ones_like(pet))

    def test_background_click_in_the_label_is_refused(self):
        label = np.ones((8, 8, 8), dtype=bool)
        label[0, 0, :4] = False
        pet = np.zeros(label.shape)
        pet[0, 0, 0] = 1  # a single voxel: the further clicks fall anywhere outside it, hence on the label
        with pytest.raises(ValueError, match="inside the label"):
            official(label, pet)

    def test_label_that_fills_the_image_is_refused(self):
        with pytest.raises(ValueError, match="fills the image"):
            official(np.ones((4, 4, 4), dtype=bool), np.zeros((4, 4, 4)))


@pytest.mark.parametrize("seed", range(5))
class TestSimulate:
    def test_centres_come_first_then_boundaries(self, seed):
        label, pet = scene()
        tumor, background = simulate(label, pet, np.random.default_rng(seed))
        assert tumor.shape == background.shape == (10, 3)
        assert as_set(tumor[:3]) == LESION_CENTRES
        inner = cubes(LESION_CENTRES, half_width=1)
        assert label[tuple(tumor.T)].all()
        assert not inner[tuple(tumor[3:].T)].any()

    def test_background_clicks_lie_in_hot_uptake_outside_the_label(self, seed):
        label, pet = scene()
        _, background = simulate(label, pet, np.random.default_rng(seed))
        assert as_set(background[:2]) == HOT_CENTRES
        assert not label[tuple(background.T)].any()
        assert (pet[tuple(background.T)] == 5).all()

    def test_the_budget_picks_different_components(self, seed):
        label, pet = scene()
        tumor, background = simulate(label, pet, np.random.default_rng(seed), n_clicks=2)
        assert len(as_set(tumor)) == 2
        assert as_set(tumor) <= LESION_CENTRES
        assert as_set(background) == HOT_CENTRES

    def test_same_generator_same_clicks(self, seed):
        label, pet = scene()
        one, two = (simulate(label, pet, np.random.default_rng(seed)) for _ in range(2))
        other = simulate(label, pet, np.random.default_rng(seed + 1000))
        assert all((a == b).all() for a, b in zip(one, two, strict=True))
        assert any((a != b).any() for a, b in zip(one, other, strict=True))

    def test_border_of_the_image_is_no_border_of_a_lesion(self, seed):
        label = np.zeros((9, 9, 9), dtype=bool)
        label[:3, :3, :3] = True
        tumor, _ = simulate(label, np.zeros(label.shape), np.random.default_rng(seed))
        assert tumor[0].tolist() == [0, 0, 0]
        assert (tumor[1:].max(axis=1) == 2).all()

    def test_label_that_fills_the_image(self, seed):
        label = np.ones((5, 5, 5), dtype=bool)
        tumor, background = simulate(label, np.ones(label.shape), np.random.default_rng(seed))
        assert len(tumor) == 10
        assert len(np.unique(tumor, axis=0)) > 1
        assert background.shape == (0, 3)

    def test_mirrored_image_mirrors_the_centres(self, seed):
        label, pet = scene()
        tumor, background = simulate(label[::-1], pet[::-1], np.random.default_rng(seed), n_clicks=3)
        last = label.shape[0] - 1
        assert as_set(tumor) == {(last - z, y, x) for z, y, x in LESION_CENTRES}
        assert as_set(background[:2]) == {(last - z, y, x) for z, y, x in HOT_CENTRES}


def test_a_component_that_fills_its_array_has_no_middle_and_no_rim():
    """Each of its voxels may be clicked first, and each as one of the further ones."""
    clicks = [simulate(np.ones((1, 3, 5), dtype=bool), np.ones((1, 3, 5)), np.random.default_rng(s)) for s in range(99)]
    everywhere = as_set(np.argwhere(np.ones((1, 3, 5))))
    assert {tuple(tumor[0]) for tumor, _ in clicks} == everywhere
    assert {tuple(click) for tumor, _ in clicks for click in tumor[1:]} == everywhere


def test_a_threshold_between_neighbouring_numbers_of_a_pet_is_not_rounded_to_the_upper():
    """The percentile of 201 voxels lies half-way between the two highest."""
    pet = np.zeros((1, 3, 67), dtype=np.float32)
    pet[0, 0, :2] = 1 + np.array([1, 2]) * np.finfo(np.float32).eps
    assert np.argwhere(hot_uptake(np.zeros(pet.shape, dtype=bool), pet)).tolist() == [[0, 0, 1]]


def test_voxels_that_touch_by_a_corner_are_one_component():
    label = np.zeros((6, 6, 6), dtype=bool)
    label[1, 1, 1] = label[2, 2, 2] = True
    label[4, 4, 1] = True
    hits = [as_set(simulate(label, np.zeros(label.shape), np.random.default_rng(s), n_clicks=2)[0]) for s in range(10)]
    assert all((4, 4, 1) in hit and len(hit) == 2 for hit in hits)


def test_every_lesion_has_its_chance():
    label, pet = scene()
    clicks = [simulate(label, pet, np.random.default_rng(seed), n_clicks=1)[0] for seed in range(30)]
    assert set().union(*map(as_set, clicks)) == LESION_CENTRES


def test_empty_label_has_background_clicks_alone():
    label, pet = scene()
    tumor, background = simulate(np.zeros_like(label), np.where(label, 0, pet), np.random.default_rng(0))
    assert tumor.shape == (0, 3)
    assert background.shape == (10, 3)


def test_constant_pet_has_tumor_clicks_alone():
    label, pet = scene()
    tumor, background = simulate(label, np.ones_like(pet), np.random.default_rng(0))
    assert tumor.shape == (10, 3)
    assert background.shape == (0, 3)


@pytest.mark.parametrize("place", [simulate, corrective_pair])
def test_arrays_of_different_shapes_are_refused(place):
    with pytest.raises(ValueError, match=r"\(4, 4, 4\) and \(4, 4, 5\)"):
        place(np.ones((4, 4, 4), dtype=bool), np.ones((4, 4, 5)), np.random.default_rng(0))


class TestCorrectivePair:
    def test_centres_of_the_largest_errors(self):
        missed, added = (4, 4, 4), (20, 5, 20)
        found = cubes([(12, 12, 12)], half_width=3)
        label = found | cubes([missed], half_width=2) | cubes([(4, 20, 4)], half_width=1)
        prediction = found | cubes([added], half_width=2) | cubes([(20, 20, 20)], half_width=1)
        tumor, background = corrective_pair(label, prediction, np.random.default_rng(0))
        assert tuple(tumor) == missed
        assert tuple(background) == added

    def test_size_counts_and_not_depth(self):
        label = cubes([(4, 4, 4)], half_width=1)  # 27 voxels, centre at depth 2
        label[20, 4:9, 4:14] = True  # 50 voxels, one voxel thick
        tumor, _ = corrective_pair(label, np.zeros_like(label), np.random.default_rng(0))
        assert tumor[0] == 20

    def test_diagonal_voxels_form_one_error(self):
        label = np.zeros((8, 8, 8), dtype=bool)
        label[range(1, 4), range(1, 4), range(1, 4)] = True
        label[6, 6, 5:7] = True
        tumor, _ = corrective_pair(label, np.zeros_like(label), np.random.default_rng(0))
        assert tuple(tumor) in {(1, 1, 1), (2, 2, 2), (3, 3, 3)}

    def test_ties_are_broken_at_random(self):
        label = np.zeros((9, 9, 9), dtype=bool)
        label[1:3, 1:3, 1:3] = label[5:7, 5:7, 5:7] = True
        clicks = {tuple(corrective_pair(label, ~label & False, np.random.default_rng(s))[0]) for s in range(300)}
        assert clicks == as_set(np.argwhere(label))

    def test_no_error_no_click(self):
        label, _ = scene()
        rng = np.random.default_rng(0)
        nothing = np.zeros_like(label)
        assert corrective_pair(label, label, rng) == (None, None)
        assert corrective_pair(label, nothing, rng)[1] is None
        assert corrective_pair(nothing, label, rng)[0] is None

    def test_exchanging_the_masks_exchanges_the_clicks(self):
        label, prediction = cubes([(4, 4, 4)]), cubes([(4, 20, 4)])
        tumor, background = corrective_pair(label, prediction, np.random.default_rng(0))
        swapped = corrective_pair(prediction, label, np.random.default_rng(0))
        assert (tumor.tolist(), background.tolist()) == (swapped[1].tolist(), swapped[0].tolist())
