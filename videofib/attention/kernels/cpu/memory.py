"""Memory that the CPU kernel reuses: pages fresh from the system would cost as much time as the attention itself."""

from __future__ import annotations

import math
import threading

import numpy as np

ALIGNMENT = 64  # bytes of a vector register: none should straddle two cache lines
SMALLEST_POOLED = 1 << 17  # bytes; smaller results are left to malloc
MOST_UNUSED = 1 << 29  # bytes of unused memory that a pool holds on to
INDEX_BYTES = 8


def aligned(size: int) -> np.ndarray:
    """``size`` uninitialised bytes. For large ones numpy asks for huge pages, of which the system clears 512 times
    fewer."""
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size]


class ResultPool:
    """Memory for results. Once no tensor refers to a result any more, its memory serves the next result of that size.

    Lifetime: the pool holds on to ``MOST_UNUSED`` bytes of unused memory at most, as long as it lives; a result in use
    keeps itself and the pool alive. Threads: any may take memory, and any may return it, for a tensor ends in whichever
    thread drops it last or collects garbage, perhaps in the middle of :meth:`take`. As a lock could then wait for
    itself, each step is a single operation of a dict or list, which Python makes atomic; threads that return memory at
    the same moment may exceed the limit by one result each.
    """

    def __init__(self):
        self._unused: dict[int, list[np.ndarray]] = {}  # by size

    def take(self, size: int) -> np.ndarray:
        """``size`` uninitialised bytes, aligned to ``ALIGNMENT``."""
        try:
            memory = self._unused[size].pop()
        except (KeyError, IndexError):
            memory = aligned(size)
        lent = memory.view(_Lent)
        lent.pool, lent.memory = self, memory
        return lent

    def put_back(self, memory: np.ndarray) -> None:
        if sum(size * len(unused) for size, unused in list(self._unused.items())) > MOST_UNUSED:
            self._unused.clear()
        self._unused.setdefault(memory.size, []).append(memory)


class _Lent(np.ndarray):
    """What a pool lends: its memory goes back when the last tensor that refers to it is gone. A subclass with
    ``__del__`` takes a third of the time of ``weakref.finalize``."""

    pool: ResultPool | None = None  # None: a view of what is lent
    memory: np.ndarray

    def __del__(self):
        if self.pool is not None:
            self.pool.put_back(self.memory)


class Workspace(threading.local):
    """Memory for what the loops keep while they run: each Python thread has its own, which grows to the largest size
    asked for and is freed when the thread ends."""

    def __init__(self):
        self._memory = aligned(0)

    def take(self, rows: int, num_floats: int, num_indices: int, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
        """Arrays (rows, num_floats or a few more) of ``dtype`` and (rows, num_indices) of int64, valid until the next
        call from this thread. Each row of floats begins on a cache line of its own."""
        line = ALIGNMENT // dtype.itemsize
        num_floats = math.ceil(num_floats / line) * line
        first, second = rows * num_floats * dtype.itemsize, rows * num_indices * INDEX_BYTES
        if len(self._memory) < first + second:
            self._memory = aligned(first + second)
        return (
            self._memory[:first].view(dtype).reshape(rows, num_floats),
            self._memory[first : first + second].view(np.int64).reshape(rows, num_indices),
        )
