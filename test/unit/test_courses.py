import numpy as np
import pytest

from lesionclick.simulation import courses
from lesionclick.simulation.courses import GROWTH, NEW_SHARE, VANISHED_SHARE, VOLUME_ML, Course, draw_course, make_pair

SPACING = (3.0, 2.0, 2.0)
STILL = {"shift_mm": 0.0, "turn_degrees": 0.0, "warp_mm": 0.0}
CENTRE = np.array([15.0, 24.0, 24.0])


def ball(radius_mm, centre=CENTRE, shape=(31, 49, 49)):
    offsets = np.indices(shape).T - centre
    return (np.linalg.norm(offsets * SPACING, axis=-1) <= radius_mm).T


def scan(*balls, tissue=40.0, lesion=100.0):
    """Tissue without noise, with lesions 1, 2, and so on."""
    lesions = np.zeros((31, 49, 49), dtype=np.uint16)
    for number, inside in enumerate(balls, start=1):
        lesions[inside] = number
    return np.where(lesions > 0, lesion, tissue).astype(np.float32), lesions


def pair(course, seed=0, radius_mm=10.0, **options):
    ct, lesions = scan(ball(radius_mm))
    return make_pair(ct, lesions, SPACING, np.random.default_rng(seed), courses={1: course}, **options)


def test_same_seed_same_pair():
    a, b = (pair(Course("present", 1.5), seed=4) for _ in range(2))
    assert np.array_equal(a.followup_ct, b.followup_ct)
    assert np.array_equal(a.followup_lesions, b.followup_lesions)
    assert not np.array_equal(a.followup_ct, pair(Course("present", 1.5), seed=5).followup_ct)


@pytest.mark.parametrize("growth", [0.15, 0.4, 1.0, 2.5])
def test_a_lesion_grows_by_its_course(growth):
    found = pair(Course("present", growth), **STILL)
    before, after = np.count_nonzero(found.baseline_lesions), np.count_nonzero(found.followup_lesions)
    assert after / before == pytest.approx(growth, rel=0.12)
    assert np.argwhere(found.followup_lesions).mean(axis=0) == pytest.approx(CENTRE, abs=0.1)
    # the image grows with the mask: 60 HU lie between lesion and tissue, noise and calibration are well below
    level = (found.followup_ct[found.followup_lesions > 0].mean() + found.followup_ct[:, :5].mean()) / 2
    assert np.count_nonzero(found.followup_ct > level) == pytest.approx(after, rel=0.15)


@pytest.mark.parametrize("growth", [0.04, 0.1, 0.124, 0.126, 0.15, 1.0, 4.0])
def test_no_tissue_folds_around_a_lesion(growth):
    found = pair(Course("present", growth), **STILL)
    places = found.displacement + np.indices(found.displacement.shape[1:])
    slopes = np.stack(np.gradient(places, axis=(1, 2, 3)), axis=-1)  # (3, z, y, x, 3)
    assert (np.linalg.det(np.moveaxis(slopes, 0, -2)) > 0).all()
    off = np.array([0, 0, 3])  # by 6 mm
    assert found.carry(CENTRE + off) == pytest.approx(CENTRE + off * growth ** (1 / 3), abs=0.1)


def test_a_vanished_lesion_leaves_tissue():
    found = pair(Course("vanished"), **STILL)
    assert not found.followup_lesions.any()
    assert np.count_nonzero(found.baseline_lesions) == ball(10.0).sum()
    assert found.baseline_ct[ball(8.0)] == pytest.approx(100.0)
    here, around = found.followup_ct[ball(8.0)].mean(), found.followup_ct[:, :8].mean()
    assert here == pytest.approx(around, abs=3.0)


def test_a_new_lesion_was_not_there_before():
    found = pair(Course("new"), **STILL)
    assert not found.baseline_lesions.any()
    assert found.baseline_ct[ball(8.0)].mean() == pytest.approx(40.0, abs=1.0)
    assert np.count_nonzero(found.followup_lesions) == pytest.approx(ball(10.0).sum(), rel=0.1)


def test_places_are_carried_to_where_the_lesion_went():
    found = pair(Course("present", 1.0), seed=2, shift_mm=8.0, turn_degrees=5.0, warp_mm=2.0)
    moved = np.argwhere(found.followup_lesions).mean(axis=0)
    assert np.linalg.norm((moved - CENTRE) * SPACING) > 2.0
    assert np.linalg.norm((found.carry(CENTRE) - moved) * SPACING) < 1.5


def test_lesions_keep_their_numbers_and_courses():
    ct, lesions = scan(ball(7.0, (15, 12, 12)), ball(7.0, (15, 36, 36)))
    courses = {1: Course("vanished"), 2: Course("present", 1.0)}
    found = make_pair(ct, lesions, SPACING, np.random.default_rng(0), courses=courses, **STILL)
    assert set(np.unique(found.baseline_lesions)) == {0, 1, 2}
    assert set(np.unique(found.followup_lesions)) == {0, 2}
    assert found.courses == courses


def test_without_lesions_only_the_posture_changes():
    ct, lesions = scan()
    found = make_pair(ct, lesions, SPACING, np.random.default_rng(0))
    assert np.array_equal(found.baseline_ct, ct)
    assert not found.followup_lesions.any()
    assert found.courses == {}


@pytest.mark.parametrize("ml", [0.2, 3.0, 60.0])
def test_courses_keep_volumes_within_bounds(ml):
    rng = np.random.default_rng(0)
    courses = [draw_course(ml, rng) for _ in range(2000)]
    share = {status: np.mean([c.status == status for c in courses]) for status in ("vanished", "new")}
    assert share["vanished"] == pytest.approx(VANISHED_SHARE, abs=0.03)
    assert share["new"] == pytest.approx(NEW_SHARE, abs=0.03)
    growth = [c.growth for c in courses if c.status == "present"]
    assert min(growth) >= max(GROWTH[0], VOLUME_ML[0] / ml) - 1e-9
    assert max(growth) <= min(GROWTH[1], VOLUME_ML[1] / ml) + 1e-9
    assert max(growth) > 1.4


def test_a_turn_is_about_the_middle_and_moves_every_place_across():
    ct, lesions = scan()
    still = {**STILL, "turn_degrees": 5.0}
    found = make_pair(ct, lesions, SPACING, np.random.default_rng(0), **still)
    offsets_mm = (np.moveaxis(np.indices(ct.shape), 0, -1) - CENTRE) * SPACING
    moves_mm = np.moveaxis(found.displacement, 0, -1) * SPACING
    assert moves_mm[15, 24, 24] == pytest.approx([0, 0, 0], abs=1e-5)
    assert np.abs((offsets_mm * moves_mm).sum(axis=-1)).max() < 1e-2  # of 60 x 5 mm
    far = np.linalg.norm(offsets_mm, axis=-1) > 40
    degrees = np.rad2deg(np.linalg.norm(moves_mm[far], axis=-1) / np.linalg.norm(offsets_mm[far], axis=-1))
    assert 1 < degrees.max() < 5 * np.sqrt(3)


def test_a_new_dose_has_noise_in_the_body_and_none_in_air():
    ct, lesions = scan()
    ct[:, :20] = -1000.0
    found = make_pair(ct, lesions, SPACING, np.random.default_rng(0), **STILL)
    assert (found.followup_ct[:, :20] == -1000.0).all()
    assert 4 < found.followup_ct[:, 20:].std() < 12


def test_each_lesion_has_one_new_attenuation_and_tissue_keeps_its_own():
    ct, lesions = scan(ball(7.0, (15, 12, 12)), ball(7.0, (15, 36, 36)))
    before = ct.copy()
    courses._brighten_lesions(ct, lesions, np.random.default_rng(0))
    assert np.array_equal(ct[lesions == 0], before[lesions == 0])
    (one,), (other,) = (np.unique(ct[lesions == number]) for number in (1, 2))
    assert len({float(one), float(other), 100.0}) == 3
