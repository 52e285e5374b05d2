"""What the columns of a list file are, where it has more than plain lines ``path<separator>label``.

Recognised by its first lines alone, and only where plain reading would have refused the list::

    path,label                        a header: columns in any order, separated by what separates its own words
    "videos/a, b.mp4",Archery         quotes, as spreadsheets write csv files
    videos/a b.mp4 Playing guitar     names of classes in place of numbers
    film.mp4 12.5 20 3                segments, where the caller says that rows have them
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from videofib.data.errors import ManifestError
from videofib.data.lists.extensions import VIDEO_EXTENSIONS
from videofib.data.segment import UNITS
from videofib.files import is_there
from videofib.printable import printable

_PATH_WORDS = ("path", "video", "file", "filename", "video_path", "file_path", "filepath")
_LABEL_WORD = re.compile(r"(class|label|target|category)(es|s|[_ ]?(id|idx|index|name))?")
# word of a header -> (column, unit that it states)
_MOMENT_WORDS = {
    **{"start": ("start", ""), "start_time": ("start", "seconds"), "start_frame": ("start", "frames")},
    **{"end": ("end", ""), "end_time": ("end", "seconds"), "end_frame": ("end", "frames")},
}
KNOWN_WORDS = f"{', '.join(_PATH_WORDS)}; label, class, target, category; {', '.join(_MOMENT_WORDS)}"
_DELIMITERS = (",", "\t", ";", "|", " ")
_MOST_ENDS = 16  # of paths in a line that are tried, from the last
_PEEKED = 1 << 16  # bytes in which the first two lines are looked for
_NUMBER = re.compile(r"[+-]?[\d.,;|]+(e[+-]?\d+)?", re.IGNORECASE)
_EXTENSIONS = "|".join(re.escape(extension) for extension in VIDEO_EXTENSIONS)
_QUOTED = r'"((?:[^"]|"")*)"'


@dataclass(frozen=True)
class Layout:
    """The columns of a list file.

    Attributes:
        delimiter: text between them.
        columns: some of ``path``, ``start``, ``end`` and ``label``, in their order.
        unit: of start and end: ``seconds`` or ``frames``; empty without these.
        header: the line that names the columns, counted from 1; 0: none does.
        names: labels are names of classes.
    """

    delimiter: str
    columns: tuple[str, ...]
    unit: str = ""
    header: int = 0
    names: bool = False

    @property
    def labelled(self) -> bool:
        """Whether rows have labels."""
        return "label" in self.columns

    def split(self, line: str) -> dict[str, str]:
        """The cells of a line that is not blank, by column.

        Raises:
            ValueError: it has other columns; the message says what was expected.
        """
        text = line.rstrip(" \r\n") if self.delimiter == "\t" else line.rstrip()
        cells = None
        if '"' in text and (quoted := _quoted_cells(text, self.delimiter)) is not None:
            cells = quoted
        elif self.header and len(parts := text.split(self.delimiter)) == len(self.columns):
            cells = parts
        elif self.columns[0] == "path":
            cells = self._split_behind_path(text)
        elif self.columns[-1] == "path" and not self.names:
            cells = text.split(self.delimiter, len(self.columns) - 1)
        if cells is None or len(cells) != len(self.columns) or not cells[self.columns.index("path")].strip():
            raise ValueError(
                f"expected {self.delimiter.join(self.columns)!r}, got {_short(text)}"
                + (f"; quote a text that has {self.delimiter!r} in it" if self.header else "")
            )
        found = dict(zip(self.columns, cells, strict=True))
        found["path"] = found["path"].rstrip() if self.columns[0] == "path" else found["path"].strip()
        return {name: cell if name == "path" else cell.strip() for name, cell in found.items()}

    def _split_behind_path(self, text: str) -> list[str] | None:
        """The cells of a line that begins with a path, which may have the delimiter in it."""
        others = len(self.columns) - 1
        if self.names:
            found_ends = [*re.finditer(f"(?:{_EXTENSIONS})\\s*(?={re.escape(self.delimiter)})", text, re.I)]
            for found in reversed(found_ends[-_MOST_ENDS:]):
                rest = text[found.end() + len(self.delimiter) :].strip()
                most = others - 1 if self.columns[-1] == "label" else -1
                cells = rest.split(None if self.delimiter == " " else self.delimiter, most)
                if len(cells) == others:
                    return [text[: found.end()], *cells]
        cells = text.rsplit(None if self.delimiter == " " and others > 1 else self.delimiter, others)
        is_clear = not self.header or others == 0 or cells[0].rstrip().lower().endswith(VIDEO_EXTENSIONS)
        return cells if is_clear else None


def recognised(
    file: Path, separator: str, *, unit: str = "", root: Path | None = None, needs_labels: bool = True
) -> Layout | None:
    """The columns of a list file; None where it is to be read as plain lines, or cannot be read at all.

    Args:
        separator: between the columns of a list without header.
        unit: of the segments that rows have; empty: they have none, unless a header says so.
        root: where relative paths start.
        needs_labels: of ``manifest.read_list``.

    Raises:
        ManifestError: a header whose columns cannot be used, or that contradicts ``unit``.
    """
    lines = _first_lines(file)
    if not lines or not separator:
        return None
    (number, first), second = lines[0], lines[1][1] if len(lines) > 1 else ""
    root = file.parent if root is None else root
    layout = _header(file, number, first, separator, unit, needs_labels, root)
    if layout is not None:
        sample = second
    elif unit:
        columns = ("path", "start", "end", *(["label"] if _has_label_behind_moments(first, separator) else []))
        layout, sample = Layout(separator, columns, unit), first
    else:
        layout, sample = Layout(separator, ("path", "label")), first
    if names := sample and layout.labelled and _names_class(layout, sample, root):
        layout = Layout(layout.delimiter, layout.columns, layout.unit, layout.header, True)
    if layout.header or unit or names or _has_quotes(file, separator, root):
        return layout
    return None


def _first_lines(file: Path) -> list[tuple[int, str]]:
    """(number, text) of the first two lines of a file that are not blank; none where it cannot be read."""
    try:
        with file.open("rb") as stream:
            content = stream.read(_PEEKED)
    except OSError:
        return []
    if b"\0" in content:
        return []
    text = content.decode("utf-8-sig", "surrogateescape").replace("\r\n", "\n").replace("\r", "\n")
    lines = [(number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip()]
    return lines[:2]


def _header(
    file: Path, number: int, line: str, separator: str, unit: str, needs_labels: bool, root: Path
) -> Layout | None:
    """The columns that the first line names; None where it is a row."""
    words: list[str] = []
    for delimiter in (separator, *_DELIMITERS):
        cells = _quoted_cells(line, delimiter) if '"' in line else line.split(delimiter)
        words = [cell.strip().lower() for cell in cells or []]
        columns = [_column(word)[0] for word in words]
        if "path" in columns and len({*columns} - {""}) > 1:
            break
    else:
        alone = line.strip().strip('"').lower()
        if needs_labels or alone not in _PATH_WORDS or is_there(root / line.strip()):
            return None
        delimiter, words, columns = separator, [alone], ["path"]
    where = f"{file}:{number}: the header {_short(line.strip())}"
    if "" in columns:
        raise ManifestError(
            f"{where} has a column {_short(words[columns.index('')])}, which is not known; remove it, or rename it to "
            f"one of {KNOWN_WORDS}"
        )
    if twice := [name for name in columns if columns.count(name) > 1]:
        same = [word for word, name in zip(words, columns, strict=True) if name == twice[0]]
        raise ManifestError(f"{where} has {' and '.join(map(repr, same))}, which both mean {twice[0]}; remove one")
    if ("start" in columns) != ("end" in columns):
        raise ManifestError(f"{where} has only one of start and end; a segment needs both")
    stated = {_column(word)[1] for word in words} - {""}
    if len(stated) > 1:
        raise ManifestError(f"{where} has seconds and frames; give start and end of segments in one of them")
    found = (*stated, unit, UNITS[0])[0] or UNITS[0] if "start" in columns else ""
    if unit and found != unit:
        has = f"segments in {found}" if found else "no start and end"
        raise ManifestError(f"{where} has {has}, and DATA.SEGMENTS (--segments) is {unit}")
    return Layout(delimiter, tuple(columns), found, number)


def _column(word: str) -> tuple[str, str]:
    """(column, unit) that a word of a header means; empty where it is not known."""
    if word in _PATH_WORDS:
        return "path", ""
    if _LABEL_WORD.fullmatch(word):
        return "label", ""
    return _MOMENT_WORDS.get(word, ("", ""))


def _quoted_cells(text: str, delimiter: str) -> list[str] | None:
    """The cells of a csv line of which at least one is quoted; None where none is, or quotes do not match."""
    blanks = "" if delimiter in (" ", "\t") else r"[ \t]*"
    quoted = re.compile(f"{blanks}{_QUOTED}{blanks}(?={re.escape(delimiter)}|$)")
    cells, at, any_quoted = [], 0, False
    while True:
        if found := quoted.match(text, at):
            cells.append(found[1].replace('""', '"'))
            any_quoted, at = True, found.end()
        else:
            end = text.find(delimiter, at)
            cells.append(text[at:] if end < 0 else text[at:end])
            if cells[-1].lstrip().startswith('"'):
                return None
            at = len(text) if end < 0 else end
        if at >= len(text):
            return cells if any_quoted else None
        at += len(delimiter)


def _has_label_behind_moments(line: str, separator: str) -> bool:
    """Whether a row of a list of segments has a label: something behind start and end."""
    text, by = line.rstrip(), None if separator == " " else separator
    if '"' in text and (cells := _quoted_cells(text, separator)) is not None:
        return len(cells) > 3
    found = [*re.finditer(f"(?:{_EXTENSIONS})\\s*(?={re.escape(separator)})", text, re.I)]
    if found:
        return len(text[found[-1].end() + len(separator) :].strip().split(by)) > 2
    cells = text.rsplit(by, 3)
    return not (len(cells) > 2 and all(map(_is_number, cells[-2:])) and not (len(cells) > 3 and _is_number(cells[-3])))


def _names_class(layout: Layout, line: str, root: Path) -> bool:
    """Whether the label of a row is a name and not a number, or a mistake."""
    named = Layout(layout.delimiter, layout.columns, layout.unit, layout.header, True)
    try:
        cells = named.split(line)
    except ValueError:
        return False
    label, path = cells["label"], cells["path"]
    if not any(character.isalpha() for character in label) or _is_number(label):
        return False
    if label.lower().endswith(VIDEO_EXTENSIONS) or re.match(r"\d+[,;|]", label):  # before the path; numbers and a slip
        return False
    if layout.header or path.lower().endswith(VIDEO_EXTENSIONS):
        return True
    return not re.search(rf"(?:{_EXTENSIONS})\W", line, re.I) and is_there(root / path)


def _has_quotes(file: Path, separator: str, root: Path) -> bool:
    """Whether cells are quoted as csv files have them, and no file is called so."""
    start = re.escape(separator.encode("utf-8", "surrogateescape"))
    try:
        content = file.read_bytes()
    except OSError:
        return False
    if b'"' not in content:
        return False
    found = re.search(rb"(?:^(?:\xef\xbb\xbf)?|[\r\n]|" + start + rb')"[^\r\n]*', content)
    if not found:
        return False
    begin = max(content.rfind(b"\n", 0, found.start() + 1), content.rfind(b"\r", 0, found.start() + 1)) + 1
    line = content[begin : found.end()].decode("utf-8-sig", "surrogateescape").rstrip()
    cells = _quoted_cells(line, separator)
    literal = line.rpartition(separator)[0].rstrip()
    return cells is not None and len(cells) == 2 and not (literal and is_there(root / literal))


def _is_number(text: str) -> bool:
    if _NUMBER.fullmatch(text.strip()):
        return True
    try:
        float(text)
    except ValueError:
        return False
    return True  # nan and inf, which programs write where a label is missing


def _short(text: str) -> str:
    return printable(repr(text)) if len(text) <= 200 else f"{printable(repr(text[:200]))}... ({len(text)} characters)"
