"""Ctrl-C: a terminal sends SIGINT to all processes of a program, which save once, log it and end with 130."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests.experiment import results, weights
from tests.faults.test_sigterm import EPOCHS, command, wait_for

INTERRUPTED = 128 + signal.SIGINT
QUIET = ("Traceback", "KeyboardInterrupt")


def start(words: list) -> subprocess.Popen:
    """A program with a process group of its own, as a shell starts one."""
    return subprocess.Popen(
        list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def press(process: subprocess.Popen) -> tuple[int, str]:
    """Press Ctrl-C; returns the exit status and all output."""
    os.killpg(process.pid, signal.SIGINT)
    output = "".join(process.communicate(timeout=120))
    assert not [word for word in QUIET if word in output], output
    return process.returncode, output


def videofib(name, experiment, out, *options):
    file = experiment / "config.yaml"
    return [sys.executable, "-m", "videofib", name, "--cfg", file, "OUTPUT_DIR", out, *options]


def test_testing_keeps_what_is_finished(experiment, trained, tmp_path):
    """Stopped while a worker of the loader reads, and resumed to the same results."""
    options = ["TEST.CHECKPOINT_FILE_PATH", trained / "checkpoints" / "checkpoint_epoch_00002.pyth"]
    options += ["TEST.BATCH_SIZE", 6, "DATA_LOADER.NUM_WORKERS", 1]
    process = start(videofib("test", experiment, tmp_path, *options))
    wait_for(tmp_path / "log.txt", "testing", process)
    status, output = press(process)
    assert status == INTERRUPTED
    assert "of 6 videos, which are saved; run the same command to resume" in output
    assert not (tmp_path / "test_results.json").exists()
    subprocess.run(list(map(str, videofib("test", experiment, tmp_path, *options))), check=True, capture_output=True)
    assert results(tmp_path)["top1_acc"] == results(trained)["top1_acc"]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_training_saves_and_the_same_command_resumes(experiment, tmp_path, processes):
    calm, asked = tmp_path / "calm", tmp_path / "asked"
    options = ["NUM_GPUS", str(processes)]
    subprocess.run([*command(experiment, calm), *options], check=True, capture_output=True)
    process = start([*command(experiment, asked), *options])
    wait_for(asked / "stats.jsonl", '"epoch": 2', process)
    status, output = press(process)
    assert status == INTERRUPTED
    assert output.count("and saved; run the same command to resume") == 1
    assert output.count("press Ctrl-C again") == 1
    assert len(list((asked / "checkpoints").glob("*.pyth"))) == 1
    subprocess.run([*command(experiment, asked), *options], check=True, capture_output=True)
    assert torch.equal(weights(asked, EPOCHS), weights(calm, EPOCHS))


@pytest.mark.slow
def test_a_second_one_ends_at_once(experiment, tmp_path):
    process = start([*command(experiment, tmp_path), "LOG_PERIOD", "100000", "SOLVER.MAX_EPOCH", "2000"])
    wait_for(tmp_path / "environment.json", "{", process)
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.05)  # two signals of one kind that are pending are one
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT  # which a shell shows as 130


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("seconds", [0.5, 2, 4, 8])
def test_while_a_run_starts(experiment, tmp_path, seconds, processes):
    """At any moment of the start: imports, processes, workers, the first batch."""
    options = ["NUM_GPUS", processes, "SOLVER.MAX_EPOCH", 2000, "DATA_LOADER.NUM_WORKERS", 1]
    process = start(videofib("train", experiment, tmp_path, *options))
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(seconds)
    assert press(process)[0] == INTERRUPTED
