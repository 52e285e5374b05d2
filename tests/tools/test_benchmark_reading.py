"""The benchmark of reading long films, at a tiny size."""

import json
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools/benchmark_reading.py"


def test_every_contender_is_measured(tmp_path):
    command = [sys.executable, TOOL, "--minutes", "0.1", "--containers", "mp4", "--turns", "1", "--frames", "2"]
    command += ["--folder", tmp_path, "--json", tmp_path / "figures.json", "--checkout", TOOL.parents[1]]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (figures,) = json.loads((tmp_path / "figures.json").read_text())
    assert figures["frames"] == 150
    rows = [f"{when}, {row}" for row in ("prepared", "unprepared") for when in ("first", "indexed", "in memory")]
    assert list(figures["seconds"]) == ["plain seek", "one pass", *rows, "older, prepared", "older, unprepared"]
    assert all(seconds > 0 for seconds in figures["seconds"].values())
    assert done.stdout.count("| film.mp4, ") == 10
    assert [file.name for file in tmp_path.iterdir()] == ["figures.json"]  # films and caches are removed
