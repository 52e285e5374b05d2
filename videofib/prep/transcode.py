"""One video of any format -> a small H.264 file that can be read at any frame, or a copy; and the facts about it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice, pairwise, tee
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from videofib.data.errors import DecodeError
from videofib.data.segment import Segment
from videofib.data.video.clock import LONGEST_SHOWN, in_order_of_time
from videofib.data.video.decode import Estimate, Examined, estimate, examine
from videofib.data.video.extent import Extent, segment_extent
from videofib.data.video.pyav_reader import OrderedReader, open_in_order
from videofib.data.video.rgb import ToRGB, is_plain
from videofib.files import link_or_copy, sha256
from videofib.prep import encode
from videofib.prep.defaults import CRF, GOP, SHORT_SIDE
from videofib.prep.dhash import dhash
from videofib.prep.resample import resample

_SANE_FPS = (0.1, 1000.0)
_FALLBACK_FPS = 25.0
# Random sets of frames are a second check, on which the proof does not depend: the times of all frames are compared,
# and decord seeks to the first and the last frame of every group. In files written here all groups are closed, as long
# as each other and not reordered, so one set suffices; files of other origin get more.
_RANDOM_READS = 1
# Of the proof that files of other origin are read right at any frame; higher whenever it finds more. Outputs that were
# encoded here pass by how they are made.
PROOF_OF_COPIES = 2


@dataclass(frozen=True)
class Encoding:
    """How videos are written; see ``encode.write_video``.

    Attributes:
        short_side: pixels at most; 0: unchanged.
        gop, crf, preset: of the H.264 encoder.
        fps: constant rate to resample to by time; 0: the source's average rate, at which frames at even times stay.
        codec: ``h264``, or ``copy`` for the source byte for byte, to which none of the above applies.
    """

    short_side: int = SHORT_SIDE
    gop: int = GOP
    crf: int = CRF
    preset: str = "veryfast"
    fps: float = 0.0
    codec: str = "h264"

    def as_dict(self) -> dict:
        """The settings that the result depends on."""
        return asdict(self) if self.codec == "h264" else {"codec": self.codec}


@dataclass(frozen=True)
class Transcoded:
    """The facts that decoding the written file has shown, and two about the source.

    ``damaged``: "" or why it was read only in part; ``clock_jumps``: how often its clock jumps.
    """

    num_frames: int
    fps: float
    duration: float
    width: int
    height: int
    codec: str
    rotation: int
    mirrored: bool
    variable_rate: bool
    random_access: bool
    size: int
    sha256: str
    dhash: str
    damaged: str
    clock_jumps: int


def transcode(
    source: str | Path,
    target: str | Path,
    encoding: Encoding,
    *,
    crop: tuple[float, float, float, float] | None = None,
    segment: Segment | None = None,
) -> Transcoded:
    """Decode ``source`` in order to its end or first error, write it as ``target``, and check what was written.

    Frames are made upright (rotated, mirrored) with square pixels, and scaled so that the short side has at most
    ``short_side`` of these; where the size changes midway all have the size of the first. A variable frame rate becomes
    its constant average, or ``encoding.fps``, for which frames are repeated and skipped. Where the clock jumps, frames
    follow each other as if it did not (``data.video.clock``).

    With a ``crop``, (x0, y0, x1, y1), frames are cropped first; see ``pixel_crop``. It counts the pixels of the upright
    source as they are stored, before they are made square: as detectors see frames of ffmpeg, OpenCV or decord.
    With a ``segment`` only its frames are written, as those of a file that has no others.
    With ``codec`` ``copy`` the target has the source's bytes, and the facts are about these.

    Raises:
        DecodeError: not a single frame of ``source`` can be read, or the crop or segment lies outside of it; an older
            ``target`` is removed.
        ValueError: a segment is to be copied.
        OSError: ``target`` cannot be written.
    """
    target = Path(target)
    if segment and encoding.codec == "copy":
        raise ValueError(f"{source}{segment} is a part of a file, which cannot be copied")
    try:
        if encoding.codec == "copy":
            examined = _copy(source, target)
            damaged, clock_jumps = examined.info.damaged, examined.info.clock_jumps
        else:
            written, damaged, clock_jumps = _encode(source, target, encoding, crop, segment)
            examined = examine(target, random_reads=_RANDOM_READS)
            info = examined.info
            if info.num_frames != written or info.damaged:
                raise DecodeError(
                    f"{source}: {written} frames were written, {info.num_frames} come back {info.damaged}"
                )
    except DecodeError:
        target.unlink(missing_ok=True)
        raise
    info = examined.info
    return Transcoded(
        num_frames=info.num_frames,
        fps=info.fps,
        duration=info.duration,
        width=info.width,
        height=info.height,
        codec=info.codec,
        rotation=info.rotation,
        mirrored=info.mirrored,
        variable_rate=info.variable_rate,
        random_access=examined.random_access,
        size=target.stat().st_size,
        sha256=sha256(target),
        dhash=dhash(examined.middle),
        damaged=damaged,
        clock_jumps=clock_jumps,
    )


def _copy(source: str | Path, target: Path) -> Examined:
    with open_in_order(source):  # what is no video is not copied
        pass
    link_or_copy(source, target)
    try:
        return examine(target)
    except DecodeError as error:
        raise DecodeError(str(error).replace(f"{target}: ", f"{source}: ", 1)) from error


def _encode(
    source: str | Path, target: Path, encoding: Encoding, crop: tuple | None, segment: Segment | None
) -> tuple[int, str, int]:
    """(frames written, why the source could be read only in part, how often its clock jumps)."""
    stored = estimate(source)
    extent = Extent(0, stored.num_frames, stored.fps, stored.times)
    if segment:
        extent = segment_extent(source, segment, stored, stored.num_frames, stored.fps or _FALLBACK_FPS)
    is_sane = _SANE_FPS[0] <= extent.fps <= _SANE_FPS[1]
    fps = extent.fps if is_sane else _FALLBACK_FPS
    # frames shown at uneven times become as many at even times, unless the times are implausible
    at_even_times = extent.times and is_sane and max(b - a for a, b in pairwise(extent.times)) < LONGEST_SHOWN
    with open_in_order(source) as reader:
        frames = reader.frames()
        if segment or encoding.fps or at_even_times:
            timed = _timed(frames, stored)
            timed = _within(timed, extent, source) if segment else timed
            if encoding.fps or at_even_times:
                frames = resample(timed, fps, encoding.fps or fps)
            else:
                frames = (frame for _, frame in timed)
        scaled = _Scaled(reader, frames, encoding.short_side, crop)
        written = encode.write_video(
            target, scaled, encoding.fps or fps, gop=encoding.gop, crf=encoding.crf, preset=encoding.preset
        )
        return written, scaled.damaged or reader.damaged, stored.clock.jumps


def _timed(frames: Iterable[av.VideoFrame], stored: Estimate) -> Iterator[tuple[float | None, av.VideoFrame]]:
    """Frames with the times at which they are shown, without the jumps of their clock."""
    timed: Iterable[tuple[float | None, av.VideoFrame]] = ((frame.time, frame) for frame in frames)
    if stored.states_decoding_times:
        timed = in_order_of_time(timed)
    stated, timed = tee(timed)
    times = stored.clock.continuous(time for time, _ in stated)
    return ((time, frame) for time, (_, frame) in zip(times, timed, strict=True))


def _within(
    timed: Iterable[tuple[float | None, av.VideoFrame]], extent: Extent, source: str | Path
) -> Iterator[tuple[float | None, av.VideoFrame]]:
    """The frames of a segment.

    Raises:
        DecodeError: none of them decodes.
    """
    any_frame = False
    for pair in islice(timed, extent.first, extent.first + extent.length):
        any_frame = True
        yield pair
    if not any_frame:
        raise DecodeError(f"{source}: nothing decodes from frame {extent.first} on, where the segment begins")


def target_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """(width, height) with the short side at most ``short_side``, never enlarged, both even as yuv420p needs."""
    scale = min(1.0, (short_side or min(width, height)) / min(width, height))
    return max(2, 2 * int(width * scale / 2 + 1e-6)), max(2, 2 * int(height * scale / 2 + 1e-6))


def pixel_crop(crop: tuple[float, float, float, float], width: int, height: int) -> tuple[int, int, int, int]:
    """A box in integer pixels (left, top, right, bottom) of a frame: clamped to it, with even width and height.

    An odd side grows by a pixel to the right (bottom), else to the left (top); one as long as the frame loses a pixel.

    Raises:
        DecodeError: the box lies outside of the frame.
    """
    sides = []
    for low, high, limit in ((crop[0], crop[2], width), (crop[1], crop[3], height)):
        low, high = max(math.floor(low), 0), min(math.ceil(high), limit)
        if low >= high:
            raise DecodeError(f"the box {list(crop)} lies outside of the frame, which is {width}x{height}")
        if (high - low) % 2:
            low, high = (low, high + 1) if high < limit else (low - 1, high) if low > 0 else (low, max(high - 1, 1))
        sides.append((low, high))
    (left, right), (top, bottom) = sides
    return left, top, right, bottom


class _Scaled:
    """Frames of a reader, turned upright, cropped and scaled, one at a time; ``damaged``: "" or why it ended early.

    They are plain RGB arrays: here the colour matrix and range that the source is marked with are converted. Frames
    that need no more than scaling stay YUV: see ``rgb.is_plain``.
    """

    def __init__(self, reader: OrderedReader, frames: Iterable[av.VideoFrame], short_side: int, crop: tuple | None):
        self.reader, self.frames, self.short_side, self.crop, self.damaged = reader, frames, short_side, crop, ""
        self._to_rgb, self._scale = ToRGB(), VideoReformatter()

    def __iter__(self) -> Iterator[np.ndarray | av.VideoFrame]:
        last, scaled = None, None
        for count, frame in enumerate(self.frames):
            if frame is last:  # repeated by resampling
                yield scaled
                continue
            last = frame
            try:
                scaled = self._cropped(frame) if self.crop else self._uncropped(frame)
            except DecodeError:
                if count == 0:
                    raise
                self.damaged = f"decoding stopped after {count} frames: a {frame.format.name} frame cannot be converted"
                return
            yield scaled

    def _uncropped(self, frame: av.VideoFrame) -> np.ndarray | av.VideoFrame:
        height, width = self.reader.size
        width, height = target_size(width, height, self.short_side)
        display = self.reader.display
        if is_plain(frame) and not display.turns and not display.mirrored:
            return self._scale.reformat(frame, width, height, interpolation="BICUBIC", threads=1)
        return self.reader.to_size(frame, height, width)

    def _cropped(self, frame: av.VideoFrame) -> np.ndarray:
        display, first = self.reader.display, self.reader.first
        upright = self.reader.to_size(frame, *display.turned(first.height, first.width))
        left, top, right, bottom = pixel_crop(self.crop, upright.shape[1], upright.shape[0])
        height, width = display.shown_size(*display.turned(bottom - top, right - left))
        width, height = target_size(width, height, self.short_side)
        return self._to_rgb.scaled(upright[top:bottom, left:right], height, width)
