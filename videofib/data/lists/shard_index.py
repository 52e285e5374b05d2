"""The index of a split in shards: which bytes of which tar file each video is.

    train-000000.tar    00000000.mp4  00000000.cls  00000000.json  00000001.mp4 ...
    train-000001.tar    ...
    train.parquet       of each video: shard, start and size in bytes, label, id, what the manifest knew of it

Where videos may have several classes, the index has the column ``labels`` (text, ``3,7,12``) as well, and the tar files
have them in ``.json``, without ``.cls``, which holds one class index.

Samplers, exact resume and the division over processes are the same as with list files. ``videofib prep
shards`` writes shards (``prep/shards.py``).
"""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from videofib.data.errors import ManifestError
from videofib.data.lists.classes_file import CLASSES_NAME, read_class_names
from videofib.data.lists.manifest import SEVERAL_CLASSES_HINT, class_indices
from videofib.data.lists.parquet import read_columns
from videofib.data.lists.record import VideoRecord
from videofib.data.lists.remote import exists, fetched_file, is_remote
from videofib.data.source import ByteRange

# column name -> its type
COLUMNS = {
    **{"shard": "str", "start": "int", "size": "int", "label": "int", "video_id": "str"},
    **{"num_frames": "int", "fps": "float", "random_access": "bool", "variable_rate": "bool"},
}
LABELS = {"labels": "str"}  # only where videos may have several classes


def has_shards(folder: str | Path, split: str) -> bool:
    """Whether a folder contains a split in shards; behind a URL nothing else is supported."""
    return is_remote(folder) or (Path(folder) / f"{split}.parquet").is_file()


def read_shards(folder: str | Path, split: str, *, multi_label: bool = False) -> list[VideoRecord]:
    """The records of a split in shards; their paths are byte ranges of the tar files.

    Args:
        multi_label: videos may have several classes.

    Raises:
        ManifestError: no index, one that is damaged or leads out of its folder, or a video with several classes where
            one is expected; names the file and the video.
    """
    file = f"{folder}/{split}.parquet"
    try:
        with fetched_file(file) if is_remote(file) else nullcontext(Path(file)) as local:
            columns = read_columns(local, COLUMNS, LABELS)
    except OSError as error:
        raise ManifestError(f"no index of shards: {error}") from error
    texts = columns.pop("labels", None) or [""] * len(columns["label"])
    records = []
    for text, shard, start, size, label, video_id, num_frames, fps, *proven in zip(
        texts, *columns.values(), strict=True
    ):
        if "/" in shard or not shard.endswith(".tar") or start < 0 or size < 1 or label < 0:
            raise ManifestError(f"{file}: {video_id!r} cannot be {size} bytes of {shard!r} from {start} with {label=}")
        labels = class_indices(text, f"{file}: {video_id!r}") if text else ()
        if labels and labels[0] != label:
            raise ManifestError(f"{file}: {video_id!r} has {label=}, but the labels {text}")
        if len(labels) > 1 and not multi_label:
            raise ManifestError(f"{file}: {video_id!r} has the labels {text}; {SEVERAL_CLASSES_HINT}")
        source = ByteRange(f"{folder}/{shard}", start, size)
        facts = num_frames or None, fps or None, *proven
        records.append(VideoRecord(source, label, video_id, *facts, labels=labels if multi_label else ()))
    if not records:
        raise ManifestError(f"{file} lists no videos")
    return records


def shard_class_names(folder: str | Path) -> list[str] | None:
    """The names in the ``classes.txt`` beside shards, in a folder or behind a URL; None where there is none.

    Raises:
        ManifestError: it cannot be fetched or used.
    """
    file = f"{folder}/{CLASSES_NAME}"
    if not is_remote(file):
        return read_class_names(file) if Path(file).is_file() else None
    try:
        if not exists(file):
            return None
        with fetched_file(file) as local:
            return read_class_names(local, name=file)
    except OSError as error:
        raise ManifestError(f"the names of the classes are unknown: {error}") from error
