"""Multigrid training (arXiv 1912.00998), its long cycle: early epochs on smaller clips in larger batches.

::

    epoch    0          15         30         45         60      four stretches, by PySlowFast's factors
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
class Stretch:
    """Epochs with clips of one size.

    Attributes:
        first_epoch: from here to the next stretch.
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
) -> list[Stretch]:
    """Stretches of equally many epochs (to one), with these factors of frames and of the crop's side.

    Frames and crops are rounded to whole tubelets and patches, batches to whole multiples.

    Raises:
        ValueError: fewer epochs than stretches, or a factor that is not above 0 and at most 1.
    """
    if len(factors) > epochs:
        raise ValueError(f"{len(factors)} stretches need as many epochs, and there are {epochs}")
    if not factors or not all(len(pair) == 2 and all(0 < factor <= 1 for factor in pair) for pair in factors):
        raise ValueError(f"factors are pairs (frames, crop), each above 0 and at most 1; got {factors}")
    return [
        Stretch(
            number * epochs // len(factors),
            _whole(num_frames * frames, tubelet_size),
            _whole(crop_size * crop, patch_size),
            max(1, round(1 / (frames * crop**2))),
        )
        for number, (frames, crop) in enumerate(factors)
    ]


def stretch_at(stretches: Sequence[Stretch], epoch: float) -> int:
    """Which of them this epoch belongs to."""
    return bisect_right([stretch.first_epoch for stretch in stretches], epoch) - 1


class StretchedLoader:
    """A loader for each stretch of epochs, of which one has workers at a time; to the trainer it is one loader.

    A position (epoch, step) tells the stretch, too, so a run goes on with the very next batch of the right size.
    """

    def __init__(self, stretches: Sequence[Stretch], loaders: Sequence[VideoLoader]):
        self._stretches, self._loaders, self._now = stretches, loaders, loaders[0]
        self.sampler = self

    def set_epoch(self, epoch: int, step: int = 0) -> None:
        """Choose the epoch, how many of its batches are done already, and with the epoch the size of clips."""
        loader = self._loaders[stretch_at(self._stretches, epoch)]
        if loader is not self._now:
            self._now.close()  # its workers write batches of another shape
            self._now = loader
        loader.sampler.set_epoch(epoch, step)

    @property
    def dataset(self) -> ClipDataset:
        return self._now.dataset

    def __len__(self) -> int:
        return len(self._now)

    def __iter__(self) -> Iterator[dict]:
        return iter(self._now)

    def close(self) -> None:
        """End the worker processes; a second call does nothing. A later pass starts new ones."""
        self._now.close()

    def __enter__(self) -> StretchedLoader:
        return self

    def __exit__(self, *error) -> None:
        self.close()


def _whole(size: float, unit: int) -> int:
    return max(1, round(size / unit)) * unit
