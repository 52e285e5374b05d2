"""How numbers are written, on pages and in a terminal. None, and what is not finite, is a dash."""

from __future__ import annotations

import math
from collections.abc import Sequence

_ZERO = 1e-9  # of percentages: what sums of fractions miss a whole number by
_MOST_DECIMALS = 8
_PREFIXES = " kMGT"  # of thousands
_SMALLEST_P = 0.0001  # that is written
_SMALL = 1e-5  # below, numbers have an exponent


def number(value: float | None) -> str:
    """A number with four digits: ``0.00062``, ``12.3``, ``1,792``, ``6.2e−08``."""
    if value is None or not math.isfinite(value):
        return "–"
    if 0 < abs(value) < _SMALL:
        return f"{value:.4g}".replace("-", "−")
    if value == 0 or abs(value - round(value)) < 1e-9 * max(1, abs(value)):
        return f"{round(value):,}".replace("-", "−")
    digits = max(0, 3 - math.floor(math.log10(abs(value))))
    written = f"{value:,.{digits}f}"
    return (written.rstrip("0").rstrip(".") if "." in written else written).replace("-", "−")


def amount(value: float) -> str:
    """A count by thousands, in the unit of its size: ``950``, ``26 k``, ``62 M``, ``134.6 G``."""
    last = len(_PREFIXES) - 1
    power = min(last, max(0, math.floor(math.log10(value)) // 3)) if value > 0 else 0
    if power < last and number(value / 1000**power) == "1,000":  # rounded up
        power += 1
    return f"{number(value / 1000**power)} {_PREFIXES[power]}".rstrip()


def counted(count: int, one: str, several: str) -> str:
    """A count with its noun: ``1 video``, ``1,792 videos``."""
    return f"{number(count)} {one if count == 1 else several}"


def fixed(value: float | None, decimals: int = 1) -> str:
    """A percentage without its sign: ``94.3``. Only 0 is written as 0, and only 100 as 100: ``99.96``, ``0.004``."""
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value - round(value)) < _ZERO:
        value = float(round(value))
    written = f"{value:.{decimals}f}"
    while float(written) in (-100, 0, 100) and float(written) != value and decimals < _MOST_DECIMALS:
        decimals += 1
        written = f"{value:.{decimals}f}"
    return written.replace("-", "−")


def percent(value: float | None) -> str:
    """``94.3 %``; see ``fixed``."""
    written = fixed(value)
    return written if written == "–" else f"{written} %"


def interval(bounds: Sequence[float] | None) -> str:
    """``90.6 to 97.4 %``."""
    return "–" if not bounds else f"{fixed(bounds[0])} to {fixed(bounds[1])} %"


def points(value: float | None) -> str:
    """A difference of percentages, in percentage points, with its sign: ``+3.1``, ``−0.04``, ``0.0``."""
    written = fixed(value)
    return f"+{written}" if value is not None and value > 0 and float(written) else written


def probability(value: float) -> str:
    """A p-value: ``0.0412``, ``below 0.0001``."""
    return f"{value:.3g}" if value >= _SMALLEST_P else f"below {_SMALLEST_P}"
