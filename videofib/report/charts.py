"""Line charts as SVG, each with its values as a table: they are to be read without seeing them, too."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from videofib.report.html import number, table, text

_WIDTH, _HEIGHT = 360, 216  # of the drawing, which is scaled; letters stay readable at 340 pixels
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 10, 34
_MOST_POINTS = 400  # of a line; of more, neighbours are averaged
_MOST_ROWS = 100  # of a chart's table


@dataclass(frozen=True)
class Series:
    """A line: ``points`` (x, y) in order of x; where y is None or not finite there is a gap."""

    name: str
    points: Sequence[tuple[float, float | None]]
    dots: bool = False


def line_chart(
    title: str, series: Sequence[Series], *, x: str, y: str, lowest: float | None = None, highest: float | None = None
) -> str:
    """A figure with a title, a legend where there are several lines, axes named ``x`` and ``y``, and a table.

    ``lowest`` and ``highest`` are values that the vertical axis reaches at least. Empty where there is no point.
    """
    thinned = [Series(line.name, _thinned(line.points), line.dots) for line in series]
    thinned = [line for line in thinned if any(value is not None for _, value in line.points)]
    if not thinned:
        return ""
    places = [at for line in thinned for at, _ in line.points]
    values = [value for line in thinned for _, value in line.points if value is not None]
    low, high = _spanned(min([*values, *_given(lowest)]), max([*values, *_given(highest)]))
    if y == "%":
        low, high = max(low, 0.0), min(high, 100.0)
    axis = _Axes(_spanned(min(places), max(places)), (low, high))
    drawn = "".join(_line(line, order, axis) for order, line in enumerate(thinned))
    legend = "".join(f'<li class="s{order % 6}">{text(line.name)}</li>' for order, line in enumerate(thinned))
    data = text(json.dumps({line.name: line.points for line in thinned}))
    scale = json.dumps([*axis.across, _LEFT, _WIDTH - _RIGHT])
    return f"""<figure class="chart">
<figcaption><strong>{text(title)}</strong> <span class="readout" aria-hidden="true"></span>
{f'<ul class="legend">{legend}</ul>' if len(thinned) > 1 else ""}</figcaption>
<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{text(_summary(title, thinned, x, y))}"
 data-lines="{data}" data-scale="{scale}">
{axis.drawn(x, y)}{drawn}<line class="cross" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>
</svg>
{_values(title, thinned, x)}
</figure>"""


@dataclass(frozen=True)
class _Axes:
    across: tuple[float, float]
    upward: tuple[float, float]

    def x(self, value: float) -> float:
        low, high = self.across
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self.upward
        return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    def drawn(self, x: str, y: str) -> str:
        lines = []
        for value in _ticks(*self.upward):
            lines.append(
                f'<path class="grid" d="M{_LEFT} {self.y(value):.1f}H{_WIDTH - _RIGHT}"/>'
                f'<text class="tick end" x="{_LEFT - 5}" y="{self.y(value) + 3.5:.1f}">{_tick(value)}</text>'
            )
        for value in _ticks(*self.across):
            lines.append(
                f'<text class="tick middle" x="{self.x(value):.1f}" y="{_HEIGHT - _BOTTOM + 14}">{number(value)}</text>'
            )
        lines.append(
            f'<path class="axis" d="M{_LEFT} {_HEIGHT - _BOTTOM}H{_WIDTH - _RIGHT}"/>'
            f'<text class="tick end" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 4}">{text(x)}</text>'
            f'<text class="tick" x="2" y="{_HEIGHT - 4}">{text(y)}</text>'
        )
        return "".join(lines)


def _line(line: Series, order: int, axis: _Axes) -> str:
    words, pen_down = [], False
    for at, value in line.points:
        if value is not None:
            words.append(f"{'L' if pen_down else 'M'}{axis.x(at):.1f} {axis.y(value):.1f}")
        pen_down = value is not None
    known = [(at, value) for at, value in line.points if value is not None]
    dots = known if line.dots or len(known) == 1 else ()
    circles = "".join(f'<circle cx="{axis.x(at):.1f}" cy="{axis.y(value):.1f}" r="2.5"/>' for at, value in dots)
    return f'<g class="line s{order % 6}"><path d="{"".join(words)}"/>{circles}</g>'


def _thinned(points: Sequence[tuple[float, float | None]]) -> list[tuple[float, float | None]]:
    points = [(at, value if value is not None and math.isfinite(value) else None) for at, value in points]
    size = math.ceil(len(points) / _MOST_POINTS)
    if size <= 1:
        return points
    groups = (points[start : start + size] for start in range(0, len(points), size))
    return [(group[len(group) // 2][0], _mean([value for _, value in group if value is not None])) for group in groups]


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _given(value: float | None) -> list[float]:
    return [] if value is None else [value]


def _spanned(low: float, high: float) -> tuple[float, float]:
    """The range itself, or one around its only value."""
    if high - low > 1e-12 * max(abs(low), abs(high)):
        return low, high
    margin = abs(low) / 2 or 0.5
    return low - margin, high + margin


def _ticks(low: float, high: float) -> list[float]:
    """Round values within a range: four to eight of them."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.8)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [place * step for place in range(first, last + 1)]


def _tick(value: float) -> str:
    """A value for the vertical axis, beside which there is room for so many letters."""
    written = number(value)
    return written if len(written) <= 6 else f"{value:.1g}"


def _summary(title: str, series: Sequence[Series], x: str, y: str) -> str:
    parts = []
    for line in series:
        known = [(at, value) for at, value in line.points if value is not None]
        (first, start), (last, end) = known[0], known[-1]
        parts.append(f"{line.name} goes from {number(start)} at {number(first)} to {number(end)} at {number(last)}")
    return f"{title}, {y} over {x}: {'; '.join(parts)}. The values are in the table below."


def _values(title: str, series: Sequence[Series], x: str) -> str:
    places = sorted({at for line in series for at, _ in line.points})
    size = math.ceil(len(places) / _MOST_ROWS)
    chosen = [*places[::size], *([places[-1]] if (len(places) - 1) % size else [])]
    columns = [dict(line.points) for line in series]
    rows = [[number(at), *(number(column.get(at)) for column in columns)] for at in chosen]
    content = table(f"{title}: values", [x, *(line.name for line in series)], rows, numeric=True)
    return f"<details><summary>Values as a table</summary>{content}</details>"
