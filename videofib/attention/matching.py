"""The choice of a pattern's parameter by its density, so that patterns are compared at equal cost."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

import torch

Value = TypeVar("Value")
_MATCHED = "fibottention"
_RISING = {  # values of a parameter for N tokens, in the order of rising density
    "radius": lambda num_tokens: range(1, max(num_tokens, 2)),
    "stride": lambda num_tokens: range(max(num_tokens, 2), 1, -1),
}


def chosen(
    support: Any, constructor: str, name: str, matching: str | None, num_tokens: int, heads: int, **options: object
) -> int:
    """The value of a parameter that was not given.

    Args:
        support: the class ``Support``, and ``constructor`` one of its own, whose arguments are ``num_tokens`` and
            ``options``.
        name: of the parameter, ``radius`` or ``stride``.
        matching: must be ``fibottention``, whose support has as many ``heads``.

    Raises:
        ValueError: another ``matching``.
    """
    if matching != _MATCHED:
        known = f"matching={_MATCHED!r}"
        raise ValueError(f"set {name}, or {known} for its density; got {name}=None, matching={matching!r}")
    return _search(support, constructor, name, num_tokens, heads, tuple(options.items()))


@torch.compiler.assume_constant_result  # no graph can hold the search
def _search(
    support: Any, constructor: str, name: str, num_tokens: int, heads: int, options: tuple[tuple[str, object], ...]
) -> int:
    make = partial(getattr(support, constructor), num_tokens=num_tokens, **dict(options))
    target = support.fibottention(heads, num_tokens).density()
    return nearest(_RISING[name](num_tokens), lambda value: make(**{name: value}).density(), target)


def nearest(values: Iterable[Value], density: Callable[[Value], float], target: float) -> Value:
    """The value whose density is nearest to ``target``; of two equally near, the earlier one.

    Args:
        values: in the order of rising density, at least one.
        density: of a value; called for few of them.
    """
    values = list(values)
    after = bisect_left(values, target, key=density)
    around = values[max(after - 1, 0) : after + 1]
    return min(around, key=lambda value: abs(density(value) - target))
