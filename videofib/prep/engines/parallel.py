"""Calls a function for many items in a pool of local processes; a process that dies costs the item it worked on."""

from __future__ import annotations

import contextlib
import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from videofib.data.errors import describe_exit
from videofib.starting import check_exit, starting


class WorkerDied(RuntimeError):
    """The process that worked on an item ended without a result (a crash in a decoder, out of memory, kill -9)."""


def run_parallel(function: Callable[[Any], Any], items: Sequence[Any], jobs: int) -> Iterator[tuple[int, Any]]:
    """Call ``function(item)`` for every item in ``jobs`` processes; yield ``(index, result)`` as they finish.

    Where the call raised, the result is the exception; where its process died, a ``WorkerDied``, and a new process
    takes over. Nothing else is lost, since every process has one item at a time.

    Args:
        function: a function at module level (it is sent by name).
        items: its arguments; sent by pickle.
        jobs: processes at once.

    Raises:
        ValueError: ``jobs`` below 1.
    """
    if jobs < 1:
        raise ValueError(f"jobs is {jobs}; it must be 1 or more")
    waiting = deque(enumerate(items))
    workers: dict[Connection, _Worker] = {}
    try:
        while waiting or workers:
            while waiting and len(workers) < jobs:
                worker = _Worker(function)
                worker.give(*waiting.popleft())
                workers[worker.connection] = worker
            for connection in wait(list(workers)):
                worker = workers[connection]
                index = worker.index
                try:
                    result = connection.recv()
                except (EOFError, ConnectionResetError):
                    result = WorkerDied(f"its process died ({worker.end()})")
                    del workers[connection]
                    check_exit(worker.process.exitcode)
                else:
                    if waiting:
                        worker.give(*waiting.popleft())
                    else:
                        worker.end()
                        del workers[connection]
                yield index, result
    finally:
        for worker in workers.values():
            worker.process.terminate()
            worker.end()


class _Worker:
    def __init__(self, function: Callable[[Any], Any]):
        # spawn: a fork of a process that has decoded videos inherits the locks of its threads and may hang
        context = multiprocessing.get_context("spawn")
        with starting("--jobs"):  # Ctrl-C is the parent's to handle; it ends its workers
            self.connection, theirs = context.Pipe()
            self.process = context.Process(target=_work, args=(function, theirs), daemon=True)
            self.process.start()
        theirs.close()  # now open only in the worker, so that the pipe closes when the worker ends

    def give(self, index: int, item: Any) -> None:
        self.index = index
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it died: the next recv will notice
            self.connection.send(item)

    def end(self) -> str:
        """Close the pipe, wait for the process and return how it ended."""
        self.connection.close()
        self.process.join()
        return describe_exit(self.process.exitcode)


def _work(function: Callable[[Any], Any], connection: Connection) -> None:
    while True:
        try:
            item = connection.recv()
        except (EOFError, OSError):  # no more items, or the parent is gone
            return
        try:
            result = function(item)
        except Exception as error:
            result = error
        try:
            connection.send(result)
        except OSError:  # the parent is gone
            return
