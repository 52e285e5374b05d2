"""Reading a video in order with PyAV: slow for a single late frame, and right for every file that decodes at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, cached_property

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData

from videofib.data.errors import DecodeError
from videofib.data.sampling import limited_size
from videofib.data.source import PROTOCOLS, Source, location
from videofib.data.video.clock import REORDERED, Stored, ascending
from videofib.data.video.display import Display, read_display
from videofib.data.video.memory import MOST_PIXELS, check_frame_size, empty_frames
from videofib.data.video.rgb import ToRGB

# Formats that FFmpeg would also open as video: text, by its text-art demuxers, and lists that point to other files.
_NOT_VIDEO = {"tty", "bin", "xbin", "adf", "idf", "image2", "hls", "dash", "concat", "concatf", "rawvideo"}
# Formats whose files name other files, devices or hosts, which FFmpeg opens before it returns: a pipe would hang it.
_LEADS_ELSEWHERE = {
    "alias_pix",
    "avisynth",
    "brender_pix",
    "concat",
    "concatf",
    "dash",
    "hls",
    "image2",
    "imf",
    "lavfi",
}
_LEADS_ELSEWHERE |= {"rtp", "rtsp", "sap", "sdp", "vapoursynth", "vobsub", "webm_dash_manifest"}
# The brands of HEIC and AVIF pictures, which share the container of MP4. A file may hold a video track beside one.
_PICTURE_BRANDS = {"avci", "avif", "heic", "heim", "heis", "heix", "mif1"}
_FALLBACK_FPS = 25.0
# Decoders of these codecs may start to reorder frames anywhere.
LATE_REORDERING = ("h264", "hevc")
FFMPEG_ERRORS = (av.FFmpegError, ValueError)


class OrderedReader:
    """The best video stream of an open file, decoded from its start.

    Attributes:
        path: its name in messages.
        fps: frames a second as the container states it; 25 where it does not.
        codec, container_format: FFmpeg's names, such as ``h264`` and ``avi``.
        stream: the open stream.
        damaged: once ``frames`` has ended, why it ended early, or "".
        first: once ``frames`` has begun, the first frame, whose size and display hold for all frames.
    """

    def __init__(self, path: str, container: av.container.InputContainer, stream: av.VideoStream):
        self.path = path
        self.damaged = ""
        self.first: av.VideoFrame | None = None
        self.fps = float(stream.average_rate or stream.guessed_rate or _FALLBACK_FPS)
        self.codec = stream.codec_context.codec.canonical_name
        self.container_format = container.format.name
        self.stream, self._container = stream, container
        self._convert = ToRGB()
        # How FFmpeg conceals a damaged frame depends on its threads: PyAV's default type, and a number that is the same
        # on any machine.
        stream.thread_type, stream.thread_count = "SLICE", 2
        stream.codec_context.options = {"max_pixels": str(MOST_PIXELS)}  # for frames larger than the container states

    def frames(self) -> Iterator[av.VideoFrame]:
        """The frames in the order shown, up to the end or the first decoding error.

        Raises:
            DecodeError: not even the first frame decodes.
        """
        count = 0
        try:
            for frame in self._container.decode(self.stream):
                self.first = self.first or frame
                yield frame
                count += 1
        except FFMPEG_ERRORS as error:
            self.damaged = f"decoding stopped after {count} frames: {reason_of(error)}"
        if count == 0:
            raise DecodeError(f"{self.path}: no frame decodes ({self.damaged or 'the video stream is empty'})")

    @cached_property
    def display(self) -> Display:
        """What makes stored frames upright.

        The matrix comes from the container, which has one for all frames, or from the codec (H.264's and HEVC's display
        orientation), which often repeats it with keyframes only. The container's pixel aspect takes precedence over the
        codec's.
        """
        matrix = self.first.side_data.get(SideData.DISPLAYMATRIX)
        return read_display(None if matrix is None else bytes(matrix), self.stream.sample_aspect_ratio)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels as shown: square, and upright."""
        return self.display.shown_size(self.first.height, self.first.width)

    def to_rgb(self, frame: av.VideoFrame, short_side: int = 0) -> np.ndarray:
        """The frame as (H, W, 3) uint8 RGB, upright, with square pixels, all of one size if it changes midway.

        H and W are those of the first frame, scaled down if the shorter is above ``short_side``; 0: never.
        """
        return self.to_size(frame, *limited_size(*self.size, short_side))

    def to_size(self, frame: av.VideoFrame, height: int, width: int) -> np.ndarray:
        """The frame as (height, width, 3) uint8 RGB, upright.

        Raises:
            DecodeError: it cannot be converted.
        """
        try:
            image = self._convert(frame, *self.display.turned(height, width))
        except (*FFMPEG_ERRORS, MemoryError) as error:
            raise DecodeError(f"{self.path}: {frame.format.name} frames do not convert: {reason_of(error)}") from error
        return self.display.upright(image)

    def collect(self, frames: Iterable[av.VideoFrame], count: int, short_side: int, most_bytes: int) -> np.ndarray:
        """``count`` of this reader's frames as (count, H, W, 3) uint8 RGB; see ``to_rgb``.

        Each is converted into its part of the result, which is allocated before any is converted.

        Raises:
            DecodeError: they take more than ``most_bytes``, or one cannot be converted.
        """
        result = None
        for number, frame in enumerate(frames):
            if result is None:
                result = empty_frames(self.path, count, *limited_size(*self.size, short_side), most_bytes)
            result[number] = self.to_rgb(frame, short_side)
        return result

    def seek(self, ticks: int) -> None:
        """Continue ``packets`` at the keyframe before a time, in ticks of the stream, or where the container leads to.

        Raises:
            av.FFmpegError: the container cannot seek there.
        """
        self._container.seek(ticks, stream=self.stream)

    def packets(self) -> Iterator[av.Packet]:
        """The stored, not yet decoded frames, in file order."""
        try:
            for packet in self._container.demux(self.stream):
                if packet.size:
                    yield packet
        except FFMPEG_ERRORS as error:
            self.damaged = f"reading stopped early: {reason_of(error)}"

    def stored(self) -> list[Stored]:
        """The facts that the packets state, in file order."""
        return [stored(packet) for packet in self.packets()]

    @property
    def stated(self) -> str:
        """What the container states about the stream, in one line; another file seldom states the same."""
        stream, context = self.stream, self.stream.codec_context
        facts = (self.container_format, self.codec, f"{context.width}x{context.height}", stream.index)
        return " ".join(map(str, (*facts, stream.time_base, stream.start_time, stream.duration, stream.frames)))

    @property
    def reordered(self) -> int:
        """How many frames the decoder holds back at most, to return them in another order than they are stored in."""
        return REORDERED if self._reorders or self.codec in LATE_REORDERING else 0

    def states_decoding_times(self, stored: Sequence[Stored]) -> bool:
        """Whether these packets state when frames are decoded, as in avi, and the decoder may return them reordered."""
        return (self.container_format == "avi" and self.reordered > 0) or self.has_made_up_times(stored)

    def has_made_up_times(self, stored: Sequence[Stored]) -> bool:
        """Whether the decoder reorders and the times of these packets do not: the container has none of its own."""
        return self._reorders and ascending(stored)

    @property
    def _reorders(self) -> bool:
        return bool(self.stream.codec_context.has_b_frames)


def stored(packet: av.Packet) -> Stored:
    """The facts that a packet states about its frame."""
    return Stored(packet.pts, packet.is_keyframe, not packet.is_discard, packet.dts, packet.size)


@contextmanager
def open_in_order(source: Source) -> Iterator[OrderedReader]:
    """Open a local video for reading in order.

    Raises:
        DecodeError: no such file, not a file, empty, not a video container, without a video stream, or with frames
            larger than ``memory.MOST_PIXELS``.
    """
    url = location(source)
    try:
        # Metadata of old data sets is not always UTF-8.
        container = av.open(url, metadata_errors="replace", options=_within_the_file())
    except (*FFMPEG_ERRORS, OSError) as error:
        raise DecodeError(f"{source}: cannot be opened as video: {reason_of(error)}") from error
    with container:
        name = container.format.name
        if name in _NOT_VIDEO or name.endswith("_pipe"):
            raise DecodeError(f"{source}: not a video but {container.format.long_name or name}")
        stream = container.streams.best("video")  # FFmpeg's own choice, which decord makes too
        if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
            kinds = sorted({other.type for other in container.streams}) or ["nothing"]
            raise DecodeError(f"{source}: no video stream (found {', '.join(kinds)})")
        if container.metadata.get("major_brand") in _PICTURE_BRANDS and stream.duration is None:
            raise DecodeError(f"{source}: not a video but a picture ({container.metadata['major_brand']})")
        if stream.codec_context is None:
            raise DecodeError(f"{source}: no decoder for its video stream")
        check_frame_size(str(source), stream.codec_context.width, stream.codec_context.height)
        yield OrderedReader(str(source), container, stream)


@cache
def _within_the_file() -> dict[str, str]:
    """The options by which FFmpeg opens one file and no other: it refuses a format before it opens what that names."""
    allowed = ",".join(sorted(set(av.formats_available) - _LEADS_ELSEWHERE))
    return {"protocol_whitelist": PROTOCOLS, "format_whitelist": allowed}


def reason_of(error: Exception) -> str:
    """What FFmpeg says went wrong."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
