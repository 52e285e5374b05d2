"""Stopping a run on request: Ctrl-C (SIGINT), and SIGTERM, which schedulers send some time before they kill."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class InterruptedRun(Exception):
    """The run was asked to stop; the message says after what, and what is saved."""


class StopRequest:
    """Called, it returns whether this process was asked to stop.

    Args:
        announce: the first Ctrl-C is answered on stderr; by one process of a run.
    """

    def __init__(self, announce: bool = True) -> None:
        self._announce, self._can_save = announce, False
        self._signals: set[int] = set()

    def __call__(self) -> bool:
        return bool(self._signals)

    def has_something_to_save(self) -> None:
        """From now on Ctrl-C is a request to save first; until now it raises KeyboardInterrupt."""
        self._can_save = True

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process that was stopped so: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + (signal.SIGINT if signal.SIGINT in self._signals else signal.SIGTERM)

    def receive(self, number: int, frame: object) -> None:
        """Handle a signal. A second Ctrl-C ends the process at once."""
        if number == signal.SIGINT:
            if not self._can_save:
                raise KeyboardInterrupt
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            if self._announce:  # not by print or the log, which the signal may have interrupted
                os.write(2, b"\nstopping: what is done will be saved first; press Ctrl-C again to end at once\n")
        self._signals.add(number)


@contextmanager
def stop_noticed(announce: bool = True) -> Iterator[StopRequest]:
    """Within the block SIGTERM and, once there is something to save, a first Ctrl-C do not end the process.

    Only a process's main thread can receive signals; in other threads there is never a request.
    """
    stop = StopRequest(announce)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.receive) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
