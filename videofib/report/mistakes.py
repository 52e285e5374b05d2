"""The most confident mistakes of a model, with frames of their videos."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from videofib.data.errors import DecodeError
from videofib.data.source import ALL_PICTURES, FrameFiles
from videofib.files import to_utf8
from videofib.report.analysis import Mistake, confident_mistakes
from videofib.report.explanation.explained import METHODS
from videofib.report.frames import strip
from videofib.report.markup.html import breakable, text
from videofib.report.markup.numbers import number, percent
from videofib.report.markup.player import player
from videofib.report.mistake_heat import MistakeHeat
from videofib.report.scored_videos import ScoredVideos, source_of
from videofib.report.video_folders import VideoFolders

_LISTED = 3  # classes of each video, by score


def mistakes_html(
    scored: ScoredVideos,
    count: int,
    folders: VideoFolders,
    heat: Mapping[int, MistakeHeat] | None = None,
    files: FrameFiles = ALL_PICTURES,
) -> str:
    """A card for each of the ``count`` most confident mistakes; empty where there is none.

    Frames are shown of the videos in ``folders`` alone.

    Args:
        heat: by the rows of the videos, what the model looked at, where the test has drawn it.
        files: which ones of a folder are frames.
    """
    found = confident_mistakes(scored, count)
    if not found:
        return ""
    cards = "\n".join(_card(scored, mistake, rank, folders, heat or {}, files) for rank, mistake in enumerate(found, 1))
    return (
        '<p class="sub">The test videos for which a wrong class has the highest score.</p>\n'
        '<p><button type="button" class="all" aria-pressed="false">Play all</button></p>\n'
        f'<ul class="cards">\n{cards}\n</ul>'
    )


def _card(
    scored: ScoredVideos,
    mistake: Mistake,
    rank: int,
    folders: VideoFolders,
    heat: Mapping[int, MistakeHeat],
    files: FrameFiles,
) -> str:
    name, scores = scored.ids[mistake.index], scored.scores[mistake.index]
    labels = np.flatnonzero(scored.truth[mistake.index])
    truth = ", ".join(scored.class_names[int(label)] for label in labels)
    try:
        source, segment = source_of(scored.paths[mistake.index])
        folders.check(source)  # before anybody looks whether it is a folder
        source = files.of(source)
        folders.check(source)
        frames = strip(source, segment=segment)
        picture = player(frames, f"video {rank}", f"{len(frames.indices)} frames of a video of {truth}")
    except (DecodeError, OSError, ValueError) as error:
        picture = f'<p class="alarm">No frames: {text(error)}</p>'
    looked = heat.get(mistake.index)
    if looked is not None and looked.id == to_utf8(name):  # else it is of another test
        method = METHODS[looked.method]
        picture += player(looked.strip, f"heat of video {rank}", f"{method} over {len(looked.strip.indices)} frames")
        picture += f'\n<p class="id">{method}: what the model looked at in the middle clip</p>'
    best = np.argsort(-scores, kind="stable")[:_LISTED]
    rows = "".join(
        f"<li{' class=true' if scored.truth[mistake.index, label] else ''}>"
        f'<span class="bar" style="--share:{_bar_length(scored, scores[label]):.3f}" aria-hidden="true"></span>'
        f"<span>{text(scored.class_names[label])}</span> <span>{_score(scored, scores[label])}</span></li>"
        for label in best
    )
    predicted = text(scored.class_names[mistake.predicted])
    return f"""<li class="card">{picture}
<h3>Predicted <em>{predicted}</em>, true class{"es" if len(labels) > 1 else ""} <em>{text(truth)}</em></h3>
<ol class="scores">{rows}</ol>
<p class="id">{breakable(name)}</p></li>"""


def _bar_length(scored: ScoredVideos, score: float) -> float:
    return float(np.clip(score, 0, 1)) if scored.probabilities else 0.0


def _score(scored: ScoredVideos, score: float) -> str:
    return percent(100 * float(score)) if scored.probabilities else number(float(score))
