import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from lesionclick.prompts.encodings import Ball
from lesionclick.prompts.points import BACKGROUND, TUMOR, Prompts, are_in_strokes
from lesionclick.prompts.spec import PromptSpec
from lesionclick.training import augmentation
from lesionclick.training.augmentation import MOST_CLICKS, AppendClicks, MisalignCT
from lesionclick.training.datasets import HELD_OUT, LARGEST_MM, _shrunk_to_fit, list_patients, split_patients
from lesionclick.training.plans import FIELDS, PAIR, adapt_plans
from lesionclick.training.train import find_trainer

BALL = Ball(radius=2.0)
SPACING = (3.27, 4.0, 4.0)


def _patch(tumour=True, seed=0):
    """CT and PET (2, 24, 24, 24) with one tumour, and hot uptake elsewhere."""
    rng = np.random.default_rng(seed)
    image = torch.from_numpy(rng.random((2, 24, 24, 24), dtype=np.float32))
    label = torch.zeros((1, 24, 24, 24), dtype=torch.int16)
    image[1, 18:21, 18:21, 18:21] += 5
    if tumour:
        label[0, 4:10, 4:10, 4:10] = 1
        image[1, 4:10, 4:10, 4:10] += 3
    return {"image": image, "segmentation": label}


def _append(patch, seed, encoding=BALL, **options):
    np.random.seed(seed)
    return AppendClicks(encoding, SPACING, **options)(**patch)["image"]


def test_clicks_are_appended_and_images_kept():
    patch = _patch()
    image = _append(_patch(), 0, FIELDS.encoding)
    assert image.shape == (2 + FIELDS.encoding.n_channels, 24, 24, 24)
    torch.testing.assert_close(image[:2], patch["image"])


@pytest.mark.parametrize("strokes", [0.0, 1.0])
def test_tumour_points_lie_in_the_tumour_and_background_points_outside(monkeypatch, strokes):
    monkeypatch.setattr(augmentation, "STROKES_SHARE", strokes)
    monkeypatch.setattr(augmentation, "DENSE_SHARE", 0.0)
    label = _patch()["segmentation"][0] > 0
    seen = np.zeros(2, dtype=int)
    for seed in range(40):
        tumour, background = _append(_patch(), seed, jitter_voxels=0.0)[2:] == 1
        assert not (tumour & ~label).any()
        assert not (background & label).any()
        seen += int(tumour.any()), int(background.any())
    assert (seen > 10).all()
    assert seen.min() < 40  # some patches get no click, or strokes of one kind alone


@pytest.mark.parametrize("strokes", [0.0, 1.0])
def test_a_patch_without_tumour_gets_no_tumour_point(monkeypatch, strokes):
    monkeypatch.setattr(augmentation, "STROKES_SHARE", strokes)
    for seed in range(20):
        assert not _append(_patch(tumour=False), seed)[2].any()


def test_the_number_of_clicks_varies_from_none_to_ten(monkeypatch):
    monkeypatch.setattr(augmentation, "STROKES_SHARE", 0.0)
    # a ball of radius 1 is one voxel, so that a channel holds as many as were clicked
    dots = Ball(radius=1.0)
    counts = [int((_append(_patch(), seed, dots, jitter_voxels=0.0)[2] == 1).sum()) for seed in range(80)]
    assert max(counts) == MOST_CLICKS
    assert set(counts) >= {0, 1, 2, 3, 5, 8}


def test_clicked_and_missed_lesions_stand_side_by_side(monkeypatch):
    patch = _patch()
    patch["segmentation"][0, 14:18, 4:8, 4:8] = 1
    monkeypatch.setattr(augmentation, "STROKES_SHARE", 0.0)
    monkeypatch.setattr(augmentation, "CORRECTIVE_SHARE", 0.0)
    monkeypatch.setattr(augmentation, "WHOLE_CASE_SHARE", 1.0)
    both = one = 0
    for seed in range(60):
        tumour = _append(patch, seed, jitter_voxels=0.0)[2] == 1
        clicked = [bool(tumour[4:10].any()), bool(tumour[14:18].any())]
        both += all(clicked)
        one += sum(clicked) == 1 and int(tumour.sum()) > 1  # further clicks went to the one that is shown
    assert both > 10
    assert one > 5


def test_strokes_lie_in_one_slice_and_move_as_a_whole(monkeypatch):
    monkeypatch.setattr(augmentation, "STROKES_SHARE", 1.0)
    given = []

    class Recorded(Ball):
        def encode(self, prompts, *args, **options):
            given.append(prompts)
            return super().encode(prompts, *args, **options)

    for seed in range(60):
        _append(_patch(), seed, Recorded(radius=2.0))
    whole = [prompts.indices_zyx(kind) for prompts in given for kind in (TUMOR, BACKGROUND) if prompts.of(kind)]
    assert len(whole) > 60
    for points in whole:
        # no two strokes were moved alike, and there are at most five
        heights = np.unique(points[:, 0])
        assert len(heights) <= 5
        for z in heights:
            stroke = points[points[:, 0] == z]
            halves = 2 * (stroke - stroke[0])  # between neighbours there may be a point
            np.testing.assert_allclose(halves, np.rint(halves), atol=1e-9)
    # in this small patch too, some are long enough to be told from clicks
    assert any(are_in_strokes(points, SPACING).any() for points in whole)


def test_the_share_of_the_samples_with_strokes(monkeypatch):
    drawn = []
    monkeypatch.setattr(AppendClicks, "_draw_strokes", lambda *_: drawn.append(1) or Prompts())
    monkeypatch.setattr(AppendClicks, "_click", lambda *_: Prompts())
    for seed in range(400):
        _append(_patch(), seed)
    assert 0.1 < len(drawn) / 400 < 0.2


def test_points_between_neighbours_make_a_stroke_dense():
    row = np.array([[3.2, 5.0, 6.0], [3.2, 5.0, 7.0], [3.2, 6.0, 8.0]])  # the last touches at a corner
    dense = augmentation._between(row)
    assert sorted(dense.tolist()) == [
        [3.2, 5.0, 6.0],
        [3.2, 5.0, 6.5],
        [3.2, 5.0, 7.0],
        [3.2, 5.5, 7.5],
        [3.2, 6.0, 8.0],
    ]
    np.testing.assert_array_equal(augmentation._between(row[:1]), row[:1])


def test_organs_beside_the_lesions_change_no_click():
    patch, with_organs = _patch(), _patch()
    with_organs["segmentation"][0, 18:21, 18:21, 18:21] = 7
    torch.testing.assert_close(_append(patch, 5), _append(with_organs, 5))


def test_same_seed_same_clicks():
    torch.testing.assert_close(_append(_patch(), 3), _append(_patch(), 3))


def test_misalignment_moves_the_ct_alone():
    np.random.seed(0)
    patch = _patch()
    z = torch.arange(24.0)[:, None, None].expand(24, 24, 24)
    image = torch.stack([z, patch["image"][1]])
    shifted = MisalignCT(8.0, SPACING, probability=1.0)(image=image.clone())["image"]
    torch.testing.assert_close(shifted[1], image[1])
    inner = (shifted[0] - z)[6:-6]
    assert inner.std() < 1e-5  # a ramp stays a ramp
    assert 0.01 < inner.abs().mean() <= 8.0 / 3.27


def test_misalignment_of_probability_zero_does_nothing():
    patch = _patch()
    image = MisalignCT(8.0, SPACING, probability=0.0)(image=patch["image"].clone())["image"]
    torch.testing.assert_close(image, patch["image"])


def test_split_is_fixed_and_disjoint():
    patients = [f"P{i:02d}" for i in range(36)]
    training, held_out = split_patients(patients)
    assert split_patients(patients[::-1]) == (training, held_out)
    assert len(held_out) == HELD_OUT >= 8
    assert sorted(training + held_out) == patients


@pytest.fixture
def plans_file(tmp_path):
    intensities = {c: {"mean": 1.0, "std": 1.0, "median": 1.0, "min": 0.0, "max": 2.0} for c in ("0", "1")}
    plans = {
        "foreground_intensity_properties_per_channel": intensities,
        "transpose_forward": [1, 0, 2],
        "transpose_backward": [1, 0, 2],
        "configurations": {"3d_fullres": {"spacing": [5.0, 3.0, 5.0], "patch_size": [32, 32, 32]}},
    }
    path = tmp_path / "plans.json"
    path.write_text(json.dumps(plans))
    return path


def test_small_plans_name_the_prompt_and_make_air_zero(plans_file):
    adapt_plans(plans_file, "task1", "small", minutes=3)
    plans = json.loads(plans_file.read_text())
    assert PromptSpec.from_mapping(plans["prompt"], "plans") == FIELDS
    assert plans["transpose_forward"] == [0, 1, 2]
    ct, pet = (plans["foreground_intensity_properties_per_channel"][c] for c in ("0", "1"))
    assert (ct["mean"], pet["mean"]) == (-1000.0, 0.0)
    assert plans["configurations"]["small"]["inherits_from"] == "3d_fullres"


def test_standard_plans_keep_nnunets_architecture_and_axes(plans_file):
    adapt_plans(plans_file, "task1", "standard", minutes=3)
    plans = json.loads(plans_file.read_text())
    assert plans["transpose_forward"] == [1, 0, 2]
    assert set(plans["configurations"]) == {"3d_fullres"}
    assert plans["configurations"]["3d_fullres"]["patch_size"] == [32, 32, 32]


@pytest.mark.parametrize("config", ["small", "standard", "large"])
def test_plans_of_task2_have_a_window_of_soft_tissue_and_a_patch_of_a_lesions_size(plans_file, config):
    adapt_plans(plans_file, "task2", config, minutes=3)
    plans = json.loads(plans_file.read_text())
    assert PromptSpec.from_mapping(plans["prompt"], "plans") == PAIR
    assert plans["transpose_forward"] == [0, 1, 2]
    (ct,) = plans["foreground_intensity_properties_per_channel"].values()
    assert (ct["mean"], ct["percentile_00_5"], ct["percentile_99_5"]) == (-200.0, -200.0, 400.0)
    found = plans["configurations"][config]
    assert found.get("batch_dice") is (False if config == "small" else None)
    extent_mm = np.multiply(found["patch_size"], found["spacing"])
    assert (extent_mm >= 70).all()
    assert (extent_mm <= 100).all()
    strides = np.prod(found["architecture"]["arch_kwargs"]["strides"], axis=0)
    assert not (np.array(found["patch_size"]) % strides).any()


@pytest.mark.parametrize(
    "name",
    [
        "nnUNetTrainerClicks",
        "nnUNetTrainerClicksSmall",
        "nnUNetTrainerLongitudinal",
        "nnUNetTrainerLongitudinalSmall",
    ],
)
def test_trainers_are_found_as_nnunet_finds_them(name):
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    assert issubclass(find_trainer(name), nnUNetTrainer)


def test_large_real_lesions_are_shown_smaller():
    label = np.zeros((10, 20, 40), dtype=np.uint8)
    label[4, 5:8, 2:36] = 1  # 34 voxels of 2 mm along x
    images = [sitk.GetImageFromArray(array) for array in (label, label)]
    for image in images:
        image.SetSpacing((2.0, 2.0, 3.0))
    shrunk = _shrunk_to_fit(images)
    factor = LARGEST_MM / 68
    for image in shrunk:
        assert image.GetSpacing() == pytest.approx((2 * factor, 2 * factor, 3 * factor))
    assert _shrunk_to_fit(images)[0].GetSpacing() == pytest.approx((2 * factor, 2 * factor, 3 * factor))


def test_patients_are_the_folders_with_a_label(tmp_path):
    """Another file beside them would change who is held out."""
    for name in ("STS_002", "STS_001", "notes"):
        (tmp_path / name).mkdir()
    for name in ("STS_002", "STS_001"):
        (tmp_path / name / "label.mha").touch()
    (tmp_path / "README.md").touch()
    assert list_patients(tmp_path) == ["STS_001", "STS_002"]


def test_learning_rate_warms_up_and_ends_at_zero():
    trainer = find_trainer("nnUNetTrainerClicksSmall")
    rates = [trainer.learning_rate(trainer, share) for share in (0.0, 0.025, 0.05, 0.525, 1.0)]
    # warm-up of 5 %: a floor of 2 %, half, full; then half of the cosine, and its end
    assert rates == pytest.approx([6e-5, 1.5e-3, 3e-3, 1.5e-3, 0.0], abs=1e-9)
