"""The command `held-out`."""

from pathlib import Path

from cyclopts.types import NonNegativeInt

from lesionclick.commands.options import Seed


def held_out(dataset: Path, /, *, output: Path, fold: NonNegativeInt = 0, seed: Seed = 0) -> None:
    """Write the cases that a fold was not trained on, to be replayed and scored.

    For example:

        lesionclick held-out nnUNet_raw/Dataset221_AutoPETIV --fold 0 --output out/held-out

    Parameters
    ----------
    dataset
        Data set folder that `dataset` has made.
    output
        Folder for `cases` in the platform's layout, and `labels`.
    fold
        Fold of the splits.
    seed
        Of the clicks.
    """
    from lesionclick.evaluation.held_out import write_held_out

    names = write_held_out(dataset, fold, output, seed=seed)
    print(f"{output}: {len(names)} cases of fold {fold}")
