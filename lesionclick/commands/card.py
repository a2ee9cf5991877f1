"""The command `card`."""

from pathlib import Path

from lesionclick.commands.options import Seed


def card(
    model: Path,
    /,
    *,
    results: list[Path],
    output: Path | None = None,
    template: Path | None = None,
    title: str | None = None,
    seed: Seed = 0,
) -> None:
    """Write the card of a model: its facts from its folder, its figures from files of results, none of them typed.

    For example:

        lesionclick card out/train/model --results out/evaluation/results.json

    Parameters
    ----------
    model
        Model folder.
    results
        What `evaluate` or a benchmark wrote: runs that name their data, split and seed.
    output
        File to write; `MODEL_CARD.md` in the model folder by default.
    template
        Jinja2 template; it may extend `model_card.md` and fill its blocks `training`, `limits` and `licence`.
    title
        Of the card; the name of the model's folder by default.
    seed
        Of the resamples for the intervals.
    """
    from lesionclick.cohort.fingerprints import digest_models
    from lesionclick.evaluation.results.card import Facts, make_card, read_template
    from lesionclick.evaluation.results.files import read_runs, write_text
    from lesionclick.grand_challenge.image_files import require_writable
    from lesionclick.network.model_folder import read_prompt_spec
    from lesionclick.tasks import TASKS

    task = read_prompt_spec(model).task
    facts = Facts.of(TASKS[task].load(model).content, digest_models(model)[task])
    runs = [run for path in results for run in read_runs(path)]
    own = read_template(template) if template else None
    text = make_card(title or model.resolve().name, facts, runs, template=own, seed=seed)
    path = output or model / "MODEL_CARD.md"
    require_writable(path.parent)
    write_text(path, text)
    print(f"card: {path}")
