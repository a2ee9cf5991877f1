"""What a cohort leaves behind: a JSON record and a folder of masks for each case, each of which appears whole or not.

A cohort's folder is laid out so::

    records/<case>.json    one for each case that is done or has failed
    masks/<case>/          the masks of a case that is done
    cohort.parquet         all records as one table, see `lesionclick.cohort.table`

What is not finished yet lies in ``.working``.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from lesionclick.evaluation.json_files import read_json
from lesionclick.grand_challenge.image_files import require_writable
from lesionclick.images import sync
from lesionclick.locks import locked


@dataclass(frozen=True)
class StepRecord:
    """One job of a case.

    Attributes
    ----------
    step
        The challenge's number of the step; None where the case was run with the clicks that it has.
    n_points
        How many points the job saw.
    masks
        Files below the cohort's folder, by the slug of the output.
    scores
        By the key of the measure, None where it is not defined; None altogether where there is no label.
    seconds
        Spent on each stage.
    rules
        How often each rule after the network acted; None where the job does not tell.
    """

    step: int | None
    n_points: int
    masks: Mapping[str, str]
    scores: Mapping[str, float | None] | None
    seconds: Mapping[str, float]
    rules: Mapping[str, int] | None


@dataclass(frozen=True)
class OptionsRecord:
    """How the cases of a cohort are run, as far as it changes their masks.

    Attributes
    ----------
    steps
        The challenge's steps; None for one job with the clicks that the case has.
    exact
        Whether all is computed as nnU-Net does it.
    container
        Image that ran the jobs; None for the worker's own process.
    """

    steps: tuple[int, ...] | None = None
    exact: bool = False
    container: str | None = None


@dataclass(frozen=True)
class ErrorRecord:
    """Why a case failed: class of the error, and its message."""

    type: str
    message: str


@dataclass(frozen=True)
class WorkerRecord:
    """Who did a case."""

    host: str
    pid: int
    device: str


@dataclass(frozen=True)
class Record:
    """What became of one case.

    Attributes
    ----------
    case
        Its name in the cohort.
    path
        Its folder.
    task
        ``task1`` or ``task2``; None where the folder could not be opened.
    error
        None for a case that is done.
    fingerprint
        Digest of its inputs, labels, model and options; None where the inputs could not be read, or there was no model.
    files
        Digest of the names, sizes and times of the files that it was made from, and of model and options: as long as
        this is the same, so is the fingerprint.
    labels
        Files of the true masks, by the slug of the output; empty where it was not scored.
    steps
        Its jobs in order; none where it failed.
    seconds
        Spent on each stage of the case as a whole, and in ``total``, those of the steps included; of the run that made
        the masks where they were only scored again.
    model
        Digest of the model.
    options
        How it was run.
    versions
        Of what matters to the masks.
    warnings
        What was logged as a warning.
    worker
        Who did it.
    finished
        When, in ISO 8601.
    inputs
        Digest of all that the masks depend on, which is the fingerprint's but the labels; None where that is not known.
    """

    case: str
    path: str
    task: str | None
    error: ErrorRecord | None
    fingerprint: str | None
    files: str | None
    labels: Mapping[str, str]
    steps: tuple[StepRecord, ...]
    seconds: Mapping[str, float]
    model: str
    options: OptionsRecord
    versions: Mapping[str, str]
    warnings: tuple[str, ...]
    worker: WorkerRecord
    finished: str
    inputs: str | None = None

    @property
    def done(self) -> bool:
        """Whether its masks are there."""
        return self.error is None


_RECORD = TypeAdapter(Record)
_WORKING = ".working"


@dataclass(frozen=True)
class CohortFolder:
    """The folder that a cohort is written to.

    Attributes
    ----------
    folder
        Such as `OUT`.
    """

    folder: Path

    @contextmanager
    def opened(self) -> Iterator[CohortFolder]:
        """Make the folders, and keep all other commands out as long as this one works on them.

        Raises
        ------
        InputError
            If the folders cannot be written, or another command is at work there.
        """
        for name in ("records", "masks", _WORKING):
            require_writable(self.folder / name)
        taken = f"{self.folder}: expected no other command at work there, found one"
        with locked(self.folder / _WORKING / "lock", taken):
            yield self

    def record_path(self, case: str) -> Path:
        """Return where the record of a case lies."""
        return self.folder / "records" / f"{case}.json"

    def masks_path(self, case: str) -> Path:
        """Return where the masks of a case lie."""
        return self.folder / "masks" / case

    def record(self, case: str) -> Record | None:
        """Read the record of a case; return None where there is none, or none that can be read."""
        try:
            return _RECORD.validate_json(self.record_path(case).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def names(self) -> set[str]:
        """Return the names of all cases that have a record."""
        return {path.stem for path in (self.folder / "records").glob("*.json")}

    def records(self) -> Iterator[Record]:
        """Read all records in the order of their cases' names.

        Raises
        ------
        InputError
            If a file is no record.
        """
        for path in sorted((self.folder / "records").glob("*.json"), key=lambda path: path.stem):
            yield read_json(_RECORD, path, "the record of a case")

    @contextmanager
    def working_folder(self, case: str) -> Iterator[Path]:
        """Give a new folder to work on a case in, on the same disk, and remove it in the end.

        What a worker left behind that was killed over the case is removed first.
        """
        shelf = self.folder / _WORKING / f"{case}.case"
        shutil.rmtree(shelf, ignore_errors=True)
        shelf.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryDirectory(dir=shelf, ignore_cleanup_errors=True) as folder:
                yield Path(folder)
        finally:
            with suppress(OSError):  # another worker took this one for dead and is at work there
                shelf.rmdir()

    def has_masks(self, record: Record) -> bool:
        """Tell whether all masks that a record tells of are there."""
        return all((self.folder / path).is_file() for step in record.steps for path in step.masks.values())

    def keep(self, record: Record, work: Path) -> bool:
        """Put the masks of a case and its record in place, so that a stop at any moment leaves both or no record.

        A failure does not replace masks that are made from the same inputs: a worker that was taken for dead may come
        late, and a new label may not fit. One whose inputs are not known replaces nothing that is done, since they may
        be the same.

        Parameters
        ----------
        record
            What became of the case.
        work
            Its working folder, with the masks in ``masks`` where it is done.

        Returns
        -------
        bool
            Whether they are in place, and not what was done before.

        Raises
        ------
        OSError
            If that fails.
        """
        earlier = self.record(record.case)
        kept = earlier is not None and earlier.done and self.has_masks(earlier)
        if not record.done and earlier and kept and record.inputs in (None, earlier.inputs):
            return False
        written = _write_record(record, work)
        path, place = self.record_path(record.case), self.masks_path(record.case)
        path.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            place.rename(work / "replaced")
        if record.done:
            (work / "masks").rename(place)
        written.replace(path)
        return True

    def amend(self, record: Record, work: Path) -> None:
        """Replace the record of a case whose masks stay.

        Raises
        ------
        OSError
            If that fails.
        """
        _write_record(record, work).replace(self.record_path(record.case))

    def write_table(self, content: bytes) -> Path:
        """Write all records as one table, made by `lesionclick.cohort.table`, and return its path."""
        with tempfile.TemporaryDirectory(dir=self.folder / _WORKING) as work:
            return write_durably(Path(work, "table"), content).replace(self.folder / "cohort.parquet")

    def remove_leftovers(self) -> None:
        """Remove what killed workers have left of any case; only while no worker is at work."""
        for shelf in (self.folder / _WORKING).iterdir():
            shutil.rmtree(shelf, ignore_errors=True)


def _write_record(record: Record, work: Path) -> Path:
    return write_durably(work / "record.json", _RECORD.dump_json(record, indent=2) + b"\n")


def write_durably(path: Path, content: bytes) -> Path:
    """Write a file to the disk itself, and return its path.

    Raises
    ------
    OSError
        If that fails.
    """
    path.write_bytes(content)
    sync(path)
    return path
