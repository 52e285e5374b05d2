"""Reading annotation files; every error names the file and the line or entry."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from videofib.prep.prepare import PrepareError


def read_lines(file: Path) -> list[tuple[int, str]]:
    """(line number, text) of the lines of an annotation file that are not blank; CRLF is fine.

    Raises:
        PrepareError: no such file, or not text.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise PrepareError(f"{file} cannot be read: {error}") from error
    return [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def read_json(file: Path) -> Any:
    """The content of a JSON file.

    Raises:
        PrepareError: no such file, or not JSON; names file and line.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise PrepareError(f"{file}:{error.lineno}: not JSON ({error.msg}); is the file complete?") from error
    except (OSError, ValueError, RecursionError) as error:
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
