"""The command `export`."""

from pathlib import Path


def export(trained: Path, /, *, output: Path) -> None:
    """Write a trained model as a model folder, or as the archive that the platform takes.

    For example:

        lesionclick export out/train --output out/model.tar.gz

    Parameters
    ----------
    trained
        Output folder of `train`; all folds in it that are complete are exported.
    output
        Model folder, such as `resources/task1`, which replaces the one that is there; or an archive, `<name>.tar.gz`,
        to be unpacked at `/opt/ml/model`.
    """
    from lesionclick.training.export import export_model

    print(export_model(trained, output))
