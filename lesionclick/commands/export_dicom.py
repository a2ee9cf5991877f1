"""The command `export-dicom`."""

from pathlib import Path


def export_dicom(
    study: Path, mask: Path, /, *, output: Path, report: Path | None = None, pet: str | None = None
) -> None:
    r"""Write a mask as a DICOM segmentation of the study's PET, with a segment for each lesion.

    For example:

        lesionclick export-dicom STUDY_DIR out/mask.mha \
            --output out/lesions.dcm --report out/measurements.dcm

    Parameters
    ----------
    study
        Folder of the study's files, in any order.
    mask
        Mask on the PET's grid.
    output
        File for the segmentation.
    report
        File for a structured report of the lesions: volume, SUV, glycolysis.
    pet
        Number or UID of the PET series, where there are several.
    """
    import numpy as np

    from lesionclick.dicom.report import write_report
    from lesionclick.dicom.segmentation import write_segmentation
    from lesionclick.dicom.study import find_pet, read_suv
    from lesionclick.errors import InputError
    from lesionclick.grand_challenge.image_files import require_writable
    from lesionclick.images import Volume
    from lesionclick.petct.quantification import quantify

    if report is not None and report.resolve() == output.resolve():
        raise InputError(f"{report}: expected another file for the report than for the segmentation")
    series, drawn = find_pet(study, pet=pet), Volume.read(mask)
    if not np.isfinite(drawn.array).all():
        raise InputError(f"{mask}: expected a mask, found voxels that are NaN or infinite")
    found = quantify(drawn, read_suv(series))
    for path in (output, report):
        if path is not None:
            require_writable(path.parent)  # or there would be a segmentation and no report
    print(write_segmentation(output, found.numbers, series))
    if report is not None:
        print(write_report(report, found.lesions, output, series))
