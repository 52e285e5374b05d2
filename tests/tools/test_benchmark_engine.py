"""The engine's benchmark runs both sides on real clips, and finds the same scores by both."""

import json
import shutil

from tools import benchmark_engine
from videofib.tracking.log import close_logging


def test_command_compares_times_and_scores(experiment, tmp_path, capsys, monkeypatch):
    for split in ("train", "val"):
        shutil.copy(experiment / f"{split}.csv", tmp_path)
    (tmp_path / "test.csv").write_text("".join(f"test {i}.mp4 {i % 3}\n" for i in range(5)))  # without the broken one
    data = ["DATA.PATH_TO_DATA_DIR", tmp_path, "DATA.PATH_PREFIX", experiment, "DATA_LOADER.NUM_WORKERS", "1"]
    command = ["benchmark_engine.py", "--cfg", experiment / "config.yaml", "--turns", "1", *data]
    monkeypatch.setattr("sys.argv", list(map(str, command)))
    benchmark_engine.main()
    close_logging()
    printed = capsys.readouterr().out
    figures = json.loads(printed[printed.index("{\n") :])
    assert all(value > 0 for name, value in figures.items() if name != "largest_difference_of_scores")
    assert figures["largest_difference_of_scores"] < 1e-6
