"""What a reader set on the page, and how it is taken back. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Mark:
    """A point that lies on a scan of the page.

    Attributes
    ----------
    number
        No other mark of the case ever has it, so that a second tab cannot delete another point than the one it shows.
    scan
        Name of the scan.
    kind
        ``tumor`` or ``background``; in Task 2 the number of the lesion.
    point_xyz
        Voxel index (x, y, z) on the scan.
    """

    number: int
    scan: str
    kind: str
    point_xyz: tuple[float, float, float]


Marks = tuple[Mark, ...]


class History(Generic[T]):
    """A value, those before it, and those that were taken back.

    Parameters
    ----------
    start
        What `undo` never goes behind.
    """

    def __init__(self, start: T) -> None:
        self._past: list[T] = []
        self._future: list[T] = []
        self.present = start

    @property
    def can_undo(self) -> bool:
        """Whether there is a step to take back."""
        return bool(self._past)

    @property
    def can_redo(self) -> bool:
        """Whether a step was taken back, and none made since."""
        return bool(self._future)

    def do(self, value: T) -> None:
        """Make a step to another value."""
        self._past.append(self.present)
        self._future.clear()
        self.present = value

    def undo(self) -> bool:
        """Take back the last step; tell whether there was one."""
        return self._step(self._past, self._future)

    def redo(self) -> bool:
        """Make the step again that was taken back last; tell whether there was one."""
        return self._step(self._future, self._past)

    def keep(self) -> Callable[[], None]:
        """Return a function that puts present, past and future back as they are now."""
        past, present, future = list(self._past), self.present, list(self._future)

        def put_back() -> None:
            self._past, self.present, self._future = list(past), present, list(future)

        return put_back

    def _step(self, source: list[T], target: list[T]) -> bool:
        if not source:
            return False
        target.append(self.present)
        self.present = source.pop()
        return True
