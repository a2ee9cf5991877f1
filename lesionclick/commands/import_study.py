"""The command `import`."""

from pathlib import Path


def import_study(study: Path, case: Path, /, *, pet: str | None = None, ct: str | None = None) -> None:
    """Make a case of Task 1, without clicks, of a PET/CT in DICOM files.

    For example:

        lesionclick import STUDY_DIR out/cases/9

    Parameters
    ----------
    study
        Folder of the study's files, in any order.
    case
        New case folder.
    pet
        Number or UID of the PET series, where there are several.
    ct
        Number or UID of the CT series, where there are several.
    """
    from lesionclick.dicom.study import read_study, write_case

    write_case(read_study(study, pet=pet, ct=ct).case, case)
    print(case)
