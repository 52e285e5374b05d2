"""Line charts as SVG, each with its values as a table for readers who cannot see it."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from videofib.report.markup.html import table, text
from videofib.report.markup.numbers import amount, number

_WIDTH, _HEIGHT = 360, 216  # of the drawing, which is scaled; its text is readable when 340 pixels wide
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 10, 34  # the first one is more where marks are long
_MOST_POINTS = 400  # of a line; where there are more, neighbours are averaged
_MOST_ROWS = 100  # of a chart's table
_TICK_LETTERS = 6  # for which there is room beside the vertical axis
_LETTER = 6.3  # pixels that one is wide
_STYLES = 6  # colours, and patterns of dashes
_FILE_RIGHT = 14  # pixels more on the right of a file of its own, where nothing else leaves room for the last mark
_LEGEND_ROW = 15  # pixels, in a file of its own
_LEGEND_LETTERS = 44
_NARROWEST = 0.5  # pixels of a band
_COLOURS = ("#1d4ed8", "#c2410c", "#15803d", "#7e22ce", "#a16207", "#0e7490")
_DASHES = ("none", "6 2", "2 2", "8 2 2 2", "10 3", "1 3")
_FILE_STYLE = (
    "text{font-family:sans-serif;font-size:11px;fill:#444}.end{text-anchor:end}.middle{text-anchor:middle}"
    ".grid{stroke:#ddd}.axis{stroke:#444}.line path{fill:none;stroke:currentColor;stroke-width:1.5}"
    ".line circle{fill:currentColor}.gap{fill:#d4d4d4}"
    + "".join(f".s{i}{{color:{colour}}}" for i, colour in enumerate(_COLOURS))
    + "".join(f".d{i} path{{stroke-dasharray:{dashes}}}" for i, dashes in enumerate(_DASHES))
)


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
    size = math.ceil(max((len(line.points) for line in series), default=0) / _MOST_POINTS)
    thinned = [Series(line.name, _thinned(line.points, size), line.dots) for line in series]
    thinned = [line for line in thinned if any(value is not None for _, value in line.points)]
    if not thinned:
        return ""
    positions = [at for line in thinned for at, _ in line.points]
    values = [value for line in thinned for _, value in line.points if value is not None]
    axis = _axes(positions, [*values, *_given(lowest), *_given(highest)], percent=y == "%")
    drawn = "".join(_line(line, order, axis) for order, line in enumerate(thinned))
    legend = "".join(_legend(line, order) for order, line in enumerate(thinned))
    averaged = f'<p class="sub">Each point is the mean of {size} neighbouring ones.</p>' if size > 1 else ""
    data = text(json.dumps({line.name: line.points for line in thinned}))
    scale = json.dumps([*axis.across, axis.left, _WIDTH - _RIGHT])
    return f"""<figure class="chart">
<figcaption><strong>{text(title)}</strong> <span class="readout" aria-hidden="true"></span>
{f'<ul class="legend">{legend}</ul>' if len(thinned) > 1 else ""}</figcaption>
<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{text(_summary(title, thinned, x, y))}"
 data-lines="{data}" data-scale="{scale}">
{axis.drawn(x, y)}{drawn}<line class="cross" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>
</svg>
{averaged}{_values(title, thinned, x)}
</figure>"""


def svg_file(
    title: str,
    series: Sequence[Series],
    *,
    x: str,
    y: str,
    lowest: float | None = None,
    highest: float | None = None,
    gaps: Sequence[tuple[float, float]] = (),
    gaps_name: str = "",
) -> str:
    """The same chart as an SVG file of its own, which needs no page; the legend is below the axis.

    ``gaps`` are ranges of x, of which nothing is known: grey bands over the lines, called ``gaps_name`` in the legend.

    Raises:
        ValueError: there is no point.
    """
    size = math.ceil(max((len(line.points) for line in series), default=0) / _MOST_POINTS)
    lines = [Series(line.name, _thinned(line.points, size), line.dots) for line in series]
    values = [value for line in lines for _, value in line.points if value is not None]
    if not values:
        raise ValueError(f"{title}: there is nothing to draw")
    positions = [at for line in lines for at, _ in line.points] + [at for gap in gaps for at in gap]
    axis = _axes(positions, [*values, *_given(lowest), *_given(highest)], percent=y == "%")
    drawn = "".join(_line(line, order, axis) for order, line in enumerate(lines))
    drawn += "".join(_band(gap, axis) for gap in gaps)
    rows = []
    for order, line in enumerate(lines):
        at = _HEIGHT + 12 + _LEGEND_ROW * order
        name = line.name if len(line.name) <= _LEGEND_LETTERS else f"{line.name[: _LEGEND_LETTERS - 1]}…"
        rows.append(
            f'<g class="line {_style(order)}"><path d="M{axis.left:.1f} {at}h32"/></g>'
            f'<text class="name" x="{axis.left + 38:.1f}" y="{at + 4}">{text(name)}</text>'
        )
    if gaps:
        at = _HEIGHT + 12 + _LEGEND_ROW * len(lines)
        rows.append(
            f'<rect class="gap" x="{axis.left:.1f}" y="{at - 5}" width="32" height="10"/>'
            f'<text class="name" x="{axis.left + 38:.1f}" y="{at + 4}">{text(gaps_name)}</text>'
        )
    wide, height = _WIDTH + _FILE_RIGHT, _HEIGHT + _LEGEND_ROW * len(rows) + 8
    shown = f"{title} (means of {size} neighbouring points)" if size > 1 else title
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 -20 {wide} {height + 20}" width="{3 * wide}">
<title>{text(title)}</title><style>{_FILE_STYLE}</style><rect x="0" y="-20" width="{wide}" height="{height + 20}" \
fill="#fff"/>
<text class="name" x="2" y="-6">{text(shown)}</text>
{axis.drawn(x, y)}{drawn}{"".join(rows)}
</svg>
"""


@dataclass(frozen=True)
class _Axes:
    """The range of each axis, and the distance between its marks."""

    across: tuple[float, float]
    upward: tuple[float, float]
    across_step: float
    upward_step: float

    @property
    def left(self) -> float:
        longest = max(len(mark) for _, mark in _marks(*self.upward, self.upward_step))
        return max(_LEFT, 8 + _LETTER * longest)

    def x(self, value: float) -> float:
        low, high = self.across
        return self.left + (value - low) / (high - low) * (_WIDTH - self.left - _RIGHT)

    def y(self, value: float) -> float:
        low, high = self.upward
        return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    def drawn(self, x: str, y: str) -> str:
        left, floor = self.left, self.upward[0]
        lines = []
        for value, mark in _marks(*self.upward, self.upward_step):
            lines.append(
                f'<path class="grid" d="M{left:.1f} {self.y(value):.1f}H{_WIDTH - _RIGHT}"/>'
                f'<text class="tick end" x="{left - 5:.1f}" y="{self.y(value) + 3.5:.1f}">{mark}</text>'
            )
        for value in _ticks(*self.across, self.across_step):
            lines.append(
                f'<text class="tick middle" x="{self.x(value):.1f}" y="{_HEIGHT - _BOTTOM + 14}">{number(value)}</text>'
            )
        if floor == 0:  # a solid line at the bottom reads as zero, so there is none elsewhere
            lines.append(f'<path class="axis" d="M{left:.1f} {_HEIGHT - _BOTTOM}H{_WIDTH - _RIGHT}"/>')
        else:
            y = f"{y}, axis from {_marks(*self.upward, self.upward_step)[0][1]}"
        lines.append(
            f'<text class="tick end" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 4}">{text(x)}</text>'
            f'<text class="tick" x="2" y="{_HEIGHT - 4}">{text(y)}</text>'
        )
        return "".join(lines)


def _axes(positions: Sequence[float], values: Sequence[float], *, percent: bool) -> _Axes:
    """Axes for the points, which begin and end at marks: so both ends have a number, and no line touches the frame."""
    low, high = _spanned(min(positions), max(positions))
    across_step = _step(low, high)
    if all(float(at).is_integer() for at in positions):
        across_step = max(1.0, across_step)  # epochs and views
    across = _outward(low, high, across_step)
    low, high = _spanned(min(values), max(values))
    step = _step(low, high)
    low, high = _outward(low, high, step)
    return _Axes(across, (max(low, 0.0), min(high, 100.0)) if percent else (low, high), across_step, step)


def _outward(low: float, high: float, step: float) -> tuple[float, float]:
    """The range, widened to multiples of ``step``."""
    return math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step


def _style(order: int) -> str:
    """The classes of a line: its colour and its dashes, a pair that no other of the first 36 lines has."""
    return f"s{order % _STYLES} d{(order + order // _STYLES) % _STYLES}"


def _legend(line: Series, order: int) -> str:
    """The name of a line beside a piece of it, with its dashes and dots."""
    dot = '<circle cx="16" cy="4" r="2.5"/>' if _has_dots(line) else ""
    piece = f'<svg class="key line" viewBox="0 0 32 8" aria-hidden="true"><path d="M0 4H32"/>{dot}</svg>'
    return f'<li class="{_style(order)}">{piece}{text(line.name)}</li>'


def _has_dots(line: Series) -> bool:
    return line.dots or sum(value is not None for _, value in line.points) == 1


def _line(line: Series, order: int, axis: _Axes) -> str:
    words, pen_down = [], False
    for at, value in line.points:
        if value is not None:
            words.append(f"{'L' if pen_down else 'M'}{axis.x(at):.1f} {axis.y(value):.1f}")
        pen_down = value is not None
    known = [(at, value) for at, value in line.points if value is not None]
    dots = known if _has_dots(line) else ()
    circles = "".join(f'<circle cx="{axis.x(at):.1f}" cy="{axis.y(value):.1f}" r="2.5"/>' for at, value in dots)
    return f'<g class="line {_style(order)}"><path d="{"".join(words)}"/>{circles}</g>'


def _band(gap: tuple[float, float], axis: _Axes) -> str:
    """The part of a chart of which nothing is known."""
    left, right = axis.x(gap[0]), axis.x(gap[1])
    width, height = max(right - left, _NARROWEST), _HEIGHT - _TOP - _BOTTOM
    return f'<rect class="gap" x="{left:.1f}" y="{_TOP}" width="{width:.1f}" height="{height}"/>'


def _thinned(points: Sequence[tuple[float, float | None]], size: int) -> list[tuple[float, float | None]]:
    """The mean of each ``size`` neighbouring points, at the middle one of them."""
    points = [(at, value if value is not None and math.isfinite(value) else None) for at, value in points]
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


def _marks(low: float, high: float, step: float) -> list[tuple[float, str]]:
    """The marks of the vertical axis and how they are written: alike, as short as possible, and no two the same."""
    values = _ticks(low, high, step)
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    written = [f"{value:.{decimals}f}" for value in values]
    if max(map(len, written)) > _TICK_LETTERS:
        by_thousands = [amount] if low >= 0 and step >= 1000 else []
        ways = [*by_thousands, *(f"{{:.{digits}g}}".format for digits in range(2, 18))]
        written = next(found for way in ways if len(set(found := [way(value) for value in values])) == len(values))
    marks = ["0" if value == 0 else mark.replace("-", "−") for value, mark in zip(values, written, strict=True)]
    return list(zip(values, marks, strict=True))


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
    caption = f"{title}: values" + (f", every {size}th row" if size > 1 else "")
    content = table(caption, [x, *(line.name for line in series)], rows, numeric=True)
    return f"<details><summary>Values as a table</summary>{content}</details>"
