"""A pool of processes that read videos, and that survives the videos which crash or block a decoder.

Each worker keeps a heartbeat in shared memory: which request it reads. So the parent process can kill a worker that
takes too long, start a new one, and give the requests that were queued behind the slow one to the pool.

Time is counted in the parent, and only while it waits, a slice at a time: where the whole run is paused (Ctrl-Z, a
suspended job, a frozen container), the clock runs on, but at most one slice is counted.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

import torch
from torch import Tensor

from videofib.data.errors import DecodeError, describe_exit
from videofib.data.loading.shared_memory import MAX_WORKERS, BatchBuffers, BufferWriter
from videofib.starting import check_exit, check_open_files, starting

# call(record, seed, out) reads one sample into ``out``, or raises DecodeError
Read = Callable[[Any, str, Tensor], None]

_MAX_QUEUED = 32  # requests sent ahead to a worker: enough that it is never idle, few enough to fit into a pipe
_MAX_FAILED_STARTS = 3  # workers in a row that end before their first result: then no video is to blame
_MAX_LOSSES = 2  # times that a request may cost its worker; the first may have another cause, such as memory
_SLICE = 1.0  # seconds of waiting at a time, and at most a quarter of the time limit


class WorkerError(RuntimeError):
    """Workers cannot run at all, or a read failed for a reason that is not the video's."""


@dataclass(eq=False)
class ReadRequest:
    """One sample to read: ``read(record, seed, row of buffer)``.

    Attributes:
        context: what the caller wants to find here when the request is completed.
        failure: of a completed request, why the video could not be read; None: it was read.
        lost_worker: the video crashed its worker or ran into the time limit, and should not be read again.
    """

    record: Any
    seed: str
    buffer: int
    row: int
    context: Any
    failure: str | None = None
    lost_worker: bool = False
    number: int = 0
    losses: int = 0


@dataclass(eq=False)
class _Worker:
    index: int
    process: multiprocessing.process.BaseProcess
    connection: Connection
    sent: dict[int, ReadRequest] = field(default_factory=dict)  # by number, in the order in which they are read
    has_answered: bool = False
    reading: int = 0  # the number of the request that it was seen to read last
    waited: float = 0.0  # seconds that the parent has waited for that one


class WorkerPool:
    """``count`` processes that take requests and write samples into shared buffers.

    Args:
        read: sent to every worker by pickle.
        time_limit: seconds to wait for a request before its worker is killed; 0: no limit.

    A request fails, with a reason, where ``read`` raises DecodeError, and where it costs its worker for the second
    time: the worker ends unexpectedly, or is killed because of the limit.
    """

    def __init__(self, read: Read, count: int, buffers: BatchBuffers, time_limit: float):
        if not 1 <= count <= MAX_WORKERS:
            raise ValueError(f"there can be 1 to {MAX_WORKERS} workers, got {count}")
        check_open_files(count, "DATA_LOADER.NUM_WORKERS")
        self._read, self._buffers, self._time_limit = read, buffers, time_limit
        self._context = _context()
        self._waiting: deque[ReadRequest] = deque()
        self._last_number = 0
        self._failed_starts = 0
        self._workers = {index: self._start(index) for index in range(count)}

    def submit(self, request: ReadRequest) -> None:
        """Queue a request behind those submitted before."""
        self._waiting.append(request)
        self._send()

    def cancel(self, unwanted: Callable[[ReadRequest], bool]) -> None:
        """Drop those requests that have not been sent to a worker yet."""
        self._waiting = deque(request for request in self._waiting if not unwanted(request))

    def completed(self) -> Iterator[ReadRequest]:
        """Wait a moment for requests to be completed, and yield those that are; there may be none.

        Raises:
            WorkerError: a read failed for another reason than its video, workers end at once, or ``close`` was called.
        """
        if not self._workers:
            raise WorkerError("the loader was closed before this pass over its videos ended")
        by_connection = {worker.connection: worker for worker in self._workers.values()}
        limit = min(_SLICE, self._time_limit / 4) if self._time_limit else None
        start = time.monotonic()
        ready = wait(list(by_connection), timeout=limit)
        waited = min(time.monotonic() - start, limit) if limit else 0.0
        for connection in ready:
            yield from self._receive(by_connection[connection])
        for worker in list(self._workers.values()):
            if self._is_too_slow(worker, waited):
                worker.has_answered = True  # it runs, if too slowly
                yield from self._replace(worker, f"it was not read within {self._time_limit:g} s")
        self._send()

    def _is_too_slow(self, worker: _Worker, waited: float) -> bool:
        """Whether the worker has exceeded the limit, now that the parent has waited some more seconds."""
        number = self._buffers.heartbeats.read(worker.index)
        worker.waited = worker.waited + waited if number == worker.reading else 0.0
        worker.reading = number
        return 0 < self._time_limit <= worker.waited and number in worker.sent

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers.values():
            worker.process.kill()
            worker.connection.close()
        for worker in self._workers.values():
            worker.process.join()
        self._workers.clear()

    def _start(self, index: int) -> _Worker:
        self._buffers.heartbeats.end(index)
        with starting("DATA_LOADER.NUM_WORKERS"):
            ours, theirs = self._context.Pipe()
            args = (self._read, theirs, self._buffers, index)
            process = self._context.Process(target=_work, args=args, daemon=True, name=f"video-reader-{index}")
            process.start()
        theirs.close()  # now open only in the worker, so that the pipe closes when the worker ends
        return _Worker(index, process, ours)

    def _send(self) -> None:
        while self._waiting:
            worker = min(self._workers.values(), key=lambda worker: len(worker.sent))
            if len(worker.sent) >= _MAX_QUEUED:
                return
            request = self._waiting.popleft()
            self._last_number += 1
            request.number = self._last_number
            worker.sent[request.number] = request
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it ended: receiving will notice
                worker.connection.send((request.number, request.record, request.seed, request.buffer, request.row))

    def _receive(self, worker: _Worker) -> Iterator[ReadRequest]:
        """The request that a worker reports as completed; or, where the worker has ended, replace it."""
        try:
            answer = worker.connection.recv()
        except (EOFError, OSError):
            answer = None
        if answer is None:
            yield from self._replace(worker)
            return
        number, failure, error = answer
        request = worker.sent.pop(number)
        worker.has_answered, self._failed_starts = True, 0
        if error:
            raise WorkerError(f"reading {request.record} failed\n{error}")
        request.failure = failure
        yield request

    def _replace(self, worker: _Worker, reason: str = "") -> Iterator[ReadRequest]:
        """End a worker if it still runs, and start a new one; yields the request it was reading, if that has failed."""
        worker.process.kill()
        worker.process.join()
        worker.connection.close()
        check_exit(worker.process.exitcode)
        how = describe_exit(worker.process.exitcode)
        current = worker.sent.get(self._buffers.heartbeats.read(worker.index))
        if current is None and not worker.has_answered:
            self._failed_starts += 1
            if self._failed_starts >= _MAX_FAILED_STARTS:
                raise WorkerError(f"processes that read videos end before they read the first one ({how})")
        self._workers[worker.index] = self._start(worker.index)
        if current is not None:
            current.losses += 1
            if current.losses == _MAX_LOSSES:
                del worker.sent[current.number]
                reason = reason or f"the process that read it died ({how})"
                current.failure, current.lost_worker = f"{reason}, at the second attempt, too", True
                yield current
        self._waiting.extendleft(reversed(worker.sent.values()))


def _context():
    """Where it is safe, a server process that has imported torch once and is forked for each worker."""
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["videofib.data.clips.dataset"])
    return context


def _work(read: Read, connection: Connection, buffers: BufferWriter, index: int) -> None:
    torch.set_num_threads(1)  # parallel over videos, not within one
    while True:
        try:
            number, record, seed, buffer, row = connection.recv()
        except (EOFError, OSError):  # the parent is gone
            return
        failure = error = None
        buffers.heartbeats.begin(index, number)
        try:
            read(record, seed, buffers.row(buffer, row))
        except DecodeError as reason:
            failure = str(reason)
        except Exception:
            error = traceback.format_exc()
        buffers.heartbeats.end(index)
        try:
            connection.send((number, failure, error))
        except OSError:  # the parent is gone
            return
