"""A source is where a video's bytes lie: a file of its own, a part of another, such as a tar, or a folder of frames."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from videofib.data.errors import DecodeError

# FFmpeg may open nothing else, whatever a hostile file refers to.
PROTOCOLS = "file,subfile"


@dataclass(frozen=True)
class ByteRange:
    """A video stored unchanged within another file: ``size`` bytes of ``path`` from byte ``start``, counted from 0.

    For a tar these are ``TarInfo.offset_data`` and ``TarInfo.size``. Compressed archives cannot be read in parts.
    """

    path: str
    start: int
    size: int

    def __str__(self) -> str:
        return f"{self.path}[{self.start}:{self.start + self.size}]"


# A pattern of printf with one number: what precedes it, its width, what follows it.
_PRINTF = re.compile(r"([^%]*)%(0\d{1,2})?d([^%]*)", re.DOTALL)


@dataclass(frozen=True)
class FrameFiles:
    """Which files of a folder are the frames of a video.

    Attributes:
        pattern: "" for all pictures, which must be one numbered series; ``img_%05d.jpg`` for a series among others;
            ``img_*.jpg`` for all files of such names, in natural order, whatever their numbers. See ``frame_names``.
        fps: frames a second; 0: unknown.

    Raises:
        ValueError: a pattern that is neither of the two.
    """

    pattern: str = ""
    fps: float = 0.0

    def __post_init__(self) -> None:
        if "/" in self.pattern or "\0" in self.pattern:
            raise ValueError(f"pattern {self.pattern!r} of frames: it describes names of files, so it has no slash")
        if self.pattern and self.printf is None and ("%" in self.pattern or not re.search(r"[*?[]", self.pattern)):
            raise ValueError(
                f"pattern {self.pattern!r} of frames: expected a number, as in img_%05d.jpg, or a wildcard, as in *.jpg"
            )

    @property
    def printf(self) -> tuple[str, int, str] | None:
        """(text before the number, digits it has at least, text behind it); None for other patterns."""
        found = _PRINTF.fullmatch(self.pattern)
        return (found[1], int(found[2] or 1), found[3]) if found else None

    def of(self, source: Source, num_frames: int | None = None) -> Source:
        """A source that is a folder as the folder of such frames, any other as it is; see ``FrameFolder``."""
        if isinstance(source, ByteRange | FrameFolder) or not os.path.isdir(source):  # noqa: PTH112, which fails for names too long
            return source
        return FrameFolder(str(source), self, num_frames or 0)


ALL_PICTURES = FrameFiles()


@dataclass(frozen=True)
class FrameFolder:
    """A video stored as a folder of pictures, one a frame.

    Attributes:
        path: the folder.
        files: which of its files are the frames.
        num_frames: the first ones of the folder that are the video, of which there must be so many; 0: all.
    """

    path: str
    files: FrameFiles = ALL_PICTURES
    num_frames: int = 0

    def __str__(self) -> str:
        return self.path


Source = str | Path | ByteRange | FrameFolder


def regular_file(source: str | Path | ByteRange) -> Path:
    """The absolute path of a source's file, of which something can be read.

    Raises:
        DecodeError: as of ``location``.
    """
    part = source if isinstance(source, ByteRange) else None
    name = source.path if isinstance(source, ByteRange) else source
    file = Path(name).absolute()  # FFmpeg takes a relative "a:b.mp4" for a protocol named a
    try:
        status = file.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DecodeError(f"{source}: no such file") from error
    except OSError as error:
        raise DecodeError(f"{source}: {error.strerror}") from error
    if stat.S_ISDIR(status.st_mode):
        raise DecodeError(f"{source}: a directory, not a video")
    if not stat.S_ISREG(status.st_mode):
        raise DecodeError(f"{source}: not a file")
    size = status.st_size
    if size == 0:
        raise DecodeError(f"{source}: the file is empty")
    if part and not 0 <= part.start < part.start + part.size <= size:
        raise DecodeError(f"{source}: the file has the bytes 0:{size}; was it replaced after it was indexed?")
    return file


def location(source: Source) -> str:
    """The URL by which FFmpeg opens a source; nothing is copied.

    Raises:
        DecodeError: no such file, not a file, empty, one that the system does not let us look at (no permission, a name
            that is too long, a lost network drive), or a range that is not within its file.
    """
    if isinstance(source, FrameFolder):
        raise DecodeError(f"{source}: a folder of frames, which is not read as a video file")
    file = regular_file(source)
    if not isinstance(source, ByteRange):
        return str(file)
    return f"subfile,,start,{source.start},end,{source.start + source.size},,:{file}"
