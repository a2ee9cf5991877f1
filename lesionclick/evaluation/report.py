"""The report of a replay: one HTML file that needs nothing else, `picture.png` and `scores.json`."""

import html
import importlib.metadata
import math
import platform
from collections.abc import Callable, Sequence
from dataclasses import astuple
from importlib import resources
from pathlib import Path
from string import Template

from lesionclick.evaluation import figures, followup_report
from lesionclick.evaluation.expected import scores_of, write_scores
from lesionclick.evaluation.followup_replay import FollowupReplay
from lesionclick.evaluation.markup import UNDEFINED, bar, circle, cross, legend, number, patch, picture, table
from lesionclick.evaluation.measures import Scores, areas
from lesionclick.evaluation.replay import STEPS, Replay, Step
from lesionclick.prompts.points import BACKGROUND, TUMOR

SHOWN_STEPS = (0, 1, 5, 10)
"""Steps whose projections are shown."""

_INTRODUCTION = """<p>Each step is a job of its own: step 0 sees no click, step <i>k</i> sees <i>k</i> clicks in tumours
and <i>k</i> in the background, as far as the case has them.</p>"""

_MEASURES = (("dsc", "DSC", ""), ("fpv", "FPV", "ml"), ("fnv", "FNV", "ml"))
_PACKAGES = ("lesionclick", "nnunetv2", "torch", "SimpleITK", "numpy")

_Point = tuple[float, float]


def write_report(output: Path, replays: Sequence[Replay | FollowupReplay], *, run: str) -> Path:
    """Write `report.html`, `scores.json` and, where there are cases of Task 1, `picture.png` to `output`.

    Parameters
    ----------
    output : Path
        Folder; made if it is not there.
    replays : sequence of Replay or FollowupReplay
        The cases, at least one.
    run : str
        What ran the jobs and on which device, in words.

    Returns
    -------
    Path
        The HTML file.
    """
    output.mkdir(parents=True, exist_ok=True)
    write_scores(output / "scores.json", scores_of(replays))
    petct = [replay for replay in replays if isinstance(replay, Replay)]
    longitudinal = [replay for replay in replays if isinstance(replay, FollowupReplay)]
    titles, introductions, summaries = [], [], []
    if petct:
        figures.write_picture(output / "picture.png", petct)
        titles.append("Task 1, click by click")
        introductions.append(_INTRODUCTION)
        summaries.append(_summary(petct, "Summary of Task 1" if longitudinal else "Summary"))
    if longitudinal:
        titles.append("Task 2, lesion by lesion")
        introductions.append(followup_report.INTRODUCTION)
        summaries.append(followup_report.summary(longitudinal, "Summary of Task 2" if petct else "Summary"))
    cases = [*map(_case, petct), *map(followup_report.case, longitudinal)]

    template = Template(resources.files(__package__).joinpath("report.html").read_text(encoding="utf-8"))
    page = template.substitute(
        title="Replay of " + " and ".join(titles),
        introduction="\n".join(introductions),
        environment=html.escape(describe_environment(run)),
        sections="\n".join(summaries + cases),
    )
    path = output / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def describe_environment(run: str) -> str:
    """Return one line: what ran the jobs, the versions of what matters to the masks, and the machine."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    return f"{run}; {versions}; Python {platform.python_version()} on {platform.system()} {platform.machine()}"


def _summary(replays: Sequence[Replay], title: str) -> str:
    rows = [[html.escape(replay.name), *_summary_values(replay), _seconds(replay)] for replay in replays]
    head = ("Case", "DSC, first step", "DSC, last", "FPV, last (ml)", "FNV, last (ml)", "AUC-DSC", "AUC-FPV", "AUC-FNV")
    return f"""<section class="card">
<h2>{title}</h2>
<div class="scroll">{table((*head, "Seconds per step"), rows)}</div>
<p class="quiet">DSC: Dice similarity coefficient, 0 to 1, higher is better. FPV: volume of predicted components without
any lesion. FNV: volume of lesions missed altogether. Both in ml, lower is better; components are 18-connected. AUC:
area under the curve over the steps (trapezoid rule). Corrected: tumour + background clicks that the network alone had
on the wrong side, and that the rule after it put right. A dash: not defined, as DSC and FNV are for a case without
lesions.</p>
</section>"""


def _summary_values(replay: Replay) -> list[str]:
    scores = [step.scores for step in replay.steps if step.scores]
    if not scores:
        return [UNDEFINED] * 7
    complete = tuple(step.number for step in replay.steps) == STEPS
    area = areas(scores) if complete else Scores(math.nan, math.nan, math.nan)
    last = scores[-1]
    return [
        *(number(value, 3) for value in (scores[0].dsc, last.dsc)),
        *(number(value, 2) for value in (last.fpv_ml, last.fnv_ml, *astuple(area))),
    ]


def _seconds(replay: Replay) -> str:
    return number(sum(step.seconds for step in replay.steps) / len(replay.steps), 1)


def _case(replay: Replay) -> str:
    grid = replay.pet.grid
    size, spacing = (" &times; ".join(f"{value:g}" for value in row) for row in (grid.size_xyz, grid.spacing_xyz))
    volume = ""
    if replay.label is not None:
        ml = (replay.label.array > 0).sum() * grid.voxel_ml
        volume = f", {ml:.1f} ml of lesions" if ml else ", no lesion"
    return f"""<section class="card">
<h2>{html.escape(replay.name)}</h2>
<p class="quiet">{size} voxels of {spacing} mm{volume}</p>
{_charts(replay) if replay.label is not None else ""}
<h3>Maximum-intensity projections of the PET, coronal and sagittal</h3>
{_LEGEND}
<div class="views">{"".join(_view(replay, step) for step in replay.steps if step.number in SHOWN_STEPS)}</div>
<h3>Every step</h3>
<div class="scroll">{_step_table(replay)}</div>
</section>"""


def _charts(replay: Replay) -> str:
    charts = []
    for index, (css, name, unit) in enumerate(_MEASURES):
        values = [(float(step.number), astuple(step.scores)[index]) for step in replay.steps if step.scores]
        points = [(x, y) for x, y in values if not math.isnan(y)]
        charts.append(_chart(css, name, unit, points))
    return f'<h3>Scores over the steps</h3>\n<div class="charts">{"".join(charts)}</div>'


def _chart(css: str, name: str, unit: str, points: Sequence[_Point]) -> str:
    """Draw one curve over the steps as SVG, with its values as tooltips."""
    width, height, left, right, top, bottom = 320, 200, 38, 46, 30, 34
    ceiling = 1.0 if css == "dsc" else _nice_ceiling(max((y for _, y in points), default=0.0))

    def place(x: float, y: float) -> _Point:
        return left + (width - left - right) * x / STEPS[-1], top + (height - top - bottom) * (1 - y / ceiling)

    parts = [f'<text class="name" x="{left}" y="15">{name}{f" ({unit})" if unit else ""}</text>']
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        x, y = place(0, share * ceiling)
        parts.append(f'<line class="grid" x1="{x}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{x - 6}" y="{y + 4:.1f}" text-anchor="end">{share * ceiling:g}</text>')
    for step in (0, 5, 10):
        parts.append(f'<text x="{place(step, 0)[0]:.1f}" y="{height - 18}" text-anchor="middle">{step}</text>')
    parts.append(f'<text x="{place(5, 0)[0]:.1f}" y="{height - 3}" text-anchor="middle">step (click pairs)</text>')
    parts.append(_curve(css, unit, points, place))
    label = f"{name} over the steps"
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _curve(css: str, unit: str, points: Sequence[_Point], place: Callable[[float, float], _Point]) -> str:
    if not points:
        x, y = place(5, 0.5)
        return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="middle">not defined without lesions</text>'
    placed = [place(*point) for point in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    dots = "".join(
        f'<circle class="{css}-dot" cx="{x:.1f}" cy="{y:.1f}" r="3.6">'
        f"<title>step {step:g}: {value:.3f} {unit}</title></circle>"
        for (x, y), (step, value) in zip(placed, points, strict=True)
    )
    (x, y), value = placed[-1], points[-1][1]
    last = f'<text class="name" x="{x + 8:.1f}" y="{y + 4:.1f}">{value:.3g}</text>'
    return f'<polyline class="curve {css}-line" points="{line}"/>{dots}{last}'


def _nice_ceiling(value: float) -> float:
    """Return the smallest of 1, 2, 4, 8 times a power of ten that is not below `value`, and at least 1."""
    if value <= 1:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 4, 8, 10) if value <= factor * power)


def _view(replay: Replay, step: Step) -> str:
    tumor, background = _click_counts(step)
    dsc = "" if step.scores is None or math.isnan(step.scores.dsc) else f", DSC {step.scores.dsc:.3f}"
    caption = f"Step {step.number}: {tumor} + {background} clicks{dsc}"
    return picture(figures.projections_png(replay, step), replay.name, caption)


def _step_table(replay: Replay) -> str:
    head = ("Step", "Tumour clicks", "Background clicks", "Corrected", "Removed", "DSC", "FPV ml", "FNV ml", "Seconds")
    rows = []
    for step in replay.steps:
        scores = step.scores or Scores(math.nan, math.nan, math.nan)
        tumor, background, removed = step.acted or (0, 0, 0)
        acted = (f"{tumor} + {background}", str(removed)) if step.acted else (UNDEFINED, UNDEFINED)
        rows.append(
            [
                *map(str, (step.number, *_click_counts(step))),
                *acted,
                bar(scores.dsc),
                *(number(value, 2) for value in (scores.fpv_ml, scores.fnv_ml)),
                number(step.seconds, 1),
            ]
        )
    return table(head, rows)


def _click_counts(step: Step) -> tuple[int, int]:
    names = [click.name for click in step.clicks]
    return names.count(TUMOR), names.count(BACKGROUND)


_LEGEND = legend(
    [
        ("label", circle(figures.LABEL_COLOUR)),
        ("prediction", patch(figures.PREDICTION_COLOUR)),
        ("tumour click", cross(figures.TUMOR_COLOUR)),
        ("background click", cross(figures.BACKGROUND_COLOUR, "M6 3l10 10M16 3l-10 10")),
    ],
    'SUV {:g}<i class="ramp"></i>{:g} or more'.format(*figures.SUV_WINDOW),
)
