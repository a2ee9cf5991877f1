from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lesionclick.simulation import courses as followup
from lesionclick.simulation.courses import Course
from lesionclick.training import pairs
from lesionclick.training.pairs import MakePair, crop_size, vary
from lesionclick.training.plans import PAIR

PATCH = (12, 20, 20)
SPACING = (3.0, 2.0, 2.0)
INTENSITIES = {"mean": -200.0, "std": 75.0, "percentile_00_5": -200.0, "percentile_99_5": 400.0}
TISSUE, LESION = (40 + 200) / 75, (100 + 200) / 75  # as nnU-Net stores them


def crop(*balls, shape=None):
    """A normalised crop of tissue with round lesions: (centre, radius) in voxels and mm."""
    shape = shape or crop_size(PATCH)
    label = np.zeros(shape, dtype=bool)
    for centre, radius_mm in balls:
        label |= (np.linalg.norm((np.indices(shape).T - centre) * SPACING, axis=-1) <= radius_mm).T
    image = np.where(label, LESION, TISSUE).astype(np.float32)
    return {"image": torch.from_numpy(image[None]), "segmentation": torch.from_numpy(label[None].astype(np.int16))}


def middle(shape):
    return tuple((n - 1) / 2 for n in shape)


def make(data, seed=0):
    np.random.seed(seed)
    made = MakePair(PAIR.encoding, PATCH, SPACING, INTENSITIES)(**{key: value.clone() for key, value in data.items()})
    return made["image"].numpy(), made["segmentation"].numpy()[0] > 0


def test_image_and_mask_are_mirrored_alike():
    label = np.zeros(PATCH, dtype=bool)
    label[0, 0, 0] = True
    transform = MakePair(PAIR.encoding, PATCH, SPACING, INTENSITIES)
    for seed in range(8):
        result = transform._result(label[None], label, np.random.default_rng(seed))
        assert (result["image"] == result["segmentation"]).all()


@pytest.fixture
def course(monkeypatch):
    """Fixes the course of the lesion in the middle; the baseline is always seen and points are exact."""

    def fix(one, blind=0.0):
        monkeypatch.setattr(pairs, "draw_course", lambda *_: one)
        monkeypatch.setattr(pairs, "NO_BASELINE_SHARE", blind)
        monkeypatch.setattr(pairs, "VARIED_SHARE", 0.0)
        for name in ("PROPAGATED_MM", "CLICKED_MM", "ANYWHERE_SHARE"):
            monkeypatch.setattr(pairs, name, 0.0)

    return fix


CENTRAL = crop((middle(crop_size(PATCH)), 8.0))


def test_channels_are_two_scans_the_mask_and_two_points(course):
    course(Course("present", 1.0))
    image, label = make(CENTRAL)
    assert image.shape == (1 + 4, *PATCH)
    assert image.dtype == np.float32
    assert label.any()
    after, before, mask, followup_point, baseline_point = image
    inside = mask > 0
    assert before[inside].mean() - before[mask < -0.8].mean() == pytest.approx(LESION - TISSUE, rel=0.2)
    assert after[label].mean() - after[~label].mean() > 0.4
    for point in (followup_point, baseline_point):
        assert np.unravel_index(point.argmax(), PATCH) == pytest.approx(middle(PATCH), abs=1.0)
        assert 0.8 < point.max() <= 1
    assert 2 * (inside & label).sum() / (inside.sum() + label.sum()) > 0.7  # aligned by their points


def test_a_vanished_lesion_has_no_label_but_a_mask(course):
    course(Course("vanished"))
    image, label = make(CENTRAL)
    assert not label.any()
    assert (image[2] > 0).any()
    assert image[3].max() > 0.8


def test_a_new_lesion_has_neither_mask_nor_point_in_the_baseline(course):
    course(Course("new"))
    image, label = make(CENTRAL)
    assert label.any()
    assert (image[2] == -1).all()
    assert (image[4] == 0).all()
    assert image[1].max() < LESION - 0.2  # healed


def test_without_baseline_nothing_of_it_is_seen(course):
    course(Course("present", 1.0), blind=1.0)
    image, label = make(CENTRAL)
    assert label.any()
    assert not image[1].any()
    assert (image[2] == -1).all()
    assert not image[4].any()


@pytest.mark.parametrize("zoom", pairs.ZOOMS)
def test_a_lesion_has_its_size_at_every_zoom(course, monkeypatch, zoom):
    course(Course("present", 1.0), blind=1.0)
    monkeypatch.setattr(pairs, "ZOOMS", (zoom,))
    radius_mm = 8.0 * max(zoom, 1.0)
    _, label = make(crop((middle(crop_size(PATCH)), radius_mm)))
    volume = label.sum() * np.prod(SPACING) * zoom**3
    assert volume == pytest.approx(4 / 3 * np.pi * radius_mm**3, rel=0.15)
    assert np.argwhere(label).mean(axis=0) == pytest.approx(middle(PATCH), abs=1.0)


def test_only_the_lesion_in_the_middle_counts(course):
    course(Course("present", 1.0))
    z, y, x = middle(crop_size(PATCH))
    alone, label_alone = make(crop(((z, y, x), 6.0)))
    image, label = make(crop(((z, y, x), 6.0), ((z, y + 7, x + 7), 5.0)))
    assert np.array_equal(image[2], alone[2])
    assert 0.5 < label.sum() / label_alone.sum() < 1.5


def test_the_border_of_an_image_does_no_harm():
    data = crop(((1.0, 3.0, 2.0), 7.0), shape=(9, 11, 10))
    image, _ = make(data)
    assert image.shape == (5, *PATCH)
    assert np.isfinite(image).all()


def test_noise_leads_nowhere_that_the_plans_do_not_know():
    brightest = (400 + 200) / 75
    data = {**CENTRAL, "image": torch.full_like(CENTRAL["image"], brightest)}
    assert max(make(data, seed)[0][0].max() for seed in range(8)) == pytest.approx(brightest)


def test_a_crop_without_lesion_is_background():
    image, label = make(crop())
    assert image.shape == (5, *PATCH)
    assert not label.any()


def test_courses_vary_and_repeat_by_seed():
    samples = [make(CENTRAL, seed) for seed in range(14)]
    assert np.array_equal(samples[3][0], make(CENTRAL, 3)[0])
    empty = sum(not label.any() for _, label in samples)
    blind = sum(not image[1].any() for image, _ in samples)
    assert 0 < empty < 7  # vanished
    assert 0 < blind < 7
    assert followup.VANISHED_SHARE > 0


@pytest.fixture
def bar():
    """A CT of air with a bar of 9 x 60 x 9 mm along y, off the middle, and its mask."""
    mask = np.zeros((21, 45, 45), dtype=bool)
    mask[9:12, 5:35, 24:33] = True
    return np.where(mask, 100.0, -200.0).astype(np.float32), mask


def fix_variation(monkeypatch, turn=(0.0, 0.0, 0.0), stretch=0.0, gain=1.0, hu=0.0):
    monkeypatch.setattr(pairs, "VARIED_TURN_DEGREES", turn)
    monkeypatch.setattr(pairs, "STRETCH", stretch)
    monkeypatch.setattr(pairs, "VARIED_GAIN", (gain, gain))
    monkeypatch.setattr(pairs, "VARIED_HU", hu)


def test_without_limits_a_crop_stays_as_it_is(bar, monkeypatch):
    fix_variation(monkeypatch)
    ct, mask = vary(*bar, (3.0, 2.0, 1.0), np.random.default_rng(0), air=-200.0)
    np.testing.assert_allclose(ct, bar[0])
    assert np.array_equal(mask, bar[1])


def test_a_turn_about_z_is_one_in_millimetres(bar, monkeypatch):
    """A bar along y that is turned by an angle about z leans by that angle in mm, whatever the voxels."""
    highest = SimpleNamespace(uniform=lambda _, high: high, normal=lambda **drawn: np.zeros(drawn["size"]))
    fix_variation(monkeypatch, turn=(30.0, 0.0, 0.0))
    spacing = (3.0, 2.0, 1.0)
    _, mask = vary(*bar, spacing, highest, air=-200.0)
    places = np.argwhere(mask) * spacing
    _, _, axes = np.linalg.svd(places - places.mean(axis=0))
    long = axes[0] * np.sign(axes[0][1])
    assert abs(long[0]) < 0.02
    assert np.degrees(np.arctan2(abs(long[2]), long[1])) == pytest.approx(30, abs=1.5)
    assert mask.sum() == pytest.approx(bar[1].sum(), rel=0.05)


def test_mask_and_image_are_varied_alike(bar):
    for seed in range(5):
        ct, mask = vary(*bar, (3.0, 2.0, 2.0), np.random.default_rng(seed), air=-200.0)
        assert mask.any()
        assert np.array_equal(mask, ct >= (ct.min() + ct.max()) / 2)
