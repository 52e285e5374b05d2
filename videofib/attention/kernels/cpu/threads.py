"""The threads that the compiled loops run on: torch's own OpenMP threads, where there are any.

numba's OpenMP layer finds the OpenMP library that torch has loaded, so that the two do not wait for each other.
"""

from __future__ import annotations

import os
import threading

import numba
import torch

_PROCESS = os.getpid()  # a process forked from it must not enter OpenMP a second time, and has one thread
_STARTING = threading.Lock()  # held while numba starts its threads, which it does once in a process


class Threads:
    """numba's threads, started when they are first needed. Any Python thread may call the methods."""

    def __init__(self):
        self._started = False

    def available(self) -> int:
        """How many the loops may use: as many as torch uses; one in a forked process, such as a data loading worker."""
        return min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS) if os.getpid() == _PROCESS else 1

    def use(self, count: int) -> None:
        """Have loops that this Python thread calls use ``count`` threads. Torch's number of threads stays as it is."""
        if self._started:
            numba.set_num_threads(count)
            return
        with _STARTING:
            self._start(count)
            self._started = True

    def _start(self, count: int) -> None:
        """numba reads its settings at this moment, and sets OpenMP's number of threads, which is also torch's, to its
        own maximum. Settings and number are restored."""
        layer, torch_threads = numba.config.THREADING_LAYER, torch.get_num_threads()
        if layer == "default":
            numba.config.THREADING_LAYER = "threadsafe"  # several Python threads may attend at once
        try:
            numba.set_num_threads(count)
        finally:
            numba.config.THREADING_LAYER = layer
            if torch.get_num_threads() != torch_threads:
                torch.set_num_threads(torch_threads)
