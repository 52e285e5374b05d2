"""Shards: a few large tar files with the videos of a prepared folder, which ``videofib prep shards`` writes.

For file systems that are slow with a million small files, and for data behind a URL. WebDataset reads the tar files;
videofib reads single videos out of them by the index beside them (``data/lists/shard_index.py``, which draws both).
"""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from videofib.data.errors import ManifestError
from videofib.data.lists.classes_file import CLASSES_NAME
from videofib.data.lists.parquet import write_columns
from videofib.data.lists.record import VideoRecord
from videofib.data.lists.remote import file_system, is_remote, one_line
from videofib.data.lists.shard_index import COLUMNS, LABELS
from videofib.data.samplers import shuffled
from videofib.data.source import ByteRange
from videofib.files import replacing
from videofib.prep.defaults import SHARD_BYTES


def write_shards(records: Sequence[VideoRecord], out: str | Path, split: str, shard_bytes: int = SHARD_BYTES) -> int:
    """Pack videos into ``out/{split}-000000.tar`` and so on, then write ``out/{split}.parquet``.

    The videos are shuffled once, so that each shard has many classes; the same records give the same bytes. The index
    is written last. Shards of an earlier run are removed from a folder first; behind a URL they stay.

    Args:
        out: a folder or a URL.
        shard_bytes: a shard ends with the video that brings it to this size.

    Returns:
        The number of shards.

    Raises:
        ManifestError: no records, or a record without a local file of its own.
        OSError: a file cannot be read or written.
    """
    order = [records[index] for index in shuffled(len(records), 0)(0)]
    sizes = [_size(record) for record in order]
    multi_label = any(len(record.classes) > 1 for record in records)
    columns = COLUMNS | LABELS if multi_label else COLUMNS
    rows: dict[str, list] = {name: [] for name in columns}
    count = 0
    if not is_remote(out):
        for old in (f"{split}.parquet", *(path.name for path in Path(out).glob(f"{split}-*.tar"))):
            (Path(out) / old).unlink(missing_ok=True)
    while len(rows["size"]) < len(order):
        name = f"{split}-{count:06d}.tar"
        with _writing(out, name) as partial, tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar:
            while len(rows["size"]) < len(order) and tar.offset < shard_bytes:
                number = len(rows["size"])
                record = order[number]
                start = _pack(tar, f"{number:08d}", record, sizes[number], multi_label)
                facts = (record.num_frames or 0, record.fps or 0.0, record.random_access, record.variable_rate)
                labels = [",".join(map(str, record.classes))] if multi_label else []
                row = (name, start, sizes[number], record.label, record.video_id, *facts, *labels)
                for column, value in zip(rows.values(), row, strict=True):
                    column.append(value)
        count += 1
    with _writing(out, f"{split}.parquet") as partial:
        write_columns(partial, rows, columns)
    return count


def _pack(tar: tarfile.TarFile, key: str, record: VideoRecord, size: int, multi_label: bool) -> int:
    """Add a video, its label (or labels) and its facts; returns the offset of the video's bytes."""
    info = tarfile.TarInfo(key + Path(record.path).suffix.lower())  # mode, owner and time are the same on every machine
    info.size = size
    start = tar.offset + tarfile.BLOCKSIZE
    with Path(record.path).open("rb") as file:
        tar.addfile(info, file)
    facts = {"video_id": record.video_id, "num_frames": record.num_frames, "fps": record.fps}
    if multi_label:
        members = {".json": json.dumps(facts | {"labels": record.classes})}
    else:
        members = {".cls": str(record.label), ".json": json.dumps(facts)}
    for suffix, text in members.items():
        info = tarfile.TarInfo(key + suffix)
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text.encode("ascii")))
    return start


def _size(record: VideoRecord) -> int:
    if isinstance(record.path, ByteRange) or is_remote(record.path):
        raise ManifestError(f"{record.path} is in a shard or behind a URL; only local video files can be packed")
    if record.segment:
        raise ManifestError(
            f"{record.segment.row}: {record.location} is a segment, and shards hold full videos; cut it first with "
            "videofib prep list"
        )
    return Path(record.path).stat().st_size


def _writing(out: str | Path, name: str):
    """A local file to write, which then appears as ``out/name``, completely or not at all."""
    return _uploading(f"{out}/{name}") if is_remote(out) else replacing(Path(out) / name)


def write_class_names(out: str | Path, names: Sequence[str]) -> None:
    """Write the names of the classes beside the shards, one a line."""
    with _writing(out, CLASSES_NAME) as partial:
        text = "".join(f"{name}\n" for name in names)
        partial.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")


@contextmanager
def _uploading(url: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        partial = Path(folder) / "partial"
        yield partial
        _upload(partial, url)


def _upload(file: Path, url: str) -> None:
    try:
        system = file_system(url)
        system.makedirs(system._parent(url), exist_ok=True)
        system.put_file(str(file), url)
    except Exception as error:  # each driver has its own
        raise OSError(f"{url} cannot be written: {one_line(error)}") from error
