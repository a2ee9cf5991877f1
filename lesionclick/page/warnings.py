"""What the log warns of in a case, for readers at the page, who do not see the log."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class _Collector(logging.Handler):
    """Keeps the warnings of its thread, but those of networks, which are about the machine or the model."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self._thread and not record.name.startswith("lesionclick.network"):
            self.messages.append(record.getMessage())


@contextmanager
def warnings_of_the_case() -> Iterator[list[str]]:
    """Collect what this thread warns of in a case as long as the context lasts."""
    logger, collector = logging.getLogger("lesionclick"), _Collector()
    logger.addHandler(collector)
    try:
        yield collector.messages
    finally:
        logger.removeHandler(collector)
