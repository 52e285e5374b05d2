"""The files of a run's folder, which may come from anyone: regular, within the folder, of a bounded size, and typed."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from videofib.printable import printable

_MOST_DEPTH = 20  # of nested lists and objects; a run writes 4
_LARGEST = 1e30  # of figures
_MOST_COUNT = 10**12
_PERCENT = 100 + 1e-6  # a sum of fractions may exceed 100 by its rounding
_MOST_CLASSES = 100_000
_SHOWN = 60  # characters of a value in a message

Reader = Callable[[object], object]  # returns the typed value; raises Unusable


class Unusable(ValueError):
    """A file or value that cannot be used; the message says why in one line, and does not name it."""


def open_file(folder: str | Path, name: str) -> BinaryIO | None:
    """A file of the folder, opened for reading; None where there is none.

    Raises:
        Unusable: it is not a regular file (opening a pipe would wait for ever), cannot be opened, or is a link that
            leads out of the folder: to a file that its sender does not have, but the page's reader might.
    """
    path = Path(folder) / name
    try:
        if not path.resolve().is_relative_to(Path(folder).resolve()):
            raise Unusable("a link that leads out of the folder is not followed")
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        if path.is_symlink():
            raise Unusable("a link that leads nowhere") from None
        return None
    except (OSError, RuntimeError) as error:  # RuntimeError: a link that leads to itself
        raise Unusable(getattr(error, "strerror", None) or "a link that leads to itself") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise Unusable("not a regular file")
    return os.fdopen(descriptor, "rb")


def read_text(folder: str | Path, name: str, most: int) -> str | None:
    """The text of a file of at most ``most`` bytes; None where there is none.

    Raises:
        Unusable: see ``open_file``; it is too large, or not UTF-8.
    """
    file = open_file(folder, name)
    if file is None:
        return None
    try:
        with file:
            content = file.read(most + 1)
        if len(content) > most:
            raise Unusable(f"it has more than {most:,} bytes")
        return content.decode()
    except OSError as error:
        raise Unusable(error.strerror or "it cannot be read") from error
    except UnicodeDecodeError as error:
        raise Unusable(f"it is not UTF-8 at byte {error.start}") from error


def read_object(folder: str | Path, name: str, most: int) -> dict | None:
    """The JSON object in a file of at most ``most`` bytes; None where there is none.

    Raises:
        Unusable: see ``read_text``; it is not a JSON object, or nested too deeply.
    """
    text = read_text(folder, name, most)
    return None if text is None else json_object(text)


def json_object(text: str | bytes) -> dict:
    """A JSON object; raises Unusable for anything else."""
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise Unusable(f"nested deeper than {_MOST_DEPTH} levels") from error
    except ValueError as error:  # also of a number with too many digits
        raise Unusable(f"it is not JSON ({printable(error)})") from error
    if not isinstance(found, dict):
        raise Unusable(f"expected a JSON object, got {_kind(found)}")
    if _is_deeper(found, _MOST_DEPTH):
        raise Unusable(f"nested deeper than {_MOST_DEPTH} levels")
    return found


def typed(found: Mapping, readers: Mapping[str, Reader], problems: list[str]) -> dict:
    """The values of the keys in ``readers``; one that is of another type is left out, and ``problems`` says why."""
    kept = {}
    for key, read in readers.items():
        if key in found:
            try:
                kept[key] = read(found[key])
            except Unusable as error:
                problems.append(f"{key} {error}")
    return kept


def figure(value: object) -> float | int | None:
    """A number; None for null and NaN, which are how runs write that there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or abs(value) > _LARGEST:
        raise Unusable(f"is {_shown(value)}, expected a number")
    return value


def amount(value: object) -> float | int | None:
    """A number that is not negative, or None."""
    found = figure(value)
    if found is not None and found < 0:
        raise Unusable(f"is {_shown(value)}, expected a number of 0 or above")
    return found


def percentage(value: object) -> float | int | None:
    """A number from 0 to 100, or None."""
    found = figure(value)
    if found is not None and not 0 <= found <= _PERCENT:
        raise Unusable(f"is {_shown(value)}, expected a percentage from 0 to 100")
    return found


def count(value: object) -> int | None:
    """An integer from 0, or None."""
    if value is not None and not (type(value) is int and 0 <= value <= _MOST_COUNT):
        raise Unusable(f"is {_shown(value)}, expected a count")
    return value


def word(value: object) -> str:
    """A text."""
    if not isinstance(value, str):
        raise Unusable(f"is {_shown(value)}, expected a text")
    return value


def of_names(read: Reader) -> Reader:
    """A reader of an object whose values ``read`` reads, such as the figures of classes."""

    def read_all(value: object) -> dict:
        if not isinstance(value, dict):
            raise Unusable(f"is {_shown(value)}, expected an object")
        if len(value) > _MOST_CLASSES:
            raise Unusable(f"has {len(value):,} entries, expected at most {_MOST_CLASSES:,}")
        return {name: _named(f"of {_shown(name)}", read, found) for name, found in value.items()}

    return read_all


def list_of(read: Reader) -> Reader:
    """A reader of a list whose entries ``read`` reads; null is an empty one."""

    def read_all(value: object) -> list:
        if value is not None and not isinstance(value, list):
            raise Unusable(f"is {_shown(value)}, expected a list")
        return [_named(f"entry {number}", read, found) for number, found in enumerate(value or ())]

    return read_all


def row_of(*readers: Reader, fewest: int) -> Reader:
    """A reader of a list of values, in the order of their ``readers``, at least ``fewest``; the first is never null."""

    def read_row(value: object) -> list:
        if not isinstance(value, list) or not fewest <= len(value) <= len(readers) or value[0] is None:
            raise Unusable(f"is {_shown(value)}, expected {len(readers)} values")
        return [read(found) for read, found in zip(readers, value, strict=False)]

    return read_row


def record_of(**readers: Reader) -> Reader:
    """A reader of an object that has the keys of ``readers``."""

    def read_record(value: object) -> dict:
        if not isinstance(value, dict) or not readers.keys() <= value.keys():
            raise Unusable(f"is {_shown(value)}, expected an object with {', '.join(readers)}")
        return {key: _named(key, read, value[key]) for key, read in readers.items()}

    return read_record


def _named(what: str, read: Reader, value: object) -> object:
    try:
        return read(value)
    except Unusable as error:
        raise Unusable(f"{what} {error}") from None


def _is_deeper(value: object, most: int) -> bool:
    level: Sequence[object] = [value]
    for _ in range(most):
        level = [
            child
            for node in level
            if isinstance(node, dict | list)
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not level:
            return False
    return True


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _shown(value: object) -> str:
    if isinstance(value, dict | list):
        return _kind(value)
    shown = printable(repr(value) if isinstance(value, str) else value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}…"
