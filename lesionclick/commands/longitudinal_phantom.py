"""The command `longitudinal-phantom`."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter
from cyclopts.types import PositiveInt
from cyclopts.validators import mutually_exclusive

from lesionclick.commands.options import FieldOfView, Seed, Spacing

_SECOND_REGION = Parameter(group=Group(show=False, validator=mutually_exclusive))


def longitudinal_phantom(
    *,
    seed: Seed,
    output: Path,
    labels: Path | None = None,
    lesions: PositiveInt = 12,
    spacing: Spacing = (2.0, 2.0, 3.0),
    field_of_view: FieldOfView | None = None,
    secondary_field_of_view: Annotated[FieldOfView | None, _SECOND_REGION] = None,
    halved: Annotated[Literal["baseline", "follow-up"] | None, _SECOND_REGION] = None,
) -> None:
    r"""Write a digital patient at two times as a case of Task 2.

    For example:

        lesionclick longitudinal-phantom --seed 8 --spacing 8 8 8 \
            --output out/cases/8 --labels out/labels/8

    Parameters
    ----------
    seed
        The same seed and options give the same files.
    output
        Case folder.
    labels
        Folder for the true masks of the follow-up, `<region>.mha`.
    lesions
        Number of lesions of a region.
    spacing
        Size of a voxel in mm.
    field_of_view
        Lowest and highest part of the height from mid-thigh, 0, to vertex, 1; drawn if not given.
    secondary_field_of_view
        That of a secondary region, which the case has only then.
    halved
        Scan that comes as two, its upper half as the primary region, its lower half as the secondary.
    """
    from lesionclick.evaluation.samples import phantom_visits, write_longitudinal_sample
    from lesionclick.grand_challenge.interfaces import PRIMARY, SECONDARY

    views = [(PRIMARY, field_of_view)]
    if secondary_field_of_view:
        views.append((SECONDARY, secondary_field_of_view))
    visits = [
        phantom_visits(
            seed, lesions, spacing_xyz=spacing, field_of_view=view, region=region, first=1 + number * lesions
        )
        for number, (region, view) in enumerate(views)
    ]
    # the images' UUIDs follow from this name
    write_longitudinal_sample(visits, f"courses {seed}", output, labels, halved=halved)
    print(output)
