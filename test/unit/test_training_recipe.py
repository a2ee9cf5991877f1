"""The parts of the small recipe of Task 1: loss, light augmentation, and where patches are drawn."""

import pickle
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nnunetv2.training.dataloading import nnunet_dataset

from lesionclick.training import augmentation, places
from lesionclick.training.augmentation import LightAugmentation, OnlyLesions, WeighLesions
from lesionclick.training.losses import CE_WEIGHT, EMPTY_VOXELS, LEVEL_WEIGHTS, ORGAN_WEIGHT, LesionLoss
from lesionclick.training.places import LISTED_PLACES, LISTED_VOXELS, OFF_CENTRE, list_places

SPACING = (3.27, 4.0, 4.0)
INTENSITIES = {"0": {"mean": -1000.0, "std": 250.0}, "1": {"mean": 0.0, "std": 5.0}}


def _outputs(margin, organs=0):
    """Logits of one patch of 2 x 2 x 2 voxels at full and of one voxel at half resolution."""
    full = torch.zeros(1, 2, 2, 2, 2)
    full[:, 1] = margin
    half = torch.zeros(1, 2 + organs, 1, 1, 1)
    half[:, 1] = margin
    return [full, half]


def _targets(label, weight=1):
    return [
        torch.stack([torch.full(shape, label), torch.full(shape, weight)])[None] for shape in ((2, 2, 2), (1, 1, 1))
    ]


def test_loss_of_an_undecided_network_has_the_worked_out_value():
    # half the probability on 8 (and on 1) voxels of lesion, smoothed with 4 (and 4/8) voxels
    dice = [(2 * 4 + 4) / (4 + 8 + 4), (2 * 0.5 + 0.5) / (0.5 + 1 + 0.5)]
    levels = [CE_WEIGHT * np.log(2) + 1 - d for d in dice]
    expected = np.average(levels, weights=LEVEL_WEIGHTS)
    assert LesionLoss(4.0)(_outputs(0.0), _targets(1)).item() == pytest.approx(expected, rel=1e-6)


def test_without_lesions_there_is_the_cross_entropy_alone():
    loss = LesionLoss(4.0)(_outputs(2.0), _targets(0)).item()
    assert loss == pytest.approx(CE_WEIGHT * np.log1p(np.exp(2)), rel=1e-5)


def test_a_strict_loss_counts_what_is_found_where_there_is_nothing():
    loss = LesionLoss(4.0)
    lenient = loss(_outputs(0.0), _targets(0)).item()
    loss.strictness = 0.5
    # half the probability on 8 voxels, and on the one at half resolution, which stands for eight
    assert loss(_outputs(0.0), _targets(0)).item() - lenient == pytest.approx(0.5 * 4 / (4 + EMPTY_VOXELS), rel=1e-4)


def test_a_missed_lesion_costs_its_weight_and_less_of_it_as_the_loss_gets_strict():
    loss = LesionLoss(4.0)
    once, thrice = (loss(_outputs(-8.0), _targets(1, weight)).item() for weight in (1, 3))
    assert thrice - once == pytest.approx(2 * CE_WEIGHT * np.log1p(np.exp(8)), rel=1e-5)
    loss.strictness = 0.75
    assert loss(_outputs(-8.0), _targets(1, 3)).item() - once == pytest.approx((thrice - once) / 4, rel=1e-5)


def test_organs_cost_where_they_are_known_alone():
    loss = LesionLoss(4.0)
    unknown = loss(_outputs(0.0, organs=3), _targets(0)).item()
    assert unknown == pytest.approx(loss(_outputs(0.0), _targets(0)).item())
    known = loss(_outputs(0.0, organs=3), _targets(2)).item()
    # three organs, equally likely, in the output at half resolution
    assert known - unknown == pytest.approx(ORGAN_WEIGHT / sum(LEVEL_WEIGHTS) * np.log(3), rel=1e-5)


def test_small_lesions_weigh_more():
    label = torch.zeros((1, 12, 12, 12), dtype=torch.int16)
    label[0, 0, 0, 0], label[0, 2:5, 2:5, 2:7], label[0, 6:12, 6:12, 6:12] = 1, 1, 1  # 1, 45 and 216 voxels
    label[0, 0, 11, 11] = 5  # an organ
    labels, weights = WeighLesions()(image=torch.zeros(2, 12, 12, 12), segmentation=label)["segmentation"]
    torch.testing.assert_close(labels, label[0])
    assert weights[0, 0, 0] == augmentation.LARGEST_WEIGHT
    assert weights[3, 3, 3] == 7  # 300 / 45
    assert weights[8, 8, 8] == weights[0, 11, 11] == weights[0, 8, 0] == 1
    # the rim is two voxels wide, and the heavier lesion's where two rims meet
    assert (weights[3, 3, 8], weights[3, 3, 9]) == (7, 1)
    assert weights[2, 2, 2] == augmentation.LARGEST_WEIGHT


def test_organs_are_taken_out_of_the_labels():
    label = torch.tensor([-1, 0, 1, 2, 9]).reshape(1, 1, 1, 5)
    assert OnlyLesions()(segmentation=label)["segmentation"].flatten().tolist() == [0, 0, 1, 0, 0]


def _light(seed, size=20, inside=1):
    """CT and PET count the voxels along x from the middle of the patch; there lies what has the label `inside`."""
    x = torch.arange(size) - (size - 1) / 2
    image = (10 * x).expand(2, size, size, size).clone()
    label = (inside * (x.abs() < 4)).to(torch.int16).expand(1, size, size, size).clone()
    np.random.seed(seed)
    return LightAugmentation((16, 16, 16), (4.0, 4.0, 4.0))(image=image, segmentation=label)


def test_light_augmentation_moves_label_and_images_alike(monkeypatch):
    monkeypatch.setattr(augmentation, "NOISE", (0.0, 0.0))
    monkeypatch.setattr(augmentation, "GAIN_SPREAD", 0.0)
    shapes, turned, zooms = set(), 0, set()
    for seed in range(60):
        sample = _light(seed, size=40)
        ct, label = sample["image"][0], sample["segmentation"][0] == 1
        shapes.add((*sample["image"].shape, *sample["segmentation"].shape))
        assert ct[label].abs().max() < 45  # the label goes up to 40, and half a voxel
        assert ct[~label].abs().min() > 35
        turned += int(ct[0, 0, 0] == ct[0, 0, 15])
        zooms.add(int(label.sum()))
    assert shapes == {(2, 16, 16, 16, 1, 16, 16, 16)}
    assert 0 < turned < 30
    assert len(zooms) > 1


def test_noise_follows_from_numpys_seed_alone():
    """Of the two, nnU-Net's workers have states of their own of NumPy's alone."""
    made = []
    for state in (1, 2):
        torch.manual_seed(state)
        made.append(_light(7, size=40)["image"])
    assert torch.equal(*made)
    assert not torch.equal(made[0], _light(8, size=40)["image"])


def test_a_tilted_ball_stays_a_ball_in_millimetres(monkeypatch):
    for name, value in {"STRETCH": 0.0, "WARP_SHARE": 1.0, "TILT": 1.2, "ZOOM_MARGIN": 1.0}.items():
        monkeypatch.setattr(augmentation, name, value)
    spacing = torch.tensor([4.0, 2.0, 1.0])
    places = torch.stack(torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in (15, 30, 60)), indexing="ij"), dim=-1)
    shaft = (places * spacing)[..., 0].abs() < 26
    shaft &= ((places * spacing)[..., 1:].square().sum(-1).sqrt()) < 5
    ball = (places * spacing).square().sum(-1).sqrt() < 15
    light = LightAugmentation((15, 30, 60), spacing.tolist())
    np.random.seed(3)
    for inside, same in ((ball, True), (shaft, False)):
        label = inside[None].to(torch.int16)
        out = light(image=label.expand(2, -1, -1, -1).float(), segmentation=label)["segmentation"][0] == 1
        middles = [(mask[..., None] * places * spacing).square().sum((0, 1, 2)) / mask.sum() for mask in (inside, out)]
        assert torch.allclose(*middles, rtol=0.1) == same


def test_light_augmentation_changes_the_gain_of_the_pet_alone(monkeypatch):
    monkeypatch.setattr(augmentation, "NOISE", (0.0, 0.0))
    image = _light(1)["image"]
    gains = image[1] / image[0]
    assert gains.std() < 1e-5
    assert abs(gains.mean() - 1) > 1e-3


@pytest.mark.parametrize(("inside", "own"), [(1, False), (5, True)])
def test_organs_get_a_gain_of_their_own_and_lesions_do_not(monkeypatch, inside, own):
    for name, value in {"NOISE": (0.0, 0.0), "GAIN_SPREAD": 0.0, "ORGAN_SHARE": 1.0, "WARP_SHARE": 0.0}.items():
        monkeypatch.setattr(augmentation, name, value)
    ct, pet = _light(1, inside=inside)["image"]
    gains, x = pet / ct, ct.abs() / 10
    assert gains[x > 5].sub(1).abs().max() < 1e-6
    assert gains[x < 3].std() < 1e-6
    assert (abs(gains[x < 3].mean() - 1) > 0.01) == own


def test_patches_lie_on_lesions_hot_uptake_and_the_body(tmp_path, monkeypatch):
    images = np.zeros((2, 20, 20, 20), dtype=np.float32)  # air
    images[0, :, 5:15, 5:15] = 4.0  # a body of 0 HU
    images[1, 2:4, 6:8, 6:8] = 1.0  # SUV 5 in an organ
    label = np.zeros((1, 20, 20, 20), dtype=np.int8)
    label[0, 15:17, 10:12, 10:12] = 1
    images[1, 15:17, 10:12, 10:12] = 2.0
    cases = SimpleNamespace(identifiers=("a",), load_case=lambda _: (images, label, None, {"spacing": [1, 1, 1]}))
    monkeypatch.setattr(nnunet_dataset, "infer_dataset_class", lambda _: lambda _: cases)
    list_places(tmp_path, (8, 8, 8), INTENSITIES)
    with (tmp_path / "a.pkl").open("rb") as file:
        properties = pickle.load(file)
    assert properties["spacing"] == [1, 1, 1]
    places = list(properties["class_locations"].values())
    assert [len(kind) for kind in places] == [LISTED_VOXELS] * 2 + [LISTED_PLACES] * 3
    reach = OFF_CENTRE * 8
    for kind, (low, high) in zip(
        places,
        [((15, 10, 10), (16, 11, 11))] * 2 + [((2, 6, 6), (3, 7, 7))] * 2 + [((0, 5, 5), (19, 14, 14))],
        strict=True,
    ):
        assert (kind[:, 0] == 0).all()
        assert (kind[:, 1:] >= np.array(low) - reach).all()
        assert (kind[:, 1:] <= np.array(high) + reach).all()
        assert (kind[:, 1:] >= 0).all()
        assert (kind[:, 1:] < 20).all()
        assert len(np.unique(kind, axis=0)) > 50


def test_organs_are_drawn_by_their_mean_uptake_whatever_their_size(tmp_path, monkeypatch):
    images = np.zeros((2, 20, 20, 20), dtype=np.float32)
    label = np.full((1, 20, 20, 20), 2, dtype=np.int8)
    label[0, :, :10], images[1, :, :10] = 3, 4.0 / 5  # a large organ of SUV 4
    label[0, :2, 15:17, :2], images[1, :2, 15:17, :2] = 4, 40.0 / 5  # a small one, far above `HOTTEST_SUV`
    label[0, 10:, 12:], images[1, 10:, 12:] = 1, 20.0 / 5
    cases = SimpleNamespace(identifiers=("a",), load_case=lambda _: (images, label, None, {}))
    monkeypatch.setattr(nnunet_dataset, "infer_dataset_class", lambda _: lambda _: cases)
    monkeypatch.setattr(places, "OFF_CENTRE", 0.0)
    list_places(tmp_path, (8, 8, 8), INTENSITIES)
    with (tmp_path / "a.pkl").open("rb") as file:
        listed = pickle.load(file)["class_locations"]
    drawn = label[tuple(listed[3].T)]
    assert set(drawn.tolist()) == {3, 4}
    assert (drawn == 4).mean() == pytest.approx(10 / (10 + 4), abs=0.05)
