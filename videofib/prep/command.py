"""Code shared by the commands in sets/: the command line, finding listed videos, the summary."""

from __future__ import annotations

import argparse
import os
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from videofib.data.lists.extensions import VIDEO_EXTENSIONS
from videofib.files import describe
from videofib.parser import Parser
from videofib.prep.defaults import GOP, SHORT_SIDE
from videofib.prep.engines.parallel import run_parallel
from videofib.prep.engines.ray_engine import run_on_ray
from videofib.prep.find import find_videos
from videofib.prep.items import REPORT_NAME, Item, PrepareError, check_name
from videofib.prep.person_crops import cut_to_persons
from videofib.printable import printable
from videofib.signals import sigint_deferred
from videofib.starting import StartError, end_if_unguarded

if TYPE_CHECKING:
    from videofib.prep.pictures import PictureEncoding
    from videofib.prep.transcode import Encoding

_FORMAT = re.compile(r"\.f\d{2,4}(-\d+)?")  # of yt-dlp, in the names of streams that it has not merged
_MAX_SHOWN = 10  # names printed of each kind; report.json contains all


@dataclass(frozen=True)
class Listed:
    """A video as annotations list it.

    Attributes:
        name: ``Class/v_Class_g01_c01.avi``.
        label: its class.
        splits: the lists that will contain it, of train, val and test.
        stems: file names without extension to find it by, best first; by default that of ``name``.
        source: its file, where that is already known.
    """

    name: str
    label: str
    splits: tuple[str, ...]
    stems: tuple[str, ...] = ()
    source: Path | None = None


@dataclass(frozen=True)
class Listing:
    """The content of a data set's annotations: videos, all classes in the order of labels, notes for the report."""

    videos: Sequence[Listed]
    classes: Sequence[str]
    notes: dict[str, list[str]] = field(default_factory=dict)


def make_parser(description: str, prog: str | None) -> Parser:
    """The arguments of every data set; ``prog`` is the command's name in messages, by default that of the script."""
    parser = Parser(prog, description=description)
    parser.add_argument(
        "--videos", type=folder_path, required=True, help="folder of the videos; subfolders are searched"
    )
    parser.add_argument(
        "--out", type=folder_path, required=True, help="folder to write; run again to resume or repair it"
    )
    parser.add_argument(
        "--codec",
        choices=("h264", "copy"),
        default="h264",
        help="h264 (default): re-encode so that seeking is right; copy: keep the files, by hard link where possible",
    )
    parser.add_argument("--short-side", type=int, help=f"pixels at most; 0: unchanged (default {SHORT_SIDE})")
    parser.add_argument("--fps", type=float, help="frames a second to resample to (default: unchanged)")
    parser.add_argument("--gop", type=int, help=f"frames from one keyframe to the next (default {GOP})")
    parser.add_argument(
        "--person-crops", type=Path, metavar="JSON", help="boxes to cut videos to; see videofib/prep/person_crops.py"
    )
    add_engine(parser)
    return parser


def add_engine(parser: Parser) -> None:
    """The arguments that say what runs the work, and how much of it at once."""
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="videos in parallel (default: one a core)")
    parser.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="what runs the jobs (default local)"
    )
    parser.add_argument("--address", help="Ray cluster, auto or host:port (default: start Ray on this machine)")


def folder_path(text: str) -> Path:
    """The path of an option, which an empty variable of the shell is not."""
    if not text:
        raise argparse.ArgumentTypeError("is empty; name a folder")
    return Path(text)


def add_annotations(parser: Parser, help: str) -> None:
    """The arguments of data sets that have annotation files."""
    parser.add_argument("--annotations", type=Path, required=True, help=help)
    add_only_present_classes(parser)


def add_only_present_classes(parser: Parser) -> None:
    """The argument of data sets whose classes are known without their videos."""
    parser.add_argument(
        "--only-present-classes",
        action="store_true",
        help="leave out classes without a single video, and renumber the others",
    )


def add_split(parser: Parser) -> None:
    """The argument of data sets with three official splits; see ``read_splits``."""
    parser.add_argument(
        "--split",
        choices=("1", "2", "3", "all"),
        default="1",
        help="official split (default 1); all: one set of videos with the lists in OUT/split1, split2 and split3",
    )


def read_splits(read: Callable[[Path, int], Listing], annotations: Path, split: str) -> Listing:
    """The listing that ``read(annotations, number)`` returns for one split, or for all three combined.

    Raises:
        PrepareError: splits that contradict each other, and errors of ``read``.
    """
    if split != "all":
        return read(annotations, int(split))
    listings = {number: read(annotations, number) for number in (1, 2, 3)}
    videos: dict[str, Listed] = {}
    for number, listing in listings.items():
        if listing.classes != listings[1].classes:
            raise PrepareError(f"{annotations}: split {number} has other classes than split 1; is a file missing?")
        for video in listing.videos:
            first = videos.get(video.name, replace(video, splits=()))
            if first.label != video.label:
                raise PrepareError(
                    f"{annotations}: {video.name!r} is {first.label!r}, but in split {number} {video.label!r}"
                )
            videos[video.name] = replace(first, splits=first.splits + tuple(f"split{number}/{s}" for s in video.splits))
    return Listing(list(videos.values()), listings[1].classes)


def run_listed(parser: Parser, args: argparse.Namespace, read: Callable[[], Listing]) -> None:
    """Run a command whose annotations ``read`` reads: find the videos, prepare them, print a summary."""

    def items() -> tuple[list[Item], Sequence[str], dict]:
        listing = read()
        return locate(listing, args.videos, only_present_classes=args.only_present_classes)

    run(parser, args, items)


def run(
    parser: Parser,
    args: argparse.Namespace,
    items: Callable[[], tuple[Sequence[Item], Sequence[str], dict]],
) -> None:
    """Prepare what ``items`` returns (items, classes, notes for the report); errors end the program with one line."""

    def read() -> tuple[Sequence[Item], Sequence[str], dict, Encoding]:
        encoding = _encoding(args)
        if not args.videos.is_dir():
            raise PrepareError(f"--videos {args.videos} is not a folder")
        listed, classes, notes = items()
        if args.person_crops:
            listed, without = cut_to_persons(listed, args.person_crops)
            notes = {**notes, **without}
        return listed, classes, notes, encoding

    carry_out(parser, args, args.videos, read)


def carry_out(
    parser: Parser,
    args: argparse.Namespace,
    videos: Path,
    read: Callable[[], tuple[Sequence[Item], Sequence[str], dict, Encoding | PictureEncoding]],
) -> None:
    """Prepare what ``read`` returns (items, classes, notes, encoding); errors end the program with one line.

    ``videos`` is the folder or file of the sources; ``args`` has ``out`` and what ``add_engine`` adds.
    """
    end_if_unguarded()
    with sigint_deferred():
        from videofib.prep.prepare import prepare

    try:
        listed, classes, notes, encoding = read()
        report = prepare(
            listed,
            classes,
            args.out,
            videos=videos,
            encoding=encoding,
            jobs=args.jobs,
            notes=notes,
            engine=_engine(args),
        )
    except (PrepareError, StartError, ConnectionError) as error:  # ConnectionError: no Ray at that --address
        parser.exit(1, f"{parser.prog}: {printable(error)}\n")
    except OSError as error:
        reason = printable(describe(error))
        parser.exit(1, f"{parser.prog}: {reason}; what is done is kept: fix this and run the same command\n")
    except KeyboardInterrupt:
        parser.exit(130, f"\n{parser.prog}: interrupted; the same command resumes where it stopped\n")
    print(summary(report, args.out))


def _engine(args: argparse.Namespace) -> Callable:
    if args.engine == "local":
        if args.address:
            raise PrepareError(f"--address {args.address} needs --engine ray")
        return run_parallel
    if find_spec("ray") is None:
        raise PrepareError("--engine ray needs Ray, which is not installed: pip install 'videofib[ray]'")
    return partial(run_on_ray, address=args.address)


def _encoding(args: argparse.Namespace) -> Encoding:
    if args.jobs < 1:
        raise PrepareError(f"--jobs {args.jobs} must be 1 or above")
    if args.codec == "copy" and args.person_crops:
        raise PrepareError("--person-crops cannot be used with --codec copy, which leaves files as they are")
    given = {name: getattr(args, name) for name in ("short_side", "fps", "gop") if getattr(args, name) is not None}
    limits = {"short_side": (0, 2**15), "fps": (0.1, 1000), "gop": (1, 10_000)}
    for name, value in given.items():
        low, high = limits[name]
        if args.codec == "copy":
            raise PrepareError(f"{_option(name)} cannot be used with --codec copy, which leaves files as they are")
        if not low <= value <= high:
            raise PrepareError(f"{_option(name)} {value} must be from {low} to {high}")
    from videofib.prep.transcode import Encoding

    return Encoding(codec=args.codec, **given)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def locate(
    listing: Listing, videos: Path, *, only_present_classes: bool
) -> tuple[list[Item], Sequence[str], dict[str, list[str]]]:
    """Find the file of every listed video under ``videos``.

    A file matches if its name (see ``_stem``) is one of the video's stems and its folder is not that of another class;
    the folder's name may have spaces or underscores, and other letter case. Letter case of the name matters only where
    a file of the right one exists or the file is another video's: ids of YouTube differ in nothing else.

    Returns:
        Items, the classes in use, and notes for the report: ``absent_classes`` without a single file, and
        ``several_files``: videos with more than one, and the one that is taken: of the listed name, else with nothing
        appended to its stem, else the first by path.

    Raises:
        PrepareError: a listed name leads out of the folder.
    """
    by_stem, by_other_case = defaultdict(list), defaultdict(list)
    listed = {stem for video in listing.videos for stem in _stems(video)}
    for path in [] if all(video.source for video in listing.videos) else find_videos(videos):
        stems = {path.stem, _stem(path.name)}
        for stem in stems:
            by_stem[stem].append(path)
            if not stems & listed:
                by_other_case[stem.lower()].append(path)
    class_folders = {_key(name) for name in listing.classes}
    several: list[str] = []

    def find(video: Listed) -> Path | None:
        check_name(video.name)
        if video.source:
            return video.source
        wanted = Path(video.name).name
        stems = _stems(video)
        for paths in (*(by_stem[stem] for stem in stems), *(by_other_case[stem.lower()] for stem in stems)):
            own = [path for path in paths if _key(path.parent.name) == _key(video.label)]
            unclassified = [path for path in paths if _key(path.parent.name) not in class_folders]
            if found := own or unclassified:
                found.sort(key=lambda path: (path.name != wanted, path.stem not in stems, str(path)))
                if len(found) > 1:
                    names = [str(path.relative_to(videos)) for path in found]
                    several.append(f"{video.name}: {names[0]} is taken, not {', '.join(names[1:])}")
                return found[0]
        return None

    sources = [find(video) for video in listing.videos]
    present = {video.label for video, source in zip(listing.videos, sources, strict=True) if source}
    absent = [name for name in listing.classes if name not in present]
    classes = [name for name in listing.classes if name in present] if only_present_classes else listing.classes
    number = {name: label for label, name in enumerate(classes)}
    items = [
        Item(video.name, number[video.label], video.splits, source)
        for video, source in zip(listing.videos, sources, strict=True)
        if video.label in number
    ]
    if not items:
        raise PrepareError(f"none of the {len(sources)} listed videos is under {videos}; is that the right --videos?")
    return items, classes, {"absent_classes": absent, "several_files": several, **listing.notes}


def list_by_name(videos: Path, classes: Sequence[str], like: str, describe: Callable[[str], Listed | str]) -> Listing:
    """The listing of a data set whose file names contain everything: class, person, camera.

    Args:
        videos: the folder to search.
        classes: all classes in the order of their labels.
        like: an example of a name, for the error message.
        describe: receives a path below ``videos`` without its extension; returns the video, under a unique name
            (without extension), or the heading under which the report lists the file instead.

    Raises:
        PrepareError: two files of one video, or no video at all.
    """
    found: dict[str, Listed] = {}
    notes: dict[str, list[str]] = defaultdict(list)
    for path in find_videos(videos):
        relative = path.relative_to(videos)
        video = describe(relative.with_suffix("").as_posix())
        if isinstance(video, str):
            notes[video].append(str(relative))
        elif video.name in found:
            first = found[video.name].source.relative_to(videos)
            raise PrepareError(f"{videos} has {video.name} twice, as {first} and as {relative}; move one of them away")
        else:
            found[video.name] = replace(video, name=f"{video.name}{path.suffix}", source=path)
    if not found:
        others = "".join(f"; {heading}: {len(names)}, such as {names[0]}" for heading, names in notes.items())
        raise PrepareError(f"no video under {videos} is named like {like} and selected by the options{others}")
    return Listing(list(found.values()), classes, dict(notes))


def summary(report: dict, out: Path) -> str:
    """The report in a few lines, with the names of missing and unreadable videos."""
    count = report.get("random_access_proven")  # which reports on pictures lack
    proven = "" if count is None else f"; seeking proven for {count}"
    splits = ", ".join(f"{count} {split}" for split, count in report["splits"].items())
    lines = [
        f"{printable(out)}: {report['prepared']} of {report['listed']} listed videos ({splits}) of "
        f"{report['classes']} classes{proven}"
    ]
    for kind, names in report.items():
        if isinstance(names, list) and names:
            lines.append(f"{kind.replace('_', ' ')}: {len(names)}")
            lines += [f"  {printable(name)}" for name in names[:_MAX_SHOWN]]
            if len(names) > _MAX_SHOWN:
                lines.append(f"  ... and {len(names) - _MAX_SHOWN} more, in {printable(out)}/{REPORT_NAME}")
    return "\n".join(lines)


def add_unique(videos: dict[str, Listed], video: Listed, where: str) -> None:
    """Add a video to those listed, under its name.

    Raises:
        PrepareError: one of that name is already listed; the message begins with ``where``.
    """
    if video.name in videos:
        raise PrepareError(f"{where}: {video.name!r} is listed twice; remove one of the two")
    videos[video.name] = video


def _key(name: str) -> str:
    return name.replace("_", " ").lower()


def _stems(video: Listed) -> tuple[str, ...]:
    return video.stems or (Path(video.name).stem,)


def _stem(name: str) -> str:
    """The name of a video's file without what downloaders append: ``id.mp4.mkv``, ``id.f137.mp4``: id."""
    stem = name
    while (path := Path(stem)).suffix.lower() in VIDEO_EXTENSIONS or _FORMAT.fullmatch(path.suffix):
        stem = path.stem
    return stem
