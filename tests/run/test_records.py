"""A start that is refused, or has nothing to do, leaves the records and checkpoints of the run as they are."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from tests.experiment import newest, results, run, stats, weights

ROOT = Path(__file__).parents[2]
RECORDS = ("config.yaml", "environment.json")


def records(folder, prefix=""):
    return {name: (folder / f"{prefix}{name}").read_bytes() for name in RECORDS}


@pytest.fixture
def finished(trained, tmp_path):
    """A copy of a finished run, to start again in."""
    return shutil.copytree(trained, tmp_path / "run")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("DATA.PATH_TO_DATA_DIR /nowhere", "no data folder at /nowhere"),
        ("TIMESFORMER.EMBED_DIM 48 SOLVER.MAX_EPOCH 5", "the weights in "),
        ("MODEL.NUM_CLASSES 4", "classes.txt names 3 classes"),
        ("SOLVER.MAX_EPOCH 5 TRAIN.AUTO_RESUME False", "holds checkpoints of another run"),
        ("SOLVER.MAX_EPOCH 5 DISTILL.CONFIG gone.yaml DISTILL.CHECKPOINT gone", "no config file at gone.yaml"),
        ("SOLVER.MAX_EPOCH 5 TRAIN.CHECKPOINT_FILE_PATH gone.pyth", "no checkpoint at gone.pyth"),
    ],
)
def test_a_refused_start_changes_no_record_and_the_folder_can_be_tested(experiment, finished, capsys, words, message):
    before = records(finished)
    with pytest.raises(SystemExit):
        run(experiment, finished, *words.split())
    assert message in capsys.readouterr().err
    assert records(finished) == before
    assert not (finished / "run.lock").exists()
    run(finished, finished, stages=["test"])  # by its own config.yaml
    assert records(finished) == before
    assert records(finished, "test_")


def test_a_position_that_the_epoch_no_longer_has_is_refused_before_anything_is_written(experiment, tmp_path, capsys):
    run(experiment, tmp_path, "TRAIN.CHECKPOINT_STEPS", "1", "SOLVER.MAX_EPOCH", "1", stages=["train"])
    newest(tmp_path, 1).unlink()  # the newest is now that of step 2 of 3
    before = records(tmp_path)
    with pytest.raises(SystemExit):
        run(experiment, tmp_path, "TRAIN.BATCH_SIZE", "12", "SOLVER.MAX_EPOCH", "1", stages=["train"])
    assert "from step 2 of an epoch that now has 1" in capsys.readouterr().err
    assert records(tmp_path) == before


def test_a_finished_run_keeps_its_records_and_a_longer_one_replaces_them(experiment, finished):
    before, page = records(finished), (finished / "report.html").read_bytes()
    run(experiment, finished, "LOG_PERIOD", "5", stages=["train"])
    assert records(finished) == before
    assert (finished / "report.html").read_bytes() == page
    assert "all 2 epochs are done, so there is nothing to train" in (finished / "log.txt").read_text()
    run(experiment, finished, "LOG_PERIOD", "5", "TENSORBOARD.ENABLE", "True")  # tests alone
    assert records(finished) == before
    assert b"LOG_PERIOD: 5" in records(finished, "test_")["config.yaml"]
    (events,) = (finished / "tensorboard").iterdir()
    assert events.stat().st_size > 0
    run(experiment, finished, "SOLVER.MAX_EPOCH", "3", stages=["train"])
    assert b"MAX_EPOCH: 3" in records(finished)["config.yaml"]


def test_a_refused_test_changes_no_record(experiment, finished, capsys):
    run(experiment, finished, stages=["test"])
    before, found = records(finished, "test_"), results(finished)
    with pytest.raises(SystemExit):
        run(experiment, finished, "TIMESFORMER.EMBED_DIM", "48", stages=["test"])
    assert "error: " in capsys.readouterr().err
    assert records(finished, "test_") == before
    assert results(finished) == found


def test_a_run_that_was_killed_before_validating_has_something_to_do(experiment, trained, finished):
    (finished / "checkpoints" / "best.json").unlink()
    run(experiment, finished, "LOG_PERIOD", "5", stages=["train"])
    assert b"LOG_PERIOD: 5" in records(finished)["config.yaml"]
    assert len(stats(finished, "val_epoch")) == len(stats(trained, "val_epoch")) + 1


EPOCHS = 10_000  # more than a test waits for


@pytest.fixture
def start(experiment, tmp_path):
    """Starts a command in a process group of its own, with its output in a file, and kills that at the end."""
    started = []

    def command(tool, out, *words):
        options = ["SOLVER.MAX_EPOCH", EPOCHS, "LOG_PERIOD", 1, "TRAIN.CHECKPOINT_STEPS", 1, "TRAIN.EVAL_PERIOD", 100]
        line = [sys.executable, ROOT / "tools" / tool, "--cfg", experiment / "config.yaml", "OUTPUT_DIR", out]
        with (tmp_path / f"output {len(started)}").open("w") as output:
            process = subprocess.Popen(
                [str(word) for word in (*line, *options, *words)],
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        process.output = tmp_path / f"output {len(started)}"
        started.append(process)
        return process

    yield command
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for_steps(out, count, process):
    file = out / "stats.jsonl"
    while not file.is_file() or file.read_text().count("train_iter") < count:
        assert process.poll() is None, process.output.read_text()
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_second_run_is_refused_a_test_is_not_and_a_killed_run_resumes_at_once(tmp_path, start, processes):
    out, words = tmp_path / "run", ["NUM_GPUS", processes]
    first = start("train_net.py", out, *words)
    wait_for_steps(out, 4, first)
    holder, before = json.loads((out / "run.lock").read_text())["pid"], records(out)
    second = start("run_net.py", out, *words, "RNG_SEED", 5)
    assert second.wait(timeout=300) == 2
    assert second.output.read_text().count(f"error: another run trains in {out}: process {holder} on ") == 1
    test = start("test_net.py", out, *words)
    assert test.wait(timeout=300) == 0
    assert results(out)["num_videos"] == 6
    assert records(out) == before
    assert first.poll() is None

    first.send_signal(signal.SIGKILL)  # of several processes, the one that started them
    again = start("train_net.py", out, *words)
    first.wait()
    wait_for_steps(out, (out / "stats.jsonl").read_text().count("train_iter") + 4, again)
    assert json.loads((out / "run.lock").read_text())["pid"] != holder
    again.send_signal(signal.SIGTERM)
    assert again.wait(timeout=300) == 128 + signal.SIGTERM
    assert "resuming from" in (out / "log.txt").read_text()
    assert not (out / "run.lock").exists()


@pytest.mark.slow
def test_of_two_runs_started_at_once_one_trains_and_reaches_the_weights_of_a_run_alone(tmp_path, start):
    alone, *both = [start("train_net.py", tmp_path / name, "SOLVER.MAX_EPOCH", 5) for name in ("alone", "both", "both")]
    assert alone.wait(timeout=300) == 0
    codes = sorted(process.wait(timeout=300) for process in both)
    assert codes in ([0, 2], [0, 0])  # 0, 0: the second came when the first had ended
    assert torch.equal(weights(tmp_path / "both", 5), weights(tmp_path / "alone", 5))
