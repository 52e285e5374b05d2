"""The times of a preparation's own work are parts of real runs."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_journal_and_lists_are_timed_where_they_are_written(tmp_path):
    tool = [sys.executable, ROOT / "tools/benchmark_lists.py"]
    command = [*tool, "--part", "preparation", "--files", "150", "--folder", tmp_path]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert found["count"] == len((tmp_path / "out/journal.jsonl").read_text().splitlines()) == 150
    assert 0 < found["journal_milliseconds_a_video"] < 100
    assert 0 < found["lists_milliseconds_a_video"] < 100
    assert found["nothing_to_do_seconds"] > 0
