"""Name what is in videos: the most probable classes of each, by a model that has been trained.

videofib predict clip.mp4 --model motion_xxs
videofib predict videos/ more.mkv https://example.org/a.mp4 --model runs/mine --top 3 --out predictions.csv
videofib predict --list videos.txt --model FOLDER --views 1 1
videofib predict film.mp4 --model runs/mine --timeline --out DIR
videofib predict --list segments.txt --segments seconds --model runs/mine

VIDEO is a file, a folder of them, a URL, or - for a video on standard input. In a folder without video files, each
picture is a video for a model of one frame, and each folder of pictures is one, with these frames, for others.
FROM is a run's folder, a checkpoint, a folder of save_pretrained, motion_xxs, which comes with videofib, or owner/model
on the Hugging Face Hub. Scores are averaged over the views of the model's tests, or --views, and equal those of a test
with the same views.

With --timeline a window as long as a clip slides over one long video, and --out is a folder: timeline.json and .csv
have the classes of each window, timeline.svg is a plot of the most probable ones, and timeline.mp4 is the video with
them written over it, of which a long one has fewer frames a second. A window has one view, the crop at the centre;
--views 1 3 takes three crops. Stretches that do not decode are marked in each file, and the film continues after them.

A video that cannot be read is one line, and the others are answered. The exit status is 1 if none could be read.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from videofib.files import replacing, spreadsheet_text, to_utf8
from videofib.parser import Parser
from videofib.printable import printable
from videofib.run.video_options import (
    add_list_options,
    add_options,
    check_options,
    errors_in_one_line,
    load_model,
    reading_workers,
)
from videofib.signals import sigint_deferred

if TYPE_CHECKING:
    from videofib.data.lists.record import NamedVideo
    from videofib.run.saved_model import Prediction, SavedModel

    Write = Callable[[Prediction], None]

_INPUT = "-"
_SHOWN = 48  # characters of a path in the table


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(argv)
    with sigint_deferred():
        from videofib.data.lists.found import find_videos, read_paths

    with errors_in_one_line(), ExitStack() as stack:
        find_videos(args.videos)  # a mistake in names is reported before the model is loaded
        listed = [*read_paths(args.list, args.segments)] if args.list else []
        saved = load_model(args)
        videos = [*find_videos(args.videos, frame_folders=saved.cfg.DATA.NUM_FRAMES > 1), *listed]
        if _INPUT in videos:
            piped = stack.enter_context(_piped())
            videos = [piped if name == _INPUT else name for name in videos]
        if args.timeline:
            _timeline(saved, videos, args)
            return
        write = stack.enter_context(_output(args.out, args.top))
        answered = _predict(saved, videos, tuple(args.views) if args.views else None, args.workers, write)
    if answered < len(videos):
        print(f"{len(videos) - answered} of {len(videos)} videos could not be read", file=sys.stderr)
    if args.out:
        print(f"wrote {printable(args.out)}")
    if not answered:
        raise SystemExit(1)


def _predict(
    saved: SavedModel,
    videos: Sequence[str | NamedVideo],
    views: tuple[int, int] | None,
    workers: int | None,
    write: Write,
) -> int:
    """Write the predictions of all videos in order; returns how many could be read."""
    answered = 0
    for prediction in saved.predict_all(videos, views=views, num_workers=reading_workers(workers, len(videos))):
        write(prediction)
        answered += not prediction.error
    return answered


def _timeline(saved: SavedModel, videos: Sequence[str | NamedVideo], args: argparse.Namespace) -> None:
    """Write what the windows of a video show into the folder ``--out``."""
    if len(videos) != 1:
        raise ValueError(f"--timeline takes one video, and {len(videos)} are named")
    if not isinstance(video := videos[0], str):
        raise ValueError(f"--timeline takes a full video, and {video} is a segment of one")
    with sigint_deferred():
        from videofib.data.lists.remote import fetched
        from videofib.prep.encode import write_video
        from videofib.run.timeline import TimelineReader, write_timeline
        from videofib.run.timeline_video import CaptionedFilm

    crops = args.views[1] if args.views else 1
    with fetched(video) as source:
        reader = TimelineReader(saved, source, video, stride=args.stride, crops=crops)
        if args.no_video:
            deque(reader, maxlen=0)
        else:
            film = CaptionedFilm(reader)
            write_video(Path(args.out) / "timeline.mp4", film, film.fps)
    timeline = reader.timeline()
    write_timeline(args.out, timeline, args.top)
    if timeline.broken:
        print(printable(timeline.broken), file=sys.stderr)
    print(f"wrote {len(timeline.windows)} windows to {printable(args.out)}")


@contextmanager
def _output(out: str | None, top: int) -> Iterator[Write]:
    """What writes a prediction: to the terminal, or into a file that is there once all are written."""
    if out is None:
        yield lambda prediction: print(_table(prediction, top), flush=True)
        return
    with replacing(out) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        yield _csv(file, top) if out.endswith(".csv") else _json_lines(file, top)


def _table(prediction: Prediction, top: int) -> str:
    name = printable(prediction.video)
    name = name if len(name) <= _SHOWN else f"…{name[1 - _SHOWN :]}"
    if prediction.error:
        return f"{name}\n    error: {printable(prediction.error)}"
    rows = [f"    {100 * probability:5.1f} %  {printable(label)}" for label, probability in prediction.top(top)]
    return "\n".join([name, *rows])


def _csv(file: TextIO, top: int) -> Write:
    """``video,rank,class,probability,error``: a row for each class; one with an error for a video that has none."""
    writer = csv.writer(file)
    writer.writerow(["video", "rank", "class", "probability", "error"])

    def write(prediction: Prediction) -> None:
        video = spreadsheet_text(to_utf8(prediction.video))
        for rank, (label, probability) in enumerate(prediction.top(top), start=1):
            writer.writerow([video, rank, spreadsheet_text(to_utf8(label)), f"{probability:.6g}", ""])
        if prediction.error:
            writer.writerow([video, "", "", "", spreadsheet_text(printable(prediction.error))])

    return write


def _json_lines(file: TextIO, top: int) -> Write:
    def write(prediction: Prediction) -> None:
        classes = [{"class": to_utf8(label), "probability": value} for label, value in prediction.top(top)]
        line = {"video": to_utf8(prediction.video), "predictions": classes, "error": prediction.error or None}
        file.write(json.dumps(line) + "\n")

    return write


@contextmanager
def _piped() -> Iterator[str]:
    """A file with what comes on standard input, for decoders that have to seek."""
    with tempfile.TemporaryDirectory(prefix="videofib-") as folder:
        path = Path(folder, "standard input")
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield str(path)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("videofib predict", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="*", metavar="VIDEO", help="files, folders, URLs, or - for standard input")
    add_list_options(parser, "a list of paths, one a line, relative to its folder")
    parser.add_argument("--top", type=int, default=5, metavar="K", help="classes of each video (default 5)")
    parser.add_argument("--out", metavar="FILE", help="write to a .csv or .jsonl file; with --timeline, a folder")
    parser.add_argument("--timeline", action="store_true", help="answer for window after window of one long video")
    parser.add_argument("--stride", type=float, metavar="S", help="seconds between windows (default: half a clip)")
    parser.add_argument("--no-video", action="store_true", help="do not write timeline.mp4")
    parser.add_argument("--classes", metavar="FILE", help="names of the classes, one a line, where the model has none")
    add_options(parser)
    args = parser.parse_args(argv)
    check_options(parser, args)
    if args.top < 1:
        parser.error("--top must be at least 1")
    if args.timeline:
        _check_timeline(parser, args)
    elif args.stride is not None or args.no_video:
        parser.error("--stride and --no-video belong to --timeline")
    elif args.out and Path(args.out).suffix not in (".csv", ".jsonl"):
        parser.error("--out must end in .csv or .jsonl")
    return args


def _check_timeline(parser: Parser, args: argparse.Namespace) -> None:
    if not args.out:
        parser.error("--timeline writes several files; name their folder with --out")
    if Path(args.out).exists() and not Path(args.out).is_dir():
        parser.error(f"--out {printable(args.out)} is not a folder, which --timeline needs")
    if args.stride is not None and not 0 < args.stride < float("inf"):
        parser.error("--stride must be above 0")
    if args.views and args.views[0] != 1:
        parser.error("--timeline has one clip a window; --views must be 1 1 or 1 3")
