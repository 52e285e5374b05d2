"""A source is where a video's bytes lie: a file of its own, or a part of another file, such as a tar."""

from __future__ import annotations

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


Source = str | Path | ByteRange


def location(source: Source) -> str:
    """The URL by which FFmpeg opens a source; nothing is copied.

    Raises:
        DecodeError: no such file, not a file, empty, one that the system does not let us look at (no permission, a name
            that is too long, a lost network drive), or a range that is not within its file.
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
    if not part:
        return str(file)
    end = part.start + part.size
    if not 0 <= part.start < end <= size:
        raise DecodeError(f"{source}: the file has the bytes 0:{size}; was it replaced after it was indexed?")
    return f"subfile,,start,{part.start},end,{end},,:{file}"
