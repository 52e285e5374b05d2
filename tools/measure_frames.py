"""Compare the frames of each video backend, for all videos below a folder, with those of PyAV reading in order.

    python tools/measure_frames.py DIR [--frames 32] [--ways auto torchcodec]

For each way of reading, the table lists how many videos it reads, for how many it finds another number of frames, how
many of the requested frames are wrong (a mean absolute difference above 2 of 255, or another size), how many of these
decord returns right when it reads in order, so that seeking alone made them wrong, and the largest mean absolute
difference of a video over its requested frames. The others are wrong for another reason: a colour conversion of its
own, frames made up for damaged ones. Below the table, every video that differs from the reference is listed with the
differences.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from videofib.data.errors import DecodeError, FrameIndexError
from videofib.data.lists.extensions import VIDEO_EXTENSIONS
from videofib.data.video.decode import read_frames

REFERENCE = {"backend": "pyav"}
WAYS = {
    "auto": {"backend": "auto"},
    "decord in order": {"backend": "decord"},
    "decord seeking": {"backend": "decord", "random_access": True},  # which the loader allows only in verified files
    "torchcodec": {"backend": "torchcodec"},  # cannot run in the same process as decord
}
IN_ORDER = {"decord seeking": "decord in order"}  # the same library without seeking
WRONG = 2.0  # mean absolute difference, of 255
BEYOND = 1 << 30  # no video has so many frames


@dataclass
class Findings:
    """The result of one way of reading, over all videos."""

    read: int = 0
    other_count: int = 0
    frames: int = 0
    wrong: int = 0
    by_seeking: int = 0
    worst: float = 0.0
    notes: list[str] = field(default_factory=list)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--frames", type=int, default=32, help="frames of each video, evenly spaced; 0: every frame")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[way for way in WAYS if way != "torchcodec"])
    options = parser.parse_args(argv)
    if not options.folder.is_dir():
        sys.exit(f"error: {options.folder} is not a folder")
    videos = sorted(p for p in options.folder.rglob("*") if p.suffix.lower() in VIDEO_EXTENSIONS and p.is_file())
    findings, unreadable = compare(videos, options.frames, options.ways)
    print(f"{len(videos)} files, of which PyAV reads {len(videos) - len(unreadable)} in order")
    columns = (
        f"{'read':>6} {'other count':>12} {'frames':>8} {'wrong':>6} {'only by seeking':>16} {'largest difference':>19}"
    )
    print(f"{'':16} {columns}")
    for way, found in findings.items():
        by_seeking = found.by_seeking if way in IN_ORDER else "-"
        counts = f"{found.read:6} {found.other_count:12} {found.frames:8} {found.wrong:6} {by_seeking:>16}"
        print(f"{way:16} {counts} {found.worst:15.3f}/255")
    for way, notes in {"PyAV in order": unreadable, **{way: found.notes for way, found in findings.items()}}.items():
        if notes:
            print(f"\n{way}:", *notes, sep="\n  ")


def compare(videos: list[Path], spread: int, ways: list[str]) -> tuple[dict[str, Findings], list[str]]:
    """The findings of each way, and why the reference cannot read some videos."""
    findings, unreadable = {way: Findings() for way in ways}, []
    for path in videos:
        try:
            count = num_frames(path, REFERENCE)
            indices = chosen(count, spread)
            truth = read_frames(path, indices, **REFERENCE)
        except DecodeError as error:
            unreadable.append(str(error))
            continue
        for way, found in findings.items():
            known = dict(zip(indices, truth, strict=True))
            wrong = examine(path, count, known, WAYS[way], found)
            if wrong and way in IN_ORDER:
                found.by_seeking += right(path, {i: known[i] for i in wrong}, WAYS[IN_ORDER[way]])
    return findings, unreadable


def examine(path: Path, count: int, truth: dict[int, np.ndarray], way: dict, found: Findings) -> list[int]:
    """Add to ``found`` how one way of reading ``path`` differs from ``truth``, some of its ``count`` frames.

    Returns:
        The indices of the wrong frames.
    """
    try:
        other = num_frames(path, way)
        indices = [i for i in truth if i < other]
        frames = read_frames(path, indices, **way)
    except (DecodeError, FrameIndexError) as error:
        found.notes.append(str(error))
        return []
    apart = [difference(frame, truth[i]) for i, frame in zip(indices, frames, strict=True)]
    wrong = [i for i, value in zip(indices, apart, strict=True) if value > WRONG]
    found.read += 1
    found.other_count += other != count
    found.frames += len(indices)
    found.wrong += len(wrong)
    found.worst = max(found.worst, float(np.mean(apart)))
    notes = [f"{other} frames instead of {count}"] * (other != count)
    notes += [f"{len(wrong)} of {len(indices)} frames wrong, by up to {max(apart):.1f}/255"] * bool(wrong)
    if notes:
        found.notes.append(f"{path}: {'; '.join(notes)}")
    return wrong


def right(path: Path, truth: dict[int, np.ndarray], way: dict) -> int:
    """How many of some frames of ``path`` this way of reading returns right; none where it cannot read the file."""
    try:
        frames = read_frames(path, list(truth), **way)
    except (DecodeError, FrameIndexError):
        return 0
    return sum(difference(frame, expected) <= WRONG for frame, expected in zip(frames, truth.values(), strict=True))


def num_frames(path: Path, way: dict) -> int:
    """The number of frames by this way of reading."""
    try:
        read_frames(path, [BEYOND], **way)
    except FrameIndexError as error:
        return error.num_frames
    raise AssertionError(f"{path} has a frame {BEYOND}")


def chosen(count: int, spread: int) -> list[int]:
    """All indices below ``count``, or ``spread`` of them from the first to the last."""
    if not 0 < spread < count:
        return list(range(count))
    return [i * (count - 1) // max(spread - 1, 1) for i in range(spread)]


def difference(frame: np.ndarray, truth: np.ndarray) -> float:
    """Mean absolute difference, of 255; 255 where the size differs."""
    return float(np.abs(frame.astype(np.int16) - truth).mean()) if frame.shape == truth.shape else 255.0


if __name__ == "__main__":
    main()
