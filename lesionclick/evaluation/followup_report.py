"""The sections of a report on Task 2: a summary, and for each case its bodies and its lesions, then and now."""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lesionclick.evaluation.figures import LABEL_COLOUR, PREDICTION_COLOUR, TUMOR_COLOUR
from lesionclick.evaluation.followup_figures import (
    HU_WINDOW,
    Scene,
    baseline_scene,
    coronal_png,
    followup_scenes,
    lesion_png,
)
from lesionclick.evaluation.followup_replay import STEPS, FollowupReplay, volumes_then
from lesionclick.evaluation.lesions import CHANGE_SHARE, Summary, status, summarise, volumes_ml
from lesionclick.evaluation.markup import UNDEFINED, bar, circle, cross, legend, number, patch, picture, table
from lesionclick.evaluation.measures import Scores
from lesionclick.grand_challenge.interfaces import REGIONS

INTRODUCTION = """<p>In Task 2 every step sees the baseline with its mask and points. Step 0 sees no point of the
follow-up, step 1 sees one for each lesion, as far as the case has them.</p>"""

_HEAD = (
    *("Lesion", "Status", "Then ml", "Now ml", "Change"),
    *(f"Step {step}: {what}" for step in STEPS for what in ("ml", "change", "DSC")),
)


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


def summary(replays: Sequence[FollowupReplay], title: str) -> str:
    """Return the card with the scores of every case and step, and those of the lesions of all cases."""
    rows = []
    for replay in replays:
        for step in replay.steps:
            scores = step.scores or Scores(math.nan, math.nan, math.nan)
            challenge = (number(scores.dsc, 3), number(scores.fpv_ml, 2), number(scores.fnv_ml, 2))
            cells = (*challenge, *_summary_cells(step.summary), number(step.seconds, 1))
            rows.append([html.escape(replay.name), str(step.number), *cells])
    if len(replays) > 1:
        for index, step_number in enumerate(STEPS):
            lesions = [one for replay in replays for some in replay.steps[index].lesions.values() for one in some]
            cells = (*[UNDEFINED] * 3, *_summary_cells(summarise(lesions)), UNDEFINED)
            rows.append(["all lesions", str(step_number), *cells])
    head = ("Case", "Step", "DSC", "FPV ml", "FNV ml", "Lesion DSC", "Detected", "Vanished, left empty")
    return f"""<section class="card">
<h2>{title}</h2>
<div class="scroll">{table((*head, "Point error mm", "Volume error", "Seconds"), rows)}</div>
<p class="quiet">DSC, FPV and FNV: as the challenge has them, whatever the numbers of the lesions, over all body regions
of a case. Lesion DSC: mean over the lesions that the follow-up has, each against the found lesion of its number.
Detected: share of them that the found one overlaps. Vanished, left empty: share of the lesions without a voxel in the
true follow-up that have none in the mask. Point error: median distance of the centres of gravity. Volume error: mean
size of the error of a lesion's change in volume, in % of its true volume now. A dash: not defined.</p>
</section>"""


def case(replay: FollowupReplay) -> str:
    """Return the card of one case."""
    baselines = {baseline.region: baseline_scene(baseline) for baseline in replay.case.baselines}
    followups = {followup.region: followup_scenes(replay, followup.region) for followup in replay.case.followups}
    bodies, crops, rows = [], [], []
    regions = [region.name for region in REGIONS if region.name in {*baselines, *followups}]
    for region in regions:
        scenes = [baselines[region]] if region in baselines else []
        bodies.append(_bodies(replay.name, region, [*scenes, *followups.get(region, ())]))
    for region, now in followups.items():
        for row in _rows(replay, region, now):
            name = str(row.number) if len(regions) == 1 else f"{row.number}, {region}"
            volumes = f"{row.then_ml:.1f} ml then"
            if replay.labels:
                volumes += f", {row.true_ml:.1f} ml now"
            png = lesion_png(_scene_then(row, baselines), now, row.number)
            crops.append(picture(png, replay.name, f"Lesion {name}: {row.status}, {volumes}"))
            rows.append([name, row.status, *_cells(row)])
    return f"""<section class="card">
<h2>{html.escape(replay.name)}</h2>
<p class="quiet">{_counts(replay)}</p>
<h3>Bodies: a coronal plane through the lesions, with all of them projected onto it</h3>
{_LEGEND}
<div class="bodies">{"".join(bodies)}</div>
<h3>Lesions: axial planes of the baseline and of the follow-up at each step, of one scale</h3>
<div class="lesions">{"".join(crops)}</div>
<h3>Every lesion</h3>
<div class="scroll">{table(_HEAD, rows)}</div>
<p class="quiet">Then: in the baseline. Now: in the true follow-up. Unchanged: within {100 * CHANGE_SHARE:.0f} % of the
volume then.</p>
</section>"""


def _bodies(name: str, region: str, scenes: Sequence[Scene]) -> str:
    grid = scenes[-1].ct.grid
    size, spacing = (" &times; ".join(f"{value:g}" for value in row) for row in (grid.size_xyz, grid.spacing_xyz))
    return picture(coronal_png(scenes), name, f"{region.capitalize()} region: {size} voxels of {spacing} mm")


def _rows(replay: FollowupReplay, region: str, scenes: Sequence[Scene]) -> list[_Row]:
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


def _cells(row: _Row) -> Iterable[str]:
    yield from (number(row.then_ml, 2), number(row.true_ml, 2), _change(row.then_ml, row.true_ml))
    for found_ml, dsc in row.found:
        yield from (number(found_ml, 2), _change(row.then_ml, found_ml), bar(dsc))


def _summary_cells(lesions: Summary) -> Iterable[str]:
    yield number(lesions.dsc, 3)
    yield from (_percent(100 * share) for share in (lesions.detection_rate, lesions.vanished_empty))
    yield from (number(lesions.point_error_mm, 1), _percent(lesions.volume_error_percent))


def _change(then_ml: float, now_ml: float) -> str:
    if math.isnan(now_ml) or then_ml == 0:
        return UNDEFINED
    return f"{100 * (now_ml / then_ml - 1):+.0f} %"


def _percent(value: float) -> str:
    return UNDEFINED if math.isnan(value) else f"{value:.0f} %"


def _counts(replay: FollowupReplay) -> str:
    def sum_up(masks: Iterable[Mapping[int, float]]) -> str:
        volumes = [ml for mask in masks for ml in mask.values()]
        return f"{len(volumes)} lesion{'' if len(volumes) == 1 else 's'} of {sum(volumes):.1f} ml"

    baselines = [baseline.lesions for baseline in replay.case.baselines]
    then = sum_up(volumes_ml(mask.array, mask.grid.voxel_ml) for mask in baselines)
    if not replay.labels:
        return f"then {then}"
    return f"then {then}, now {sum_up(volumes_ml(one.array, one.grid.voxel_ml) for one in replay.labels.values())}"


_LEGEND = legend(
    [
        ("given in the baseline, true in the follow-up", circle(LABEL_COLOUR)),
        ("prediction", patch(PREDICTION_COLOUR)),
        ("point of the lesion", cross(TUMOR_COLOUR)),
    ],
    'HU {:g} or less<i class="ramp up"></i>{:g} or more'.format(*HU_WINDOW),
)
