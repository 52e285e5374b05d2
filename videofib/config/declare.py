"""Kinds of keys. A key declares, once, its default, what it accepts, its unit, what turns it off, and what it is for.

A value arrives as it was written, ``"1e-4"`` or ``["0", "11"]``, from a file or the command line, and its key reads it.
What can be off is off by the same value in all keys of a kind (0, the empty text, the empty list, the choice ``none``),
and ``~`` or ``None`` mean that value; to other keys they are an error.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from types import SimpleNamespace
from typing import ClassVar, NamedTuple

from videofib.config.yaml_reader import BadYaml, read_list

MAX_INTEGER = 2**31 - 1  # what a 32-bit number holds; nothing that is counted here comes near it
_MAX_DIGITS = 400  # Python takes quadratic time to read an integer
_TRUE, _FALSE, _NONE = ("true", "yes", "on"), ("false", "no", "off"), ("~", "null", "Null", "NULL", "None")


class ConfigError(ValueError):
    """A config file or override that cannot be used; the message names the key and what to do."""


class Refused(ValueError):
    """A value that its key does not accept; the message says what the key accepts."""


class Setting(NamedTuple):
    """A key and what was written for it; ``source`` follows "is ...", as ``on the command line`` or ``in FILE``."""

    key: str
    written: object
    source: str
    line: int | None = None

    @property
    def where(self) -> str:
        return f"{self.source}, line {self.line}" if self.line else self.source


class Section(SimpleNamespace):
    """Keys under one name; ``about`` is a sentence on them."""

    def __init__(self, about: str) -> None:
        super().__init__(about=about)

    def items(self) -> dict[str, Section | Key]:
        """name -> section or key, in order of declaration."""
        return {name: value for name, value in vars(self).items() if isinstance(value, Section | Key)}


@dataclass(frozen=True)
class Key(ABC):
    """One key.

    Attributes:
        default: a value that it accepts.
        about: a plain sentence.
        unit: of the value, such as ``pixels``.
        off: what turning it off means, such as ``no clipping``; empty where it cannot be off.
    """

    default: object
    _: KW_ONLY
    about: str = ""
    unit: str = ""
    off: str = ""
    off_value: ClassVar[object] = 0

    def read(self, written: object) -> object:
        """The value that something written means.

        Raises:
            Refused: this key does not accept it.
        """
        if written is None or (type(written) is str and written in _NONE):
            if not self.off:
                raise Refused(self.accepted)
            return self._parse(self.off_value)
        value = self._parse(written)
        if not (self.off and value == self.off_value):
            self._check(value)
        return value

    @property
    def accepted(self) -> str:
        """What it accepts, as words that follow "it must be"."""
        return f"{self._accepted}, or {self.off_value!r} ({self.off})" if self.off else self._accepted

    @property
    @abstractmethod
    def _accepted(self) -> str:
        """The same without being off."""

    @abstractmethod
    def _parse(self, written: object) -> object:
        """The value of this kind; raises Refused where it is of another."""

    def _check(self, value) -> None:  # noqa: B027
        """Raise Refused for a value out of range."""


@dataclass(frozen=True)
class _Switch(Key):
    _accepted = "True or False"

    def _parse(self, written: object) -> bool:
        word = str(written).lower()
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
        raise Refused(self.accepted)


@dataclass(frozen=True, kw_only=True)
class _Number(Key):
    above: float
    least: float
    below: float
    most: float
    noun: ClassVar[str] = "a number"

    @property
    def _accepted(self) -> str:
        bounds = {"above": self.above, "at least": self.least, "below": self.below, "at most": self.most}
        words = " and ".join(f"{word} {bound}" for word, bound in bounds.items() if math.isfinite(bound))
        return self.noun + (", " if words.startswith("at ") else " " if words else "") + words

    def _parse(self, written: object) -> float:
        value = as_number(written)
        if value is None:
            raise Refused(self.accepted)
        try:
            value = float(value)
        except OverflowError:  # an integer of more than 308 digits
            value = math.inf
        if not math.isfinite(value):
            raise Refused(f"{self.accepted}, and finite")
        return value

    def _check(self, value) -> None:
        if not (self.least <= value <= self.most and self.above < value < self.below):
            raise Refused(self.accepted)


@dataclass(frozen=True, kw_only=True)
class _Integer(_Number):
    noun: ClassVar[str] = "an integer"

    def _parse(self, written: object) -> int:
        value = as_number(written)
        if value is None or (isinstance(value, float) and not value.is_integer()):
            raise Refused(self.accepted)
        return int(value)

    def _check(self, value) -> None:
        super()._check(value)
        if abs(value) > MAX_INTEGER:
            raise Refused(f"{self.accepted}, and at most {MAX_INTEGER}")


@dataclass(frozen=True)
class _Text(Key):
    off_value: ClassVar[str] = ""

    @property
    def _accepted(self) -> str:
        return "text" if self.off else "text that is not empty"

    def _parse(self, written: object) -> str:
        if not isinstance(written, str):
            raise Refused(self.accepted)
        return str(written)

    def _check(self, value) -> None:
        if not value:
            raise Refused(self.accepted)
        if "\0" in value:
            raise Refused(f"{self.accepted}, without null characters")


@dataclass(frozen=True, kw_only=True)
class _Choice(Key):
    choices: Sequence[str | int]
    off_value: ClassVar[str] = "none"

    @property
    def accepted(self) -> str:
        off = f" ({self.off})" if self.off else ""
        return "one of " + ", ".join(f"{choice}{off if choice == self.off_value else ''}" for choice in self.choices)

    _accepted = accepted

    def _parse(self, written: object) -> str | int:
        number = as_number(written)
        for choice in self.choices:
            if choice == (number if isinstance(choice, int) else written):
                return choice
        raise Refused(self.accepted)


@dataclass(frozen=True, kw_only=True)
class _List(Key):
    element: Key
    length: int | None
    ascending: bool
    off_value: ClassVar[list] = []

    @property
    def _accepted(self) -> str:
        entries = f" of {self.length} entries" if self.length else "" if self.off else " of one or more entries"
        return f"a list{entries}, each {self.element.accepted}{', in ascending order' if self.ascending else ''}"

    def _parse(self, written: object) -> list:
        try:
            entries = read_list(written) if isinstance(written, str) else written
            if not isinstance(entries, list | tuple):
                raise Refused(self.accepted)
            return [self.element.read(entry) for entry in entries]
        except (BadYaml, Refused):
            raise Refused(self.accepted) from None

    def _check(self, value) -> None:
        if not value or len(value) != (self.length or len(value)) or (self.ascending and value != sorted(value)):
            raise Refused(self.accepted)


def as_number(written: object) -> int | float | None:
    """What was written as a number, None where it is not one.

    ``010`` is not: YAML reads it as 8, and its author may mean 10.
    """
    if not isinstance(written, str):
        return written if isinstance(written, int | float) and not isinstance(written, bool) else None
    if len(written) > _MAX_DIGITS:
        return None
    try:
        return int(written, 0)
    except ValueError:
        pass
    try:
        return None if written.strip().lstrip("+-").isdecimal() else float(written)
    except ValueError:
        return None


def switch(default: bool, *, about: str = "") -> Key:
    """True or False."""
    return _Switch(default, about=about)


def integer(
    default: int = 0,
    *,
    about: str = "",
    unit: str = "",
    off: str = "",
    above: float = -math.inf,
    least: float = -math.inf,
) -> Key:
    """An integer; ``above`` and ``least`` exclude and include the bound."""
    bounds = {"above": above, "least": least, "below": math.inf, "most": math.inf}
    return _Integer(default, about=about, unit=unit, off=off, **bounds)


def number(
    default: float = 0.0,
    *,
    about: str = "",
    unit: str = "",
    off: str = "",
    above: float = -math.inf,
    least: float = -math.inf,
    below: float = math.inf,
    most: float = math.inf,
) -> Key:
    """A finite number; ``above`` and ``below`` exclude their bound, ``least`` and ``most`` include it."""
    return _Number(default, about=about, unit=unit, off=off, above=above, least=least, below=below, most=most)


def text(default: str = "", *, about: str = "", off: str = "") -> Key:
    """Text, empty only where that turns it off."""
    return _Text(default, about=about, off=off)


def one_of(*choices: str | int, about: str = "", default: str | int | None = None, off: str = "") -> Key:
    """One of these, by default the first; where it can be off, one of them is ``none``."""
    return _Choice(choices[0] if default is None else default, about=about, off=off, choices=choices)


def list_of(
    element: Key,
    default: list,
    *,
    about: str = "",
    unit: str = "",
    off: str = "",
    length: int | None = None,
    ascending: bool = False,
) -> Key:
    """A list of values that ``element`` accepts, of this length or any; empty only where that turns it off."""
    return _List(default, about=about, unit=unit, off=off, element=element, length=length, ascending=ascending)
