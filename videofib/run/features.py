"""Extracts the features of videos into a file, in parts that survive a kill.

::

    FILE.parts/about.json              what is extracted: weights, kind, block, views, input, precision, videos
               part-000000000.npz      finished videos, from the first on; each file is complete or absent
               part-000000256.npz      the name has the position of its first video in the list

V videos, D features.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from videofib.data.errors import DecodeError
from videofib.data.lists.record import NamedVideo
from videofib.engine.resume_cache import describe
from videofib.files import remove_partial, replacing
from videofib.metrics.features import Features, FeaturesError, read_features, write_features
from videofib.run.saved_model import SavedModel, VideoFeatures

MOST_VIDEOS = 256  # of a part
MOST_BYTES = 64 << 20  # of the features of a part
_NOTHING = (1,)  # the shape of features in a part of which no video could be read


def extract(
    saved: SavedModel,
    videos: Sequence[str | NamedVideo],
    labels: Sequence[int],
    file: str | Path,
    *,
    views: tuple[int, int] | None = None,
    kind: str = "pooled",
    block: int = -1,
    num_workers: int = 0,
    report: Callable[[str], None] = lambda _: None,
) -> int:
    """Write the features of all videos, with their labels (-1: unknown); returns how many could be read.

    An earlier call that was interrupted is continued. At the end its parts are removed.

    Args:
        report: called with a line for each video that cannot be read, and for what earlier calls have left.

    Raises:
        FeaturesError: an earlier call extracted something else, or writes still.
        DecodeError: no video could be read.
        ValueError: the model has no such features.
        OSError: the file cannot be written.
    """
    views = saved.views if views is None else views
    settings = {"kind": kind, "block": block, "views": views, "input": saved.input, "precision": saved.precision}
    if saved.compiled:  # which changes the last bits
        settings["compiled"] = True
    about = describe(saved.model, list(zip(videos, labels, strict=True)), settings)
    parts = Parts(file, about)
    done = parts.finished(report).count
    if done:
        report(f"{done} of {len(videos)} videos are finished")
    rest = saved.features_all(videos[done:], views=views, kind=kind, block=block, num_workers=num_workers)
    for part in _gathered(rest, labels[done:], report):
        parts.add(done, part)
        done += len(part.videos)
    end = parts.finished(report)
    if end.count != len(videos):
        raise FeaturesError(f"{parts.folder} has changed meanwhile: does another process extract into the same file?")
    if end.shape is None:
        parts.remove()
        raise DecodeError(f"none of the {len(videos)} videos could be read, so there is nothing to write")
    write_features(file, parts.read(end.shape), end.shape, {**about, **settings, "model": saved.name})
    parts.remove()
    return end.readable


@dataclass(frozen=True)
class Finished:
    """How many videos are finished, from the first on, how many of them could be read, and the shape of their features.

    The shape is None where none could be read.
    """

    count: int
    readable: int
    shape: tuple[int, ...] | None


class Parts:
    """The finished videos of one extraction, on the disk.

    Args:
        file: what becomes of them; they lie in a folder beside it.
        about: what determines the features, and of which videos.

    Raises:
        FeaturesError: the folder has parts of something else.
        OSError: it cannot be written.
    """

    def __init__(self, file: str | Path, about: dict[str, str]):
        self.folder, self._about = Path(f"{file}.parts"), about
        self._note = self.folder / "about.json"
        if self._note.is_file():
            try:
                found = json.loads(self._note.read_text(encoding="utf-8"))
                other = [name for name in about if found.get(name) != about[name]]
            except (ValueError, AttributeError, RecursionError):
                other = ["inputs"]
            if other:
                raise FeaturesError(
                    f"{self.folder} has finished videos of features with other {', '.join(other)}; finish these with "
                    "the command that began them, or remove the folder"
                )
        elif self.folder.exists() and (not self.folder.is_dir() or any(self.folder.glob("[!.]*"))):
            raise FeaturesError(f"{self.folder} is not a folder of finished videos; remove it, or name another file")
        remove_partial(self.folder)

    def finished(self, report: Callable[[str], None]) -> Finished:
        """What is finished; parts that are damaged, and those after them, are removed."""
        count, readable, shape, intact = 0, 0, None, True
        for part in self._files():
            try:
                intact = intact and part == self._file(count)
                found = read_features(part) if intact else None
            except FeaturesError as error:
                report(f"{error}: done now, with the videos after it")
                intact = False
            if not intact:
                part.unlink()
                continue
            good = sum(not error for error in found.errors)
            count, readable = count + len(found.videos), readable + good
            shape = found.values.shape[1:] if good else shape
        return Finished(count, readable, shape)

    def add(self, first: int, part: Features) -> None:
        """Write finished videos, of which the first is at that position of the list."""
        if not self._note.is_file():
            with replacing(self._note) as partial:
                partial.write_text(json.dumps(self._about), encoding="utf-8")
        write_features(self._file(first), [part], part.values.shape[1:], part.about)

    def read(self, shape: tuple[int, ...]) -> Iterator[Features]:
        """All parts, in order."""
        for file in self._files():
            part = read_features(file)
            if part.values.shape[1:] != shape:  # none of its videos could be read
                values = np.full((len(part.videos), *shape), np.nan, np.float32)
                part = Features(part.videos, values, part.labels, part.errors, part.about)
            yield part

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _file(self, first: int) -> Path:
        return self.folder / f"part-{first:09d}.npz"

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.npz"))


def _gathered(
    found: Iterator[VideoFeatures], labels: Sequence[int], report: Callable[[str], None]
) -> Iterator[Features]:
    """The features of videos in parts of at most ``MOST_VIDEOS`` and about ``MOST_BYTES``."""
    waiting: list[tuple[VideoFeatures, int]] = []
    size = 0
    for item, label in zip(found, labels, strict=True):
        if item.error:
            report(f"error: {item.error}")
        waiting.append((item, label))
        size += 0 if item.values is None else item.values.nbytes
        if len(waiting) == MOST_VIDEOS or size >= MOST_BYTES:
            yield _part(waiting)
            waiting, size = [], 0
    if waiting:
        yield _part(waiting)


def _part(rows: Sequence[tuple[VideoFeatures, int]]) -> Features:
    shape = next((tuple(item.values.shape) for item, _ in rows if item.values is not None), _NOTHING)
    values = np.full((len(rows), *shape), np.nan, np.float32)
    for row, (item, _) in zip(values, rows, strict=True):
        if item.values is not None:
            row[:] = item.values.numpy()
    labels = np.array([label for _, label in rows], np.int64)
    return Features([item.video for item, _ in rows], values, labels, [item.error for item, _ in rows], {})
