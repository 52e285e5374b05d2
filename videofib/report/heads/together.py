"""What heads do beside each other: what the model loses without some, and how much they have in common."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from videofib.report.heads.found import HeadsFound, LayerFound, Removal
from videofib.report.heads.specialisation import off_diagonal_mean
from videofib.report.markup.charts import Series, line_chart
from videofib.report.markup.html import table, text
from videofib.report.markup.matrix import matrix_table
from videofib.report.markup.numbers import number, percent, points, probability

_ALPHA = 0.05
_KINDS = {  # of a matrix of heads by heads -> its name, and what 1 means
    "pairs": "Pairs that two heads see (Jaccard)",
    "maps": "Divergence of attention maps, bits",
    "cka": "Linear CKA of outputs",
}


def removed_html(found: HeadsFound) -> str:
    """One head at a time, one in all layers, and heads one after the other."""
    count = sum(len(layer.labels) for layer in found.layers)
    limit = _ALPHA / (count + sum(map(len, found.everywhere.values())))
    parts = [
        f'<p class="sub">The full model has {percent(found.accuracy)}. Changes in percentage points, with their 95 % '
        f"interval; p of McNemar's test, * where it is below {number(limit)}, {_ALPHA} divided by the number of "
        "removals here; and the change of the mean log-probability of the true class, in nats.</p>"
    ]
    for axis, rows in found.everywhere.items():
        names = found.everywhere_labels[axis]
        where = "every block" if axis == "space-time" else f"every block, {axis}"
        parts.append(_removals(f"Without the same head of {where}", names, rows, limit))
    tables = [
        f"<div>{_removals(f'Without one head of {layer.title}', layer.labels, layer.removed, limit)}</div>"
        for layer in found.layers
    ]
    parts.append(f'<div class="pair">{"".join(tables)}</div>')
    parts.append(_cumulative(found))
    return "".join(parts)


def _removals(caption: str, labels: Sequence[str], rows: Sequence[Removal], limit: float) -> str:
    lines = [
        [
            label,
            points(one.change),
            f"{points(one.interval[0])} to {points(one.interval[1])}",
            f"{probability(one.p_value)}{'*' if one.p_value < limit else ''}",
            f"{one.log_probability:+.3f}".replace("-", "−"),
        ]
        for label, one in zip(labels, rows, strict=True)
    ]
    header = ["head", "accuracy", "95 % interval", "p", "log-prob."]
    return table(caption, header, lines, numeric=True)


def _cumulative(found: HeadsFound) -> str:
    one = found.cumulative
    random = np.array(one.random)
    series = [
        Series("most useful first", list(zip(one.counts, one.most, strict=True)), True),
        Series("least useful first", list(zip(one.counts, one.least, strict=True)), True),
    ]
    if len(random):
        series.append(Series(f"random, mean of {len(random)}", list(zip(one.counts, random.mean(axis=0), strict=True))))
        series.append(Series("random, best of them", list(zip(one.counts, random.max(axis=0), strict=True))))
        series.append(Series("random, worst of them", list(zip(one.counts, random.min(axis=0), strict=True))))
    chart = line_chart("Accuracy as heads are removed", series, x="heads removed", y="%", lowest=0, highest=100)
    order = ", ".join(f"{found.layers[layer].title} head {found.layers[layer].labels[row]}" for layer, row in one.order)
    return (
        '<p class="sub">Heads of all layers, one after the other, in the order of what the log-probability of the true '
        f'class loses without each alone on training videos.</p>\n<div class="charts">{chart}</div>\n'
        f"<details><summary>The order, most useful first</summary><p>{text(order)}</p></details>"
    )


def alike_html(found: HeadsFound) -> str:
    """Means over pairs of heads of each layer, and all pairs."""
    rows = [
        [layer.title, *(_mean(getattr(layer, kind)) for kind in _KINDS), _null_of_cka(layer)] for layer in found.layers
    ]
    header = ["layer", *_KINDS.values(), "CKA of random groups, 95 %"]
    matrices = "".join(
        f"<details><summary>{text(layer.title.capitalize())}: every pair</summary>"
        f'<div class="pair">{"".join(_matrix(layer, kind) for kind in _KINDS)}</div></details>'
        for layer in found.layers
    )
    return table("Means over all pairs of heads", header, rows, numeric=True) + matrices


def _mean(matrix: np.ndarray | None) -> str:
    mean = float("nan") if matrix is None else off_diagonal_mean(matrix)
    return f"{mean:.3f}" if np.isfinite(mean) else "–"


def _null_of_cka(layer: LayerFound) -> str:
    cka = layer.compared["cka"]
    return f"{cka.low:.3f} to {cka.high:.3f}" if np.isfinite(cka.low) else "–"


def _matrix(layer: LayerFound, kind: str) -> str:
    matrix = getattr(layer, kind)
    if matrix is None:
        return ""
    written = [[f"{value:.2f}" for value in row] for row in matrix]
    nowhere = np.zeros(matrix.shape, bool)
    return matrix_table(_KINDS[kind], "head", layer.labels, layer.labels, written, matrix.clip(0, 1), own=nowhere)
