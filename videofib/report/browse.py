"""What a model sees of a video, with all that was drawn on the way: for looking at, not for training."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from videofib.data.clips.dataset import ClipDataset, ClipSpec, ViewDataset
from videofib.data.clips.transforms import TrainTransform, ViewTransform, denormalize
from videofib.data.errors import DecodeError
from videofib.data.lists.manifest import VideoRecord


@dataclass(frozen=True)
class Clip:
    """One view as the model sees it.

    Attributes:
        title: which view of its video this is.
        frames: (T, H, W, C) uint8, with normalisation undone.
        indices: the frames' numbers (T) in the video.
        video_length: frames of the video, as the record or the file's header has it.
        whole: (height, width, C) uint8, the clip's first frame before anything was done to it.
        box: (top, left, height, width) in pixels of ``whole``: what was cut out.
        mirrored: whether it was flipped left to right.
    """

    title: str
    frames: np.ndarray
    indices: Sequence[int]
    video_length: int
    whole: np.ndarray
    box: tuple[int, int, int, int]
    mirrored: bool


@dataclass(frozen=True)
class BrowsedVideo:
    """A video's clips, or the reason why there are none."""

    record: VideoRecord
    clips: Sequence[Clip] = ()
    reason: str = ""


def spread(count: int, wanted: int) -> list[int]:
    """``wanted`` of the positions 0 to count - 1, evenly spaced (lists are often sorted by class), or all of them."""
    wanted = min(wanted, count)
    return [position * count // wanted for position in range(wanted)]


def browse(dataset: ClipDataset | ViewDataset, indices: Iterable[int], draws: int = 1) -> list[BrowsedVideo]:
    """The clips of some videos of a data set, read in this process.

    Args:
        indices: positions in ``dataset.records``.
        draws: epochs of training, each of which draws other clips; there is one draw of views for testing.
    """
    videos = []
    for index in indices:
        record = dataset.records[index]
        try:
            if isinstance(dataset, ClipDataset):
                clips = [clip for epoch in range(draws) for clip in _train_clips(dataset, epoch, index)]
            else:
                clips = _test_views(dataset, index)
            videos.append(BrowsedVideo(record, clips))
        except DecodeError as error:
            videos.append(BrowsedVideo(record, reason=str(error)))
    return videos


def _train_clips(dataset: ClipDataset, epoch: int, index: int) -> list[Clip]:
    views = dataset.shape[0]
    titles = [f"epoch {epoch + 1}" + (f", clip {view + 1} of {views}" if views > 1 else "") for view in range(views)]
    return _read(dataset, (epoch, index), titles, _NotedTrainTransform(dataset.read.transform))


def _test_views(dataset: ViewDataset, index: int) -> list[Clip]:
    clips, crops = dataset.read.num_clips, dataset.read.transform.num_crops
    titles = [
        f"clip {clip + 1} of {clips}, crop {crop + 1} of {crops}" for clip in range(clips) for crop in range(crops)
    ]
    return _read(dataset, index, titles, _NotedViewTransform(dataset.read.transform))


def _read(dataset: ClipDataset | ViewDataset, key, titles: list[str], noted) -> list[Clip]:
    """The sample of a key, read as in training or testing, by a spec and a transform that take notes."""
    spec = _NotedSpec(**vars(dataset.read.spec))
    index, chance = next(iter(dataset.candidates(key)))
    views = torch.empty(dataset.shape)
    dataclasses.replace(dataset.read, spec=spec, transform=noted)(dataset.records[index], chance, views)
    length, clips = spec.notes[-1]  # a length that turned out too high was asked again
    crops = len(views) // len(clips)
    return [
        Clip(
            title,
            denormalize(view, noted.transform.mean, noted.transform.std),
            clips[number // crops],
            length,
            *noted.notes[number],
        )
        for number, (title, view) in enumerate(zip(titles, views, strict=True))
    ]


@dataclass(frozen=True)
class _NotedSpec(ClipSpec):
    notes: list[tuple[int, list[list[int]]]] = field(default_factory=list)  # (video length, indices of each clip)

    def train_clips(self, length: int, fps: float, count: int, rng: random.Random) -> list[list[int]]:
        self.notes.append((length, super().train_clips(length, fps, count, rng)))
        return self.notes[-1][1]

    def view_clips(self, length: int, fps: float, count: int) -> list[list[int]]:
        self.notes.append((length, super().view_clips(length, fps, count)))
        return self.notes[-1][1]


class _NotedTrainTransform:
    def __init__(self, transform: TrainTransform):
        self.transform, self.notes = transform, []

    def __call__(self, frames: np.ndarray, rng: random.Random, out: Tensor) -> None:
        again = random.Random()
        again.setstate(rng.getstate())
        self.notes.append((frames[0].copy(), *self.transform.draw_box(*frames.shape[1:3], again)))
        self.transform(frames, rng, out)


class _NotedViewTransform:
    def __init__(self, transform: ViewTransform):
        self.transform, self.notes = transform, []

    def __call__(self, frames: np.ndarray, clips: Sequence[Sequence[int]], out: Tensor) -> None:
        boxes = self.transform.boxes(*frames.shape[1:3])
        self.notes += [(frames[clip[0]].copy(), box, False) for clip in clips for box in boxes]
        self.transform(frames, clips, out)
