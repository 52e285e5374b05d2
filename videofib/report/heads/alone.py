"""What heads recognise by themselves: recall, the null of random groups, fields and their clusters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from videofib.report.heads.fields import THRESHOLD
from videofib.report.heads.found import HeadsFound, LayerFound
from videofib.report.heads.pictures import field_picture
from videofib.report.heads.specialisation import FIGURES, Compared
from videofib.report.markup.html import table, text
from videofib.report.markup.matrix import matrix_table
from videofib.report.markup.numbers import number, percent, probability

_MOST_COLUMNS = 24  # classes of a table; of more, each head's best are listed
_BEST = 5
_MOST_LISTED = 8  # clusters
_DECIMALS = {"alone": 1, "margin": 1, "entropy": 3, "label_overlap": 3, "cka": 3}
_ALPHA = 0.05


def alone_html(found: HeadsFound) -> str:
    """Each head's recall of each class, layer by layer."""
    intro = (
        '<p class="sub">Recall of each class, in percent, by one head of a layer; in bold the best head for a class, '
        f"if it is above chance, {percent(100 / len(found.classes))}.</p>"
    )
    if len(found.classes) > _MOST_COLUMNS:
        return intro + "".join(_best_classes(layer, found.classes) for layer in found.layers)
    return f'{intro}<div class="pair">{"".join(_recall(layer, found.classes) for layer in found.layers)}</div>'


def _recall(layer: LayerFound, classes: Sequence[str]) -> str:
    values = 100 * layer.recall
    best = np.nan_to_num(values, nan=-1.0)
    best = (best == best.max(axis=0)) & (best > 100 / len(classes))
    caption = f"{layer.title}: all heads together {percent(layer.readout)}"
    written = [[f"{value:.0f}" if np.isfinite(value) else "" for value in row] for row in values]
    return matrix_table(caption, "head", layer.labels, classes, written, np.nan_to_num(layer.recall), own=best)


def _best_classes(layer: LayerFound, classes: Sequence[str]) -> str:
    rows = []
    for label, recall in zip(layer.labels, layer.recall, strict=True):
        order = np.argsort(-np.nan_to_num(recall, nan=-1.0), kind="stable")[:_BEST]
        rows.append([label, percent(100 * float(np.nanmean(recall)))])
        rows[-1].append(", ".join(f"{classes[k]} {percent(100 * recall[k])}" for k in order))
    caption = f"{layer.title}: all heads together {percent(layer.readout)}"
    return table(caption, ["head", "mean recall", "recognises best"], rows)


def null_html(found: HeadsFound) -> str:
    """Each figure of specialisation beside its range for random groups."""
    limit = _ALPHA / (len(found.layers) * len(FIGURES))
    parts = []
    for name, about in FIGURES.items():
        rows = [_compared(layer.title, layer.compared[name], _DECIMALS[name], limit) for layer in found.layers]
        header = ["layer", "heads", "groups", "95 % of groups", "p"]
        parts.append(f"<div>{table(about[0].upper() + about[1:], header, rows, numeric=True)}</div>")
    return (
        '<p class="sub">The figures of the heads, beside the mean and the middle 95 % of those of random groups of as '
        f"many numbers; * where p is below {number(limit)}, {_ALPHA} divided by the "
        f'{len(found.layers) * len(FIGURES)} figures here.</p>\n<div class="pair">{"".join(parts)}</div>'
    )


def _compared(title: str, figure: Compared, decimals: int, limit: float) -> list[str]:
    def write(value: float) -> str:
        return f"{value:.{decimals}f}".replace("-", "−") if np.isfinite(value) else "–"

    p_value = f"{probability(figure.p_value)}{'*' if figure.p_value < limit else ''}"
    return [title, write(figure.value), write(figure.mean), f"{write(figure.low)} to {write(figure.high)}", p_value]


def clusters_html(found: HeadsFound) -> str:
    """The field matrices of heads, their clusters, and those of single nodes."""
    nodes = [
        [layer.title, *(f"{value:.2f}" if np.isfinite(value) else "no noise" for value in layer.node_clusters)]
        for layer in found.layers
    ]
    parts = [
        '<p class="sub">Column: the class of a video; row: the mean field that a head alone gives to a class (blue: '
        "for it, orange: against it), as a share of its largest. Classes are in the order of their clusters: sets "
        f"whose fields for each other are all above {THRESHOLD:g}. A head that told classes apart perfectly would "
        "have the diagonal alone.</p>",
        table(
            "Clusters of single numbers of the heads' outputs",
            ["layer", "clusters each", "classes in a cluster", "signal to noise"],
            nodes,
            numeric=True,
        ),
        *(_layer_clusters(layer, found.classes) for layer in found.layers),
    ]
    return "".join(parts)


def _layer_clusters(layer: LayerFound, classes: Sequence[str]) -> str:
    cards = []
    for label, matrix, one in zip(layer.labels, layer.fields, layer.clusters, strict=True):
        order = [*one.labels, *(k for k in range(len(classes)) if k not in one.labels)]
        members = "; ".join(" + ".join(classes[k] for k in cluster) for cluster in one.members[:_MOST_LISTED])
        more = f"; and {len(one.members) - _MOST_LISTED} more" if len(one.members) > _MOST_LISTED else ""
        picture = field_picture(matrix, order, f"Fields of head {label}, {layer.title}")
        cards.append(
            f'<li class="card">{picture}<h3><em>Head {text(label)}</em></h3><p class="id">Clusters: '
            f"{text(members or 'none')}{more}. {one.signal} strong fields in them, {one.noise} elsewhere.</p></li>"
        )
    return (
        f"<details{' open' if len(classes) <= _MOST_COLUMNS else ''}><summary>{text(layer.title.capitalize())}"
        f'</summary><ul class="cards">{"".join(cards)}</ul></details>'
    )
