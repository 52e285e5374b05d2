"""The folder of an explanation: a page that needs nothing else, animations, and the heat as numbers.

::

    index.html                          the page, with all pictures in it
    view_1_rollout.webp, _gradcam.webp  the frames, and beside them the frames with heat over them
    explain.json                        classes and probabilities, and which frames and crops the views show
    explain.npz                         rollout, gradcam (V, t, h, w); heads (V, A, t, h, w); frames (V, T)
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from videofib.files import replacing, to_utf8
from videofib.report.browse.contact_sheet import save_animation
from videofib.report.explanation.explained import FRACTIONS, METHODS, RANDOM, ExplainedView, Explanation
from videofib.report.explanation.pictures import RAMP, overlaid, resized, scaled, side_by_side
from videofib.report.markup.charts import Series, line_chart
from videofib.report.markup.html import breakable, document, table, text
from videofib.report.markup.numbers import counted, number, percent
from videofib.report.markup.player import joined, player

_HEAD_SIDE = 112  # pixels of the pictures of heads
_SMALL, _ACROSS = 96, 16  # pixels and frames of the overview
_ABOUT = {
    "rollout": "Through which patches attention reached the features, over all blocks, whatever the class. Colour runs "
    "from the least to the most of this clip.",
    "gradcam": "Where the features that raise the score of {label} are. No colour: none, or features that lower it.",
}


def write_explanation(folder: str | Path, explanation: Explanation) -> Path:
    """Write the files above, the page last; returns its path.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, clip in animations(explanation):
        save_animation(folder / f"{name}.webp", clip)
    with replacing(folder / "explain.npz") as partial, partial.open("wb") as file:
        np.savez_compressed(file, **_arrays(explanation))
    with replacing(folder / "explain.json") as partial:
        partial.write_text(json.dumps(_summary(explanation), indent=1) + "\n", encoding="utf-8")
    page = folder / "index.html"
    with replacing(page) as partial:
        partial.write_text(_page(explanation), encoding="utf-8")
    return page


def animations(explanation: Explanation) -> list[tuple[str, np.ndarray]]:
    """For each view and method a name, and the frames beside those with heat: (T, H, W, 3) uint8, H and W even."""
    found = []
    for number_, view in enumerate(explanation.views, 1):
        frames = resized(view.clip.frames)
        found += [
            (f"view_{number_}_{method}", side_by_side(frames, overlaid(frames, _shown(method, heat))))
            for method, heat in view.heat.items()
        ]
    return found


def _shown(method: str, heat: np.ndarray) -> np.ndarray:
    return scaled(heat, from_zero=method == "gradcam")


def _arrays(explanation: Explanation) -> dict[str, Any]:
    frames = np.array([list(view.clip.indices) for view in explanation.views])
    arrays: dict[str, Any] = {**explanation.heat, "frames": frames}
    heads = [view.heads for view in explanation.views if view.heads is not None]
    return {**arrays, "heads": np.stack(heads)} if heads else arrays


def _summary(explanation: Explanation) -> dict[str, object]:
    names = [to_utf8(name) for name in explanation.classes]
    return {
        "video": to_utf8(explanation.video),
        "model": to_utf8(explanation.model),
        "class": names[explanation.label],
        "methods": list(explanation.heat),
        "block": explanation.block,
        "deletion_areas": explanation.areas(),
        "grid": {name: list(heat.shape[1:]) for name, heat in explanation.heat.items()},
        "probabilities": dict(zip(names, map(float, explanation.probabilities), strict=True)),
        "views": [
            {
                "title": view.clip.title,
                "frames": list(view.clip.indices),
                "video_length": view.clip.video_length,
                "frame_size": list(view.clip.full_frame.shape[:2]),
                "box": list(view.clip.box),
                "probabilities": dict(zip(names, map(float, view.probabilities), strict=True)),
                "prefix_share": view.prefix,
            }
            for view in explanation.views
        ],
    }


def _page(explanation: Explanation) -> str:
    parts = []
    for rank, view in enumerate(explanation.views, 1):
        title = view.clip.title.capitalize() if len(explanation.views) > 1 else "What it looked at"
        parts.append((f"view{rank}", title, _view(explanation, view, rank)))
        parts.append((f"heads{rank}", f"Heads of the last block{_of(explanation, rank)}", _heads(explanation, rank)))
    parts.append(("deletion", "Does it need what is hot?", _deletion(explanation)))
    parts.append(("classes", "Classes", _classes(explanation)))
    parts.append(("reading", "How to read this", _reading(explanation)))
    video = Path(explanation.video).name or "frames in memory"
    frames = counted(len(explanation.views[0].clip.indices), "frame", "frames")
    best, probability = explanation.top(1)[0]
    tiles = {"most probable class": (best, percent(100 * probability))}
    if "gradcam" in explanation.heat:
        value = percent(100 * float(explanation.probabilities[explanation.label]))
        tiles["class that Grad-CAM explains"] = (explanation.explained, value)
    tiles["views"] = (number(len(explanation.views)), f"of {frames} each")
    shown = "".join(
        f'<div><dt>{name}</dt><dd style="font-size:1.15rem">{text(value)}<small>{note}</small></dd></div>'
        for name, (value, note) in tiles.items()
    )
    head = (
        f"<h1>What the model looked at: {breakable(video)}</h1>\n"
        f'<p class="sub">by {breakable(explanation.model)}</p>\n<dl class="tiles">{shown}</dl>\n'
        '<p><button type="button" class="all" aria-pressed="false">Play all</button></p>'
    )
    return document(f"What the model looked at: {video}", head, parts)


def _of(explanation: Explanation, rank: int) -> str:
    return f", {explanation.views[rank - 1].clip.title}" if len(explanation.views) > 1 else ""


def _classes(explanation: Explanation) -> str:
    explained = explanation.explained if "gradcam" in explanation.heat else None
    rows = "".join(
        f'<li><span class="bar" style="--share:{min(1.0, max(0.0, value)):.3f}" aria-hidden="true"></span>'
        f"<span>{text(name)}{' (explained)' if name == explained else ''}</span> "
        f"<span>{percent(100 * value)}</span></li>"
        for name, value in explanation.top()
    )
    return f'<ol class="scores">{rows}</ol>'


def _view(explanation: Explanation, view: ExplainedView, rank: int) -> str:
    clip, frames, suffix = view.clip, resized(view.clip.frames), _of(explanation, rank)
    top, left, height, width = clip.box
    cards = [_card(frames, clip.indices, f"the frames{suffix}", "Frames", "As the model sees them.")]
    for method, heat in view.heat.items():
        about = _ABOUT[method].format(label=explanation.explained)
        if method == "rollout":
            about += f" These have {_times(heat.min(), heat)} and {_times(heat.max(), heat)} × the mean patch's share."
        if not heat.any():
            about = f"There is no heat: no patch raises the score of {explanation.explained}."
        pictures = overlaid(frames, _shown(method, heat))
        cards.append(_card(pictures, clip.indices, f"{METHODS[method]}{suffix}", METHODS[method], about))
    return (
        f"{_overview(view, suffix)}\n{_ramp()}"
        f'<ul class="cards">{"".join(cards)}</ul>\n'
        f'<p class="sub">Frames {" ".join(map(str, clip.indices))} of {clip.video_length}; crop {width} x {height} at '
        f"({left}, {top}) of {clip.full_frame.shape[1]} x {clip.full_frame.shape[0]} pixels.</p>\n"
        f'<div class="charts">{_over_time(view, suffix)}</div>'
    )


def _overview(view: ExplainedView, suffix: str) -> str:
    """All frames at a glance, a row for the frames and for each method; of many, some that are evenly spaced."""
    indices = view.clip.indices
    count = min(len(indices), _ACROSS)
    taken = [index * len(indices) // count for index in range(count)]
    frames = resized(view.clip.frames, _SMALL, _SMALL)
    rows = [frames, *(overlaid(frames, _shown(method, heat)) for method, heat in view.heat.items())]
    columns = [Image.fromarray(np.concatenate([row[index] for row in rows])) for index in taken]
    strip = joined(columns, [indices[index] for index in taken])
    wide, names = strip.width * count, ", ".join(["frames", *(METHODS[method] for method in view.heat)])
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="All frames at a glance{text(suffix)}">'
        f'<img src="{strip.uri}" width="{wide}" height="{strip.height}" '
        f'alt="{text(names)}{text(suffix)}, side by side"></div>\n<p class="id">From top to bottom: {text(names)}.</p>'
    )


def _times(value: float, heat: np.ndarray) -> str:
    """How many times the mean of the heat a value is: ``3.1``."""
    return f"{float(value / heat.mean()):.3g}" if heat.any() else "0"


def _card(pictures: np.ndarray, indices: Sequence[int], name: str, title: str, about: str) -> str:
    strip = joined([Image.fromarray(picture) for picture in pictures], indices)
    shown = player(strip, name, f"{len(indices)} pictures: {name}")
    return f'<li class="card">{shown}\n<h3><em>{text(title)}</em></h3><p class="id">{text(about)}</p></li>'


def _over_time(view: ExplainedView, suffix: str) -> str:
    """How the heat is spread over the frames, in percent of the heat of the clip."""
    indices = view.clip.indices
    series = []
    for method, heat in view.heat.items():
        of_frame = heat.sum(axis=(1, 2), dtype=np.float64)
        total = float(of_frame.sum())
        if total > 0:
            first = [indices[step * len(indices) // len(of_frame)] for step in range(len(of_frame))]
            points = [(at, 100 * share / total) for at, share in zip(first, of_frame.tolist(), strict=True)]
            series.append(Series(METHODS[method], points, dots=True))
    title = f"Share of the heat in each frame{suffix}"
    return line_chart(title, series, x="frame", y="%", lowest=0) if len(indices) > 1 else ""


def _deletion(explanation: Explanation) -> str:
    """The deletion curves, the mean over views; empty where there are none."""
    areas = explanation.areas()
    if not areas:
        return ""
    names = {**METHODS, RANDOM: "random patches"}
    series = []
    for name in areas:
        curve = np.mean([view.deletion[name] for view in explanation.views], axis=0)
        points = [(100 * part, 100 * value) for part, value in zip(FRACTIONS, curve.tolist(), strict=True)]
        series.append(Series(names[name], points))
    chart = line_chart(
        f"Probability of {explanation.explained}", series, x="patches removed, %", y="%", lowest=0, highest=100
    )
    rows = [[names[name], percent(100 * area)] for name, area in areas.items()]
    return (
        '<p class="sub">Patches get the mean colour of the clip, the hottest first. If the model needs what is hot, '
        "the probability falls sooner than with random patches (the mean of several draws): the area is smaller.</p>\n"
        f'<div class="charts">{chart}</div>'
        f"{table('Area under the curve', ['order', 'area'], rows, numeric=True)}"
    )


def _heads(explanation: Explanation, rank: int) -> str:
    view = explanation.views[rank - 1]
    if view.heads is None:
        return ""
    frames, suffix = resized(view.clip.frames, _HEAD_SIDE, _HEAD_SIDE), _of(explanation, rank)
    cards = []
    for head, heat in enumerate(view.heads, 1):
        pictures = [Image.fromarray(picture) for picture in overlaid(frames, scaled(heat, from_zero=False))]
        strip = joined(pictures, view.clip.indices)
        name = f"head {head}{suffix}"
        shown = player(strip, name, f"{len(pictures)} pictures: {name}")
        most = f"most: {_times(heat.max(), heat)} × the mean patch's share"
        cards.append(f'<li class="card">{shown}\n<h3><em>Head {head}</em></h3><p class="id">{text(most)}</p></li>')
    origin = "the class token" if explanation.from_class_token else "the mean of the patches"
    return (
        f'<p class="sub">What each head attends to, seen from {origin}. Each runs from its own least to its own most.'
        f'</p>\n<ul class="cards">{"".join(cards)}</ul>'
    )


def _ramp() -> str:
    stops = ", ".join(f"rgb({red} {green} {blue}) {100 * at:.0f}%" for at, (red, green, blue) in RAMP)
    bar = f'<span class="key" style="width:8rem;background:linear-gradient(to right, #333, {stops})"></span>'
    return f'<p class="id">least {bar} most</p>\n'


def _reading(explanation: Explanation) -> str:
    notes = []
    first = explanation.views[0]
    if "rollout" in explanation.heat:
        notes.append(
            "<strong>Attention rollout</strong> (Abnar and Zuidema, 2020) follows attention backwards through all "
            "blocks, half through the residual connection and half through the mean of the heads. It knows nothing of "
            "classes, nor of what is done with the patches that are attended to."
        )
        if first.prefix:
            notes[-1] += f" {percent(100 * first.prefix)} of it stay with tokens that are no patches."
    if "gradcam" in explanation.heat:
        where = "the last feature map" if explanation.block is None else _where(explanation.block)
        notes.append(
            f"<strong>Grad-CAM</strong> (Selvaraju and others, 2017) weighs each channel of {where} by its mean "
            f"gradient for the score of {text(explanation.explained)}, and shows where their sum is above 0. In a "
            "transformer each patch may carry what it has seen elsewhere, so that heat can lie beside its cause."
        )
    notes.append(
        "Colours grow with the square root of the heat, over frames that are made nearly grey. Neither method proves "
        "that the model needs what is hot; the option --check tests it."
    )
    return "".join(f"<p>{note}</p>" for note in notes)


def _where(block: int) -> str:
    return (
        "the tokens in front of the blocks" if block == 0 else f"the tokens behind {counted(block, 'block', 'blocks')}"
    )
