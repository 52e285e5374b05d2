"""Which videos a process reads, and in which order: pure arithmetic on (seed, epoch, step, rank)."""

from __future__ import annotations

import random
from collections.abc import Iterator

from torch.utils.data import Sampler


class EpochSampler(Sampler):
    """This process's keys ``(epoch, index)``: its share of a permutation that all processes agree on.

    Only whole batches are dealt, so every process takes the same number of steps. Step k trains on the same videos
    whatever the number of processes::

        permutation   | batch 0         | batch 1         | ... | too few: left out this epoch
        process       0 1 0 1 0 1 0 1   0 1 0 1 ...

    Its whole state is (epoch, step): a run that was interrupted goes on with the very next batch.
    """

    def __init__(self, num_records: int, batch_size: int, *, seed: int, rank: int, world_size: int):
        self.num_records, self.batch_size = num_records, batch_size
        self.seed, self.rank, self.world_size = seed, rank, world_size
        self.num_used = num_records // batch_size * batch_size
        self.epoch = self.step = 0

    def set_epoch(self, epoch: int, step: int = 0) -> None:
        """Choose the epoch, and how many of its batches are done already."""
        self.epoch, self.step = epoch, step

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = list(range(self.num_records))
        random.Random(f"{self.seed}/{self.epoch}").shuffle(order)
        left = order[self.step * self.batch_size : self.num_used]
        return iter([(self.epoch, index) for index in left[self.rank :: self.world_size]])

    def __len__(self) -> int:
        """Of a whole epoch, wherever it begins."""
        return self.num_used // self.world_size
