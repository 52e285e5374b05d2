"""The splits of a data set: from a list file or a folder of classes, and what their classes are called."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

from videofib.classes import ClassesError, check_names, same_name
from videofib.data.errors import ManifestError
from videofib.data.lists.classes_file import CLASSES_NAME, SPLITS, class_folders, read_class_names, split_folder
from videofib.data.lists.layout import recognised
from videofib.data.lists.manifest import read_folder, read_list
from videofib.data.lists.records import Records
from videofib.data.lists.rows import ClassNames, listed_names


def load_split(
    data_dir: str | Path,
    split: str,
    *,
    prefix: str | Path = "",
    separator: str = " ",
    multi_label: bool = False,
    needs_labels: bool = True,
    segments: str = "",
    classes: Sequence[str] = (),
    repeats: bool = False,
    frame_counts: bool = False,
) -> Records:
    """The records of one split: from ``data_dir/{split}.csv``, else from the folder ``data_dir/{split}/<class>/``.

    The folder may have any of the names in ``SPLIT_WORDS``, such as ``Validation``. Its labels are positions in
    ``split_class_names``, and so are those of a list that names its classes, unless ``classes`` are given, as those of
    a model. The other arguments are those of ``read_list``.

    Raises:
        ManifestError: neither exists, or the one that does cannot be used.
    """
    if not Path(data_dir).is_dir():
        raise ManifestError(f"no data folder at {data_dir}; name it as DATA.PATH_TO_DATA_DIR")
    list_file = Path(data_dir) / f"{split}.csv"
    if list_file.is_file():
        options: dict[str, Any] = {"prefix": prefix, "separator": separator, "segments": segments}
        options["frame_counts"] = frame_counts
        known = None
        if names_classes(data_dir, split, **options):
            known = ClassNames(classes) if classes else None
            with suppress(ManifestError) if classes else nullcontext():  # a model's classes need no others
                names = split_class_names(data_dir, split, **options, multi_label=multi_label) or ()
                if not classes or list(classes) == names:
                    known = ClassNames(names, _origin(Path(data_dir), split))
        options |= {"multi_label": multi_label, "needs_labels": needs_labels}
        return read_list(list_file, **options, classes=known, repeats=repeats)
    if segments:
        raise ManifestError(
            f"{data_dir} has no list of the {split} split, and DATA.SEGMENTS {segments} is about the rows of lists; "
            f"write {list_file}, or leave it out"
        )
    if folder := split_folder(Path(data_dir), split):
        return read_folder(folder, split_class_names(data_dir, split))[0]
    raise ManifestError(
        f"no {split} split: neither the list file {list_file} nor a folder {Path(data_dir) / split} with folders of "
        "classes exists"
    )


def has_split(data_dir: str | Path, split: str) -> bool:
    """Whether there is a list or a folder of this split, which ``load_split`` would read."""
    return (Path(data_dir) / f"{split}.csv").is_file() or split_folder(Path(data_dir), split) is not None


def split_class_names(
    data_dir: str | Path,
    split: str,
    *,
    prefix: str | Path = "",
    separator: str = " ",
    segments: str = "",
    multi_label: bool = False,
    frame_counts: bool = False,
) -> list[str] | None:
    """What the labels of a split mean: the names in ``classes.txt``, else those of the folders; None for a bare list.

    A list that names its classes has those that the train split names, sorted; without a train split, its own. The
    other arguments are those of ``read_list``.

    The folders of all splits are numbered together, so that a class which is absent from one split does not shift the
    labels of another.

    Raises:
        ManifestError: ``classes.txt`` cannot be used, or the name of a folder no class can have; or a list names
            classes, and the train list has numbers.
    """
    data_dir = Path(data_dir)
    if (data_dir / CLASSES_NAME).is_file():
        return read_class_names(data_dir / CLASSES_NAME)
    if (data_dir / f"{split}.csv").is_file():
        if frame_counts:
            return None
        options: dict[str, Any] = {"prefix": prefix, "separator": separator, "segments": segments}
        return _list_class_names(data_dir, split, options, multi_label)
    if split_folder(data_dir, split) is None:
        return None
    folders = [folder for each in SPLITS if (folder := split_folder(data_dir, each))]
    names: dict[str, str] = {}
    for name in sorted(name for folder in folders for name in class_folders(folder)):
        names.setdefault(same_name(name), name)  # one split may have been copied by a system that decomposes accents
    try:
        return check_names(list(names.values()))
    except ClassesError as error:
        raise ManifestError(f"{data_dir} has folders of classes that cannot be used: they {error}") from error


def names_classes(
    data_dir: str | Path,
    split: str,
    *,
    prefix: str | Path = "",
    separator: str = " ",
    segments: str = "",
    multi_label: bool = False,
    frame_counts: bool = False,
) -> str:
    """The list file of a split if it names the classes of its videos in place of numbers; else ""."""
    if frame_counts:
        return ""  # their rows have numbers
    file = Path(data_dir) / f"{split}.csv"
    root = Path(prefix) if str(prefix) else file.parent
    layout = recognised(file, separator, unit=segments, root=root, needs_labels=split != "test")
    return str(file) if layout is not None and layout.names else ""


def classes_beside(file: Path, *, segments: str = "") -> ClassNames | None:
    """The classes that any list names, by the classes file or the train list beside it; None where it names none.

    Raises:
        ManifestError: neither says them.
    """
    layout = recognised(file, " ", unit=segments, needs_labels=False)
    if layout is None or not layout.names:
        return None
    names, train = None, file.parent / "train.csv"
    if (file.parent / CLASSES_NAME).is_file() or train.is_file():
        names = split_class_names(file.parent, "train", segments=segments if train == file else "")
    if names is None:
        raise ManifestError(
            f"{file} names the classes of its videos, and nothing beside it says which number each has; name class i "
            f"on line i of {file.parent / CLASSES_NAME}, counted from 0"
        )
    return ClassNames(names, _origin(file.parent, "train"))


def _list_class_names(data_dir: Path, split: str, options: dict[str, Any], multi_label: bool) -> list[str] | None:
    """The classes of a list, where it names them."""
    file = data_dir / f"{split}.csv"
    root = Path(options["prefix"]) if str(options["prefix"]) else data_dir
    unit, separator = options["segments"], options["separator"]
    layout = recognised(file, separator, unit=unit, root=root, needs_labels=split != "test")
    if layout is None or not layout.names:
        return None
    if split == "train":
        return listed_names(file, layout, multi_label=multi_label)
    if _origin(data_dir, split) == str(file):  # nothing else says the classes
        return listed_names(file, layout, multi_label=multi_label)
    names = split_class_names(data_dir, "train", **options, multi_label=multi_label)
    if names is None:
        raise ManifestError(
            f"{file} names the classes of its videos, and {data_dir / 'train.csv'} has numbers; name class i on line i "
            f"of {data_dir / CLASSES_NAME}, counted from 0"
        )
    return names


def _origin(data_dir: Path, split: str) -> str:
    """The file or folder that says what the classes are which a list names."""
    train = data_dir / "train.csv"
    for file in (data_dir / CLASSES_NAME, train):
        if file.is_file():
            return str(file)
    folder = split_folder(data_dir, "train")
    return str(folder or data_dir / f"{split}.csv")
