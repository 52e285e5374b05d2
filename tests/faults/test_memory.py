"""Small files of huge frames do not fill the memory: a real process reads each, and its peak is measured."""

import json
import subprocess
import sys

import av
import numpy as np
import pytest
from PIL import Image

from videofib.data.errors import DecodeError
from videofib.prep.encode import write_video
from videofib.prep.transcode import Encoding, transcode

SIDE = 8192
READ = """
import resource, sys
from videofib.data.errors import DecodeError
from videofib.data.video.decode import read_frames
path, count, short_side, backend = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
if backend == "decord":
    import decord, torch
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    print(read_frames(path, range(count), short_side=short_side, backend=backend).shape)
except DecodeError as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**20)
"""

LOOK_OVER = """
import resource, sys
from videofib.cli import main
main(["predict", sys.argv[1], "--model", "motion_xxs", "--timeline", "--no-video", "--out", sys.argv[2]])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)
"""


def read(path, count=8, short_side=0, backend="auto"):
    """(what reading in a process of its own returned or reported, GiB by which its memory grew)."""
    command = [sys.executable, "-c", READ, str(path), str(count), str(short_side), backend]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr[-2000:]
    *said, grown = run.stdout.splitlines()
    return "\n".join(said), float(grown)


def encode(path, width, height, count):
    """A video of one grey."""
    frame = av.VideoFrame(width, height, "yuv420p")
    for plane in frame.planes:
        plane.update(bytes([128]) * plane.buffer_size)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for index in range(count):
            frame.pts = index
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def huge(tmp_path_factory):
    path = encode(tmp_path_factory.mktemp("huge") / "huge.mp4", SIDE, SIDE, 8)
    assert path.stat().st_size < 250_000
    return path


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["auto", "pyav", "decord"])
def test_a_read_of_more_than_a_gigabyte_is_refused_before_it_is_converted(huge, backend):
    said, grown = read(huge, backend=backend)
    assert "8 frames of 8192x8192 take 1.50 GiB, and a read may take 1.00" in said
    assert "DATA.READ_SHORT_SIDE" in said
    assert grown < 1  # twice the 1.5 GiB and the decoder's own where nothing bounds it


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["auto", "pyav", "decord"])
def test_only_scaled_frames_are_kept_where_those_are_wanted(huge, backend):
    said, grown = read(huge, short_side=224, backend=backend)
    assert said == "(8, 224, 224, 3)"
    assert grown < 1.2


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_frames_larger_than_any_real_video_are_refused_before_they_are_decoded(tmp_path, suffix):
    said, grown = read(encode(tmp_path / f"huge.{suffix}", SIDE + 256, SIDE, 1), count=1, short_side=224)
    assert "8448x8192 are refused" in said
    assert grown < 0.6


@pytest.mark.parametrize(
    ("side", "reason"),
    [(12000, "frames of 12000x12000 are refused; 67,108,864 pixels are read at most"), (65535, "no frame decodes")],
)
def test_a_header_that_states_a_huge_picture_is_refused(tmp_path, side, reason):
    frames = [Image.new("P", (8, 8), colour) for colour in range(3)]
    frames[0].save(tmp_path / "bomb.gif", save_all=True, append_images=frames[1:])
    content = bytearray((tmp_path / "bomb.gif").read_bytes())
    content[6:10] = side.to_bytes(2, "little") * 2  # width and height of the screen
    (tmp_path / "bomb.gif").write_bytes(content)
    said, grown = read(tmp_path / "bomb.gif", count=1, short_side=64)
    assert f"bomb.gif: {reason}" in said
    assert grown < 0.3


def test_memory_that_is_not_there_is_a_failure_of_that_video(tmp_path):
    write_video(tmp_path / "a.mp4", [np.zeros((480, 640, 3), np.uint8)] * 2, 25)
    code = """
import resource, sys
from videofib.data.errors import DecodeError
from videofib.data.video.decode import read_frames
resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
try:
    read_frames(sys.argv[1], [0, 1] * 5000, most_bytes=0)
except DecodeError as error:
    print(error)
"""
    command = [sys.executable, "-c", code, str(tmp_path / "a.mp4")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "a.mp4: 10000 frames of 640x480 take 8.58 GiB, which this machine does not have free" in said


@pytest.mark.slow
def test_preparation_refuses_huge_frames_and_leaves_nothing(tmp_path):
    with pytest.raises(DecodeError, match="8448x8192 are refused"):
        transcode(encode(tmp_path / "huge.mkv", SIDE + 256, SIDE, 1), tmp_path / "out.mp4", Encoding())
    assert not list(tmp_path.glob("out*"))


@pytest.mark.slow
def test_the_timeline_of_a_long_film_takes_little_more_than_that_of_a_short_one(tmp_path):
    """25 fps; the views of the 2,500 windows that the long film has more than the short one are 0.5 GiB."""
    peaks = {}
    for count in (500, 25_500):
        film = encode(tmp_path / f"{count}.mp4", 64, 48, count)
        run = subprocess.run(
            [sys.executable, "-c", LOOK_OVER, film, tmp_path / str(count)], capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr[-2000:]
        windows = len(json.loads((tmp_path / str(count) / "timeline.json").read_bytes())["windows"])
        peaks[windows] = float(run.stdout.splitlines()[-1])
    (few, small), (many, large) = peaks.items()
    assert many - few > 2000
    assert large - small < 0.15
