"""Data sets: from a record to the views a model sees. A video that cannot be read is reported and never stops a run."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from videofib.data.clips.transforms import CHANNELS, TrainTransform, ViewTransform
from videofib.data.errors import DecodeError, FrameIndexError, TooLargeError
from videofib.data.lists.record import VideoRecord, verified
from videofib.data.lists.records import Records
from videofib.data.lists.remote import fetched
from videofib.data.sampling import (
    check_view_starts,
    clip_indices,
    clip_length,
    train_segment_indices,
    train_start,
    view_segment_indices,
    view_start,
)
from videofib.data.source import ALL_PICTURES, FrameFiles, FrameFolder
from videofib.data.video.decode import estimate, read_frames
from videofib.data.video.extent import Extent, segment_extent
from videofib.data.video.memory import MOST_BYTES

MAX_DRAWS = 10  # videos tried for one training sample before giving up


@dataclass(frozen=True)
class ClipSpec:
    """How clips are taken from videos.

    ``dense``: ``num_frames`` frames, ``sampling_rate`` apart in a ``target_fps`` video.
    ``uniform``: one frame of each of ``num_frames`` segments of the full video, whatever its frame rate.

    ``view_starts`` is where the clips of evaluation lie, of ``sampling.VIEW_STARTS``.

    Frames whose shorter side is longer than ``short_side`` pixels are scaled down to it while they are read; 0: never.
    The frames of one read may take ``most_bytes``; 0: no limit. Clips of a video that take more together are read one
    by one, and a single one that takes more is a failure.

    ``frame_files`` says which files of a folder are frames, where a video is one.

    Raises:
        ValueError: an unknown ``sampling`` or ``view_starts``.
    """

    num_frames: int
    sampling_rate: int
    target_fps: float
    backend: str = "auto"
    sampling: str = "dense"
    short_side: int = 0
    view_starts: str = "spread"
    most_bytes: int = MOST_BYTES
    frame_files: FrameFiles = ALL_PICTURES

    def __post_init__(self) -> None:
        if self.sampling not in ("dense", "uniform"):
            raise ValueError(f"unknown sampling {self.sampling!r}; it must be one of dense, uniform")
        check_view_starts(self.view_starts)

    def train_clips(self, length: int, fps: float, count: int, rng: random.Random) -> list[list[int]]:
        """Frame indices (T) of ``count`` random clips of a video of ``length`` frames."""
        if self.sampling == "uniform":
            return [train_segment_indices(self.num_frames, length, rng) for _ in range(count)]
        span = self.span(fps)
        return [clip_indices(train_start(length, span, rng), span, self.num_frames, length) for _ in range(count)]

    def view_clips(self, length: int, fps: float, count: int) -> list[list[int]]:
        """Frame indices (T) of ``count`` clips of a video of ``length`` frames, the same whenever it is evaluated."""
        if self.sampling == "uniform":
            return [
                view_segment_indices(self.num_frames, length, view, count, self.view_starts) for view in range(count)
            ]
        span = self.span(fps)
        starts = [view_start(length, span, view, count, self.view_starts) for view in range(count)]
        return [clip_indices(start, span, self.num_frames, length) for start in starts]

    def span(self, fps: float) -> float:
        """Frames of a video of ``fps`` that a dense clip spans."""
        return clip_length(self.num_frames, self.sampling_rate, self.target_fps, fps)


class ClipDataset(Dataset):
    """Training: random views of each video, each of a random clip of its own; the video is decoded once.

    Items are keyed ``(epoch, index)``, or ``(epoch, index, copy)`` where an epoch has a video several times. All random
    draws are seeded by ``seed`` and the key, so an item is the same in any worker, process or resumed run. Each is a
    dict of

        views: (V, C, T, H, W) float32, V = num_views
        label: int
        index: int, the position in ``records`` of the video that was used
        failures: list of (video_id, reason): videos that could not be read and were replaced by another

    Raises:
        RuntimeError: ``MAX_DRAWS`` videos in a row could not be read; names them.
    """

    def __init__(
        self,
        records: Records,
        spec: ClipSpec,
        transform: TrainTransform,
        *,
        num_views: int = 1,
        seed: int = 0,
    ):
        self.records, self.seed = records, seed
        self.read = ReadClips(spec, transform, num_views)
        self.shape = (num_views, CHANNELS, spec.num_frames, transform.crop_size, transform.crop_size)

    def __len__(self) -> int:
        return len(self.records)

    def candidates(self, key: tuple[int, ...]) -> Iterator[tuple[int, str]]:
        """(index, seed of its random draws) of the video of a key, then of those to try where it cannot be read."""
        epoch, index, copy = (*key, 0)[:3]
        seed = f"{self.seed}/{epoch}/{index}" + (f"/copy {copy}" if copy else "")
        yield index, seed
        rng = random.Random(f"{seed}/instead")
        for draw in range(1, MAX_DRAWS):
            yield rng.randrange(len(self.records)), f"{seed}/{draw}"

    def give_up(self, failures: list[tuple[str, str]], out: Tensor) -> None:
        """Called where no candidate for a sample could be read.

        Raises:
            RuntimeError: always; names the reasons.
        """
        reasons = "\n  ".join(sorted({reason for _, reason in failures}))
        raise RuntimeError(f"{MAX_DRAWS} videos drawn in a row could not be read; check the data set:\n  {reasons}")

    def __getitem__(self, key: tuple[int, ...]) -> dict:
        return _item(self, key)


class ViewDataset(Dataset):
    """Validation and testing: all views of each video, which is decoded once.

    V = num_clips x transform.num_crops views, all crops of the first clip first. Each item is a dict of

        views: (V, C, T, H, W) float32; zeros where the video cannot be read
        label, index: int
        failures: [] or [(video_id, reason)] for a video that cannot be read
    """

    def __init__(self, records: Records, spec: ClipSpec, transform: ViewTransform, num_clips: int):
        self.records = records
        self.read = ReadViews(spec, transform, num_clips)
        views = num_clips * transform.num_crops
        self.shape = (views, CHANNELS, spec.num_frames, transform.crop_size, transform.crop_size)

    def __len__(self) -> int:
        return len(self.records)

    def candidates(self, key: int) -> Iterator[tuple[int, str]]:
        """(index, no seed) of the video of a key; evaluation replaces no video by another."""
        yield key, ""

    def give_up(self, failures: list[tuple[str, str]], out: Tensor) -> None:
        """Called where the video of a sample could not be read: its views are zeros."""
        out.zero_()

    def __getitem__(self, key: int) -> dict:
        return _item(self, key)


@dataclass(frozen=True)
class ReadClips:
    """Reads a training sample; small enough to send to workers, which need no copy of all records."""

    spec: ClipSpec
    transform: TrainTransform
    num_views: int

    def __call__(self, record: VideoRecord, seed: str, out: Tensor) -> None:
        """Write views (V, C, T, H, W) of a video into ``out``; ``seed`` determines all random draws.

        Raises:
            DecodeError: the video cannot be read.
        """
        rng = random.Random(seed)
        for first, frames, clips in read_clips(
            record, self.spec, lambda length, fps: self.spec.train_clips(length, fps, self.num_views, rng)
        ):
            for number, clip in enumerate(clips, start=first):
                self.transform(frames[clip], rng, out[number])
            del frames  # the next are allocated before they are returned


@dataclass(frozen=True)
class ReadViews:
    """Reads all views of a video for testing; see ``ReadClips``."""

    spec: ClipSpec
    transform: ViewTransform
    num_clips: int

    def __call__(self, record: VideoRecord, seed: str, out: Tensor) -> None:
        crops = len(out) // self.num_clips
        for first, frames, clips in read_clips(
            record, self.spec, lambda length, fps: self.spec.view_clips(length, fps, self.num_clips)
        ):
            self.transform(frames, clips, out[first * crops : (first + len(clips)) * crops])
            del frames  # the next are allocated before they are returned

    def of_frames(self, frames: np.ndarray, fps: float) -> Tensor:
        """The views (V, C, T, H, W) of frames in memory, uint8 RGB (N, H, W, 3), as of a video that has these."""
        clips = self.spec.view_clips(len(frames), fps, self.num_clips)
        wanted = sorted(set().union(*clips))
        position = {index: number for number, index in enumerate(wanted)}
        return self.transform(frames[wanted], [[position[index] for index in clip] for clip in clips])


def load_sample(dataset: ClipDataset | ViewDataset, key, out: Tensor) -> tuple[int, list[tuple[str, str]]]:
    """Read the sample of a key into ``out``, in this process; returns the index of its video, and failures."""
    failures: list[tuple[str, str]] = []
    for index, seed in dataset.candidates(key):
        record = dataset.records[index]
        try:
            dataset.read(record, seed, out)
            return index, failures
        except DecodeError as error:
            failures.append((record.video_id, str(error)))
    dataset.give_up(failures, out)
    return index, failures


def _item(dataset: ClipDataset | ViewDataset, key) -> dict:
    views = torch.empty(dataset.shape)
    index, failures = load_sample(dataset, key, views)
    return {"views": views, "label": dataset.records[index].label, "index": index, "failures": failures}


def read_clips(
    record: VideoRecord, spec: ClipSpec, choose: Callable[[int, float], list[list[int]]]
) -> Iterator[tuple[int, np.ndarray, list[list[int]]]]:
    """The chosen clips: the number of the first, their distinct frames (N, H, W, C), and each one's positions in these.

    All come together, or one by one where all frames would take more than ``spec.most_bytes``.

    Of a record with a segment they are clips of this, as if its video had no other frames.

    ``choose(video_length, fps)`` returns the frame indices of each clip. It may be called twice: where the frames of a
    video have not been counted, its length is an estimate, and reading may find it too high. Clips that came before
    that come again, as newly chosen.
    """
    record = verified(record)
    with fetched(record.path) as local:
        source = spec.frame_files.of(local, record.num_frames)

        def read(clips: list[list[int]]) -> tuple[np.ndarray, list[list[int]]]:
            wanted = sorted(set().union(*clips))
            position = {index: number for number, index in enumerate(wanted)}
            frames = read_frames(
                source,
                wanted,
                random_access=record.random_access,
                backend=spec.backend,
                short_side=spec.short_side,
                most_bytes=spec.most_bytes,
            )
            return frames, [[position[index] for index in clip] for clip in clips]

        length, fps = record.num_frames, record.fps
        if isinstance(source, FrameFolder):
            fps = source.files.fps
        times: tuple[float, ...] = ()
        if length is None or record.variable_rate or record.segment:
            stored = estimate(source)
            length, fps, times = length or stored.num_frames, fps or stored.fps, stored.times
        while True:
            extent = Extent(0, length, fps or spec.target_fps, times)
            if record.segment:
                extent = segment_extent(source, record.segment, stored, length, extent.fps)
            clips = [extent.in_video(clip) for clip in choose(extent.length, extent.fps)]
            try:
                yield from _together_or_one_by_one(clips, read)
                return
            except FrameIndexError as error:
                if not 0 < error.num_frames < length:
                    raise DecodeError(str(error)) from error
                if record.num_frames or error.num_frames < length - 2:  # an estimate may be off by one or two
                    warnings.warn(  # Python shows a warning once a process; a log line would come with each clip
                        f"{record.path}: {error.num_frames} frames decode, not {length}; clips are taken from those",
                        RuntimeWarning,
                        stacklevel=2,
                    )
                length = error.num_frames


def _together_or_one_by_one(
    clips: list[list[int]], read: Callable[[list[list[int]]], tuple[np.ndarray, list[list[int]]]]
) -> Iterator[tuple[int, np.ndarray, list[list[int]]]]:
    try:
        yield 0, *read(clips)
        return
    except TooLargeError:
        if len(clips) == 1:
            raise
    for number, clip in enumerate(clips):
        yield number, *read([clip])
