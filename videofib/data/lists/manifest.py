"""List files and manifests: which videos a data set holds, and what is known about each.

A **list file** (``train.csv``, ``val.csv``, ``test.csv``) has one ``path<separator>label`` a line and no header; where
videos may have several classes, ``path<separator>3,7,12``.
A **manifest** (``manifest.parquet`` beside the lists) has one row a video: what preparation counted, measured and
proved. A list alone is enough to train; with a manifest, frames need not be counted and decord may seek.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from videofib.classes import ClassesError, positions
from videofib.data.errors import ManifestError
from videofib.data.lists.classes_file import CLASSES_NAME, class_folders, read_class_names
from videofib.data.lists.parquet import read_columns, write_columns
from videofib.data.lists.record import VideoRecord
from videofib.files import replacing

VIDEO_EXTENSIONS = (
    *(".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
)
SPLITS = ("train", "val", "test")
# the names, without .csv, of the lists that a prepared folder may have: of one split or of several official ones
LISTS = (*SPLITS, *(f"split{number}/{split}" for number in (1, 2, 3) for split in SPLITS))
MANIFEST_NAME = "manifest.parquet"
SEVERAL_CLASSES_HINT = "for videos with several classes set MODEL.LOSS_FUNC bce_logit"
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
    file: str | Path, *, prefix: str | Path = "", separator: str = " ", multi_label: bool = False
) -> list[VideoRecord]:
    """The records of a list file, with what the ``manifest.parquet`` beside or above it knows, where there is one.

    Lines are split at the last separator, so paths may contain spaces and commas. Relative paths start at ``prefix``,
    or without one at the list's folder. Blank lines, CRLF and a byte-order mark are tolerated.

    Args:
        multi_label: videos may have several classes, separated by commas without spaces.

    Raises:
        ManifestError: a missing or empty file, a line without a label, a label that is not a class index, several
            labels where one is expected, a path listed twice; names file and line.
    """
    file = Path(file)
    parse = class_indices if multi_label else _class_index
    known = _sidecar(file)
    root = Path(prefix) if str(prefix) else file.parent
    records: list[VideoRecord] = []
    seen: dict[str, int] = {}
    for number, path, text in _lines(file, separator):
        if path in seen:
            raise ManifestError(f"{file}:{number}: {path!r} is already listed on line {seen[path]}")
        seen[path] = number
        if multi_label and (separator == "," or path.endswith(",")):
            raise ManifestError(
                f"{file}:{number}: commas separate classes, so the separator between path and label "
                f"(DATA.PATH_LABEL_SEPARATOR) must be another character, and no space may follow a comma: "
                f"{path!r} {text!r}"
            )
        if (earlier := _earlier_labels(path, separator)) and not (root / path).exists():
            raise ManifestError(
                f"{file}:{number}: {path!r} is not a file; if {earlier} is a label, too, separate labels by commas "
                f"without spaces ({earlier},{text}); {SEVERAL_CLASSES_HINT}"
            )
        labels = parse(text, f"{file}:{number}")
        record = VideoRecord(str(root / path), labels[0], path, labels=labels if multi_label else ())
        records.append(_with_facts(record, known[path]) if path in known else record)
    if not records:
        raise ManifestError(f"{file} lists no videos")
    return records


def has_several_classes(file: Path, separator: str = " ") -> bool:
    """Whether a list file gives any of its videos several classes, as ``path 3,7``."""
    return any("," in text for _, _, text in _lines(file, separator))


def list_rows(file: Path, separator: str = " ") -> Iterator[tuple[int, str, int]]:
    """(line number, path as written, label) of each line of a list file; the same path may occur twice.

    Raises:
        ManifestError: as ``read_list``.
    """
    for number, path, text in _lines(file, separator):
        yield number, path, _class_index(text, f"{file}:{number}")[0]


def _lines(file: Path, separator: str) -> Iterator[tuple[int, str, str]]:
    """(line number, path as written, text of the label) of each line of a list file."""
    if not separator:
        raise ManifestError("the separator of a list file must not be empty")
    if not file.is_file():
        raise ManifestError(f"no list file at {file}")
    # surrogateescape preserves file names that are not UTF-8
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            line = line.rstrip()
            path, found, label = line.rpartition(separator)
            path = path.rstrip()
            if not found or not path:
                raise ManifestError(f"{file}:{number}: expected 'path{separator}label', got {line!r}")
            yield number, path, label.strip()


def _earlier_labels(path: str, separator: str) -> str:
    """What precedes the last label, where a line has several and no commas between them: "0" of ``a.mp4 0 3``."""
    if not path[-1].isdecimal():
        return ""
    words, labels = path.replace(separator, " ").split(), []
    while words and words[-1].isdecimal():
        labels.insert(0, words.pop())
    return ",".join(labels) if words and words[-1].lower().endswith(VIDEO_EXTENSIONS) else ""


def _class_index(text: str, where: str) -> tuple[int]:
    if not text.isdecimal():
        several = re.fullmatch(r"\d+(?:\D+\d+)+", text)
        hint = f"; separate several by commas without spaces, and {SEVERAL_CLASSES_HINT}" if several else ""
        raise ManifestError(f"{where}: label {text!r} is not a class index (0, 1, 2, ...){hint}")
    return (int(text),)


def class_indices(text: str, where: str) -> tuple[int, ...]:
    """The class indices of a video from text such as ``3,7,12``.

    Raises:
        ManifestError: not class indices, or one of them twice; the message begins with ``where``.
    """
    labels = tuple(_class_index(part, f"{where}: of {text!r}")[0] for part in text.split(","))
    if len(set(labels)) != len(labels):
        raise ManifestError(f"{where}: {text!r} names a class twice")
    return labels


def may_be_video(path: Path) -> bool:
    """Whether a file in a folder of a class is taken for a video: by its extension, and not hidden (``._a.mp4``)."""
    return path.suffix.lower() in VIDEO_EXTENSIONS and not path.name.startswith(".")


def read_folder(root: str | Path, classes: list[str] | None = None) -> tuple[list[VideoRecord], list[str]]:
    """The videos of ``root/class_name/*.mp4`` (any video extension), sorted, and the sorted class names.

    Args:
        root: contains one folder a class.
        classes: class i has label i; by default the folders' sorted names.

    Raises:
        ManifestError: no such folder, no class folders, no videos, or a folder that ``classes`` does not name.
    """
    root = Path(root)
    if not root.is_dir():
        raise ManifestError(f"no folder of classes at {root}")
    found = class_folders(root)
    classes = found if classes is None else classes
    try:
        labels = positions(found, classes)
    except ClassesError as error:
        raise ManifestError(f"{root} has class folders that cannot be used: {error}") from error
    records = [
        VideoRecord(str(path), label, f"{name}/{path.name}")
        for label, name in sorted(zip(labels, found, strict=True))
        for path in sorted((root / name).iterdir())
        if may_be_video(path) and path.is_file()
    ]
    if not records:
        raise ManifestError(f"{root} has no videos; expected {root}/<class name>/<video>.mp4 (or .avi, .webm, ...)")
    return records, classes


def load_split(
    data_dir: str | Path, split: str, *, prefix: str | Path = "", separator: str = " ", multi_label: bool = False
) -> list[VideoRecord]:
    """The records of one split: from ``data_dir/{split}.csv``, else from the folder ``data_dir/{split}/<class>/``.

    With folders, labels are positions in ``split_class_names``. ``prefix``, ``separator`` and ``multi_label`` are those
    of ``read_list``.

    Raises:
        ManifestError: neither exists, or the one that does cannot be used.
    """
    list_file, folder = Path(data_dir) / f"{split}.csv", Path(data_dir) / split
    if list_file.is_file():
        return read_list(list_file, prefix=prefix, separator=separator, multi_label=multi_label)
    if folder.is_dir():
        return read_folder(folder, split_class_names(data_dir, split))[0]
    raise ManifestError(
        f"no {split} split: neither the list file {list_file} nor the folder of classes {folder} exists"
    )


def split_class_names(data_dir: str | Path, split: str) -> list[str] | None:
    """What the labels of a split mean: the names in ``classes.txt``, else those of the folders; None for a bare list.

    The folders of all splits are numbered together, so that a class which is absent from one split does not shift the
    labels of another.

    Raises:
        ManifestError: ``classes.txt`` cannot be used.
    """
    data_dir = Path(data_dir)
    if (data_dir / CLASSES_NAME).is_file():
        return read_class_names(data_dir / CLASSES_NAME)
    if (data_dir / f"{split}.csv").is_file() or not (data_dir / split).is_dir():
        return None
    siblings = [data_dir / name for name in {*SPLITS, split}]
    return sorted({name for sibling in siblings if sibling.is_dir() for name in class_folders(sibling)})


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
    _check(file, rows)
    write_columns(file, {name: [getattr(row, name) for row in rows] for name in _COLUMNS}, _COLUMNS)


def read_manifest(file: str | Path) -> list[ManifestRow]:
    """The rows of a manifest. Columns that ``ManifestRow`` lacks are ignored, and those of ``_LATER`` may be absent.

    Raises:
        ManifestError: a missing or damaged file or one that is not a manifest, a missing column, one of another type,
            or a value that is not allowed; names the file, and the column or row.
    """
    file = Path(file)
    if not file.is_file():
        raise ManifestError(f"no manifest at {file}")
    required = {name: kind for name, kind in _COLUMNS.items() if name not in _LATER}
    columns = read_columns(file, required, {name: _COLUMNS[name] for name in _LATER})
    rows = [ManifestRow(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True)]
    _check(file, rows)
    return rows


# column name -> its Python type by name
_COLUMNS = {field.name: field.type for field in dataclasses.fields(ManifestRow)}
_LATER = ("mirrored", "clock_jumps")  # columns that earlier versions did not write
_COUNTS = ("label", "num_frames", "fps", "duration", "width", "height", "size", "clock_jumps")


def _check(file: str | Path, rows: list[ManifestRow]) -> None:
    seen: set[str] = set()
    for number, row in enumerate(rows, 1):
        counts = {name: getattr(row, name) for name in _COUNTS}
        if row.status not in STATUSES:
            problem = f"has status {row.status!r}; it must be one of {STATUSES}"
        elif bad := {name: count for name, count in counts.items() if not 0 <= count < 2**62}:  # inf and nan, too
            problem = f"has {bad}; expected finite numbers from 0 on"
        elif row.rotation not in (0, 90, 180, 270):
            problem = f"has rotation {row.rotation}; expected 0, 90, 180 or 270"
        elif row.sha256 and not re.fullmatch("[0-9a-f]{64}", row.sha256):
            problem = f"has sha256 {row.sha256!r}; expected 64 hexadecimal digits"
        elif row.dhash and not re.fullmatch("[0-9a-f]{16}", row.dhash):
            problem = f"has dhash {row.dhash!r}; expected 16 hexadecimal digits"
        elif row.path in seen:
            problem = "occurs twice"
        else:
            seen.add(row.path)
            continue
        raise ManifestError(f"{file}: row {number}: {row.path!r} {problem}")


def _sidecar(list_file: Path) -> dict[str, ManifestRow]:
    """Rows by path as the list writes it; the manifest is beside the list or, for lists of several splits, above."""
    for above in ("", "../"):
        manifest = list_file.parent / above / MANIFEST_NAME
        if manifest.is_file():
            return {above + row.path: row for row in read_manifest(manifest)}
    return {}


def _with_facts(record: VideoRecord, row: ManifestRow) -> VideoRecord:
    return replace(
        record,
        num_frames=row.num_frames or None,
        fps=row.fps or None,
        random_access=row.random_access,
        variable_rate=row.variable_rate,
        size=row.size or None,
    )
