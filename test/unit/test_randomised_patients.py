"""Patients whose organs have shapes and uptake that are not found in people."""

import numpy as np
import pytest
from scipy import ndimage

from lesionclick.images import Grid
from lesionclick.simulation.atlas import VOXEL_MM, load_organ, smooth_organ
from lesionclick.simulation.canvas import ORGANS, Build, Canvas
from lesionclick.simulation.patients import make_patient
from lesionclick.simulation.uptake import TISSUES, draw_uptake

BUILD = Build("male", 1.0, 1.0, 15.0, "out", True)
SEEDS = range(60)


def canvas_of(*organs, size=16):
    """Slabs of the organs, one above the other, in a cube of 64 mm."""
    canvas = Canvas(Grid((size,) * 3, (4.0,) * 3), BUILD, 300.0, np.random.default_rng(0))
    for slab, organ in zip(np.array_split(np.arange(size), len(organs)), organs, strict=True):
        canvas.organs[slab] = ORGANS[organ]
    return canvas


def uptake_in(organs, seed, tracer="fdg", *, randomised=True):
    """HU and SUV of each of the organs, means over its voxels."""
    canvas = canvas_of(*organs)
    hu, suv = draw_uptake(canvas, tracer, np.random.default_rng(seed), contrast_agent=False, randomised=randomised)
    return [(hu[inside].mean(), suv[inside].mean()) for inside in (canvas.organs == ORGANS[name] for name in organs)]


def filled(organ):
    return organ.full >= 0.5


def surface(organ):
    inside = filled(organ)
    return (inside & ~ndimage.binary_erosion(inside)).sum()


def match_with_ellipsoid(organ):
    """Return the Dice of an organ and the ellipsoid of its centre, moments and volume."""
    places = np.argwhere(filled(organ)) * VOXEL_MM
    offsets = np.moveaxis(np.indices(organ.full.shape), 0, -1) * VOXEL_MM - places.mean(axis=0)
    level = np.einsum("...i,ij,...j", offsets, np.linalg.inv(np.cov(places.T)), offsets)
    ellipsoid = level <= np.partition(level.ravel(), len(places))[len(places)]
    return 2 * (ellipsoid & filled(organ)).sum() / (ellipsoid.sum() + len(places))


@pytest.mark.parametrize("name", ["liver", "kidney_left", "colon", "bladder"])
@pytest.mark.parametrize("mm", [2.0, 8.0, 15.0])
def test_a_smoothed_organ_keeps_its_volume_and_its_place(name, mm):
    organ = load_organ("male", name)
    smooth = smooth_organ(organ, mm)
    assert filled(smooth).sum() * VOXEL_MM**3 / 1000 == pytest.approx(organ.ml, rel=0.01)
    centre = np.argwhere(filled(smooth)).mean(axis=0) * VOXEL_MM + smooth.origin
    np.testing.assert_allclose(centre, organ.centre, atol=6.0)


def test_the_more_a_kidney_is_smoothed_the_more_it_is_an_ellipsoid():
    kidney = load_organ("male", "kidney_left")
    steps = [kidney, smooth_organ(kidney, 5.0), smooth_organ(kidney, 15.0)]
    assert surface(steps[0]) > surface(steps[1]) > surface(steps[2])
    matches = [match_with_ellipsoid(step) for step in steps]
    assert matches[0] < matches[1] < matches[2]
    assert matches[2] > 0.9


@pytest.mark.parametrize("tracer", ["fdg", "psma"])
def test_uptake_of_a_randomised_patient_leaves_the_published_range_to_either_side(tracer):
    low, high = getattr(TISSUES["liver"], tracer)
    drawn = np.array([uptake_in(["liver"], seed, tracer)[0][1] for seed in SEEDS])
    usual = np.array([uptake_in(["liver"], seed, tracer, randomised=False)[0][1] for seed in SEEDS])
    assert (drawn < 0.85 * low).sum() >= 2
    assert (drawn > 1.15 * high).sum() >= 2
    assert ((usual > 0.85 * low) & (usual < 1.15 * high)).all()


def test_parts_of_an_organ_look_alike_in_half_of_the_randomised_patients():
    parts = ["kidney_cortex", "kidney_medulla", "kidney_pelvis"]
    hus = np.array([[hu for hu, _ in uptake_in(parts, seed)] for seed in SEEDS])
    alike = np.ptp(hus, axis=1) < 1e-3
    assert 0.3 < alike.mean() < 0.7


def test_half_of_the_fat_of_a_randomised_patient_is_as_dense_as_muscle():
    canvas = canvas_of("fat", "muscle", size=60)
    hu, _ = draw_uptake(canvas, "fdg", np.random.default_rng(1), contrast_agent=False, randomised=True)
    fat, muscle = (hu[canvas.organs == ORGANS[name]] for name in ("fat", "muscle"))
    assert 0.2 < (np.abs(fat - muscle.mean()) < 1).mean() < 0.8
    assert np.quantile(fat, 0.05) < -80


def test_a_randomised_patient_is_another_one_by_the_same_seed_and_has_all_organs():
    settings = {"spacing_xyz": (6.0, 6.0, 6.0), "lesions": 4, "field_of_view": (0.0, 1.02)}
    usual, first, second = (make_patient(3, "psma", randomised=r, **settings) for r in (False, True, True))
    np.testing.assert_array_equal(first.pet.array, second.pet.array)
    assert (first.organs.array != usual.organs.array).any()
    for name in ("liver", "kidney_cortex", "bladder", "spleen", "lung", "myocardium"):
        assert (first.organs.array == ORGANS[name]).any(), name
    assert first.label.array.any()
