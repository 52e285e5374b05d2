"""A column of a million texts without an object for each: their bytes one after another, and where each lies."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import numpy as np

from videofib.files import from_utf8

_AT_ONCE = 1 << 16  # rows whose positions are Python integers at a time


class Texts:
    """``text(i)`` is ``content[starts[i]:ends[i]]``; bytes that are not UTF-8 become lone surrogates, as in file names.

    Processes that are forked share the memory, since reading a text changes no reference count in it.

    Args:
        content: the bytes of all texts, and perhaps others in between.
        starts, ends: (N,) int64, byte positions.
        escaped: they are stored as ``files.to_utf8`` writes them.
        prefix: what each text begins with, before its bytes.
    """

    def __init__(
        self,
        content: bytes | memoryview,
        starts: np.ndarray,
        ends: np.ndarray,
        *,
        escaped: bool = False,
        prefix: bytes = b"",
    ):
        self._content, self._starts, self._ends = content, starts, ends
        self._escaped, self._prefix = escaped, prefix

    @classmethod
    def of(cls, texts: list[str]) -> Texts:
        """A column of the given texts."""
        raw = [text.encode("utf-8", "surrogateescape") for text in texts]
        ends = np.cumsum([len(text) for text in raw], dtype=np.int64)
        return cls(b"".join(raw), ends - np.array([len(text) for text in raw], np.int64), ends)

    @classmethod
    def stored(cls, column) -> Texts:
        """A column of a Parquet file, which has no nulls: the memory of Arrow, without a copy where it is one chunk."""
        import pyarrow
        import pyarrow.compute as pc

        array = column.cast(pyarrow.large_string())
        array = array.combine_chunks() if isinstance(array, pyarrow.ChunkedArray) else array
        if not len(array):
            return cls.of([])
        escaped = pc.any(pc.match_substring(array, "\\")).as_py()
        _, positions, content = array.buffers()
        positions = np.frombuffer(positions, np.int64)[array.offset : array.offset + len(array) + 1]
        return cls(memoryview(content or b""), positions[:-1], positions[1:], escaped=escaped)

    def below(self, folder: str) -> Texts:
        """The same texts behind that of a folder, such as ``../``."""
        if not folder:
            return self
        prefix = folder.encode("utf-8", "surrogateescape")
        return Texts(self._content, self._starts, self._ends, escaped=self._escaped, prefix=prefix)

    def __len__(self) -> int:
        return len(self._starts)

    def text(self, row: int) -> str:
        """The text of a row, counted from 0."""
        return self.raw(row).decode("utf-8", "surrogateescape")

    def raw(self, row: int) -> bytes:
        """Its bytes."""
        return self._whole(bytes(self._content[self._starts[row] : self._ends[row]]))

    def all_raw(self) -> Iterator[bytes]:
        """The bytes of every row, in order."""
        for first in range(0, len(self), _AT_ONCE):
            part = slice(first, first + _AT_ONCE)
            slices = map(slice, self._starts[part].tolist(), self._ends[part].tolist())
            pieces = map(bytes, map(self._content.__getitem__, slices))
            yield from map(self._whole, pieces) if self._escaped or self._prefix else pieces

    @cached_property
    def hashes(self) -> np.ndarray:
        """(N,) int64: Python's hash of the bytes, another in every process, so nobody can prepare collisions."""
        return np.fromiter(map(hash, self.all_raw()), np.int64, len(self))

    def first_repeat(self) -> tuple[int, int] | None:
        """(row, earlier row) of the first text that occurred before; None where all are different."""
        firsts = self.firsts()
        repeated = np.flatnonzero(firsts != np.arange(len(self)))
        return (int(repeated[0]), int(firsts[repeated[0]])) if len(repeated) else None

    def firsts(self) -> np.ndarray:
        """(N,) int64: the first row that has the text of each row."""
        hashes, firsts = self.hashes, np.arange(len(self))
        order = np.argsort(hashes, kind="stable")
        equal = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
        earlier: dict[bytes, int] = {}
        for row in np.unique(np.concatenate([order[equal], order[equal + 1]])).tolist():
            firsts[row] = earlier.setdefault(self.raw(row), row)
        return firsts

    def find(self, other: Texts) -> np.ndarray:
        """(len(other),) int64: the row that has each text of ``other``, -1 where none has it.

        All texts of this column must be different.
        """
        found = np.full(len(other), -1)
        if not len(self):
            return found
        order, others = np.argsort(self.hashes), np.argsort(other.hashes)  # both sorted: quicker than a search each
        hashes = self.hashes[order]
        candidates = order[np.minimum(np.searchsorted(hashes, other.hashes[others]), len(self) - 1)]
        rows = others[self.hashes[candidates] == other.hashes[others]]
        found[others] = candidates
        rows.sort()
        pairs = zip(rows.tolist(), self._rows(found[rows]).all_raw(), other._rows(rows).all_raw(), strict=True)
        wrong = [row for row, mine, theirs in pairs if mine != theirs]  # two texts with one hash
        known = np.zeros(len(other), bool)
        known[rows] = True
        found[~known] = -1
        for row in wrong:
            raw = other.raw(row)
            found[row] = next(
                (i for i in np.flatnonzero(self.hashes == other.hashes[row]).tolist() if self.raw(i) == raw), -1
            )
        return found

    def _rows(self, rows: np.ndarray) -> Texts:
        """Some rows, in the given order."""
        starts, ends = self._starts[rows], self._ends[rows]
        return Texts(self._content, starts, ends, escaped=self._escaped, prefix=self._prefix)

    def _whole(self, raw: bytes) -> bytes:
        if self._escaped and b"\\" in raw:
            raw = from_utf8(raw.decode()).encode("utf-8", "surrogateescape")
        return self._prefix + raw
