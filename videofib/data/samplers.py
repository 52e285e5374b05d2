"""Which videos a process reads, and in which order: pure arithmetic on (seed, epoch, step, rank).

An **order** is a function: epoch -> the indices of videos, for the full epoch and all processes::

    shuffled           3 1 4 0 5 2                  each video once
    class_balanced     3 1 3 0 3 2                  each class as often as any other; videos of rare classes repeat
    length_bucketed    3 1 | 5 4 | 0 2              each batch of videos of about one length
    shard_by_shard     4 5 3 | 1 0 2                the videos of a few shards, mixed, then those of the next few
"""

from __future__ import annotations

import random
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from torch.utils.data import Sampler

Order = Callable[[int], Sequence[int]]

_BATCHES_SORTED = 64  # batches at a time whose videos are sorted by length


class EpochSampler(Sampler):
    """This process's keys ``(epoch, index, copy)``: its part of an order that is the same in all processes.

    ``copy`` counts how often the index occurred earlier in the epoch. Only full batches are used, so all processes take
    the same number of steps. Step k trains on the same videos whatever the number of processes::

        order         | batch 0         | batch 1         | ... | too few: left out of this epoch
        process       0 1 0 1 0 1 0 1   0 1 0 1 ...

    Its complete state is (epoch, step): an interrupted run resumes with the very next batch.

    Args:
        order: indices of videos, equally many in each epoch.
        batch_size: of all processes together.
    """

    def __init__(self, order: Order, batch_size: int, *, rank: int = 0, world_size: int = 1):
        self.order, self.batch_size, self.rank, self.world_size = order, batch_size, rank, world_size
        self.num_used = len(order(0)) // batch_size * batch_size
        self.epoch = self.step = 0

    def set_epoch(self, epoch: int, step: int = 0) -> None:
        """Choose the epoch, and how many of its batches are done already."""
        self.epoch, self.step = epoch, step

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        order = np.asarray(self.order(self.epoch)[: self.num_used], np.int64)
        part = slice(self.step * self.batch_size + self.rank, None, self.world_size)
        return _keys(self.epoch, order[part], _copies(order)[part])

    def __len__(self) -> int:
        """Keys in a full epoch, whatever ``step`` is."""
        return self.num_used // self.world_size


class EvalSampler(Sampler):
    """This process's indices of the videos of a split: every video once over all processes, in order, no padding::

        video      0 1 2 3 4 5 6
        process    0 1 2 0 1 2 0

    Args:
        num_videos: of the full split.
    """

    def __init__(self, num_videos: int, *, rank: int = 0, world_size: int = 1):
        self._indices: Sequence[int] = range(num_videos)
        self._rank, self._world_size = rank, world_size

    def restrict(self, indices: Sequence[int]) -> None:
        """Give only these videos from the next pass on, divided over the processes in the same way.

        Args:
            indices: of all processes together, and the same in each of them.
        """
        self._indices = indices

    def __iter__(self) -> Iterator[int]:
        return iter(self._indices[self._rank :: self._world_size])

    def __len__(self) -> int:
        return len(self._indices[self._rank :: self._world_size])


def shuffled(count: int, seed: int) -> Order:
    """Each of ``count`` videos once."""
    return partial(_shuffled, count, seed)


def class_balanced(labels: Sequence[int] | np.ndarray, seed: int) -> Order:
    """As many samples as there are videos, equally many of each class (to one).

    A class cycles through its videos, in a new random order for each cycle, so that the videos of a class, too, occur
    equally often (to one).
    """
    return partial(_class_balanced, labels, seed)


def length_bucketed(lengths: Sequence[float] | np.ndarray, batch_size: int, seed: int) -> Order:
    """Each video once; the videos of a batch are about equally long, and so take about equally long to read.

    64 batches at a time are sorted by length and cut into batches; then all batches are shuffled.
    """
    return partial(_length_bucketed, lengths, batch_size, seed)


def shard_by_shard(shards: Sequence | np.ndarray, window: int, seed: int) -> Order:
    """Each video once; those of ``window`` shards are mixed, so that a process reads few large files at a time.

    Args:
        shards: of each video, the name or number of its shard.
    """
    return partial(_shard_by_shard, shards, window, seed)


def _keys(epoch: int, indices: np.ndarray, copies: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """The keys one by one: a million of them are not kept."""
    return ((epoch, int(index), int(copy)) for index, copy in zip(indices, copies, strict=True))


def _copies(order: np.ndarray) -> np.ndarray:
    """(N,) int64: how often each index occurred earlier."""
    by_index = np.argsort(order, kind="stable")
    grouped = order[by_index]
    starts = np.flatnonzero(np.concatenate([[True], grouped[1:] != grouped[:-1]]))
    copies = np.empty_like(order)
    copies[by_index] = np.arange(len(order)) - np.repeat(starts, np.diff([*starts, len(order)]))
    return copies


def _shuffled(count: int, seed: int, epoch: int) -> Sequence[int]:
    order = array("q", range(count))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order


def _class_balanced(labels: Sequence[int] | np.ndarray, seed: int, epoch: int) -> Sequence[int]:
    rng = random.Random(f"{seed}/{epoch}")
    videos = _grouped(labels)
    classes = list(videos)
    queues: dict[int, array[int]] = {label: array("q") for label in classes}
    order = array("q")
    while len(order) < len(labels):
        rng.shuffle(classes)
        for label in classes[: len(labels) - len(order)]:
            if not queues[label]:
                queues[label] = array("q", rng.sample(videos[label], len(videos[label])))
            order.append(queues[label].pop())
    return order


def _length_bucketed(lengths: Sequence[float] | np.ndarray, batch_size: int, seed: int, epoch: int) -> list[int]:
    order = _shuffled(len(lengths), seed, epoch)
    size = _BATCHES_SORTED * batch_size
    parts = [sorted(order[start : start + size], key=lengths.__getitem__) for start in range(0, len(order), size)]
    batches = [part[start : start + batch_size] for part in parts for start in range(0, len(part), batch_size)]
    short = [batch for batch in batches if len(batch) < batch_size]  # go last, where the sampler leaves them out
    batches = [batch for batch in batches if len(batch) == batch_size]
    random.Random(f"{seed}/{epoch}/batches").shuffle(batches)
    return [index for batch in batches + short for index in batch]


def _shard_by_shard(shards: Sequence | np.ndarray, window: int, seed: int, epoch: int) -> Sequence[int]:
    rng = random.Random(f"{seed}/{epoch}")
    videos = _grouped(shards)
    names = rng.sample(list(videos), len(videos))
    order = array("q")
    for start in range(0, len(names), window):
        part = [index for name in names[start : start + window] for index in videos[name]]
        order.extend(rng.sample(part, len(part)))
    return order


def _grouped(values: Sequence | np.ndarray) -> dict[Any, array[int]]:
    """Value -> the indices that have it, in order of first appearance."""
    groups: defaultdict[Any, array[int]] = defaultdict(partial(array, "q"))
    for index, value in enumerate(values):
        groups[value].append(index)
    return groups
