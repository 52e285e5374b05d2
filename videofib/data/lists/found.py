"""The videos that words on a command line name: files, URLs, folders of files, and lists of paths without labels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from videofib.data.errors import ManifestError
from videofib.data.lists.classes_file import is_leftover
from videofib.data.lists.extensions import may_be_picture, may_be_video
from videofib.data.lists.manifest import read_list
from videofib.data.lists.remote import is_remote
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


def read_paths(file: str | Path) -> list[str]:
    """The paths in a list without labels, one a line; relative ones start at the list's folder.

    Blank lines are left out. Names that are not UTF-8 are kept as they are.

    Raises:
        ManifestError: no such file, not text, or no paths.
    """
    file = Path(file)
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


def read_labelled(file: str | Path) -> tuple[list[str], list[int]]:
    """The paths in a list with labels, or without, and the labels, ``UNLABELLED`` where the list has none.

    It is read as the list of a test is; relative paths start at its folder.

    Raises:
        ManifestError: as of ``manifest.read_list``.
    """
    records = read_list(file, needs_labels=False)
    names = [records.ids.text(row) for row in range(len(records))]
    paths = [name if is_remote(name) else str(Path(file).parent / name) for name in names]
    return paths, records.labels.tolist()


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
