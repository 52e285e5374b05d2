"""Processes that read videos, and outlive what videos do to decoders.

A file may crash the decoder or keep it busy for ever. So the parent can tell from outside what each worker reads and
since when, kills one that takes too long, starts another in its place and gives what was waiting to others.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
from torch import Tensor

from videofib.data.errors import DecodeError, ending
from videofib.data.loading.shared_memory import MAX_WORKERS, Slots, SlotWriter

# call(record, chance, out) reads one sample into ``out``, or raises DecodeError
Read = Callable[[Any, str, Tensor], None]

_QUEUED = 32  # tasks sent ahead to a worker: enough that it is never idle, few enough that a pipe holds them
_STILLBIRTHS = 3  # workers in a row that die before their first answer, after which the fault is not a video's


class WorkerError(RuntimeError):
    """Workers cannot run at all, or a read failed for a reason that is not the video's."""


@dataclass(eq=False)
class Task:
    """One sample to read: ``read(record, chance, row of slot)``.

    Attributes:
        owner: whatever the caller wants to find here when the task is done.
        failure: once it is done, why the video could not be read; None: it was.
        deadly: the failure was the end of a worker; the video had better not be read again.
    """

    record: Any
    chance: str
    slot: int
    row: int
    owner: Any
    failure: str | None = None
    deadly: bool = False
    number: int = 0
    deaths: int = 0


@dataclass(eq=False)
class _Worker:
    place: int
    process: multiprocessing.process.BaseProcess
    connection: Connection
    sent: dict[int, Task] = field(default_factory=dict)  # in the order in which it takes them
    has_answered: bool = False


class Workers:
    """``count`` processes that take tasks and write samples into shared slots.

    Args:
        read: sent to every worker by pickle.
        time_limit: seconds a task may take before its worker is killed; 0: no limit.

    A task fails, with a reason, where ``read`` raises DecodeError, where it takes longer than the limit, and where
    the worker dies over it twice (the first time may be somebody else's fault, such as a lack of memory).
    """

    def __init__(self, read: Read, count: int, slots: Slots, time_limit: float):
        if not 1 <= count <= MAX_WORKERS:
            raise ValueError(f"there can be 1 to {MAX_WORKERS} workers, got {count}")
        self._read, self._slots, self._time_limit = read, slots, time_limit
        self._context = _context()
        self._waiting: deque[Task] = deque()
        self._number = 0
        self._stillbirths = 0
        self._workers = {place: self._start(place) for place in range(count)}

    def submit(self, task: Task) -> None:
        """Have a task done, after those submitted before."""
        self._waiting.append(task)
        self._send()

    def drop(self, unwanted: Callable[[Task], bool]) -> None:
        """Forget those tasks that no worker has been given yet."""
        self._waiting = deque(task for task in self._waiting if not unwanted(task))

    def done(self) -> Iterator[Task]:
        """Wait until at least one task is done, and yield those that are.

        Raises:
            WorkerError: a read failed for another reason than its video, workers die at once, or ``close`` was called.
        """
        if not self._workers:
            raise WorkerError("the loader was closed before this pass over its videos ended")
        by_connection = {worker.connection: worker for worker in self._workers.values()}
        ready = wait(list(by_connection), timeout=self._next_check())
        for connection in ready:
            worker = by_connection[connection]
            try:
                number, failure, error = connection.recv()
            except (EOFError, OSError):
                yield from self._replace(worker)
                continue
            task = worker.sent.pop(number)
            worker.has_answered, self._stillbirths = True, 0
            if error:
                raise WorkerError(f"reading {task.record} failed\n{error}")
            task.failure = failure
            yield task
        for worker in list(self._workers.values()):
            number, seconds = self._slots.clock.read(worker.place)
            if self._time_limit and number in worker.sent and seconds > self._time_limit:
                task = worker.sent.pop(number)
                worker.has_answered = True  # it lives, if only too slowly
                yield from self._replace(worker)
                task.failure, task.deadly = f"not read within {self._time_limit:g} s; its process was killed", True
                yield task
        self._send()

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers.values():
            worker.process.kill()
            worker.connection.close()
        for worker in self._workers.values():
            worker.process.join()
        self._workers.clear()

    def _start(self, place: int) -> _Worker:
        self._slots.clock.stop(place)
        ours, theirs = self._context.Pipe()
        args = (self._read, theirs, self._slots, place)
        process = self._context.Process(target=_work, args=args, daemon=True, name=f"video-reader-{place}")
        process.start()
        theirs.close()  # now open in the worker alone, so that its death closes the pipe
        return _Worker(place, process, ours)

    def _send(self) -> None:
        while self._waiting:
            worker = min(self._workers.values(), key=lambda worker: len(worker.sent))
            if len(worker.sent) >= _QUEUED:
                return
            task = self._waiting.popleft()
            self._number += 1
            task.number = self._number
            worker.sent[task.number] = task
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died: its end of file says so
                worker.connection.send((task.number, task.record, task.chance, task.slot, task.row))

    def _replace(self, worker: _Worker) -> Iterator[Task]:
        """Put a new process in the place of one that died, or is to; yields the task it died over, if that failed."""
        worker.process.kill()
        worker.process.join()
        worker.connection.close()
        how = ending(worker.process.exitcode)
        current = worker.sent.get(self._slots.clock.read(worker.place)[0])
        if current is None and not worker.has_answered:
            self._stillbirths += 1
            if self._stillbirths >= _STILLBIRTHS:
                raise WorkerError(f"workers that read videos die before they begin ({how})")
        self._workers[worker.place] = self._start(worker.place)
        if current is not None:
            current.deaths += 1
            if current.deaths == 2:
                del worker.sent[current.number]
                current.failure, current.deadly = f"the process that read it died twice ({how})", True
                yield current
        self._waiting.extendleft(reversed(worker.sent.values()))

    def _next_check(self) -> float | None:
        """Seconds until a worker may have exceeded the limit."""
        if not self._time_limit:
            return None
        busy = [self._slots.clock.read(worker.place) for worker in self._workers.values()]
        return max(0.01, min([self._time_limit - seconds for number, seconds in busy if number] + [self._time_limit]))


def _context():
    """A server that has imported this module, and so torch, once, and is copied for each worker; where that is safe."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["videofib.data.clips.dataset"])
    return context


def _work(read: Read, connection: Connection, slots: SlotWriter, place: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it ends its workers
    torch.set_num_threads(1)  # parallel over videos, not within one
    while True:
        try:
            number, record, chance, slot, row = connection.recv()
        except (EOFError, OSError):  # the parent is gone
            return
        failure = error = None
        slots.clock.start(place, number)
        try:
            read(record, chance, slots.row(slot, row))
        except DecodeError as reason:
            failure = str(reason)
        except Exception:
            error = traceback.format_exc()
        slots.clock.stop(place)
        try:
            connection.send((number, failure, error))
        except OSError:  # the parent is gone
            return
