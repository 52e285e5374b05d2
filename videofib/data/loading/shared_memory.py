"""Batches in memory that several processes see: workers write into it, the trainer reads it, nothing is copied.

One anonymous file holds everything, and vanishes with the last process that has it open::

    | clock: what each worker reads since when | slot 0: a batch | slot 1: a batch | ... grows when all are in use

A slot is used again once nothing holds the tensor that was handed out, nor a view of it. Fresh memory costs more than
it seems: touching the pages of a batch for the first time takes about as long as decoding a small clip.
"""

from __future__ import annotations

import mmap
import os
import tempfile
import time
import weakref
from collections.abc import Sequence
from math import prod
from multiprocessing.reduction import DupFd

import numpy as np
import torch
from torch import Tensor

_CLOCK_BYTES = mmap.ALLOCATIONGRANULARITY
MAX_WORKERS = _CLOCK_BYTES // 16  # two int64 each


class Slots:
    """The parent's side: hands out batches and takes them back when they are garbage.

    Args:
        shape: of a whole batch; its values are float32.
    """

    def __init__(self, shape: Sequence[int]):
        self.shape = tuple(shape)
        self.file = _anonymous_file()
        os.ftruncate(self.file, _CLOCK_BYTES)
        self.clock = Clock(self.file)
        self.close = weakref.finalize(self, os.close, self.file)  # batches handed out stay valid
        self._maps: list[mmap.mmap] = []
        self._free: list[int] = []

    def take(self) -> tuple[int, Tensor]:
        """(slot, its batch), of whatever values the last use has left."""
        if not self._free:
            number = len(self._maps)
            os.ftruncate(self.file, _offset(self.shape, number + 1))
            self._maps.append(_map(self.file, self.shape, number))
            self._free.append(number)
        number = self._free.pop()
        array = np.ndarray(self.shape, np.float32, self._maps[number])
        # torch keeps the array alive as long as any tensor on its memory; so the array's end is the end of them all
        weakref.finalize(array, self._free.append, number).atexit = False
        return number, torch.from_numpy(array)

    def __reduce__(self):
        return SlotWriter, (DupFd(self.file), self.shape)  # what a process is sent is its own end


class SlotWriter:
    """A worker's side, made by sending ``Slots`` to a process that is being started."""

    def __init__(self, file: DupFd, shape: Sequence[int]):
        self._file, self._shape = file.detach(), tuple(shape)
        self._batches: dict[int, Tensor] = {}
        self.clock = Clock(self._file)

    def row(self, slot: int, row: int) -> Tensor:
        """The place of one sample."""
        if slot not in self._batches:
            memory = _map(self._file, self._shape, slot)
            self._batches[slot] = torch.from_numpy(np.ndarray(self._shape, np.float32, memory))
        return self._batches[slot][row]


class Clock:
    """What each worker is doing, and since when: readable even when the worker no longer answers."""

    def __init__(self, file: int):
        self._cells = np.ndarray((MAX_WORKERS, 2), np.int64, mmap.mmap(file, _CLOCK_BYTES))

    def start(self, worker: int, task: int) -> None:
        """The worker begins a task, numbered from 1."""
        self._cells[worker, 1] = time.monotonic_ns()
        self._cells[worker, 0] = task  # last, so that nobody sees it with an older time

    def stop(self, worker: int) -> None:
        """The worker is idle."""
        self._cells[worker, 0] = 0

    def read(self, worker: int) -> tuple[int, float]:
        """(task, seconds since it began); task 0 where the worker is idle."""
        task = int(self._cells[worker, 0])
        return task, (time.monotonic_ns() - int(self._cells[worker, 1])) / 1e9


def _anonymous_file() -> int:
    if hasattr(os, "memfd_create"):  # Linux; not bounded by the size of /dev/shm, which is small in containers
        return os.memfd_create("videofib-batches")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _offset(shape: Sequence[int], number: int) -> int:
    size = 4 * prod(shape)
    return _CLOCK_BYTES + number * (-(-size // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY)


def _map(file: int, shape: Sequence[int], number: int) -> mmap.mmap:
    return mmap.mmap(file, 4 * prod(shape), offset=_offset(shape, number))
