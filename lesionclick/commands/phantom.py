"""The command `phantom`."""

import sys
from pathlib import Path
from typing import Literal

from cyclopts.types import NonNegativeInt

from lesionclick.commands.options import FieldOfView, Seed, Spacing


def phantom(
    *,
    seed: Seed,
    tracer: Literal["fdg", "psma"],
    output: Path,
    label: Path | None = None,
    lesions: NonNegativeInt | None = None,
    spacing: Spacing | None = None,
    field_of_view: FieldOfView | None = None,
) -> None:
    r"""Write a digital patient with clicks as a case of Task 1.

    For example:

        lesionclick phantom --seed 7 --tracer psma --lesions 5 --spacing 8 8 8 \
            --output out/cases/7 --label out/labels/7.mha

    Parameters
    ----------
    seed
        The same seed and options give the same files.
    tracer
        Tracer of the PET.
    output
        Case folder.
    label
        File for the true mask.
    lesions
        Number of lesions, drawn if not given. One that finds no place is left out, and those that touch count as one.
    spacing
        Size of a voxel in mm; drawn if not given.
    field_of_view
        Lowest and highest part of the height from mid-thigh, 0, to vertex, 1; drawn if not given.
    """
    import cc3d

    from lesionclick.evaluation.samples import write_sample
    from lesionclick.simulation.patients import make_patient

    made = make_patient(seed, tracer, lesions=lesions, spacing_xyz=spacing, field_of_view=field_of_view)
    write_sample(made, seed, output, label)
    print(output)
    _, count = cc3d.connected_components(made.label.array, connectivity=26, return_N=True)
    if lesions not in (None, count):
        print(f"{output}: {count} lesions in place of {lesions}: some touch, or found no place", file=sys.stderr)
