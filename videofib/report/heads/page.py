"""The folder of what heads do: a page that needs nothing else, and the figures.

::

    index.html   the page
    heads.json   all figures but the arrays below
    heads.npz    of layer l: recall_l (H, K), fields_l (H, K, K), cka_l, maps_l, pairs_l (H, H) where there are any
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from videofib.files import replacing
from videofib.report.heads.alone import alone_html, clusters_html, null_html
from videofib.report.heads.found import HeadsFound, as_json
from videofib.report.heads.together import alike_html, removed_html
from videofib.report.markup.html import document, text
from videofib.report.markup.numbers import counted, number, percent

_ARRAYS = ("recall", "fields", "cka", "maps", "pairs")


def write_heads(folder: str | Path, found: HeadsFound) -> Path:
    """Write the files above, the page last; returns its path.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "heads.npz") as partial, partial.open("wb") as file:
        np.savez_compressed(file, **_arrays(found))
    figures = as_json(found)
    for layer in figures["layers"]:
        for name in _ARRAYS:
            del layer[name]
    with replacing(folder / "heads.json") as partial:
        partial.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    page = folder / "index.html"
    with replacing(page) as partial:
        partial.write_text(_page(found), encoding="utf-8")
    return page


def _arrays(found: HeadsFound) -> dict[str, Any]:
    return {
        f"{name}_{index}": getattr(layer, name)
        for index, layer in enumerate(found.layers)
        for name in _ARRAYS
        if getattr(layer, name) is not None
    }


def _page(found: HeadsFound) -> str:
    parts = [
        ("alone", "What each head recognises alone", alone_html(found)),
        ("null", "Are heads more specialised than random groups?", null_html(found)),
        ("removed", "What is lost without a head", removed_html(found)),
        ("alike", "How alike heads are", alike_html(found)),
        ("clusters", "Fields and clusters", clusters_html(found)),
        ("reading", "How to read this page", _reading(found)),
    ]
    best = max(found.layers, key=lambda layer: layer.readout)
    heads = sum(len(layer.labels) for layer in found.layers)
    tiles = [
        ("Model", percent(found.accuracy), f"top-1, one view of {counted(found.num_videos, 'video', 'videos')}"),
        ("Heads", number(heads), f"in {counted(len(found.layers), 'layer', 'layers')}"),
        ("Best readout", percent(best.readout), f"{best.title}, all heads"),
        ("Chance", percent(100 / len(found.classes)), f"{number(len(found.classes))} classes"),
    ]
    shown = "".join(
        f"<div><dt>{text(name)}</dt><dd>{text(value)}<small>{text(note)}</small></dd></div>"
        for name, value, note in tiles
    )
    left_out = f" {counted(found.unreadable, 'video', 'videos')} could not be read." if found.unreadable else ""
    without = f" Without heads to look at: blocks.{', blocks.'.join(found.without)}." if found.without else ""
    head = (
        f'<h1>What heads do</h1>\n<p class="sub">Model {text(found.model)}; readouts fitted on '
        f"{counted(found.num_fitted, 'training video', 'training videos')}, figures of the {text(found.split)} split."
        f'{left_out}{text(without)}</p>\n<dl class="tiles">{shown}</dl>'
    )
    return document(f"What heads do: {found.model}", head, parts)


def _reading(found: HeadsFound) -> str:
    notes = [
        f"<strong>Outputs of heads</strong> are what the output projection takes, before it mixes heads, of "
        f"{text(found.pooled_from)}; layers that do not have it (attention over time) give the mean of their patches. "
        "A class token sees all patches in every head: what a head's offsets do in the same layer shows in "
        "outputs of patches alone (--patches). A head's name is its index and, where heads see different pairs, its "
        "offsets, by which heads are sorted.",
        "<strong>Alone</strong>: a linear readout of all heads of a layer is fitted on training videos; then only the "
        "weights of one head are kept, and the others are held at their training mean. A head that is poor alone may "
        "still be needed: look at what is lost without it.",
        f"<strong>Random groups</strong>: {number(found.draws)} random splits of the same numbers into groups of the "
        "same size, with the same readout. p is two-sided, for one figure of one layer; of twenty such figures one "
        "is below 0.05 by chance alone. A head's numbers share one attention map, so that heads may differ from random "
        "groups without being experts for classes.",
        "<strong>Removed</strong>: a head's output is set to 0 for every token, without training again. Later blocks "
        "get less than they were trained with, which counts as loss, too.",
        "<strong>Alike</strong>: pairs, in both heads / in either (Jaccard); attention maps, Jensen-Shannon divergence "
        "in bits, 0 alike and 1 nothing in common; outputs, linear CKA, 1 alike.",
    ]
    return "".join(f"<p>{note}</p>" for note in notes)
