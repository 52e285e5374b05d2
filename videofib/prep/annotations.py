"""Reading annotation files; every error names the file and the line or entry."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from videofib.prep.items import PrepareError

_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def read_text(file: Path) -> str:
    """The text of an annotation file: UTF-8 with or without a byte-order mark, or UTF-16 with one.

    Raises:
        PrepareError: no such file, or another encoding, which is not guessed: it would change names.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise PrepareError(f"{file} cannot be read: {error.strerror}") from error
    encoding = "utf-16" if content.startswith(_UTF_16) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise PrepareError(
            f"{file}:{line}: not text in UTF-8; save it as UTF-8 (of Latin-1: iconv -f latin1 -t utf-8)"
        ) from error


def read_lines(file: Path) -> list[tuple[int, str]]:
    """(line number, text) of the lines of an annotation file that are not blank; CRLF is fine.

    Raises:
        PrepareError: no such file, or not text.
    """
    return [(number, line.strip()) for number, line in enumerate(read_text(file).split("\n"), 1) if line.strip()]


def read_table(file: Path) -> tuple[list[str], Iterator[tuple[str, dict[str, str]]]]:
    """The columns of a csv file, and (location for messages, values by column) of its rows.

    Columns are in small letters, with underscores for spaces. A row of too few or too many cells has None among its
    values or keys.

    Raises:
        PrepareError: no such file, not text, or not csv; names file and line, of rows as they are read.
    """
    reader = csv.DictReader(io.StringIO(read_text(file), newline=""))

    def rows() -> Iterator[tuple[str, dict[str, str]]]:
        try:
            for row in reader:
                yield f"{file}:{reader.line_num}", row
        except csv.Error as error:
            raise PrepareError(f"{file}:{reader.line_num}: cannot be read: {error}") from error

    try:
        columns = [name.strip().lower().replace(" ", "_") for name in reader.fieldnames or []]
    except csv.Error as error:
        raise PrepareError(f"{file}:1: cannot be read: {error}") from error
    reader.fieldnames = columns
    return columns, rows()


def read_json(file: Path) -> Any:
    """The content of a JSON file.

    Raises:
        PrepareError: no such file, or not JSON; names file and line.
    """
    text = read_text(file)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise PrepareError(f"{file}:{error.lineno}: not JSON ({error.msg}); is the file complete?") from error
    except (ValueError, RecursionError) as error:
        raise PrepareError(f"{file} cannot be read: {error}") from error


def read_entries(file: Path, keys: Sequence[str]) -> Iterator[tuple[str, list]]:
    """(location for messages, the values of ``keys``) of each entry of a JSON file that is a list of objects.

    Raises:
        PrepareError: another file, or an entry that lacks a key; names file and entry.
    """
    entries = read_json(file)
    if not isinstance(entries, list):
        raise PrepareError(f"{file}: expected a list of objects with {', '.join(keys)}")
    for number, entry in enumerate(entries, 1):
        where = f"{file}: entry {number}"
        if not isinstance(entry, dict) or not entry.keys() >= set(keys):
            raise PrepareError(f"{where}: expected an object with {', '.join(keys)}, got {str(entry)[:200]!r}")
        yield where, [entry[key] for key in keys]


def plain_name(name: object, where: str) -> str:
    """A name of a video or class from an annotation file, if it can name a single file; numbers are allowed, too.

    Raises:
        PrepareError: it is not a name, or leads to another folder; the message begins with ``where``.
    """
    text = str(name) if isinstance(name, str | int) else ""
    if text in ("", ".", "..") or "/" in text or not text.isprintable():
        raise PrepareError(f"{where}: the name {name!r} is refused; expected one without a slash or control characters")
    return text
