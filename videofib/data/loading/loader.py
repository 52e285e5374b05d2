"""Batches of samples, read ahead by worker processes into shared memory."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass
from operator import attrgetter

import torch
from torch import Tensor

from videofib.data.clips.dataset import ClipDataset, ViewDataset, load_sample
from videofib.data.lists.manifest import VideoRecord
from videofib.data.loading.shared_memory import Slots
from videofib.data.loading.workers import Task, Workers

logger = logging.getLogger(__name__)

_AHEAD = 2  # samples a worker may be ahead, and batches at least


class VideoLoader:
    """Iterates over batches; each is a dict of

        views: (B, V, C, T, H, W) float32
        labels: (B, ...), the targets of the videos: by default class indices, (B,) int64
        indices: (B,) int64, positions in ``dataset.records``
        failures: list of (video_id, reason) of the videos that could not be read

    A video that kills its worker, or that keeps it longer than the limit, is named once in the log and not read again.
    The worker is replaced, and no other sample suffers.

    Args:
        dataset: what a key means and how it is read.
        sampler: the keys of one pass, in order; it is asked anew at the beginning of each.
        batch_size: samples; the last batch of a pass may have fewer.
        target: what of a record is its label.
        num_workers: processes; 0: read in this one, without time limit.
        time_limit: seconds to read a video; 0: no limit.
        pin_memory: hand batches out in page-locked memory, from which copies to a GPU run beside other work.
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
        self._workers: Workers | None = None

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.batch_size)

    def __iter__(self) -> Iterator[dict]:
        keys, records = list(self.sampler), self.dataset.records
        batches = [keys[start : start + self.batch_size] for start in range(0, len(keys), self.batch_size)]
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
            self._slots.close()
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

    def _read_ahead(self, batches: list[list]) -> Iterator[_Batch]:
        if self._workers is None:
            self._slots = Slots((self.batch_size, *self.dataset.shape))
            self._workers = Workers(self.dataset.read, self.num_workers, self._slots, self.time_limit)
        workers = self._workers  # of this pass, also after ``close``
        ahead = max(_AHEAD, -(-_AHEAD * self.num_workers // self.batch_size))
        coming: deque[_Batch] = deque()
        waiting = iter(batches)
        try:
            for _ in batches:
                while len(coming) <= ahead and (keys := next(waiting, None)) is not None:
                    coming.append(self._begin(keys))
                batch = coming[0]
                while batch.left:
                    for task in workers.done():
                        self._settle(task)
                yield coming.popleft()
        finally:  # whoever stops early leaves samples half read: their memory is free again when they are done
            for batch in coming:
                batch.abandoned = True
            workers.drop(lambda task: task.owner[0].abandoned)

    def _begin(self, keys: list) -> _Batch:
        slot, views = self._slots.take()
        batch = _Batch(keys, views[: len(keys)], slot)
        for row, key in enumerate(keys):
            self._read_next(batch, row, self.dataset.candidates(key))
        return batch

    def _read_next(self, batch: _Batch, row: int, candidates: Iterator[tuple[int, str]]) -> None:
        """Have the next candidate for a row read, if there is one left."""
        for index, chance in candidates:
            batch.indices[row] = index
            record = self.dataset.records[index]
            if index not in self._quarantine:
                self._workers.submit(Task(record, chance, batch.slot, row, (batch, candidates)))
                return
            batch.failures[row].append((record.video_id, self._quarantine[index]))
        self.dataset.give_up(batch.failures[row], batch.views[row])
        batch.left -= 1

    def _settle(self, task: Task) -> None:
        batch, candidates = task.owner
        if task.deadly:
            self._quarantine[batch.indices[task.row]] = f"{task.record.path}: {task.failure}"
            logger.error("%s: %s; it is left out from now on", task.record.path, task.failure)
        if batch.abandoned:
            return
        if task.failure is None:
            batch.left -= 1
            return
        reason = task.failure if not task.deadly else f"{task.record.path}: {task.failure}"
        batch.failures[task.row].append((task.record.video_id, reason))
        self._read_next(batch, task.row, candidates)


@dataclass(eq=False)
class _Batch:
    """A batch on its way: ``views`` is being filled, ``left`` rows are not there yet."""

    keys: list
    views: Tensor
    slot: int = -1
    abandoned: bool = False

    def __post_init__(self) -> None:
        self.left = len(self.keys)
        self.indices = [0] * len(self.keys)
        self.failures: list[list[tuple[str, str]]] = [[] for _ in self.keys]
