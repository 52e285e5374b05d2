"""What a run prints: figures as a sentence, what it waits for, and no warnings of other packages."""

import os
import subprocess
import sys

import pytest

from videofib.run.parts import in_words


@pytest.mark.parametrize("module", ["run.main", "commands.profile", "models.baselines", "data.clips.dataset"])
def test_an_import_prints_nothing(module):
    done = subprocess.run(
        [sys.executable, "-c", f"import videofib.{module}"], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")


def test_figures_in_words():
    accuracies = {
        "top1_acc": 93.75,
        "top1_acc_interval": [90.1, 96.6],
        "top5_acc": 100.0,
        "top5_acc_interval": [98.0, 100.0],
        "num_videos": 192,
        "num_views": 12,
    }
    assert in_words(accuracies) == ("top-1 93.8 % (90.1–96.6), top-5 100.0 % (98.0–100.0) of 192 videos, 12 views each")
    precisions = {"mAP": 45.21, "num_classes_counted": 157, "num_videos": 1, "num_views": 1}
    assert in_words(precisions) == "mAP 45.2 % over 157 classes of 1 video, 1 view each"
    assert in_words({**accuracies, "top1_acc": None, "top1_acc_interval": None}).startswith("top-1 –, top-5")


def test_a_run_says_that_it_compiles_and_ends_with_a_sentence(experiment, tmp_path):
    words = ["train", "--cfg", str(experiment / "config.yaml"), "OUTPUT_DIR", str(tmp_path / "run")]
    words += ["SOLVER.MAX_EPOCH", "1", "REPORT.ENABLE", "False"]

    def output():
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "numba")}
        command = [sys.executable, "-m", "videofib", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stderr == ""
        return done.stdout

    first = output()
    for direction in ("forward", "backward"):
        assert first.count(f"compiling the attention kernel for head dimension 12, {direction}, once a machine") == 1
    assert first.count("\nvalidate: top-1 ") == 1
    assert first.count(" of 3 videos, 1 view each\n") == 1
