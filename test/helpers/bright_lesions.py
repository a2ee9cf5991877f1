"""Tissue with bright boxes for lesions, and models that see them, for tests of Task 2."""

from dataclasses import dataclass

import numpy as np

from lesionclick.budget import Plan
from lesionclick.images import Grid, Volume
from lesionclick.longitudinal import masks
from lesionclick.longitudinal.case import Baseline, Followup
from lesionclick.longitudinal.lesions import Lesion
from lesionclick.prompts.encodings import LesionPair

GRID = Grid((40, 36, 20), (2.0, 2.0, 3.0), (-40.0, -36.0, 50.0))
TISSUE, BRIGHT = 40.0, 100.0
BOX = ((10, 12, 8), 4)
OTHER = ((26, 20, 8), 4)
OTHER_SIDE = ((33, 28, 8), 4)


@dataclass
class BrightIsLesion:
    """A model that takes for lesion what is brighter than tissue: +`sure` there, -5 elsewhere."""

    sure: float = 5.0
    patch_size: tuple[int, ...] = (12, 16, 16)
    spacing_zyx: tuple[float, ...] = (3.0, 2.0, 2.0)
    at_once: int = 1
    folds: int = 1
    mirror_axes: tuple[int, ...] = ()
    first_plan = Plan(1)

    def __post_init__(self):
        self.seen = []
        self.together = []
        self.plans = []
        self.encoding = LesionPair(radius=10.0, mask_mm=8.0)

    def normalise(self, ct):
        return ct

    def close_plan(self, *, sized):
        return Plan(self.folds, self.mirror_axes if sized else ())

    def predict_lesion_logits(self, patches, plan):
        self.seen += patches
        self.plans.append(plan)
        self.together.append(len(patches))
        return [np.where(one[0] > (TISSUE + BRIGHT) / 2, self.sure, -5.0).astype(np.float32) for one in patches]


class SeesWhatHasAnEdge(BrightIsLesion):
    """The same, blind where a lesion goes on beyond the patch."""

    def predict_lesion_logits(self, patches, plan):
        seen = super().predict_lesion_logits(patches, plan)
        faces = [[one.take(end, axis) for axis in range(3) for end in (0, -1)] for one in seen]
        return [
            np.full_like(one, -5.0) if any((face > 0).any() for face in around) else one
            for one, around in zip(seen, faces, strict=True)
        ]


def image(*boxes, grid=GRID, value=BRIGHT):
    """Tissue with bright boxes, given by their first voxel (x, y, z) and their size along each axis."""
    array = np.full(grid.shape_zyx, TISSUE, dtype=np.float32)
    for (x, y, z), size in boxes:
        array[z : z + size, y : y + size, x : x + size] = value
    return Volume(array, grid)


def centre(box):
    (x, y, z), size = box
    return (x + (size - 1) / 2, y + (size - 1) / 2, z + (size - 1) / 2)


def baseline(*boxes, grid=GRID, region="primary", first=1):
    ct = image(*boxes, grid=grid)
    numbers = np.zeros(grid.shape_zyx, dtype=np.uint16)
    for number, ((x, y, z), size) in enumerate(boxes, start=first):
        numbers[z : z + size, y : y + size, x : x + size] = number
    points = {number: centre(box) for number, box in enumerate(boxes, start=first)}
    return Baseline(region, ct, Volume(numbers, grid), points)


def followup(*boxes, points=None, grid=GRID, region="primary"):
    return Followup(region, image(*boxes, grid=grid), points or {})


def lesion(number, point_xyz, clicked=True, grid=GRID):
    return Lesion(number, grid.to_physical(point_xyz)[0], clicked, None, None, new=True)


def known(number, point_xyz, clicked=True, size=4):
    """A lesion of `size` voxels along each axis in the baseline, at the same place."""
    low = tuple(int(np.ceil(place - size / 2)) for place in point_xyz)
    before = baseline((low, size), first=number)
    place = GRID.to_physical(point_xyz)[0]
    return Lesion(number, place, clicked, before, place, new=False)


def segment_lesions(scan, lesions, model, budget=None):
    return masks.segment_lesions(scan, lesions, model, budget).mask


def labels(volume):
    return {int(n): int(c) for n, c in zip(*np.unique(volume.array, return_counts=True), strict=True) if n}
