"""The times of a preparation's own work are parts of real runs."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOL = [sys.executable, ROOT / "tools/benchmark_lists.py"]


def test_journal_and_lists_are_timed_where_they_are_written(tmp_path):
    command = [*TOOL, "--part", "preparation", "--files", "150", "--folder", tmp_path]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert found["count"] == len((tmp_path / "prepared/out/journal.jsonl").read_text().splitlines()) == 150
    assert 0 < found["journal_milliseconds_a_video"] < 100
    assert 0 < found["lists_milliseconds_a_video"] < 100
    assert found["nothing_to_do_seconds"] > 0


@pytest.mark.slow
def test_an_older_checkout_takes_turns_and_is_the_one_that_is_measured(tmp_path):
    older = tmp_path / "older"
    shutil.copytree(ROOT / "videofib", older / "videofib", ignore=shutil.ignore_patterns("__pycache__"))
    with (older / "videofib/data/lists/manifest.py").open("a") as module:
        module.write(f"\nPath({str(tmp_path / 'imported')!r}).touch()\n")
    command = [*TOOL, "--rows", "300", "--files", "120", "--rounds", "2", "--checkout", older]
    first, *table = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    parts = json.loads(first)["parts"]
    assert (tmp_path / "imported").exists()
    assert list(parts) == ["list", "manifest", "list with manifest", "preparation"]
    for part, figures in parts.items():
        for values in figures.values():
            assert [len(values[name]) for name in ("ours", "older")] == [1 if part == "manifest" else 2] * 2
    assert len(table) == 2 + sum(map(len, parts.values()))
