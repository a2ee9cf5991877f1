"""Our resampling against nnU-Net's, on noise and on channels that hold a few clicks."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape
from nnunetv2.preprocessing.resampling.resample_torch import resample_torch_fornnunet
from numpy.typing import NDArray

from lesionclick.network.resampling import TOLERANCE, Resampling, Splines, find_resampling, resample_trilinearly

ISOTROPIC = (2.0, 2.0, 2.0)
THICK = (6.5, 1.75, 1.75)


def assert_equal(data: NDArray[np.float32], shape: tuple[int, ...], spacing: tuple[float, ...], **options: Any) -> None:
    """Compare the two; the spacing after is isotropic."""
    options = {"order": 3, "order_z": 0, "force_separate_z": False, **options}
    expected = resample_data_or_seg_to_shape(data, shape, spacing, ISOTROPIC, is_seg=False, **options)
    found = resample(Splines(**options), data, shape, spacing).numpy()
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * max(float(np.ptp(data)), 1e-3))


def resample(
    resampling: Resampling, data: NDArray[np.float32], shape: tuple[int, ...], spacing: tuple[float, ...]
) -> torch.Tensor:
    return torch.stack([resampling(torch.from_numpy(channel), shape, spacing, ISOTROPIC) for channel in data])


def noise(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_thick_slices_after_count_as_well_as_before() -> None:
    data, options = noise(1, 29, 20, 18), {"order": 3, "order_z": 0, "force_separate_z": None}
    expected = resample_data_or_seg_to_shape(data, (9, 23, 21), ISOTROPIC, THICK, is_seg=False, **options)
    found = Splines(**options)(torch.from_numpy(data[0]), (9, 23, 21), ISOTROPIC, THICK).numpy()
    np.testing.assert_allclose(found, expected[0], rtol=0, atol=TOLERANCE * float(np.ptp(data)))


@pytest.mark.parametrize(
    ("shape", "new", "spacing", "options"),
    [
        pytest.param((2, 12, 18, 15), (19, 13, 24), ISOTROPIC, {}, id="larger and smaller"),
        pytest.param((1, 12, 18, 15), (19, 13, 24), ISOTROPIC, {"order": 1}, id="linear"),
        pytest.param((1, 9, 20, 18), (14, 29, 13), THICK, {"force_separate_z": None}, id="thick slices"),
        pytest.param((1, 9, 20, 18), (14, 29, 13), THICK, {}, id="thick slices, not apart"),
        pytest.param((1, 9, 20, 18), (14, 29, 13), THICK, {"force_separate_z": True, "order_z": 1}, id="linear"),
        pytest.param((1, 20, 9, 18), (13, 14, 29), (1.75, 6.5, 1.75), {"force_separate_z": None}, id="thick along y"),
        pytest.param((1, 20, 18, 9), (13, 29, 14), (1.75, 1.75, 6.5), {"force_separate_z": None}, id="thick along x"),
        pytest.param((1, 9, 20, 18), (4, 20, 18), THICK, {"force_separate_z": True}, id="thick slices alone"),
        pytest.param((1, 9, 9, 18), (14, 13, 29), (6.5, 6.5, 1.75), {"force_separate_z": None}, id="two thick axes"),
        pytest.param((1, 9, 9, 18), (14, 13, 29), (6.5, 6.5, 1.75), {"force_separate_z": True}, id="of two none"),
        pytest.param((1, 9, 20, 18), (14, 29, 13), (6.0, 2.0, 2.0), {"force_separate_z": None}, id="not thick yet"),
        pytest.param((1, 1, 20, 18), (1, 29, 13), ISOTROPIC, {}, id="one slice"),
        pytest.param((1, 12, 18, 15), (12, 18, 15), ISOTROPIC, {}, id="the same size"),
        pytest.param((1, 12, 18, 15), (12, 18, 24), ISOTROPIC, {}, id="one axis alone"),
    ],
)
def test_it_equals_nnunets(
    shape: tuple[int, ...], new: tuple[int, ...], spacing: tuple[float, ...], options: dict[str, Any]
) -> None:
    assert_equal(noise(*shape), new, spacing, **options)


@settings(max_examples=30, deadline=None)
@given(
    old=st.tuples(*[st.integers(1, 14)] * 3),
    new=st.tuples(*[st.integers(1, 18)] * 3),
    order=st.sampled_from([1, 3]),
    apart=st.sampled_from([True, False, None]),
)
def test_it_equals_nnunets_at_any_size(
    old: tuple[int, int, int], new: tuple[int, int, int], order: int, apart: bool | None
) -> None:
    assert_equal(noise(1, *old), new, THICK, order=order, force_separate_z=apart)


@pytest.mark.parametrize("options", [{}, {"order": 1}, {"force_separate_z": True}], ids=str)
@pytest.mark.parametrize("background", [0.0, -0.7])
def test_channels_of_a_few_clicks_equal_nnunets(options: dict[str, Any], background: float) -> None:
    data = np.zeros((4, 20, 24, 30), dtype=np.float32)
    data[1, 8, 9, 20] = 1.0
    data[1, 12, 15, 3] = 0.5
    data[2] = 3.25  # one value throughout
    data[3, 0, 23, 29] = 1.0
    assert_equal(data + np.float32(background), (33, 17, 40), THICK, **options)


def test_a_mirrored_image_gives_the_mirrored_result() -> None:
    data = noise(1, 12, 18, 15)
    plain = resample(Splines(), data, (19, 13, 24), ISOTROPIC)
    flipped = resample(Splines(), np.ascontiguousarray(data[:, ::-1, ::-1, ::-1]), (19, 13, 24), ISOTROPIC)
    np.testing.assert_allclose(flipped.flip(1, 2, 3).numpy(), plain.numpy(), atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(old=st.tuples(*[st.integers(1, 40)] * 3), new=st.tuples(*[st.integers(1, 50)] * 3))
def test_the_trilinear_one_equals_nnunets(old: tuple[int, int, int], new: tuple[int, int, int]) -> None:
    data = noise(1, *old)
    expected = resample_torch_fornnunet(data, new, THICK, ISOTROPIC, force_separate_z=False)
    found = resample(resample_trilinearly, data, new, THICK).numpy()
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE * max(float(np.ptp(data)), 1e-3))


@pytest.mark.parametrize(
    "resampling",
    [Splines(), Splines(order=1), Splines(force_separate_z=True), resample_trilinearly],
    ids=lambda resampling: getattr(resampling, "__name__", str(resampling)),
)
@pytest.mark.parametrize("filled", [slice(None), slice(6, 9)], ids=["noise", "a box"])
def test_a_window_is_that_part_of_the_whole(resampling: Resampling, filled: slice) -> None:
    channel = torch.zeros(12, 18, 15)
    channel[:, filled, filled] = torch.from_numpy(noise(12, 18, 15))[:, filled, filled]
    whole = resampling(channel, (19, 13, 24), THICK, ISOTROPIC)
    for window in [(slice(3, 9), slice(0, 5), slice(20, 24)), (slice(0, 19), slice(12, 13), slice(0, 1))]:
        part = resampling(channel, (19, 13, 24), THICK, ISOTROPIC, window=window)
        exact = resampling is resample_trilinearly
        torch.testing.assert_close(part, whole[window], rtol=0, atol=0 if exact else 1e-5)


def test_what_is_asked_for_in_other_words_is_left_to_nnunet() -> None:
    assert find_resampling("resample_data_or_seg_to_shape", {"is_seg": False, "order": 1}) == Splines(order=1)
    assert find_resampling("resample_torch_fornnunet", {"force_separate_z": False}) is resample_trilinearly
    assert find_resampling("resample_torch_fornnunet", {}) is None  # thick slices are treated apart
    assert find_resampling("resample_data_or_seg_to_shape", {"order": 2}) is None
    assert find_resampling("resample_data_or_seg_to_shape", {"is_seg": True}) is None
    assert find_resampling("of_my_own", {}) is None
