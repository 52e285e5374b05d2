"""The names of classes: what may be one, and where the classes of one list stand in another.

A model's outputs are the classes that its checkpoint names, in that order; data sets, results and other models that
name theirs are compared with them by name. Names are the same if they look the same: how Unicode composes an accent
(macOS decomposes it in names of folders) and spaces around a name make no difference.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

_SHOWN = 4  # names that a message shows


class ClassesError(ValueError):
    """Names of classes that cannot be used, or do not agree with others; the message names them."""


def check_names(names: object) -> list[str]:
    """The names as a list.

    Raises:
        ClassesError: not a list of distinct names of one line each, as ``classes.txt`` needs them; the message
            continues "its classes ...".
    """
    if not (isinstance(names, list | tuple) and names and all(isinstance(name, str) for name in names)):
        raise ClassesError("are not a list of names")
    position: dict[str, int] = {}
    for number, name in enumerate(names):
        if not same_name(name):
            raise ClassesError(f"have no name at position {number}")
        if name.splitlines() != [name]:  # which knows the line ends of Unicode, too
            raise ClassesError(f"have the name {name!r}, at position {number}, with a line end in it")
        if (first := position.setdefault(same_name(name), number)) != number:
            raise ClassesError(f"have the name {name!r} twice, at positions {first} and {number}")
    return list(names)


def positions(names: Sequence[str], known: Sequence[str]) -> list[int]:
    """The position in ``known`` of each of the names.

    Raises:
        ClassesError: some are not in it.
    """
    position = {same_name(name): number for number, name in enumerate(known)}
    if missing := [name for name in names if same_name(name) not in position]:
        verb = "is" if len(missing) == 1 else "are"
        raise ClassesError(f"{shown(missing)} {verb} not among the classes {shown(known)}")
    return [position[same_name(name)] for name in names]


def difference(theirs: Sequence[str], ours: Sequence[str], there: str = "there", here: str = "here") -> str:
    """How two lists of classes differ, such as ``class 0 is 'clap' there, 'wave' here``; "" where they do not.

    Args:
        there, here: where the two lists are.
    """
    if len(theirs) != len(ours):
        return f"{len(theirs)} classes {there} ({shown(theirs)}), {len(ours)} {here} ({shown(ours)})"
    for number, (one, other) in enumerate(zip(theirs, ours, strict=True)):
        if same_name(one) != same_name(other):
            return f"class {number} is {one!r} {there}, {other!r} {here}"
    return ""


def shown(names: Sequence[str]) -> str:
    """The first few names, for a message."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"[{', '.join(map(repr, names[:_SHOWN]))}]{more}" if len(names) > 1 else repr(names[0])


def same_name(name: str) -> str:
    """What is equal for names that are the same."""
    return unicodedata.normalize("NFC", name.strip())
