"""What a report says about PET/CT cases: a summary, and for each case its curves, projections and steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lesionclick.evaluation.figures import DARK, LIGHT, Picture, curves_svg
from lesionclick.evaluation.measures import DASH, Measure, Scores, mean
from lesionclick.evaluation.petct_figures import projections_png
from lesionclick.evaluation.petct_replay import PetCtReplay, PetCtStep
from lesionclick.evaluation.steps import Result
from lesionclick.evaluation.tables import Cell, Row, Table, describe_grid, number, score_cells
from lesionclick.prompts.points import BACKGROUND, TUMOR

SHOWN_STEPS = (0, 1, 5, 10)
"""Steps whose projections are shown."""


@dataclass(frozen=True)
class PetCtCard:
    """One case.

    Attributes
    ----------
    name
        Of the case.
    facts
        Its size and its lesions in words.
    curves
        Measures over the steps, for light and for dark paper; None where there is no label.
    projections
        Of some steps.
    steps
        One row for each.
    """

    name: str
    facts: str
    curves: tuple[Picture, Picture] | None
    projections: Sequence[Picture]
    steps: Table


def summarise(results: Sequence[Result[PetCtStep]]) -> Table:
    """Return the scores of the first and the last step of each case, and the areas of complete curves."""
    measures = results[0].measures
    summaries = [_summary_scores(result) for result in results]
    rows: list[Row] = [
        [result.name, *_summary_cells(measures, scores), number(_seconds(result), 1)]
        for result, scores in zip(results, summaries, strict=True)
    ]
    means = [mean([scores for scores in column if scores is not None]) for column in zip(*summaries, strict=True)]
    foot: list[Row] = [
        ["Mean", *_summary_cells(measures, means), number(sum(map(_seconds, results)) / len(results), 1)]
    ]
    return Table(
        head=["Case", *[measure.heading for measure in measures] * 3, "Seconds per step"],
        rows=rows,
        foot=foot if len(results) > 1 else [],
        groups=[("", 1), *((group, len(measures)) for group in ("First step", "Last step", "Area (AUC)")), ("", 1)],
    )


def _summary_scores(result: Result[PetCtStep]) -> tuple[Scores | None, Scores | None, Scores | None]:
    scores = [step.scores for step in result.steps if step.scores]
    if not scores:
        return None, None, None
    return scores[0], scores[-1], result.areas


def _summary_cells(measures: Sequence[Measure[Any]], groups: Sequence[Scores | None]) -> list[Cell]:
    return [cell for scores in groups for cell in score_cells(measures, scores)]


def _seconds(result: Result[PetCtStep]) -> float:
    return sum(step.seconds for step in result.steps) / len(result.steps)


def make_card(replay: PetCtReplay) -> PetCtCard:
    """Return what the report shows of one case."""
    return PetCtCard(
        replay.name,
        describe(replay),
        _curves(replay) if replay.labels else None,
        [projections(replay, step) for step in replay.steps if step.number in SHOWN_STEPS],
        _steps_table(replay),
    )


def describe(replay: PetCtReplay) -> str:
    """Return the size of a case and of its lesions in words."""
    return ", ".join([describe_grid(replay.pet.grid), *_lesions(replay)])


def _lesions(replay: PetCtReplay) -> list[str]:
    if replay.label is None:
        return []
    ml = (replay.label.array > 0).sum() * replay.label.grid.voxel_ml
    return [f"{ml:.1f} ml of lesions" if ml else "no lesion"]


def _curves(replay: PetCtReplay) -> tuple[Picture, Picture]:
    titles = " and ".join(measure.title for measure in replay.measures)
    light, dark = (
        Picture(curves_svg(replay.result, theme), "svg+xml", f"{titles} over the steps") for theme in (LIGHT, DARK)
    )
    return light, dark


def projections(replay: PetCtReplay, step: PetCtStep) -> Picture:
    """Return the projections of one step, with its clicks and its first score below."""
    tumor, background = _click_counts(step)
    caption = f"Step {step.number}: {tumor} + {background} {replay.points_are}"
    measure = replay.measures[0]
    (cell,) = score_cells([measure], step.scores)
    if cell.text != DASH:
        caption += f", {measure.title} {cell.text}"
    return Picture(projections_png(replay, step), "png", caption)


def _steps_table(replay: PetCtReplay) -> Table:
    rows: list[Row] = []
    for step in replay.steps:
        acted = (DASH, DASH)
        if step.rules:
            acted = f"{step.rules.corrected_tumor} + {step.rules.corrected_background}", str(step.rules.removed)
        scores = score_cells(replay.measures, step.scores, bars=True)
        rows.append([*map(str, (step.number, *_click_counts(step))), *acted, *scores, number(step.seconds, 1)])
    headings = [measure.heading for measure in replay.measures]
    return Table(
        [
            "Step",
            f"Tumour {replay.points_are}",
            f"Background {replay.points_are}",
            "Corrected",
            "Removed",
            *headings,
            "Seconds",
        ],
        rows,
    )


def _click_counts(step: PetCtStep) -> tuple[int, int]:
    return len(step.prompts.of(TUMOR)), len(step.prompts.of(BACKGROUND))
