"""The rows of a list file with a header, quotes, names of classes or segments, one by one (``layout``)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from videofib.classes import ClassesError, check_names, same_name, shown
from videofib.data.errors import ManifestError
from videofib.data.lists.layout import Layout
from videofib.data.lists.record import UNLABELLED
from videofib.data.lists.records import Segments
from videofib.data.lists.text_list import TextList, check_repeats, class_index, class_indices, text_lines
from videofib.data.lists.texts import Texts
from videofib.data.segment import Segment, read_segment
from videofib.printable import printable


@dataclass(frozen=True)
class ClassNames:
    """The classes that a list may name: class i has label i.

    Attributes:
        names: all of them; empty: those that the list names, sorted.
        origin: the file that says so, for messages.
    """

    names: Sequence[str] = ()
    origin: str = ""


@dataclass(frozen=True)
class _Row:
    line: int
    path: str
    label: str
    segment: Segment | None

    @property
    def name(self) -> str:
        return f"{self.path}{self.segment or ''}"


def read_rows(
    file: Path,
    layout: Layout,
    *,
    multi_label: bool = False,
    classes: ClassNames | None = None,
    repeats: bool = False,
    with_labels: bool = True,
) -> tuple[TextList, Segments | None]:
    """The rows of a list file, and the parts of their files that they are; None where all are full videos.

    Rows without a column of labels have the label ``UNLABELLED``.

    Args:
        repeats: rows may occur several times, with the same label.
        with_labels: without it the column of labels is not looked at.

    Raises:
        ManifestError: the first row that cannot be used, or repeats an earlier one; names file and line.
    """
    rows: list[_Row] = []
    labels: list[tuple[int, ...]] = []
    known = classes or ClassNames()
    if with_labels and layout.names and not known.names:
        known = ClassNames(listed_names(file, layout, multi_label=multi_label), str(file))
    number = {same_name(name): label for label, name in enumerate(known.names)}
    for row in _rows(file, layout):
        rows.append(row)
        is_named = with_labels and layout.labelled
        where = f"{file}:{row.line}"
        labels.append(_labels(row, layout, where, multi_label, known, number) if is_named else (UNLABELLED,))
    if not rows:
        raise ManifestError(f"{printable(file)} lists no videos")
    lines = np.array([row.line for row in rows], np.int64)
    paths = Texts.of([row.path for row in rows])
    segments = None
    if layout.unit:
        moments = [(row.segment.start, row.segment.end) if row.segment else (np.nan, np.nan) for row in rows]
        starts, ends = np.array(moments, np.float64).T
        segments = Segments(paths, starts, ends, layout.unit, str(file), lines)
    names = Texts.of([row.name for row in rows]) if segments else paths
    listed = TextList(
        names,
        lines,
        np.array([label for each in labels for label in each], np.int64),
        np.array([len(each) for each in labels], np.int32),
    )
    check_repeats(file, listed, allowed=repeats)
    return listed, segments


def listed_names(file: Path, layout: Layout, *, multi_label: bool = False) -> list[str]:
    """The names of classes in a list, sorted.

    Raises:
        ManifestError: as ``read_rows``; or a row has a number, or a text that no class can be called.
    """
    names: dict[str, str] = {}
    first: _Row | None = None
    for row in _rows(file, layout):
        first = first or row
        for name in _names(row.label, multi_label):
            if name.isdecimal():
                raise ManifestError(
                    f"{file}:{row.line}: label {name!r} is a number, and that of line {first.line} is a name, "
                    f"{printable(repr(first.label))}; give all rows names or all numbers, or write classes.txt"
                )
            if not name.isprintable():
                raise ManifestError(
                    f"{printable(file)}:{row.line}: label {printable(repr(name[:200]))} has characters that cannot be "
                    "shown; give the class a number, and its name in classes.txt"
                )
            if name:  # an empty one is reported when it is read
                names.setdefault(same_name(name), name)
    try:
        return check_names(sorted(names.values())) if names else []
    except ClassesError as error:
        raise ManifestError(f"{printable(file)}: its classes {printable(error)}") from error


def have_several_classes(file: Path, layout: Layout) -> bool:
    """Whether a list gives any of its videos several classes by their numbers, as ``3,7``."""
    return layout.labelled and not layout.names and any("," in row.label for row in _rows(file, layout))


def _rows(file: Path, layout: Layout) -> Iterator[_Row]:
    for line, text in text_lines(file, layout.delimiter):
        if line == layout.header:
            continue
        where = f"{file}:{line}"
        try:
            cells = layout.split(text)
            start, end = cells.get("start", ""), cells.get("end", "")
            segment = None
            if start or end or (layout.unit and not layout.header):
                segment = Segment(*read_segment(start, end, layout.unit), layout.unit, where)
        except ValueError as error:
            row = "" if str(error).startswith("expected") else f" in {printable(repr(text.strip()[:200]))}"
            raise ManifestError(f"{printable(where)}: {error}{row}") from error
        yield _Row(line, cells["path"], cells.get("label", ""), segment)


def _labels(
    row: _Row, layout: Layout, where: str, multi_label: bool, known: ClassNames, number: dict[str, int]
) -> tuple[int, ...]:
    if not layout.names:
        return class_indices(row.label, where) if multi_label else (class_index(row.label, where),)
    names = _names(row.label, multi_label)
    found = [_label(name, where, known, number) for name in names]
    if len(set(found)) != len(found):
        raise ManifestError(f"{where}: {printable(repr(row.label))} names a class twice")
    return tuple(found)


def _names(text: str, multi_label: bool) -> list[str]:
    return [name.strip() for name in text.split(",")] if multi_label else [text]


def _label(name: str, where: str, known: ClassNames, number: dict[str, int]) -> int:
    label = number.get(same_name(name))
    if label is None:
        raise ManifestError(f"{printable(where)}: {unknown_class(name, known)}")
    return label


def unknown_class(name: str, known: ClassNames) -> str:
    """What is wrong with a name that is none of the classes, and which is nearest."""
    if not name:
        return "has no label"
    near = get_close_matches(name.lower(), [other.lower() for other in known.names], 1, 0.5)
    spelled = next((other for other in known.names if near and other.lower() == near[0]), "")
    hint = f"the nearest is {spelled!r}" if spelled else f"they are {shown(known.names)}"
    return printable(
        f"the class {name!r} is not among the {len(known.names)} classes of {known.origin or 'the model'}; {hint}"
    )
