"""The engine's benchmark runs both sides on real clips, and finds the same scores by both."""

import json
import subprocess
import sys

from tests.tools.test_run_net import ROOT, experiment  # noqa: F401, experiment is a fixture


def test_command_compares_times_and_scores(experiment):  # noqa: F811
    (experiment / "test.csv").write_text("".join(f"test {i}.mp4 {i % 3}\n" for i in range(5)))
    tool = str(ROOT / "tools" / "benchmark_engine.py")
    command = [sys.executable, tool, "--cfg", str(experiment / "config.yaml"), "--turns", "1"]
    done = subprocess.run([*command, "DATA_LOADER.NUM_WORKERS", "1"], capture_output=True, text=True, check=True)
    figures = json.loads(done.stdout[done.stdout.index("{\n") :])
    assert all(value > 0 for name, value in figures.items() if name != "largest_difference_of_scores")
    assert figures["largest_difference_of_scores"] < 1e-6
