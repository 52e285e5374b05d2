"""Ctrl-C: a terminal sends SIGINT to all processes of a program, which save once, log it and end with 130."""

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from tests.experiment import newest, results, stats, weights
from tests.faults.test_sigterm import EPOCHS, ROOT, command, wait_for

INTERRUPTED = 128 + signal.SIGINT
QUIET = ("Traceback", "KeyboardInterrupt")


def start(words: list) -> subprocess.Popen:
    """A program with a process group of its own, as a shell starts one."""
    return subprocess.Popen(
        list(map(str, words)),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=hear,
    )


def hear() -> None:
    """Ctrl-C ends this process: whatever a script starts with ``&`` ignores it, and so do the tests that run there."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


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


def press_twice(process: subprocess.Popen) -> int:
    """Press Ctrl-C twice; returns the exit status."""
    os.killpg(process.pid, signal.SIGINT)
    time.sleep(0.05)  # two signals of one kind that are pending are one
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=30)
    return process.returncode


@pytest.fixture
def long_validation(experiment, tmp_path):
    """The experiment with a validation that takes seconds: the same video under many names."""
    folder = shutil.copytree(experiment, tmp_path / "experiment", copy_function=os.link)
    names = [f"val 0 again {i}.mp4" for i in range(1000)]
    for name in names:
        os.link(folder / "val 0.mp4", folder / name)
    (folder / "val.csv").unlink()
    (folder / "val.csv").write_text("".join(f"{name} 0\n" for name in names))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("saved_before", [True, False])
def test_validation_is_stopped_and_done_by_the_same_command(
    experiment, long_validation, tmp_path, processes, saved_before
):
    """Whether or not the epoch was saved before it was validated."""
    calm, asked = tmp_path / "calm", tmp_path / "asked"
    options = ["DATA.PATH_TO_DATA_DIR", long_validation, "NUM_GPUS", processes, "LOG_PERIOD", 1]
    options += ["TRAIN.EVAL_PERIOD", 2, "TRAIN.CHECKPOINT_PERIOD", 2 if saved_before else 3, "SOLVER.MAX_EPOCH", 3]
    subprocess.run(list(map(str, videofib("train", experiment, calm, *options))), check=True, capture_output=True)
    process = start(videofib("train", experiment, asked, *options))
    wait_for(asked / "stats.jsonl", '"train_epoch", "epoch": 2', process)
    status, output = press(process)
    assert status == INTERRUPTED
    assert output.count("stopped on request after epoch 2, before it was validated and saved") == 1
    assert [file.name for file in (asked / "checkpoints").glob("*.pyth")] == [newest(asked, 2).name]
    subprocess.run(list(map(str, videofib("train", experiment, asked, *options))), check=True, capture_output=True)
    assert [line["epoch"] for line in stats(asked, "val_epoch")] == [2, 3]
    assert torch.equal(weights(asked, 3), weights(calm, 3))
    assert [line["top1_acc"] for line in stats(asked, "val_epoch")] == [
        line["top1_acc"] for line in stats(calm, "val_epoch")
    ]


@pytest.mark.slow
def test_a_second_one_in_validation_ends_at_once(experiment, long_validation, tmp_path):
    process = start(videofib("train", experiment, tmp_path / "run", "DATA.PATH_TO_DATA_DIR", long_validation))
    wait_for(tmp_path / "run" / "stats.jsonl", '"train_epoch", "epoch": 1', process)
    assert press_twice(process) == -signal.SIGINT  # which a shell shows as 130
    assert len(list((tmp_path / "run" / "checkpoints").glob("*.pyth"))) == 1


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_testing_resumes_in_several_processes(experiment, trained, long_validation, tmp_path, processes):
    """Parts of a test that was stopped are kept, and a second Ctrl-C ends it at once."""
    shutil.copy(long_validation / "val.csv", long_validation / "again.csv")
    (long_validation / "test.csv").unlink()
    (long_validation / "again.csv").rename(long_validation / "test.csv")
    options = ["DATA.PATH_TO_DATA_DIR", long_validation, "NUM_GPUS", processes]
    options += ["TEST.CHECKPOINT_FILE_PATH", newest(trained), "TEST.SAVE_SECONDS", 0.1]
    words = videofib("test", experiment, tmp_path / "run", *options)
    process = start(words)
    while not list((tmp_path / "run").glob("test_parts/*/part-*")):  # a process that still starts would end
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    status, output = press(process)
    assert status == INTERRUPTED
    assert output.count("of 1000 videos, which are saved; run the same command to resume") == 1
    process = start(words)
    wait_for(tmp_path / "run" / "log.txt", "resuming", process)
    assert press_twice(process) == -signal.SIGINT
    subprocess.run(list(map(str, words)), check=True, capture_output=True)
    assert results(tmp_path / "run")["num_videos"] == 1000


PRESS_AT_NUMPY = """
import os, signal, sys

class Press:
    def find_spec(self, name, path=None, target=None):
        if name == "numpy":
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Press())
"""


@pytest.mark.parametrize(
    ("door", "name"),
    [
        (["-m", "videofib", "report", "runs/mine"], "report"),
        (["-m", "videofib", "prep", "folder", "--videos", "mine", "--out", "prepared"], "prep"),
        ([ROOT / "tools" / "train_net.py", "--cfg", "mine.yaml"], "train"),
        ([ROOT / "data_prep" / "folder.py", "--videos", "mine", "--out", "prepared"], "prep"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_during_imports_it_is_reported_in_one_line(door, name, tmp_path):
    """Every way to a command waits until what it runs is imported; numpy is within torch's imports."""
    (tmp_path / "sitecustomize.py").write_text(PRESS_AT_NUMPY)
    search = os.pathsep.join([str(tmp_path), str(ROOT)])
    environment, words = {**os.environ, "PYTHONPATH": search}, [sys.executable, *map(str, door)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, preexec_fn=hear)
    assert (done.returncode, done.stderr) == (INTERRUPTED, f"\nvideofib {name}: interrupted\n")


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
    assert press_twice(process) == -signal.SIGINT  # which a shell shows as 130


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
