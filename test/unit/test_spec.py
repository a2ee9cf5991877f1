import json
from typing import Any

import numpy as np
import pytest

from lesionclick.errors import ModelError
from lesionclick.prompts.encodings import Ball, Fields, Gaussian, LesionPair
from lesionclick.prompts.spec import OFFICIAL_BASELINE, SECOND_PLACE, Calibration, Prediction, PromptSpec

FIRST_FORM = {
    "encoding": "fields",
    "stage": "network",
    "radius": 6.0,
    "unit": "mm",
    "reach_mm": 30.0,
    "align": "centre",
    "mirror_axes": [],
    "readers": "challenge",
    "survey": True,
}
FIRST_FORM_PAIR = FIRST_FORM | {
    "encoding": "pair",
    "radius": 10.0,
    "reach_mm": 8.0,
    "readers": "any",
    "survey": False,
}


def read(values: Any) -> PromptSpec:
    return PromptSpec.from_mapping(values, "prompt.json")


def changed(spec: PromptSpec, **changes: Any) -> dict[str, Any]:
    """The content of a file with some keys changed; a key with a double underscore is one inside another."""
    values = spec.to_mapping()
    for key, value in changes.items():
        outer, _, inner = key.partition("__")
        if inner:
            values[outer][inner] = value
        else:
            values[outer] = value
    return values


@pytest.mark.parametrize(
    "spec",
    [
        OFFICIAL_BASELINE,
        SECOND_PLACE,
        PromptSpec(Fields(6.0), prediction=Prediction((0, 2)), rules="challenge"),
        PromptSpec(Fields(1.5, "voxel", far_mm=20.0, cutoff_mm=60.0), rules="none"),
        PromptSpec(LesionPair(10.0, mask_mm=9.0)),
        PromptSpec(Ball(3.0), calibration=Calibration(0.7, -3.5)),
    ],
    ids=lambda spec: spec.encoding.name,
)
def test_what_is_written_is_read_again(spec: PromptSpec) -> None:
    written = json.loads(spec.to_json())
    assert read(written) == spec
    assert written["version"] == 2


def test_written_file_names_everything() -> None:
    spec = PromptSpec(Fields(6.0, cutoff_mm=60.0), prediction=Prediction((2,)), rules="challenge")
    assert json.loads(spec.to_json()) == {
        "version": 2,
        "encoding": {"name": "fields", "radius": 6.0, "unit": "mm", "far_mm": 30.0, "cutoff_mm": 60.0},
        "stage": "network",
        "align": "centre",
        "precision": "float32",
        "prediction": {"mirror_axes": [2]},
        "rules": "challenge",
    }


def test_reading_leaves_what_it_is_given_as_it_was() -> None:
    for values in (OFFICIAL_BASELINE.to_mapping(), dict(FIRST_FORM)):
        before = json.dumps(values)
        read(values)
        assert json.dumps(values) == before


def test_a_survey_that_earlier_files_ask_for_changes_nothing() -> None:
    spec = PromptSpec(Fields(6.0))
    assert read(changed(spec, prediction__survey=True)) == spec


def test_what_is_not_said_has_a_default() -> None:
    assert read({"version": 2, "encoding": {"name": "ball", "radius": 2}}) == PromptSpec(
        Ball(2.0, "voxel"), "network", "centre", Prediction(()), "clicks"
    )


def test_encoding_tells_the_task() -> None:
    assert [PromptSpec(encoding).task for encoding in (Gaussian(3.0), Ball(2.0), Fields(6.0), LesionPair(10.0))] == [
        "task1",
        "task1",
        "task1",
        "task2",
    ]


def test_official_baseline_is_a_gaussian_of_three_voxels_on_the_image() -> None:
    assert OFFICIAL_BASELINE.encoding == Gaussian(radius=3.0, unit="voxel")
    assert OFFICIAL_BASELINE.stage == "image"
    assert OFFICIAL_BASELINE.rules == "clicks"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"version": 3}, "expected version 2 or none, found 3"),
        ({"version": "2"}, "version"),
        ({"encoding__name": "star"}, "encoding: .*'star'"),
        ({"encoding__name": ["ball"]}, "encoding: "),
        ({"encoding": "ball"}, "encoding: expected an object with a name"),
        ({"encoding__radius": -1}, "encoding: radius"),
        ({"encoding__radius": "3"}, "encoding: radius"),
        ({"encoding__radius": None}, "encoding: radius"),
        ({"encoding__radius": float("nan")}, "encoding: radius"),
        ({"encoding__radius": True}, "encoding: radius"),
        ({"encoding__radius": 1000}, "encoding: radius"),
        ({"encoding__unit": "cm"}, "encoding: unit"),
        ({"encoding__far_mm": None}, "encoding: far_mm"),
        ({"encoding__cutoff_mm": 0}, "encoding: cutoff_mm"),
        ({"encoding__mask_mm": 8.0}, "encoding: unknown keys .'mask_mm'"),
        ({"stage": "disk"}, "stage"),
        ({"stage": None}, "stage"),
        ({"align": "left"}, "align"),
        ({"precision": "float8"}, "precision"),
        ({"rules": "all"}, "rules"),
        ({"prediction": [2]}, "prediction: expected an object"),
        ({"prediction__mirror_axes": [3]}, "prediction: mirror_axes"),
        ({"prediction__mirror_axes": [0, 0]}, "mirror_axes must name each axis once, found .0, 0."),
        ({"prediction__mirror_axes": [True]}, "prediction: mirror_axes"),
        ({"prediction__mirror_axes": "xyz"}, "prediction: mirror_axes"),
        ({"prediction__survey": 1}, "prediction: survey"),
        ({"prediction__colour": "red"}, "prediction: unknown keys .'colour'"),
        ({"calibration": 1.0}, "calibration: expected an object"),
        ({"calibration": {"scale": 1.0}}, "calibration: missing keys .'shift'"),
        ({"calibration": {"scale": 1.0, "shift": "0"}}, "calibration: shift must be a number"),
        ({"calibration": {"scale": 0, "shift": 0}}, "calibration: scale must be above 0"),
        ({"readers": "challenge"}, "unknown keys .'readers'"),
        ({"colour": "red"}, "unknown keys .'colour'"),
    ],
)
def test_broken_file_is_refused_by_name(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError, match=f"^prompt.json[:,].*{named}"):
        read(changed(PromptSpec(Fields(6.0)), **changes))


def test_file_without_encoding_or_radius_is_refused() -> None:
    with pytest.raises(ModelError, match=r"missing keys \['encoding'\]"):
        read({"version": 2, "stage": "image"})
    with pytest.raises(ModelError, match=r"encoding: missing keys \['radius'\]"):
        read({"version": 2, "encoding": {"name": "ball"}})


def test_a_pair_is_encoded_on_the_networks_grid_alone() -> None:
    with pytest.raises(ModelError, match="encoding pair must have stage network, found 'image'"):
        read(changed(PromptSpec(LesionPair(3.0)), stage="image"))
    with pytest.raises(ModelError, match="encoding pair must have stage network, found 'image'"):
        read({"encoding": "pair", "stage": "image", "radius": 3.0})


class TestFirstForm:
    """Files without a version, as models of before the second form have them."""

    def test_files_of_the_embedded_models_mean_the_same(self) -> None:
        assert read(FIRST_FORM) == PromptSpec(
            Fields(radius=6.0, unit="mm", far_mm=30.0, cutoff_mm=None),
            rules="challenge",
        )
        assert read(FIRST_FORM_PAIR) == PromptSpec(LesionPair(radius=10.0, unit="mm", mask_mm=8.0), rules="clicks")

    @pytest.mark.parametrize(
        ("name", "spec"),
        [
            ("gaussian", PromptSpec(Gaussian(3.0), stage="image", align="corner")),
            ("ball", PromptSpec(Ball(3.0), stage="image", align="corner")),
            ("fields", PromptSpec(Fields(3.0, "voxel", far_mm=30.0), stage="image", align="corner")),
        ],
    )
    def test_its_defaults_are_voxels_and_30_mm(self, name: str, spec: PromptSpec) -> None:
        assert read({"encoding": name, "stage": "image", "radius": 3.0, "align": "corner"}) == spec

    def test_its_default_for_a_pair_is_30_mm_too(self) -> None:
        values = {"encoding": "pair", "stage": "network", "radius": 3.0}
        assert read(values) == PromptSpec(LesionPair(3.0, "voxel", mask_mm=30.0))

    def test_mirror_axes_are_the_predictions(self) -> None:
        assert read(FIRST_FORM | {"mirror_axes": [0, 2]}).prediction == Prediction((0, 2))

    @pytest.mark.parametrize("encoding", ["gaussian", "ball"])
    def test_a_reach_that_is_of_no_use_is_dropped(self, encoding: str) -> None:
        kind = {"gaussian": Gaussian, "ball": Ball}[encoding]
        assert read(FIRST_FORM | {"encoding": encoding}).encoding == kind(6.0, "mm")

    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"encoding": "star"}, "encoding"),
            ({"encoding": {"name": "fields"}}, "encoding"),
            ({"stage": "disk"}, "stage"),
            ({"radius": -1}, "radius"),
            ({"radius": "3"}, "radius"),
            ({"radius": float("nan")}, "radius"),
            ({"unit": "cm"}, "unit"),
            ({"reach_mm": True}, "reach_mm"),
            ({"reach_mm": -8}, "reach_mm"),
            ({"align": "left"}, "align"),
            ({"mirror_axes": [3]}, "mirror_axes"),
            ({"mirror_axes": "xyz"}, "mirror_axes"),
            ({"survey": 1}, "survey"),
            ({"readers": "all"}, "readers"),
            ({"readers": "none"}, "readers"),
            ({"rules": "none"}, "unknown keys .'rules'"),
            ({"prediction": {}}, "unknown keys .'prediction'"),
            ({"colour": "red"}, "unknown keys .'colour'"),
        ],
    )
    @pytest.mark.parametrize("values", [FIRST_FORM, FIRST_FORM | {"encoding": "gaussian"}], ids=["fields", "gaussian"])
    def test_broken_file_is_refused_by_name(self, values: dict[str, Any], change: dict[str, Any], named: str) -> None:
        with pytest.raises(ModelError, match=named):
            read(values | change)

    @pytest.mark.parametrize("key", ["encoding", "stage", "radius"])
    def test_file_without_what_it_needs_is_refused(self, key: str) -> None:
        with pytest.raises(ModelError, match=rf"missing keys \['{key}'\]"):
            read({other: value for other, value in FIRST_FORM.items() if other != key})


def test_a_calibration_scales_the_logit_and_then_shifts_it() -> None:
    logit = np.array([-1.0, 0.0, 0.5, 2.0], dtype=np.float32)
    odds = np.exp(2 * logit - 1)
    np.testing.assert_allclose(Calibration(2.0, -1.0).probability(logit), odds / (1 + odds), rtol=1e-6)
    np.testing.assert_allclose(Calibration().probability(np.array([0.0, 100.0, -100.0])), [0.5, 1, 0], atol=1e-12)
    assert Calibration().probability(logit).dtype == np.float32


def test_a_calibration_that_changes_nothing_is_not_written() -> None:
    assert "calibration" not in PromptSpec(Ball(3.0)).to_mapping()
