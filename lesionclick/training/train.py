"""From a data set in nnU-Net's raw layout to a model folder: plan, preprocess, train, export."""

import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lesionclick.errors import InputError
from lesionclick.network.checkpoints import find_checkpoints
from lesionclick.training.distributed import run_on_gpus
from lesionclick.training.export import export_model
from lesionclick.training.places import balance_lesions, list_places
from lesionclick.training.plans import CHANNELS, RECIPES, adapt_plans
from lesionclick.training.raw_layout import require_raw_set
from lesionclick.training.raw_sets import read_split
from lesionclick.training.warm_start import take_weights

_LOG = logging.getLogger(__name__)
_TRAINERS = Path(__file__).parent / "nnunet"
_PLANS_NAMES = {"nnUNetPlannerResEncL": "nnUNetResEncUNetLPlans"}
"""Names of the plans of planners that do not call them ``nnUNetPlans``."""
_INTENSITY_SAMPLES = 1_000_000
"""Voxels whose intensities nnU-Net looks at in all: a hundredth of its own number, since the plans get fixed ones."""
_NNUNETS_FOLDS = 5
"""Folds that nnU-Net deals cases out to where no split is given."""
_PREPARED = "prepared.json"
"""Beside the preprocessed data, once they are complete: what they were prepared for."""


@dataclass(frozen=True)
class Training:
    """One fold to train, of data that `prepare` has made ready; its attributes are the parameters of `train`."""

    task: str
    dataset: Path
    config: str
    output: Path
    device: str = "auto"
    minutes: float = 75.0
    fold: str = "0"
    resume: bool = False
    initial: Path | None = None

    def run(self) -> None:
        """Train, in this process and on its GPU."""
        set_folders(self.dataset.parent, self.output)
        recipe = RECIPES[self.task, self.config]
        trainer = make_trainer(
            find_trainer(recipe.trainer),
            self.task,
            self.dataset.name,
            self.config,
            output=self.output,
            device=self.device,
            fold=self.fold,
            resume=self.resume,
            changes={"minutes": self.minutes},
        )
        if self.initial is not None and not trainer.was_initialized:
            trainer.initialize()
            take_weights(_unwrapped(trainer.network), self.initial, recipe.sureness)
        if not self.resume:  # only now that nothing is left that can be refused
            _forget_other_trainings(Path(trainer.output_folder), resume=False)
        trainer.run_training()


def train(
    task: str,
    dataset: Path,
    config: str,
    output: Path,
    *,
    device: str = "auto",
    minutes: float = 75.0,
    fold: str = "0",
    processes: int = 2,
    gpus: int = 1,
    resume: bool = False,
    initial: Path | None = None,
) -> Path:
    """Train a model of one of the tasks and export its model folder, with all folds in `output` that are complete.

    Parameters
    ----------
    task
        ``task1``: interactive PET/CT. ``task2``: longitudinal CT, from single CTs.
    dataset
        Raw data set folder ``Dataset<NNN>_<Name>`` with ``imagesTr`` (``_0000`` CT and, for Task 1, ``_0001`` PET in
        SUV), ``labelsTr``, ``dataset.json`` and, if wanted, ``splits_final.json``. A case may stand in a split's
        ``train`` list several times, to be drawn that much more often. ``dataset.json`` may name ``organs``, whose
        labels are 2 and so on: ``small`` learns them beside the lesions, as outputs that the exported model lacks;
        the others take them for background.
    config
        ``small`` (CPU; ends after `minutes`), ``standard`` or ``large``; for Task 1 the last two are nnU-Net's own
        plans and its ResEnc-L preset.
    output
        Folder for nnU-Net's preprocessed data, checkpoints and logs; the model folder is ``<output>/model``.
    device
        ``cpu``, ``cuda`` or ``auto``.
    minutes
        Training time of ``small``.
    fold
        Fold of the splits, or ``all``.
    processes
        Worker processes for preprocessing.
    gpus
        GPUs of this machine that train together; each takes a part of every batch.
    resume
        Continue from the last checkpoint, or begin where there is none; data that are prepared are not prepared again.
        With more `minutes` than before, a training that has ended is prolonged.
    initial
        Model folder whose first fold gives the weights to begin with; its network may be smaller, but must be of the
        same kind.

    Returns
    -------
    Path
        The model folder.

    Raises
    ------
    InputError
        If the data set folder is not in nnU-Net's raw layout, no split has `fold`, or `gpus` do not fit machine, device
        or `config`.
    ModelError
        If `initial` cannot be read, or its weights do not fit the network.
    """
    _require_gpus(gpus, device, config)
    if (dataset / "splits_final.json").is_file():  # before hours of preparing
        _require_fold(fold, dataset)
    if not resume or not _is_prepared(task, dataset, config, output):
        if initial is not None:
            find_checkpoints(initial)
        prepare(task, dataset, config, output, minutes=minutes, processes=processes)
    _require_fold(fold, output / "preprocessed" / dataset.name)
    training = Training(
        task, dataset, config, output, device=device, minutes=minutes, fold=fold, resume=resume, initial=initial
    )
    if gpus == 1:
        training.run()
    else:
        run_on_gpus(training.run, gpus)
    return export_model(output, output / "model")


def _require_fold(fold: str, folder: Path) -> None:
    """Refuse a fold that no split has: nnU-Net would part patients at random, and no case could be held out."""
    splits = folder / "splits_final.json"
    given = read_split(splits)
    count = _NNUNETS_FOLDS if given is None else len(given)
    if fold != "all" and int(fold) >= count:
        raise InputError(f"{splits}: expected a fold from 0 to {count - 1}, or all, found {fold}")


def _require_gpus(gpus: int, device: str, config: str) -> None:
    if gpus == 1:
        return
    if config == "small" or device == "cpu":
        raise InputError(f"expected one GPU, or none, for configuration {config} on device {device}, found {gpus} GPUs")
    if (there := torch.cuda.device_count()) < gpus:
        raise InputError(f"expected {gpus} GPUs, found {there}")


def _unwrapped(network: Any) -> nn.Module:
    """Return a network without what several GPUs and compiling wrap it in."""
    inner: nn.Module = getattr(network, "module", network)
    original: nn.Module = getattr(inner, "_orig_mod", inner)
    return original


def set_folders(raw: Path, output: Path) -> None:
    """Set what nnU-Net reads from the environment: its folders."""
    os.environ.update(
        nnUNet_raw=str(raw),
        nnUNet_preprocessed=str(output / "preprocessed"),
        nnUNet_results=str(output / "results"),
        nnUNet_extTrainer=str(_TRAINERS),
    )


def prepare(task: str, dataset: Path, config: str, output: Path, *, minutes: float = 75.0, processes: int = 2) -> Path:
    """Plan and preprocess a data set, and return the folder of the result.

    The parameters are those of `train`. What was prepared in `output` before is made anew.

    Raises
    ------
    InputError
        If the data set folder is not in nnU-Net's raw layout, or its channels are not those of the task.
    """
    require_raw_set(dataset, task, CHANNELS[task])
    set_folders(dataset.parent, output)
    from nnunetv2.experiment_planning.dataset_fingerprint.fingerprint_extractor import DatasetFingerprintExtractor
    from nnunetv2.experiment_planning.plan_and_preprocess_api import plan_experiments, preprocess

    recipe = RECIPES[task, config]
    number = int(dataset.name[len("Dataset") :].split("_")[0])
    preprocessed = output / "preprocessed" / dataset.name
    (preprocessed / _PREPARED).unlink(missing_ok=True)
    extractor = DatasetFingerprintExtractor(number, processes)
    extractor.num_foreground_voxels_for_intensitystats = _INTENSITY_SAMPLES
    extractor.run(overwrite_existing=True)
    plans_name = plan_experiments([number], recipe.planner)
    adapt_plans(preprocessed / f"{plans_name}.json", task, config, minutes)
    preprocess([number], plans_name, (recipe.configuration,), (processes,))
    _list_places(task, config, preprocessed, plans_name, configuration=recipe.configuration)
    split = preprocessed / "splits_final.json"
    split.unlink(missing_ok=True)  # nnU-Net leaves one of its own there, of the cases of that time
    if (dataset / split.name).is_file():
        shutil.copyfile(dataset / split.name, split)
    (preprocessed / _PREPARED).write_text(json.dumps([task, config]))
    return preprocessed


def _is_prepared(task: str, dataset: Path, config: str, output: Path) -> bool:
    sign = output / "preprocessed" / dataset.name / _PREPARED
    return sign.is_file() and json.loads(sign.read_text()) == [task, config]


def make_trainer(
    trainer_class: type,
    task: str,
    dataset_name: str,
    config: str,
    *,
    output: Path,
    device: str,
    fold: str = "0",
    resume: bool = False,
    changes: Mapping[str, Any] | None = None,
) -> Any:
    """Return a trainer for a data set that `prepare` has made ready.

    Parameters
    ----------
    trainer_class
        Made of nnU-Net's trainer.
    task, config, output, device, fold, resume
        As in `train`.
    dataset_name
        Name of the data set's folder.
    changes
        Changes of the plans and, under the key ``configuration``, of the planned configuration.
    """
    from nnunetv2.run.run_training import maybe_load_checkpoint

    recipe = RECIPES[task, config]
    preprocessed = output / "preprocessed" / dataset_name
    plans_name = _PLANS_NAMES.get(recipe.planner, "nnUNetPlans")
    plans = json.loads((preprocessed / f"{plans_name}.json").read_text())
    changes = dict(changes or {})
    plans["configurations"][recipe.configuration] |= changes.pop("configuration", {})
    chosen = torch.device("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else torch.device(device)
    torch.backends.cudnn.benchmark = chosen.type == "cuda"  # as nnU-Net does: all patches are of one size
    if chosen.type == "cpu":
        os.environ.setdefault("nnUNet_n_proc_DA", "1")  # one worker keeps up with a network that has the other cores
    _LOG.info("training %s on %s, fold %s", config, chosen, fold)
    trainer = trainer_class(
        plans={**plans, **changes, "continue_training": resume},
        configuration=recipe.configuration,
        fold=fold if fold == "all" else int(fold),
        dataset_json=json.loads((preprocessed / "dataset.json").read_text()),
        device=chosen,
    )
    if resume:
        _forget_other_trainings(Path(trainer.output_folder), resume=True)
    maybe_load_checkpoint(trainer, resume, validation_only=False)
    return trainer


def _forget_other_trainings(folder: Path, *, resume: bool) -> None:
    """Remove the checkpoints that are not of the training that begins or goes on.

    nnU-Net goes on from the final checkpoint where there is one. When a training ends, nnU-Net writes that one and then
    removes the latest; so a final one that is older than the latest is an earlier training's.
    """
    final, latest = (folder / f"checkpoint_{name}.pth" for name in ("final", "latest"))
    others: Sequence[str] = ()
    if not resume:
        others = ("final", "latest", "best")
    elif final.is_file() and latest.is_file():
        others = ("final",) if final.stat().st_mtime_ns < latest.stat().st_mtime_ns else ("latest",)
    for name in others:
        (folder / f"checkpoint_{name}.pth").unlink(missing_ok=True)


def _list_places(task: str, config: str, preprocessed: Path, plans_name: str, *, configuration: str) -> None:
    """Write into the preprocessed cases where their patches are drawn from; nnU-Net's own lists stay otherwise."""
    plans = json.loads((preprocessed / f"{plans_name}.json").read_text())
    data = plans["configurations"][configuration]
    if task == "task2":
        balance_lesions(preprocessed / data["data_identifier"])
    elif config == "small":
        intensities = plans["foreground_intensity_properties_per_channel"]
        list_places(preprocessed / data["data_identifier"], data["patch_size"], intensities)


def find_trainer(name: str) -> Any:
    """Return one of our trainer classes, by the search that nnU-Net makes in the folder of `nnUNet_extTrainer`.

    nnU-Net looks through its own trainers first and imports all of them, those with further dependencies too; this
    goes to our folder at once.
    """
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    folder = str(_TRAINERS)
    return recursive_find_python_class(folder, name, None, base_folder=folder, cleanup_imports_from_base_folder=True)
