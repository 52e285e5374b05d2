"""The options of a mixer, checked against its constructor: names, and types of values."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence

from videofib.mixers.mixer import Mixer, suggestion


def check_options(name: str, mixer: Mixer, options: Mapping[str, object]) -> None:
    """Raise ValueError for an option that the constructor does not have, and for a value of another type.

    Which values of the right type can be used is the constructor's to say.
    """
    check_arguments(f"mixer {name!r}", _constructor(mixer), mixer.options, options)


def check_arguments(
    what: str, function: Callable[..., object], known: Mapping[str, object], options: Mapping[str, object]
) -> None:
    """Raise ValueError for an option that is not ``known``, and for a value of another type than the function takes.

    Args:
        what: whose options they are, for messages.
        known: names of the options, with their defaults.
    """
    hints = typing.get_type_hints(function)
    for option, value in options.items():
        if option not in known:
            raise ValueError(
                f"{what} has no option {option!r} (got {option}={value!r}){suggestion(option, known)}; "
                f"its options: {', '.join(known) or 'none'}"
            )
        if option in hints and not _is_a(value, hints[option]):
            raise ValueError(f"the option {option!r} of {what} must be {_words(hints[option])}, got {option}={value!r}")


def _constructor(mixer: Mixer) -> Callable[..., object]:
    """The function whose parameters are the options."""
    return mixer.build.__init__ if inspect.isclass(mixer.build) else mixer.build


def _is_a(value: object, hint: object) -> bool:
    """Whether a value is of the type that an annotation names. An int is a float, and a bool is neither."""
    if hint is None or hint is type(None):
        return value is None
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return any(_is_a(value, one) for one in inner)
    if origin is typing.Literal:
        return value in inner
    if origin is tuple and inner and inner[-1] is not Ellipsis:
        if not isinstance(value, list | tuple) or len(value) != len(inner):
            return False
        return all(_is_a(entry, one) for entry, one in zip(value, inner, strict=True))
    if origin in (Sequence, list, tuple):
        return isinstance(value, list | tuple) and all(_is_a(entry, inner[0]) for entry in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return not isinstance(hint, type) or isinstance(value, hint)


def _words(hint: object) -> str:
    """An annotation, as a person would write it."""
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint).replace("typing.", "")
