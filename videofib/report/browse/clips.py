"""The clips of a video as a model sees them, with the frames, crops and flips that were drawn: to look at."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from videofib.data.clips.dataset import ClipDataset, ClipSpec, ViewDataset
from videofib.data.clips.transforms import TrainTransform, ViewTransform, denormalize
from videofib.data.errors import DecodeError
from videofib.data.lists.record import VideoRecord


@dataclass(frozen=True)
class Clip:
    """One view as the model sees it.

    Attributes:
        title: which view of its video this is.
        frames: (T, H, W, C) uint8, with normalisation undone.
        indices: the frames' indices (T) in the video.
        video_length: frames of the video, by its record or the file's header.
        full_frame: (height, width, C) uint8, the clip's first frame before cropping.
        box: (top, left, height, width) of the crop, in pixels of ``full_frame``.
        mirrored: whether the crop was flipped left to right.
    """

    title: str
    frames: np.ndarray
    indices: Sequence[int]
    video_length: int
    full_frame: np.ndarray
    box: tuple[int, int, int, int]
    mirrored: bool


@dataclass(frozen=True)
class BrowsedVideo:
    """A video's clips, or the reason why it cannot be read."""

    record: VideoRecord
    clips: Sequence[Clip] = ()
    reason: str = ""


def evenly_spaced(count: int, wanted: int) -> list[int]:
    """``wanted`` of the indices 0 to count - 1, evenly spaced since lists are often sorted by class; at most all."""
    wanted = min(wanted, count)
    return [i * count // wanted for i in range(wanted)]


def browse(dataset: ClipDataset | ViewDataset, indices: Iterable[int], draws: int = 1) -> list[BrowsedVideo]:
    """The clips of some videos of a data set, read in this process.

    Args:
        indices: of videos in ``dataset.records``.
        draws: epochs of training, each of which draws other clips; the views of testing are always the same.
    """
    videos = []
    for index in indices:
        record = dataset.records[index]
        try:
            if isinstance(dataset, ClipDataset):
                clips = [clip for epoch in range(draws) for clip in _train_clips(dataset, epoch, index)]
            else:
                clips = read_views(dataset, index)[1]
            videos.append(BrowsedVideo(record, clips))
        except DecodeError as error:
            videos.append(BrowsedVideo(record, reason=str(error)))
    return videos


def read_views(dataset: ViewDataset, index: int) -> tuple[Tensor, list[Clip]]:
    """The views (V, C, T, H, W) of a video, and each as a clip to look at.

    Raises:
        DecodeError: the video cannot be read.
    """
    return _read(dataset, index, _view_titles(dataset), _RecordingViewTransform(dataset.read.transform))


def views_of_frames(dataset: ViewDataset, frames: np.ndarray, fps: float) -> tuple[Tensor, list[Clip]]:
    """The same of frames in memory, uint8 RGB (N, H, W, 3), as of a video that has these."""
    spec = _RecordingSpec(**vars(dataset.read.spec))
    transform: Any = _RecordingViewTransform(dataset.read.transform)
    views = dataclasses.replace(dataset.read, spec=spec, transform=transform).of_frames(frames, fps)
    return views, _clips(views, spec, transform, _view_titles(dataset))


def _train_clips(dataset: ClipDataset, epoch: int, index: int) -> list[Clip]:
    views = dataset.shape[0]
    titles = [f"epoch {epoch + 1}" + (f", clip {view + 1} of {views}" if views > 1 else "") for view in range(views)]
    return _read(dataset, (epoch, index), titles, _RecordingTrainTransform(dataset.read.transform))[1]


def _view_titles(dataset: ViewDataset) -> list[str]:
    clips, crops = dataset.read.num_clips, dataset.read.transform.num_crops
    return [f"clip {clip + 1} of {clips}, crop {crop + 1} of {crops}" for clip in range(clips) for crop in range(crops)]


def _read(dataset: ClipDataset | ViewDataset, key, titles: list[str], transform) -> tuple[Tensor, list[Clip]]:
    """The sample of a key, read as in training or testing, by a spec and a transform that record what they draw."""
    spec = _RecordingSpec(**vars(dataset.read.spec))
    index, seed = next(iter(dataset.candidates(key)))
    views = torch.empty(dataset.shape)
    dataclasses.replace(dataset.read, spec=spec, transform=transform)(dataset.records[index], seed, views)
    return views, _clips(views, spec, transform, titles)


def _clips(views: Tensor, spec: _RecordingSpec, transform, titles: list[str]) -> list[Clip]:
    """Views as clips to look at, by what the spec and the transform have recorded."""
    length, clips = spec.drawn[-1]  # the last, since a length that proves too high is corrected and clips redrawn
    drawn = transform.drawn[-len(views) :]  # these, too
    crops = len(views) // len(clips)
    return [
        Clip(
            title,
            denormalize(view, transform.mean, transform.std),
            clips[number // crops],
            length,
            *drawn[number],
        )
        for number, (title, view) in enumerate(zip(titles, views, strict=True))
    ]


@dataclass(frozen=True)
class _RecordingSpec(ClipSpec):
    drawn: list[tuple[int, list[list[int]]]] = field(default_factory=list)  # (video length, indices of each clip)

    def train_clips(self, length: int, fps: float, count: int, rng: random.Random) -> list[list[int]]:
        self.drawn.append((length, super().train_clips(length, fps, count, rng)))
        return self.drawn[-1][1]

    def view_clips(self, length: int, fps: float, count: int) -> list[list[int]]:
        self.drawn.append((length, super().view_clips(length, fps, count)))
        return self.drawn[-1][1]


class _RecordingTrainTransform:
    def __init__(self, transform: TrainTransform):
        self._transform, self.mean, self.std = transform, transform.mean, transform.std
        self.drawn: list[tuple[np.ndarray, tuple[int, int, int, int], bool]] = []  # full frame, box, mirrored

    def __call__(self, frames: np.ndarray, rng: random.Random, out: Tensor) -> None:
        copy = random.Random()
        copy.setstate(rng.getstate())
        _, height, width, _ = frames.shape
        self.drawn.append((frames[0].copy(), *self._transform.draw_box(height, width, copy)))
        self._transform(frames, rng, out)


class _RecordingViewTransform:
    def __init__(self, transform: ViewTransform):
        self._transform, self.mean, self.std = transform, transform.mean, transform.std
        self.drawn: list[tuple[np.ndarray, tuple[int, int, int, int], bool]] = []

    def __call__(self, frames: np.ndarray, clips: Sequence[Sequence[int]], out: Tensor | None = None) -> Tensor:
        boxes = self._transform.boxes(*frames.shape[1:3])
        self.drawn += [(frames[clip[0]].copy(), box, False) for clip in clips for box in boxes]
        return self._transform(frames, clips, out)
