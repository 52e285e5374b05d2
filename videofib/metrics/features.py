"""The features of videos, and the files that hold them: ``.parquet`` or ``.npz``, one row a video.

::

    video     the file or URL, as it was named
    label     true class; null in Parquet and -1 in npz where nobody has said it
    features  float32, of the shape that the metadata says: (D,), (t, D) or (N, D). Parquet: a list of fixed size, row
              after row of that shape, null where the video could not be read; npz: (V, *shape), nan there
    error     why the video could not be read; null in Parquet and "" in npz where it could

The metadata, ``videofib`` in Parquet and ``about`` in npz, is JSON: ``weights`` (a digest of the model's), ``kind``,
``block``, ``views``, ``input``, ``precision``, ``shape``, ``videos`` (a digest of the list) and more. Names that are
not UTF-8 are written as by ``videofib.files.to_utf8``. No array of an npz needs pickle. V videos, D features.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import videofib
from videofib.files import from_utf8, replacing, to_utf8
from videofib.metrics.table import KEY, UNLABELLED, TableError, read_table
from videofib.printable import printable

_WHAT, _AGAIN = "file of features", "extract them again"
_SAME = ("weights", "kind", "block", "views", "input", "shape")  # of features that may be compared


class FeaturesError(ValueError):
    """A file of features that cannot be used; the message names the file and why."""


@dataclass(frozen=True)
class Features:
    """The features of V videos.

    Attributes:
        videos: their paths (V).
        values: float32 (V, *shape); nan for a video that could not be read.
        labels: true classes, int64 (V,); -1 where nobody has said it.
        errors: why videos could not be read, "" for the others (V).
        about: the metadata.
    """

    videos: Sequence[str]
    values: np.ndarray
    labels: np.ndarray
    errors: Sequence[str]
    about: dict[str, Any]


def write_features(file: str | Path, parts: Iterable[Features], shape: Sequence[int], about: dict[str, Any]) -> None:
    """Write the features of all parts, one after another, complete or not at all; one part is in memory at a time.

    Raises:
        OSError: the file cannot be written.
    """
    about = {**about, "shape": list(shape), "version": videofib.__version__}
    write = _write_npz if str(file).endswith(".npz") else _write_parquet
    with replacing(file) as partial:
        write(partial, parts, about)


def read_features(file: str | Path) -> Features:
    """What ``write_features`` wrote.

    Raises:
        FeaturesError: there is no such file, or it is damaged or not a file of features.
    """
    try:
        found = _read_npz(file) if str(file).endswith(".npz") else _read_parquet(file)
        _check(found)
        return found
    except TableError as error:
        raise FeaturesError(str(error)) from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError, MemoryError, RecursionError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise FeaturesError(f"{printable(file)} is not a {_WHAT}: it {printable(reason)}; {_AGAIN}") from error


def read_all(files: Sequence[str | Path], like: Features | None = None) -> Features:
    """The features in several files, such as those of shards, one after another.

    Args:
        like: features that they must be comparable with.

    Raises:
        FeaturesError: as :func:`read_features`, or files with features of different models, kinds, blocks or views.
    """
    found: list[Features] = []
    for file in files:
        features = read_features(file)
        first = like or (found[0] if found else features)
        if other := [name for name in _SAME if features.about.get(name) != first.about.get(name)]:
            raise FeaturesError(
                f"{printable(file)} has features of other {', '.join(other)} than the files before; "
                "extract all of them with the same model and options"
            )
        found.append(features)
    return Features(
        [video for part in found for video in part.videos],
        np.concatenate([part.values for part in found]),
        np.concatenate([part.labels for part in found]),
        [error for part in found for error in part.errors],
        found[0].about,
    )


def _write_parquet(file: Path, parts: Iterable[Features], about: dict[str, Any]) -> None:
    import pyarrow
    from pyarrow import parquet

    width = int(np.prod(about["shape"]))
    columns: dict[str, Any] = {
        "video": pyarrow.string(),
        "label": pyarrow.int64(),
        "features": pyarrow.list_(pyarrow.float32(), width),
        "error": pyarrow.string(),
    }
    schema = pyarrow.schema(list(columns.items()), metadata={KEY: json.dumps(about)})
    with (
        file.open("wb") as stream,  # pyarrow opens no name that is not UTF-8
        parquet.ParquetWriter(stream, schema, compression="zstd", write_page_checksum=True) as writer,
    ):
        for part in parts:
            broken = np.array([bool(error) for error in part.errors], bool)
            flat = pyarrow.array(part.values.reshape(-1), pyarrow.float32())
            arrays = [
                pyarrow.array(map(to_utf8, part.videos), pyarrow.string()),
                pyarrow.array(part.labels, pyarrow.int64(), mask=part.labels == UNLABELLED),
                pyarrow.FixedSizeListArray.from_arrays(flat, width, mask=pyarrow.array(broken)),
                pyarrow.array([printable(error) or None for error in part.errors], pyarrow.string()),
            ]
            writer.write_table(pyarrow.table(arrays, schema=schema))  # a row group


def _read_parquet(file: str | Path) -> Features:
    table, about = read_table(file, _WHAT, _AGAIN)
    shape = _shape(about)
    lists, rows, width = table["features"], len(table), int(np.prod(shape))
    if getattr(lists.type, "list_size", -1) != width:
        raise ValueError(f"has features of the type {lists.type}, where {width} numbers a video are expected")
    values = np.full((rows, width), np.nan, np.float32)
    present = ~np.array(lists.is_null(), bool)
    if present.any():
        values[present] = lists.drop_null().combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
    return Features(
        [from_utf8(video) for video in table["video"].to_pylist()],
        values.reshape(rows, *shape),
        np.array([UNLABELLED if label is None else label for label in table["label"].to_pylist()], np.int64),
        [error or "" for error in table["error"].to_pylist()],
        about,
    )


def _write_npz(file: Path, parts: Iterable[Features], about: dict[str, Any]) -> None:
    """An npz whose rows are counted once all are written: the header of ``features`` has a fixed length."""
    videos: list[str] = []
    errors: list[str] = []
    labels: list[np.ndarray] = []
    shape = tuple(about["shape"])
    raw = file.with_name(f"{file.stem}.rows.partial")  # numpy's header comes first, and has the number of rows
    try:
        with raw.open("w+b") as rows:
            for part in parts:
                part.values.astype("<f4").tofile(rows)
                videos += map(to_utf8, part.videos)
                errors += map(printable, part.errors)
                labels.append(part.labels)
            count = len(videos)
            values = np.memmap(rows, "<f4", "r", shape=(count, *shape)) if count else np.zeros((0, *shape), "<f4")
            arrays: dict[str, Any] = {
                "features": values,
                "video": np.array(videos, str),
                "error": np.array(errors, str),
            }
            arrays |= {"label": np.concatenate([*labels, np.zeros(0, np.int64)]), "about": np.array(json.dumps(about))}
            with file.open("wb") as stream:
                np.savez(stream, **arrays)
    finally:
        raw.unlink(missing_ok=True)


def _read_npz(file: str | Path) -> Features:
    if not Path(file).is_file():
        raise TableError(f"no {_WHAT} at {printable(file)}")
    try:
        with zipfile.ZipFile(file) as archive:
            arrays = {name: _array(archive, f"{name}.npy") for name in ("features", "video", "label", "error", "about")}
    except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        reason = printable(" ".join(str(error).split()))
        raise TableError(f"{printable(file)} is damaged or not an npz file ({reason}); {_AGAIN}") from error
    return Features(
        [from_utf8(video) for video in arrays["video"].tolist()],
        arrays["features"],
        arrays["label"],
        arrays["error"].tolist(),
        json.loads(str(arrays["about"])),
    )


def _array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """An array that is not compressed, so that it takes no more memory than the file has bytes.

    Raises:
        ValueError: it is, or announces more numbers than it has.
    """
    entry = archive.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError("is compressed, which no file of videofib is")
    with archive.open(entry) as stream:
        np.lib.format.read_magic(stream)
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.hasobject or int(np.prod(shape, dtype=object)) * dtype.itemsize > entry.file_size:
        raise ValueError(f"has {name} of {dtype} {shape}, which its {entry.file_size} bytes cannot be")
    with archive.open(entry) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def _shape(about: dict[str, Any]) -> tuple[int, ...]:
    shape = about["shape"]
    if not shape or len(shape) > 2 or not all(isinstance(size, int) and 0 < size < 2**31 for size in shape):
        raise ValueError(f"has features of the shape {shape}")
    return tuple(shape)


def _check(found: Features) -> None:
    """Raise ValueError where arrays do not fit each other."""
    count, shape = len(found.videos), _shape(found.about)
    sizes = (found.values.shape, found.labels.shape, len(found.errors))
    if sizes != ((count, *shape), (count,), count):
        raise ValueError(f"has columns of the shapes {sizes} for {count} videos")
    if found.values.dtype != np.float32 or found.labels.dtype != np.int64 or (found.labels < UNLABELLED).any():
        raise ValueError("has features or labels of another type")
    readable = np.array([not error for error in found.errors], bool)
    if not np.isfinite(found.values[readable]).all():
        raise ValueError("has features that are not finite")
