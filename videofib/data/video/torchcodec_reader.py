"""Reading single frames with torchcodec, an extra: ``pip install 'videofib[torchcodec]'`` and FFmpeg's libraries.

torchcodec numbers frames by the times of their packets. So it is used only where these number the frames
(``seek_index``), and each frame must have the requested time. Whether a frame was damaged is not visible from outside.

torchcodec and decord load different FFmpeg libraries, which clash: with both loaded, AV1 ends the process with a
segmentation fault. So torchcodec is refused in a process that has loaded decord.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from videofib.data.source import Source, location
from videofib.data.video.pyav_reader import open_in_order
from videofib.data.video.scaling import scaled_down
from videofib.data.video.survey_cache import kept, stamped, survey_and_keep

_SAME_TIME = 1e-4  # seconds


def read_seeking(source: Source, indices: Sequence[int], short_side: int = 0) -> np.ndarray | None:
    """Frames (T, H, W, 3) uint8 RGB at ascending, distinct indices; None where only reading in order finds them.

    ``short_side`` in pixels: larger frames are scaled down to it; 0: none.

    Raises:
        DecodeError: the file cannot be opened or has no video.
        ImportError: torchcodec, or an FFmpeg that it can use, is not installed; or decord is loaded.
    """
    decoder_class = _decoder_class()
    stamp = stamped(source)
    survey = kept(stamp)
    with open_in_order(source) as reader:
        if survey is None or survey.stated != reader.stated:
            survey, _ = survey_and_keep(source, stamp, reader)
        index = survey.index
        stream, tick = reader.stream.index, float(reader.stream.time_base)
    if index is None or indices[-1] >= len(index.times):
        return None
    try:
        decoder = decoder_class(location(source), stream_index=stream, dimension_order="NHWC", num_ffmpeg_threads=1)
        batch = decoder.get_frames_at(list(indices))
    except (RuntimeError, IndexError, ValueError):
        return None  # PyAV reads it or reports the error
    expected = [index.times[i] * tick for i in indices]
    if np.abs(batch.pts_seconds.numpy() - expected).max() > _SAME_TIME:
        return None
    return scaled_down(batch.data.numpy(), short_side)


def _decoder_class():
    if "decord" in sys.modules:
        raise ImportError(
            "the backend torchcodec cannot share a process with decord, which is loaded; "
            "use the backend auto, or read with decord in another process"
        )
    try:
        from torchcodec.decoders import VideoDecoder  # here, since it is an optional dependency
    except (ImportError, RuntimeError, OSError) as error:  # without FFmpeg's libraries it is a RuntimeError
        raise ImportError(
            "the backend torchcodec needs torchcodec and FFmpeg's shared libraries; install them with "
            '"pip install \'videofib[torchcodec]\'" and, for instance, "apt install ffmpeg", or use the backend auto '
            f"({str(error).strip().splitlines()[0]})"
        ) from error
    return VideoDecoder
