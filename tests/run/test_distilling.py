"""Runs that learn from a teacher's features, or without any video: killed and resumed, saved, and refused."""

import shutil

import pytest
import torch

import videofib
from tests.experiment import CLASSES, newest, results, run, stats, weights
from videofib.checkpoint.file import load_checkpoint
from videofib.checkpoint.manager import CheckpointManager, find_checkpoints
from videofib.engine.interrupt import InterruptedRun

SMALL = ["TIMESFORMER.EMBED_DIM", "12", "ATTENTION.JOINT", "dense"]
STEPWISE = ["TRAIN.CHECKPOINT_STEPS", "1", "LOG_PERIOD", "1", "TIMESFORMER.DROP_RATE", "0.2"]
DATA_FREE = ["DISTILL.DATA_FREE", "generator", "SYNTHETIC.EPOCH_STEPS", "3", "SYNTHETIC.WIDTH", "4"]


@pytest.fixture
def teach(trained):
    return ["DISTILL.CONFIG", str(trained / "config.yaml"), "DISTILL.CHECKPOINT", str(newest(trained))]


def fails(capsys, experiment, out, *overrides, stages=("train",)):
    """Run something that must fail; returns its errors."""
    with pytest.raises(SystemExit) as caught:
        run(experiment, out, *overrides, stages=list(stages))
    assert caught.value.code == 2
    return "\n".join(line for line in capsys.readouterr().err.splitlines() if line.startswith("error: "))


def run_until(monkeypatch, until, *arguments):
    """Run until a position (epoch, step) is saved; what was saved before that stays."""
    save = CheckpointManager.save

    def stop(self, position):
        path = save(self, position)
        if (position.epoch, position.step) == until:
            raise InterruptedRun("killed")
        return path

    monkeypatch.setattr(CheckpointManager, "save", stop)
    with pytest.raises(SystemExit):
        run(*arguments, stages=["train"])
    monkeypatch.setattr(CheckpointManager, "save", save)


def same_training(one, other):
    """The weights, and all that training needs, are the same in the last checkpoints of two runs."""
    found, expected = (load_checkpoint(find_checkpoints(folder / "checkpoints")[-1]) for folder in (one, other))
    for key in ("model_state", "optimizer_state", "source_state"):
        torch.testing.assert_close(found[key], expected[key], rtol=0, atol=0)


def test_a_run_learns_from_a_teachers_features(experiment, trained, teach, tmp_path, monkeypatch):
    options = [*SMALL, *teach, *STEPWISE, "DISTILL.FEATURE_WEIGHT", "2", "TRAIN.EMA_DECAY", "0.9"]
    run(experiment, tmp_path / "student", *options)
    lines = stats(tmp_path / "student", "train_epoch")
    assert lines[1]["feature_loss"] < lines[0]["feature_loss"]
    saved = load_checkpoint(newest(tmp_path / "student"))
    assert saved["model_state"]["feature_projection.0.linear.weight"].shape == (24, 12)
    assert "feature_projection.0.linear.weight" in saved["ema_state"]

    run_until(monkeypatch, (1, 2), experiment, tmp_path / "killed", *options)
    run(experiment, tmp_path / "killed", *options, stages=["train"])
    same_training(tmp_path / "killed", tmp_path / "student")

    model = videofib.load(tmp_path / "student")
    assert not any("projection" in name for name in model.model.state_dict())
    model.save_pretrained(tmp_path / "saved")
    again = videofib.load(tmp_path / "saved")
    assert set(again.model.state_dict()) == set(model.model.state_dict())
    assert "projection" not in (tmp_path / "student" / "log.txt").read_text()  # not unused either, in the test
    assert results(tmp_path / "student")["num_videos"] == 6


def test_a_run_learns_without_a_video(experiment, trained, teach, tmp_path, monkeypatch, capsys):
    empty = tmp_path / "no videos at all"
    nothing = [*SMALL, *teach, *DATA_FREE, *STEPWISE, "DATA.PATH_TO_DATA_DIR", str(empty)]
    run(experiment, tmp_path / "student", *nothing, stages=["train"])
    log = (tmp_path / "student" / "log.txt").read_text()
    assert "no videos are read to train: an epoch is 3 batches by DISTILL.DATA_FREE generator" in log
    lines = stats(tmp_path / "student", "train_epoch")
    assert len(lines) == 2
    assert {"teacher_loss", "synthesis_loss", "synthesis_top1", "synthesis_entropy"} <= set(lines[0])
    assert videofib.load(tmp_path / "student").classes == CLASSES  # the teacher's

    for until in ((0, 2), (1, 1), (1, 0)):
        run_until(monkeypatch, until, experiment, tmp_path / f"killed {until}", *nothing)
        run(experiment, tmp_path / f"killed {until}", *nothing, stages=["train"])
        same_training(tmp_path / f"killed {until}", tmp_path / "student")

    said = fails(capsys, experiment, tmp_path / "student", *nothing, "SOLVER.MAX_EPOCH", "3", "SYNTHETIC.WIDTH", "5")
    assert "what makes clips in " in said
    assert "does not fit this run" in said
    said = fails(capsys, experiment, trained, *teach, *DATA_FREE, "SOLVER.MAX_EPOCH", "3")
    assert "is of a run that read its clips, and this one makes them; train into another OUTPUT_DIR" in said


def test_real_videos_are_validated_and_tested_but_choose_nothing(experiment, teach, tmp_path, capsys):
    folder = tmp_path / "data"
    shutil.copytree(experiment, folder)
    (folder / "train.csv").unlink()
    for video in folder.glob("train *.mp4"):
        video.unlink()
    options = [*SMALL, *teach, "DISTILL.DATA_FREE", "noise", "SYNTHETIC.EPOCH_STEPS", "2"]
    options += ["DATA.PATH_TO_DATA_DIR", str(folder), "SOLVER.MAX_EPOCH", "1", "DISTILL.FEATURE_WEIGHT", "1"]
    run(experiment, tmp_path / "student", *options)
    assert stats(tmp_path / "student", "val_epoch")[0]["num_videos"] == 3
    assert results(tmp_path / "student")["num_videos"] == 6
    assert not (tmp_path / "student" / "checkpoints" / "best.json").exists()
    assert "by which nothing is chosen" in (tmp_path / "student" / "log.txt").read_text()
    said = fails(
        capsys, experiment, tmp_path / "best", *options, "TEST.CHECKPOINT_FILE_PATH", "best", stages=("train", "test")
    )
    assert "TEST.CHECKPOINT_FILE_PATH best would choose by real videos" in said


def test_a_student_without_a_video_differs_by_what_it_is_shown(experiment, teach, tmp_path):
    options = [*SMALL, *teach, "SOLVER.MAX_EPOCH", "1", "TRAIN.EVAL_PERIOD", "0", "SYNTHETIC.EPOCH_STEPS", "2"]
    run(experiment, tmp_path / "noise", *options, "DISTILL.DATA_FREE", "noise", stages=["train"])
    run(experiment, tmp_path / "made", *options, "DISTILL.DATA_FREE", "generator", stages=["train"])
    noise, made = (load_checkpoint(newest(tmp_path / name, 1)) for name in ("noise", "made"))
    assert noise["source_state"] == {}
    assert set(made["source_state"]) == {"generator", "optimizer"}
    assert not torch.equal(weights(tmp_path / "noise", 1), weights(tmp_path / "made", 1))


def test_features_and_attention_that_cannot_be_seen_are_refused(experiment, teach, tmp_path, capsys):
    features = ["DISTILL.FEATURE_WEIGHT", "1", "DISTILL.FEATURE_BLOCKS"]
    for change, message in [
        ([*features, "[[-1, 5]]"], "DISTILL.FEATURE_BLOCKS [[-1, 5]]: no block 5 in a model of 1"),
        ([*features, "[[2, 0]]"], "no block 2 in a model of 1"),
    ]:
        assert message in fails(capsys, experiment, tmp_path / "out", *SMALL, *teach, *change)
