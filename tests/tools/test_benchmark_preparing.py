"""The comparison with ffmpeg runs, with an older checkout beside this one."""

import json
import subprocess
import sys
from pathlib import Path

from tests.marked_videos import write_plain

ROOT = Path(__file__).parents[2]


def test_every_video_is_measured_in_every_round(tmp_path):
    videos = [write_plain(tmp_path / f"{name}.mp4", count=6) for name in "ab"]
    command = [sys.executable, ROOT / "tools/benchmark_preparing.py", *videos, "--rounds", "2", "--checkout", ROOT]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    first, *table = result.stdout.splitlines()
    found = json.loads(first)
    assert [row["video"] for row in found["seconds"]] == ["a.mp4", "b.mp4"] * 2
    for row in found["seconds"]:
        assert all(row[part] > 0 for part in ("transcode", "check", "ours", "older"))
    for least, middle in (pair for kinds in found["ratios"].values() for pair in kinds.values()):
        assert 0 < least <= middle
    assert len(table) == 5
