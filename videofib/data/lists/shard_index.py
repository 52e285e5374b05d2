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

from array import array
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from videofib.data.errors import ManifestError
from videofib.data.lists.classes_file import CLASSES_NAME, read_class_names
from videofib.data.lists.parquet import typed_columns
from videofib.data.lists.records import Facts, InShards, Records
from videofib.data.lists.remote import exists, fetched_file, is_remote
from videofib.data.lists.text_list import MAX_LABEL, SEVERAL_CLASSES_HINT, class_indices
from videofib.data.lists.texts import Texts
from videofib.files import from_utf8

# column name -> its type
COLUMNS = {
    **{"shard": "str", "start": "int", "size": "int", "label": "int", "video_id": "str"},
    **{"num_frames": "int", "fps": "float", "random_access": "bool", "variable_rate": "bool"},
}
LABELS = {"labels": "str"}  # only where videos may have several classes


def has_shards(folder: str | Path, split: str) -> bool:
    """Whether a folder contains a split in shards; behind a URL nothing else is supported."""
    return is_remote(folder) or (Path(folder) / f"{split}.parquet").is_file()


def read_shards(folder: str | Path, split: str, *, multi_label: bool = False) -> Records:
    """The records of a split in shards; their paths are byte ranges of the tar files.

    Args:
        multi_label: videos may have several classes.

    Raises:
        ManifestError: no index, one that is damaged or leads out of its folder, a video that overlaps another or is
            listed twice, or one with several classes where one is expected; names the file and the video.
    """
    file = f"{folder}/{split}.parquet"
    try:
        with fetched_file(file) if is_remote(file) else nullcontext(Path(file)) as local:
            columns = typed_columns(local, COLUMNS, LABELS)
    except OSError as error:
        raise ManifestError(f"no index of shards: {error}") from error
    ids = Texts.stored(columns["video_id"])
    if not len(ids):
        raise ManifestError(f"{file} lists no videos")
    names, shards = _shards(columns["shard"])
    _check(file, columns, ids, names, shards)
    classes, counts = columns["label"], np.ones(len(ids), np.int32)
    if "labels" in columns:
        classes, counts = _labels(file, columns["labels"], classes, ids, multi_label)
    # sizes show whether a file was replaced; a video in a shard has one in its byte range
    facts = Facts.of({**columns, "size": np.zeros(len(ids), np.int64)})
    where = InShards(str(folder), names, shards, columns["start"], columns["size"])
    return Records(ids, classes, counts, where, facts, multi_label and "labels" in columns)


def _shards(column) -> tuple[list[str], np.ndarray]:
    """The names of the shards, and (N,) int32 the one of each video."""
    coded = column.dictionary_encode().combine_chunks()
    return [from_utf8(name) for name in coded.dictionary.to_pylist()], coded.indices.to_numpy()


def _check(file: str, columns: Mapping[str, Any], ids: Texts, names: Sequence[str], shards: np.ndarray) -> None:
    """Raise ManifestError for the first video that cannot be where the index has it, or is in it twice."""
    start, size, label = (columns[name] for name in ("start", "size", "label"))
    num_frames, fps = columns["num_frames"], columns["fps"]
    bad_name = np.array(["/" in name or "\0" in name or not name.endswith(".tar") for name in names])[shards]
    no_range = (start < 0) | (size < 1) | (start > MAX_LABEL - size) | (label < 0) | (label >= MAX_LABEL)
    no_facts = ~((num_frames >= 0) & (num_frames < MAX_LABEL) & (fps >= 0) & (fps < MAX_LABEL))  # inf and nan, too
    if len(bad := np.flatnonzero(bad_name | no_range | no_facts)):
        row = int(bad[0])
        name = f"{file}: row {row + 1}: {ids.text(row)!r}"
        if not no_facts[row]:
            shard = names[shards[row]]
            raise ManifestError(
                f"{name} cannot be {size[row]} bytes of {shard!r} from {start[row]} with label={label[row]}"
            )
        raise ManifestError(f"{name} cannot have {num_frames[row]} frames at {fps[row]} a second; pack it again")
    order = np.lexsort((start, shards))
    ends = (start + size)[order]
    overlaps = (shards[order[1:]] == shards[order[:-1]]) & (start[order[1:]] < ends[:-1])
    if overlaps.any():
        at = int(np.argmax(overlaps))
        one, other = (f"{ids.text(row)!r} (row {row + 1})" for row in sorted(order[at : at + 2].tolist()))
        raise ManifestError(f"{file}: {one} and {other} overlap in {names[shards[order[at]]]!r}; pack them again")
    if repeated := ids.first_repeat():
        row, first = repeated
        raise ManifestError(f"{file}: row {row + 1}: {ids.text(row)!r} is already in row {first + 1}; pack it again")


def _labels(file: str, column, first: np.ndarray, ids: Texts, multi_label: bool) -> tuple[np.ndarray, np.ndarray]:
    """All class indices, one video after another, and how many each has, from texts such as ``3,7,12``."""
    classes, counts = array("q"), np.ones(len(ids), np.int32)
    texts = Texts.stored(column)
    for row, label in enumerate(first.tolist()):
        text = texts.text(row)
        if not text:
            classes.append(label)
            continue
        name = f"{file}: row {row + 1}: {ids.text(row)!r}"
        labels = class_indices(text, name)
        if labels[0] != label:
            raise ManifestError(f"{name} has {label=}, but the labels {text}")
        if len(labels) > 1 and not multi_label:
            raise ManifestError(f"{name} has the labels {text}; {SEVERAL_CLASSES_HINT}")
        classes.extend(labels)
        counts[row] = len(labels)
    return np.array(classes, np.int64), counts


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
