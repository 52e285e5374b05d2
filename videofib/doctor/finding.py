"""One line of what ``videofib doctor`` finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from videofib.printable import printable


class State(Enum):
    """How a part is: the word that its line begins with."""

    KNOWN = ""  # a fact, neither good nor bad
    WORKS = "ok"
    MISSING = "missing"  # not installed, and not needed
    UNUSABLE = "unusable"  # does not run here, and is not needed
    FAILED = "FAILED"  # needed and not working, or working wrongly


@dataclass(frozen=True)
class Finding:
    """A part of the machine, such as ``reader decord``, how it is, and what there is to say about it."""

    state: State
    part: str
    text: str

    def __str__(self) -> str:
        return f"{self.state.value:9}{self.part:24}{printable(self.text)}"


def unavailable(part: str, reason: str, *, needed: bool) -> Finding:
    """The finding about a part that does not work, but does not give wrong results either."""
    return Finding(State.FAILED if needed else State.UNUSABLE, part, reason)


def reason(error: BaseException) -> str:
    """An error as one line: its kind and the first line of its message."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
