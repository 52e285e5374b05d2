"""The loader's benchmark runs all contenders on real files and reports its measurements."""

import json
import time

import numpy as np

from tools import benchmark_loader
from videofib.data.lists.manifest import ManifestRow, write_list, write_manifest
from videofib.prep.encode import write_video


def test_command_writes_a_table_a_file_and_a_picture(tmp_path, capsys, monkeypatch):
    rows = [ManifestRow(f"{i}.mp4", i % 2, "train", num_frames=30, fps=25.0) for i in range(9)]
    for row in rows:
        write_video(tmp_path / row.path, np.zeros((30, 48, 64, 3), np.uint8), 25)
    write_list(tmp_path / "train.csv", [(row.path, row.label) for row in rows])
    write_manifest(tmp_path / "manifest.parquet", rows)
    options = ["--data", tmp_path, "--frames", "4", "--rate", "4", "--size", "32", "--turns", "1", "--load", "1"]
    files = ["--json", tmp_path / "figures.json", "--plot", tmp_path / "figures.png"]
    monkeypatch.setattr("sys.argv", ["benchmark_loader.py", *map(str, [*options, *files])])
    benchmark_loader.main()
    found = json.loads((tmp_path / "figures.json").read_text())
    names = [row["loader"] for row in found if row["loader"] != "plain torchcodec"]  # which is an extra
    assert names == ["bare decord", "plain decord", "plain whole video", "videofib auto"]
    assert found[0]["against"]["bare decord"] in ([1, 1], [1, None])
    assert all(row["clips_per_second"] > 0 for row in found)
    assert 0 < found[-1]["decoding"] + found[-1]["transforms"] < 1
    assert "| videofib auto | 32 | 2 | 4 | 1 |" in capsys.readouterr().out
    assert (tmp_path / "figures.png").read_bytes().startswith(b"\x89PNG")


def test_cpu_time_is_that_of_all_processes_but_the_ones_that_only_keep_cores_busy():
    with benchmark_loader.busy(1) as others, benchmark_loader.busy(1):
        both, one = benchmark_loader.cpu_seconds(set()), benchmark_loader.cpu_seconds(others)
        start = time.perf_counter()
        while time.perf_counter() - start < 0.5:
            pass
        both, one = benchmark_loader.cpu_seconds(set()) - both, benchmark_loader.cpu_seconds(others) - one
    assert one < both


def test_speed_is_clips_over_time_and_shares_are_of_all_turns():
    turns = [benchmark_loader.Turn(1.0, 2.0, 1.5, 0.5), benchmark_loader.Turn(3.0, 4.0, 1.5, 0.5)]
    found = benchmark_loader.figures(turns, clips=12, workers=2)
    # not (12 + 4) / 2 clips a second, and not 1 / 2 of the time
    assert found == {"clips_per_second": 6.0, "cpu_ms_per_clip": 250.0, "decoding": 3 / 8, "transforms": 1 / 8}


def test_turns_shorter_than_a_tick_of_the_cpu_clock_have_no_ratio(monkeypatch):
    monkeypatch.setattr(benchmark_loader, "cpu_seconds", lambda without: 0.0)
    monkeypatch.setattr(benchmark_loader, "bare_decord", lambda *_: lambda: benchmark_loader.Turn(1.0))
    monkeypatch.setattr(benchmark_loader, "plain", lambda *_: lambda: benchmark_loader.Turn(2.0))
    setting = benchmark_loader.Setting(size=32, workers=2, rate=4, load=0, frames=4)
    rows = benchmark_loader.measure(list(range(benchmark_loader.BATCH)), setting, turns=1, backends=[])
    assert rows[1]["against"]["bare decord"] == [0.5, None]
    assert "| 0.50; – |" in benchmark_loader.table(rows)
