"""Text lists (``train.csv``): ``path<separator>label`` a line and no header, as columns instead of an object a line.

Almost all lines are plain: a path, the separator, digits. These are read together, by arithmetic on the bytes of the
file; the others (several labels, blanks at the end, digits that may be a label too, whatever is wrong) one by one.

    v i d e o s / a . m p 4 _ 1 7 \n
    |                     | |   |
    starts            stops |   ends       labels = 17
                            separator
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from videofib.data.errors import ManifestError
from videofib.data.lists.extensions import PICTURE_EXTENSIONS, VIDEO_EXTENSIONS
from videofib.data.lists.mistakes import line_hint
from videofib.data.lists.texts import Texts
from videofib.files import is_there

SEVERAL_CLASSES_HINT = "for videos with several classes set MODEL.LOSS_FUNC bce_logit"
_EXTENSIONS = (*VIDEO_EXTENSIONS, *PICTURE_EXTENSIONS)
MAX_LABEL = 2**62  # as in a manifest
_MAX_LINE = 1 << 20  # bytes; a path has at most 4096, and a thousand labels fit, too
_PLAIN_DIGITS = 18  # of a number that an int64 can hold
_CHUNK = 1 << 24  # bytes that are searched for line ends at a time
_BLANKS = np.zeros(256, bool)
_BLANKS[list(b"\t\n\v\f\r\x1c\x1d\x1e\x1f ")] = True  # what str.strip removes, in ASCII
_COMMA = ord(",")


@dataclass(frozen=True)
class TextList:
    """The rows of a list file, without its blank lines.

    Attributes:
        paths: as written.
        lines: (N,) line numbers, counted from 1.
        classes: (M,) int64, the labels of all rows, one after another.
        counts: (N,) int32, how many labels each row has.
    """

    paths: Texts
    lines: np.ndarray
    classes: np.ndarray
    counts: np.ndarray

    @cached_property
    def _first_labels(self) -> np.ndarray:
        return np.cumsum(self.counts, dtype=np.int64) - self.counts

    def labels(self, row: int) -> list[int]:
        """The labels of a row."""
        first = int(self._first_labels[row])
        return self.classes[first : first + int(self.counts[row])].tolist()


def read_text_list(
    file: Path, separator: str, *, multi_label: bool = False, root: Path | None = None, repeats: bool = False
) -> TextList:
    """The rows of a list file.

    Args:
        multi_label: rows may have several labels, separated by commas without spaces.
        root: where relative paths start; paths that may end with a label are refused unless they exist. None: any path.
        repeats: rows may occur several times, with the same labels.

    Raises:
        ManifestError: a missing file, one that is not text, or the first line that cannot be used or has a path of an
            earlier one; names file and line.
    """
    listed, error = _parsed(file, separator, multi_label, root)
    check_repeats(file, listed, allowed=repeats)
    if error:
        raise error
    return listed


def check_repeats(file: Path, listed: TextList, *, allowed: bool) -> None:
    """Check that no row occurs twice or, where that is allowed, that it has the same labels each time.

    Raises:
        ManifestError: for the first that does not; names file and both lines.
    """
    firsts = listed.paths.firsts()
    for row in np.flatnonzero(firsts != np.arange(len(firsts))).tolist():
        first = int(firsts[row])
        path, lines = listed.paths.text(row), listed.lines
        if not allowed:
            raise ManifestError(f"{file}:{lines[row]}: {path!r} is already listed on line {lines[first]}")
        mine, earlier = listed.labels(row), listed.labels(first)
        if mine and mine != earlier:
            raise ManifestError(
                f"{file}:{lines[row]}: {path!r} is already listed on line {lines[first]} with label "
                f"{','.join(map(str, earlier))}, here with {','.join(map(str, mine))}; rows that are repeated, so that "
                "training takes them more often, have one label"
            )


def text_lines(file: Path, separator: str) -> Iterator[tuple[int, str]]:
    """(number, text) of the lines of a list file that are not blank; names that are not UTF-8 are kept as they are.

    Raises:
        ManifestError: as ``read_text_list`` of a file that is not text.
    """
    content, starts, ends = _lines(file, separator)
    for number, (start, end) in enumerate(zip(starts.tolist(), ends.tolist(), strict=True), start=1):
        text = content[start:end].decode("utf-8", "surrogateescape")
        if text.strip():
            yield number, text


def unlabelled_paths(file: Path, separator: str) -> Texts | None:
    """The paths of a list without labels, one a line; None where no line is a path alone.

    A line is a path alone where it ends with the extension of a video or a picture; which files exist is not looked at.

    Raises:
        ManifestError: as ``read_text_list``; some lines have labels and others do not, or a path is listed twice.
    """
    content, starts, ends = _lines(file, separator)
    stops, _ = _plain(content, starts, ends, separator.encode("utf-8", "surrogateescape"))
    labelled = np.flatnonzero(stops).tolist()[:1]
    paths, lines = [], []
    for row in np.flatnonzero(stops == 0).tolist():
        text = bytes(content[starts[row] : ends[row]]).decode("utf-8", "surrogateescape").rstrip()
        if text.lower().endswith(_EXTENSIONS):
            paths.append(text)
            lines.append(row + 1)
        elif text:
            labelled.append(row)
    if not paths:
        return None
    if labelled:
        raise ManifestError(
            f"{file}:{lines[0]}: {_quoted(paths[0])} has no label, but line {min(labelled) + 1} has one; give a label "
            "to all videos of a list, or to none"
        )
    found = Texts.of(paths)
    if repeated := found.first_repeat():
        row, first = repeated
        raise ManifestError(f"{file}:{lines[row]}: {_quoted(paths[row])} is already listed on line {lines[first]}")
    return found


def list_rows(file: Path, separator: str = " ") -> Iterator[tuple[int, str, int]]:
    """(line number, path as written, label) of each line of a list file; the same path may occur twice.

    Raises:
        ManifestError: as ``read_text_list``, after the rows that come before.
    """
    listed, error = _parsed(file, separator, False, None)
    for row in np.flatnonzero(listed.counts).tolist():
        yield int(listed.lines[row]), listed.paths.text(row), int(listed.classes[row])
    if error:
        raise error


def _parsed(file: Path, separator: str, multi_label: bool, root: Path | None) -> tuple[TextList, ManifestError | None]:
    """The rows of a list file up to the first line that cannot be used, and what is wrong with that one.

    Where that one has a path, it is the last row, without labels: it may be listed twice, which is then what is wrong.
    """
    content, starts, ends = _lines(file, separator)
    stops, labels = _plain(content, starts, ends, separator.encode("utf-8", "surrogateescape"))
    if multi_label and separator == ",":  # none is plain: see _labels
        stops[:] = 0
    counts = np.ones(len(starts), np.int32)
    more = array("q")  # the labels of rows with several
    error = None
    for row in np.flatnonzero(stops == 0).tolist():
        where, line = f"{file}:{row + 1}", bytes(content[starts[row] : ends[row]])
        try:
            split = _split(line, separator, where)
            if split is None:
                continue
            path, text = split
            stops[row] = starts[row] + len(path.encode("utf-8", "surrogateescape"))
            found = _labels(path, text, separator, where, multi_label, root)
        except ManifestError as raised:
            hint = line_hint(line.decode("utf-8", "surrogateescape"), separator, row + 1)
            error, stops, counts[row] = ManifestError(f"{raised}{hint}"), stops[: row + 1], 0
            break
        labels[row], counts[row] = found[0], len(found)
        if len(found) > 1:
            more.extend(found)
    rows = np.flatnonzero(stops > starts[: len(stops)])
    classes, counts = labels[rows], counts[rows]
    if more:
        classes = np.repeat(classes, counts)
        classes[np.repeat(counts > 1, counts)] = more
    return TextList(Texts(content, starts[rows], stops[rows]), rows + 1, classes, counts), error


def has_several_classes(file: Path, separator: str = " ") -> bool:
    """Whether a list file gives any of its videos several classes, as ``path 3,7``."""
    content, starts, ends = _lines(file, separator)
    stops, _ = _plain(content, starts, ends, separator.encode("utf-8", "surrogateescape"))
    for row in np.flatnonzero(stops == 0).tolist():
        split = _split(bytes(content[starts[row] : ends[row]]), separator, f"{file}:{row + 1}")
        if split and "," in split[1]:
            return True
    return False


def class_indices(text: str, where: str) -> tuple[int, ...]:
    """The class indices of a video from text such as ``3,7,12``.

    Raises:
        ManifestError: not class indices, or one of them twice; the message begins with ``where``.
    """
    labels = tuple(class_index(part, f"{where}: of {_quoted(text)}") for part in text.split(","))
    if len(set(labels)) != len(labels):
        raise ManifestError(f"{where}: {_quoted(text)} names a class twice")
    return labels


def _lines(file: Path, separator: str) -> tuple[bytes, np.ndarray, np.ndarray]:
    r"""The bytes of a file, and where each of its lines starts and ends; lines end with ``\n``, ``\r\n`` or ``\r``."""
    if not separator:
        raise ManifestError("the separator of a list file must not be empty")
    if not file.is_file():
        raise ManifestError(f"no list file at {file}")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ManifestError(f"{file}: cannot be read ({error.strerror})") from error
    data = np.frombuffer(content, np.uint8)
    old = b"\r" in content
    found = []
    for first in range(0, len(data), _CHUNK):
        part = data[first : first + _CHUNK]
        found.append(np.flatnonzero((part == 10) | (part == 13) if old else part == 10) + first)
    breaks = np.concatenate([np.zeros(0, np.int64), *found])
    if old and len(breaks):  # the second half of \r\n is no line end of its own
        second = (data[breaks] == 10) & (breaks > 0) & (data[breaks - 1] == 13)
        breaks, after = breaks[~second], breaks[~second] + 1
        pairs = after < len(data)
        pairs[pairs] = (data[breaks[pairs]] == 13) & (data[after[pairs]] == 10)
        after = after + pairs
    else:
        after = breaks + 1
    start = 3 if content.startswith(b"\xef\xbb\xbf") else 0  # a byte-order mark
    starts, ends = np.concatenate([[start], after]), np.concatenate([breaks, [len(data)]])
    _check_text(file, content, starts, ends)
    return content, starts, ends


def _check_text(file: Path, content: bytes, starts: np.ndarray, ends: np.ndarray) -> None:
    lengths = ends - starts
    if lengths.max() > _MAX_LINE:
        row = int(np.argmax(lengths > _MAX_LINE))
        raise ManifestError(
            f"{file}:{row + 1}: a line of {lengths[row]} bytes, where a path and its labels have at most {_MAX_LINE}; "
            "is this a list of videos?"
        )
    if (at := content.find(b"\0")) >= 0:
        row = int(np.searchsorted(ends, at, side="right"))
        raise ManifestError(f"{file}:{row + 1}: has a NUL byte, which no path has; save the list as text in UTF-8")


def _plain(content: bytes, starts: np.ndarray, ends: np.ndarray, separator: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Where the path of each plain line ends, 0 for the others, and the labels of plain lines.

    A line is plain if it ends with the separator and at most 18 digits, and its path in ASCII that is neither blank, a
    comma, nor digits which may be a label, too.
    """
    stops, labels = np.zeros(len(starts), np.int64), np.zeros(len(starts), np.int64)
    if not content or any(48 <= byte <= 57 for byte in separator):
        return stops, labels
    data = np.frombuffer(content, np.uint8)
    ends, digits = _before_digits(data, starts, ends, labels)
    plain = digits & (ends - starts > len(separator))
    for number, byte in enumerate(reversed(separator), start=1):
        plain &= data[np.maximum(ends - number, 0)] == byte
    rows = np.flatnonzero(plain)
    found = ends[rows] - len(separator)
    last = found.copy()  # before the digits that a path ends with, as those of .mp4
    last, _ = _before_digits(data, starts[rows], last, None)
    byte = data[np.maximum(last - 1, 0)]
    word = (last > starts[rows]) & ~_BLANKS[byte] & (byte < 128) & ~np.isin(byte, [*separator, _COMMA])
    stops[rows[word]] = found[word]
    return stops, labels


def _before_digits(
    data: np.ndarray, starts: np.ndarray, ends: np.ndarray, values: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Where the digits at the end of each line begin, and whether there are any; ``values`` receives the numbers.

    More than 18 digits count as none.
    """
    ends, rows, power = ends.copy(), np.arange(len(starts)), 1
    any_digits = np.zeros(len(starts), bool)
    for _ in range(_PLAIN_DIGITS):
        rows = rows[ends[rows] > starts[rows]]
        byte = data[ends[rows] - 1]
        is_digit = (byte >= 48) & (byte <= 57)
        rows, byte = rows[is_digit], byte[is_digit]
        if not len(rows):
            return ends, any_digits
        any_digits[rows] = True
        ends[rows] -= 1
        if values is not None:
            values[rows] += (byte - np.uint8(48)).astype(np.int64) * power
        power *= 10
    any_digits[rows] = False
    ends[rows] = starts[rows]
    return ends, any_digits


def _split(line: bytes, separator: str, where: str) -> tuple[str, str] | None:
    """(path, text of the labels) of a line; None where it is blank."""
    text = line.decode("utf-8", "surrogateescape").rstrip()
    if not text:
        return None
    path, found, label = text.rpartition(separator)
    path = path.rstrip()
    if not found or not path:
        raise ManifestError(f"{where}: expected {f'path{separator}label'!r}, got {_quoted(text)}")
    return path, label.strip()


def _labels(path: str, text: str, separator: str, where: str, multi_label: bool, root: Path | None) -> tuple[int, ...]:
    if multi_label and (separator == "," or path.endswith(",")):
        raise ManifestError(
            f"{where}: commas separate classes, so the separator between path and label (DATA.PATH_LABEL_SEPARATOR) "
            f"must be another character, and no space may follow a comma: {_quoted(path)} {_quoted(text)}"
        )
    if root is not None and (earlier := _earlier_labels(path, separator)) and not is_there(root / path):
        raise ManifestError(
            f"{where}: {_quoted(path)} is not a file; if {earlier} is a label, too, separate labels by commas "
            f"without spaces ({earlier},{text}); {SEVERAL_CLASSES_HINT}"
        )
    return class_indices(text, where) if multi_label else (class_index(text, where),)


def _earlier_labels(path: str, separator: str) -> str:
    """What precedes the last label, where a line has several and no commas between them: "0" of ``a.mp4 0 3``."""
    if not path[-1].isdecimal():
        return ""
    words = path.replace(separator, " ").split()
    labels: list[str] = []
    while words and words[-1].isdecimal():
        labels.insert(0, words.pop())
    return ",".join(labels) if words and words[-1].lower().endswith(_EXTENSIONS) else ""


def class_index(text: str, where: str) -> int:
    """The class index of a video from its text.

    Raises:
        ManifestError: it is none; the message begins with ``where``.
    """
    if not text.isdecimal():
        several = re.fullmatch(r"\d+(?:[^\d.]+\d+)+", text[:_MAX_SHOWN])
        hint = f"; separate several by commas without spaces, and {SEVERAL_CLASSES_HINT}" if several else ""
        raise ManifestError(f"{where}: label {_quoted(text)} is not a class index (0, 1, 2, ...){hint}")
    if len(text) > _MAX_SHOWN or int(text) >= MAX_LABEL:
        raise ManifestError(f"{where}: label {_quoted(text)} is too large for a class index")
    return int(text)


_MAX_SHOWN = 200  # characters of a text that a message shows


def _quoted(text: str) -> str:
    """A text for a message."""
    shown = repr(text[:_MAX_SHOWN])
    return shown if len(text) <= _MAX_SHOWN else f"{shown}... ({len(text)} characters)"
