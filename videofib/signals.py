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


def interrupted(prog: str | None) -> int:
    """Report Ctrl-C where nothing had to be saved, in one line; returns the exit status that a shell expects."""
    print(f"\n{prog or Path(sys.argv[0]).name}: interrupted", file=sys.stderr)
    return 128 + signal.SIGINT
