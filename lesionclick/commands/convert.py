"""The command `convert`."""

from pathlib import Path


def convert(download: Path, /, *, output: Path) -> None:
    """Make a data set for training of the challenge's longitudinal CTs.

    For example:

        lesionclick convert DOWNLOAD --output nnUNet_raw/Dataset300_Longitudinal

    Parameters
    ----------
    download
        Folder with `inputsTr` and `targetsTr`.
    output
        New folder `Dataset<NNN>_<Name>`.
    """
    from lesionclick.training.conversion import convert as convert_download

    print(convert_download(download, output))
