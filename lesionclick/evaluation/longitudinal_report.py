"""What a report says about longitudinal cases: a summary, and for each case its bodies and its lesions."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lesionclick.evaluation.figures import Picture
from lesionclick.evaluation.lesions import CHANGE_SHARE, status, volumes_ml
from lesionclick.evaluation.longitudinal_figures import (
    Scene,
    baseline_scene,
    coronal_png,
    followup_scenes,
    lesion_png,
)
from lesionclick.evaluation.longitudinal_replay import STEPS, LongitudinalReplay, LongitudinalStep, volumes_then
from lesionclick.evaluation.measures import DASH, LESIONS, Scores, mean, score
from lesionclick.evaluation.steps import Result
from lesionclick.evaluation.tables import Cell, Row, Table, describe_grid, number, score_cells
from lesionclick.grand_challenge.interfaces import REGIONS
from lesionclick.images import Volume

_DSC = LESIONS[0]
"""What the table of lesions tells of each one."""


@dataclass(frozen=True)
class LongitudinalCard:
    """One case.

    Attributes
    ----------
    name
        Of the case.
    facts
        Its lesions in words.
    bodies
        Baseline and follow-up of each region, in a coronal plane.
    crops
        Each lesion, then and at each step.
    lesions
        One row for each.
    unchanged_percent
        Change of volume up to which a lesion counts as unchanged.
    """

    name: str
    facts: str
    bodies: Sequence[Picture]
    crops: Sequence[Picture]
    lesions: Table
    unchanged_percent: float = 100 * CHANGE_SHARE


@dataclass(frozen=True)
class _Row:
    """One lesion: its volumes in ml then and now (NaN where there is no label), and volume and DSC at each step."""

    region: str
    number: int
    then_ml: float
    true_ml: float
    found: tuple[tuple[float, float], ...]

    @property
    def status(self) -> str:
        """What became of it, by the label, or without one by the last step."""
        return status(self.then_ml, self.found[-1][0] if math.isnan(self.true_ml) else self.true_ml)


def summarise(results: Sequence[Result[LongitudinalStep]]) -> Table:
    """Return the scores of every case and step, their means, and the scores of the lesions of all cases."""

    def cells(scores: Scores | None) -> list[Cell]:
        return score_cells(LongitudinalReplay.measures, scores)

    rows: list[Row] = [
        [result.name, str(step.number), *cells(step.scores), number(step.seconds, 1)]
        for result in results
        for step in result.steps
    ]
    columns = [[result.steps[index] for result in results] for index in range(len(STEPS))]
    means: list[Row] = [
        [
            "Mean of cases",
            str(steps[0].number),
            *cells(mean([step.scores for step in steps if step.scores])),
            number(sum(step.seconds for step in steps) / len(steps), 1),
        ]
        for steps in columns
    ]
    pooled: list[Row] = [
        [
            "All lesions",
            str(steps[0].number),
            *cells(score(LESIONS, [lesion for step in steps for lesion in step.all_lesions])),
            DASH,
        ]
        for steps in columns
    ]
    headings = [measure.heading for measure in LongitudinalReplay.measures]
    return Table(["Case", "Step", *headings, "Seconds"], rows, [*means, *pooled] if len(results) > 1 else [])


def make_card(replay: LongitudinalReplay) -> LongitudinalCard:
    """Return what the report shows of one case."""
    baselines = {baseline.region: baseline_scene(baseline) for baseline in replay.case.baselines}
    followups = followup_scenes(replay)
    whole = _bodies(baselines, followups)
    crops: list[Picture] = []
    rows: list[Row] = []
    for region, now in followups.items():
        for row in _rows(replay, region, now):
            name = str(row.number) if len(whole) == 1 else f"{row.number}, {region}"
            volumes = f"{row.then_ml:.1f} ml then"
            if replay.labels:
                volumes += f", {row.true_ml:.1f} ml now"
            png = lesion_png(_scene_then(row, baselines), now, row.number)
            crops.append(Picture(png, "png", f"Lesion {name}: {row.status}, {volumes}"))
            rows.append([name, row.status, *_cells(row)])
    head = ["Lesion", "Status", "Then ml", "Now ml", "Change %", *["ml", "Change %", "DSC"] * len(STEPS)]
    groups = [("", 5), *((f"Step {step}", 3) for step in STEPS)]
    return LongitudinalCard(replay.name, describe(replay), whole, crops, Table(head, rows, groups=groups))


def bodies(replay: LongitudinalReplay) -> list[Picture]:
    """Return a picture of each region: its baseline, and its follow-up at each step."""
    return _bodies({one.region: baseline_scene(one) for one in replay.case.baselines}, followup_scenes(replay))


def _bodies(baselines: Mapping[str, Scene], followups: Mapping[str, Sequence[Scene]]) -> list[Picture]:
    pictures = []
    for region in (region.name for region in REGIONS if region.name in {*baselines, *followups}):
        scenes = [*([baselines[region]] if region in baselines else []), *followups.get(region, ())]
        caption = f"{region.capitalize()} region: {describe_grid(scenes[-1].ct.grid)}"
        pictures.append(Picture(coronal_png(scenes), "png", caption))
    return pictures


def _rows(replay: LongitudinalReplay, region: str, scenes: Sequence[Scene]) -> list[_Row]:
    voxel_ml = scenes[0].ct.grid.voxel_ml
    label, *masks = (
        {} if mask is None else volumes_ml(mask, voxel_ml)
        for mask in (scenes[0].outlined, *(scene.tinted for scene in scenes))
    )
    then = volumes_then(replay.case, region)
    scored = [{lesion.number: lesion for lesion in step.lesions.get(region, ())} for step in replay.steps]
    looked_for = scored[0] if replay.labels else then
    rows = []
    for lesion in sorted({*looked_for, *(one for mask in masks for one in mask)}):
        dscs = [lesions[lesion].dsc if lesion in lesions else math.nan for lesions in scored]
        found = tuple((mask.get(lesion, 0.0), dsc) for mask, dsc in zip(masks, dscs, strict=True))
        true_ml = label.get(lesion, 0.0) if replay.labels else math.nan
        rows.append(_Row(region, lesion, then.get(lesion, 0.0), true_ml, found))
    return rows


def _scene_then(row: _Row, baselines: Mapping[str, Scene]) -> Scene | None:
    """Return the baseline that shows a lesion, that of its own region first."""
    if row.then_ml == 0:
        return None
    own_first = sorted(baselines, key=lambda region: region != row.region)
    return next(baselines[region] for region in own_first if row.number in baselines[region].outlined_places)


def _cells(row: _Row) -> Iterable[Cell]:
    for ml in (row.then_ml, row.true_ml):
        yield Cell(number(ml, 2))
    yield Cell(_change(row.then_ml, row.true_ml))
    for found_ml, dsc in row.found:
        yield from (Cell(number(found_ml, 2)), Cell(_change(row.then_ml, found_ml)))
        yield from score_cells([_DSC], Scores({_DSC.key: dsc}), bars=True)


def _change(then_ml: float, now_ml: float) -> str:
    if math.isnan(now_ml) or then_ml == 0:
        return DASH
    return f"{100 * (now_ml / then_ml - 1):+.0f}"


def describe(replay: LongitudinalReplay) -> str:
    """Return the lesions of a case in words, then and now."""
    then = _describe_lesions(baseline.lesions for baseline in replay.case.baselines)
    return f"then {then}, now {_describe_lesions(replay.labels.values())}" if replay.labels else f"then {then}"


def _describe_lesions(masks: Iterable[Volume]) -> str:
    volumes = [ml for mask in masks for ml in volumes_ml(mask.array, mask.grid.voxel_ml).values()]
    return f"{len(volumes)} lesion{'' if len(volumes) == 1 else 's'} of {sum(volumes):.1f} ml"
