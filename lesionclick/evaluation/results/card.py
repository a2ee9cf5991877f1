"""A model card: its facts come from the model folder, its figures from files of results; none of them is typed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import ChoiceLoader, DictLoader, Environment, PackageLoader, StrictUndefined

from lesionclick.errors import InputError
from lesionclick.evaluation.results import tables
from lesionclick.evaluation.results.runs import RunResult
from lesionclick.evaluation.results.statistics import CONFIDENCE, RESAMPLES
from lesionclick.evaluation.results.summary import columns_with_values, require_values, summarise
from lesionclick.evaluation.tables import Cell, Table
from lesionclick.network.model_folder import ModelFolder

DEFAULT_TEMPLATE = "model_card.md"
"""Card of any model; a template of one's own may extend it and fill its blocks `training`, `limits`, `licence`."""


@dataclass(frozen=True)
class Facts:
    """What a model folder tells of its model.

    Attributes
    ----------
    task
        Of the model.
    network
        Name of its class.
    n_parameters, n_folds
        Of one network; how many there are.
    channels, encoding, n_click_channels
        Names of the images; how prompts become channels, and how many.
    spacing_zyx, patch_zyx
        What it sees: size of a voxel in mm, number of voxels.
    rules
        What follows the network.
    dataset, n_training
        Name of the training data, and how many cases it has.
    digest
        Of the folder's files, as a cohort records it.
    """

    task: str
    network: str
    n_parameters: int
    n_folds: int
    channels: Sequence[str]
    encoding: str
    n_click_channels: int
    spacing_zyx: Sequence[float]
    patch_zyx: Sequence[int]
    rules: str
    dataset: str
    n_training: int
    digest: str

    @classmethod
    def of(cls, folder: ModelFolder, digest: str) -> "Facts":
        """Return the facts of a model folder with a digest."""
        encoding = folder.prompt.encoding
        return cls(
            task=folder.prompt.task,
            network=folder.configuration.network_arch_class_name.rpartition(".")[2],
            n_parameters=sum(weights.numel() for weights in folder.networks[0].parameters()),
            n_folds=len(folder.networks),
            channels=list(folder.dataset["channel_names"].values()),
            encoding=encoding.name,
            n_click_channels=encoding.n_channels,
            spacing_zyx=folder.configuration.spacing,
            patch_zyx=folder.configuration.patch_size,
            rules=folder.prompt.rules,
            dataset=folder.plans.dataset_name,
            n_training=folder.dataset["numTraining"],
            digest=digest,
        )


@dataclass(frozen=True)
class Results:
    """What a card says of one run: where its scores come from, the challenge's table, and the means over the steps."""

    run: RunResult
    scores: Table
    steps: Table


def make_card(
    title: str, facts: Facts, runs: Sequence[RunResult], *, template: str | None = None, seed: int = 0
) -> str:
    """Return the text of a model card in Markdown.

    Parameters
    ----------
    title
        Of the card.
    facts
        Of the model.
    runs
        What the model was tried on.
    template
        Text of a Jinja2 template, which sees `title`, `facts` and `results`; `DEFAULT_TEMPLATE` by default.
    seed
        Of the resamples for the intervals.

    Raises
    ------
    InputError
        If a run is of another task or tells another model, has no scores, or does not name its data, its split and its
        seed.
    """
    for run in runs:
        _require_origin(run, facts)
    own = DictLoader({} if template is None else {"own": template})
    environment = Environment(
        loader=ChoiceLoader([own, PackageLoader("lesionclick.evaluation")]),
        autoescape=False,  # Markdown; names are escaped by the filters
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(table=markdown_table, text=markdown_text)
    text = environment.get_template("own" if template is not None else DEFAULT_TEMPLATE).render(
        title=title,
        facts=facts,
        results=[_results(run, seed) for run in runs],
        interval=f"{100 * CONFIDENCE:.0f} % bootstrap intervals (BCa, {RESAMPLES} resamples of the cases, seed {seed})",
    )
    return text.strip() + "\n"


def markdown_table(table: Table) -> str:
    """Return a table in Markdown, notes in brackets."""
    lines = [
        [markdown_text(title) for title in table.head],
        [":--" if column < table.n_texts else "--:" for column in range(len(table.head))],
        *([_cell(content) for content in row] for row in (*table.rows, *table.foot)),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown_text(text: str) -> str:
    """Return a text that Markdown shows as it is, in one line, also inside a table."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;")
    for mark in "\\|*`[]":
        escaped = escaped.replace(mark, f"\\{mark}")
    return " ".join(escaped.split())


def _cell(content: Cell | str) -> str:
    if isinstance(content, str):
        return markdown_text(content)
    return markdown_text(f"{content.text} ({content.note})" if content.note else content.text)


def _results(run: RunResult, seed: int) -> Results:
    columns = columns_with_values([run])
    groups = summarise(run, seed)
    measures = [column.measure for column in columns if column.kind == "last" and column.weight]
    return Results(run, tables.scores_table({run.name: groups}, columns), tables.steps_table(groups[-1], measures))


def _require_origin(run: RunResult, facts: Facts) -> None:
    if run.task != facts.task:
        raise InputError(f"{run.name}: expected results of {facts.task}, as the model is, found {run.task}")
    if run.origin.model and run.origin.model != facts.digest:
        raise InputError(f"{run.name}: expected results of the model {facts.digest}, found those of {run.origin.model}")
    require_values(run)
    for field, option in (("data", "--data"), ("split", "--split"), ("seed", "--data-seed")):
        if not getattr(run.origin, field):
            raise InputError(f"{run.name}: expected the {field} of its cases, found none; evaluate {option} names it")


def read_template(path: Path) -> str:
    """Read a template of one's own.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a template, found {error}") from error
