"""What a model sees over a long video: the classes of one window after another, as JSON, csv and a plot.

W windows, S spatial crops, K classes.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from videofib.data.clips.windows import WindowReader
from videofib.data.errors import DecodeError
from videofib.data.lists.records import Records
from videofib.data.lists.remote import fetched
from videofib.files import replacing, spreadsheet_text, to_utf8
from videofib.report.markup.charts import Series, svg_file
from videofib.run.loaders import view_dataset
from videofib.run.saved_model import Prediction, SavedModel

_DRAWN = 5  # classes that the plot shows


@dataclass(frozen=True)
class Timeline:
    """The predictions for the windows of a video.

    Attributes:
        video: its path.
        fps: frames a second.
        windows: (start, end, prediction) of each window that could be read; seconds.
        broken: why others could not, in one line, or "".
    """

    video: str
    fps: float
    windows: Sequence[tuple[float, float, Prediction]]
    broken: str = ""


def read_timeline(saved: SavedModel, video: str, *, stride: float | None = None, crops: int = 1) -> Timeline:
    """The classes of each window of a video, which is as long as a clip of the model.

    The video is decoded once, in order, and what is kept of it does not grow with its length. A window's scores are
    those that ``SavedModel.predict`` gives for its frames with views (1, ``crops``).

    Args:
        stride: seconds from one window to the next; by default half a clip.
        crops: spatial crops of each window, 1 or 3.

    Raises:
        DecodeError: the video cannot be read.
        ValueError: windows have no length (DATA.SAMPLING uniform), ``stride`` leaves frames out, or scores that are not
            finite.
    """
    read = view_dataset(saved.cfg, Records.unlabelled([]), 1, crops).read
    found = []
    with fetched(video) as source:
        reader = WindowReader(source, read.spec, read.transform, stride)
        batches = ({"views": views[None], "window": number} for number, views in reader)
        for batch, logits in saved.computed(batches, len(reader.spans)):
            scores = saved.probabilities(logits)[0]
            if not scores.isfinite().all():
                raise ValueError(f"{video}: the model's scores are not finite")
            found.append((*reader.spans[batch["window"]], Prediction(video, scores, saved.classes)))
    if not found:
        raise DecodeError(reader.broken)
    return Timeline(video, reader.fps, found, reader.broken)


def write_timeline(folder: str | Path, timeline: Timeline, top: int) -> None:
    """Write ``timeline.json``, ``timeline.csv`` and ``timeline.svg``, each complete or not at all."""
    folder = Path(folder)
    windows = [
        {
            "start": start,
            "end": end,
            "predictions": [{"class": to_utf8(name), "probability": value} for name, value in prediction.top(top)],
        }
        for start, end, prediction in timeline.windows
    ]
    about = {"video": to_utf8(timeline.video), "fps": timeline.fps, "error": timeline.broken or None}
    with replacing(folder / "timeline.json") as partial:
        partial.write_text(json.dumps({**about, "windows": windows}, indent=1) + "\n", encoding="utf-8")
    with replacing(folder / "timeline.csv") as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["start", "end", "rank", "class", "probability"])
        for start, end, prediction in timeline.windows:
            for rank, (name, value) in enumerate(prediction.top(top), start=1):
                writer.writerow([f"{start:.3f}", f"{end:.3f}", rank, spreadsheet_text(to_utf8(name)), f"{value:.6g}"])
    with replacing(folder / "timeline.svg") as partial:
        partial.write_text(_plot(timeline), encoding="utf-8")


def _plot(timeline: Timeline) -> str:
    """The probabilities of the classes that are highest anywhere, at the middles of the windows."""
    highest: dict[str, float] = {}
    for _, _, prediction in timeline.windows:
        for name, value in prediction.top(_DRAWN):
            highest[name] = max(value, highest.get(name, 0.0))
    drawn = sorted(highest, key=lambda name: -highest[name])[:_DRAWN]
    row_of = {name: timeline.windows[0][2].classes.index(name) for name in drawn}
    series = [
        Series(
            name,
            [
                ((start + end) / 2, 100 * prediction.scores[row_of[name]].item())
                for start, end, prediction in timeline.windows
            ],
        )
        for name in drawn
    ]
    return svg_file("Probability of the most probable classes", series, x="time, seconds", y="%", lowest=0, highest=100)
