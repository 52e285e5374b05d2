"""Fewer tokens by the config: training with a teacher and resuming it, saving, loading, and merging at test time."""

import shutil

import pytest
import torch

import videofib
from tests.experiment import newest, results, run, stats
from videofib.checkpoint.file import load_checkpoint
from videofib.config import ConfigError, load_config
from videofib.metrics.scores import read_scores
from videofib.run.models import build_model

DENSE = ["ATTENTION.JOINT", "dense", "TIMESFORMER.DEPTH", "3"]
SLIM = [*DENSE, "SLIMMING.AFTER", "[0]"]


def test_the_config_describes_the_model(experiment):
    file = experiment / "config.yaml"
    slim = build_model(load_config(file, [*SLIM, "SLIMMING.RATIO", "0.4", "SLIMMING.PER_FRAME", "True"]))
    assert list(slim.reductions) == ["0"]
    assert (slim.reductions["0"].num_soft, slim.reductions["0"].frames) == (1, True)  # of 2 x 2
    merging = build_model(load_config(file, [*DENSE, "MERGING.TOKENS", "2", "MERGING.PROPORTIONAL", "False"]))
    assert merging.blocks[0].reduction.r == 2
    assert not merging.blocks[0].attn.proportional
    deformable = build_model(load_config(file, [*DENSE, "DEFORMABLE_MERGING.AFTER", "[1]"]))
    assert list(deformable.reductions) == ["1"]
    assert build_model(load_config(file, DENSE)).first_reduction() is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["SLIMMING.RATIO", "0.3"], "SLIMMING.AFTER"),
        (["SLIMMING.AFTER", "[0]", "SLIMMING.EVERY", "2"], "SLIMMING.TEACHER"),
        (["MERGING.PROPORTIONAL", "False"], "MERGING.TOKENS above 0"),
        (
            ["TIMESFORMER.ATTENTION_TYPE", "divided_space_time", "SLIMMING.AFTER", "[0]", "SLIMMING.PER_FRAME", "True"],
            "joint_space_time",
        ),
        (["SLIMMING.AFTER", "[0]", "SLIMMING.TEACHER", "x.pyth", "MULTIGRID.LONG_CYCLE", "True"], "LONG_CYCLE False"),
        (
            ["SLIMMING.AFTER", "[0]", "SLIMMING.TEACHER", "x", "DISTILL.CONFIG", "y.yaml", "DISTILL.CHECKPOINT", "z"],
            "learns from one teacher",
        ),
    ],
)
def test_settings_that_would_do_nothing_or_cannot_be_are_refused(experiment, settings, message):
    with pytest.raises(ConfigError, match=message):
        load_config(experiment / "config.yaml", ["ATTENTION.JOINT", "dense", *settings])


@pytest.fixture(scope="module")
def unslimmed(experiment, tmp_path_factory):
    return run(
        experiment, tmp_path_factory.mktemp("unslimmed"), *DENSE, "SOLVER.MAX_EPOCH", "1", "TEST.ENABLE", "False"
    )


@pytest.fixture(scope="module")
def slimmed(experiment, unslimmed, tmp_path_factory):
    return run(experiment, tmp_path_factory.mktemp("slimmed"), *taught(unslimmed))


def taught(unslimmed):
    weights = str(newest(unslimmed, 1))
    return [*SLIM, "SLIMMING.TEACHER", weights, "TRAIN.CHECKPOINT_FILE_PATH", weights, "TRAIN.EMA_DECAY", "0.9"]


def test_a_slimmed_model_learns_from_its_unslimmed_self(slimmed):
    epochs = stats(slimmed, "train_epoch")
    assert len(epochs) == 2
    assert all(line["token_loss"] > 0 and line["teacher_loss"] >= 0 for line in epochs)
    assert results(slimmed)["num_videos"] == 6


def test_an_interrupted_run_reaches_the_same_weights(experiment, unslimmed, slimmed, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(newest(slimmed, 1), newest(tmp_path, 1))
    run(experiment, tmp_path, *taught(unslimmed), "TEST.ENABLE", "False")
    one, other = (load_checkpoint(newest(each)) for each in (slimmed, tmp_path))
    assert one["training_state"]["model_state"].keys()
    for part in ("model_state", "ema_state"):
        for first_state, second in (
            (one[part], other[part]),
            (one["training_state"][part], other["training_state"][part]),
        ):
            assert first_state.keys() == second.keys()
            assert all(torch.equal(first_state[name], second[name]) for name in first_state)


def test_a_saved_model_slims_and_has_no_recovery(slimmed, experiment, tmp_path):
    model = videofib.load(slimmed)
    assert model.model.recovery is None
    assert list(model.model.reductions) == ["0"]
    video = experiment / "train 0.mp4"
    expected = model.predict(video)
    model.save_pretrained(tmp_path / "saved")
    again = videofib.load(tmp_path / "saved")
    assert [name for name, _ in again.predict(video)] == [name for name, _ in expected]
    assert model.features(video).shape == (24,)


def test_tokens_of_a_trained_model_merge_when_it_is_tested(experiment, unslimmed, tmp_path):
    testing = ("TRAIN.ENABLE", "False", "TEST.CHECKPOINT_FILE_PATH", newest(unslimmed, 1))
    plain, merged = (
        read_scores(
            run(experiment, tmp_path / tokens, *DENSE, *testing, "MERGING.TOKENS", tokens) / "test_scores.parquet"
        )
        for tokens in ("0", "3")
    )
    assert plain.scores.shape == merged.scores.shape
    assert (plain.scores - merged.scores)[:5].abs().max() > 0  # the last cannot be read


def test_tokens_of_a_loaded_model_merge(experiment, unslimmed):
    video, options = experiment / "train 0.mp4", {"MERGING.TOKENS": 3}
    plain, merged = videofib.load(unslimmed), videofib.load(unslimmed, options=options)
    assert merged.model.first_reduction() == 0
    assert not torch.equal(plain.features(video), merged.features(video))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_train_the_same_student(experiment, unslimmed, tmp_path, strategy):
    settings = [*taught(unslimmed), "TEST.ENABLE", "False"]
    one = run(experiment, tmp_path / "one", *settings)
    two = run(experiment, tmp_path / "two", *settings, "NUM_GPUS", "2", "TRAIN.STRATEGY", strategy)
    one, two = (load_checkpoint(newest(each)) for each in (one, two))
    for part in ("model_state", "ema_state"):
        torch.testing.assert_close(two[part], one[part], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(two["training_state"][part], one["training_state"][part], rtol=1e-4, atol=1e-5)
