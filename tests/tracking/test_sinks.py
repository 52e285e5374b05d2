"""Figures reach those of TensorBoard, Weights & Biases and MLflow that are installed; their failures end no run."""

import json
import math
import subprocess
import sys
import time

import pytest

from videofib.config import load_config
from videofib.run.main import attach_sinks
from videofib.tracking import sinks
from videofib.tracking.log import close_logging, log_stats, setup_logging

STEP = {"_type": "train_iter", "epoch": 2, "epochs": 3, "step": 5, "steps": 10, "loss": 0.5, "eta": "0:10"}
EPOCH = {"_type": "val_epoch", "epoch": 2, "epochs": 3, "top1_acc": 60.0, "per_class_acc": {"a": 1.0}, "loss": math.nan}


@pytest.fixture(autouse=True)
def _handlers_end_with_the_test():
    yield
    close_logging()


def log_all(out, *overrides):
    setup_logging(out)
    attach_sinks(load_config(None, ["OUTPUT_DIR", str(out), *overrides]))
    log_stats(STEP)
    log_stats(EPOCH)
    close_logging()


def test_tensorboard_reads_the_figures_at_their_steps(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log_all(tmp_path, "TENSORBOARD.ENABLE", "True")
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert sorted(events.Tags()["scalars"]) == ["train_iter/loss", "val_epoch/top1_acc"]
    (loss,), (accuracy,) = events.Scalars("train_iter/loss"), events.Scalars("val_epoch/top1_acc")
    assert (loss.step, loss.value, accuracy.step, accuracy.value) == (15, 0.5, 2, 60.0)
    assert len((tmp_path / "stats.jsonl").read_text().splitlines()) == 2


def test_mlflow_keeps_figures_and_settings(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    log_all(tmp_path, "MLFLOW.ENABLE", "True", "SOLVER.BASE_LR", "0.25")
    client = mlflow.MlflowClient(tracking_uri=(tmp_path / "mlruns").as_uri())
    (run,) = client.search_runs([client.get_experiment_by_name("videofib").experiment_id])
    assert run.data.metrics == {"train_iter/loss": 0.5, "val_epoch/top1_acc": 60.0}
    assert run.data.params["SOLVER.BASE_LR"] == "0.25"
    assert run.info.status == "FINISHED"


def test_wandb_writes_an_offline_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    log_all(tmp_path, "WANDB.ENABLE", "True")
    (run,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    limit = time.monotonic() + 20  # another process writes it
    while b"val_epoch/top1_acc" not in run.read_bytes():
        assert time.monotonic() < limit, "the figures are not in the file"
        time.sleep(0.1)


@pytest.mark.parametrize(("key", "package"), [("TENSORBOARD", "tensorboard"), ("WANDB", "wandb"), ("MLFLOW", "mlflow")])
def test_a_missing_package_is_named_with_its_installation(tmp_path, monkeypatch, key, package):
    blocked = {"tensorboard": "torch.utils.tensorboard"}.get(package, package)
    monkeypatch.setitem(sys.modules, blocked, None)
    cfg = load_config(None, ["OUTPUT_DIR", str(tmp_path), f"{key}.ENABLE", "True"])
    with pytest.raises(sinks.SinkError, match=rf"{key}\.ENABLE needs {package}.*'videofib\[{package}\]'"):
        attach_sinks(cfg)


def test_a_failing_sink_is_reported_once_and_the_run_continues(tmp_path, capsys):
    def write(figures, order, epoch):
        calls.append((figures, order, epoch))
        raise OSError("no space left")

    calls = []
    setup_logging(tmp_path)
    sinks.attach(sinks.Sink("The sink", write, lambda: None))
    log_stats(STEP)
    log_stats(EPOCH)
    assert calls == [({"train_iter/loss": 0.5}, 15, 1.5)]
    assert capsys.readouterr().out.count("The sink receives no more figures: OSError: no space left") == 1
    kinds = [json.loads(line)["_type"] for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    assert kinds == ["train_iter", "val_epoch"]


def test_sinks_that_are_not_used_are_not_imported():
    heavy = ("tensorboard", "wandb", "mlflow")
    script = f"import sys, videofib.run.main; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
