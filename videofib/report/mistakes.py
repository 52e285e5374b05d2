"""The surest mistakes of a model, with the frames of their videos moving."""

from __future__ import annotations

import numpy as np

from videofib.data.errors import DecodeError
from videofib.report.analyse import Judged, Mistake, surest_mistakes
from videofib.report.frames import Strip, strip
from videofib.report.html import number, percent, text
from videofib.report.scores import source_of

_LISTED = 3  # classes of highest score


def mistakes_html(judged: Judged, videos: int) -> str:
    """A card for each of the ``videos`` surest mistakes; empty where there is none."""
    found = surest_mistakes(judged, videos)
    if not found:
        return ""
    cards = "\n".join(_card(judged, mistake, place) for place, mistake in enumerate(found))
    return (
        '<p><button type="button" class="all" aria-pressed="false">Play all</button></p>\n'
        f'<ul class="cards">\n{cards}\n</ul>'
    )


def _card(judged: Judged, mistake: Mistake, place: int) -> str:
    name, scores = judged.ids[mistake.position], judged.scores[mistake.position]
    truth = ", ".join(judged.class_names[label] for label in np.flatnonzero(judged.truth[mistake.position]))
    try:
        picture = _player(strip(source_of(judged.paths[mistake.position])), truth, place)
    except (DecodeError, OSError, ValueError) as error:
        picture = f'<p class="alarm">No frames: {text(error)}</p>'
    best = np.argsort(-scores, kind="stable")[:_LISTED]
    rows = "".join(
        f"<li{' class=true' if judged.truth[mistake.position, label] else ''}>"
        f'<span class="bar" style="--share:{_share(judged, scores[label]):.3f}" aria-hidden="true"></span>'
        f"<span>{text(judged.class_names[label])}</span> <span>{_score(judged, scores[label])}</span></li>"
        for label in best
    )
    return f"""<li class="card">{picture}
<h3>Says <em>{text(judged.class_names[mistake.said])}</em>, is <em>{text(truth)}</em></h3>
<ol class="scores">{rows}</ol>
<p class="id">{text(name)}</p></li>"""


def _player(frames: Strip, truth: str, place: int) -> str:
    count = len(frames.indices)
    listed = " ".join(map(str, frames.indices))
    return f"""<div class="player" style="--frames:{count};--wide:{frames.width};--high:{frames.height}">
<div class="window"><img src="{frames.uri}" width="{frames.width * count}" height="{frames.height}"
 alt="{count} frames of a video of {text(truth)}" draggable="false"></div>
<div class="controls"><button type="button" class="play" aria-label="Play video {place + 1}">Play</button>
<label><span class="unseen">Frame of video {place + 1}</span>
<input type="range" min="0" max="{count - 1}" value="0" step="1"></label>
<output data-indices="{listed}">frame {frames.indices[0]}</output></div></div>"""


def _share(judged: Judged, score: float) -> float:
    return float(np.clip(score, 0, 1)) if judged.probabilities else 0.0


def _score(judged: Judged, score: float) -> str:
    return percent(100 * float(score)) if judged.probabilities else number(float(score))
