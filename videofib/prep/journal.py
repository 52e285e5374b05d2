"""The record of what a preparation has done so far: one JSON line a video, valid once it is on the disk."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from videofib.files import replacing
from videofib.prep.transcode import Transcoded


class Journal:
    """Results by output path, each with the fingerprint of what it was made from.

    A line cut short by a crash is dropped. When the work ends, the journal is rewritten in the order of the items, so
    that its bytes do not depend on how often the work was interrupted.
    """

    def __init__(self, file: Path, order: Sequence[str]):
        self._file, self._order = file, order
        self._entries = {}
        for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
            try:
                entry = json.loads(line)
                self._entries[entry["path"]] = entry
            except (ValueError, TypeError, KeyError):
                continue  # cut short: that video is done again

    def __enter__(self) -> Journal:
        self._rewrite()  # without a line cut short, behind which nothing may be appended
        self._stream = self._file.open("a", encoding="utf-8")
        return self

    def __exit__(self, kind, error, trace) -> None:
        self._stream.close()
        if kind is None:
            self._rewrite()

    def outdated(self) -> list[str]:
        """Outputs that an earlier run has written and this one does not list; call it before ``with``."""
        return sorted(self._entries.keys() - set(self._order))

    def find(self, path: str, fingerprint: dict) -> Transcoded | str | None:
        """The facts about a video, or why it cannot be read; None if unknown or made from something else."""
        entry = self._entries.get(path)
        if entry is None or entry.get("fingerprint") != fingerprint:
            return None
        if "corrupt" in entry:
            return entry["corrupt"]
        try:
            return Transcoded(**entry["facts"])
        except (KeyError, TypeError):
            return None  # written by another version, with other facts

    def add(self, path: str, fingerprint: dict, result: Transcoded | str) -> None:
        """Record a result; it is on the disk when this returns."""
        entry = {"path": path, "fingerprint": fingerprint}
        entry |= {"corrupt": result} if isinstance(result, str) else {"facts": asdict(result)}
        self._entries[path] = entry
        self._stream.write(json.dumps(entry) + "\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())

    def _rewrite(self) -> None:
        known = [self._entries[path] for path in self._order if path in self._entries]
        with replacing(self._file) as partial:
            partial.write_text("".join(json.dumps(entry) + "\n" for entry in known), encoding="utf-8")
