"""Shards: a split's videos in a few large tar files, as WebDataset reads them, with an index for random access.

    train-000000.tar    00000000.mp4  00000000.cls  00000000.json  00000001.mp4 ...
    train-000001.tar    ...
    train.parquet       of each video: shard, start and size in bytes, label, id, what the manifest knew of it

Where a file system chokes on a million small files, or the data lies behind a URL, the index says which bytes of which
shard a video is. So samplers, exact resume and the even split over processes are those of list files.
"""

from __future__ import annotations

import argparse
import io
import json
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from videofib.data.errors import ManifestError
from videofib.data.lists.manifest import SPLITS, VideoRecord, load_split
from videofib.data.lists.parquet import read_columns, write_columns
from videofib.data.lists.remote import fetched_file, is_remote, upload
from videofib.data.samplers import shuffled
from videofib.data.source import ByteRange
from videofib.files import replacing

SHARD_BYTES = 1 << 30
_KINDS = {
    **{"shard": "str", "start": "int", "size": "int", "label": "int", "video_id": "str"},
    **{"num_frames": "int", "fps": "float", "random_access": "bool", "variable_rate": "bool"},
}


def write_shards(records: Sequence[VideoRecord], out: str | Path, split: str, shard_bytes: int = SHARD_BYTES) -> int:
    """Pack videos into ``out/{split}-000000.tar`` and so on, then write ``out/{split}.parquet``.

    The order of the videos is shuffled once, so that each shard has many classes; the same records give the same bytes.
    The index is written last. What an earlier run has left in a folder is removed first; behind a URL it stays.

    Args:
        out: a folder or a URL.
        shard_bytes: a shard ends with the video that fills it to so many.

    Returns:
        How many shards there are.

    Raises:
        ManifestError: no records, or a record without a local file of its own.
        OSError: a file cannot be read or written.
    """
    order = [records[index] for index in shuffled(len(records), 0)(0)]
    sizes = [_size(record) for record in order]
    rows: dict[str, list] = {name: [] for name in _KINDS}
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
                start = _pack(tar, f"{number:08d}", record, sizes[number])
                facts = (record.num_frames or 0, record.fps or 0.0, record.random_access, record.variable_rate)
                row = (name, start, sizes[number], record.label, record.video_id, *facts)
                for column, value in zip(rows.values(), row, strict=True):
                    column.append(value)
        count += 1
    with _writing(out, f"{split}.parquet") as partial:
        write_columns(partial, rows, _KINDS)
    return count


def has_shards(folder: str | Path, split: str) -> bool:
    """Whether a folder holds a split as shards; a URL cannot hold anything else."""
    return is_remote(folder) or (Path(folder) / f"{split}.parquet").is_file()


def read_shards(folder: str | Path, split: str) -> list[VideoRecord]:
    """The records of a split that ``write_shards`` has written; their paths are byte ranges of the shards.

    Raises:
        ManifestError: no index, one that cannot be used, or one that points out of its folder.
    """
    file = f"{folder}/{split}.parquet"
    try:
        with fetched_file(file) if is_remote(file) else nullcontext(Path(file)) as local:
            columns = read_columns(local, _KINDS)
    except OSError as error:
        raise ManifestError(f"no index of shards: {error}") from error
    records = []
    for shard, start, size, label, video_id, num_frames, fps, *proven in zip(*columns.values(), strict=True):
        if "/" in shard or not shard.endswith(".tar") or start < 0 or size < 1 or label < 0:
            raise ManifestError(f"{file}: {video_id!r} is said to be {size} bytes of {shard!r} from {start}, {label=}")
        source = ByteRange(f"{folder}/{shard}", start, size)
        records.append(VideoRecord(source, label, video_id, num_frames or None, fps or None, *proven))
    if not records:
        raise ManifestError(f"{file} lists no video")
    return records


def _pack(tar: tarfile.TarFile, key: str, record: VideoRecord, size: int) -> int:
    """Add a video, its label and its facts; returns where the video's bytes begin."""
    info = tarfile.TarInfo(key + Path(record.path).suffix.lower())  # mode, owner and time stay the same everywhere
    info.size = size
    start = tar.offset + tarfile.BLOCKSIZE
    with Path(record.path).open("rb") as file:
        tar.addfile(info, file)
    facts = {"video_id": record.video_id, "num_frames": record.num_frames, "fps": record.fps}
    for suffix, text in ((".cls", str(record.label)), (".json", json.dumps(facts))):
        info = tarfile.TarInfo(key + suffix)
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text.encode("ascii")))
    return start


def _size(record: VideoRecord) -> int:
    if isinstance(record.path, ByteRange) or is_remote(record.path):
        raise ManifestError(f"{record.path} is within a shard or behind a URL; pack the files themselves")
    return Path(record.path).stat().st_size


def _writing(out: str | Path, name: str):
    """A local file to write, which then appears as ``out/name``, whole."""
    return _uploading(f"{out}/{name}") if is_remote(out) else replacing(Path(out) / name)


@contextmanager
def _uploading(url: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        partial = Path(folder) / "partial"
        yield partial
        upload(partial, url)


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Pack the splits of a prepared folder."""
    parser = argparse.ArgumentParser(prog, description="Pack the videos of list files into WebDataset tar shards.")
    parser.add_argument("folder", type=Path, help="with train.csv, val.csv, test.csv, as preparation writes it")
    parser.add_argument("--out", required=True, help="a folder, or a URL that fsspec can write to")
    parser.add_argument("--shard-bytes", type=int, default=SHARD_BYTES, help="about so many a shard (%(default)s)")
    args = parser.parse_args(arguments)
    try:
        splits = [split for split in SPLITS if (args.folder / f"{split}.csv").is_file()]
        if not splits:
            raise ManifestError(f"{args.folder} has none of {', '.join(f'{split}.csv' for split in SPLITS)}")
        for split in splits:
            records = load_split(args.folder, split)
            count = write_shards(records, args.out, split, args.shard_bytes)
            print(f"{args.out}: {len(records)} {split} videos in {count} shard(s)")
        classes = args.folder / "classes.txt"
        if classes.is_file():
            with _writing(args.out, classes.name) as partial:
                partial.write_bytes(classes.read_bytes())
    except (ManifestError, OSError) as error:
        parser.exit(1, f"{parser.prog}: {error}\n")


if __name__ == "__main__":
    main()
