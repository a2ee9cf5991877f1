"""How a command ends that is asked to stop while it has processes of its own."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def stops_with_its_processes() -> Iterator[None]:
    """Let SIGTERM end the command as Ctrl+C does, which cleans up, so that none of its processes outlives it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    command = os.getpid()

    def stop(number: int, _frame: object) -> None:
        if os.getpid() == command:
            sys.exit(128 + number)
        signal.signal(number, signal.SIG_DFL)  # a forked process ends as before
        os.kill(os.getpid(), number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
