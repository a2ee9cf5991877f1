"""The command `import`."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lesionclick.errors import InputError


def import_study(
    *paths: Annotated[Path, Parameter(name="STUDY CASE | CT PET CASE")], pet: str | None = None, ct: str | None = None
) -> None:
    """Make a case of Task 1, without clicks, of a PET/CT in DICOM files or of two images.

    For example:

        lesionclick import STUDY_DIR out/cases/9
        lesionclick import CT.nii.gz PET.nii.gz out/cases/9

    Parameters
    ----------
    paths
        Folder of a DICOM study, or a CT in HU and a PET in SUV in this order (NIfTI, MetaImage or NRRD); then the new
        case folder. A CT on another grid is resampled to the PET's.
    pet
        Number or UID of the PET series of a study, where there are several.
    ct
        Number or UID of the CT series of a study, where there are several.
    """
    from lesionclick.petct.case import PetCtCase

    if len(paths) > 2 and (pet or ct):
        raise InputError("import: expected no --pet and no --ct with two images; they choose series of a DICOM study")
    match paths:
        case [study, folder]:
            from lesionclick.dicom.study import read_study

            made = read_study(study, pet=pet, ct=ct).case
        case [ct_file, pet_file, folder]:
            made = PetCtCase.from_files(ct_file, pet_file)
        case _:
            raise InputError(f"import: expected STUDY CASE or CT PET CASE, found {len(paths)} paths")
    made.write(folder)
    print(folder)
