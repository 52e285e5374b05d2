"""Multigrid training (arXiv 1912.00998), its long cycle: early epochs on smaller clips in larger batches.

::

    epoch    0          15         30         45         60      four stages, by PySlowFast's factors
    frames   | T / 4    | T / 2    | T / 2    | T        |
    crop     | 0.71 S   | 0.71 S   | S        | S        |
    batch    | 8 B      | 4 B      | 2 B      | B        |   about as many values in each
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from videofib.data.clips.dataset import ClipDataset
from videofib.data.loading.loader import VideoLoader


@dataclass(frozen=True)
class MultigridStage:
    """Epochs with clips of one size.

    Attributes:
        first_epoch: the stage lasts from here to the next one.
        num_frames, crop_size: of the clips; T, and pixels.
        batch_factor: how many times as many videos a batch has, and by how much learning rates grow.
    """

    first_epoch: int
    num_frames: int
    crop_size: int
    batch_factor: int


def long_cycle(
    factors: Sequence[Sequence[float]],
    epochs: int,
    num_frames: int,
    crop_size: int,
    *,
    tubelet_size: int = 1,
    patch_size: int = 1,
) -> list[MultigridStage]:
    """Stages of equally many epochs (to one), with these factors of frames and of the crop's side.

    Frames and crops are rounded to multiples of the tubelet and the patch, batch factors to integers.

    Raises:
        ValueError: fewer epochs than stages, or a factor that is not above 0 and at most 1.
    """
    if len(factors) > epochs:
        raise ValueError(f"{len(factors)} stages need as many epochs, and there are {epochs}")
    if not factors or not all(len(pair) == 2 and all(0 < factor <= 1 for factor in pair) for pair in factors):
        raise ValueError(f"factors are pairs (frames, crop), each above 0 and at most 1; got {factors}")
    return [
        MultigridStage(
            number * epochs // len(factors),
            _multiple_of(tubelet_size, num_frames * frames),
            _multiple_of(patch_size, crop_size * crop),
            max(1, round(1 / (frames * crop**2))),
        )
        for number, (frames, crop) in enumerate(factors)
    ]


def stage_at(stages: Sequence[MultigridStage], epoch: float) -> int:
    """The index of the stage that an epoch belongs to."""
    return bisect_right([stage.first_epoch for stage in stages], epoch) - 1


class MultigridLoader:
    """A loader for each stage, of which one has workers at a time; to the trainer it is one loader.

    The epoch of a position (epoch, step) determines the stage, so a run resumes with the very next batch, in its size.
    """

    def __init__(self, stages: Sequence[MultigridStage], loaders: Sequence[VideoLoader]):
        self._stages, self._loaders, self._current = stages, loaders, loaders[0]
        self.sampler = self

    def set_epoch(self, epoch: int, step: int = 0) -> None:
        """Choose the epoch, with it the size of clips, and how many of the epoch's batches are done already."""
        loader = self._loaders[stage_at(self._stages, epoch)]
        if loader is not self._current:
            self._current.close()  # its workers write batches of another shape
            self._current = loader
        loader.sampler.set_epoch(epoch, step)

    @property
    def dataset(self) -> ClipDataset:
        return self._current.dataset

    def __len__(self) -> int:
        return len(self._current)

    def __iter__(self) -> Iterator[dict]:
        return iter(self._current)

    def close(self) -> None:
        """End the worker processes; a second call does nothing. A later pass starts new ones."""
        self._current.close()

    def __enter__(self) -> MultigridLoader:
        return self

    def __exit__(self, *error) -> None:
        self.close()


def _multiple_of(unit: int, size: float) -> int:
    """The multiple of ``unit`` nearest to ``size``, at least one."""
    return max(1, round(size / unit)) * unit
