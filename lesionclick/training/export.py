"""What was trained becomes what inference needs: a model folder, or the archive that the platform takes."""

import fcntl
import json
import pickle
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from lesionclick.errors import InputError, ModelError
from lesionclick.training.losses import FIRST_ORGAN

ARCHIVE = ".tar.gz"
_OTHER_ARCHIVES = (".zip", ".tgz", ".tar", ".gz", ".xz", ".bz2", ".7z")
OUTPUTS = ".seg_layers."
"""Part of the names of the weights that make the outputs at each resolution."""


def export_model(trained: Path, target: Path, *, half: bool = True) -> Path:
    """Write all folds that are complete, with what inference needs of them and `prompt.json`.

    Outputs for organs, which only training needs, are left out.

    Parameters
    ----------
    trained
        Output folder of `lesionclick.training.train.train`, or the folder ``<trainer>__<plans>__<configuration>`` of
        nnU-Net's results in it.
    target
        The new model folder, which replaces one that is there; or an archive ``<name>.tar.gz`` of its content, which
        the platform unpacks at ``/opt/ml/model``. It appears when it is complete.
    half
        Store the weights as float16, half the size; inference turns them back into float32.

    Raises
    ------
    ModelError
        If no fold has a final checkpoint, several trainings lie in `trained`, or it was trained by others.
    InputError
        If `target` is a folder with anything but a model, such as the training, or is another kind of archive, or if
        there is no room for it.
    """
    results = _find_results(trained)
    if "prompt" not in json.loads((results / "plans.json").read_text()):
        raise ModelError(f"{results / 'plans.json'}: expected plans of lesionclick train with a prompt, found others")
    _finished(results)
    target = target.resolve()
    archive = target.name.endswith(ARCHIVE)
    if results.resolve().is_relative_to(target):
        raise InputError(f"{target}: expected a new folder or a model folder to replace, found the training's results")
    if not archive and target.suffix.lower() in _OTHER_ARCHIVES:
        raise InputError(f"{target}: expected a folder or an archive {ARCHIVE}, found {target.suffix}")
    if not archive and not _is_replaceable(target):
        raise InputError(f"{target}: expected a new folder or a model folder to replace, found other files")
    with _locked(results), _temporary(target) as part:
        _write_model(results, _finished(results), part, half=half)
        if archive:
            packed = part / target.name
            with tarfile.open(packed, "w:gz") as file:
                for path in sorted(part.iterdir()):
                    if path != packed:
                        file.add(path, arcname=path.name, filter=_readable_by_all)
            packed.replace(target)
        else:
            shutil.rmtree(target, ignore_errors=True)
            part.rename(target)
    return target


def _is_replaceable(target: Path) -> bool:
    """Tell whether nothing but a model folder is lost if a folder is made there."""
    return not target.exists() or (target.is_dir() and ((target / "plans.json").is_file() or not any(target.iterdir())))


def _finished(results: Path) -> list[Path]:
    checkpoints = sorted(results.glob("fold_*/checkpoint_final.pth"))
    if not checkpoints:
        raise ModelError(f"{results}: expected fold_*/checkpoint_final.pth, found none; has the training ended?")
    return checkpoints


@contextmanager
def _locked(results: Path) -> Iterator[None]:
    """Let folds that end together export one after the other, so that the last export has all of them."""
    with ExitStack() as opened:
        with suppress(OSError):  # where nothing can be written or locked, an export is worth more than its turn
            fcntl.flock(opened.enter_context((results / ".export.lock").open("w")), fcntl.LOCK_EX)
        yield


@contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """Give a new folder beside `target`, which is gone in the end if it is still there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(".part", f".{target.name}.", target.parent))
    part.chmod(0o755)
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _readable_by_all(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Let the platform's user read a file, whoever unpacks the archive."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    member.mode = 0o755 if member.isdir() else 0o644
    return member


def _find_results(trained: Path) -> Path:
    if (trained / "plans.json").is_file():
        return trained
    found = sorted(path.parent for path in trained.glob("results/*/*/plans.json"))
    if len(found) != 1:
        listed = ", ".join(map(str, found)) or "none"
        raise ModelError(
            f"{trained}: expected one training in results/<data set>/<trainer>__<plans>__..., found {listed}"
        )
    return found[0]


def _load(path: Path) -> dict[str, Any]:
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ModelError(f"{path}: expected a whole checkpoint, found {error}") from error
    return checkpoint


def _write_model(results: Path, checkpoints: list[Path], target: Path, *, half: bool) -> None:
    plans = json.loads((results / "plans.json").read_text())
    (target / "prompt.json").write_text(json.dumps(plans.pop("prompt"), indent=2) + "\n")
    for key in ("minutes", "steps"):
        plans.pop(key, None)
    (target / "plans.json").write_text(json.dumps(plans, indent=2) + "\n")
    dataset = json.loads((results / "dataset.json").read_text())
    dataset.pop("organs", None)
    (target / "dataset.json").write_text(json.dumps(dataset, indent=4) + "\n")
    for source in checkpoints:
        checkpoint = _load(source)
        trained_weights = {
            name: tensor[:FIRST_ORGAN].clone() if OUTPUTS in name and len(tensor) > FIRST_ORGAN else tensor
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
        folder.mkdir()
        try:
            torch.save(kept, folder / source.name)
        except RuntimeError as error:  # what torch makes of a full disk
            raise InputError(f"{target.parent}: expected room for {source.name}, found {error}") from error
