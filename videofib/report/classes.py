"""The classes of a test: which are hard, and which are confused with which."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image

from videofib.metrics.accuracy import most_confused
from videofib.metrics.intervals import wilson_interval
from videofib.report.analysis import confusion
from videofib.report.markup.html import data_uri, table, text
from videofib.report.markup.matrix import matrix_table
from videofib.report.markup.numbers import interval, number, percent
from videofib.report.scored_videos import ScoredVideos

_LARGEST_TABLE = 40  # classes; where there are more, the matrix is a picture
_EXTREMES = 10  # best and worst classes shown, where there are many
_PAIRS = 20
_BESIDE = 12  # classes whose matrix fits beside their table


def classes_html(results: dict, scored: ScoredVideos | None) -> str:
    """Every class by its accuracy (or average precision) and, where videos have one class, the confusion matrix."""
    every, matrix = _by_figure(results), _confusion(scored) if scored and not scored.multi_label else ""
    if every and matrix and len(scored.class_names) <= _BESIDE:
        return f'<div class="pair"><div>{every}</div><div>{matrix}</div></div>'
    return every + matrix


def _by_figure(results: dict) -> str:
    precision = "per_class_ap" in results
    figures = results.get("per_class_ap" if precision else "per_class_acc") or {}
    unknown = {name for name, value in figures.items() if value is None or not math.isfinite(value)}
    known = sorted(((name, figures[name]) for name in figures if name not in unknown), key=lambda pair: pair[1])
    if not known:
        return ""
    what = "average precision" if precision else "accuracy"
    counts = results.get("per_class_videos") or {}  # which results of earlier versions lack
    rows = [
        [text(name), f"{_bar(value)}{percent(value)}", *_certainty(value, counts, name, precision)]
        for name, value in known
    ]
    header = ["class", what, *(_CERTAINTY[: 1 if precision else 2] if counts else ())]
    if len(rows) <= 2 * _EXTREMES:
        content = table(f"Classes by {what}, lowest first", header, rows, raw=True)
    else:
        worst = table(f"The {_EXTREMES} classes with the lowest {what}", header, rows[:_EXTREMES], raw=True)
        best = table(f"The {_EXTREMES} classes with the highest {what}", header, rows[::-1][:_EXTREMES], raw=True)
        every = table(f"All {len(rows)} classes by {what}", header, rows, raw=True)
        content = (
            f'<div class="pair">{worst}{best}</div><details><summary>All {len(rows)} classes</summary>{every}</details>'
        )
    if unknown:
        content += f"<p>Without test videos: {text(', '.join(name for name in figures if name in unknown))}.</p>"
    return content


_CERTAINTY = ("videos", "95 % interval")


def _certainty(value: float, counts: dict[str, int], name: str, precision: bool) -> list[str]:
    """The cells that say how much a class's figure can be trusted: its videos and, of an accuracy, the interval."""
    if not counts:
        return []
    count = counts.get(name) or 0
    videos = number(count)
    return [videos] if precision else [videos, interval(wilson_interval(round(value / 100 * count), count))]


def _confusion(scored: ScoredVideos) -> str:
    """The full matrix, and the most confused pairs."""
    counts = confusion(scored)
    matrix = counts.numpy()
    if not matrix.sum():
        return ""
    names = scored.class_names
    drawn = _matrix_table(matrix, names) if len(names) <= _LARGEST_TABLE else _matrix_picture(matrix)
    totals = matrix.sum(axis=1)
    rows = [
        [f"{names[true]} → {names[predicted]}", number(videos), percent(100 * videos / totals[true])]
        for true, predicted, videos in most_confused(counts, _PAIRS)
    ]
    if not rows:
        return f"{drawn}<p>Every readable video was classified correctly.</p>"
    header = ["true → predicted class", "videos", "of the class"]
    return drawn + table("Most confused pairs of classes", header, rows, numeric=True)


def _matrix_table(matrix: np.ndarray, names) -> str:
    return matrix_table(
        "Videos; rows: true, columns: predicted",
        "true class",
        names,
        names,
        [[str(videos) for videos in row] for row in matrix],
        matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1),
        own=np.eye(len(names), dtype=bool),
        label="Confusion matrix",
    )


def _matrix_picture(matrix: np.ndarray) -> str:
    """One pixel for each cell: its share of the row as opacity, which suits a light and a dark page."""
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    pixels = np.zeros((*matrix.shape, 4), np.uint8)
    own = np.eye(len(matrix), dtype=bool)
    pixels[..., :3] = np.where(own[..., None], (59, 130, 246), (249, 115, 22))
    pixels[..., 3] = np.round(255 * np.sqrt(shares))  # the root, so that small shares are visible
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", optimize=True)
    alt = f"Confusion matrix of {len(matrix)} classes; the most confused pairs are in the table below"
    caption = (
        "Rows are true classes, the first at the top; columns are predicted classes. Blue is right, orange wrong; the "
        "stronger the colour, the larger its share of the row."
    )
    address, size = data_uri("png", buffer.getvalue()), len(matrix)
    picture = f'<img src="{address}" width="{size}" height="{size}" alt="{alt}">'
    return f'<figure class="heat">{picture}<figcaption>{caption}</figcaption></figure>'


def _bar(value: float) -> str:
    return f'<span class="bar" style="--share:{value / 100:.3f}" aria-hidden="true"></span>'
