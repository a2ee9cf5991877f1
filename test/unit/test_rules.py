import numpy as np
import pytest

from lesionclick.petct.rules import refine

SPACING = (3.0, 4.0, 4.0)
NO_CLICK = np.empty((0, 3), dtype=np.int64)


def _ball(shape=(24, 24, 24), centre=(12, 12, 12), radius_mm=24.0):
    """Logits that fall linearly from the centre and are zero at the radius; 1 per 6 mm."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    distance = np.sqrt(sum(((a - c) * s) ** 2 for a, c, s in zip((z, y, x), centre, SPACING, strict=True)))
    return ((radius_mm - distance) / 6).astype(np.float32)


def test_clicks_that_agree_change_nothing():
    margin = _ball()
    refined = refine(margin, np.array([[12, 12, 12], [12, 12, 16]]), np.array([[2, 2, 2]]), SPACING)
    np.testing.assert_array_equal(refined.mask, margin > 0)
    assert (refined.corrected_tumor, refined.corrected_background) == (0, 0)


def test_no_click_is_a_threshold_at_zero():
    margin = _ball()
    np.testing.assert_array_equal(refine(margin, NO_CLICK, NO_CLICK, SPACING).mask, margin > 0)


def test_a_missed_tumour_click_grows_the_mask_towards_it():
    margin = _ball()
    click = np.array([[12, 12, 19]])  # 28 mm from the centre, 4 mm outside
    refined = refine(margin, click, NO_CLICK, SPACING)
    before = margin > 0
    assert refined.corrected_tumor == 1
    assert refined.mask[12, 12, 19]
    assert (refined.mask & before).sum() == before.sum()
    grown = refined.mask & ~before
    assert grown[12, 12, 18:20].any()
    assert not grown[:, :, :6].any()


def test_a_wrong_background_click_shrinks_the_mask_around_it():
    margin = _ball()
    click = np.array([[12, 12, 17]])
    refined = refine(margin, NO_CLICK, click, SPACING)
    assert refined.corrected_background == 1
    assert not refined.mask[12, 12, 17]
    assert refined.mask[12, 12, 10]
    assert 0 < refined.mask.sum() < (margin > 0).sum()


def test_the_correction_is_the_same_for_a_mirrored_case():
    rng = np.random.default_rng(0)
    margin = rng.normal(size=(14, 15, 16)).astype(np.float32)
    tumor, background = rng.integers(0, 14, (4, 3)), rng.integers(0, 14, (3, 3))
    plain = refine(margin, tumor, background, SPACING)
    size = np.array(margin.shape)
    flipped = refine(margin[::-1, ::-1, ::-1], size - 1 - tumor, size - 1 - background, SPACING)
    np.testing.assert_array_equal(flipped.mask[::-1, ::-1, ::-1], plain.mask)


@pytest.mark.parametrize("seed", range(5))
def test_every_click_is_respected_however_much_it_contradicts(seed):
    rng = np.random.default_rng(seed)
    margin = (20 * rng.normal(size=(10, 10, 10))).astype(np.float32)
    points = rng.permutation(1000)[:20]
    tumor, background = np.stack(np.unravel_index(points, margin.shape), axis=1).reshape(2, 10, 3)
    refined = refine(margin, tumor, background, SPACING)
    assert refined.mask[tuple(tumor.T)].all()
    assert not refined.mask[tuple(background.T)].any()
    assert refined.corrected_tumor == (margin[tuple(tumor.T)] <= 0).sum()
    assert refined.corrected_background == (margin[tuple(background.T)] >= 0).sum()


def test_repeated_and_contradicting_clicks_are_settled():
    margin = np.full((8, 8, 8), -3.0, dtype=np.float32)
    click = np.array([[4, 4, 4]])
    refined = refine(margin, np.repeat(click, 3, axis=0), click, SPACING)
    assert refined.mask[4, 4, 4]


def test_clicks_at_corners_stay_inside():
    margin = np.full((8, 8, 8), -1.0, dtype=np.float32)
    corners = np.array([[0, 0, 0], [7, 7, 7]])
    assert refine(margin, corners, NO_CLICK, SPACING).mask[tuple(corners.T)].all()


def test_a_further_click_deep_in_the_mask_draws_the_rim_towards_it():
    margin = 2 * _ball((28, 24, 24), (14, 12, 12), 40.0)  # logit 5.3 at 24 mm from the centre
    centre, further = [14, 12, 12], [14, 12, 18]  # 24 mm apart
    refined = refine(margin, np.array([centre, further]), NO_CLICK, SPACING, by_procedure=True)
    before = margin > 0
    assert refined.mask[tuple(centre)]
    assert refined.mask[tuple(further)]
    assert (before & ~refined.mask)[:, :, 18:].any()
    assert not (before & ~refined.mask)[:, :, :12].any()
    assert (refined.mask & ~before).sum() < 0.2 * (before & ~refined.mask).sum()
    assert (refined.corrected_tumor, refined.corrected_background) == (0, 0)


def test_only_further_clicks_of_the_procedure_are_rims():
    margin = 2 * _ball()
    points = np.array([[12, 12, 12], [12, 12, 15]])
    np.testing.assert_array_equal(refine(margin, points, NO_CLICK, SPACING).mask, margin > 0)
    np.testing.assert_array_equal(refine(margin, points[:1], NO_CLICK, SPACING, by_procedure=True).mask, margin > 0)
    again = np.repeat(points[:1], 2, axis=0)  # the centre, clicked twice
    np.testing.assert_array_equal(refine(margin, again, NO_CLICK, SPACING, by_procedure=True).mask, margin > 0)


def _two_lesions():
    """A large component on the left, which has the clicks, and a small one on the right."""
    margin = np.full((10, 10, 30), -1.0, dtype=np.float32)
    margin[2:8, 2:8, 2:12] = margin[4:6, 4:6, 20:22] = 1.0
    return margin


@pytest.mark.parametrize(("clicks", "removed"), [(2, 0), (3, 1), (4, 1)])
def test_a_second_round_of_clicks_tells_that_all_lesions_are_marked(clicks, removed):
    margin = _two_lesions()
    points = np.array([[4, 4, 6], [2, 2, 2], [7, 7, 11], [7, 2, 5]])[:clicks]
    refined = refine(margin, points, NO_CLICK, SPACING, by_procedure=True)
    assert refined.removed == removed
    assert refined.mask[4, 4, 20] == (not removed)
    assert refined.mask[2:8, 2:8, 2:12].all()
    assert refine(margin, points, NO_CLICK, SPACING).mask[4, 4, 20]


def test_first_clicks_and_repeated_ones_do_not_tell_that_all_lesions_are_marked():
    margin = _two_lesions()
    margin[0, 0, 28] = 1.0
    once_each = np.array([[4, 4, 6], [4, 4, 20]])
    same_voxel = np.repeat(once_each[:1], 5, axis=0)
    for points in (once_each, same_voxel):
        assert refine(margin, points, NO_CLICK, SPACING, by_procedure=True).mask[0, 0, 28]
