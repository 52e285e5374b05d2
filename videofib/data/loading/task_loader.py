"""Batches of several tasks in one pass, each batch of one task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any


class TaskLoader:
    """The batches of a loader for each task, in turn; to the trainer it is one loader.

    An epoch has all batches of all tasks. They are spread evenly, and so alternate where tasks have equally many::

        batches of a, b    4, 2
        order              a b a a b a

    The order depends on these numbers alone, so all processes take the same task in a step, and a run resumes from
    (epoch, step) with the very next batch. Batches have one more entry, ``task``.

    Args:
        loaders: by the name of the task, as :class:`~videofib.data.loading.loader.VideoLoader`, each with an
            ``EpochSampler``.
    """

    def __init__(self, loaders: Mapping[str, Any]):
        self.loaders = dict(loaders)
        self.sampler = self
        self._order = spread({task: len(loader) for task, loader in self.loaders.items()})
        self._step = 0

    def set_epoch(self, epoch: int, step: int = 0) -> None:
        """Choose the epoch, and how many of its batches are done already."""
        self._step = step
        done = self._order[:step]
        for task, loader in self.loaders.items():
            loader.sampler.set_epoch(epoch, done.count(task))

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[dict]:
        batches = {task: iter(loader) for task, loader in self.loaders.items()}
        for task in self._order[self._step :]:
            yield {**next(batches[task]), "task": task}

    def close(self) -> None:
        """End the worker processes of all loaders."""
        for loader in self.loaders.values():
            loader.close()

    def __enter__(self) -> TaskLoader:
        return self

    def __exit__(self, *error) -> None:
        self.close()


def spread(counts: Mapping[str, int]) -> list[str]:
    """Each name as often as it counts, evenly: the next is always the one whose middle comes first."""
    middles = [
        (Fraction(2 * index + 1, 2 * count), number, name)
        for number, (name, count) in enumerate(counts.items())
        for index in range(count)
    ]
    return [name for _, _, name in sorted(middles)]
