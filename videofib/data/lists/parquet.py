"""Columns of plain values <-> a Parquet file, written completely or not at all. pyarrow is imported when it is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from videofib.data.errors import ManifestError
from videofib.files import from_utf8, replacing, to_utf8

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

    values = {name: [*map(escape, columns[name])] if kind == "str" else columns[name] for name, kind in kinds.items()}
    table = pyarrow.table(values, schema=_schema(kinds))
    with replacing(file) as partial:
        parquet.write_table(table, partial, write_page_checksum=True)


def read_columns(
    file: str | Path, kinds: Mapping[str, str], optional: Mapping[str, str] | None = None
) -> dict[str, list]:
    """The columns that ``kinds`` names, in its order, then those of ``optional`` that the file has; others are ignored.

    Raises:
        ManifestError: a damaged file or one that is not Parquet, a column that is missing, occurs twice or has another
            type, an empty value; names the file and the column.
    """
    from pyarrow import ArrowException, parquet

    try:
        # One thread: a thread pool would not survive the fork of a data loader's workers.
        with parquet.ParquetFile(file, pre_buffer=False, page_checksum_verification=True) as source:
            present = source.schema_arrow.names
            kinds = {**kinds, **{name: kind for name, kind in (optional or {}).items() if name in present}}
            _check_schema(file, source.schema_arrow, kinds)
            if source.metadata.num_rows > _MAX_ROWS:
                raise ManifestError(f"{file}: {source.metadata.num_rows} rows, but a manifest has at most {_MAX_ROWS}")
            table = source.read(columns=list(kinds), use_threads=False)
            table.validate(full=True)
    except ManifestError:
        raise
    except (ArrowException, OSError, ValueError, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise ManifestError(
            f"{file} is damaged or not a Parquet file ({reason}); prepare the data set again to rewrite it"
        ) from error
    columns = {}
    for name, kind in kinds.items():
        values = table[name].to_pylist()
        if None in values:
            raise ManifestError(f"{file}: row {values.index(None) + 1}: {name} is empty (null); prepare again")
        columns[name] = [*map(from_utf8, values)] if kind == "str" else values
    return columns


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
