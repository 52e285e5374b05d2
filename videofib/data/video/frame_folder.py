"""The names of a video's frames in a folder, in their order: which file is frame i, without opening any.

Frames are numbered, and the numbers must follow each other, from any one on::

    "" or img_%05d.jpg     img_00001.jpg img_00002.jpg img_00003.jpg          frames 0, 1, 2
                           img_00001.jpg               img_00003.jpg          an error: 2 is missing
    img_*.jpg              img_00001.jpg img_00006.jpg img_00011.jpg          frames 0, 1, 2: left out on purpose

A folder whose extraction was killed, or from which a file was lost, would otherwise give other frames than those asked
for, without a word. The number of a name is the last one in it: ``cam2_0007.png`` is frame 7 of the series ``cam2_``.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

from videofib.data.errors import DecodeError
from videofib.data.lists.extensions import PICTURE_EXTENSIONS
from videofib.data.source import ALL_PICTURES, FrameFiles

_LAST_NUMBER = re.compile(r"(.*?)([0-9]+)([^0-9]*)", re.DOTALL)
_NUMBERS = re.compile(r"([0-9]+)")
_RECENT = 8  # folders whose names are kept
_SETTLED_SECONDS = 2.0  # a folder changed more recently may change again within one tick of its file system's clock
_HOW = "set DATA.FRAME_PATTERN to name the frames, such as"


def frame_names(folder: str | Path, files: FrameFiles = ALL_PICTURES) -> list[str]:
    """The names of the files that are frame 0, 1, ... of the video in a folder.

    Those of the folders read last are kept until the folder changes: 18,000 names take longer to order than to read a
    clip.

    Raises:
        DecodeError: the folder cannot be read, none of its files is a frame, a number is missing or there twice, or the
            pictures are of several series and no pattern says which is the video.
    """
    try:
        status = os.stat(folder)  # noqa: PTH116, see items.stem
    except OSError as error:
        raise DecodeError(f"{folder}: {error.strerror}") from error
    if abs(time.time() - status.st_mtime) <= _SETTLED_SECONDS:
        return _frame_names(folder, files)
    state = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)
    return list(_kept_names(folder, files, state))


@lru_cache(maxsize=_RECENT)
def _kept_names(folder: str | Path, files: FrameFiles, state: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(_frame_names(folder, files))


def _frame_names(folder: str | Path, files: FrameFiles) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries]
    except OSError as error:
        raise DecodeError(f"{folder}: {error.strerror}") from error
    if files.printf:
        numbered = _of_series(names, *files.printf)
        found = list(numbered)
    else:
        found = [name for name in names if _matches(name, files.pattern)]
    if not found:
        what = f"pictures named like {files.pattern!r}" if files.pattern else "pictures (.jpg, .png, .webp, .bmp)"
        raise DecodeError(f"{folder}: a directory without {what}, so it is no folder of frames")
    if files.pattern and not files.printf:
        return sorted(found, key=natural_order)
    if not files.printf:
        numbers = {name: _LAST_NUMBER.fullmatch(name.rpartition(".")[0]) for name in found}
        series = {match[1] for match in numbers.values() if match}
        if not series:
            return sorted(found)
        if len(series) > 1 or None in numbers.values():
            some = sorted(series)[:3]
            raise DecodeError(
                f"{folder}: pictures of several series ({', '.join(f'{name}...' for name in some)}); "
                f"{_HOW} {some[0]}%05d.jpg, or * for all"
            )
        numbered = {name: int(match[2]) for name, match in numbers.items() if match}
    found.sort(key=lambda name: (numbered[name], name))
    _check_consecutive(folder, found, numbered)
    return found


def natural_order(name: str) -> tuple[list[tuple[int, str]], str]:
    """A key by which img_9 comes before img_10."""
    parts = _NUMBERS.split(name)  # every second one is a number
    return [(int(part), "") if i % 2 else (-1, part) for i, part in enumerate(parts)], name


def _matches(name: str, pattern: str) -> bool:
    is_picture = name.lower().endswith(PICTURE_EXTENSIONS) and not name.startswith(".")  # as may_be_picture, and faster
    return is_picture and (not pattern or fnmatchcase(name, pattern))


def _of_series(names: Iterable[str], before: str, width: int, behind: str) -> dict[str, int]:
    """The names that printf writes, with their numbers."""
    pattern = re.compile(f"{re.escape(before)}([0-9]+){re.escape(behind)}", re.DOTALL)
    found = ((name, pattern.fullmatch(name)) for name in names)
    return {name: int(match[1]) for name, match in found if match and f"{int(match[1]):0{width}d}" == match[1]}


def _check_consecutive(folder: str | Path, names: Sequence[str], numbered: dict[str, int]) -> None:
    for earlier, later in pairwise(names):
        step = numbered[later] - numbered[earlier]
        if step == 0:
            raise DecodeError(f"{folder}: {earlier} and {later} have the same number; {_HOW} img_%05d.jpg")
        if step > 1:
            raise DecodeError(
                f"{folder}: frame {numbered[earlier] + 1} is missing between {earlier} and {later}; extract the frames "
                f"again, or, where frames were left out on purpose, {_HOW} *{Path(later).suffix}"
            )
