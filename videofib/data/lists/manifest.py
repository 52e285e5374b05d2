"""List files and manifests: which videos a data set holds, and what is known about each.

A **list file** (``train.csv``, ``val.csv``, ``test.csv``) has one ``path<separator>label`` a line and no header; where
videos may have several classes, ``path<separator>3,7,12``.
A **manifest** (``manifest.parquet`` beside the lists) has one row a video: what preparation counted, measured and
proved. A list alone is enough to train; with a manifest, frames need not be counted and decord may seek.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from videofib.classes import ClassesError, check_names, positions, same_name
from videofib.data.errors import ManifestError
from videofib.data.lists.classes_file import CLASSES_NAME, SPLITS, class_folders, read_class_names, split_folder
from videofib.data.lists.extensions import may_be_video
from videofib.data.lists.parquet import each_column, release_memory, text_column, to_values, write_columns
from videofib.data.lists.records import Below, Facts, Records
from videofib.data.lists.text_list import MAX_LABEL, read_text_list, unlabelled_paths
from videofib.data.lists.texts import Texts
from videofib.files import replacing

# the names, without .csv, of the lists that a prepared folder may have: of one split or of several official ones
LISTS = (*SPLITS, *(f"split{number}/{split}" for number in (1, 2, 3) for split in SPLITS))
MANIFEST_NAME = "manifest.parquet"
STATUSES = ("ok", "damaged", "missing", "corrupt")


@dataclass(frozen=True)
class ManifestRow:
    """One row of ``manifest.parquet``; the fields are its columns, in this order.

    Attributes:
        path: relative to the manifest's folder, exactly as in the list files.
        label: class index.
        split: the list files that contain it: ``train``, ``val+test`` or ``split1/train+split2/val+split2/test``.
        num_frames: frames that decode in order.
        fps: frames a second.
        duration: seconds.
        width, height: pixels as shown: square, and upright.
        codec: such as ``h264``.
        rotation: degrees counter-clockwise by which a reader has to turn the stored frames: 0, 90, 180 or 270.
        random_access: seeking in it was proved to return the right frames.
        size: bytes.
        sha256: of its bytes, 64 hexadecimal digits; "" where there is no file.
        status: ok, damaged (readable up to some frame), missing or corrupt.
        reason: why it is not ok.
        source: the file it was made from.
        dhash: difference hash of the middle frame (``dhash.dhash``), 16 hexadecimal digits; "" where it has one colour.
        variable_rate: frames are not shown at even times (only of files that were copied instead of encoded).
        mirrored: a reader has to swap left and right of the stored frames before it turns them (only of copied files).
        clock_jumps: how often the clock of ``source`` jumps; frames after a jump count as following those before it.

    ``files.to_utf8`` describes how names that are not UTF-8 are stored.
    """

    path: str
    label: int
    split: str
    num_frames: int = 0
    fps: float = 0.0
    duration: float = 0.0
    width: int = 0
    height: int = 0
    codec: str = ""
    rotation: int = 0
    random_access: bool = False
    size: int = 0
    sha256: str = ""
    status: str = "ok"
    reason: str = ""
    source: str = ""
    dhash: str = ""
    variable_rate: bool = False
    mirrored: bool = False
    clock_jumps: int = 0


def read_list(
    file: str | Path,
    *,
    prefix: str | Path = "",
    separator: str = " ",
    multi_label: bool = False,
    needs_labels: bool = True,
) -> Records:
    """The records of a list file, with what the ``manifest.parquet`` beside or above it knows, where there is one.

    Lines are split at the last separator, so paths may contain spaces and commas. Relative paths start at ``prefix``,
    or without one at the list's folder. Blank lines, CRLF and a byte-order mark are tolerated.

    Args:
        multi_label: videos may have several classes, separated by commas without spaces.
        needs_labels: lines that are paths alone are an error; without it a list may have no labels at all.

    Raises:
        ManifestError: a missing or empty file, a line without a label, a label that is not a class index, several
            labels where one is expected, a path listed twice; names file and line.
    """
    file = Path(file)
    root = Path(prefix) if str(prefix) else file.parent
    if not needs_labels and (paths := unlabelled_paths(file, separator)) is not None:
        return Records.unlabelled(paths, Below(root), _facts(file, paths))
    listed = read_text_list(file, separator, multi_label=multi_label, root=root)
    if not len(listed.paths):
        raise ManifestError(f"{file} lists no videos")
    facts = _facts(file, listed.paths)
    return Records(listed.paths, listed.classes, listed.counts, Below(root), facts, multi_label)


def read_folder(root: str | Path, classes: list[str] | None = None) -> tuple[Records, list[str]]:
    """The videos of ``root/class_name/*.mp4`` (any video extension), sorted, and the sorted class names.

    Args:
        root: contains one folder a class.
        classes: class i has label i; by default the folders' sorted names.

    Raises:
        ManifestError: no such folder, no class folders, no videos, a folder that ``classes`` does not name, or one
            whose name no class can have.
    """
    root = Path(root)
    if not root.is_dir():
        raise ManifestError(f"no folder of classes at {root}")
    found = class_folders(root)
    classes = found if classes is None else classes
    try:
        labels = positions(check_names(found), classes) if found else []
    except ClassesError as error:
        raise ManifestError(f"{root} has class folders that cannot be used: {error}") from error
    rows = [
        (f"{name}/{path.name}", label)
        for label, name in sorted(zip(labels, found, strict=True))
        for path in sorted((root / name).iterdir())
        if may_be_video(path) and path.is_file()
    ]
    if not rows:
        raise ManifestError(f"{root} has no videos; expected {root}/<class name>/<video>.mp4 (or .avi, .webm, ...)")
    ids = Texts.of([path for path, _ in rows])
    one_each = np.ones(len(rows), np.int32)
    return Records(ids, np.array([label for _, label in rows], np.int64), one_each, Below(root)), classes


def load_split(
    data_dir: str | Path,
    split: str,
    *,
    prefix: str | Path = "",
    separator: str = " ",
    multi_label: bool = False,
    needs_labels: bool = True,
) -> Records:
    """The records of one split: from ``data_dir/{split}.csv``, else from the folder ``data_dir/{split}/<class>/``.

    The folder may have any of the names in ``SPLIT_WORDS``, such as ``Validation``. Its labels are positions in
    ``split_class_names``. The other arguments are those of ``read_list``.

    Raises:
        ManifestError: neither exists, or the one that does cannot be used.
    """
    if not Path(data_dir).is_dir():
        raise ManifestError(f"no data folder at {data_dir}; name it as DATA.PATH_TO_DATA_DIR")
    list_file = Path(data_dir) / f"{split}.csv"
    if list_file.is_file():
        return read_list(
            list_file, prefix=prefix, separator=separator, multi_label=multi_label, needs_labels=needs_labels
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


def split_class_names(data_dir: str | Path, split: str) -> list[str] | None:
    """What the labels of a split mean: the names in ``classes.txt``, else those of the folders; None for a bare list.

    The folders of all splits are numbered together, so that a class which is absent from one split does not shift the
    labels of another.

    Raises:
        ManifestError: ``classes.txt`` cannot be used, or the name of a folder no class can have.
    """
    data_dir = Path(data_dir)
    if (data_dir / CLASSES_NAME).is_file():
        return read_class_names(data_dir / CLASSES_NAME)
    if (data_dir / f"{split}.csv").is_file() or split_folder(data_dir, split) is None:
        return None
    folders = [folder for each in SPLITS if (folder := split_folder(data_dir, each))]
    names: dict[str, str] = {}
    for name in sorted(name for folder in folders for name in class_folders(folder)):
        names.setdefault(same_name(name), name)  # one split may have been copied by a system that decomposes accents
    try:
        return check_names(list(names.values()))
    except ClassesError as error:
        raise ManifestError(f"{data_dir} has folders of classes that cannot be used: they {error}") from error


def write_list(file: str | Path, rows: Iterable[tuple[str, int]], *, separator: str = " ") -> None:
    """Write (path, label) rows as a list file, completely or not at all."""
    lines = []
    for path, label in rows:
        if "\n" in path or "\r" in path or path != path.rstrip() or not path:
            raise ManifestError(f"{file}: a list file cannot contain the path {path!r}")
        lines.append(f"{path}{separator}{label}\n")
    with replacing(file) as partial:
        partial.write_text("".join(lines), encoding="utf-8", errors="surrogateescape", newline="")


def write_manifest(file: str | Path, rows: Iterable[ManifestRow]) -> None:
    """Write rows as a manifest, completely or not at all; the same rows always give the same bytes.

    Raises:
        ManifestError: a value that is not allowed in a manifest, or a path that occurs twice; names the row.
    """
    rows = list(rows)
    columns: dict[str, Any] = {name: [getattr(row, name) for row in rows] for name in _COLUMNS}
    columns |= {name: text_column(columns[name]) for name, kind in _COLUMNS.items() if kind == "str"}
    # as objects, since no type of NumPy holds every number that is refused
    pairs = columns.items()
    _checked(file, ((name, np.array(values, object) if isinstance(values, list) else values) for name, values in pairs))
    write_columns(file, columns, _COLUMNS)


def read_manifest(file: str | Path) -> list[ManifestRow]:
    """The rows of a manifest. Columns that ``ManifestRow`` lacks are ignored, and those of ``_LATER`` may be absent.

    Raises:
        ManifestError: a missing or damaged file or one that is not a manifest, a missing column, one of another type,
            or a value that is not allowed; names the file, and the column or row.
    """
    columns = to_values(_read(Path(file), [*_COLUMNS])[0])
    return [ManifestRow(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]


# column name -> its Python type by name
_COLUMNS = {field.name: field.type for field in dataclasses.fields(ManifestRow)}
_LATER = ("mirrored", "clock_jumps")  # columns that earlier versions did not write
_COUNTS = ("label", "num_frames", "fps", "duration", "width", "height", "size", "clock_jumps")
_DIGITS = {"sha256": 64, "dhash": 16}  # hexadecimal ones, or none


def _read(file: Path, keep: Collection[str]) -> tuple[dict[str, Any], Texts]:
    """Some columns of a manifest as ``each_column`` yields them, and its paths; all of it is checked."""
    if not file.is_file():
        raise ManifestError(f"no manifest at {file}")
    required = {name: kind for name, kind in _COLUMNS.items() if name not in _LATER}
    return _checked(file, each_column(file, required, {name: _COLUMNS[name] for name in _LATER}), keep)


def _checked(
    file: str | Path, columns: Iterable[tuple[str, Any]], keep: Collection[str] = ()
) -> tuple[dict[str, Any], Texts]:
    """The columns to keep, and the paths of a manifest, which are all different.

    Raises:
        ManifestError: for the first row with a value that is not allowed, or with the path of an earlier row.
    """
    kept, first_wrong = {}, {}  # the row and value of each column
    for name, values in columns:
        if name in keep:
            kept[name] = values
        if name == "path":
            paths = Texts.stored(values)
        allowed = _allowed(name, values)
        if not allowed.all():
            row = int(np.argmin(allowed))
            value = values[row : row + 1].tolist()[0] if isinstance(values, np.ndarray) else values[row].as_py()
            first_wrong[name] = row, value
        del values  # before the next one is read
    repeated = paths.first_repeat()
    if not first_wrong and not repeated:
        return kept, paths
    row = min([row for row, _ in first_wrong.values()] + ([repeated[0]] if repeated else []))
    wrong = {name: value for name, (first, value) in first_wrong.items() if first == row}
    if row not in [first for first, _ in first_wrong.values()]:
        problem = "occurs twice"
    elif "status" in wrong:
        problem = f"has status {wrong['status']!r}; it must be one of {STATUSES}"
    elif counts := {name: wrong[name] for name in _COUNTS if name in wrong}:
        problem = f"has {counts}; expected finite numbers from 0 on"
    elif "rotation" in wrong:
        problem = f"has rotation {wrong['rotation']}; expected 0, 90, 180 or 270"
    else:
        name, value = next((name, wrong[name]) for name in _DIGITS if name in wrong)
        problem = f"has {name} {value!r}; expected {_DIGITS[name]} hexadecimal digits"
    raise ManifestError(f"{file}: row {row + 1}: {paths.text(row)!r} {problem}")


def _allowed(name: str, values: Any) -> np.ndarray:
    """(N,) bool: which values a column may have."""
    import pyarrow.compute as pc

    if name in _COUNTS:
        with np.errstate(invalid="ignore"):  # of comparisons with nan, which hold for none
            return np.asarray((values >= 0) & (values < MAX_LABEL), bool)
    if name == "rotation":
        return np.isin(values, (0, 90, 180, 270))
    if name == "status":
        return np.asarray(pc.is_in(values, text_column(STATUSES)))
    if name in _DIGITS:
        return np.asarray(pc.match_substring_regex(values, rf"\A([0-9a-f]{{{_DIGITS[name]}}})?\z"))
    return np.ones(len(values), bool)


def _facts(list_file: Path, listed: Texts) -> Facts | None:
    """What the manifest knows of the videos of a list: the one beside it or, for lists of several splits, above."""
    for above in ("", "../"):
        manifest = list_file.parent / above / MANIFEST_NAME
        if manifest.is_file():
            columns, paths = _read(manifest, Facts.COLUMNS)
            facts = Facts.of(columns, paths.below(above).find(listed))
            del columns, paths
            release_memory()  # which a training of days would hold in each of its processes
            return facts
    return None
