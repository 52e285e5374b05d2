"""Parquet files of ours, with JSON as their metadata."""

from __future__ import annotations

import json
from pathlib import Path

KEY = b"videofib"  # of the metadata
UNLABELLED = -1  # the label of a video whose class nobody has said, as in lists
_MOST_ROWS = 100_000_000  # a small hostile file may announce more than memory holds


class TableError(ValueError):
    """A Parquet file that cannot be used; the message names the file and why."""


def read_table(file: str | Path, what: str, again: str) -> tuple:
    """A pyarrow table that videofib wrote, and its metadata.

    Args:
        what: the file is, such as ``file of scores``, for messages.
        again: what to do where it is damaged, such as ``test again to rewrite it``.

    Raises:
        TableError: there is no such file, or it is damaged or of another kind.
    """
    from pyarrow import ArrowException, parquet

    try:
        exists = Path(file).is_file()
    except (OSError, ValueError) as error:  # no permission, or a name that no file can have
        raise TableError(f"{file} cannot be read: {error}") from error
    if not exists:
        raise TableError(f"no {what} at {file}")
    try:
        # One thread: a pool of threads would not survive the fork of a data loader's workers.
        with (
            Path(file).open("rb") as stream,
            parquet.ParquetFile(stream, pre_buffer=False, page_checksum_verification=True) as source,
        ):
            about = json.loads((source.schema_arrow.metadata or {}).get(KEY, b"null"))
            if not isinstance(about, dict):
                raise TableError(f"{file} is not a {what}: videofib did not write it")
            if source.metadata.num_rows > _MOST_ROWS:
                raise TableError(f"{file} claims to have {source.metadata.num_rows} rows")
            table = source.read(use_threads=False).combine_chunks()
            table.validate(full=True)
    except TableError:
        raise
    except (ArrowException, OSError, ValueError, MemoryError, RecursionError, OverflowError, TypeError) as error:
        reason = " ".join(str(error).split())
        raise TableError(f"{file} is damaged or not a Parquet file ({reason}); {again}") from error
    return table, about
