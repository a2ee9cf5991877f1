"""The reading of one open case: marks come in from any tab, one thread asks the session, all tabs hear of it."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from lesionclick.budget import Budget
from lesionclick.errors import InputError
from lesionclick.images import Volume
from lesionclick.log import collected_warnings
from lesionclick.page.marks import History, Mark, Marks
from lesionclick.page.places import ras_at, voxel_at
from lesionclick.page.records import Records
from lesionclick.page.study import MACHINES_OWN, Answer, Study

logger = logging.getLogger(__name__)

Listener = Callable[[], None]

STOP_S = 10.0
"""Most that `Reading.stop` waits for; a process that ends while PyTorch computes in a thread aborts."""


class _OutdatedError(Exception):
    """The marks changed while the network was at work."""


class Reading:
    """A study, its marks and the latest answer.

    Marks change at once and are written before they are answered for. The session works in a thread of its own; where
    marks change meanwhile, it stops after the tile it is at and begins again.

    Parameters
    ----------
    study
        The open case.
    records
        Where marks are written.

    Raises
    ------
    InputError
        If the marks that are there cannot be read, or were set on another image.
    """

    def __init__(self, study: Study, records: Records) -> None:
        self.study = study
        self.records = records
        self._name = secrets.token_hex(8)
        self._lock = threading.Condition()
        self._saving = threading.Lock()
        files = zip(study.click_files(()), study.clickable, strict=True)
        self._grids = {name: study.scans[scan].grid for name, scan in files}
        self._history = History(study.marks(records.read(self._grids)))
        self._next_number = len(self._history.present)
        self._revision = 0
        self._changed_at = time.monotonic()
        self._answered = -1
        self._answer: Answer | None = None
        self._mask_number = 0
        self._seconds: dict[str, float] = {}
        self._suggestions: list[dict[str, Any]] | None = None
        self._wants_suggestions = False
        self._error: str | None = None
        self._warnings: list[str] = []
        """Of the session; a registration warns once, and its warning holds for all answers."""
        self._listeners: list[Listener] = []
        self._stopped = False
        self._thread = threading.Thread(target=self._work, name="session", daemon=True)

    def start(self) -> None:
        """Begin to ask the session."""
        self._thread.start()

    def stop(self) -> None:
        """Stop asking after the tile that is at work, and wait for that."""
        with self._lock:
            self._stopped = True
            self._lock.notify_all()
        if self._thread.is_alive():
            self._thread.join(STOP_S)

    @contextmanager
    def listening(self, listener: Listener) -> Iterator[None]:
        """Call `listener`, from any thread, after each change as long as the context lasts."""
        with self._lock:
            self._listeners.append(listener)
        try:
            yield
        finally:
            with self._lock:
                self._listeners.remove(listener)

    def state(self) -> dict[str, Any]:
        """Return what all tabs show, ready for JSON."""
        with self._lock:
            final = self._answered == self._revision
            return {
                "server": self._name,
                "revision": self._revision,
                "marks": [self._describe(mark) for mark in self._history.present],
                "can_undo": self._history.can_undo,
                "can_redo": self._history.can_redo,
                "busy": (not final or self._wants_suggestions) and self._error is None,
                "final": final,
                "mask": self._mask_number,
                "seconds": dict(self._seconds),
                "findings": dict(self._answer.findings) if self._answer and final else None,
                "suggestions": self._suggestions,
                "error": self._error,
                "warnings": list(dict.fromkeys([*self.study.warnings, *self._warnings])),
            }

    def mask(self, scan: str) -> Volume | None:
        """Return the latest mask of a scan, where there is one."""
        with self._lock:
            return self._answer.masks.get(scan) if self._answer else None

    def add(self, scan: str, kind: str, ras_mm: Sequence[float]) -> Mark:
        """Set a mark, or return that of its kind which lies there: a second click may come before the first one shows.

        Parameters
        ----------
        scan
            Its name.
        kind
            See `Mark`.
        ras_mm
            Place in the viewer, in mm.

        Raises
        ------
        InputError
            If there is no such scan or kind, or the place lies outside the image.
        """
        if scan not in self.study.clickable:
            raise InputError(f"scan: expected one of {list(self.study.clickable)}, found {scan!r}")
        voxel = voxel_at(self.study.scans[scan].grid, ras_mm)
        if voxel is None:
            raise InputError(f"point: expected a place inside the {scan}, found {list(ras_mm)} mm")
        x, y, z = voxel
        with self._lock:
            mark = Mark(self._next_number, scan, kind, (float(x), float(y), float(z)))
            for one in self._history.present:
                if replace(one, number=mark.number) == mark:
                    return one
            placed = self.study.placed(self._history.present, mark)  # which may bring further marks
            self._next_number = 1 + max(self._next_number, *(one.number for one in placed))
            self._change(lambda: self._history.do(placed))
        return mark

    def remove(self, number: int) -> bool:
        """Take a mark away; tell whether there was one of this number."""
        with self._lock:
            present = self._history.present
            left = tuple(mark for mark in present if mark.number != number)
            if left == present:
                return False
            self._change(lambda: self._history.do(left))
        return True

    def undo(self) -> None:
        """Take back the last step; without one, nothing happens."""
        with self._lock:
            self._change(self._history.undo)

    def redo(self) -> None:
        """Make the step again that was taken back last; without one, nothing happens."""
        with self._lock:
            self._change(self._history.redo)

    def ask_for_suggestions(self) -> None:
        """Ask where to click next; the answer becomes part of the state. What failed is tried again."""
        with self._lock:
            self._wants_suggestions, self._error = True, None
            self._tell()

    def final_answer(self, timeout_s: float = 600.0) -> Answer:
        """Wait for the answer to the marks as they are, and return it.

        Raises
        ------
        InputError
            If the session failed, or takes longer.
        """
        with self._lock:
            self._lock.wait_for(lambda: self._answered == self._revision or self._error or self._stopped, timeout_s)
            if self._answer is None or self._answered != self._revision:
                raise InputError(f"mask: expected a final one, found {self._error or 'none yet'}")
            return self._answer

    def save(self) -> list[Path]:
        """Write clicks, masks and tables of the final answer, and return the files; see `Study.save`."""
        with self._saving:  # one after the other, since all write the same files
            with self._lock:
                answer = self.final_answer()
                self._write()
            return [*self.records.paths, *self.study.save(self.records.folder, answer)]

    def _change(self, step: Callable[[], object]) -> None:
        """Take a step and write the marks; where they cannot be written, all steps are as before."""
        before, put_back = self._history.present, self._history.keep()
        step()
        if self._history.present == before:
            return
        try:
            self._write()
        except Exception:
            put_back()
            raise
        self._revision += 1
        self._changed_at = time.monotonic()
        self._seconds, self._suggestions, self._error = {}, None, None
        self._tell()

    def _write(self) -> None:
        self.records.write(self.study.click_files(self._history.present), self._grids)

    def _tell(self) -> None:
        self._lock.notify_all()
        for listener in self._listeners:
            listener()

    def _describe(self, mark: Mark) -> dict[str, Any]:
        place = ras_at(self.study.scans[mark.scan].grid, mark.point_xyz)
        return {"number": mark.number, "scan": mark.scan, "kind": mark.kind, "voxel": mark.point_xyz, "ras_mm": place}

    def _work(self) -> None:
        with collected_warnings(without=MACHINES_OWN) as self._warnings:
            self._answer_until_stopped()

    def _answer_until_stopped(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._stopped or self._is_due())
                if self._stopped:
                    return
                revision, marks, begin = self._revision, self._history.present, self._changed_at
                answered = self._answered == revision
            try:
                if answered:
                    self._suggest(revision)
                else:
                    self._ask(revision, marks, begin)
            except _OutdatedError:
                logger.info("marks changed: the session begins again")
            except Exception as error:
                logger.exception("the session failed")
                with self._lock:
                    self._error = f"{type(error).__name__}: {error}"
                    self._wants_suggestions = False
                    self._tell()

    def _is_due(self) -> bool:
        return self._error is None and (self._answered != self._revision or self._wants_suggestions)

    def _ask(self, revision: int, marks: Marks, begin: float) -> None:
        """Publish the session's answers to marks."""
        for answer in self.study.answers(marks, Budget(clock=self._clock(revision))):
            with self._lock:
                if revision != self._revision:
                    raise _OutdatedError
                if self._answer is None or not _same(answer, self._answer):
                    self._mask_number += 1
                self._answer = answer
                spent = time.monotonic() - begin
                if all(scan in answer.masks for scan in self.study.clickable):
                    self._seconds.setdefault("first", spent)
                if answer.final:
                    self._seconds["final"] = spent
                    self._answered = revision
                self._tell()

    def _suggest(self, revision: int) -> None:
        """Publish where to click next; where marks changed meanwhile, the request waits for their answer."""
        found = self.study.suggest(Budget(clock=self._clock(revision)))
        with self._lock:
            if revision != self._revision:
                return
            self._wants_suggestions = False
            self._suggestions = found
            self._tell()

    def _clock(self, revision: int) -> Callable[[], float]:
        """Return a clock that stops whoever looks at it once the marks are others; networks do after each tile."""

        def clock() -> float:
            if self._revision != revision or self._stopped:
                raise _OutdatedError
            return time.monotonic()

        return clock


def _same(a: Answer, b: Answer) -> bool:
    """Tell whether two answers show the very same masks."""
    return a.masks.keys() == b.masks.keys() and all(b.masks[scan] is mask for scan, mask in a.masks.items())
