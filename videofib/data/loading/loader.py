"""Batches of samples, read ahead by worker processes into shared memory."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from itertools import islice
from operator import attrgetter

import torch
from torch import Tensor

from videofib.data.clips.dataset import ClipDataset, ViewDataset, load_sample
from videofib.data.lists.record import VideoRecord
from videofib.data.loading.shared_memory import BatchBuffers
from videofib.data.loading.workers import ReadRequest, WorkerPool

logger = logging.getLogger(__name__)

_AHEAD = 2  # samples a worker may be ahead, and batches at least


class VideoLoader:
    """Iterates over batches; each is a dict of

        views: (B, V, C, T, H, W) float32
        labels: (B, ...), the targets of the videos: by default class indices, (B,) int64
        indices: (B,) int64, positions in ``dataset.records``
        failures: list of (video_id, reason) of the videos that could not be read

    A video that crashes its worker, or keeps it longer than the time limit, is reported once in the log and not read
    again. The worker is replaced, and no other sample is affected. ``close``, or leaving a ``with`` block, ends the
    workers.

    Args:
        dataset: what a key means and how it is read.
        sampler: the keys of one pass, in order; each pass iterates over it once.
        batch_size: samples; the last batch of a pass may have fewer.
        target: the label of a record, as training wants it.
        num_workers: processes; 0: read in this one, without time limit.
        time_limit: seconds to read a video; 0: no limit.
        pin_memory: return batches in page-locked memory, from which copies to a GPU run beside other work.
    """

    def __init__(
        self,
        dataset: ClipDataset | ViewDataset,
        sampler: Iterable,
        batch_size: int,
        *,
        target: Callable[[VideoRecord], Tensor | int] = attrgetter("label"),
        num_workers: int = 0,
        time_limit: float = 0.0,
        pin_memory: bool = False,
    ):
        if not isinstance(sampler, Sized):
            raise TypeError(f"a sampler needs a length, and {type(sampler).__name__} has none")
        self.dataset, self.sampler, self.batch_size, self.target = dataset, sampler, batch_size, target
        self.num_workers, self.time_limit, self.pin_memory = num_workers, time_limit, pin_memory
        self._quarantine: dict[int, str] = {}  # index of a video -> why it is not read again
        self._workers: WorkerPool | None = None

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.batch_size)

    def __iter__(self) -> Iterator[dict]:
        keys, records = iter(self.sampler), self.dataset.records
        batches = iter(lambda: list(islice(keys, self.batch_size)), [])
        for batch in self._read_ahead(batches) if self.num_workers else map(self._read_here, batches):
            yield {
                "views": batch.views.pin_memory() if self.pin_memory else batch.views,
                "labels": torch.stack([torch.as_tensor(self.target(records[index])) for index in batch.indices]),
                "indices": torch.tensor(batch.indices),
                "failures": [failure for failures in batch.failures for failure in failures],
            }

    def restrict(self, indices: Sequence[int]) -> None:
        """Read only these videos of the split from the next pass on, as when a test resumes; of evaluation loaders.

        Args:
            indices: positions in ``dataset.records`` for all processes together, the same in each; the sampler
                divides them over the processes.
        """
        self.sampler.restrict(indices)

    def close(self) -> None:
        """End the worker processes; a second call does nothing. A later pass starts new ones.

        A pass that has not ended raises WorkerError when it is continued.
        """
        if self._workers:
            self._workers.close()
            self._buffers.close()
            self._workers = None

    def __enter__(self) -> VideoLoader:
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def _read_here(self, keys: list) -> _Batch:
        batch = _Batch(keys, torch.empty(len(keys), *self.dataset.shape))
        for row, key in enumerate(keys):
            batch.indices[row], batch.failures[row] = load_sample(self.dataset, key, batch.views[row])
        return batch

    def _read_ahead(self, batches: Iterator[list]) -> Iterator[_Batch]:
        if self._workers is None:
            self._buffers = BatchBuffers((self.batch_size, *self.dataset.shape))
            self._workers = WorkerPool(self.dataset.read, self.num_workers, self._buffers, self.time_limit)
        workers = self._workers  # of this pass, also after ``close``
        ahead = max(_AHEAD, -(-_AHEAD * self.num_workers // self.batch_size))
        in_flight: deque[_Batch] = deque()
        try:
            while True:
                while len(in_flight) <= ahead and (keys := next(batches, None)) is not None:
                    in_flight.append(self._request(keys))
                if not in_flight:
                    return
                batch = in_flight[0]
                while batch.num_missing:
                    for request in workers.completed():
                        self._complete(request)
                yield in_flight.popleft()
        finally:  # a pass that stops early has requests at the workers: their buffers are free once they are completed
            for batch in in_flight:
                batch.abandoned = True
            workers.cancel(lambda request: request.context[0].abandoned)

    def _request(self, keys: list) -> _Batch:
        """Request all samples of a batch."""
        buffer, views = self._buffers.acquire()
        batch = _Batch(keys, views[: len(keys)], buffer)
        for row, key in enumerate(keys):
            self._request_next(batch, row, self.dataset.candidates(key))
        return batch

    def _request_next(self, batch: _Batch, row: int, candidates: Iterator[tuple[int, str]]) -> None:
        """Request the next candidate for a row, if there is one left."""
        for index, seed in candidates:
            batch.indices[row] = index
            record = self.dataset.records[index]
            if index not in self._quarantine:
                self._workers.submit(ReadRequest(record, seed, batch.buffer, row, (batch, candidates)))
                return
            batch.failures[row].append((record.video_id, self._quarantine[index]))
        self.dataset.give_up(batch.failures[row], batch.views[row])
        batch.num_missing -= 1

    def _complete(self, request: ReadRequest) -> None:
        """Record that a request is completed; where its video could not be read, request another one."""
        batch, candidates = request.context
        if request.lost_worker:
            self._quarantine[batch.indices[request.row]] = f"{request.record.location}: {request.failure}"
            logger.error("%s: %s; it is left out from now on", request.record.location, request.failure)
        if batch.abandoned:
            return
        if request.failure is None:
            batch.num_missing -= 1
            return
        reason = request.failure if not request.lost_worker else f"{request.record.location}: {request.failure}"
        batch.failures[request.row].append((request.record.video_id, reason))
        self._request_next(batch, request.row, candidates)


@dataclass(eq=False)
class _Batch:
    """A batch that is being read: ``num_missing`` rows of ``views`` are not written yet."""

    keys: list
    views: Tensor
    buffer: int = -1
    abandoned: bool = False

    def __post_init__(self) -> None:
        self.num_missing = len(self.keys)
        self.indices = [0] * len(self.keys)
        self.failures: list[list[tuple[str, str]]] = [[] for _ in self.keys]
