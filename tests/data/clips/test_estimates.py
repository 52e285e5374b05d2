"""Videos of which fewer frames decode than are stored, where nobody has counted them before."""

import warnings

import av
import numpy as np
import pytest

from videofib.data.clips.dataset import ClipSpec, read_clips
from videofib.data.lists.record import VideoRecord


def write_partly_empty(path, count, empty):
    """A Motion JPEG of ``count`` stored frames, of which the last ``empty`` are no pictures."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mjpeg", rate=25, width=64, height=48, pix_fmt="yuvj420p")
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 4 * number, np.uint8), format="rgb24")
            for packet in stream.encode(frame):
                if number >= count - empty:
                    times = packet.pts, packet.dts, packet.time_base
                    packet = av.Packet(bytes(200))
                    packet.pts, packet.dts, packet.time_base = times
                    packet.stream = stream
                file.mux(packet)


@pytest.mark.parametrize("empty", [0, 1, 2, 3])
def test_only_an_estimate_that_is_off_by_more_than_two_is_worth_a_warning(tmp_path, empty):
    path = tmp_path / "a.mkv"
    write_partly_empty(path, 12, empty)
    record, spec = VideoRecord(str(path), 0, "a.mkv"), ClipSpec(num_frames=4, sampling_rate=2, target_fps=25)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        ((_, frames, (clip,)),) = read_clips(record, spec, lambda length, fps: [list(range(length))])
    assert len(frames) == len(clip) == 12 - empty
    expected = [f"{path}: 9 frames decode, not 12; clips are taken from those"] if empty == 3 else []
    assert [str(warning.message) for warning in heard] == expected
