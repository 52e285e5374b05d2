"""Columns of plain values <-> a Parquet file, written completely or not at all. pyarrow is imported when it is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from videofib.data.errors import ManifestError
from videofib.files import from_utf8, replacing, to_utf8
from videofib.printable import printable

_MAX_ROWS = 50_000_000  # a small hostile file may claim more rows than fit into memory


def write_columns(file: str | Path, columns: Mapping[str, Sequence], kinds: Mapping[str, str]) -> None:
    """Write columns; the same values (and version of pyarrow) always give the same bytes.

    Args:
        file: to write.
        columns: values by column name, all of one length.
        kinds: by column name ``"str"``, ``"int"``, ``"float"`` or ``"bool"``; the file's columns are in this order.

    Raises:
        ManifestError: text that cannot be a file name.
    """
    import pyarrow
    from pyarrow import parquet

    values = {
        name: text_column(columns[name]) if kind == "str" and isinstance(columns[name], list | tuple) else columns[name]
        for name, kind in kinds.items()
    }
    table = pyarrow.table(values, schema=_schema(kinds))
    with replacing(file) as partial, partial.open("wb") as stream:  # pyarrow opens no name that is not UTF-8
        parquet.write_table(table, stream, write_page_checksum=True)


def typed_columns(
    file: str | Path, kinds: Mapping[str, str], optional: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The columns that ``each_column`` yields, by name."""
    return dict(each_column(file, kinds, optional))


def each_column(
    file: str | Path, kinds: Mapping[str, str], optional: Mapping[str, str] | None = None
) -> Iterator[tuple[str, Any]]:
    """The columns that ``kinds`` names, in its order, then those of ``optional`` that the file has; others are ignored.

    They are read one at a time, so that those which nobody keeps take no memory beside each other. Columns of text are
    Arrow's, escaped (``escape``); those of numbers and truth values are NumPy arrays.

    Raises:
        ManifestError: a damaged file or one that is not Parquet, a column that is missing, occurs twice or has another
            type, an empty value; names the file and the column.
    """
    from pyarrow import ArrowException, parquet

    try:
        # One thread: a thread pool would not survive the fork of a data loader's workers.
        with (
            Path(file).open("rb") as stream,
            parquet.ParquetFile(stream, pre_buffer=False, page_checksum_verification=True) as source,
        ):
            present = source.schema_arrow.names
            kinds = {**kinds, **{name: kind for name, kind in (optional or {}).items() if name in present}}
            _check_schema(file, source.schema_arrow, kinds)
            if source.metadata.num_rows > _MAX_ROWS:
                raise ManifestError(f"{file}: {source.metadata.num_rows} rows, but a manifest has at most {_MAX_ROWS}")
            for name, kind in kinds.items():
                table = source.read(columns=[name], use_threads=False)
                table.validate(full=True)
                column = table[name]
                if len(column) != source.metadata.num_rows:
                    raise ValueError(f"{len(column)} values of {name}, but {source.metadata.num_rows} rows")
                if column.null_count:
                    row = column.is_null().index(True).as_py()
                    raise ManifestError(f"{file}: row {row + 1}: {name} is empty (null); prepare again")
                yield name, column if kind == "str" else column.to_numpy()
                del table, column  # before the next one is read
    except ManifestError:
        raise
    except (ArrowException, OSError, ValueError, MemoryError) as error:
        reason = printable(" ".join(str(error).split()))  # which may repeat bytes of the file
        raise ManifestError(
            f"{file} is damaged or not a Parquet file ({reason}); prepare the data set again to rewrite it"
        ) from error


def release_memory() -> None:
    """Give memory back to the system that Arrow and the C library keep for later once its columns are gone."""
    import pyarrow

    for pool in (pyarrow.default_memory_pool(), pyarrow.system_memory_pool()):
        pool.release_unused()


def to_values(columns: Mapping[str, Any]) -> dict[str, list]:
    """The values of ``typed_columns`` as lists of Python's own."""
    return {
        name: column.tolist() if isinstance(column, np.ndarray) else [*map(from_utf8, column.to_pylist())]
        for name, column in columns.items()
    }


def text_column(texts: Sequence[str]):
    """Texts as Arrow stores them, escaped.

    Raises:
        ManifestError: text that cannot be a file name.
    """
    import pyarrow

    return pyarrow.array([*map(escape, texts)], pyarrow.string())


def escape(text: str) -> str:
    """Text as it is stored in Parquet: see ``files.to_utf8``.

    Raises:
        ManifestError: text that cannot be a file name.
    """
    try:
        return to_utf8(text)
    except UnicodeEncodeError as error:
        raise ManifestError(f"a manifest cannot contain {text!r}: it is not a file name ({error})") from error


def _schema(kinds: Mapping[str, str]):
    import pyarrow

    types = {"str": pyarrow.string(), "int": pyarrow.int64(), "float": pyarrow.float64(), "bool": pyarrow.bool_()}
    return pyarrow.schema([pyarrow.field(name, types[kind], nullable=False) for name, kind in kinds.items()])


def _check_schema(file: str | Path, found, kinds: Mapping[str, str]) -> None:
    if missing := [name for name in kinds if name not in found.names]:
        raise ManifestError(f"{file} lacks the columns {', '.join(missing)}; is it a manifest? then prepare again")
    for field in _schema(kinds):
        if found.names.count(field.name) > 1:
            raise ManifestError(f"{file}: the column {field.name} occurs twice; prepare the data set again")
        if (kind := found.field(field.name).type) != field.type:
            raise ManifestError(f"{file}: the column {field.name} holds {kind}, expected {field.type}; prepare again")
