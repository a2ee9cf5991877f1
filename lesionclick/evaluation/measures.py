"""The table of measures: each score that a mask can get is one row, and all that shows scores is made from the rows.

The challenge's three scores are the Dice similarity coefficient (DSC), the volume of predicted components that touch no
true lesion (FPV) and the volume of true components that the prediction misses altogether (FNV), components being
18-connected. They are computed over all masks of a case as if they were one image; where no label has a lesion, DSC and
FNV are NaN and only FPV counts.

A further score is one more row: in `CHALLENGE` for both tasks, in `SCRIBBLES` for autoPET V, in `LESIONS` for
longitudinal cases, in `SURFACES` for single masks.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeAlias, TypeVar

import numpy as np
from grand_challenge_metrics.stats import hausdorff_distance_measures
from numpy.typing import NDArray
from scipy import ndimage

from lesionclick.evaluation import lesions
from lesionclick.evaluation.components import count_untouched, lesion_f1
from lesionclick.evaluation.lesions import LesionScores

DASH = "\N{EN DASH}"
"""Stands for a value that is not defined."""

Mask: TypeAlias = NDArray[Any]
Evidence = TypeVar("Evidence")


@dataclass(frozen=True)
class Tolerance:
    """How far a value may lie from the expected one: the larger of an absolute and a relative bound.

    Masks of one model differ a little between machines: the CPU libraries choose their kernels by instruction set and
    core count and sum in another order, GPUs more so, and voxels whose logit is nearly 0 change sides. A few such
    voxels stay below the tolerances of the table; a lesion found or missed, a shifted mask or another model do not. In
    the mean over lesions a small one weighs as much as a large one, and a few voxels are more of it.
    """

    absolute: float
    share: float = 0.0

    def allows(self, expected: float, found: float) -> bool:
        """Whether two values that are rounded to four decimals are near enough."""
        return abs(expected - found) <= max(self.absolute, self.share * abs(expected)) + 1e-9


@dataclass(frozen=True)
class Measure(Generic[Evidence]):
    """One row of the table.

    Attributes
    ----------
    key
        Name in `Scores` and in files.
    title
        Name for readers.
    unit
        Unit of the value, empty where it has none.
    digits
        Decimals to show.
    tolerance
        Within which expected values are met; None for a measure that files of expected scores leave out.
    function
        Computes the value, NaN where it is not defined.
    meaning
        What it measures, for the report.
    largest
        Largest possible value, where there is one.
    """

    key: str
    title: str
    unit: str
    digits: int
    tolerance: Tolerance | None
    function: Callable[[Evidence], float]
    meaning: str
    largest: float | None = None

    @property
    def heading(self) -> str:
        """Title and unit, for the head of a table."""
        return f"{self.title} {self.unit}".strip()

    @property
    def higher_is_better(self) -> bool:
        """Whether more is better, as it is for every measure that has a largest value; the others count errors."""
        return self.largest is not None

    def text(self, value: float) -> str:
        """Return a value with its decimals, or a dash where it is NaN."""
        return DASH if math.isnan(value) else f"{value:.{self.digits}f}"


@dataclass(frozen=True, eq=False)
class Scores(Mapping[str, float]):
    """Values by the keys of their measures, in the order of the table: of one mask, areas, or means over cases."""

    by_key: Mapping[str, float]

    def __getitem__(self, key: str) -> float:
        return self.by_key[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_key)

    def __len__(self) -> int:
        return len(self.by_key)

    def __or__(self, other: "Scores") -> "Scores":
        return Scores({**self, **other})


@dataclass(frozen=True, eq=False)
class MaskPair:
    """A true and a predicted mask on one grid.

    Attributes
    ----------
    label, prediction
        Arrays (z, y, x); every value but 0 counts as lesion.
    spacing_zyx
        Voxel size in mm.

    Raises
    ------
    ValueError
        If the masks differ in shape.
    """

    label: Mask
    prediction: Mask
    spacing_zyx: Sequence[float]

    def __post_init__(self) -> None:
        if self.label.shape != self.prediction.shape:
            raise ValueError(
                f"label and prediction differ in shape: {self.label.shape} and {self.prediction.shape} (z, y, x)"
            )

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in ml."""
        return float(np.prod(self.spacing_zyx)) / 1000

    @cached_property
    def true_voxels(self) -> NDArray[np.bool_]:
        """Lesion voxels of the label."""
        return self.label.astype(bool, copy=False)

    @cached_property
    def predicted_voxels(self) -> NDArray[np.bool_]:
        """Lesion voxels of the prediction."""
        return self.prediction.astype(bool, copy=False)

    @cached_property
    def surface_distances_mm(self) -> tuple[float, float]:
        """Larger of the two directed 95th percentiles and of the two directed means; NaN where a mask is empty.

        By grand-challenge-metrics, evalutils' successor; the larger of the directed means is the modified Hausdorff
        distance.
        """
        true, predicted = self.true_voxels, self.predicted_voxels
        if not (true.any() and predicted.any()):
            return math.nan, math.nan
        # Nothing outside the common bounding box takes part, and whole-body distance transforms are slow.
        (box,) = ndimage.find_objects((true | predicted).astype(np.uint8))
        found = hausdorff_distance_measures(true[box], predicted[box], tuple(self.spacing_zyx), percentile=0.95)
        return float(found.percentile_distance), float(found.modified_distance)


def dice(pairs: Sequence[MaskPair]) -> float:
    """Dice similarity coefficient by volume, 2 |A and B| / (|A| + |B|); NaN where every label is empty."""
    if not any(pair.true_voxels.any() for pair in pairs):
        return math.nan
    shared_ml = sum(np.count_nonzero(pair.true_voxels & pair.predicted_voxels) * pair.voxel_ml for pair in pairs)
    both_ml = sum(
        (np.count_nonzero(pair.true_voxels) + np.count_nonzero(pair.predicted_voxels)) * pair.voxel_ml for pair in pairs
    )
    return 2 * shared_ml / both_ml


def false_positive_volume_ml(pairs: Sequence[MaskPair]) -> float:
    """Volume in ml of the predicted components that share no voxel with the label."""
    return sum((count_untouched(p.predicted_voxels, p.true_voxels) * p.voxel_ml for p in pairs), start=0.0)


def false_negative_volume_ml(pairs: Sequence[MaskPair]) -> float:
    """Volume in ml of the true components that share no voxel with the prediction; NaN where every label is empty."""
    if not any(pair.true_voxels.any() for pair in pairs):
        return math.nan
    return sum((count_untouched(p.true_voxels, p.predicted_voxels) * p.voxel_ml for p in pairs), start=0.0)


def dice_or_empty(pairs: Sequence[MaskPair]) -> float:
    """`dice`; where every label is empty, 1 if the masks are empty too, and 0 otherwise (autoPET V)."""
    value = dice(pairs)
    return float(not any(pair.predicted_voxels.any() for pair in pairs)) if math.isnan(value) else value


CHALLENGE: tuple[Measure[Sequence[MaskPair]], ...] = (
    Measure(
        "dsc",
        "DSC",
        "",
        3,
        Tolerance(0.01),
        dice,
        "Dice similarity coefficient of all lesion voxels, 0 to 1, higher is better",
        largest=1.0,
    ),
    Measure(
        "fpv_ml",
        "FPV",
        "ml",
        2,
        Tolerance(0.3, share=0.03),
        false_positive_volume_ml,
        "volume of predicted components without any lesion, lower is better; components are 18-connected",
    ),
    Measure(
        "fnv_ml",
        "FNV",
        "ml",
        2,
        Tolerance(0.3, share=0.03),
        false_negative_volume_ml,
        "volume of lesions missed altogether, lower is better",
    ),
)
"""The challenge's measures, over all masks of a case together."""

SCRIBBLES: tuple[Measure[Sequence[MaskPair]], ...] = (
    Measure(
        "dice",
        "Dice",
        "",
        3,
        Tolerance(0.01),
        dice_or_empty,
        "as the DSC; in a case without lesions 1 where the mask is empty too, and 0 otherwise",
        largest=1.0,
    ),
    Measure(
        "dmm",
        "DMM",
        "",
        3,
        Tolerance(0.03),
        lambda pairs: lesion_f1((pair.true_voxels, pair.predicted_voxels) for pair in pairs),
        "F1 score over the lesions, found where a component's intersection over union is at least 0.1",
        largest=1.0,
    ),
)
"""What autoPET V scores masks by."""

LESIONS: tuple[Measure[Sequence[LesionScores]], ...] = (
    Measure(
        "lesion_dsc",
        "Lesion DSC",
        "",
        3,
        Tolerance(0.03),
        lesions.mean_dsc,
        "mean over the lesions that the follow-up has, each against the found lesion of its number",
        largest=1.0,
    ),
    Measure(
        "detected_percent",
        "Detected",
        "%",
        0,
        None,
        lesions.detected_percent,
        "share of the lesions that the follow-up has which the found one overlaps",
        largest=100.0,
    ),
    Measure(
        "vanished_empty_percent",
        "Left empty",
        "%",
        0,
        None,
        lesions.vanished_empty_percent,
        "share of the vanished lesions, without a voxel in the true follow-up, that have none in the mask",
        largest=100.0,
    ),
    Measure(
        "point_error_mm",
        "Point error",
        "mm",
        1,
        None,
        lesions.median_point_error_mm,
        "median distance of the centres of gravity",
    ),
    Measure(
        "volume_error_percent",
        "Volume error",
        "%",
        0,
        None,
        lesions.mean_volume_error_percent,
        "mean size of the error of a lesion's change in volume, in % of its true volume now",
    ),
)
"""Measures over the lesions of a longitudinal case, or of many."""

SURFACES: tuple[Measure[MaskPair], ...] = (
    Measure(
        "hausdorff95_mm",
        "Hausdorff distance, 95 %",
        "mm",
        2,
        None,
        lambda pair: pair.surface_distances_mm[0],
        "larger of the two directed 95th percentiles of the distances between the surfaces",
    ),
    Measure(
        "mean_mm",
        "Mean distance",
        "mm",
        2,
        None,
        lambda pair: pair.surface_distances_mm[1],
        "larger of the two directed means of the distances between the surfaces",
    ),
)
"""Measures of a single mask's surface."""

PETCT: tuple[Measure[Any], ...] = CHALLENGE
LONGITUDINAL: tuple[Measure[Any], ...] = (*CHALLENGE, *LESIONS)
"""What a step of a case of each task is scored by."""

_ROWS: tuple[Measure[Any], ...] = (*CHALLENGE, *SCRIBBLES, *LESIONS, *SURFACES)
MEASURES: Mapping[str, Measure[Any]] = {measure.key: measure for measure in _ROWS}
"""Every row by its key, in the order of the tables."""


def score(measures: Sequence[Measure[Evidence]], evidence: Evidence) -> Scores:
    """Compute the measures of one table from what they are computed from."""
    return Scores({measure.key: measure.function(evidence) for measure in measures})


def areas(scores: Sequence[Scores]) -> Scores:
    """Areas under the curves of the scores over the steps, by the trapezoid rule with a width of 1 per step.

    Parameters
    ----------
    scores
        One for each step, in order; the challenge's are the eleven steps 0..10, so that a perfect DSC gives 10.

    Returns
    -------
    Scores
        The areas; NaN where a step's score is NaN.

    Raises
    ------
    ValueError
        If there are fewer than two steps.
    """
    if len(scores) < 2:
        raise ValueError(f"an area needs the scores of at least two steps, found {len(scores)}")
    return Scores({key: float(np.trapezoid([step[key] for step in scores])) for key in scores[0]})


def mean(scores: Sequence[Scores]) -> Scores:
    """Means over cases, each measure over the cases where it is not NaN; NaN where no case has it."""
    keys = {key: None for case in scores for key in case}
    return Scores({key: _mean([case[key] for case in scores if not math.isnan(case[key])]) for key in keys})


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan
