"""List files and manifests: which videos a data set holds, and what is known about each.

A **list file** (``train.csv``, ``val.csv``, ``test.csv``) has one ``path<separator>label`` a line and no header.
A **manifest** (``manifest.csv`` beside the lists) has a header and one row a video: what preparation counted,
measured and proved. A list alone is enough to train; the manifest saves counting and allows fast seeking.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from videofib.files import replacing

VIDEO_EXTENSIONS = (
    *(".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4"),
    *(".mpeg", ".mpg", ".mts", ".ogv", ".ts", ".vob", ".webm", ".wmv"),
)
SPLITS = ("train", "val", "test")
MANIFEST_NAME = "manifest.csv"
STATUSES = ("ok", "damaged", "missing", "corrupt")


class ManifestError(ValueError):
    """A list file, manifest or data folder that cannot be used; the message names the file and the line."""


@dataclass(frozen=True)
class VideoRecord:
    """One video of a split.

    Attributes:
        path: the file to open.
        label: class index, 0 or above.
        video_id: the path as its list writes it; unique within the split.
        num_frames: frames that decode, None where nobody has counted them.
        fps: frames a second, None where unknown.
        random_access: preparation proved that seeking in this file gives the frames asked for.
        size: bytes of the file when that was counted and proved; see ``verified``.
    """

    path: str
    label: int
    video_id: str
    num_frames: int | None = None
    fps: float | None = None
    random_access: bool = False
    size: int | None = None


@dataclass(frozen=True)
class ManifestRow:
    """One line of ``manifest.csv``; the fields are its columns, in this order.

    ``path`` is relative to the manifest's folder, exactly as in the list files. ``size`` is in bytes, ``duration``
    in seconds, width and height in pixels as shown (after rotation). ``status`` is ok, damaged (readable up to a
    break), missing or corrupt; ``reason`` says why it is not ok; ``source`` is the file it was made from.
    """

    path: str
    label: int
    split: str
    num_frames: int = 0
    fps: float = 0.0
    width: int = 0
    height: int = 0
    duration: float = 0.0
    codec: str = ""
    random_access: bool = False
    size: int = 0
    status: str = "ok"
    reason: str = ""
    source: str = ""


def verified(record: VideoRecord) -> VideoRecord:
    """The record as far as it can still be trusted: a file of another size has lost its count and its proof."""
    if record.size is None or not (record.random_access or record.num_frames):
        return record
    try:
        unchanged = Path(record.path).stat().st_size == record.size
    except OSError:
        return record  # reading it will say what is wrong
    return record if unchanged else replace(record, num_frames=None, fps=None, random_access=False, size=None)


def read_list(file: str | Path, *, prefix: str | Path = "", separator: str = " ") -> list[VideoRecord]:
    """The records of a list file, enriched from the ``manifest.csv`` beside it where there is one.

    Lines split at their last separator, so paths may hold spaces and commas. Relative paths start at ``prefix``,
    else at the list's folder. Blank lines, CRLF and a byte-order mark are tolerated.

    Raises:
        ManifestError: missing or empty file, a line without a label, a label that is no class index, a path listed
            twice; names file and line.
    """
    file = Path(file)
    if not separator:
        raise ManifestError("the separator of a list file must not be empty")
    if not file.is_file():
        raise ManifestError(f"no list file at {file}")
    known = _sidecar(file)
    root = Path(prefix) if str(prefix) else file.parent
    records: list[VideoRecord] = []
    seen: dict[str, int] = {}
    for number, line in _lines(file):
        path, found, label = line.rpartition(separator)
        path = path.rstrip()
        if not found or not path:
            raise ManifestError(f"{file}:{number}: expected 'path{separator}label', got {line!r}")
        if not label.strip().isdecimal():
            raise ManifestError(f"{file}:{number}: label {label.strip()!r} is no class index (0, 1, 2, ...): {line!r}")
        if path in seen:
            raise ManifestError(f"{file}:{number}: {path!r} is listed already, on line {seen[path]}")
        seen[path] = number
        record = VideoRecord(str(root / path), int(label), path)
        records.append(_with_facts(record, known[path]) if path in known else record)
    if not records:
        raise ManifestError(f"{file} lists no video")
    return records


def read_folder(root: str | Path, classes: list[str] | None = None) -> tuple[list[VideoRecord], list[str]]:
    """The videos of ``root/class_name/*.mp4`` (any video extension), sorted, and the sorted class names.

    Args:
        root: holds one folder a class.
        classes: fixes the labels; by default the folders' sorted names do.

    Raises:
        ManifestError: no such folder, no class folders, no videos, or a folder that ``classes`` does not name.
    """
    root = Path(root)
    if not root.is_dir():
        raise ManifestError(f"no folder of classes at {root}")
    found = _class_names(root)
    classes = found if classes is None else classes
    if unknown := sorted(set(found) - set(classes)):
        raise ManifestError(f"{root} has class folders {unknown} that are not among the classes {classes}")
    records = [
        VideoRecord(str(path), label, f"{name}/{path.name}")
        for label, name in enumerate(classes)
        if (root / name).is_dir()
        for path in sorted((root / name).iterdir())
        if path.suffix.lower() in VIDEO_EXTENSIONS and path.is_file()
    ]
    if not records:
        raise ManifestError(f"{root} has no videos; expected {root}/<class name>/<video>.mp4 (or .avi, .webm, ...)")
    return records, classes


def load_split(data_dir: str | Path, split: str, *, prefix: str | Path = "", separator: str = " ") -> list[VideoRecord]:
    """The records of one split: from ``data_dir/{split}.csv``, else from the folder ``data_dir/{split}/<class>/``.

    With folders the class names of all splits together fix the labels, so that a class absent from one split does
    not shift those of another.

    Raises:
        ManifestError: neither is there, or the one that is cannot be used.
    """
    list_file, folder = Path(data_dir) / f"{split}.csv", Path(data_dir) / split
    if list_file.is_file():
        return read_list(list_file, prefix=prefix, separator=separator)
    if folder.is_dir():
        siblings = [Path(data_dir) / name for name in {*SPLITS, split}]
        classes = sorted({name for sibling in siblings if sibling.is_dir() for name in _class_names(sibling)})
        return read_folder(folder, classes)[0]
    raise ManifestError(
        f"no {split} split: neither the list file {list_file} nor the folder of classes {folder} exists"
    )


def write_list(file: str | Path, rows: Iterable[tuple[str, int]], *, separator: str = " ") -> None:
    """Write (path, label) rows as a list file; whole or not at all."""
    lines = []
    for path, label in rows:
        if "\n" in path or "\r" in path or path != path.rstrip() or not path:
            raise ManifestError(f"{file}: a list file cannot hold the path {path!r}")
        lines.append(f"{path}{separator}{label}\n")
    _write(file, "".join(lines))


def write_manifest(file: str | Path, rows: Iterable[ManifestRow]) -> None:
    """Write rows as a manifest with a header; whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        if row.status not in STATUSES:
            raise ManifestError(f"{file}: {row.path!r} has status {row.status!r}; it must be one of {STATUSES}")
        writer.writerow({**dataclasses.asdict(row), "random_access": int(row.random_access)})
    _write(file, text.getvalue())


def read_manifest(file: str | Path) -> list[ManifestRow]:
    """The rows of a manifest.

    Raises:
        ManifestError: missing file, missing columns, or a value of the wrong type; names file and line.
    """
    file = Path(file)
    if not file.is_file():
        raise ManifestError(f"no manifest at {file}")
    rows = []
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        reader = csv.DictReader(stream)
        if missing := [name for name in _COLUMNS if name not in (reader.fieldnames or [])]:
            raise ManifestError(f"{file}: the header lacks the columns {', '.join(missing)}")
        for values in reader:
            try:
                rows.append(ManifestRow(**{name: _COLUMNS[name](values[name]) for name in _COLUMNS}))
            except (TypeError, ValueError) as error:
                raise ManifestError(f"{file}:{reader.line_num}: {error}") from error
    return rows


def _write(file: str | Path, text: str) -> None:
    with replacing(file) as partial:
        partial.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")


def _read_bool(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError(f"expected 0 or 1, got {text!r}")
    return text == "1"


# column name -> how to read it
_COLUMNS = {
    field.name: {"str": str, "int": int, "float": float, "bool": _read_bool}[field.type]
    for field in dataclasses.fields(ManifestRow)
}


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    # surrogateescape carries file names that are not UTF-8 through unharmed
    with file.open(encoding="utf-8-sig", errors="surrogateescape") as stream:
        for number, line in enumerate(stream, start=1):
            if line.strip():
                yield number, line.rstrip()


def _sidecar(list_file: Path) -> dict[str, ManifestRow]:
    manifest = list_file.with_name(MANIFEST_NAME)
    return {row.path: row for row in read_manifest(manifest)} if manifest.is_file() else {}


def _with_facts(record: VideoRecord, row: ManifestRow) -> VideoRecord:
    return replace(
        record,
        num_frames=row.num_frames or None,
        fps=row.fps or None,
        random_access=row.random_access,
        size=row.size or None,
    )


def _class_names(root: Path) -> list[str]:
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
