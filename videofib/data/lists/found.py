"""The videos that words on a command line name: files, URLs, folders of files, and lists of paths without labels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from videofib.data.errors import ManifestError
from videofib.data.lists.classes_file import is_leftover
from videofib.data.lists.extensions import may_be_picture, may_be_video
from videofib.data.lists.layout import recognised
from videofib.data.lists.manifest import read_list
from videofib.data.lists.record import NamedVideo
from videofib.data.lists.records import AsNamed, Records
from videofib.data.lists.remote import is_remote
from videofib.data.lists.rows import read_rows
from videofib.data.lists.splits import classes_beside
from videofib.files import describe, is_there
from videofib.printable import printable


def find_videos(names: Iterable[str], *, frame_folders: bool = False) -> list[str]:
    """The videos among files, URLs and folders, in the order named; those of a folder and the folders in it, sorted.

    A file that is named is taken for a video whatever its extension; reading it will show. Where there are no video
    files in a folder and the folders in it, but pictures, those are the videos.

    Args:
        frame_folders: each folder with pictures in it is a video, whose frames they are, instead of each picture.

    Raises:
        ManifestError: a folder without videos or pictures, or one that cannot be read.
    """
    found: list[str] = []
    for name in names:
        if is_remote(name) or not (is_there(name) and Path(name).is_dir()):
            found.append(name)
            continue
        below = _below(name, may_be_video) or _below(name, may_be_picture)
        if not below:
            raise ManifestError(f"{printable(name)}: no videos in this folder, by the extensions of its files")
        if frame_folders and may_be_picture(Path(below[0])):
            below = sorted({str(Path(path).parent) for path in below})
        found += below
    return found


def read_paths(file: str | Path, segments: str = "") -> Sequence[str | NamedVideo]:
    """The videos in a list without labels, one a line; relative paths start at the list's folder.

    Blank lines are left out. Names that are not UTF-8 are kept as they are. A list with a header may have segments, and
    labels, which are not looked at.

    Args:
        segments: unit of the segments that lines without a header have, ``path start end``; empty: they have none.

    Raises:
        ManifestError: no such file, not text, or no paths; a header or segment that cannot be used.
    """
    file = Path(file)
    layout = recognised(file, " ", unit=segments, needs_labels=False)
    if layout is not None and (layout.header or segments):
        listed, parts = read_rows(file, layout, with_labels=False, repeats=True)
        return _named(Records(listed.paths, listed.classes, listed.counts, AsNamed(), segments=parts), file.parent)
    try:
        text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise ManifestError(f"{printable(describe(error))}") from error
    if "\0" in text:
        raise ManifestError(f"{printable(file)}: not a text file; expected one path a line")
    lines = [line for line in (line.rstrip("\r") for line in text.split("\n")) if line.strip()]
    if not lines:
        raise ManifestError(f"{printable(file)} lists no videos; expected one path a line")
    paths = [line if is_remote(line) else str(file.parent / line) for line in lines]
    if not any(is_remote(path) or is_there(path) for path in paths[:20]) and _labelled(file.parent, lines[:20]):
        raise ManifestError(
            f"{printable(file)}: the lines seem to be paths with labels, such as {printable(repr(lines[0]))}; "
            "this list has paths alone, one a line"
        )
    return paths


def read_labelled(file: str | Path, segments: str = "") -> tuple[Sequence[str | NamedVideo], list[int]]:
    """The videos in a list with labels, or without, and the labels, ``UNLABELLED`` where the list has none.

    It is read as the list of a test is; relative paths start at its folder. Where it names classes, the classes file or
    the train list beside it says their numbers.

    Args:
        segments: unit of the segments that lines without a header have; empty: they have none.

    Raises:
        ManifestError: as of ``manifest.read_list``.
    """
    file = Path(file)
    classes = classes_beside(file, segments=segments)
    records = read_list(file, needs_labels=False, segments=segments, classes=classes)
    return _named(records, file.parent), records.labels.tolist()


def _named(records: Records, folder: Path) -> list[str | NamedVideo]:
    """The videos of a list; relative paths start at a folder."""
    found: list[str | NamedVideo] = []
    for row in range(len(records)):
        name, segment = records.ids.text(row), None
        if records.segments:
            name, segment = records.segments.path_and_segment(row)
        path = name if is_remote(name) else str(folder / name)
        found.append(NamedVideo(path, segment) if segment else path)
    return found


def _below(folder: str, wanted: Callable[[Path], bool]) -> list[str]:
    """The wanted files below a folder, sorted."""

    def fail(error: OSError) -> None:
        raise ManifestError(printable(describe(error))) from error

    found = []
    for root, folders, files in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not is_leftover(name)]
        found += [str(Path(root, name)) for name in files if wanted(Path(name))]
    return sorted(found)


def _labelled(folder: Path, lines: Sequence[str]) -> bool:
    """Whether paths exist once the last word of each line is taken off."""
    shorter = [line.rsplit(maxsplit=1)[0] for line in lines if len(line.split()) > 1]
    return any(is_there(folder / path) for path in shorter)
