"""The benchmark of shared clips starts each number of processes afresh and finds the same model."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_command_compares_one_process_with_two():
    tool = str(ROOT / "tools" / "benchmark_context.py")
    small = ["--size", "tiny", "--depth", "1", "--frames", "2", "--crop-size", "64", "--repeats", "1"]
    done = subprocess.run([sys.executable, tool, "--processes", "1", "2", *small], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    one, two = json.loads(done.stdout[done.stdout.index("[\n") :])
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["gradients"] == 0
    assert two["logits"] < 1e-5
    assert two["gradients"] < 1e-5 < two["largest_gradient"]
    assert all(row[key] > 0 for row in (one, two) for key in ("before_mib", "more_mib"))
