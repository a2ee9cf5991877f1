"""The `prompt.json` of a model folder: how its prompts are encoded, how it predicts, and which rules follow."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from lesionclick.errors import ModelError
from lesionclick.prompts.encodings import ENCODINGS, Ball, Encoding, Gaussian, LesionPair

VERSION = 2
"""Of the form that is written. A file without a version is of the first form, which is read as well."""

TaskName = Literal["task1", "task2"]
Stage = Literal["image", "network"]
Align = Literal["centre", "corner"]
Precision = Literal["float32", "float16"]
Rules = Literal["none", "clicks", "challenge"]


@dataclass(frozen=True)
class Prediction:
    """How a model predicts, which its training does not decide.

    Attributes
    ----------
    mirror_axes
        Axes (of z, y, x) over whose mirrored versions a prediction is averaged.
    """

    mirror_axes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Calibration:
    """How lesion logits become probabilities that are met: Platt's scaling of a trained classifier.

    Platt, Advances in Large Margin Classifiers (1999) 61. It moves no voxel into or out of a mask, which the logits
    alone decide.

    Attributes
    ----------
    scale
        Factor of the logit, above 0.
    shift
        What is added to it then.
    """

    scale: float = 1.0
    shift: float = 0.0

    def probability(self, lesion_logit: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return the probability to be a lesion, 0 to 1, of logits of any shape."""
        probability: NDArray[np.floating] = expit(self.scale * lesion_logit + self.shift)
        return probability


@dataclass(frozen=True)
class PromptSpec:
    """What a model folder says of its prompts.

    Attributes
    ----------
    encoding
        How prompts become channels.
    stage
        ``image``: the channels are made on the image's grid, stand after the images, and pass nnU-Net's preprocessing
        with them. ``network``: they are made on the network's grid and appended to the preprocessed images.
    align
        How an image index is carried to the network's grid: ``centre`` keeps voxel centres and fractions, ``corner``
        scales the index and rounds it half to even.
    prediction
        How the model predicts.
    rules
        What follows the network, see `lesionclick.petct.rules`. ``none``: nothing, a voxel is a lesion where the
        network says so. ``clicks``: a clicked voxel is what it was clicked as. ``challenge``: also what can be known
        of readers who click each lesion once, in its centre, before they click any again, on its rim.
    precision
        To which CT and PET are rounded before anything else.
    calibration
        How its logits become probabilities, which proposals of places to click are made from.
    """

    encoding: Encoding
    stage: Stage = "network"
    align: Align = "centre"
    prediction: Prediction = field(default_factory=Prediction)
    rules: Rules = "clicks"
    precision: Precision = "float32"
    calibration: Calibration = field(default_factory=Calibration)

    @property
    def task(self) -> TaskName:
        """The task that the encoding serves."""
        return "task2" if isinstance(self.encoding, LesionPair) else "task1"

    def to_mapping(self) -> dict[str, Any]:
        """Return the content of a `prompt.json`; what changes nothing is left out."""
        written = {
            "version": VERSION,
            "encoding": {"name": self.encoding.name, **vars(self.encoding)},
            "stage": self.stage,
            "align": self.align,
            "prediction": {**asdict(self.prediction), "mirror_axes": list(self.prediction.mirror_axes)},
            "rules": self.rules,
            "precision": self.precision,
        }
        if self.calibration != Calibration():
            written["calibration"] = asdict(self.calibration)
        return written

    def to_json(self) -> str:
        """Return the text of a `prompt.json`."""
        return json.dumps(self.to_mapping(), indent=2) + "\n"

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any], source: str) -> PromptSpec:
        """Build a specification from the parsed content of a `prompt.json`, of this form or of the first one.

        Raises
        ------
        ModelError
            If a key is unknown or missing, or a value is of the wrong type or not among the known ones.
        """
        values = _from_first_form(values, source) if "version" not in values else dict(values)
        if (version := values.pop("version")) != VERSION:
            raise ModelError(f"{source}: expected version {VERSION} or none, found {version!r}")
        _require_keys(values, {one.name for one in fields(cls)}, {"encoding"}, source)
        for key, choices in (("stage", Stage), ("align", Align), ("rules", Rules), ("precision", Precision)):
            if values.get(key, get_args(choices)[0]) not in get_args(choices):
                raise ModelError(f"{source}: {key} must be one of {get_args(choices)}, found {values[key]!r}")
        encoding = _read_encoding(values["encoding"], f"{source}, encoding")
        if isinstance(encoding, LesionPair) and values.get("stage", "network") != "network":
            raise ModelError(f"{source}: encoding pair must have stage network, found {values['stage']!r}")
        prediction = _read_prediction(values.get("prediction", {}), f"{source}, prediction")
        read = {**values, "encoding": encoding, "prediction": prediction}
        if "calibration" in values:
            read["calibration"] = _read_calibration(values["calibration"], f"{source}, calibration")
        return cls(**read)


OFFICIAL_BASELINE = PromptSpec(Gaussian(radius=3.0), stage="image")
"""The organisers' nnU-Net baseline, which has no `prompt.json` but channels named CT, PET, FG, BG."""
SECOND_PLACE = PromptSpec(Ball(radius=2.0), align="corner", precision="float16")
"""The second-placed team of autoPET/CT IV (LesionLocator), which has no `prompt.json` but trainers of its own."""

_FIRST_FORM = {"encoding", "stage", "radius", "unit", "reach_mm", "align", "mirror_axes", "readers", "survey"}


def _from_first_form(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """Return the content of a file without a version in the present form, checked where its keys go by other names."""
    _require_keys(values, _FIRST_FORM, {"encoding", "stage", "radius"}, source)
    left = dict(values)
    name = left.pop("encoding")
    encoding = {"name": name, "radius": left.pop("radius"), "unit": left.pop("unit", "voxel")}
    _require_length(reach_mm := left.pop("reach_mm", 30.0), "reach_mm", source)
    if name in ("fields", "pair"):
        encoding["far_mm" if name == "fields" else "mask_mm"] = reach_mm
    prediction = {key: left.pop(key) for key in ("mirror_axes", "survey") if key in left}
    if (readers := left.pop("readers", "any")) not in ("any", "challenge"):
        raise ModelError(f"{source}: readers must be any or challenge, found {readers!r}")
    rules = "clicks" if readers == "any" else readers
    return {"version": VERSION, "encoding": encoding, "prediction": prediction, "rules": rules, **left}


def _read_encoding(values: object, source: str) -> Encoding:
    if not isinstance(values, Mapping) or not isinstance(values.get("name"), str) or values["name"] not in ENCODINGS:
        raise ModelError(f"{source}: expected an object with a name among {sorted(ENCODINGS)}, found {values!r}")
    kind = ENCODINGS[values["name"]]
    options = {key: value for key, value in values.items() if key != "name"}
    _require_keys(options, {one.name for one in fields(kind)}, {"radius"}, source)  # type: ignore[arg-type]
    for key, value in options.items():
        if key == "unit":
            if value not in ("voxel", "mm"):
                raise ModelError(f"{source}: unit must be voxel or mm, found {value!r}")
        elif not (key == "cutoff_mm" and value is None):
            _require_length(value, key, source)
    return kind(**options)


def _read_prediction(values: object, source: str) -> Prediction:
    if not isinstance(values, Mapping):
        raise ModelError(f"{source}: expected an object, found {values!r}")
    _require_keys(values, {"mirror_axes", "survey"}, set(), source)  # files of earlier models may hold the latter
    axes = values.get("mirror_axes", ())
    if not isinstance(axes, list | tuple) or any(type(axis) is not int or axis not in (0, 1, 2) for axis in axes):
        raise ModelError(f"{source}: mirror_axes must be a list of axes 0, 1, 2, found {axes!r}")
    if len(set(axes)) < len(axes):
        raise ModelError(f"{source}: mirror_axes must name each axis once, found {axes!r}")
    if not isinstance(survey := values.get("survey", False), bool):
        raise ModelError(f"{source}: survey must be true or false, found {survey!r}")
    return Prediction(tuple(axes))


def _read_calibration(found: object, source: str) -> Calibration:
    names = {one.name for one in fields(Calibration)}
    if not isinstance(found, Mapping):
        raise ModelError(f"{source}: expected an object, found {found!r}")
    _require_keys(found, names, names, source)
    for name, value in found.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ModelError(f"{source}: {name} must be a number, found {value!r}")
    if found["scale"] <= 0:
        raise ModelError(f"{source}: scale must be above 0, found {found['scale']!r}")
    return Calibration(**found)


def _require_length(value: object, key: str, source: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1000:
        raise ModelError(f"{source}: {key} must be a number between 0 and 1000, found {value!r}")


def _require_keys(values: Mapping[str, Any], known: set[str], needed: set[str], source: str) -> None:
    if unknown := set(values) - known:
        raise ModelError(f"{source}: unknown keys {sorted(unknown)}; known are {sorted(known)}")
    if missing := needed - set(values):
        raise ModelError(f"{source}: missing keys {sorted(missing)}")
