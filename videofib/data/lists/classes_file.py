"""What the classes and splits of a data set are called.

Line i of ``classes.txt`` names label i; else there is one folder for each class, and above these one for each split.
"""

from __future__ import annotations

from pathlib import Path

from videofib.classes import ClassesError, check_names
from videofib.data.errors import ManifestError

CLASSES_NAME = "classes.txt"
SPLITS = ("train", "val", "test")
# What data sets call their splits, in small letters.
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
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


def split_folder(root: Path, split: str) -> Path | None:
    """The folder of a split that holds folders of classes, whatever it is called (``SPLIT_WORDS``); None without one.

    Raises:
        ManifestError: there are two.
    """
    names = [name for name in class_folders(root) if SPLIT_WORDS.get(name.lower()) == split] if root.is_dir() else []
    found = [name for name in names if class_folders(root / name)]
    if len(found) > 1:
        raise ManifestError(f"{root} has {found[0]} and {found[1]}, both the {split} split; join or remove one")
    return root / found[0] if found else None
