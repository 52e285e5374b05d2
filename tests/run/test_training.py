"""From the config to the parts of a training run."""

import multiprocessing
from pathlib import Path

import pytest

from tests.experiment import CLASSES, newest, run
from videofib.checkpoint.file import load_checkpoint
from videofib.config import load_config
from videofib.engine.objective import Objective
from videofib.run import training
from videofib.run.training import recipe_from_config


@pytest.mark.parametrize(
    ("batches", "scale"),
    [
        ("TRAIN.BATCH_SIZE 16", 1),
        ("TRAIN.BATCH_SIZE 16 SOLVER.BASE_LR_BATCH_SIZE 64", 0.25),
        ("TRAIN.BATCH_SIZE 16 GLOBAL_BATCH_SIZE 128 SOLVER.BASE_LR_BATCH_SIZE 64", 2),
        ("TRAIN.BATCH_SIZE 16 NUM_GPUS 4 SOLVER.BASE_LR_BATCH_SIZE 8", 2),  # batch sizes are totals already
    ],
)
def test_learning_rates_scale_with_the_batch(batches, scale, caplog):
    caplog.set_level("INFO", logger="videofib")
    solver = "SOLVER.BASE_LR 0.8 SOLVER.LR_POLICY cosine SOLVER.WARMUP_EPOCHS 2 SOLVER.WARMUP_START_LR 0.1"
    overrides = [*batches.split(), *solver.split(), "SOLVER.COSINE_END_LR", "0.01", "SOLVER.MAX_EPOCH", "10"]
    lr_at = recipe_from_config(load_config(None, overrides), Objective()).lr_at
    assert [lr_at(0), lr_at(10)] == pytest.approx([scale * 0.1, scale * 0.01])
    middle = 0.01 + (0.8 - 0.01) / 2
    assert lr_at(5) == pytest.approx(scale * middle)
    assert ("SOLVER.BASE_LR comes to" in caplog.text) == ("BASE_LR_BATCH_SIZE" in batches)


CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("file", sorted(CONFIGS.rglob("*.yaml")), ids=lambda file: file.stem)
def test_a_trial_of_one_epoch_of_a_shipped_config_learns_and_logs_the_shorter_warm_up(file, caplog):
    caplog.set_level("WARNING", logger="videofib")
    cfg = load_config(file, ["SOLVER.MAX_EPOCH", "1"])
    lr_at = recipe_from_config(cfg, Objective()).lr_at
    found = [lr_at(step / 10) for step in range(10)]
    assert min(found) >= 0
    assert max(found) > 0.9 * cfg.SOLVER.BASE_LR
    shortened = [f"SOLVER.WARMUP_EPOCHS {cfg.SOLVER.WARMUP_EPOCHS:g} is shortened to 0.1: "] * (
        cfg.SOLVER.WARMUP_EPOCHS > 0
    )
    assert [message[: len(start)] for message, start in zip(caplog.messages, shortened, strict=True)] == shortened


def test_keys_without_effect_are_logged_once_and_the_run_goes_on(experiment, tmp_path):
    words = ["AUG.ENABLE", "False", "ATTENTION.JOINT", "dense", "TEST.NUM_ENSEMBLE_VIEWS", "5", "TEST.ENABLE", "False"]
    run(experiment, tmp_path, "SOLVER.MAX_EPOCH", "1", *words, stages=["train"])
    log = (tmp_path / "log.txt").read_text()
    found = [line.partition("WARNING ")[2] for line in log.splitlines() if "no effect here: " in line]
    assert found == [
        "no effect here: FIBOTTENTION.W_MIN 2, which is only read with fibottention as the ATTENTION.SPACE, TIME or "
        "JOINT that TIMESFORMER.ATTENTION_TYPE reads",
        "no effect here: TEST.ENABLE, which only videofib run reads",
        "no effect here: TEST.NUM_ENSEMBLE_VIEWS, since this run does not test",
    ]
    run(experiment, tmp_path, "ATTENTION.JOINT", "dense", "SOLVER.BASE_LR", "0.1", stages=["test"])
    log = (tmp_path / "log.txt").read_text()
    assert log.count("no effect here: SOLVER.BASE_LR, since this run does not train") == 1


def test_a_checkpoint_describes_classes_and_input_and_no_worker_outlives_its_use(experiment, tmp_path, monkeypatch):
    def workers():
        return sum(process.name.startswith("video-reader") for process in multiprocessing.active_children())

    def validated(*args, **options):
        before = workers()
        found = evaluate(*args, **options)
        seen.append((before, workers() - before))
        return found

    seen, evaluate = [], training.evaluate_from_config
    monkeypatch.setattr(training, "evaluate_from_config", validated)
    run(experiment, tmp_path, "DATA_LOADER.NUM_WORKERS", "1", "REPORT.ENABLE", "False", stages=["train"])
    assert seen == [(1, 1), (0, 1)]  # before: training's, gone with the last epoch; during: validation's, each time new
    assert workers() == 0

    checkpoint = load_checkpoint(newest(tmp_path))
    assert checkpoint["classes"] == CLASSES
    assert checkpoint["input"] == {
        "num_frames": 2,
        "sampling": "dense",
        "sampling_rate": 4,
        "target_fps": 30,
        "short_side": 36,
        "crop_size": 32,
        "mean": [0.45, 0.45, 0.45],
        "std": [0.225, 0.225, 0.225],
    }


def test_the_log_gives_the_size_of_a_small_model_in_thousands(trained):
    state = load_checkpoint(newest(trained))["model_state"]
    count = sum(value.numel() for value in state.values())
    assert 10_000 < count < 100_000
    assert (
        f"TimeSformer with {count / 1000:.4g} k parameters, of which {count / 1000:.4g} k are trained"
        in (trained / "log.txt").read_text()
    )
