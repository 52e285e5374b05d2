"""Bits of HTML. What ``text`` has not escaped is nothing that comes from a file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from videofib.files import printable


def text(value: object) -> str:
    """Anything as text that is safe in an element or a quoted attribute; what cannot be printed is replaced."""
    return escape(printable(str(value)))


def number(value: float | None) -> str:
    """A number as people write it, at four digits: ``0.00062``, ``12.3``, ``1,792``; a dash for none."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0 or abs(value - round(value)) < 1e-9 * max(1, abs(value)):
        return f"{round(value):,}".replace("-", "−")
    digits = max(0, 3 - math.floor(math.log10(abs(value))))
    said = f"{value:,.{min(digits, 10)}f}"
    return (said.rstrip("0").rstrip(".") if "." in said else said).replace("-", "−")


def percent(value: float | None) -> str:
    """``94.3 %``, or a dash."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.1f} %".replace("-", "−")


def amount(value: float) -> str:
    """A large number by thousands: ``62 M``, ``134.6 G``."""
    power = min(4, max(0, math.floor(math.log10(value)) // 3)) if value > 0 else 0
    return f"{number(value / 1000**power)} {' kMGT'[power]}".rstrip()


def interval(bounds: Sequence[float] | None) -> str:
    """``90.6 to 97.4 %``, or a dash."""
    return "–" if not bounds else f"{bounds[0]:.1f} to {bounds[1]:.1f} %".replace("-", "−")


def table(
    caption: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    numeric: bool = False,
    raw: bool = False,
    wide: bool = False,
) -> str:
    """A table whose first column names its rows.

    Args:
        numeric: all columns but the first are set flush right.
        wide: cells may be long, and are broken anywhere.
        raw: cells are HTML, not text; the caption and header never are.
    """
    kinds = [name for name, given in (("numeric", numeric), ("wide", wide)) if given]
    cell = (lambda value: value) if raw else text
    heads = "".join(f'<th scope="col">{text(name)}</th>' for name in header)
    lines = (
        f'<tr><th scope="row">{cell(first)}</th>{"".join(f"<td>{cell(value)}</td>" for value in rest)}</tr>'
        for first, *rest in rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}">'
        f'<table class="{" ".join(kinds)}"><caption>{text(caption)}</caption>'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )


def section(anchor: str, title: str, content: str) -> str:
    """A part of the page with a heading; nothing where there is no content."""
    if not content:
        return ""
    return f'<section aria-labelledby="{anchor}"><h2 id="{anchor}">{text(title)}</h2>\n{content}\n</section>\n'
