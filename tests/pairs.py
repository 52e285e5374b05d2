"""Parameters of a test: all combinations, of which the fast suite runs those that cover every value, or every pair."""

from collections.abc import Iterable
from itertools import combinations, product

import pytest


def every_pair(*axes: Iterable) -> list:
    """All combinations of one value of each axis, for ``pytest.mark.parametrize``.

    Those that are not marked slow contain every pair of values of two axes: a fault that depends on one setting or on
    two is found by the fast suite, one that takes three together by the full one.
    """
    return _product(axes, together=2)


def every_value(*axes: Iterable) -> list:
    """As ``every_pair``; those that are not marked slow contain every value of each axis."""
    return _product(axes, together=1)


def _product(axes: tuple[Iterable, ...], together: int) -> list:
    values = [list(axis) for axis in axes]
    combos = list(product(*(range(len(axis)) for axis in values)))
    covers = {combo: set(combinations(enumerate(combo), min(together, len(axes)))) for combo in combos}
    missing, fast = set().union(*covers.values()), set()
    while missing:
        best = max(combos, key=lambda combo: len(missing & covers[combo]))  # the first of the best
        fast.add(best)
        missing -= covers[best]
    return [
        pytest.param(
            *(axis[i] for axis, i in zip(values, combo, strict=True)), marks=() if combo in fast else pytest.mark.slow
        )
        for combo in combos
    ]
