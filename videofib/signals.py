"""Ctrl-C: processes that it does not reach, since their parent handles it, and what is reported after it."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path


@contextmanager
def sigint_blocked() -> Iterator[None]:
    """Processes started within the block, and those that they start, do not receive SIGINT.

    A terminal sends it to all processes of a program. One that is still importing its modules could only answer with a
    traceback. ``signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})`` lets it through again.
    """
    resource_tracker.ensure_running()  # whose start would end the block
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def sigint_deferred() -> Iterator[None]:
    """Ctrl-C within the block raises KeyboardInterrupt at its end.

    For imports: torch swallows an exception while it imports numpy, and the program would go on with half of it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def interrupted(prog: str | None) -> int:
    """Report Ctrl-C where nothing had to be saved, in one line; returns the exit status that a shell expects."""
    print(f"\n{prog or Path(sys.argv[0]).name}: interrupted", file=sys.stderr)
    return 128 + signal.SIGINT
