"""Properties that hold for whatever comes: the click parser and the geometry."""

import json
import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from lesionclick.errors import InputError
from lesionclick.grand_challenge.click_files import parse_clicks, write_clicks
from lesionclick.images import Grid
from lesionclick.longitudinal.patches import Patch
from lesionclick.prompts.points import BACKGROUND, TUMOR, Point, Prompts

QUICK = settings(max_examples=60, deadline=None)

numbers = st.floats(-1e6, 1e6) | st.integers(-(10**6), 10**6)


def some_prompts(strokes: st.SearchStrategy[int | None]) -> st.SearchStrategy[Prompts]:
    point = st.builds(Point, st.sampled_from([TUMOR, BACKGROUND]), st.tuples(*[st.floats(-1e6, 1e6)] * 3), strokes)
    return st.lists(point, max_size=25).map(lambda points: Prompts(tuple(points)))


clicks = some_prompts(st.none())
prompts = some_prompts(st.none() | st.integers(0, 5))
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
points = st.lists(st.fixed_dictionaries({}, optional={"name": json_values, "point": json_values}) | json_values)
almost = st.fixed_dictionaries(
    {},
    optional={
        "version": st.just({"major": 1, "minor": 0}) | json_values,
        "type": st.just("Multiple points") | json_values,
        "points": points | json_values,
    },
)


def turn(angles: tuple[float, float, float]) -> np.ndarray:
    """A rotation by three angles about z, y and x."""
    (cz, cy, cx), (sz, sy, sx) = np.cos(angles), np.sin(angles)
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    return about_z @ about_y @ about_x


grids = st.builds(
    lambda size, spacing, origin, angles, flips: Grid(
        size, spacing, origin, tuple((turn(angles) * np.where(flips, -1.0, 1.0)).ravel().tolist())
    ),
    st.tuples(*[st.integers(4, 12)] * 3),
    st.tuples(*[st.floats(0.5, 5.0)] * 3),
    st.tuples(*[st.floats(-500, 500)] * 3),
    st.tuples(*[st.floats(-math.pi, math.pi)] * 3),
    st.tuples(*[st.booleans()] * 3),
)


@QUICK
@given(st.binary(max_size=200) | almost.map(json.dumps) | json_values.map(json.dumps))
def test_any_content_is_parsed_or_refused_in_one_line(content):
    try:
        parsed, refusal = parse_clicks(content, "clicks"), "refused"
    except InputError as error:
        parsed, refusal = Prompts(), str(error)
    assert len(refusal.splitlines()) == 1
    assert len(refusal) < 1000
    assert all(click.kind in (TUMOR, BACKGROUND) for click in parsed)
    assert all(math.isfinite(value) for click in parsed for value in click.point_xyz)


@QUICK
@given(clicks)
def test_what_is_written_is_read_again(tmp_path_factory, given_clicks):
    path = tmp_path_factory.mktemp("clicks") / "clicks.json"
    write_clicks(path, given_clicks)
    assert parse_clicks(path.read_bytes(), "clicks") == given_clicks


@QUICK
@given(prompts, st.integers(0, 12))
def test_a_step_shows_the_first_of_each_kind_and_later_steps_more(given_prompts, step):
    shown, more = given_prompts.at_step(step), given_prompts.at_step(step + 1)
    for kind in (TUMOR, BACKGROUND):
        assert shown.of(kind).points == given_prompts.of(kind).points[:step]
    rest = iter(more)
    assert all(point in rest for point in shown)  # in their order


@QUICK
@given(prompts, st.tuples(*[st.integers(1, 10**6)] * 3))
def test_points_on_a_grid_lie_on_whole_voxels_inside_and_stay_as_they_are(given_prompts, shape):
    kept = given_prompts.on_grid(shape)
    indices = kept.indices_zyx()
    assert np.array_equal(indices, np.rint(indices))
    assert ((indices >= 0) & (indices < shape)).all()
    assert kept.on_grid(shape) == kept
    rest = iter(given_prompts)
    for point in kept:  # of these points, in their order
        assert any(
            (point.kind, point.stroke) == (other.kind, other.stroke)
            and np.abs(np.subtract(point.point_xyz, other.point_xyz)).max() <= 0.5
            for other in rest
        )


@QUICK
@given(grids, arrays(np.float64, (5, 3), elements=st.floats(-100, 100)))
def test_places_and_indices_turn_into_each_other(grid, points_xyz):
    np.testing.assert_allclose(grid.to_index(grid.to_physical(points_xyz)), points_xyz, atol=1e-6)


@QUICK
@given(grids, st.floats(1.0, 4.0), st.data())
def test_a_linear_image_is_the_same_in_every_patch(grid, voxel_mm, data):
    """An image of the distance along an axis of the patient is seen as that, whatever grid it is stored on."""
    axis = data.draw(st.integers(0, 2))
    zyx = np.indices(grid.shape_zyx).reshape(3, -1).T
    image = grid.to_physical(zyx[:, ::-1])[:, axis].reshape(grid.shape_zyx).astype(np.float32)
    centre = grid.to_physical((np.array(grid.size_xyz) - 1) / 2)[0]
    seen = Patch.around(grid, centre, (3, 3, 3), [voxel_mm] * 3).cut(image, np.nan)
    offsets = (np.arange(3) - 1) * voxel_mm
    expected = np.moveaxis(np.broadcast_to(offsets, (3, 3, 3)), -1, 2 - axis) + centre[axis]
    inside = np.isfinite(seen)
    assert inside[1, 1, 1]
    np.testing.assert_allclose(seen[inside], expected[inside], atol=1e-3 * (1 + np.abs(image).max() / 100))
