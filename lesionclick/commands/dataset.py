"""The command `dataset`."""

from pathlib import Path

from cyclopts.types import PositiveInt


def dataset(download: Path, /, *, output: Path, processes: PositiveInt = 2) -> None:
    """Make a data set for training of a public download; what is broken is listed and left out.

    For example:

        lesionclick dataset DOWNLOAD --output nnUNet_raw/Dataset300_Longitudinal

    Parameters
    ----------
    download
        Folder of the challenge's PET/CTs or longitudinal CTs, or of public PET/CTs with a folder for each study.
    output
        New folder `Dataset<NNN>_<Name>`.
    processes
        How many read images side by side.
    """
    from lesionclick.commands.stopping import stops_with_its_processes
    from lesionclick.training.raw_sets import build_raw_set

    with stops_with_its_processes():
        built = build_raw_set(download, output, processes=processes)
    for name, reason in built.broken.items():
        print(f"broken: {name}: {reason}")
    print(f"{built.folder}: {len(built.cases)} cases from {built.layout}, {len(built.broken)} broken")
