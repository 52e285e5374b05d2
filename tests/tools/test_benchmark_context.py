"""The benchmark of shared clips starts each number of processes afresh and finds the same model."""

import json

import pytest

from tools import benchmark_context


@pytest.mark.slow
def test_command_compares_one_process_with_two(capsys, monkeypatch):
    small = ["--size", "tiny", "--depth", "1", "--frames", "2", "--crop-size", "64", "--repeats", "1"]
    monkeypatch.setattr("sys.argv", ["benchmark_context.py", "--processes", "1", "2", *small])
    benchmark_context.main()
    printed = capsys.readouterr().out
    one, two = json.loads(printed[printed.index("[\n") :])
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["gradients"] == 0
    assert two["logits"] < 1e-5
    assert two["gradients"] < 1e-5 < two["largest_gradient"]
    assert all(row[key] > 0 for row in (one, two) for key in ("before_mib", "more_mib"))
