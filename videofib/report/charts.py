"""Line charts as SVG, each with its values as a table for readers who cannot see it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from videofib.report.html import table, text
from videofib.report.numbers import amount, number

_WIDTH, _HEIGHT = 360, 216  # of the drawing, which is scaled; its text is readable when 340 pixels wide
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 10, 34
_MOST_POINTS = 400  # of a line; where there are more, neighbours are averaged
_MOST_ROWS = 100  # of a chart's table
_TICK_LETTERS = 6  # for which there is room beside the vertical axis


@dataclass(frozen=True)
class Series:
    """A line through ``points`` (x, y), in order of x; where y is None or not finite there is a gap."""

    name: str
    points: Sequence[tuple[float, float | None]]
    dots: bool = False


def line_chart(
    title: str, series: Sequence[Series], *, x: str, y: str, lowest: float | None = None, highest: float | None = None
) -> str:
    """A chart with a title, a legend where there are several lines, axes named ``x`` and ``y``, and a table.

    ``lowest`` and ``highest`` are values that the vertical axis covers in any case. Empty where there is no point.
    """
    thinned = [Series(line.name, _thinned(line.points), line.dots) for line in series]
    thinned = [line for line in thinned if any(value is not None for _, value in line.points)]
    if not thinned:
        return ""
    positions = [at for line in thinned for at, _ in line.points]
    values = [value for line in thinned for _, value in line.points if value is not None]
    axis = _axes(positions, [*values, *_given(lowest), *_given(highest)], percent=y == "%")
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
    """The range of each axis, and the distance between its marks."""

    across: tuple[float, float]
    upward: tuple[float, float]
    across_step: float
    upward_step: float

    def x(self, value: float) -> float:
        low, high = self.across
        return _LEFT + (value - low) / (high - low) * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self.upward
        return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    def drawn(self, x: str, y: str) -> str:
        lines = []
        for value in _ticks(*self.upward, self.upward_step):
            mark = _tick(value, self.upward_step)
            lines.append(
                f'<path class="grid" d="M{_LEFT} {self.y(value):.1f}H{_WIDTH - _RIGHT}"/>'
                f'<text class="tick end" x="{_LEFT - 5}" y="{self.y(value) + 3.5:.1f}">{mark}</text>'
            )
        for value in _ticks(*self.across, self.across_step):
            lines.append(
                f'<text class="tick middle" x="{self.x(value):.1f}" y="{_HEIGHT - _BOTTOM + 14}">{number(value)}</text>'
            )
        lines.append(
            f'<path class="axis" d="M{_LEFT} {_HEIGHT - _BOTTOM}H{_WIDTH - _RIGHT}"/>'
            f'<text class="tick end" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 4}">{text(x)}</text>'
            f'<text class="tick" x="2" y="{_HEIGHT - 4}">{text(y)}</text>'
        )
        return "".join(lines)


def _axes(positions: Sequence[float], values: Sequence[float], *, percent: bool) -> _Axes:
    """Axes for the points; the vertical one ends at marks, so that no line touches the frame."""
    across = _spanned(min(positions), max(positions))
    across_step = _step(*across)
    if all(float(at).is_integer() for at in positions):
        across_step = max(1.0, across_step)  # epochs and views
    low, high = _spanned(min(values), max(values))
    step = _step(low, high)
    low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
    return _Axes(across, (max(low, 0.0), min(high, 100.0)) if percent else (low, high), across_step, step)


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


def _step(low: float, high: float) -> float:
    """The distance between marks on an axis: 1, 2 or 5 times a power of ten, for four to eight marks."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.8)


def _ticks(low: float, high: float, step: float) -> list[float]:
    """The multiples of ``step`` within a range."""
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [multiple * step for multiple in range(first, last + 1)]


def _tick(value: float, step: float) -> str:
    """A mark of the vertical axis, with as many decimals as its step needs; short where it is very large or small."""
    if value == 0:
        return "0"
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    written = f"{value:.{decimals}f}".replace("-", "−") if abs(value) < 10_000 else amount(value)
    return written if len(written) <= _TICK_LETTERS else f"{value:.2g}"


def _summary(title: str, series: Sequence[Series], x: str, y: str) -> str:
    parts = []
    for line in series:
        known = [(at, value) for at, value in line.points if value is not None]
        (first, start), (last, end) = known[0], known[-1]
        parts.append(f"{line.name} goes from {number(start)} at {number(first)} to {number(end)} at {number(last)}")
    return f"{title}, {y} over {x}: {'; '.join(parts)}. The values are in the table below."


def _values(title: str, series: Sequence[Series], x: str) -> str:
    positions = sorted({at for line in series for at, _ in line.points})
    size = math.ceil(len(positions) / _MOST_ROWS)
    chosen = [*positions[::size], *([positions[-1]] if (len(positions) - 1) % size else [])]
    columns = [dict(line.points) for line in series]
    rows = [[number(at), *(number(column.get(at)) for column in columns)] for at in chosen]
    content = table(f"{title}: values", [x, *(line.name for line in series)], rows, numeric=True)
    return f"<details><summary>Values as a table</summary>{content}</details>"
