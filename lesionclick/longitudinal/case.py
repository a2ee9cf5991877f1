"""The case of Task 2, read and checked. What is not as promised is refused; nothing is repaired.

Tolerated with one warning each: a mask and its CT whose grids differ by rounding (the CT's is used), and points that
lie outside their image or do not go with the mask.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from lesionclick.grand_challenge.case_folder import CaseFolder
from lesionclick.grand_challenge.click_files import read_lesion_points
from lesionclick.grand_challenge.interfaces import REGIONS, Region
from lesionclick.images import Grid, Volume, require_same_grid
from lesionclick.longitudinal.labels import LesionPoints, match_points, points_inside, warn_about_lesions

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Baseline:
    """The earlier CT of a body region in Task 2, with its lesions.

    Attributes
    ----------
    region
        ``primary`` or ``secondary``.
    ct
        CT in HU, float32.
    lesions
        The number of the lesion in each of its voxels and 0 elsewhere, uint16, on the grid of the CT.
    points
        A point in the image for every lesion; a lesion may have no voxel.
    """

    region: str
    ct: Volume
    lesions: Volume
    points: LesionPoints

    @classmethod
    def read(cls, folder: CaseFolder, region: Region) -> Baseline:
        """Read and check the baseline of a region, and bring its points and its mask together.

        Raises
        ------
        InputError
            If anything is missing, broken, or not what the platform promises.
        """
        ct_file, mask_file = folder.image(region.baseline_ct), folder.image(region.baseline_mask)
        require_same_grid(mask_file.grid, ct_file.grid, str(mask_file), str(ct_file))
        points = read_lesion_points(folder.json(region.baseline_clicks))
        ct, mask = ct_file.read(), mask_file.read_labels()
        if mask.grid != ct.grid:
            logger.warning("%s and %s: grids differ by rounding, the second is used", mask_file, ct_file)
            mask = Volume(mask.array, ct.grid)
        return cls(region.name, ct, *match_points(mask, points, region.baseline_clicks.slug, region.baseline_mask.slug))


@dataclass(frozen=True)
class Followup:
    """The later CT of a body region in Task 2, whose lesions are wanted.

    Attributes
    ----------
    region
        ``primary`` or ``secondary``.
    ct
        CT in HU, float32.
    points
        Points in the image, none in the first step.
    """

    region: str
    ct: Volume
    points: LesionPoints

    @classmethod
    def read(cls, folder: CaseFolder, region: Region) -> Followup:
        """Read and check the follow-up of a region.

        Raises
        ------
        InputError
            If anything is missing, broken, or not what the platform promises.
        """
        file = folder.image(region.followup_ct)
        points = read_followup_points(folder, region, file.grid)
        return cls(region.name, file.read(), points)


def read_followup_points(folder: CaseFolder, region: Region, grid: Grid) -> LesionPoints:
    """Read the points of a follow-up, those outside its image left out with a warning.

    Raises
    ------
    InputError
        If the file is missing, broken, or not what the platform promises.
    """
    points = read_lesion_points(folder.json(region.followup_clicks))
    inside = points_inside(points, grid.shape_zyx)
    what = f"the point lies outside the image of {grid.size_xyz} voxels (x, y, z) and is ignored"
    warn_about_lesions(region.followup_clicks.slug, points.keys() - inside, what)
    return inside


@dataclass(frozen=True)
class LongitudinalCase:
    """The input of Task 2: one or two of each, the primary region first."""

    baselines: tuple[Baseline, ...]
    followups: tuple[Followup, ...]

    @property
    def is_paired(self) -> bool:
        """Whether each follow-up has a baseline of its own region; numbers of two regions are then other lesions."""
        return {baseline.region for baseline in self.baselines} == {followup.region for followup in self.followups}

    @classmethod
    def read(cls, folder: CaseFolder) -> LongitudinalCase:
        """Read and check the case that the platform laid out.

        Raises
        ------
        InputError
            If anything is missing, broken, or not what the platform promises.
        """
        inputs = folder.interface.inputs
        return cls(
            tuple(Baseline.read(folder, region) for region in REGIONS if region.baseline_ct in inputs),
            tuple(Followup.read(folder, region) for region in REGIONS if region.followup_ct in inputs),
        )
