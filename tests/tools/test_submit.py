"""Submitting a run: a real local job of submitit that is told to stop saves, is queued again, and resumes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.experiment import run, weights
from videofib.commands.submit import main

ROOT = Path(__file__).parents[2]
submitit = pytest.importorskip("submitit")


def words(experiment, out):
    job = ["--cluster", "local", "--gpus", "2", "--wait"]
    return [*job, "--cfg", str(experiment / "config.yaml"), "OUTPUT_DIR", str(out), "TEST.ENABLE", "False"]


def wait_for(condition, process):
    for _ in range(2400):
        if condition():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def task_of(pid):
    """The process of submitit that runs the job's task, among the descendants of one."""
    if b"submitit.core._submit" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
        return pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return next((found for child in children if (found := task_of(int(child)))), None)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc, which only Linux has")
def test_a_preempted_job_saves_and_resumes(experiment, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    epochs = ["SOLVER.MAX_EPOCH", "12", "TRAIN.EVAL_PERIOD", "100", "TRAIN.CHECKPOINT_PERIOD", "100"]
    out = tmp_path / "job run"
    command = [sys.executable, str(ROOT / "tools" / "submit.py"), *words(experiment, out), *epochs, "LOG_PERIOD", "1"]
    process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    stats, log = out / "stats.jsonl", out / "log.txt"
    wait_for(lambda: stats.is_file() and '"epoch": 2' in stats.read_text(), process)
    os.kill(task_of(process.pid), signal.SIGUSR2)  # as Slurm does
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert f"its output is in {out}/job/" in said
    assert "and saved; run the same command to resume" in log.read_text()
    assert "resuming from" in log.read_text()
    assert "2 process(es)" in log.read_text()

    run(experiment, tmp_path / "calm", *epochs, "NUM_GPUS", "2", stages=["train"])
    assert torch.equal(weights(out, 12), weights(tmp_path / "calm", 12))


def test_a_mistake_is_reported_before_anything_is_submitted(experiment, tmp_path):
    with pytest.raises(SystemExit, match=r"^error: unknown key SOLVER\.BASE on the command line"):
        main([*words(experiment, tmp_path / "out"), "SOLVER.BASE", "1"])
    assert not (tmp_path / "out").exists()


def test_where_submitit_is_missing_it_is_named(experiment, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(SystemExit, match=r"^error: .*pip install 'videofib\[slurm\]'"):
        main(words(experiment, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
