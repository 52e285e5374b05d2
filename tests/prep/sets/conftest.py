"""Fixtures for tests of preparation scripts."""

import numpy as np
import pytest

from tests.commands import call
from videofib.commands.prep import main
from videofib.prep.encode import write_video


@pytest.fixture
def raw(tmp_path):
    """A folder and a function that puts real videos of six frames, each in its own grey, into it."""

    def fill(*names):
        for number, name in enumerate(names):
            (tmp_path / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
            frames = [np.full((32, 48, 3), 20 + 30 * (number % 8) + time, np.uint8) for time in range(6)]
            write_video(tmp_path / "raw" / f"{name}.mp4", frames, 25)
            (tmp_path / "raw" / f"{name}.mp4").rename(tmp_path / "raw" / name)
        return tmp_path / "raw"

    return fill


@pytest.fixture
def empty(tmp_path):
    """A function that makes empty files below a folder, for what only looks at names."""

    def touch(*names):
        for name in names:
            (tmp_path / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "raw" / name).write_bytes(b"")
        return tmp_path / "raw"

    return touch


@pytest.fixture
def run_script(tmp_path):
    """A function that runs a data set's command on ``tmp_path/raw``, writing ``tmp_path/out``."""

    def run(module, *options, check=True):
        name = module.__name__.rpartition(".")[2]
        words = [name, "--videos", tmp_path / "raw", "--jobs", "1", "--out", tmp_path / "out", *options]
        return call(main, words, check=check)

    return run
