"""What a model sees over a long video: the classes of one window after another, as JSON, csv and a plot.

W windows, S spatial crops, K classes.
"""

from __future__ import annotations

import csv
import json
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from videofib.data.clips.windows import Watch, WindowReader
from videofib.data.errors import DecodeError
from videofib.data.lists.records import Records
from videofib.data.source import Source
from videofib.files import replacing, spreadsheet_text, to_utf8
from videofib.report.markup.charts import Series, svg_file
from videofib.run.loaders import view_dataset
from videofib.run.saved_model import Prediction, SavedModel

Window = tuple[float, float, Prediction]  # start and end in seconds

_DRAWN = 5  # classes that the plot shows
_MOST_WINDOWS = 16  # of a forward pass; what waits for its scores is in memory
_UNREADABLE = "does not decode"


@dataclass(frozen=True)
class Timeline:
    """The predictions for the windows of a video.

    Attributes:
        video: its path.
        fps: frames a second.
        windows: (start, end, prediction) of each window that could be read; seconds.
        gaps: (start, end) of each stretch that does not decode, in seconds; windows that need frames of it are missing.
        broken: why others could not be read, in one line, or "".
    """

    video: str
    fps: float
    windows: Sequence[Window]
    gaps: Sequence[tuple[float, float]] = ()
    broken: str = ""


class TimelineReader:
    """Predicts the classes of each window of a video, which is as long as a clip of the model; iterate over it once.

    The video is decoded once, in order, and what is kept of it does not grow with its length. A window's scores are
    those that ``SavedModel.predict`` gives for its frames with views (1, ``crops``).

    Args:
        source: of the video; ``name`` is what it is called.
        stride: seconds from one window to the next; by default half a clip.
        crops: spatial crops of each window, 1 or 3.

    Attributes:
        fps, length: frames a second, and frames stored.

    Raises:
        DecodeError: the video cannot be read.
        ValueError: windows have no length (DATA.SAMPLING uniform), ``stride`` leaves frames out, or scores that are not
            finite.
    """

    def __init__(self, saved: SavedModel, source: Source, name: str, *, stride: float | None = None, crops: int = 1):
        read = view_dataset(saved.cfg, Records.unlabelled([]), 1, crops).read
        self._saved, self._name = saved, name
        self._reader = WindowReader(source, read.spec, read.transform, stride)
        # in one tensor: small ones between the large views of the windows would keep the memory of these in pieces
        self._scores = torch.empty(len(self._reader.spans), 0)
        self._found: list[int] = []  # numbers of the windows that have scores
        self.fps, self.length = self._reader.fps, self._reader.length

    def __iter__(self) -> Iterator[Window]:
        """The windows that can be read, in order."""
        saved, spans = self._saved, self._reader.spans
        batches = ({"views": views[None], "window": number} for number, views in self._reader)
        for batch, logits in saved.computed(batches, len(spans), most=_MOST_WINDOWS, title="timeline"):
            scores = saved.probabilities(logits)[0]
            if not scores.isfinite().all():
                raise ValueError(f"{self._name}: the model's scores are not finite")
            if not self._found:
                self._scores = scores.new_empty(len(spans), len(scores))
            self._found.append(batch["window"])
            self._scores[self._found[-1]] = scores
            yield self._window(self._found[-1])

    def _window(self, number: int) -> Window:
        return (*self._reader.spans[number], Prediction(self._name, self._scores[number], self._saved.classes))

    def watch(self, call: Watch) -> None:
        """Call ``call`` with the number of each frame that decodes, the frame and its reader, before its windows."""
        self._reader.watch = call

    def timeline(self) -> Timeline:
        """All that has been read, once the windows have been.

        Raises:
            DecodeError: not one window could be read.
        """
        if not self._found:
            raise DecodeError(self._reader.broken)
        gaps = [(first / self.fps, end / self.fps) for first, end in self._reader.gaps]
        return Timeline(self._name, self.fps, [*map(self._window, self._found)], gaps, self._reader.broken)


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
    gaps = [{"start": start, "end": end} for start, end in timeline.gaps]
    about = {"video": to_utf8(timeline.video), "fps": timeline.fps, "error": timeline.broken or None, "gaps": gaps}
    with replacing(folder / "timeline.json") as partial:
        partial.write_text(json.dumps({**about, "windows": windows}, indent=1) + "\n", encoding="utf-8")
    with replacing(folder / "timeline.csv") as partial, partial.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["start", "end", "rank", "class", "probability", "error"])
        writer.writerows(_rows(timeline, top))
    with replacing(folder / "timeline.svg") as partial:
        partial.write_text(_plot(timeline), encoding="utf-8")


def _rows(timeline: Timeline, top: int) -> Iterator[list[object]]:
    """Of the csv file, in order of time: one for each class of a window, and one for each gap, which has an error."""
    gaps = deque(timeline.gaps)
    for start, end, prediction in timeline.windows:
        while gaps and gaps[0][0] <= start:
            yield _gap_row(*gaps.popleft())
        for rank, (name, value) in enumerate(prediction.top(top), start=1):
            yield [f"{start:.3f}", f"{end:.3f}", rank, spreadsheet_text(to_utf8(name)), f"{value:.6g}", ""]
    yield from (_gap_row(*gap) for gap in gaps)


def _gap_row(start: float, end: float) -> list[object]:
    return [f"{start:.3f}", f"{end:.3f}", "", "", "", _UNREADABLE]


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
    title = "Probability of the most probable classes"
    return svg_file(
        title, series, x="time, seconds", y="%", lowest=0, highest=100, gaps=timeline.gaps, gaps_name=_UNREADABLE
    )
