"""Where surveys are kept, so that the packets of a long film are read once: in memory, and in files of a cache.

Files lie in ``packets`` within ``VIDEOFIB_CACHE_DIR``; by default that is ``videofib`` in the user's cache folder
(``XDG_CACHE_HOME``, or ``~/.cache``), and where it is set to nothing, no files are kept. All is done without them, too:
one that is missing, damaged, of a file that has changed, or of other libraries is as none, and so is a folder that
cannot be read or written. Whoever may write into the folder decides which frames are found: that should be its owner.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import av

from videofib.data.source import ByteRange, Source, location
from videofib.data.video.pyav_reader import OrderedReader, open_in_order
from videofib.data.video.survey import Survey, take
from videofib.data.video.survey_file import pack, unpack
from videofib.files import replacing

_RECENT = 8  # surveys kept in memory; that of two hours takes 4 MB
_LONG_BYTES = 16 << 20  # reading the packets of a smaller video takes about as long as reading and checking a file
_MOST_BYTES = 1 << 30  # that the files may take; those not used for longest are removed
_MOST_FILE_BYTES = 256 << 20  # that one of them is read with: 80 hours at 25 frames a second
_SETTLED_SECONDS = 2.0  # a file changed more recently may change again within one tick of its file system's clock


@dataclass(frozen=True)
class Stamp:
    """A source as it is now.

    Attributes:
        url: by which FFmpeg opens it.
        size: bytes of the video.
        state: of its file: bytes, and nanoseconds at which its content and its entry were changed.
        file: device and number of its file, which not all file systems keep.
    """

    url: str
    size: int
    state: tuple[int, int, int]
    file: tuple[int, int]

    @property
    def settled(self) -> bool:
        return abs(time.time() - self.state[1] / 1e9) > _SETTLED_SECONDS

    @property
    def key(self) -> list:
        """What a survey depends on, as JSON has it."""
        libraries = [[name, *version] for name, version in sorted(av.library_versions.items())]
        return [os.fsencode(self.url).hex(), libraries, *self.state]


class _Slot:
    survey: Survey | None = None


@lru_cache(maxsize=_RECENT)
def _slot(stamp: Stamp) -> _Slot:
    return _Slot()


def stamped(source: Source) -> Stamp:
    """A source as it is now.

    Raises:
        DecodeError: it cannot be opened.
    """
    url = location(source)
    status = Path(source if isinstance(source, str | Path) else source.path).stat()
    size = source.size if isinstance(source, ByteRange) else status.st_size
    state = status.st_size, status.st_mtime_ns, status.st_ctime_ns
    return Stamp(url, size, state, (status.st_dev, status.st_ino))


def surveyed(source: Source, with_estimate: bool = False) -> Survey:
    """The survey of a source: the one that is kept, or a new one.

    Raises:
        DecodeError: the file cannot be opened, has no video, or an estimate is asked for and no frame is stored.
    """
    stamp = stamped(source)
    found = kept(stamp, with_estimate)
    if found is None:
        with open_in_order(source) as reader:
            found, _ = survey_and_keep(source, stamp, reader, with_estimate)
    return found


def survey_and_keep(
    source: Source, stamp: Stamp, reader: OrderedReader, with_estimate: bool = False
) -> tuple[Survey, list[av.Packet] | None]:
    """A new survey of an open source and its packets, see ``survey.take``; the survey is kept."""
    survey, packets = take(reader, with_estimate)
    if not survey.damaged and stamped(source) == stamp:  # damage may be a network drive's, and pass
        _slot(stamp).survey = survey
        folder = cache_folder()
        if folder and stamp.size >= _LONG_BYTES and stamp.settled:
            with suppress(OSError):  # no permission, a full disk: done without
                _write(folder, _name(stamp), pack(survey, stamp.key))
    return survey, packets


def kept(stamp: Stamp, with_estimate: bool = False) -> Survey | None:
    """The survey that is kept of a source as it is now."""
    slot, folder = _slot(stamp), cache_folder()
    if slot.survey and (slot.survey.estimate or not with_estimate):
        return slot.survey
    if folder is None or stamp.size < _LONG_BYTES:
        return None
    found = _read(folder / _name(stamp), stamp.key)
    if found is None or (with_estimate and not found.estimate):
        return None
    slot.survey = found
    return found


def cache_folder() -> Path | None:
    """Where the files of surveys are kept; None: nowhere."""
    chosen = os.environ.get("VIDEOFIB_CACHE_DIR")
    if chosen is not None:
        return Path(chosen) / "packets" if chosen else None
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (base if base.is_absolute() else Path.home() / ".cache") / "videofib" / "packets"
    except RuntimeError:  # there is no home
        return None


def _name(stamp: Stamp) -> str:
    """Of its file; the same when the video has changed, so that the old survey is replaced."""
    return hashlib.sha256(json.dumps(stamp.key[:2]).encode()).hexdigest()


def _read(path: Path, key: list) -> Survey | None:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_FILE_BYTES:
            return None
        data = path.read_bytes()
    except OSError:
        return None
    with suppress(OSError):
        os.utime(path)  # used now
    return unpack(data, key)


def _write(folder: Path, name: str, data: bytes) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with replacing(folder / name) as partial:
        partial.write_bytes(data)
    files = [(entry.stat().st_mtime_ns, entry.stat().st_size, entry.path) for entry in os.scandir(folder)]
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= _MOST_BYTES:
            return
        Path(path).unlink(missing_ok=True)
        total -= size
