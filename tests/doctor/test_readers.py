"""Readers of videos as ``videofib doctor`` examines them: wrong frames, crashes and what is not installed."""

import pytest

from videofib.doctor import readers
from videofib.doctor.finding import State
from videofib.prep.encode import write_video

LATE = """
import av
import numpy as np

DECORDError = RuntimeError

class logging:
    QUIET = 0
    set_level = staticmethod(print)

class VideoReader:  # seeks to the frame after the one requested
    def __init__(self, path, num_threads):
        with av.open(path) as container:
            self.frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        self.position = 0

    def __len__(self):
        return len(self.frames)

    def get_key_indices(self):
        return [0, 12]

    def seek_accurate(self, index):
        self.position = index + 1

    def next(self):
        self.position += 1
        return self.frames[min(self.position, len(self.frames)) - 1]
"""
CRASHES = "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)"
BROKEN = "raise OSError('libavcodec.so.58: no such file')"


@pytest.fixture
def video(tmp_path):
    write_video(tmp_path / "video.mp4", readers.written(), fps=25)
    return tmp_path / "video.mp4"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """``module(name, text)``: a module that processes import in place of the installed one."""

    def write(name, text):
        folder = tmp_path / "modules"
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(text)
        monkeypatch.setenv("PYTHONPATH", str(folder))

    return write


@pytest.mark.parametrize("name", [name for name, needed in readers.READERS.items() if needed])
def test_a_needed_reader_returns_the_frames_that_were_written(name, video):
    finding = readers.checked(name, video, needed=True)
    assert finding.state is State.WORKS, finding
    assert finding.text.startswith("4 frames, ")


@pytest.mark.parametrize("name", ["pyav in order", "pyav seeking"])
def test_frames_next_to_those_requested_are_wrong(name, tmp_path):
    frames = readers.written()
    write_video(tmp_path / "shifted.mp4", [*frames[1:], frames[-1]], fps=25)
    finding = readers.checked(name, tmp_path / "shifted.mp4", needed=True)
    assert finding.state is State.FAILED
    assert finding.text.startswith("wrong: 4 frames, ")


def test_frames_of_another_size_are_wrong(tmp_path):
    write_video(tmp_path / "small.mp4", readers.written()[:, :32], fps=25)
    finding = readers.checked("pyav in order", tmp_path / "small.mp4", needed=True)
    assert finding.state is State.FAILED
    assert finding.text == "returns frames of shape (4, 32, 64, 3), not (4, 64, 64, 3)"


def test_a_reader_that_is_not_needed_fails_where_it_returns_wrong_frames(video, module):
    module("decord", LATE)
    finding = readers.checked("decord seeking", video, needed=False)
    assert finding.state is State.FAILED
    assert finding.text.startswith("wrong: 4 frames, ")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CRASHES, "ends the process: Segmentation fault"),
        (BROKEN, "OSError: libavcodec.so.58: no such file"),
        ("raise ImportError('no FFmpeg')", "not available: ImportError: no FFmpeg"),
        ("raise OSError('a\\x1b[2Jb')", "OSError: a\x1b[2Jb"),
    ],
    ids=["crash", "library", "not installed", "escape"],
)
def test_a_reader_that_does_not_run_costs_its_line_alone(text, expected, video, module):
    module("decord", text)
    finding = readers.checked("decord in order", video, needed=False)
    assert (finding.state, finding.text) == (State.UNUSABLE, expected)
    assert "\x1b" not in str(finding)


def test_a_broken_pyav_fails(video, module):
    module("av", BROKEN)
    finding = readers.checked("pyav in order", video, needed=True)
    assert (finding.state, finding.text) == (State.FAILED, "OSError: libavcodec.so.58: no such file")


def test_without_an_encoder_no_reader_is_tried(monkeypatch):
    monkeypatch.setattr(readers, "written", lambda: iter(()))
    (finding,) = readers.readers()
    assert (finding.state, finding.part) == (State.FAILED, "encoder libx264")
    assert "no frames to write" in finding.text
