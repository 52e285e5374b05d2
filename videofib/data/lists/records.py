"""All videos of a split as columns: some eighty bytes a video and no Python object, which a million of them would be.

A ``VideoRecord`` is made when a row is asked for. Whatever looks at every video looks at columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, overload

import numpy as np

from videofib.data.lists.record import UNLABELLED, NamedVideo, VideoRecord
from videofib.data.lists.texts import Texts
from videofib.data.segment import Segment
from videofib.data.source import ByteRange


@dataclass(frozen=True)
class Facts:
    """What is known of the N videos beside where they are and what they show; None: of none of them.

    Attributes:
        num_frames, size: (N,) int64, 0 where unknown.
        fps: (N,) float64, 0 where unknown.
        random_access, variable_rate: (N,) bool.
    """

    COLUMNS: ClassVar = ("num_frames", "fps", "random_access", "variable_rate", "size")  # of a manifest

    num_frames: np.ndarray
    fps: np.ndarray
    random_access: np.ndarray
    variable_rate: np.ndarray
    size: np.ndarray

    @classmethod
    def of(cls, columns: Mapping[str, np.ndarray], rows: np.ndarray | slice = slice(None)) -> Facts:
        """Some rows of columns with these names; of row -1 nothing is known."""
        facts = {}
        for name in cls.COLUMNS:
            values = columns[name][rows]
            if isinstance(rows, np.ndarray):
                values[rows < 0] = 0
            facts[name] = values
        return cls(**facts)

    @classmethod
    def counted(cls, num_frames: np.ndarray) -> Facts:
        """Of videos of which a list gives nothing but the number of frames, (N,) int64."""
        zeros, no = np.zeros(len(num_frames), np.int64), np.zeros(len(num_frames), bool)
        return cls(num_frames, zeros.astype(np.float64), no, no, zeros)

    def at(self, row: int) -> dict:
        """The fields of one ``VideoRecord``."""
        return {
            "num_frames": int(self.num_frames[row]) or None,
            "fps": float(self.fps[row]) or None,
            "random_access": bool(self.random_access[row]),
            "variable_rate": bool(self.variable_rate[row]),
            "size": int(self.size[row]) or None,
        }


@dataclass(frozen=True)
class Below:
    """Videos in files of their own, whose ids are paths below a folder, or absolute ones."""

    folder: Path

    def path(self, row: int, video_id: str) -> str:
        return str(self.folder / video_id)


@dataclass(frozen=True)
class AsNamed:
    """Videos whose ids are their paths or URLs."""

    def path(self, row: int, video_id: str) -> str:
        return video_id


_AS_NAMED = AsNamed()


@dataclass(frozen=True)
class Segments:
    """The part of its file that each video is, and the row that says so.

    Attributes:
        paths: of the files, as listed; several rows may have the same one.
        starts, ends: (N,) float64, nan for a full video.
        unit: ``seconds`` or ``frames``.
        file: the list.
        lines: (N,) int64, the line of each row in it.
    """

    paths: Texts
    starts: np.ndarray
    ends: np.ndarray
    unit: str
    file: str
    lines: np.ndarray

    @property
    def are_full(self) -> np.ndarray:
        """(N,) bool: which rows are full videos."""
        return np.isnan(self.starts)

    def path_and_segment(self, row: int) -> tuple[str, Segment | None]:
        """The path of a row, and its segment; None for a full video."""
        path, start, end = self.paths.text(row), float(self.starts[row]), float(self.ends[row])
        return path, None if start != start else Segment(start, end, self.unit, f"{self.file}:{self.lines[row]}")

    def names(self) -> Texts:
        """What tells the rows apart: each path with its segment behind it."""
        found = map(self.path_and_segment, range(len(self.lines)))
        return Texts.of([f"{path}{segment or ''}" for path, segment in found])

    def num_frames(self, facts: Facts | None) -> np.ndarray:
        """(N,) int64: frames of each segment, 0 where unknown."""
        seconds = self.unit == "seconds"
        counted = np.zeros(len(self.lines), np.int64) if facts is None else facts.num_frames
        fps = np.zeros(len(self.lines)) if facts is None else facts.fps
        own = (self.ends - self.starts) * (fps if seconds else 1)
        return np.where(self.are_full, counted, np.nan_to_num(own).round()).astype(np.int64)


@dataclass(frozen=True)
class NamedSegments:
    """The same of videos that are named one by one."""

    videos: Sequence[NamedVideo]

    def path_and_segment(self, row: int) -> tuple[str, Segment | None]:
        return self.videos[row].path, self.videos[row].segment

    def num_frames(self, facts: Facts | None) -> np.ndarray:
        return np.zeros(len(self.videos), np.int64)


@dataclass(frozen=True)
class InShards:
    """Videos in shards of a folder: shard number, first byte and size, (N,) each, and the names of the shards."""

    folder: str
    names: Sequence[str]
    shards: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray

    def path(self, row: int, video_id: str) -> ByteRange:
        shard = self.names[self.shards[row]]
        return ByteRange(f"{self.folder}/{shard}", int(self.starts[row]), int(self.sizes[row]))


@dataclass(frozen=True)
class Records(Sequence[VideoRecord]):
    """The records of a split; a slice of them is a list.

    Attributes:
        ids: what the list calls each video.
        classes: (M,) int64, the class indices of all videos, one after another.
        counts: (N,) int32, how many classes each video has.
        where: the files of the videos.
        facts: what preparation found out.
        multi_label: ``VideoRecord.labels`` are set.
        segments: which part of its file each video is; None: all are full.
    """

    ids: Texts
    classes: np.ndarray
    counts: np.ndarray
    where: Below | AsNamed | InShards
    facts: Facts | None = None
    multi_label: bool = False
    segments: Segments | NamedSegments | None = None
    _firsts: np.ndarray = field(init=False, repr=False)  # (N,) int64, where in ``classes`` those of each video begin

    def __post_init__(self) -> None:
        object.__setattr__(self, "_firsts", np.cumsum(self.counts, dtype=np.int64) - self.counts)

    @classmethod
    def unlabelled(
        cls, paths: Sequence[str] | Texts, where: Below | AsNamed = _AS_NAMED, facts: Facts | None = None
    ) -> Records:
        """Videos whose classes nobody has said; their ids are the paths or URLs, as ``where`` reads them."""
        ids = paths if isinstance(paths, Texts) else Texts.of(list(paths))
        return cls(ids, np.full(len(ids), UNLABELLED), np.ones(len(ids), np.int32), where, facts)

    @classmethod
    def named(cls, videos: Sequence[str | Path | NamedVideo]) -> Records:
        """Videos whose classes nobody has said, by their paths, URLs or segments of these; their ids are the names."""
        found = [video if isinstance(video, NamedVideo) else NamedVideo(str(video)) for video in videos]
        records = cls.unlabelled([str(video) for video in found])
        return replace(records, segments=NamedSegments(found)) if any(video.segment for video in found) else records

    def without_labels(self) -> Records:
        """The same videos as if nobody had said their classes."""
        unknown, ones = np.full(len(self), UNLABELLED), np.ones(len(self), np.int32)
        return replace(self, classes=unknown, counts=ones, multi_label=False)

    @property
    def has_labels(self) -> bool:
        """Whether somebody has said the classes of the videos."""
        return bool((self.classes != UNLABELLED).any())

    def __len__(self) -> int:
        return len(self.counts)

    @overload
    def __getitem__(self, index: int) -> VideoRecord: ...

    @overload
    def __getitem__(self, index: slice) -> list[VideoRecord]: ...

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[row] for row in range(*index.indices(len(self)))]
        row = range(len(self))[index]  # counts from the end below 0; raises IndexError
        video_id = self.ids.text(row)
        path, segment = self.segments.path_and_segment(row) if self.segments else (video_id, None)
        first = int(self._firsts[row])
        labels = tuple(self.classes[first : first + int(self.counts[row])].tolist())
        return VideoRecord(
            self.where.path(row, path),
            labels[0],
            video_id,
            **(self.facts.at(row) if self.facts else {}),
            labels=labels if self.multi_label else (),
            segment=segment,
        )

    def __iter__(self) -> Iterator[VideoRecord]:
        return (self[row] for row in range(len(self)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(other) != len(self):
            return False
        return all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64: the first class index of each video."""
        return self.classes[self._firsts]

    @property
    def num_frames(self) -> np.ndarray:
        """(N,) int64: frames that decode, of the segment where a row is one; 0 where they have not been counted."""
        if self.segments:
            return self.segments.num_frames(self.facts)
        return np.zeros(len(self), np.int64) if self.facts is None else self.facts.num_frames

    def repeats(self) -> tuple[int, int]:
        """How many rows occurred before, and of how many videos (or segments) these are."""
        firsts = self.ids.firsts()
        again = np.flatnonzero(firsts != np.arange(len(firsts)))
        return len(again), len(np.unique(firsts[again]))

    def highest_label(self) -> tuple[int, int]:
        """(label, row) of the first video that has the highest class index."""
        position = int(np.argmax(self.classes))
        row = int(np.searchsorted(self._firsts, position, side="right")) - 1
        return int(self.classes[position]), row

    def with_labels(self, label_of: Sequence[int]) -> Records:
        """The same videos, whose class index i is ``label_of[i]`` instead."""
        return replace(self, classes=np.array(label_of, np.int64)[self.classes])
