"""Writing videos that can be read at any frame: H.264 in mp4 with a closed, regular group of pictures.

Readers seek to the keyframe before a frame and decode on. That returns wrong frames, without an error, where keyframes
are irregular, where frames refer across a keyframe (an open group), or where the decoding order is not the presentation
order. None of this occurs in the files written here:

    frame    0 1 2 ... 11 | 12 13 14 ... 23 | 24 ...
    kind     I P P ...  P |  I  P  P ...  P |  I ...      I: keyframe; P refers to earlier frames of its group only
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.frame import PictureType
from av.video.reformatter import VideoReformatter

from videofib.files import replacing
from videofib.prep.defaults import CRF, GOP


def write_video(
    path: str | Path,
    frames: Iterable[np.ndarray | av.VideoFrame],
    fps: float,
    *,
    gop: int = GOP,
    crf: int = CRF,
    preset: str = "veryfast",
) -> int:
    """Encode frames to an H.264 mp4 file; it appears under its name only when it is complete and on the disk.

    The same frames and arguments give the same bytes (one thread a file; encode several files in parallel instead).

    Args:
        path: the file to write; folders are created, an existing file is replaced.
        frames: ``(H, W, 3)`` uint8 RGB arrays, or YUV frames for which ``rgb.is_plain`` holds, which are encoded as
            they are; all of one even height and width. Only one at a time is in memory.
        fps: frames a second.
        gop: frames from one keyframe to the next.
        crf: constant quality, 0 (lossless) to 51.
        preset: x264's preset; it trades time for size.

    Returns:
        How many frames were written.

    Raises:
        ValueError: no frames, a size that is odd or changes, another dtype, an impossible fps; it names the path.
    """
    if not 0.001 < fps < 1e6:
        raise ValueError(f"{path}: fps is {fps}; it must be above 0.001 and below a million")
    rate = Fraction(fps).limit_denominator(1001)
    count = 0
    with replacing(path) as partial, av.open(str(partial), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        stream.options = {
            "preset": preset,
            "crf": str(crf),
            "a53cc": "0",  # no captions that a YUV frame carries beside its picture
            # no-mbtree: with x264's macroblock tree one file in 200 differed from run to run, without it none in 3000
            "x264-params": f"keyint={gop}:min-keyint={gop}:scenecut=0:open-gop=0:bframes=0:no-mbtree=1",
        }
        # One for all frames, since it keeps its tables. One thread: with several, rows at the borders of their slices
        # differed from run to run.
        to_yuv = VideoReformatter()
        for given in frames:
            frame = given if isinstance(given, av.VideoFrame) else _to_av(given, path)
            frame = to_yuv.reformat(frame, format="yuv420p", threads=1)
            if count == 0:
                stream.width, stream.height = frame.width, frame.height
            elif (frame.width, frame.height) != (stream.width, stream.height):
                raise ValueError(
                    f"{path}: frame {count} is {frame.width}x{frame.height}, "
                    f"those before are {stream.width}x{stream.height}"
                )
            frame.pts, frame.time_base, frame.duration = count, 1 / rate, 0
            frame.pict_type = PictureType.NONE  # a decoded frame's is not the encoder's
            for packet in stream.encode(frame):
                container.mux(packet)
            count += 1
        if count == 0:
            raise ValueError(f"{path}: no frames to write")
        for packet in stream.encode(None):
            container.mux(packet)
    return count


def _to_av(frame: np.ndarray, path: str | Path) -> av.VideoFrame:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"{path}: frames must be (H, W, 3) uint8, got {frame.shape} {frame.dtype}")
    height, width, _ = frame.shape
    if width % 2 or height % 2:
        raise ValueError(f"{path}: H.264 in yuv420p needs an even size, got {width}x{height}")
    return av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
