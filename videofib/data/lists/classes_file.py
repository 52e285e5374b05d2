"""What the classes of a data set are called: ``classes.txt``, whose line i names label i, or one folder for each."""

from __future__ import annotations

from pathlib import Path

from videofib.classes import ClassesError, check_names
from videofib.data.errors import ManifestError

CLASSES_NAME = "classes.txt"
# What archives of macOS, file systems, network drives and Windows leave among the folders of classes, in small letters.
_LEFTOVERS = {
    *("__macosx", "lost+found", "@eadir", "#recycle", "@recycle", "#snapshot", "@tmp"),
    *("$recycle.bin", "recycler", "system volume information", "network trash folder", "temporary items"),
}


def read_class_names(file: str | Path, *, name: str = "") -> list[str]:
    """The names in a file, one a line. Any line ends, a byte-order mark and blank lines at the end are tolerated.

    Args:
        name: of the file, for messages, where ``file`` is a copy.

    Raises:
        ManifestError: it cannot be read, is empty, or has a blank line or a name twice, which would shift the labels
            after it; names file and line.
    """
    name = name or str(file)
    try:
        text = Path(file).read_text(encoding="utf-8-sig", errors="surrogateescape")  # as folders that are not UTF-8
    except OSError as error:
        raise ManifestError(f"{name}: cannot be read ({error.strerror})") from error
    if "\0" in text:
        raise ManifestError(f"{name}: not a text file in UTF-8; save it as one")
    names = [line.strip() for line in text.rstrip().split("\n")]
    if not any(names):
        raise ManifestError(f"{name}: names no classes; line i must name label i, counted from 0")
    if blank := [number for number, line in enumerate(names, start=1) if not line]:
        raise ManifestError(f"{name}:{blank[0]}: blank line, which would shift the labels after it")
    try:
        return check_names(names)
    except ClassesError as error:
        raise ManifestError(f"{name}: its classes {error}; give each its own name") from error


def is_leftover(name: str) -> bool:
    """Whether a file or folder of that name is hidden, or left by an archive or a system, and so nobody's data."""
    return name.startswith(".") or name.lower() in _LEFTOVERS


def class_folders(root: Path) -> list[str]:
    """The sorted names of the folders in one, which are the names of its classes; hidden ones and leftovers are not."""
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not is_leftover(entry.name))
