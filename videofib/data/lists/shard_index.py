"""The index of a split in shards: which bytes of which tar file each video is.

    train-000000.tar    00000000.mp4  00000000.cls  00000000.json  00000001.mp4 ...
    train-000001.tar    ...
    train.parquet       of each video: shard, start and size in bytes, label, id, what the manifest knew of it

So samplers, exact resume and the even division over processes are the same as those of list files. ``videofib prep
shards`` writes shards (``prep/shards.py``).
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from videofib.data.errors import ManifestError
from videofib.data.lists.manifest import VideoRecord
from videofib.data.lists.parquet import read_columns
from videofib.data.lists.remote import fetched_file, is_remote
from videofib.data.source import ByteRange

# column name -> its type
COLUMNS = {
    **{"shard": "str", "start": "int", "size": "int", "label": "int", "video_id": "str"},
    **{"num_frames": "int", "fps": "float", "random_access": "bool", "variable_rate": "bool"},
}


def has_shards(folder: str | Path, split: str) -> bool:
    """Whether a folder holds a split as shards; a URL cannot hold anything else."""
    return is_remote(folder) or (Path(folder) / f"{split}.parquet").is_file()


def read_shards(folder: str | Path, split: str) -> list[VideoRecord]:
    """The records of a split that is stored in shards; their paths are byte ranges of the shards.

    Raises:
        ManifestError: no index, one that cannot be used, or one that points out of its folder.
    """
    file = f"{folder}/{split}.parquet"
    try:
        with fetched_file(file) if is_remote(file) else nullcontext(Path(file)) as local:
            columns = read_columns(local, COLUMNS)
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
