"""Stopping a run on request: SIGTERM, which schedulers send some time before they kill."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class InterruptedRun(Exception):
    """The run was asked to stop, and has saved a checkpoint."""


@contextmanager
def sigterm_noticed() -> Iterator[Callable[[], bool]]:
    """Within the block SIGTERM does not end the process; it gives a function that returns whether SIGTERM was received.

    Only a process's main thread can receive signals; in other threads the answer is always False.
    """
    noticed = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: noticed.append(number))
    try:
        yield lambda: bool(noticed)
    finally:
        signal.signal(signal.SIGTERM, before)
