"""One video of a split, as every list of videos describes it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from videofib.data.lists.remote import is_remote
from videofib.data.segment import Segment
from videofib.data.source import ByteRange

UNLABELLED = -1  # the label of a video whose class nobody has said


@dataclass(frozen=True)
class VideoRecord:
    """One video of a split.

    Attributes:
        path: the file to open, or the part of one, or a folder of frames.
        label: class index, 0 or above; the first one listed where there are several; or UNLABELLED.
        video_id: the path as the list file has it, and behind it the segment; unique within the split, unless training
            repeats a row.
        num_frames: frames of the file that decode, None where they have not been counted.
        fps: frames a second, None where unknown.
        random_access: preparation proved that seeking in this file returns the right frames.
        variable_rate: its frames are not shown at even times.
        size: bytes of the file when its frames were counted and seeking was proved; see ``verified``.
        labels: all class indices in the order listed, where the list was read with ``multi_label``.
        segment: the part of the file that is meant, as if there were no more; None: all of it.
    """

    path: str | ByteRange
    label: int
    video_id: str
    num_frames: int | None = None
    fps: float | None = None
    random_access: bool = False
    variable_rate: bool = False
    size: int | None = None
    labels: tuple[int, ...] = ()
    segment: Segment | None = None

    @property
    def location(self) -> str:
        """What was read: the file, or the part of one, and behind it the segment."""
        return f"{self.path}{self.segment or ''}"

    @property
    def classes(self) -> tuple[int, ...]:
        """The indices of all its classes."""
        return self.labels or (self.label,)

    def seems_there(self) -> bool:
        """Whether its file or folder exists; files behind URLs count as existing."""
        file = self.path.path if isinstance(self.path, ByteRange) else self.path
        try:
            return is_remote(file) or Path(file).is_file() or Path(file).is_dir()
        except OSError:  # as for a name that is too long
            return False


@dataclass(frozen=True)
class NamedVideo:
    """A video without a label: the file or URL, and which part of it is meant; None: all of it."""

    path: str
    segment: Segment | None = None

    def __str__(self) -> str:
        return f"{self.path}{self.segment or ''}"


def verified(record: VideoRecord) -> VideoRecord:
    """The record; without its frame count and proof where the file has changed its size since."""
    if record.size is None or not (record.random_access or record.num_frames):
        return record
    try:
        unchanged = Path(record.path).stat().st_size == record.size
    except OSError:
        return record  # reading it will report the error
    return record if unchanged else replace(record, num_frames=None, fps=None, random_access=False, size=None)
