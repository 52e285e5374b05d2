"""Reads frames of a video, and makes sure that they are the requested ones. Pictures are read by ``stills``.

The reference is decoding in order: the frames of a video are those that come out, up to the end or the first decoding
error. (decord counts one more for HMDB51's avi files, whose packed B-frames leave an empty packet: it repeats the last
frame.)

To reach a few frames of a long video it is faster to seek to the keyframes before them. Many files number or store
their frames in a way that makes this return wrong frames, without an error. So each read is checked, and where the
check fails the file is read in order (``seeking_reader``). decord seeks unchecked; it may do so only in files for which
``random_access_is_right`` has been proved, which preparation does and the manifest records.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

import av
import numpy as np

from videofib.data.errors import DecodeError, FrameIndexError
from videofib.data.sampling import is_uneven
from videofib.data.source import Source
from videofib.data.video import decord_reader, torchcodec_reader
from videofib.data.video.clock import average_fps, without_jumps
from videofib.data.video.memory import MOST_BYTES, empty_frames, fits
from videofib.data.video.pictures import stored_size
from videofib.data.video.proof import FRAMES_A_READ, RANDOM_READS, Proof
from videofib.data.video.pyav_reader import OrderedReader, open_in_order
from videofib.data.video.seeking_reader import read_seeking
from videofib.data.video.stills import Stills, stills
from videofib.data.video.survey import Estimate
from videofib.data.video.survey_cache import surveyed

BACKENDS = ("auto", "decord", "pyav", "torchcodec")


@dataclass(frozen=True)
class VideoInfo:
    """The facts about a video that decoding all of it has shown.

    Attributes:
        num_frames: frames that decode in order.
        fps: frames a second, on average; 0 of pictures, whose rate nobody has said, and then duration, too.
        width, height: pixels as shown: square, and upright.
        duration: seconds.
        codec: such as ``h264``, or ``png`` of pictures.
        rotation: degrees counter-clockwise by which ``read_frames`` turns the stored frames: 0, 90, 180 or 270.
        mirrored: ``read_frames`` swaps left and right of the stored frames before it turns them.
        damaged: "" or why decoding stopped early.
        variable_rate: frames are not shown at even times; see ``sampling.is_uneven``.
        clock_jumps: how often the clock jumps; ``fps`` and ``variable_rate`` are those without the jumps (``clock``).
    """

    num_frames: int
    fps: float
    width: int
    height: int
    duration: float
    codec: str
    rotation: int
    mirrored: bool
    damaged: str
    variable_rate: bool
    clock_jumps: int = 0


@dataclass(frozen=True)
class Examined:
    """What decoding a video once, and then seeking in it, has shown.

    Attributes:
        info: its facts.
        random_access: decord, seeking in it, returns the right frames; see ``random_access_is_right``.
        middle: frame ``num_frames // 2``, (H, W, 3) uint8 RGB.
    """

    info: VideoInfo
    random_access: bool
    middle: np.ndarray


def probe(source: Source) -> VideoInfo:
    """Decode all of a video once and return the facts about it.

    Raises:
        DecodeError: no such file, not a video, or not one frame decodes.
    """
    if pictures := stills(source):
        return _info_of_pictures(pictures)
    with open_in_order(source) as reader:
        times = []
        for frame in reader.frames():
            if frame is reader.first:
                reader.to_rgb(frame)  # find a pixel format that cannot be converted here, not in training
            times.append(frame.time)
        return _info(source, reader, times)


def examine(source: Source, *, random_reads: int = RANDOM_READS, seed: int = 0) -> Examined:
    """Decode all of a video once in order, and compare what decord returns by seeking with that.

    Args:
        source: as of ``read_frames``.
        random_reads: random sets of frames that are compared, beside frames of every keyframe's group.
        seed: of the choice of frames.

    Raises:
        DecodeError: as ``probe``, or a frame that is needed cannot be converted.
    """
    if pictures := stills(source):
        return Examined(_info_of_pictures(pictures), False, pictures.picture(len(pictures) // 2))
    with open_in_order(source) as reader:
        packets = reader.stored()
    half = sum(packet.is_shown for packet in packets) // 2
    with open_in_order(source) as reader:
        proof, middle, times = None, None, []
        for index, frame in enumerate(reader.frames()):
            if index == 0 and reader.display.as_stored and fits(FRAMES_A_READ, frame.height, frame.width, MOST_BYTES):
                with suppress(DecodeError):
                    proof = Proof(source, packets, random_reads=random_reads, seed=seed)
            is_wanted = index in (0, half) or (proof is not None and index in proof.wanted)
            image = reader.to_rgb(frame) if is_wanted else None
            if proof:
                proof.add(frame.pts, image)
            middle = image if index == half else middle
            times.append(frame.time)
        info = _info(source, reader, times)
    if info.num_frames // 2 != half:  # other frames come out than are stored
        (middle,) = read_frames(source, [info.num_frames // 2], backend="pyav")
    return Examined(info, proof is not None and not info.damaged and proof.holds(), middle)


def _info(source: Source, reader: OrderedReader, times: list[float | None]) -> VideoInfo:
    """The facts about a video whose frames, shown at these times, have all come out of ``reader``."""
    height, width = reader.size
    known = [time for time in times if time is not None]
    if any(a > b for a, b in pairwise(known)) and _states_decoding_times(source):
        known.sort()
    clock, shown = without_jumps(known)
    fps = average_fps(reader.fps, shown)
    return VideoInfo(
        num_frames=len(times),
        fps=fps,
        width=width,
        height=height,
        duration=len(times) / fps,
        codec=reader.codec,
        rotation=reader.display.turns * 90,
        mirrored=reader.display.mirrored,
        damaged=reader.damaged,
        variable_rate=len(shown) == len(times) and is_uneven(shown),
        clock_jumps=clock.jumps,
    )


def _info_of_pictures(pictures: Stills) -> VideoInfo:
    for _ in pictures.frames():  # find what cannot be read here, not in training
        pass
    height, width = pictures.size
    duration = len(pictures) / pictures.fps if pictures.fps else 0.0
    return VideoInfo(len(pictures), pictures.fps, width, height, duration, pictures.codec, 0, False, "", False)


def estimate(source: Source) -> Estimate:
    """Count stored frames without decoding them.

    The count is rarely off by more than one or two, but for files that are damaged midway it may be far too high;
    ``read_frames`` notices this and reports how many there are.

    Raises:
        DecodeError: no such file, not a video, or no frames stored.
    """
    if pictures := stills(source):
        stored_size(pictures.files[0])
        return Estimate(len(pictures), pictures.fps)
    return surveyed(source, with_estimate=True).estimate


def read_frames(
    source: Source,
    indices: Sequence[int],
    *,
    random_access: bool = False,
    backend: str = "auto",
    short_side: int = 0,
    most_bytes: int = MOST_BYTES,
) -> np.ndarray:
    """The frames at ``indices``, in that order; repeats are allowed.

    Frames are upright (rotation and mirroring are applied) and have square pixels, see ``display``; where a video
    changes its size midway all have the size of the first.

    Args:
        source: a local video file, or a ``ByteRange``: a video within another file, such as a tar; a picture, which is
            a video of one frame, or a folder of frames. Pictures need no backend.
        indices: counted from 0.
        random_access: this file has passed ``random_access_is_right``, so decord may seek in it. Only decord needs it.
        backend: ``auto``: PyAV, seeking to keyframes where each frame is found to be the requested one, else in order;
            ``pyav``: PyAV in order; ``decord``: decord, in order unless the file is proven, or as ``pyav`` where the
            clock goes back, which decord misreads; ``torchcodec``: torchcodec where the packets' times number the
            frames, else as ``pyav``. Files whose frames are not shown as they are stored are read as with ``auto``,
            since decord and torchcodec neither mirror nor stretch them; so are those of which the frames, before they
            are scaled, take more than ``most_bytes``, and those whose names are not UTF-8, which these two cannot open.
        short_side: pixels that the shorter side has at most: larger frames are scaled down while they are converted,
            bicubic with antialiasing, to ``sampling.short_side_size``; none is enlarged. 0: as they are. Scaled frames
            of ``decord`` and ``torchcodec``, which convert before, then differ from those of ``pyav`` and ``auto`` by
            less than 2 of 255 on average in camera videos, and less than 8 in test pictures of full colours.
        most_bytes: that the returned frames may take, see ``memory``; 0: no limit. Where only scaled frames are wanted,
            only those are kept.

    ``pyav`` ends at the first decoding error of a damaged file; ``auto`` may reach frames behind it, checked as others.

    Returns:
        (T, H, W, 3) uint8 RGB.

    Raises:
        DecodeError: the file cannot be read, or its frames take too much memory (``TooLargeError``: than they may).
        FrameIndexError: an index beyond the last frame that decodes.
        ImportError: the backend is torchcodec, which is not installed.
        ValueError: no indices, a negative index or short side, or an unknown backend.
    """
    if backend not in BACKENDS:
        raise ValueError(f"unknown backend {backend!r}; it must be one of {', '.join(BACKENDS)}")
    if len(indices) == 0 or min(indices) < 0:
        raise ValueError(f"{source}: indices must be 0 or above and at least one, got {list(indices)}")
    if short_side < 0:
        raise ValueError(f"{source}: short_side must be 0 or above, got {short_side}")
    wanted, positions = np.unique(np.asarray(indices), return_inverse=True)
    try:
        if pictures := stills(source):
            frames = pictures.read(wanted.tolist(), short_side, most_bytes)
        else:
            frames = _read_ascending(source, wanted.tolist(), random_access, backend, short_side, most_bytes)
        if len(wanted) == len(indices) and (np.diff(positions) == 1).all():
            return frames
        height, width = frames.shape[1:3]
        repeated = empty_frames(str(source), len(positions), height, width, most_bytes)
        return np.take(frames, positions, axis=0, out=repeated)
    except MemoryError as error:
        raise DecodeError(
            f"{source}: reading {len(wanted)} frames takes more memory than this machine has free"
        ) from error


def random_access_is_right(source: Source, *, seed: int = 0) -> bool:
    """Whether decord, seeking in this file, returns the same frames as reading in order, for any indices.

    ``proof`` describes how this is shown.

    It is not where frames have to be turned, mirrored or stretched, which decord does in part or not at all, nor where
    decord cannot open a file of that name (``decord_reader.takes_name``).

    Raises:
        DecodeError: the file cannot be read even in order.
    """
    return examine(source, seed=seed).random_access


def _read_ascending(
    source: Source, indices: list[int], random_access: bool, backend: str, short_side: int, most_bytes: int
) -> np.ndarray:
    if backend in ("decord", "torchcodec") and not _serves_other_decoders(source, len(indices), most_bytes):
        backend = "auto"
    if backend == "decord" and not decord_reader.takes_name(source):
        backend = "auto"
    if backend == "decord" and random_access:
        return decord_reader.SeekingReader(source).read(indices, short_side)
    if backend == "decord" and not estimate(source).clock_goes_back:
        return decord_reader.read_in_order(source, indices, short_side)
    frames = None
    if backend == "auto":
        frames = read_seeking(source, indices, short_side, most_bytes)
    elif backend == "torchcodec":
        frames = torchcodec_reader.read_seeking(source, indices, short_side)
    return _read_in_order(source, indices, short_side, most_bytes) if frames is None else frames


def _read_in_order(source: Source, indices: list[int], short_side: int, most_bytes: int) -> np.ndarray:
    with open_in_order(source) as reader:
        return reader.collect(_frames_at(reader, indices), len(indices), short_side, most_bytes)


def _frames_at(reader: OrderedReader, indices: list[int]) -> Iterator[av.VideoFrame]:
    wanted = iter(indices)
    index = next(wanted)
    for count, frame in enumerate(reader.frames(), start=1):
        if count - 1 == index:
            yield frame
            index = next(wanted, None)
            if index is None:
                return
    why = f" ({reader.damaged})" if reader.damaged else ""
    raise FrameIndexError(f"{reader.path}: frame {indices[-1]} was requested, but {count} frames decode{why}", count)


def _serves_other_decoders(source: Source, count: int, most_bytes: int) -> bool:
    """Whether decord and torchcodec show the frames right, and ``count`` of them fit in memory before they are scaled.

    PyAV scales each as it comes, or reports that they take too much.
    """
    with open_in_order(source) as reader:
        first = next(reader.frames())
        return reader.display.as_stored and fits(count, first.height, first.width, most_bytes)


def _states_decoding_times(source: Source) -> bool:
    with open_in_order(source) as reader:
        return reader.states_decoding_times(reader.stored())
