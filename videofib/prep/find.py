"""Finding the files of a data set in a folder and those below it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from videofib.data.lists.classes_file import is_leftover
from videofib.data.lists.extensions import may_be_video


def find_videos(
    folder: Path, others: list[Path] | None = None, wanted: Callable[[Path], bool] = may_be_video
) -> list[Path]:
    """All files below a folder with a video's extension, sorted; hidden ones and leftovers of systems are not.

    Symbolic links are followed, but not to a folder that contains the link, nor twice to the same folder.

    Args:
        others: receives what is below the folder besides: other files, leftovers, links not followed, empty folders.
        wanted: which files, by their names, instead of videos.
    """
    found: list[Path] = []
    seen: set[Path] = set()
    others = [] if others is None else others
    for root, folders, files in os.walk(folder, followlinks=True):
        folders.sort()  # of two links to one folder, the choice must not depend on the file system
        real = Path(root).resolve()
        if real in seen or (seen and _contains_itself(Path(root))):
            folders.clear()
            others.append(Path(root))
            continue
        seen.add(real)
        others += [Path(root, name) for name in folders if is_leftover(name)]
        folders[:] = [name for name in folders if not is_leftover(name)]
        for name in files:
            (found if wanted(Path(name)) else others).append(Path(root, name))
        if not folders and not files:
            others.append(Path(root))
    return sorted(found)


def _contains_itself(folder: Path) -> bool:
    """Whether it is a link to one of the folders that it lies in: what is there belongs to other classes."""
    return folder.is_symlink() and (folder.parent / "-").resolve().is_relative_to(folder.resolve())
