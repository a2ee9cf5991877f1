"""A phantom of 2400 voxels with two lesions and a hot organ."""

import numpy as np

from lesionclick.images import Grid, Volume
from lesionclick.simulation.phantoms import Phantom

GRID = Grid(
    size_xyz=(12, 10, 20),
    spacing_xyz=(4.0, 4.0, 5.0),
    origin_xyz=(-24.0, -20.0, 100.0),
    direction=(1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0),
)


def tiny_phantom(lesions: bool = True) -> Phantom:
    """Two lesions of 27 and 8 voxels (SUV 9 and 6) and a hot organ of 64 voxels (SUV 20 to 26)."""
    label = np.zeros(GRID.shape_zyx, dtype=np.uint8)
    organs = np.zeros(GRID.shape_zyx, dtype=np.uint8)
    pet = np.random.default_rng(0).uniform(0.5, 1.0, GRID.shape_zyx).astype(np.float32)
    organs[14:18, 3:7, 4:8] = 1
    pet[organs > 0] = 20 + np.arange(64) / 10
    if lesions:
        label[2:5, 2:5, 2:5] = 1
        label[9:11, 6:8, 8:10] = 1
        pet[2:5, 2:5, 2:5] = 9
        pet[9:11, 6:8, 8:10] = 6
    ct = np.zeros(GRID.shape_zyx, dtype=np.int16)
    return Phantom(Volume(ct, GRID), Volume(pet, GRID), Volume(label, GRID), Volume(organs, GRID), "fdg")
