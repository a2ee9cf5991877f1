import numpy as np
import pytest
from scipy import ndimage

from lesionclick.petct.rules import RulesActed, apply_rules
from lesionclick.prompts.points import BACKGROUND, TUMOR, Point, Prompts

SPACING = (3.0, 4.0, 4.0)
OUTSIDE = [[0, n, 0] for n in range(5)]
"""Background clicks where the network sees no lesion; the challenge has as many of them as tumour clicks."""


def _apply(lesion_logit, tumor_zyx=(), background_zyx=(), rules="clicks"):
    prompts = Prompts.from_indices(tumor_zyx=tumor_zyx, background_zyx=background_zyx)
    return apply_rules(lesion_logit, prompts, SPACING, rules)


def _ball(shape=(24, 24, 24), centre=(12, 12, 12), radius_mm=24.0):
    """Logits that fall linearly from the centre and are zero at the radius; 1 per 6 mm."""
    z, y, x = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    distance = np.sqrt(sum(((a - c) * s) ** 2 for a, c, s in zip((z, y, x), centre, SPACING, strict=True)))
    return ((radius_mm - distance) / 6).astype(np.float32)


@pytest.mark.parametrize("rules", ["clicks", "challenge"])
def test_clicks_that_agree_change_nothing(rules):
    logit = _ball()
    mask, acted = _apply(logit, [[12, 12, 12]], [[2, 2, 2]], rules)
    np.testing.assert_array_equal(mask, logit > 0)
    assert acted == RulesActed(tumor=1, background=1)


@pytest.mark.parametrize("rules", ["none", "clicks", "challenge"])
def test_no_click_is_a_threshold_at_zero(rules):
    logit = _ball()
    logit[0, 0, :3] = 0.0, 1e-6, -1e-6
    mask, acted = _apply(logit, rules=rules)
    np.testing.assert_array_equal(mask, logit > 0)
    assert mask[0, 0, :3].tolist() == [False, True, False]
    assert acted == RulesActed()


@pytest.mark.parametrize("seed", range(3))
def test_without_rules_the_mask_is_the_networks_whatever_is_clicked(seed):
    rng = np.random.default_rng(seed)
    logit = rng.normal(size=(10, 10, 10)).astype(np.float32)
    tumor, background = rng.integers(0, 10, (8, 3)), rng.integers(0, 10, (5, 3))
    mask, acted = _apply(logit, tumor, background, "none")
    np.testing.assert_array_equal(mask, logit > 0)
    assert mask.dtype == bool
    assert acted == RulesActed(tumor=8, background=5)
    assert not np.array_equal(_apply(logit, tumor, background, "clicks")[0], mask)


@pytest.mark.parametrize("rules", ["none", "clicks", "challenge"])
def test_logits_stay_as_they_were(rules):
    logit = _ball()
    before = logit.copy()
    _apply(logit, [[12, 12, 19], [12, 12, 12]], [[12, 12, 10]], rules)
    np.testing.assert_array_equal(logit, before)


def test_a_missed_tumour_click_grows_the_mask_towards_it():
    logit = _ball()
    mask, acted = _apply(logit, [[12, 12, 19]])  # 28 mm from the centre, 4 mm outside
    before = logit > 0
    assert acted == RulesActed(tumor=1, corrected_tumor=1)
    assert mask[12, 12, 19]
    assert (mask & before).sum() == before.sum()
    grown = mask & ~before
    assert grown[12, 12, 18:20].any()
    assert not grown[:, :, :6].any()


def test_a_wrong_background_click_shrinks_the_mask_around_it():
    logit = _ball()
    mask, acted = _apply(logit, background_zyx=[[12, 12, 17]])
    assert acted == RulesActed(background=1, corrected_background=1)
    assert not mask[12, 12, 17]
    assert mask[12, 12, 10]
    assert 0 < mask.sum() < (logit > 0).sum()


@pytest.mark.parametrize("away", [1, 2, 3, 4])
def test_a_click_that_agrees_makes_no_correction_beside_it_larger(away):
    """Nothing is found where a lesion is clicked; a background click lies 4 to 16 mm from it, where it is right."""
    logit = np.full((25, 41, 41), -10.0, dtype=np.float32)
    alone = _apply(logit, [[12, 20, 20]])[0]
    beside, acted = _apply(logit, [[12, 20, 20]], [[12, 20, 20 + away]])
    assert (acted.corrected_tumor, acted.corrected_background) == (1, 0)
    assert beside[12, 20, 20]
    assert not beside[12, 20, 20 + away]
    assert beside.sum() <= 1.2 * alone.sum()
    far = np.argwhere(beside) - [12, 20, 20]
    assert np.linalg.norm(far * SPACING, axis=1).max() <= 12.0  # LENGTH_MM


def test_a_click_that_a_correction_would_turn_over_stays_on_its_side():
    logit = _ball()
    background = [[12, 12, 18]]  # 24 mm from the centre, at the rim, where the network is not sure
    logit[12, 12, 18] = -0.1
    mask, acted = _apply(logit, [[12, 12, 19]], background)
    assert acted == RulesActed(1, 1, 1, 0)
    assert mask[12, 12, 19]
    assert not mask[12, 12, 18]


def test_a_correction_is_round_in_mm():
    mask, _ = _apply(np.full((24, 24, 24), -0.5, dtype=np.float32), [[12, 12, 12]])
    # 1.5 / 1.01 * exp(-(d / 12)**2 / 2) is 0.5 at 17.7 mm: five voxels of 3 mm, four of 4 mm to each side
    assert [int(line.sum()) for line in (mask[:, 12, 12], mask[12, :, 12], mask[12, 12, :])] == [11, 9, 9]


def test_a_tumour_click_on_a_logit_of_zero_counts():
    assert _apply(np.zeros((8, 8, 8), dtype=np.float32), [[4, 4, 4]])[0][4, 4, 4]


def test_a_background_click_on_a_logit_of_zero_agrees():
    logit = np.full((8, 8, 8), -3.0, dtype=np.float32)
    logit[4, 4, 4:6] = 0.0, 0.5
    mask, acted = _apply(logit, background_zyx=[[4, 4, 4]])
    assert acted.corrected_background == 0
    assert np.argwhere(mask).tolist() == [[4, 4, 5]]


def test_components_that_touch_at_a_corner_are_one():
    logit = np.full((10, 10, 30), -1.0, dtype=np.float32)
    logit[2:8, 2:8, 2:12] = logit[8, 8, 12] = logit[4:6, 4:6, 20:22] = 1.0
    mask, acted = _apply(logit, [[4, 4, 6], [2, 2, 2], [7, 7, 11]], OUTSIDE[:3], "challenge")
    assert mask[8, 8, 12]
    assert acted.removed == 1


def test_the_correction_is_the_same_for_a_mirrored_case():
    rng = np.random.default_rng(0)
    logit = rng.normal(size=(14, 15, 16)).astype(np.float32)
    tumor, background = rng.integers(0, 14, (4, 3)), rng.integers(0, 14, (3, 3))
    last = np.array(logit.shape) - 1
    plain, _ = _apply(logit, tumor, background)
    flipped, _ = _apply(logit[::-1, ::-1, ::-1], last - tumor, last - background)
    np.testing.assert_array_equal(flipped[::-1, ::-1, ::-1], plain)


@pytest.mark.parametrize("seed", range(5))
def test_every_click_is_respected_however_much_it_contradicts(seed):
    rng = np.random.default_rng(seed)
    logit = (20 * rng.normal(size=(10, 10, 10))).astype(np.float32)
    points = rng.permutation(1000)[:20]
    tumor, background = np.stack(np.unravel_index(points, logit.shape), axis=1).reshape(2, 10, 3)
    mask, acted = _apply(logit, tumor, background)
    assert mask[tuple(tumor.T)].all()
    assert not mask[tuple(background.T)].any()
    assert (acted.tumor, acted.background) == (10, 10)
    assert acted.corrected_tumor == (logit[tuple(tumor.T)] <= 0).sum()
    assert acted.corrected_background == (logit[tuple(background.T)] >= 0).sum()


def test_repeated_and_contradicting_clicks_are_settled():
    logit = np.full((8, 8, 8), -3.0, dtype=np.float32)
    mask, _ = _apply(logit, [[4, 4, 4]] * 3, [[4, 4, 4]])
    assert mask[4, 4, 4]


def test_points_of_a_stroke_count_as_clicks_do():
    logit = _ball()
    kinds = (TUMOR, BACKGROUND, TUMOR)
    points = [Point(kind, (19.0 - 2 * n, 12.0, 12.0)) for n, kind in enumerate(kinds)]
    drawn = [Point(point.kind, point.point_xyz, 3) for point in points]
    clicked, drawn = (apply_rules(logit, Prompts(tuple(one)), SPACING, "clicks") for one in (points, drawn))
    np.testing.assert_array_equal(drawn[0], clicked[0])
    assert drawn[1] == clicked[1] == RulesActed(2, 1, 1, 1)


def test_clicks_at_corners_stay_inside():
    logit = np.full((8, 8, 8), -1.0, dtype=np.float32)
    mask, _ = _apply(logit, [[0, 0, 0], [7, 7, 7]])
    assert mask[0, 0, 0]
    assert mask[7, 7, 7]


@pytest.mark.parametrize("rules", ["clicks", "challenge"])
def test_a_further_click_inside_the_mask_leaves_it_as_it_is(rules):
    logit = 2 * _ball()
    mask, acted = _apply(logit, [[12, 12, 12], [12, 12, 15]], OUTSIDE[:2], rules)
    np.testing.assert_array_equal(mask, logit > 0)
    assert acted == RulesActed(tumor=2, background=2)


def _two_lesions():
    """A large component on the left, which has the clicks, and a small one on the right."""
    logit = np.full((10, 10, 30), -1.0, dtype=np.float32)
    logit[2:8, 2:8, 2:12] = logit[4:6, 4:6, 20:22] = 1.0
    return logit


@pytest.mark.parametrize(("clicks", "removed"), [(2, 0), (3, 1), (4, 1)])
def test_a_second_round_of_clicks_tells_that_all_lesions_are_marked(clicks, removed):
    logit = _two_lesions()
    points = [[4, 4, 6], [2, 2, 2], [7, 7, 11], [7, 2, 5]][:clicks]
    mask, acted = _apply(logit, points, OUTSIDE[:clicks], "challenge")
    assert acted.removed == removed
    assert mask[4, 4, 20] == (not removed)
    assert mask[2:8, 2:8, 2:12].all()
    mask, acted = _apply(logit, points, rules="clicks")
    assert acted.removed == 0
    assert mask[4, 4, 20]


def test_first_clicks_and_repeated_ones_do_not_tell_that_all_lesions_are_marked():
    logit = _two_lesions()
    logit[0, 0, 28] = 1.0
    once_each = [[4, 4, 6], [4, 4, 20]]
    for points in (once_each, once_each[:1] * 5):
        assert _apply(logit, points, OUTSIDE[: len(points)], "challenge")[0][0, 0, 28]


def test_with_more_clicks_of_one_kind_than_of_the_other_they_are_not_the_challenges():
    logit = _two_lesions()
    points = [[4, 4, 6], [2, 2, 2], [7, 7, 11], [7, 2, 5]]
    assert _apply(logit, points, OUTSIDE[:4], "challenge")[1].removed == 1
    for background in (OUTSIDE[:3], OUTSIDE[:5], []):
        assert _apply(logit, points, background, "challenge")[1].removed == 0


@pytest.mark.parametrize(("clicks", "empty"), [(5, False), (6, True), (10, True)])
def test_background_clicks_alone_tell_that_there_is_no_lesion(clicks, empty):
    logit = np.maximum(_ball(centre=(6, 6, 6), radius_mm=10), _ball(centre=(18, 18, 18), radius_mm=10))
    apart = [[0, 2 * n, 23] for n in range(clicks)]  # 8 mm apart and a little more along z in turn
    apart = [[z + n % 2, y, x] for n, (z, y, x) in enumerate(apart)]
    mask, acted = _apply(logit, background_zyx=apart, rules="challenge")
    assert mask.any() != empty
    assert acted == RulesActed(background=clicks, removed=2 * empty)
    for rules in ("clicks", "none"):
        assert np.array_equal(_apply(logit, background_zyx=apart, rules=rules)[0], logit > 0)


def test_background_clicks_beside_a_tumour_click_do_not_tell_that_there_is_none():
    logit = _ball()
    apart = [[n % 2, 2 * n, 23] for n in range(8)]
    assert np.array_equal(_apply(logit, [[12, 12, 12]], apart, "challenge")[0], logit > 0)


def test_background_strokes_do_not_tell_that_there_is_no_lesion():
    """Five strokes, which is what autoPET V shows at most, of one to twelve points that hang together."""
    logit = _ball()
    lengths = (1, 2, 5, 9, 12)
    strokes = [[0, 4 * number, x] for number, length in enumerate(lengths) for x in range(length)]
    assert np.array_equal(_apply(logit, background_zyx=strokes, rules="challenge")[0], logit > 0)


def test_strokes_do_not_tell_that_all_lesions_are_marked():
    logit = 4 * _two_lesions()
    stroke = [[4, 4, x] for x in range(2, 8)] + [[4, 5, x] for x in range(7, 12)]
    background = [[0, 9, x] for x in range(11)]
    assert _apply(logit, stroke[:10], background[:10], "challenge")[1].removed == 1  # ten are clicks
    mask, acted = _apply(logit, stroke, background, "challenge")
    np.testing.assert_array_equal(mask, logit > 0)
    assert acted == RulesActed(tumor=11, background=11)


def test_lesions_with_a_stroke_are_marked_when_clicks_say_that_all_are():
    logit = np.full((10, 10, 60), -1.0, dtype=np.float32)
    logit[2:8, 2:8, 2:12] = logit[4, 4, 20:32] = logit[4, 4, 50] = 1.0
    clicks, stroke = [[4, 4, 6], [2, 2, 2], [7, 7, 11]], [[4, 4, x] for x in range(20, 32)]
    mask, acted = _apply(logit, clicks + stroke, [[0, 0, x] for x in range(45, 60)], "challenge")
    assert acted.removed == 1
    assert mask[4, 4, 20:32].all()
    assert not mask[4, 4, 50]


def test_four_hundred_points_have_the_last_word():
    rng = np.random.default_rng(0)
    logit = (10 * rng.normal(size=(40, 60, 60))).astype(np.float32)
    rows = np.array([[z, 10 + n, 5 + n] for z in (4, 12, 20, 28) for n in range(50)])
    tumor, background = rows, rows + np.array([0, 0, 4])
    mask, acted = _apply(logit, tumor, background, "challenge")
    assert mask[tuple(tumor.T)].all()
    assert not mask[tuple(background.T)].any()
    assert (acted.tumor, acted.background, acted.removed) == (200, 200, 0)


def test_what_was_done_is_told_in_a_line():
    told = str(RulesActed(tumor=7, background=5, corrected_tumor=3, corrected_background=2, removed=4))
    assert [int(word) for word in told.replace(",", " ").split() if word.isdigit()] == [3, 7, 2, 5, 4]


def test_what_is_wanted_of_the_mask_is_the_same_without_the_rest():
    rng = np.random.default_rng(0)
    logit = ndimage.gaussian_filter(rng.normal(size=(60, 70, 80)), 4).astype(np.float32)
    places = rng.integers(0, (60, 70, 80), (12, 3))
    prompts = Prompts.from_indices(tumor_zyx=places[:6], background_zyx=places[6:])
    whole, acted = apply_rules(logit, prompts, SPACING, "clicks")
    wanted = [(slice(0, 9), slice(20, 50), slice(60, 80)), (slice(30, 60), slice(0, 12), slice(0, 20))]
    part, acted_too = apply_rules(logit, prompts, SPACING, "clicks", within=wanted)
    assert acted == acted_too
    for window in wanted:
        assert 0 < whole[window].mean() < 1
        np.testing.assert_array_equal(part[window], whole[window])
    with pytest.raises(ValueError, match="challenge"):
        apply_rules(logit, prompts, SPACING, "challenge", within=wanted)


def test_points_far_apart_are_corrected_each_in_its_place():
    logit = np.full((40, 40, 300), -5.0, dtype=np.float32)
    near, far = [20, 20, 30], [20, 20, 269]  # 956 mm apart
    both = _apply(logit, [near, far])[0]
    np.testing.assert_array_equal(both, _apply(logit, [near])[0] | _apply(logit, [far])[0])
    np.testing.assert_array_equal(both, both[:, :, ::-1])
    assert both.any()


@pytest.mark.parametrize(("value", "lesion"), [(-2.72, True), (-2.74, False)])
def test_a_correction_between_points_has_the_value_worked_out(value, lesion):
    """Points 12 mm apart have a covariance of k = exp(-1/2) and a variance of 1.01; the first is wrong, by 5.

    The weights are w = 5 / (1.01 - k**2 / 1.01) = 7.743 and -w k / 1.01 = -4.650. In the middle, 6 mm from both, their
    sum times exp(-1/8) is added, 2.730.
    """
    logit = np.full((1, 1, 40), -9.0, dtype=np.float32)
    logit[0, 0, [10, 11, 12]] = -4.0, value, 1.0
    prompts = Prompts.from_indices(tumor_zyx=[[0, 0, 10], [0, 0, 12]])
    assert apply_rules(logit, prompts, (6.0, 6.0, 6.0), "clicks")[0][0, 0, 11] == lesion


def test_a_correction_ends_at_four_standard_deviations_on_both_sides():
    """A click that is wrong by 101 has a weight of 100, and adds 100 exp(-8) = 0.0335 at 48 mm."""
    logit = np.full((1, 1, 60), -1e-4, dtype=np.float32)
    logit[0, 0, 30] = -100.0
    mask, _ = apply_rules(logit, Prompts.from_indices(tumor_zyx=[[0, 0, 30]]), (4.0, 4.0, 4.0), "clicks")
    assert np.flatnonzero(mask).tolist() == list(range(18, 43))


def test_a_logit_of_zero_that_no_correction_reaches_is_no_lesion():
    """The boxes around two clicks are joined, and in a corner of both together neither click corrects anything."""
    logit = np.zeros((1, 40, 40), dtype=np.float32)
    logit[0, 5, 5] = -1.0
    prompts = Prompts.from_indices(tumor_zyx=[[0, 5, 5]], background_zyx=[[0, 12, 12]])
    mask, _ = apply_rules(logit, prompts, (12.0, 12.0, 12.0), "clicks")
    assert mask[0, 5, 9]
    assert not mask[0, 1, 16]
    assert not mask[0, 16, 1]


def test_where_there_is_no_lesion_what_touches_at_a_corner_is_removed_as_one():
    logit = np.full((4, 4, 28), -1.0, dtype=np.float32)
    logit[1, 1, 1] = logit[2, 2, 2] = 1.0
    clicks = [[0, 0, 4 * n] for n in range(1, 7)]
    mask, acted = apply_rules(logit, Prompts.from_indices(background_zyx=clicks), SPACING, "challenge")
    assert not mask.any()
    assert acted.removed == 1
