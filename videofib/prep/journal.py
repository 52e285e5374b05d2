"""The record of what a preparation has done so far: one JSON line a video.

    {"crc32": "1c291ca3", "path": "videos/run/a.mp4", "fingerprint": {...}, "facts": {...}}

``crc32`` is of the line without it, so a line that was cut short or changed is known for one. A line that cannot be
used costs nothing but the work that it stood for: that video is prepared again.
"""

from __future__ import annotations

import json
import os
import re
import time
import typing
import zlib
from collections.abc import Sequence
from pathlib import Path

from videofib.files import replacing
from videofib.prep.transcode import Transcoded
from videofib.printable import printable

_START = re.compile(rb'\{"crc32": "([0-9a-f]{8})", ')
_MAX_LINE = 1 << 20  # bytes; a path and a fingerprint have a few thousand
_MAX_NUMBER = 2**62  # as in a manifest
_SECONDS_TO_SYNC = 1.0
_FACTS = typing.get_type_hints(Transcoded)
# an int is a float as JSON writes it, a bool is no number here
_TYPES = {name: (float, int) if kind is float else (kind,) for name, kind in _FACTS.items()}
_NUMBERS = [name for name, kind in _FACTS.items() if kind in (int, float)]
_HEX_DIGITS = {
    name: (digits, re.compile(f"([0-9a-f]{{{digits}}})?").fullmatch) for name, digits in (("sha256", 64), ("dhash", 16))
}


class Journal:
    """Results by output path, each with the fingerprint of what it was made from.

    Entries are with the system as soon as they are added, so ``kill -9`` loses none; they are forced to the disk
    together, once a second and at the end, so a power cut loses those of the last second, whose videos are prepared
    again. When the work ends, the journal is in the order of the items, so that its bytes do not depend on how often
    the work was interrupted.

    Attributes:
        problem: "" or, in one line, how many entries of the file cannot be used, and why the first of them cannot.
    """

    def __init__(self, file: Path, order: Sequence[str]):
        self._file, self._order = file, order
        self._appended = False  # a line that may stand twice, where what was lost has been made again
        self._entries: dict[str, dict] = {}
        self._lines: dict[str, bytes] = {}  # of the same entries
        self._content = file.read_bytes() if file.exists() else b""
        bad = []
        for number, line in enumerate(self._content.splitlines(), start=1):
            try:
                entry = _parsed(line)
            except ValueError as error:
                bad.append(f"line {number}: {error}")
                continue
            self._entries[entry["path"]], self._lines[entry["path"]] = entry, line
        self.problem = ""
        if bad:
            self.problem = printable(
                f"{file}: {len(bad)} entries cannot be used ({bad[0]}); their videos are prepared again"
            )

    def __enter__(self) -> Journal:
        self._rewrite()  # without a line cut short, behind which nothing may be appended
        self._stream = self._file.open("ab")
        self._synced = time.monotonic()
        return self

    def __exit__(self, kind, error, trace) -> None:
        self._sync()
        self._stream.close()
        if kind is None:
            self._rewrite()

    def outdated(self) -> list[str]:
        """Outputs that an earlier run has written and this one does not list; call it before ``with``."""
        return sorted(self._entries.keys() - set(self._order))

    def find(self, path: str, fingerprint: dict) -> Transcoded | str | None:
        """The facts about a video, or why it cannot be read; None if unknown or made from something else."""
        entry = self._entries.get(path)
        if entry is None or entry["fingerprint"] != fingerprint:
            return None
        return entry["corrupt"] if "corrupt" in entry else Transcoded(**entry["facts"])

    def add(self, path: str, fingerprint: dict, result: Transcoded | str) -> None:
        """Record a result."""
        entry = {"path": path, "fingerprint": fingerprint}
        entry |= {"corrupt": result} if isinstance(result, str) else {"facts": vars(result)}
        self._entries[path], self._lines[path] = entry, _line(entry)
        self._stream.write(self._lines[path] + b"\n")
        self._stream.flush()
        self._appended = True
        if time.monotonic() - self._synced >= _SECONDS_TO_SYNC:
            self._sync()

    def _sync(self) -> None:
        os.fsync(self._stream.fileno())
        self._synced = time.monotonic()

    def _rewrite(self) -> None:
        content = b"".join(self._lines[path] + b"\n" for path in self._order if path in self._lines)
        if self._appended or content != self._content or not self._file.exists():
            with replacing(self._file) as partial:
                partial.write_bytes(content)


def _line(entry: dict) -> bytes:
    text = json.dumps(entry).encode("ascii")
    return b'{"crc32": "%08x", %s' % (zlib.crc32(text), text[1:])


def _parsed(line: bytes) -> dict:
    """The entry of a line, of which every value has its type and may be what it says.

    Raises:
        ValueError: it cannot be used; the message says why.
    """
    start = _START.match(line)
    if not start or len(line) > _MAX_LINE:
        raise ValueError("not an entry of this version")
    text = b"{" + line[start.end() :]
    if zlib.crc32(text) != int(start[1], 16):
        raise ValueError("it was cut short or changed")
    try:
        entry = json.loads(text.decode("ascii"))  # of bytes, it would look for their encoding
    except (ValueError, RecursionError) as error:
        raise ValueError("not JSON") from error
    path, kind = entry.get("path"), {"corrupt", "facts"} & entry.keys()
    if not isinstance(path, str) or not isinstance(entry.get("fingerprint"), dict) or len(kind) != 1:
        raise ValueError("it lacks its path, its fingerprint or its result")
    if not path.startswith("videos/") or ".." in path.split("/") or "\0" in path:
        raise ValueError(f"{path[:200]!r} is not a video of this folder")
    if "facts" in entry:
        _check_facts(entry["facts"])
    elif not isinstance(entry["corrupt"], str):
        raise ValueError("its reason is not text")
    return entry


def _check_facts(facts: object) -> None:
    if not isinstance(facts, dict) or facts.keys() != _FACTS.keys():
        raise ValueError("other facts than this version's")
    for name, types in _TYPES.items():
        if type(facts[name]) not in types:
            raise ValueError(f"{name} is not of type {_FACTS[name].__name__}")
    for name in _NUMBERS:
        if not 0 <= facts[name] < _MAX_NUMBER:  # nor is nan
            raise ValueError(f"{name} is not a finite number from 0 on")
    for name, (digits, is_right) in _HEX_DIGITS.items():
        if not is_right(facts[name]):
            raise ValueError(f"{name} is not {digits} hexadecimal digits")
    if facts["rotation"] not in (0, 90, 180, 270):
        raise ValueError("rotation is not 0, 90, 180 or 270")
