"""From a data set in nnU-Net's raw layout to a model folder: plan, preprocess, train, export."""

import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lesionclick.errors import InputError, ModelError
from lesionclick.network.checkpoints import Checkpoint, find_checkpoints
from lesionclick.training.losses import FIRST_ORGAN
from lesionclick.training.places import balance_lesions, list_places
from lesionclick.training.plans import RECIPES, adapt_plans

_LOG = logging.getLogger(__name__)
_TRAINERS = Path(__file__).parent / "nnunet"
_PLANS_NAMES = {"nnUNetPlannerResEncL": "nnUNetResEncUNetLPlans"}
"""Names of the plans of planners that do not call them ``nnUNetPlans``."""
_N_IMAGES = 2
_OUTPUTS = ".seg_layers."
"""Part of the names of the weights that make the outputs at each resolution."""


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
    resume: bool = False,
    initial: Path | None = None,
) -> Path:
    """Train a model of one of the tasks and export its model folder.

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
    resume
        Continue from the last checkpoint; the data are not preprocessed again. With more `minutes` than before, a
        training that has ended is prolonged.
    initial
        Model folder whose first fold gives the weights to begin with; its network must be of the same architecture.

    Returns
    -------
    Path
        The model folder.

    Raises
    ------
    InputError
        If the data set folder is not in nnU-Net's raw layout.
    ModelError
        If `initial` cannot be read, or its weights do not fit the network.
    """
    if not (dataset / "dataset.json").is_file() or not dataset.name.startswith("Dataset"):
        raise InputError(f"{dataset}: expected a folder Dataset<NNN>_<Name> with dataset.json, imagesTr and labelsTr")
    recipe = RECIPES[task, config]
    set_folders(dataset.parent, output)
    if not resume:
        prepare(task, dataset, config, output, minutes=minutes, processes=processes)
    trainer = make_trainer(
        find_trainer(recipe.trainer),
        task,
        dataset.name,
        config,
        output=output,
        device=device,
        fold=fold,
        resume=resume,
        changes={"minutes": minutes},
    )
    if initial is not None and not resume:
        trainer.initialize()
        take_weights(trainer.network, initial, recipe.sureness)
    trainer.run_training()
    return export_model(Path(trainer.output_folder_base), output / "model")


def set_folders(raw: Path, output: Path) -> None:
    """Set what nnU-Net reads from the environment: its folders."""
    os.environ.update(
        nnUNet_raw=str(raw),
        nnUNet_preprocessed=str(output / "preprocessed"),
        nnUNet_results=str(output / "results"),
        nnUNet_extTrainer=str(_TRAINERS),
    )


def prepare(task: str, dataset: Path, config: str, output: Path, *, minutes: float, processes: int) -> None:
    """Plan and preprocess a data set; the parameters are those of `train`."""
    set_folders(dataset.parent, output)
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    recipe = RECIPES[task, config]
    number = int(dataset.name[len("Dataset") :].split("_")[0])
    preprocessed = output / "preprocessed" / dataset.name
    extract_fingerprints([number], num_processes=processes)
    plans_name = plan_experiments([number], recipe.planner)
    adapt_plans(preprocessed / f"{plans_name}.json", task, config, minutes)
    preprocess([number], plans_name, (recipe.configuration,), (processes,))
    _list_places(task, config, preprocessed, plans_name, configuration=recipe.configuration)
    if (dataset / "splits_final.json").is_file():
        shutil.copyfile(dataset / "splits_final.json", preprocessed / "splits_final.json")


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
    maybe_load_checkpoint(trainer, resume, validation_only=False)
    return trainer


def _list_places(task: str, config: str, preprocessed: Path, plans_name: str, *, configuration: str) -> None:
    """Write into the preprocessed cases where their patches are drawn from; nnU-Net's own lists stay otherwise."""
    plans = json.loads((preprocessed / f"{plans_name}.json").read_text())
    data = plans["configurations"][configuration]
    if task == "task2":
        balance_lesions(preprocessed / data["data_identifier"])
    elif config == "small":
        intensities = plans["foreground_intensity_properties_per_channel"]
        list_places(preprocessed / data["data_identifier"], data["patch_size"], intensities)


def take_weights(network: nn.Module, initial: Path, sureness: float = 1.0) -> None:
    """Load the weights of a model folder's first fold into a network.

    Its logits are multiplied by `sureness`: where a network is sure and wrong, the Dice has no gradient.

    Where the first convolution sees another number of channels, because clicks are encoded in another way, CT and PET
    take over their weights and the click channels begin anew; so do outputs for organs, which no model folder has.

    Raises
    ------
    ModelError
        If the folder cannot be read, or its weights do not fit the network.
    """
    checkpoint = Checkpoint.read(find_checkpoints(initial)[0])
    weights = {name: tensor.float() for name, tensor in checkpoint.weights.items()}
    known = network.state_dict()
    for name in known.keys() & weights.keys():
        expected, found = known[name], weights[name]
        if expected.ndim == found.ndim == 5 and expected.shape[1] != found.shape[1]:
            weights[name] = torch.cat([found[:, :_N_IMAGES], expected[:, _N_IMAGES:]], dim=1)
        elif _OUTPUTS in name and len(expected) > len(found) == FIRST_ORGAN:
            weights[name] = torch.cat([found, expected[FIRST_ORGAN:]])
        if _OUTPUTS in name:
            weights[name] = sureness * weights[name]
    misfits = [name for name in known.keys() | weights.keys() if _shape(known, name) != _shape(weights, name)]
    if misfits:
        first = min(misfits)
        raise ModelError(
            f"{initial}: {len(misfits)} weights do not fit the planned network, such as {first}: "
            f"expected {_shape(known, first)}, found {_shape(weights, first)}"
        )
    network.load_state_dict(weights)


def _shape(weights: Mapping[str, torch.Tensor], name: str) -> tuple[int, ...] | None:
    return tuple(weights[name].shape) if name in weights else None


def find_trainer(name: str) -> Any:
    """Return one of our trainer classes, by the search that nnU-Net makes in the folder of `nnUNet_extTrainer`.

    nnU-Net looks through its own trainers first and imports all of them, those with further dependencies too; this
    goes to our folder at once.
    """
    from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

    folder = str(_TRAINERS)
    return recursive_find_python_class(folder, name, None, base_folder=folder, cleanup_imports_from_base_folder=True)


def export_model(trained: Path, target: Path, *, half: bool = True) -> Path:
    """Copy what inference needs from nnU-Net's results folder, and write `prompt.json`.

    Outputs for organs, which only training needs, are left out.

    Parameters
    ----------
    trained
        nnU-Net's results folder ``<trainer>__<plans>__<configuration>`` with its folds.
    target
        The model folder; created or overwritten.
    half
        Store the weights as float16, half the size; inference turns them back into float32.

    Raises
    ------
    ModelError
        If no fold has a final checkpoint.
    """
    checkpoints = sorted(trained.glob("fold_*/checkpoint_final.pth"))
    if not checkpoints:
        raise ModelError(f"{trained}: expected fold_*/checkpoint_final.pth, found none; has the training ended?")
    plans = json.loads((trained / "plans.json").read_text())
    target.mkdir(parents=True, exist_ok=True)
    (target / "prompt.json").write_text(json.dumps(plans.pop("prompt"), indent=2) + "\n")
    for key in ("minutes", "steps"):
        plans.pop(key, None)
    (target / "plans.json").write_text(json.dumps(plans, indent=2) + "\n")
    dataset = json.loads((trained / "dataset.json").read_text())
    dataset.pop("organs", None)
    (target / "dataset.json").write_text(json.dumps(dataset, indent=4) + "\n")
    for source in checkpoints:
        checkpoint = torch.load(source, map_location="cpu", weights_only=False)
        trained_weights = {
            name: tensor[:FIRST_ORGAN].clone() if _OUTPUTS in name and len(tensor) > FIRST_ORGAN else tensor
            for name, tensor in checkpoint["network_weights"].items()
        }
        # nnU-Net's networks name most weights twice; what was one storage stays one, also as float16
        stored = {
            tensor.data_ptr(): tensor.half() if half and tensor.is_floating_point() else tensor
            for tensor in trained_weights.values()
        }
        weights = {name: stored[tensor.data_ptr()] for name, tensor in trained_weights.items()}
        kept = {
            "network_weights": weights,
            "trainer_name": checkpoint["trainer_name"],
            "init_args": {"configuration": checkpoint["init_args"]["configuration"]},
            "inference_allowed_mirroring_axes": checkpoint["inference_allowed_mirroring_axes"],
        }
        folder = target / source.parent.name
        folder.mkdir(exist_ok=True)
        torch.save(kept, folder / source.name)
    return target
