"""Warnings of the log as values, for people who do not see the log."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Collector(logging.Handler):
    def __init__(self, without: str | None) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []
        self._without = without
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        left_out = self._without is not None and record.name.startswith(self._without)
        is_warning = record.levelno == logging.WARNING  # and no failure
        if is_warning and record.thread == self._thread and not left_out:
            self.messages.append(record.getMessage())


@contextmanager
def collected_warnings(*, without: str | None = None) -> Iterator[list[str]]:
    """Give the list of what this thread logs as a warning, which grows as long as the context lasts.

    Parameters
    ----------
    without
        Package whose warnings are left out, such as ``lesionclick.network``.
    """
    logger, collector = logging.getLogger("lesionclick"), _Collector(without)
    logger.addHandler(collector)
    try:
        yield collector.messages
    finally:
        logger.removeHandler(collector)
