"""Constant rates: the frame that is on the screen, whatever the source's times are."""

import av
import numpy as np
import pytest

from tests.commands import call
from videofib.commands.prep import main
from videofib.data.errors import DecodeError
from videofib.data.lists.manifest import read_list
from videofib.data.video.decode import probe, read_frames
from videofib.prep.resample import resample


def resampled(times, source_fps, fps):
    return list(resample([(time, index) for index, time in enumerate(times)], source_fps, fps))


@pytest.mark.parametrize(
    ("times", "source_fps", "fps", "expected"),
    [
        ([0, 1 / 3, 2 / 3, 1], 3, 2, [0, 2, 3]),  # the drawing at the top of the file
        ([0, 0.04, 0.08], 25, 25, [0, 1, 2]),
        ([5.0, 5.033, 5.067, 5.1], 30, 30, [0, 1, 2, 3]),  # rounded times that do not start at 0
        ([0, 0.04, 0.08], 25, 50, [0, 0, 1, 1, 2, 2]),
        ([0, 0.02, 0.04, 0.06], 50, 25, [1, 3]),
        ([0, 0.1, 0.5], 5, 10, [0, 1, 1, 1, 1, 2, 2]),  # a variable rate
        ([None, None, None], 25, 50, [0, 0, 1, 1, 2, 2]),
        ([0, 0.04, 0.02, 0.12], 25, 25, [0, 2, 2, 3]),  # backwards: the frame in between is never seen
        ([0, 0.04, 0.08, 0.02], 25, 25, [0, 1, 3]),
        ([0.0], 25, 1, [0]),  # shorter than one output frame
    ],
)
def test_the_frame_on_the_screen(times, source_fps, fps, expected):
    assert resampled(times, source_fps, fps) == expected


def test_frames_that_claim_to_stay_for_days_are_refused_before_they_are_repeated():
    with pytest.raises(DecodeError, match=r"frame 1 stays for 100000 s; prepare this video without --fps"):
        resampled([0, 0.04, 1e5], 25, 25)


def test_no_frames_are_an_error():
    with pytest.raises(DecodeError, match="no frames"):
        resampled([], 25, 25)


def write_with_times(path, times):
    """A real video in which frame i is of brightness 16 + 8 i and is shown from times[i] (ms) on."""
    path.parent.mkdir(parents=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=1000)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.qmin = stream.codec_context.qmax = 2
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 16 + 8 * index, np.uint8), format="rgb24")
            frame.pts = time
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_a_variable_rate_becomes_constant_by_time(tmp_path):
    times = [0, 40, 80, 300, 320, 340, 700, 900]
    write_with_times(tmp_path / "raw/c/v.mkv", times)
    words = [
        "folder",
        "--videos",
        tmp_path / "raw",
        "--out",
        tmp_path / "out",
        "--jobs",
        "1",
        "--fps",
        "10",
        "--gop",
        "3",
    ]
    call(main, words, check=True)
    (record,) = read_list(tmp_path / "out/train.csv")
    info = probe(record.path)
    assert (info.fps, info.num_frames, record.num_frames, record.fps) == (10, info.num_frames, info.num_frames, 10)
    brightness = read_frames(record.path, range(info.num_frames)).mean((1, 2, 3))
    shown = np.rint((brightness - 16) / 8).astype(int).tolist()
    # on the screen at 50, 150, ... ms
    assert shown[:9] == [max(i for i, time in enumerate(times) if time <= middle) for middle in range(50, 900, 100)]
    assert set(shown[9:]) == {7}
    with av.open(record.path) as container:
        keys = [index for index, packet in enumerate(container.demux(video=0)) if packet.size and packet.is_keyframe]
    assert keys == list(range(0, info.num_frames, 3))


def test_impossible_rates_are_refused(tmp_path):
    (tmp_path / "raw").mkdir()
    words = ["folder", "--videos", tmp_path / "raw", "--out", tmp_path / "out"]
    for options, message in (
        (["--fps", "-3"], "--fps -3.0 must be from 0.1 to"),
        (["--gop", "0"], "--gop 0 must be from 1 to"),
    ):
        result = call(main, [*words, *options])
        assert result.returncode == 1
        assert message in result.stderr
