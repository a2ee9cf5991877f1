"""Small cases on any grid, and the page's server on a port of this machine, for tests of the page."""

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from helpers.growing_session import GrowingSession
from lesionclick.images import Grid, Volume
from lesionclick.page.access import Access
from lesionclick.page.petct import PetCtStudy
from lesionclick.page.reading import Reading
from lesionclick.page.records import Records
from lesionclick.page.serving import listen, make_server
from lesionclick.petct.case import PetCtCase

SIZE_XYZ = (26, 22, 18)
HOT_XYZ = ((9, 8, 6), (18, 13, 6), (9, 15, 12), (19, 8, 12))
"""Hot voxels: the second lies in the axial slice of the first, the third in its sagittal and the fourth in its coronal
one, when the axes are the patient's."""
HOT_SUV = 12.0
TOKEN = "a-token-for-tests"


def _turn(degrees: float, axis: int) -> np.ndarray:
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    a, b = [other for other in range(3) if other != axis]
    matrix = np.eye(3)
    matrix[a, a], matrix[a, b], matrix[b, a], matrix[b, b] = c, -s, s, c
    return matrix


def _grid(spacing: Sequence[float], direction: np.ndarray) -> Grid:
    return Grid(SIZE_XYZ, tuple(spacing), (31.0, -42.0, 530.0), tuple(direction.ravel().tolist()))


GRIDS = {
    "identity": _grid((4.0, 4.0, 4.0), np.eye(3)),
    "flipped": _grid((4.0, 4.0, 4.0), np.diag([-1.0, -1.0, 1.0])),
    "oblique": _grid((4.0, 4.0, 4.0), _turn(17, 2) @ _turn(-12, 0) @ _turn(8, 1)),
    "anisotropic": _grid((2.5, 4.0, 6.0), np.diag([1.0, -1.0, -1.0])),
}


def hot_case(grid: Grid = GRIDS["identity"], hot_xyz: Sequence[Sequence[int]] = HOT_XYZ) -> PetCtCase:
    """A PET with some hot voxels, and a CT whose HU count its voxels."""
    pet = np.full(grid.shape_zyx, 0.3, np.float32)
    for x, y, z in hot_xyz:
        pet[z, y, x] = HOT_SUV
    ct = np.arange(pet.size, dtype=np.float32).reshape(pet.shape) % 1000
    return PetCtCase.from_volumes(Volume(ct, grid), Volume(pet, grid))


def make_reading(folder: Path, case: PetCtCase | None = None, *, pause_s: float = 0.0) -> Reading:
    study = PetCtStudy(GrowingSession(case or hot_case(), pause_s), "a case")  # type: ignore[arg-type]
    return Reading(study, Records(folder, tuple(study.click_files(()))))


@dataclass
class Served:
    """A page that is being served."""

    reading: Reading
    access: Access

    @property
    def marks(self) -> list[tuple[float, ...]]:
        """The voxels of its points."""
        return [mark["voxel"] for mark in self.reading.state()["marks"]]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.access.port}"


@contextmanager
def serving(reading: Reading) -> Iterator[Served]:
    """Serve a reading from a thread of this process."""
    listening = listen("127.0.0.1", 0)
    access = Access.make("127.0.0.1", listening.getsockname()[1], TOKEN)
    server = make_server(reading, access)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    reading.start()
    thread.start()
    try:
        yield Served(reading, access)
    finally:
        server.should_exit = True
        thread.join(20)
        reading.stop()


def wait_until(condition: Callable[[], bool], timeout_s: float = 120.0) -> None:
    """Wait for what another thread or process does; fail where it takes longer."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
