"""Batches in memory that several processes see: workers write into it, the trainer reads it, nothing is copied.

One anonymous file holds everything; the system frees it with the last process that has it open::

    | heartbeats: what each worker reads | buffer 0: a batch | buffer 1: a batch | ... grows as needed

A buffer is reused once no tensor on it is left, neither the batch that was handed out nor a view of it. Fresh memory
costs more than it seems: touching the pages of a batch for the first time takes about as long as decoding a small clip.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import weakref
from collections.abc import Sequence
from math import prod
from multiprocessing.reduction import DupFd

import numpy as np
import torch
from torch import Tensor

_HEARTBEAT_BYTES = mmap.ALLOCATIONGRANULARITY
MAX_WORKERS = _HEARTBEAT_BYTES // 8  # an int64 each


class BatchBuffers:
    """The parent's side: hands out batches, and reuses their memory once they are garbage.

    Args:
        shape: of a full batch; its values are float32.
    """

    def __init__(self, shape: Sequence[int]):
        self.shape = tuple(shape)
        self.file = _anonymous_file()
        os.ftruncate(self.file, _HEARTBEAT_BYTES)
        self.heartbeats = Heartbeats(self.file)
        self.close = weakref.finalize(self, os.close, self.file)  # batches handed out stay valid
        self._maps: list[mmap.mmap] = []
        self._free: list[int] = []

    def acquire(self) -> tuple[int, Tensor]:
        """(number of a free buffer, its batch); the batch holds whatever its last use has left."""
        if not self._free:
            number = len(self._maps)
            os.ftruncate(self.file, _offset(self.shape, number + 1))
            self._maps.append(_map(self.file, self.shape, number))
            self._free.append(number)
        number = self._free.pop()
        array = np.ndarray(self.shape, np.float32, self._maps[number])
        # torch keeps the array alive as long as any tensor on its memory; so when the array goes, all of them are gone
        weakref.finalize(array, self._free.append, number).atexit = False
        return number, torch.from_numpy(array)

    def __reduce__(self):
        return BufferWriter, (DupFd(self.file), self.shape)  # a worker receives its own side


class BufferWriter:
    """A worker's side, made by sending ``BatchBuffers`` to a process that is being started."""

    def __init__(self, file: DupFd, shape: Sequence[int]):
        self._file, self._shape = file.detach(), tuple(shape)
        self._batches: dict[int, Tensor] = {}
        self.heartbeats = Heartbeats(self._file)

    def row(self, buffer: int, row: int) -> Tensor:
        """The memory of one sample."""
        if buffer not in self._batches:
            memory = _map(self._file, self._shape, buffer)
            self._batches[buffer] = torch.from_numpy(np.ndarray(self._shape, np.float32, memory))
        return self._batches[buffer][row]


class Heartbeats:
    """Which request each worker reads: known even when the worker no longer answers."""

    def __init__(self, file: int):
        self._cells = np.ndarray(MAX_WORKERS, np.int64, mmap.mmap(file, _HEARTBEAT_BYTES))

    def begin(self, worker: int, request: int) -> None:
        """The worker begins a request, numbered from 1."""
        self._cells[worker] = request

    def end(self, worker: int) -> None:
        """The worker is idle."""
        self._cells[worker] = 0

    def read(self, worker: int) -> int:
        """The request that it reads; 0 where it is idle."""
        return int(self._cells[worker])


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):  # Linux; not bounded by the size of /dev/shm, which is small in containers
        return os.memfd_create("videofib-batches")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _offset(shape: Sequence[int], number: int) -> int:
    size = 4 * prod(shape)
    return _HEARTBEAT_BYTES + number * (-(-size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY)


def _map(file: int, shape: Sequence[int], number: int) -> mmap.mmap:
    return mmap.mmap(file, 4 * prod(shape), offset=_offset(shape, number))
