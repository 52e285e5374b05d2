"""How the loops are compiled, and under which key their machine code is kept on disk.

numba keeps what it compiled in a file for each function, and looks it up by argument types, processor, bytecode and the
values that the function closes over. It starts afresh if the file that holds the function has changed, but sees neither
a change of other files whose functions are inlined, nor whether the code is threaded. Each loop therefore closes over
its :func:`cache_key`, a number that depends on both.
"""

from __future__ import annotations

import logging
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from numba import njit
from numba.extending import register_jitable

logger = logging.getLogger(__name__)

_PATIENCE = 1.0  # seconds without a word
_OPTIONS = {"nogil": True, "error_model": "numpy"}
inlined = register_jitable(**_OPTIONS)
"""Decorator of a function that loops call as a part of themselves, and Python as it is."""


def source_checksum(folder: Path) -> int:
    """Differs for every text of the Python files in ``folder``."""
    return zlib.crc32(b"".join(path.read_bytes() for path in sorted(folder.glob("*.py"))))


_SOURCE = source_checksum(Path(__file__).parent)  # all that is inlined into loops, as imported, not as it is later


def cache_key(threaded: bool) -> int:
    """Differs for threaded and serial loops, and for every text of this folder's files."""
    return 2 * _SOURCE + threaded


@contextmanager
def compiling_reported(loop: Callable, what: str) -> Iterator[None]:
    """Around a call of a loop: once it has taken a while to compile, the log says so, and in the end how long it took.

    What is kept on disk loads at once, and nothing is logged.
    """
    if loop.overloads:
        yield
        return
    start = time.monotonic()
    timer = threading.Timer(_PATIENCE, logger.info, (f"compiling the attention kernel for {what}, once a machine",))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    if (seconds := time.monotonic() - start) > _PATIENCE:
        logger.info("compiled it within %.0f s", seconds)


@cache
def compiled(make: Callable[[int, int], Callable], dim: int, threaded: bool) -> Callable:
    """The loop ``make(dim, cache_key)``, compiled at its first call and kept on disk where a folder is writable."""
    loop = make(dim, cache_key(threaded))
    try:
        return njit(loop, parallel=threaded, cache=True, **_OPTIONS)
    except RuntimeError:  # numba finds no such folder
        return njit(loop, parallel=threaded, **_OPTIONS)
