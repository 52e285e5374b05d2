"""Bounds within which a reader of a hostile file must come to an end: time, and memory beyond what there is already."""

from __future__ import annotations

import contextlib
import re
import resource
import signal
from collections.abc import Iterator
from pathlib import Path


class HungError(BaseException):
    """Time is up. Not an Exception: readers take those, and TimeoutError above all, for damage."""


@contextlib.contextmanager
def limited(seconds: int, memory: int | None = None) -> Iterator[None]:
    """Raise HungError after so many seconds; allocations of more than ``memory`` bytes in all fail."""

    def stop(*_: object) -> None:
        raise HungError(f"not finished after {seconds} s")

    handler, bound = signal.signal(signal.SIGALRM, stop), resource.getrlimit(resource.RLIMIT_AS)
    if memory is not None:
        resource.setrlimit(resource.RLIMIT_AS, (_address_space() + memory, bound[1]))
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
        resource.setrlimit(resource.RLIMIT_AS, bound)


def wants_memory(said: str) -> bool:
    """Whether a message is about memory that could not be had, which a small file must never take."""
    return bool(re.search(r"MemoryError|allocate|out of memory", said))


def _address_space() -> int:
    """Bytes that this process has mapped."""
    return int(re.search(r"VmSize:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) << 10
