"""A scheduler's SIGTERM: the run saves, logs that, ends with 143, and the same command reaches the same weights."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.experiment import weights

ROOT = Path(__file__).parents[2]

EPOCHS = 12


def command(folder, out):
    options = ["NUM_GPUS", "2", "SOLVER.MAX_EPOCH", str(EPOCHS), "LOG_PERIOD", "1", "DATA_LOADER.NUM_WORKERS", "1"]
    periods = ["TRAIN.CHECKPOINT_PERIOD", "100", "TRAIN.EVAL_PERIOD", "100"]
    tool = str(ROOT / "tools" / "train_net.py")
    return [sys.executable, tool, "--cfg", str(folder / "config.yaml"), "OUTPUT_DIR", str(out), *options, *periods]


def wait_for(file: Path, text: str, process: subprocess.Popen) -> None:
    for _ in range(1200):
        if file.is_file() and text in file.read_text():
            return
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    raise AssertionError(f"waited in vain for {text!r}")


@pytest.mark.slow
def test_sigterm_saves_and_the_same_command_resumes(experiment, tmp_path):
    calm, asked = tmp_path / "calm", tmp_path / "asked"
    subprocess.run(command(experiment, calm), check=True, capture_output=True)

    process = subprocess.Popen(command(experiment, asked), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    wait_for(asked / "stats.jsonl", '"epoch": 2', process)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM
    assert "and saved; run the same command to resume" in said
    assert len(list((asked / "checkpoints").glob("*.pyth"))) == 1
    assert not (asked / "checkpoints" / f"checkpoint_epoch_{EPOCHS:05d}.pyth").exists()

    subprocess.run(command(experiment, asked), check=True, capture_output=True)
    assert "resuming from" in (asked / "log.txt").read_text()
    assert torch.equal(weights(asked, EPOCHS), weights(calm, EPOCHS))
