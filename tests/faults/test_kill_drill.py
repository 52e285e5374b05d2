"""A short kill drill; ``python tests/faults/kill_drill.py`` is the long one."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from videofib.prep.encode import write_video

SPEC = importlib.util.spec_from_file_location("kill_drill", Path(__file__).with_name("kill_drill.py"))
kill_drill = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(kill_drill)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc, which only Linux has"),
]


def test_kills_of_everything_leave_no_trace(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(20):
        texture = rng.integers(0, 256, (80, 80, 3)).astype(np.uint8)
        path = tmp_path / f"raw/{'ab'[number % 2]}/{number}.mp4"
        write_video(path, (texture[t:][:64, :64] for t in range(16)), 25)
    drill = kill_drill.Drill(tmp_path / "raw", tmp_path, ("--jobs", "2"), seed=1)
    drill.kill_all(4)
    assert len(drill.kills) == 4
    assert drill.aimed >= 2
    assert drill.compared >= 1
