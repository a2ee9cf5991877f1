"""The command `train`."""

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.types import PositiveFloat, PositiveInt


def _require_fold(_type: Any, fold: int | str) -> None:
    if isinstance(fold, int) and fold < 0:
        raise ValueError("Must be >= 0 or all.")


_Fold = Annotated[int | Literal["all"], Parameter(validator=_require_fold)]


def train(
    task: Literal["task1", "task2"],
    /,
    *,
    dataset: Path,
    config: Literal["small", "standard", "large"],
    output: Path,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    fold: _Fold = 0,
    minutes: PositiveFloat = 75.0,
    processes: PositiveInt = 2,
    gpus: PositiveInt = 1,
    initial: Path | None = None,
    resume: bool = False,
    prepare_only: bool = False,
) -> None:
    r"""Train a model.

    For example:

        lesionclick train task1 --dataset nnUNet_raw/Dataset221_AutoPETIV \
            --config standard --output out/train

    Parameters
    ----------
    task
        Task of the model.
    dataset
        Data set folder `Dataset<NNN>_<Name>` in nnU-Net's raw layout.
    config
        Size of the network and length of the training; `small` is for a CPU.
    output
        Folder for all that training writes; the model folder is `model` there.
    device
        Where to train; `auto` takes a GPU if there is one.
    fold
        Fold of the splits, or all.
    minutes
        Training time of `small`.
    processes
        How many preprocess side by side.
    gpus
        GPUs of this machine that train together, sharing each batch.
    initial
        Model folder whose weights to begin with.
    resume
        Continue from the last checkpoint, or begin where there is none; what is preprocessed stays.
    prepare_only
        End when the data are preprocessed, which needs no GPU; go on with `--resume`.
    """
    from lesionclick.commands.stopping import stops_with_its_processes
    from lesionclick.training.train import prepare
    from lesionclick.training.train import train as train_model

    with stops_with_its_processes():
        if prepare_only:
            folder = prepare(task, dataset, config, output, minutes=minutes, processes=processes)
        else:
            folder = train_model(
                task,
                dataset,
                config,
                output,
                device=device,
                minutes=minutes,
                fold=str(fold),
                processes=processes,
                gpus=gpus,
                resume=resume,
                initial=initial,
            )
    print(folder)
