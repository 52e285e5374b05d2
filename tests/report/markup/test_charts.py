"""Charts show their values, whatever these are."""

import html
import json
import math
import re
from xml.etree import ElementTree

import pytest

from videofib.report.markup.charts import Series, _step, _ticks, line_chart, svg_file
from videofib.report.markup.html import breakable
from videofib.report.markup.style import STYLE


def test_points_are_drawn_to_scale_and_gaps_are_left():
    points = [(0, 1.0), (1, None), (2, 3.0), (3, math.nan), (4, 5.0), (5, 5.0)]
    chart = line_chart("Loss", [Series("training", points)], x="epoch", y="loss")
    path = ElementTree.fromstring(chart).find(".//g/path").attrib["d"]
    assert path.count("M") == 3
    xs, ys = zip(*((float(x), float(y)) for x, y in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)), strict=True)
    assert (xs[1] - xs[0]) / (xs[3] - xs[0]) == pytest.approx(2 / 5, abs=0.01)
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], abs=0.2)
    assert "from 1 at 0 to 5 at 5" in chart


def test_long_lines_are_thinned_but_keep_their_mean():
    points = [(n, float(n % 7)) for n in range(10_001)]
    chart = line_chart("Loss", [Series("a", points)], x="step", y="loss")
    drawn = json.loads(html.unescape(re.search(r'data-lines="([^"]*)"', chart)[1]))["a"]
    assert 200 < len(drawn) <= 400
    assert sum(value for _, value in drawn) / len(drawn) == pytest.approx(3, abs=0.05)
    assert chart.count("<tr>") <= 103
    assert "Each point is the mean of 26 neighbouring ones." in chart
    assert "values, every 4th row" in chart


def test_nothing_to_draw_is_no_chart():
    assert line_chart("Loss", [Series("a", []), Series("b", [(1, None)])], x="x", y="y") == ""


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-3, 3), (0.1, 5), (1e-9, 3e-9), (0, 1e12), (99.9, 100), (-1e-5, 1), (2.00001, 2.00002)]
)
def test_ticks_are_few_round_and_within(low, high):
    ticks = _ticks(low, high, _step(low, high))
    assert 3 <= len(ticks) <= 9
    slack = 1e-6 * (high - low)
    assert all(low - slack <= tick <= high + slack for tick in ticks)


def ticks(chart, kind):
    """Marks of the vertical axis (``end``) or the horizontal one (``middle``), without the axes' names."""
    nodes = ElementTree.fromstring(chart).iter("text")
    return [node.text for node in nodes if node.attrib["class"] == f"tick {kind}" and node.text != "epoch"]


def test_the_vertical_axis_ends_at_marks_with_equal_decimals():
    points = [(0, 2.154), (1, 2.1), (2, 2.079)]
    assert ticks(line_chart("Loss", [Series("a", points)], x="epoch", y="loss"), "end") == [
        *("2.06", "2.08", "2.10", "2.12", "2.14", "2.16")
    ]


def test_epochs_are_marked_by_whole_numbers_alone():
    assert ticks(line_chart("Loss", [Series("a", [(1, 3.0), (2, 2.0)])], x="epoch", y="loss"), "middle") == ["1", "2"]
    assert "1.5" in ticks(line_chart("Loss", [Series("a", [(0.5, 3.0), (2, 2.0)])], x="epoch", y="loss"), "middle")


@pytest.mark.parametrize("value", [0.0, 5.0, -2.0, 1e-12, 1e15])
def test_a_single_value_can_be_drawn(value):
    assert "<circle" in line_chart("Loss", [Series("a", [(1, value)])], x="x", y="y")


@pytest.mark.parametrize(
    ("low", "high"), [(2.00001, 2.00002), (0, 1e12), (12_000, 12_500), (-3e-7, 5e-7), (99.9991, 99.9999), (1, 1e6)]
)
def test_marks_are_written_differently_and_fit_beside_the_axis(low, high):
    chart = line_chart("Loss", [Series("a", [(0, low), (1, high)])], x="epoch", y="loss")
    nodes = [node for node in ElementTree.fromstring(chart).iter("text") if node.attrib["class"] == "tick end"]
    marks = [node for node in nodes if node.text != "epoch"]
    assert len({node.text for node in marks}) == len(marks) > 2
    assert all(float(node.attrib["x"]) >= 6 * len(node.text) for node in marks)  # letters are 6 pixels wide


@pytest.mark.parametrize(("first", "last"), [(62.5, 81.0), (0.0, 3.0), (-2.5, 1.0)])
def test_both_ends_of_both_axes_have_a_mark_and_only_zero_a_solid_line(first, last):
    chart = line_chart("Accuracy", [Series("a", [(0.67, first), (3.67, last)])], x="epoch", y="value")
    drawn = ElementTree.fromstring(chart)
    texts = [(node.attrib["class"], node.text) for node in drawn.iter("text")]
    upward = [float(mark.replace("−", "-")) for kind, mark in texts if kind == "tick end" and mark != "epoch"]
    across = [float(mark) for kind, mark in texts if kind == "tick middle"]
    assert (across[0], across[-1]) == (0.5, 4.0)
    assert upward[0] <= first < last <= upward[-1]
    solid = [path for path in drawn.iter("path") if path.attrib.get("class") == "axis"]
    name = next(mark for kind, mark in texts if kind == "tick")
    assert (len(solid), "axis from" in name) == ((1, False) if first == 0 else (0, True))
    assert name in ("value", "value, axis from 60", "value, axis from −3")


def test_the_legend_shows_lines_as_they_are_drawn_and_no_two_look_alike():
    lines = [Series(f"run {n}", [(0, n), (1, n)], dots=n % 2 == 0) for n in range(9)]
    drawn = ElementTree.fromstring(line_chart("Loss", lines, x="epoch", y="loss"))
    legend = [(node.attrib["class"], node.find("svg/circle") is not None) for node in drawn.iter("li")]
    lines = [
        (node.attrib["class"].removeprefix("line "), node.find("circle") is not None)
        for node in drawn.iter("g")
        if node.attrib["class"].startswith("line")
    ]
    assert legend == lines
    assert len(set(lines)) == 9
    assert all(node.find("svg/path") is not None for node in drawn.iter("li"))  # which has the dashes of its class
    for dashes in {style.split()[1] for style, _ in lines} - {"d0"}:
        assert f".{dashes} path {{ stroke-dasharray: " in STYLE


def test_names_in_charts_are_escaped():
    chart = line_chart("<b>", [Series("</svg><script>", [(0, 1), (1, 2)]), Series("b", [(0, 2)])], x="<i>", y='"')
    found = ElementTree.fromstring(chart)
    assert {element.tag for element in found.iter()} & {"script", "b", "i"} == set()


def test_labels_of_small_values_are_short():
    chart = line_chart("Rate", [Series("a", [(0, 0.0), (1, 0.00002)])], x="epoch", y="rate")
    ticks = [node.text for node in ElementTree.fromstring(chart).iter("text") if node.attrib["class"] == "tick end"]
    assert {"0", "1e−05", "2e−05"} <= set(ticks)


@pytest.mark.parametrize("value", [0.0, 100.0])
def test_an_axis_of_percentages_stays_between_0_and_100(value):
    chart = line_chart("Accuracy", [Series("a", [(0, value), (1, value)])], x="views", y="%")
    ticks = [node.text for node in ElementTree.fromstring(chart).iter("text") if node.attrib["class"] == "tick end"]
    assert all(0 <= float(tick) <= 100 for tick in ticks if tick != "views")


def test_paths_and_keys_may_break_but_numbers_may_not():
    assert breakable("runs/v_a-b.mp4") == "runs/<wbr>v_<wbr>a-<wbr>b.<wbr>mp4"
    assert breakable("/tmp & 0.25, 1.0.2") == "/tmp &amp; 0.25, 1.0.2"


def test_a_file_of_its_own_is_svg_whatever_the_names():
    names = ["<b>&'\"", "esc\x1b[2J\nname", "x" * 100]
    series = [Series(name, [(at, 10.0 * number) for at in range(900)]) for number, name in enumerate(names)]
    drawing = svg_file("Title", series, x="time, seconds", y="%", lowest=0, highest=100)
    root = ElementTree.fromstring(drawing)
    texts = ["".join(node.itertext()) for node in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "Title (means of 3 neighbouring points)" in texts
    assert texts[-3:] == ["<b>&'\"", r"esc\x1b[2J\nname", "x" * 43 + "…"]
    lines = [node for node in root.iter("{http://www.w3.org/2000/svg}g") if len(node[0].get("d")) > 100]
    assert len(lines) == 3
    with pytest.raises(ValueError, match="nothing to draw"):
        svg_file("Title", [Series("a", [(0, None)])], x="x", y="y")
