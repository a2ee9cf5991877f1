"""All records of a cohort as one Parquet table, with a row for each step of each case."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lesionclick.evaluation.measures import LONGITUDINAL
from lesionclick.evaluation.records import Record

_RULES = ("corrected_tumor", "corrected_background", "removed")
_SCORES = tuple(measure.key for measure in LONGITUDINAL)  # Task 1's are among them

SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("case", "path", "task", "error_type", "error")),
        *((name, pa.int32()) for name in ("step", "n_points")),
        *((key, pa.float64()) for key in _SCORES),
        *((name, pa.float64()) for name in ("step_seconds", "case_seconds")),
        ("stages", pa.map_(pa.string(), pa.float64())),
        ("masks", pa.map_(pa.string(), pa.string())),
        *((name, pa.int32()) for name in _RULES),
        *((name, pa.string()) for name in ("model", "fingerprint", "version", "host", "device", "finished")),
    ]
)
"""The columns. A case that failed has one row, without a step; what is not known or not defined is null."""


def make_table(records: Iterable[Record]) -> bytes:
    """Return the content of the Parquet file of records."""
    rows = [row for record in records for row in _rows(record)]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows, SCHEMA), sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _rows(record: Record) -> Iterator[dict[str, Any]]:
    of_case = {
        "case": record.case,
        "path": record.path,
        "task": record.task,
        "error_type": record.error.type if record.error else None,
        "error": record.error.message if record.error else None,
        "case_seconds": record.seconds.get("total"),
        "model": record.model,
        "fingerprint": record.fingerprint,
        "version": record.versions["lesionclick"],
        "host": record.worker.host,
        "device": record.worker.device,
        "finished": record.finished,
    }
    if not record.steps:
        yield of_case
    for step in record.steps:
        yield {
            **of_case,
            "step": step.step,
            "n_points": step.n_points,
            **(step.scores or {}),
            "step_seconds": sum(step.seconds.values()),
            "stages": list(step.seconds.items()),
            "masks": list(step.masks.items()),
            **{name: step.rules[name] for name in _RULES if step.rules},
        }
