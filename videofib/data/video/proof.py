"""The proof that decord, seeking in a file, returns the same frames as reading in order; ``decode.examine`` carries it.

decord numbers, seeks and skips by the times stored with the packets. So it is right if (1) decoding yields exactly
those times, one frame each and ascending, (2) after a seek to any keyframe the frames up to the next one are the true
ones, and (3) so is a frame within a group to which decord seeks, where it skips those before. The first is checked for
all frames; the second for the first and a random frame of every keyframe's group, the third for the last one of every
group, for which it skips most: in MPEG-2 streams it returns others from some frame of each group on. Random sets of
frames, as training reads them, are compared as well.

The frames to compare with come from a decode in order that the caller makes anyway; this file decodes only by seeking.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np

from videofib.data.errors import DecodeError
from videofib.data.source import Source
from videofib.data.video import decord_reader
from videofib.data.video.clock import Stored

RANDOM_READS = 4  # random sets of frames that are compared in a file of any origin
FRAMES_A_READ = 8
# Mean absolute difference, of 255: two decoders' colour conversions stay below it, a wrong frame rarely does.
_SAME_FRAME = 0.5


class Proof:
    """Collects frames decoded in order, then compares decord's with them.

    Attributes:
        wanted: indices of the frames that ``add`` needs the picture of.
    """

    def __init__(self, source: Source, packets: Sequence[Stored], *, random_reads: int, seed: int):
        """Choose the frames to compare.

        Raises:
            DecodeError: decord cannot be right in this file, as its packets or its name show.
        """
        times = [packet.time for packet in packets if packet.is_shown]
        if None in times or len(set(times)) != len(times):
            raise DecodeError(f"{source}: times of frames are unknown, or occur twice")
        if not decord_reader.takes_name(source):
            raise DecodeError(f"{source}: decord cannot open a file of this name")
        self._times = sorted(times)
        self._reader = decord_reader.SeekingReader(source)
        keys = self._reader.keyframes(len(times))
        self._draws = draws(len(times), keys, random_reads, random.Random(seed))
        self.wanted = set().union(*self._draws)
        self._truth: dict[int, np.ndarray] = {}
        self._count, self._in_time = 0, True

    def add(self, time: int | None, image: np.ndarray | None) -> None:
        """Take the next frame in order: when it is shown, in ticks, and its picture where it is ``wanted``."""
        self._in_time &= self._count < len(self._times) and time == self._times[self._count]
        if image is not None and self._count in self.wanted:
            self._truth[self._count] = _fingerprint(image)
        self._count += 1

    def holds(self) -> bool:
        """Whether all frames that were added have the packets' times, and decord returns the same ones."""
        if not self._in_time or self._count != len(self._times):
            return False
        try:
            return all(
                _same(image, self._truth[i])
                for draw in self._draws
                for i, image in zip(draw, self._reader.read(draw), strict=True)
            )
        except DecodeError:
            return False


def draws(num_frames: int, keys: Sequence[int], random_reads: int, rng: random.Random) -> list[list[int]]:
    """Ascending sets of frames to read by seeking: the last of each keyframe's group, two from its start on, random."""
    groups = list(zip(keys, [*keys[1:], num_frames], strict=True))
    # Backwards, since decord does not seek forwards to a frame that it reaches by decoding on; the first of these may
    # be such a one, so it is read twice.
    last = [[num_frames - 1], *([end - 1] for _, end in reversed(groups))]
    first = [sorted({key, rng.randrange(key, end)}) for key, end in groups]
    rng.shuffle(first)
    size = min(FRAMES_A_READ, num_frames)
    return last + first + [sorted(rng.sample(range(num_frames), size)) for _ in range(random_reads)]


def _fingerprint(image: np.ndarray) -> np.ndarray:
    """About 64 x 64 of the pixels: enough to distinguish frames, and few enough to keep one a frame in memory."""
    return image[:: max(image.shape[0] // 64, 1), :: max(image.shape[1] // 64, 1)].astype(np.int16)


def _same(image: np.ndarray, truth: np.ndarray) -> bool:
    found = _fingerprint(image)
    return found.shape == truth.shape and np.abs(found - truth).mean() <= _SAME_FRAME
