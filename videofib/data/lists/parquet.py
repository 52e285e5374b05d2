"""Columns of plain values <-> one Parquet file that is whole or absent. pyarrow is imported only when it is used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from videofib.data.errors import ManifestError
from videofib.files import from_utf8, replacing, to_utf8

_MOST_ROWS = 50_000_000  # a small hostile file may announce more than memory holds


def write_columns(file: str | Path, columns: Mapping[str, Sequence], kinds: Mapping[str, str]) -> None:
    """Write columns; the same values (and version of pyarrow) always give the same bytes.

    Args:
        file: to write.
        columns: values by column name, all of one length.
        kinds: by column name ``"str"``, ``"int"``, ``"float"`` or ``"bool"``; their order is that of the file.

    Raises:
        ManifestError: text that cannot be the name of a file.
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
        ManifestError: a damaged or foreign file, a column that is missing, there twice or of another type, an empty
            value; names the file and the column.
    """
    from pyarrow import ArrowException, parquet

    try:
        # One thread: a pool of them would not survive the fork of a data loader's workers.
        with parquet.ParquetFile(file, pre_buffer=False, page_checksum_verification=True) as source:
            present = source.schema_arrow.names
            kinds = {**kinds, **{name: kind for name, kind in (optional or {}).items() if name in present}}
            _check_schema(file, source.schema_arrow, kinds)
            if source.metadata.num_rows > _MOST_ROWS:
                raise ManifestError(f"{file}: {source.metadata.num_rows} rows; no manifest has above {_MOST_ROWS}")
            table = source.read(columns=list(kinds), use_threads=False)
            table.validate(full=True)
    except ManifestError:
        raise
    except (ArrowException, OSError, ValueError, MemoryError) as error:
        reason = " ".join(str(error).split())
        raise ManifestError(
            f"{file} is damaged or no Parquet file ({reason}); prepare the data set again to write it anew"
        ) from error
    columns = {}
    for name, kind in kinds.items():
        values = table[name].to_pylist()
        if None in values:
            raise ManifestError(f"{file}: row {values.index(None) + 1}: {name} is empty (null); prepare again")
        columns[name] = [*map(from_utf8, values)] if kind == "str" else values
    return columns


def escape(text: str) -> str:
    """Text as Parquet takes it: see ``files.to_utf8``.

    Raises:
        ManifestError: text that no name of a file can be.
    """
    try:
        return to_utf8(text)
    except UnicodeEncodeError as error:
        raise ManifestError(f"a manifest cannot hold {text!r}: it is no name of a file ({error})") from error


def _schema(kinds: Mapping[str, str]):
    import pyarrow

    types = {"str": pyarrow.string(), "int": pyarrow.int64(), "float": pyarrow.float64(), "bool": pyarrow.bool_()}
    return pyarrow.schema([pyarrow.field(name, types[kind], nullable=False) for name, kind in kinds.items()])


def _check_schema(file: str | Path, found, kinds: Mapping[str, str]) -> None:
    if missing := [name for name in kinds if name not in found.names]:
        raise ManifestError(f"{file} lacks the columns {', '.join(missing)}; is it a manifest? then prepare again")
    for field in _schema(kinds):
        if found.names.count(field.name) > 1:
            raise ManifestError(f"{file}: the column {field.name} is there twice; prepare the data set again")
        if (kind := found.field(field.name).type) != field.type:
            raise ManifestError(f"{file}: the column {field.name} holds {kind}, expected {field.type}; prepare again")
