"""What a preparation is given, and the output file of each video: names that are safe, and never twice."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import sha1
from os import fsencode
from pathlib import Path
from typing import TYPE_CHECKING

from videofib.classes import ClassesError, check_names
from videofib.data.lists.extensions import VIDEO_EXTENSIONS
from videofib.data.segment import Segment

if TYPE_CHECKING:
    import numpy as np

REPORT_NAME = "report.json"


class PrepareError(ValueError):
    """A data set that cannot be prepared as it is; the message names the file or video, and what to do."""


@dataclass(frozen=True)
class Item:
    """One video that an annotation file or a folder lists.

    Attributes:
        name: as it is listed; reports use it, and its last part names the output.
        label: class index.
        splits: the list files that will contain it, of ``manifest.LISTS``; a test set is often also the validation set.
            One that occurs twice contains it twice.
        source: the file, or None where there is none.
        crop: the box to cut it to, (x0, y0, x1, y1) in pixels of the source, upright; see ``transcode``.
        raw: pixels (H, W, 3) uint8 RGB of a picture, where ``source`` is an archive that they were taken from.
        segment: the part of the source that it is; None: all of it.
    """

    name: str
    label: int
    splits: tuple[str, ...]
    source: Path | None
    crop: tuple[float, float, float, float] | None = None
    raw: np.ndarray | None = field(default=None, repr=False, compare=False)
    segment: Segment | None = None


def output_paths(
    items: Iterable[Item], classes: Sequence[str], *, keep_suffix: bool = False, suffix: str = ".mp4"
) -> list[str]:
    """The output file of each item, relative to ``out``; all different, none outside of it.

    Two sources of one stem, ``a.avi`` and ``a.mp4``, become ``a.avi.mp4`` and ``a.mp4.mp4``. With ``keep_suffix`` the
    source's extension stays instead of ``suffix``.

    Raises:
        PrepareError: a name or class that is absolute, contains ``..`` or, as a class, a slash; or nothing is listed.
    """
    items = list(items)
    if not items:
        raise PrepareError("no videos are listed")
    try:
        check_names(classes)
    except ClassesError as error:
        raise PrepareError(f"the classes {error}; rename their folders or annotations") from error
    for name in classes:
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise PrepareError(f"class name {name!r} is refused: it would lead out of the output folder")
    for item in items:
        check_name(item.name)
    of_class = [f"videos/{_safe(name.replace(' ', '_'))}" for name in classes]
    folders = [of_class[item.label] for item in items]
    suffixes = [_suffix(item) if keep_suffix else suffix for item in items]
    plain = [
        f"{folder}/{_safe(stem(item.name))}{ending}"
        for folder, item, ending in zip(folders, items, suffixes, strict=True)
    ]
    counts = Counter(plain)
    taken = {path for path, count in counts.items() if count == 1}
    paths = []
    for path, folder, item, ending in zip(plain, folders, items, suffixes, strict=True):
        if counts[path] > 1:
            base = f"{folder}/{_safe(item.name.rpartition('/')[2])}"
            path, number = f"{base}{ending}", 2
            while path in taken:
                path, number = f"{base}-{number}{ending}", number + 1
            taken.add(path)
        paths.append(path)
    return paths


def check_name(name: str) -> None:
    """Raise PrepareError unless a listed name is a relative path that stays below its folder."""
    parts = name.split("/")
    if name.startswith("/") or ".." in parts or "\0" in name or parts[-1] in ("", "."):
        raise PrepareError(f"the listed video {name!r} is refused: it would lead out of the folder")


def stem(path: str) -> str:
    """The last part of a path without its extension, which no hidden file's name is: ``a/b.c.mp4`` -> ``b.c``.

    As text: the methods of Path take seconds for ten thousands of files.
    """
    name = path.rpartition("/")[2]
    base, _, extension = name.rpartition(".")
    return base if base and extension else name


def _suffix(item: Item) -> str:
    suffix = (item.source or Path(item.name)).suffix
    return suffix if suffix.lower() in VIDEO_EXTENSIONS else ".mp4"


def _safe(name: str) -> str:
    """A file name without control characters and line ends (lists are lines), short enough to append ``.mp4``."""
    if not name.isprintable():  # nothing else can have one
        name = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]", "_", name)
    if len(fsencode(name)) > 240:
        name = f"{name[:55]}-{sha1(fsencode(name)).hexdigest()[:12]}"  # a character has up to four bytes
    return name
