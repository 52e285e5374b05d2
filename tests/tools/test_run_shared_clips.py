"""Processes that share each clip (TRAIN.CONTEXT_PARALLEL) train and test to what one process does."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml

from tests.experiment import results, run, stats
from videofib.checkpoint.file import load_checkpoint
from videofib.metrics.scores import read_scores

SPLITS = {"train": 9, "val": 3, "test": 3}  # of the training videos one does not decode
CONFIG = {
    "LOG_PERIOD": 1,
    "TRAIN": {"BATCH_SIZE": 4, "CHECKPOINT_STEPS": 1, "EMA_DECAY": 0.5},
    "TEST": {"BATCH_SIZE": 4, "NUM_ENSEMBLE_VIEWS": 2, "NUM_SPATIAL_CROPS": 1},
    "AUG": {"ENABLE": True},
    "DATA": {
        "NUM_FRAMES": 3,
        "SAMPLING_RATE": 2,
        "TRAIN_JITTER_SCALES": [36, 44],
        "TRAIN_CROP_SIZE": 32,
        "TEST_CROP_SIZE": 32,
    },
    "DATA_LOADER": {"NUM_WORKERS": 0},
    "MODEL": {"NUM_CLASSES": 3},
    "TIMESFORMER": {
        "ATTENTION_TYPE": "joint_space_time",
        "EMBED_DIM": 24,
        "DEPTH": 2,
        "NUM_HEADS": 3,
        "DROP_PATH_RATE": 0.3,
        "GRADIENT_CHECKPOINTING": True,
    },
    "ATTENTION": {"JOINT": "fibottention"},
    "FIBOTTENTION": {"W_MIN": 2},
    "SOLVER": {"OPTIMIZING_METHOD": "sgd", "BASE_LR": 0.03, "MAX_EPOCH": 2, "WARMUP_EPOCHS": 0.0},
}


@pytest.fixture(scope="module")
def shared_clips(experiment, tmp_path_factory):
    """A config file beside lists of the experiment's clips, with a broken one to train on and to test."""
    folder = tmp_path_factory.mktemp("shared clips")
    broken = folder / "broken.mp4"
    broken.write_text("this is not a video\n" * 100)
    for split, count in SPLITS.items():
        rows = [f"{experiment / f'{split} {i}.mp4'} {i % 3}\n" for i in range(count)]
        if split != "val":
            rows[-1] = f"{broken} {(count - 1) % 3}\n"
        (folder / f"{split}.csv").write_text("".join(rows))
    config = {**CONFIG, "DATA": {**CONFIG["DATA"], "PATH_TO_DATA_DIR": str(folder)}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="module")
def alone(shared_clips):
    """What one process trains and tests, with mixed clips and stochastic depth."""
    return run(shared_clips, shared_clips / "alone", "MIXUP.ENABLE", "True")


def weights(run_folder):
    checkpoint = load_checkpoint(run_folder / "checkpoints" / "checkpoint_epoch_00002.pyth")
    states = [checkpoint["model_state"], checkpoint["ema_state"]]
    return torch.cat([value.flatten() for state in states for value in state.values()])


def assert_same_run(found, expected):
    for kind, keys in {
        "train_iter": ("loss", "grad_norm", "lr"),
        "train_epoch": ("loss", "replaced_videos"),
        "val_epoch": ("top1_acc", "num_videos"),
    }.items():
        a, b = stats(found, kind), stats(expected, kind)
        assert len(a) == len(b) > 0
        for key in keys:
            pairs = [line[key] for line in a], pytest.approx([line[key] for line in b], rel=1e-5, abs=1e-5)
            assert pairs[0] == pairs[1], (kind, key)


def assert_same_test(found, expected):
    a, b = (results(folder) for folder in (found, expected))
    for key in ("top1_acc", "top5_acc", "per_class_acc", "num_videos", "num_views", "skipped"):
        assert a[key] == b[key]
    assert [Path(entry["video"]).name for entry in a["skipped"]] == ["broken.mp4"]
    a, b = (read_scores(folder / "test_scores.parquet").scores for folder in (found, expected))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5, equal_nan=True)


def test_two_processes_sharing_clips_train_and_test_as_one_does(shared_clips, alone):
    shared = ["NUM_GPUS", "2", "TRAIN.CONTEXT_PARALLEL", "2", "MIXUP.ENABLE", "True"]
    out = run(shared_clips, shared_clips / "shared", *shared)
    assert_same_run(out, alone)
    torch.testing.assert_close(weights(out), weights(alone), rtol=0, atol=1e-5)
    assert_same_test(out, alone)
    (within,) = (out / "checkpoints").glob("checkpoint_epoch_00001_step_*.pyth")
    assert len(load_checkpoint(within)["states"]) == 1  # both need the same
    assert sum(line["replaced_videos"] for line in stats(alone, "train_epoch")) > 0


def test_two_processes_that_share_clips_resume_a_run_of_one_within_an_epoch(shared_clips, alone, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (within,) = (alone / "checkpoints").glob("checkpoint_epoch_00001_step_*.pyth")
    shutil.copy(within, tmp_path / "checkpoints")
    shared = ["NUM_GPUS", "2", "TRAIN.CONTEXT_PARALLEL", "2", "MIXUP.ENABLE", "True"]
    run(shared_clips, tmp_path, *shared, stages=["train"])
    log = (tmp_path / "log.txt").read_text()
    assert "of 2 epochs and 1 steps are done" in log
    assert "another random state" not in log
    torch.testing.assert_close(weights(tmp_path), weights(alone), rtol=0, atol=1e-5)
    assert stats(tmp_path, "train_epoch")[0]["loss"] == pytest.approx(stats(alone, "train_epoch")[1]["loss"], abs=1e-5)


@pytest.mark.slow
def test_two_groups_of_two_train_and_test_as_one_process_does(shared_clips, tmp_path):
    """What differs by share of the data, stochastic depth and mixing, is off."""
    plain = ["TIMESFORMER.DROP_PATH_RATE", "0", "SOLVER.MAX_EPOCH", "1"]
    one = run(shared_clips, tmp_path / "one", *plain)
    four = run(shared_clips, tmp_path / "four", *plain, "NUM_GPUS", "4", "TRAIN.CONTEXT_PARALLEL", "2")
    assert_same_run(four, one)
    assert_same_test(four, one)
    assert stats(four, "train_epoch")[0]["clip_top1_acc"] == stats(one, "train_epoch")[0]["clip_top1_acc"]


SHARED = ["NUM_GPUS", "2", "TRAIN.CONTEXT_PARALLEL", "2"]
MODES = {  # what sets it, beside TRAIN.CONTEXT_PARALLEL_MODE
    "ring": ["ATTENTION.JOINT", "dense"],
    "halo": [],
}


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_trains_as_one_process_does_and_resumes_exactly(shared_clips, tmp_path, mode):
    settings = [*MODES[mode], "MIXUP.ENABLE", "True"]
    one = run(shared_clips, tmp_path / "one", *settings)
    settings += [*SHARED, "TRAIN.CONTEXT_PARALLEL_MODE", mode]
    two = run(shared_clips, tmp_path / "two", *settings)
    assert_same_run(two, one)
    torch.testing.assert_close(weights(two), weights(one), rtol=0, atol=1e-5)
    assert_same_test(two, one)

    resumed = tmp_path / "resumed"
    (resumed / "checkpoints").mkdir(parents=True)
    (within,) = (two / "checkpoints").glob("checkpoint_epoch_00001_step_*.pyth")
    shutil.copy(within, resumed / "checkpoints")
    run(shared_clips, resumed, *settings, stages=["train"])
    assert "of 2 epochs and 1 steps are done" in (resumed / "log.txt").read_text()
    assert torch.equal(weights(resumed), weights(two))


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_two_groups_and_more_processes_than_heads_train_as_one_process_does(shared_clips, tmp_path, mode):
    """Data parallel groups of two, and four processes that share clips of three heads."""
    plain = ["TIMESFORMER.DROP_PATH_RATE", "0", "SOLVER.MAX_EPOCH", "1", *MODES[mode]]
    one = run(shared_clips, tmp_path / "one", *plain)
    for context in ("2", "4"):
        shared = ["NUM_GPUS", "4", "TRAIN.CONTEXT_PARALLEL", context, "TRAIN.CONTEXT_PARALLEL_MODE", mode]
        four = run(shared_clips, tmp_path / context, *plain, *shared)
        assert_same_run(four, one)
        assert_same_test(four, one)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_modes_train_with_mixed_precision_and_sharded_weights(shared_clips, tmp_path, mode):
    settings = [*MODES[mode], "SOLVER.MAX_EPOCH", "1", "TRAIN.MIXED_PRECISION", "True"]
    one = run(shared_clips, tmp_path / "one", *settings)
    two = run(
        *(shared_clips, tmp_path / "two", *settings, *SHARED, "TRAIN.STRATEGY", "fsdp"),
        *("TRAIN.CONTEXT_PARALLEL_MODE", mode),
    )
    losses = [[line["loss"] for line in stats(folder, "train_iter")] for folder in (two, one)]
    assert losses[0] == pytest.approx(losses[1], rel=0.02)


def test_a_mode_that_does_not_serve_is_refused_in_one_line(shared_clips, tmp_path):
    with pytest.raises(SystemExit):
        run(shared_clips, tmp_path, *SHARED, "TRAIN.CONTEXT_PARALLEL_MODE", "ring", stages=["train"])
    errors = [line for line in (tmp_path / "log.txt").read_text().splitlines() if "error:" in line]
    assert len(errors) == 1
    assert "the config describes no model: mode 'ring' of context parallelism is for dense attention" in errors[0]
