"""torchcodec, where it is installed: the same frames, sizes and errors as with PyAV."""

import subprocess
import sys
import tarfile

import numpy as np
import pytest

from tests.clocks import edited, jumping, numbers
from videofib.data.errors import DecodeError, FrameIndexError
from videofib.data.source import ByteRange
from videofib.data.video import torchcodec_reader
from videofib.data.video.decode import probe, read_frames


@pytest.fixture
def _torchcodec():
    if "decord" in sys.modules:
        pytest.skip("decord is loaded; test_all_of_this_without_decord runs this in a process of its own")
    try:
        import torchcodec.decoders  # noqa: F401
    except (ImportError, RuntimeError, OSError) as error:
        pytest.skip(f"torchcodec cannot be loaded: {str(error).splitlines()[0]}")


@pytest.mark.usefixtures("_torchcodec")
def test_frames_are_those_of_reading_in_order(shared_data):
    hostile = shared_data / "hostile"
    seekable = [
        "codec_h264.mp4",
        "codec_vp9.webm",
        "codec_av1.mp4",
        "bframes_open_gop.mp4",
        "rotated_90.mp4",
        "two_video_streams.mp4",
    ]
    for name in [*seekable, "codec_vp8.webm", "misseek/h264_in_avi_v_Lunges_g02_c01.avi", "resolution_change.ts"]:
        path = hostile / name
        last = probe(path).num_frames - 1
        indices = [last, 0, last // 2, last // 2, last // 3]
        frames = read_frames(path, indices, backend="torchcodec")
        true = read_frames(path, indices, backend="pyav")
        assert frames.shape == true.shape, path
        assert np.abs(frames.astype(int) - true).mean((1, 2, 3)).max() <= 1, path
        assert (torchcodec_reader.read_seeking(path, [last // 2]) is not None) == (name in seekable), path


@pytest.mark.usefixtures("_torchcodec")
def test_files_that_are_not_shown_as_stored_are_read_otherwise(shared_data):
    for name in ("decoders/mirrored_horizontally.mp4", "decoders/mirrored_vertically.mp4", "hostile/rotated_270.mp4"):
        true = read_frames(shared_data / name, [8, 2], backend="pyav")
        assert np.array_equal(read_frames(shared_data / name, [8, 2], backend="torchcodec"), true)


@pytest.mark.usefixtures("_torchcodec")
def test_packed_frames_that_torchcodec_takes_for_others_are_read_in_order(shared_data):
    path = min((shared_data / "samples/hmdb51").rglob("*.avi"))
    true = read_frames(path, [0, 20, 40], backend="pyav")
    assert np.array_equal(read_frames(path, [0, 20, 40], backend="torchcodec"), true)


@pytest.mark.usefixtures("_torchcodec")
def test_jumps_of_the_clock_and_edit_lists(tmp_path):
    for name, (path, _) in jumping(tmp_path).items():
        assert numbers(read_frames(path, range(60), backend="torchcodec")) == list(range(60)), name
        # it numbers frames by their times
        assert name.startswith("pause") or torchcodec_reader.read_seeking(path, [41]) is None, name
    for name, (path, expected, _) in edited(tmp_path).items():
        assert numbers(read_frames(path, range(len(expected)), backend="torchcodec")) == expected, name


@pytest.mark.usefixtures("_torchcodec")
def test_parts_of_files_smaller_sizes_and_errors(shared_data, tmp_path):
    path = shared_data / "hostile/codec_h264.mp4"
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(path, "a.mp4")
    with tarfile.open(tmp_path / "a.tar") as tar:
        part = ByteRange(str(tmp_path / "a.tar"), tar.getmember("a.mp4").offset_data, tar.getmember("a.mp4").size)
    frames = read_frames(path, [3, 9], backend="torchcodec")
    assert np.array_equal(torchcodec_reader.read_seeking(part, [3, 9]), frames)
    smaller = read_frames(path, [3, 9], backend="torchcodec", short_side=60)
    assert smaller.shape == (2, 60, 80, 3)
    assert np.abs(smaller - read_frames(path, [3, 9], short_side=60).astype(int)).mean() < 2
    with pytest.raises(FrameIndexError, match="32 frames decode"):
        read_frames(path, [40], backend="torchcodec")
    with pytest.raises(DecodeError, match="cannot be opened as video"):
        read_frames(shared_data / "hostile/text.avi", [0], backend="torchcodec")


def test_without_torchcodec_the_message_says_what_to_install(shared_data, monkeypatch):
    monkeypatch.delitem(sys.modules, "decord", raising=False)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(ImportError, match=r"pip install 'videofib\[torchcodec\]'.* or use the backend auto \("):
        read_frames(shared_data / "hostile/codec_h264.mp4", [0], backend="torchcodec")


def test_it_is_refused_where_decord_is_loaded(shared_data, monkeypatch):
    monkeypatch.setitem(sys.modules, "decord", sys.modules.get("decord"))
    with pytest.raises(ImportError, match="cannot share a process with decord"):
        read_frames(shared_data / "hostile/codec_h264.mp4", [0], backend="torchcodec")


def test_all_of_this_without_decord(shared_data):
    if "decord" not in sys.modules:
        pytest.skip("decord is not loaded: this process runs the tests itself")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]
