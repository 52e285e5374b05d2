"""Runs from end to end on encoded clips: train, resume, test, convert, in one process and in several."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tests.experiment import CLASSES, newest, results, run, stats, weights
from videofib.checkpoint.manager import find_checkpoints
from videofib.commands import convert as convert_command
from videofib.config import load_config
from videofib.metrics.scores import read_scores
from videofib.models.pretrained.weight_files import read_weights
from videofib.run.parts import teacher_from_config

ROOT = Path(__file__).parents[2]


def fails(capsys, experiment, out, *overrides, stages=None):
    """Run something that must fail; returns the lines of its errors."""
    with pytest.raises(SystemExit) as caught:
        run(experiment, out, *overrides, stages=stages)
    assert caught.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert lines
    return "\n".join(lines)


def test_a_run_trains_tests_and_records_everything(trained):
    assert sorted(file.name for file in (trained / "checkpoints").iterdir()) == [
        "best.json",
        "checkpoint_epoch_00001.pyth",
        "checkpoint_epoch_00002.pyth",
    ]
    assert yaml.safe_load((trained / "config.yaml").read_text())["SOLVER"]["BASE_LR"] == 0.03
    kinds = [line["_type"] for line in stats(trained)]
    assert kinds == ["train_iter", "train_epoch", "val_epoch"] * 2 + ["test_final"]
    assert "resuming from" not in (trained / "log.txt").read_text()


def test_the_test_names_the_unreadable_video_and_counts_it_as_wrong(experiment, trained):
    found = results(trained)
    (skipped,) = found["skipped"]
    assert skipped["video"] == "broken.mp4"
    assert skipped["reason"]
    assert (found["num_videos"], found["num_views"]) == (6, 6)
    assert list(found["per_class_acc"]) == CLASSES
    assert found["per_class_acc"]["blue"] <= 50.0
    assert found["top5_acc"] == pytest.approx(100 * 5 / 6)
    assert "1 unreadable video was counted as wrong: broken.mp4" in (trained / "log.txt").read_text()
    saved = read_scores(trained / "test_scores.parquet")
    assert saved.ids == [*(f"test {i}.mp4" for i in range(5)), "broken.mp4"]
    assert saved.paths == [str(experiment / name) for name in saved.ids]
    assert saved.failures == {"broken.mp4": skipped["reason"]}
    assert (saved.num_views, saved.num_crops, saved.class_names, saved.kind) == (6, 3, CLASSES, "softmax")
    np.testing.assert_allclose(saved.scores[:5].sum(1), 1, atol=1e-5)
    with (trained / "test_predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["video"], row["class"]) for row in rows][3:] == [
        (saved.paths[3], "red"),
        (saved.paths[4], "green"),
        (saved.paths[5], "blue"),
    ]
    assert float(rows[3]["probability_1"]) == pytest.approx(saved.scores[3].max().item(), abs=1e-6)
    assert rows[5]["error"]
    assert not rows[5]["predicted_1"]
    assert [views for views, _, _ in found["accuracy_by_views"]] == [1, 3, 6]
    assert not (trained / "test_parts").exists()


def test_an_interrupted_run_resumes_to_the_same_weights(experiment, trained, tmp_path):
    random_parts = ["TIMESFORMER.DROP_PATH_RATE", "0.3", "AUG.ENABLE", "True", "MIXUP.ENABLE", "True"]
    run(experiment, tmp_path / "undisturbed", *random_parts, "TRAIN.EMA_DECAY", "0.9", stages=["train"])
    (tmp_path / "cut" / "checkpoints").mkdir(parents=True)
    first = "checkpoints/checkpoint_epoch_00001.pyth"
    shutil.copy(tmp_path / "undisturbed" / first, tmp_path / "cut" / first)
    (tmp_path / "cut" / "checkpoints" / "checkpoint_epoch_00002.pyth").write_bytes(b"half a file")
    workers = ["DATA_LOADER.NUM_WORKERS", "2"]  # and what a sample is does not depend on who prepares it
    run(experiment, tmp_path / "cut", *random_parts, *workers, "TRAIN.EMA_DECAY", "0.9", stages=["train"])
    log = (tmp_path / "cut" / "log.txt").read_text()
    assert "checkpoint_epoch_00002.pyth is a text file, not a checkpoint; trying the one before it" in log
    assert "1 of 2 epochs are done" in log
    assert torch.equal(weights(tmp_path / "cut"), weights(tmp_path / "undisturbed"))
    assert not torch.equal(weights(tmp_path / "cut"), weights(trained))


@pytest.fixture(scope="module")
def trained_by_two(experiment, tmp_path_factory):
    """The same run by the script in two processes of its own making, training alone."""
    out = tmp_path_factory.mktemp("trained by two")
    command = [sys.executable, ROOT / "tools" / "train_net.py", "--cfg", experiment / "config.yaml"]
    more = ["NUM_GPUS", "2", "DATA_LOADER.NUM_WORKERS", "1", "TENSORBOARD.ENABLE", "True"]
    done = subprocess.run([*command, "--opts", "OUTPUT_DIR", out, *more], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "json_stats: {" in done.stdout
    assert "wait=" not in done.stderr + done.stdout  # no progress bar outside a terminal
    return out


def test_two_processes_train_to_what_one_does(trained, trained_by_two):
    torch.testing.assert_close(weights(trained_by_two), weights(trained), rtol=0, atol=1e-5)
    assert not (trained_by_two / "test_results.json").exists()
    assert "2 process(es)" in (trained_by_two / "log.txt").read_text()


def test_a_run_ends_with_a_report_which_cannot_make_it_fail(experiment, trained, trained_by_two, tmp_path, capsys):
    page = (trained / "report.html").read_text().replace("<wbr>", "")
    assert "broken.mp4" in page
    assert "Multiply-adds per view" in page
    assert "Learning" in (trained_by_two / "report.html").read_text()

    shutil.copytree(trained / "checkpoints", tmp_path / "out" / "checkpoints")
    (tmp_path / "out" / "report.html").mkdir()
    run(experiment, tmp_path / "out", stages=["test"])
    assert "the report could not be written: " in capsys.readouterr().out
    assert results(tmp_path / "out")["per_class_acc"] == results(trained)["per_class_acc"]
    (tmp_path / "out" / "report.html").rmdir()
    run(experiment, tmp_path / "out", "REPORT.ENABLE", "False", stages=["test"])
    assert not (tmp_path / "out" / "report.html").exists()


def test_the_record_names_the_command_also_of_several_processes(trained, trained_by_two):
    found = json.loads((trained_by_two / "environment.json").read_text())
    assert "train_net.py --cfg" in found["command"]
    assert found["processes"] == 2
    assert len(list((trained_by_two / "tensorboard").iterdir())) == 1  # of one process
    assert json.loads((trained / "environment.json").read_text())["packages"]["torch"]


@pytest.mark.slow
def test_torchrun_trains_to_the_same(experiment, trained_by_two, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, ROOT / "tools" / "train_net.py", "--cfg", experiment / "config.yaml", "OUTPUT_DIR", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(weights(tmp_path), weights(trained_by_two), rtol=0, atol=1e-6)
    assert "2 process(es)" in (tmp_path / "log.txt").read_text()


def test_sharded_weights_train_test_and_resume_as_full_ones(experiment, trained, tmp_path):
    sharded = ["TRAIN.STRATEGY", "fsdp", "TRAIN.SHARDED_CHECKPOINTS", "True", "NUM_GPUS", "2"]
    run(experiment, tmp_path, *sharded)
    kept = tmp_path / "checkpoints"
    assert [path.name for path in find_checkpoints(kept)] == [
        "checkpoint_epoch_00001.dcp",
        "checkpoint_epoch_00002.dcp",
    ]
    found, expected = (stats(out)[2] for out in (tmp_path, trained))
    assert found["_type"] == "val_epoch"
    assert found["clip_top1_acc"] == expected["clip_top1_acc"]
    one, two = (read_scores(folder / "test_scores.parquet").scores for folder in (trained, tmp_path))
    torch.testing.assert_close(one, two, rtol=0, atol=1e-5, equal_nan=True)

    (kept / "checkpoint_epoch_00002.dcp").rename(kept / ".checkpoint_epoch_00002.dcp.partial")  # killed while writing
    run(experiment, tmp_path, stages=["train"])  # one process, which writes a file
    assert "checkpoint_epoch_00001.dcp; 1 of 2 epochs are done" in (tmp_path / "log.txt").read_text()
    assert not list(kept.glob(".*"))
    torch.testing.assert_close(weights(tmp_path), weights(trained), rtol=0, atol=1e-5)


def test_three_processes_test_to_what_one_does(experiment, trained, tmp_path):
    checkpoint = ["TEST.CHECKPOINT_FILE_PATH", str(trained / "checkpoints" / "checkpoint_epoch_00002.pyth")]
    run(experiment, tmp_path, *checkpoint, "NUM_GPUS", "3", "TRAIN.BATCH_SIZE", "3", stages=["test"])
    found, expected = results(tmp_path), results(trained)
    # A pass of one view and a pass of three round differently: confidences agree as closely as scores do.
    assert found.pop("calibration_error") == pytest.approx(expected.pop("calibration_error"), abs=1e-3)
    assert found == expected
    assert (tmp_path / "test_config.yaml").exists()
    one, three = (read_scores(folder / "test_scores.parquet") for folder in (trained, tmp_path))
    np.testing.assert_allclose(one.scores, three.scores, atol=1e-5)


def test_excluding_the_unreadable_video_changes_the_denominator(experiment, trained, tmp_path):
    source = trained / "checkpoints" / "checkpoint_epoch_00001.pyth"
    run(experiment, tmp_path, "TEST.CHECKPOINT_FILE_PATH", str(source), "TEST.UNREADABLE", "exclude", stages=["test"])
    found = results(tmp_path)
    assert (found["num_videos"], len(found["skipped"]), found["top5_acc"]) == (5, 1, 100.0)
    assert found["checkpoint"] == str(source)
    log = (tmp_path / "log.txt").read_text()
    assert "exact: the model equals the one that the weights come from" in log  # the run's config shows the settings


def test_a_finished_run_is_not_trained_again_and_changed_settings_are_named(experiment, trained, tmp_path):
    out = tmp_path / "again"
    shutil.copytree(trained, out)
    run(experiment, out, "ATTENTION.JOINT", "dense")
    log = (out / "log.txt").read_text()
    assert "2 of 2 epochs are done" in log
    assert "was trained with other settings: ATTENTION.JOINT fibottention -> dense" in log
    assert log.count("test_final") == 2


def test_the_newest_and_the_best_stay_and_the_best_can_be_tested(experiment, tmp_path, capsys):
    train_all = ["SOLVER.MAX_EPOCH", "4", "CHECKPOINT.KEEP", "1"]
    run(experiment, tmp_path, *train_all, "TEST.CHECKPOINT_FILE_PATH", "best")
    accuracies = [line["top1_acc"] for line in stats(tmp_path, "val_epoch")]
    best = 1 + accuracies.index(max(accuracies))
    left = sorted(path.name for path in (tmp_path / "checkpoints").glob("*.pyth"))
    assert left == [f"checkpoint_epoch_{epoch:05d}.pyth" for epoch in sorted({best, 4})]
    assert (results(tmp_path)["epoch"], Path(results(tmp_path)["checkpoint"]).name) == (best, left[0])
    (tmp_path / "checkpoints" / "best.json").unlink()
    said = fails(capsys, experiment, tmp_path, "TEST.CHECKPOINT_FILE_PATH", "best", stages=["test"])
    assert "which validation writes" in said


def test_a_run_learns_from_a_teacher(experiment, trained, tmp_path, capsys):
    teach = ["DISTILL.CONFIG", str(trained / "config.yaml"), "DISTILL.CHECKPOINT", str(newest(trained))]
    teacher = teacher_from_config(load_config(experiment / "config.yaml", teach))
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert teacher_from_config(load_config(experiment / "config.yaml")) is None
    small = ["TIMESFORMER.EMBED_DIM", "12", "ATTENTION.JOINT", "dense", *teach]
    run(experiment, tmp_path / "student", *small, "DISTILL.ALPHA", "0.9", stages=["train"])
    assert all(line["teacher_loss"] > 0 for line in stats(tmp_path / "student", "train_epoch"))
    assert weights(tmp_path / "student").numel() < weights(trained).numel()  # the teacher is in no checkpoint
    for change, message in [
        (["DATA.NUM_FRAMES", "4"], "config.yaml and 4 here; make them the same"),
        (["DATA.TRAIN_CROP_SIZE", "16"], "but DATA.TRAIN_CROP_SIZE is 32 in "),
        (["DISTILL.CONFIG", str(tmp_path / "none.yaml")], "no config file at "),
        (["DISTILL.CHECKPOINT", str(tmp_path / "none.pyth")], "no checkpoint at "),
        (["DISTILL.CONFIG", str(tmp_path / "student" / "config.yaml")], "cannot be used"),
    ]:
        assert message in fails(capsys, experiment, tmp_path / "out", *small, *change, stages=["train"])


def test_a_run_whose_clips_grow_resumes_within_an_epoch(experiment, tmp_path):
    cycle = ["MULTIGRID.LONG_CYCLE", "True", "MULTIGRID.LONG_CYCLE_FACTORS", "[[0.5, 1.0], [1.0, 1.0]]"]
    options = [*cycle, "TRAIN.CHECKPOINT_STEPS", "1", "TIMESFORMER.DROP_RATE", "0.2", "LOG_PERIOD", "1"]
    run(experiment, tmp_path / "undisturbed", *options, stages=["train"])
    lines = stats(tmp_path / "undisturbed", "train_iter")
    steps = [(line["epoch"], line["step"], line["steps"]) for line in lines]
    assert steps == [(1, 1, 1), (2, 1, 3), (2, 2, 3), (2, 3, 3)]  # of 12 videos: 8 in a batch, then 4
    for left in ("checkpoint_epoch_00001_step_000002.pyth", "checkpoint_epoch_00001.pyth"):
        (tmp_path / left / "checkpoints").mkdir(parents=True)
        shutil.copy(tmp_path / "undisturbed" / "checkpoints" / left, tmp_path / left / "checkpoints" / left)
        run(experiment, tmp_path / left, *options, stages=["train"])
        assert torch.equal(weights(tmp_path / left), weights(tmp_path / "undisturbed"))


def test_each_stage_can_be_turned_off(experiment, tmp_path, capsys):
    said = fails(capsys, experiment, tmp_path, "TRAIN.ENABLE", "False", "TEST.ENABLE", "False")
    assert "nothing to do" in said
    assert "no checkpoint in" in fails(capsys, experiment, tmp_path, "TRAIN.ENABLE", "False")


def test_what_users_can_correct_is_one_line(experiment, trained, tmp_path, capsys):
    (tmp_path / "a file").touch()
    bad = tmp_path / "bad.pyth"
    bad.write_bytes(b"no checkpoint")
    for overrides, message in [
        (["SOLVER.BASE", "1"], "unknown key SOLVER.BASE on the command line; the nearest known key is SOLVER.BASE_LR"),
        (["MODEL.NUM_CLASSES", "4"], "classes.txt names 3 classes, but MODEL.NUM_CLASSES is 4"),
        (["DATA.PATH_TO_DATA_DIR", str(tmp_path)], "no train split"),
        (["TIMESFORMER.NUM_HEADS", "5"], "the config describes no model"),
        (["TRAIN.CHECKPOINT_FILE_PATH", str(bad)], "bad.pyth is a text file, not a checkpoint"),
        (["TRAIN.FREEZE", "['*']"], "TRAIN.FREEZE: no parameter is left to train"),
        (["TRAIN.MIXED_PRECISION", "True", "TRAIN.MIXED_PRECISION_DTYPE", "fp16"], "fp16 needs a GPU"),
        (["OUTPUT_DIR", str(tmp_path / "a file")], "cannot write to OUTPUT_DIR"),
        (["OUTPUT_DIR", str(trained), "TRAIN.AUTO_RESUME", "False"], "checkpoints of another run"),
        (
            ["SOLVER.BASE_LR", "1e30", "SOLVER.WARMUP_EPOCHS", "0", "SOLVER.MAX_SKIPPED_STEPS", "2"],
            "not finite in 2 step(s) in a row, up to epoch 1, step 3 of 3",
        ),
    ]:
        assert message in fails(capsys, experiment, tmp_path / "out", *overrides, stages=["train"])


def convert(experiment, source, to, out, *overrides):
    words = ["--cfg", experiment / "config.yaml", "--weights", source, "--to", to, "--out", out, *overrides]
    convert_command.main([str(word) for word in words])


@pytest.mark.parametrize(
    ("to", "name", "options", "model"),
    [
        ("official", "model.pyth", [], ["ATTENTION.JOINT", "dense"]),
        ("huggingface", "model", [], ["ATTENTION.JOINT", "dense"]),
        ("huggingface", "model", ["--remote-code"], []),
    ],
)
def test_converted_weights_test_the_same_and_can_be_trained_on(
    experiment, trained, tmp_path, to, name, options, model, capsys
):
    convert(experiment, newest(trained), to, tmp_path / name, *options, *model)
    said = capsys.readouterr().out
    assert "21 of 21 tensors loaded as they are" in said
    assert ("trust_remote_code=True" in said) == bool(options)
    source = str(tmp_path / name)

    run(experiment, tmp_path / "same", *model, "TEST.CHECKPOINT_FILE_PATH", source, stages=["test"])
    run(experiment, tmp_path / "own", *model, "TEST.CHECKPOINT_FILE_PATH", newest(trained), stages=["test"])
    found, expected = results(tmp_path / "same"), results(tmp_path / "own")
    assert found["checkpoint"] == source
    assert found["per_class_acc"] == expected["per_class_acc"]
    same, before = (read_scores(tmp_path / folder / "test_scores.parquet") for folder in ("same", "own"))
    np.testing.assert_array_equal(same.scores, before.scores)

    larger = ["DATA.NUM_FRAMES", "4", "DATA.TRAIN_CROP_SIZE", "48", "DATA.TEST_CROP_SIZE", "48"]
    larger += ["DATA.TRAIN_JITTER_SCALES", "[48, 52]", "TRAIN.CHECKPOINT_FILE_PATH", source]
    run(experiment, tmp_path / "larger", *larger)
    log = (tmp_path / "larger" / "log.txt").read_text()
    assert "resized: pos_embed: 1x5x24 -> 1x10x24, bicubic from 2x2 to 3x3" in log
    assert "resized: time_embed: 1x2x24 -> 1x4x24, nearest" in log
    assert results(tmp_path / "larger")["epoch"] == 2


@pytest.mark.parametrize(("to", "name"), [("official", "model.pyth"), ("huggingface", "model")])
def test_converted_weights_keep_the_names_of_the_checkpoint(experiment, trained, tmp_path, to, name):
    dense = ["ATTENTION.JOINT", "dense"]
    convert(experiment, newest(trained), to, tmp_path / name, *dense, "DATA.PATH_TO_DATA_DIR", tmp_path)
    assert read_weights(tmp_path / name).classes == tuple(CLASSES)
    run(experiment, tmp_path / "same", *dense, "TEST.CHECKPOINT_FILE_PATH", tmp_path / name, stages=["test"])
    assert results(tmp_path / "same")["class_names"] == CLASSES


def test_weights_of_a_model_with_other_classes_can_be_trained_on_but_not_tested(experiment, trained, tmp_path, capsys):
    state = {name: value for name, value in torch.load(newest(trained))["model_state"].items()}
    state["head.weight"], state["head.bias"] = torch.zeros(7, 24), torch.zeros(7)
    torch.save({"model_state": state}, tmp_path / "seven.pyth")
    source = str(tmp_path / "seven.pyth")
    said = fails(capsys, experiment, tmp_path / "out", "TEST.CHECKPOINT_FILE_PATH", source, stages=["test"])
    assert said.endswith("seven.pyth lacks weights of the model to test: head.weight, head.bias")
    once = ["TRAIN.CHECKPOINT_FILE_PATH", source, "SOLVER.MAX_EPOCH", "1"]
    run(experiment, tmp_path / "out", *once, stages=["train"])
    assert "newly initialised: head.weight: 3x24, initial values kept" in (tmp_path / "out" / "log.txt").read_text()


def test_an_impossible_conversion_is_reported_in_one_line(experiment, trained, tmp_path):
    for source, overrides, message in [
        (tmp_path / "gone.pyth", [], "no checkpoint at"),
        (newest(trained), ["TIMESFORMER.NUM_REGISTERS", "2"], "cannot hold a model with registers, attention"),
        (newest(trained), [], r"cannot hold a model with attention \(joint fibottention\)"),
        (newest(trained), ["TIMESFORMER.EMBED_DIM", "48"], "another model's"),
        (newest(trained), ["TIMESFORMER.EMBED_DIMS", "48"], "unknown key"),
    ]:
        with pytest.raises(SystemExit, match=f"^error: .*{message}"):
            convert(experiment, source, "official", tmp_path / "out.pyth", *overrides)
    assert not (tmp_path / "out.pyth").exists()


def test_labels_above_the_number_of_classes_are_named(experiment, tmp_path, capsys):
    (tmp_path / "train.csv").write_text("".join(f"train {i}.mp4 {i}\n" for i in range(5)))
    shutil.copy(experiment / "val.csv", tmp_path)
    where = ["DATA.PATH_TO_DATA_DIR", str(tmp_path), "DATA.PATH_PREFIX", str(experiment)]
    said = fails(capsys, experiment, tmp_path / "out", *where, stages=["train"])
    assert "the train split has label 4 (train 4.mp4), so MODEL.NUM_CLASSES must be at least 5; it is 3" in said


def test_lists_of_files_that_do_not_exist_are_noticed_at_once(experiment, tmp_path, capsys):
    said = fails(capsys, experiment, tmp_path / "out", "DATA.PATH_PREFIX", str(tmp_path), stages=["train"])
    assert f"none of the first 12 videos of the train split exist, such as {tmp_path}/train 0.mp4" in said


def test_an_error_in_every_process_is_printed_once(experiment, tmp_path):
    command = [sys.executable, ROOT / "tools" / "test_net.py", "--cfg", experiment / "config.yaml", "--num_shards", "1"]
    done = subprocess.run(
        [*command, "OUTPUT_DIR", tmp_path, "NUM_GPUS", "2"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if "error: " in line]
    assert said == [f"error: no checkpoint in {tmp_path}/checkpoints; train first, or set TEST.CHECKPOINT_FILE_PATH"]


def test_classes_that_flips_would_swap_are_warned_of(experiment, tmp_path, capsys):
    for split in ("train", "val"):
        shutil.copy(experiment / f"{split}.csv", tmp_path)
    (tmp_path / "classes.txt").write_text("go left\ngo right\nstay\n")
    data = ["DATA.PATH_TO_DATA_DIR", str(tmp_path), "DATA.PATH_PREFIX", str(experiment)]
    with pytest.raises(SystemExit):
        run(experiment, tmp_path / "run", *data, "TRAIN.CHECKPOINT_FILE_PATH", "nowhere.pyth", stages=["train"])
    assert "'go left' and 'go right'; set DATA.RANDOM_FLIP False" in "".join(capsys.readouterr())


def test_videos_of_several_classes(experiment, tmp_path, capsys):
    """Every other video has class 3 besides its colour, in training, validation and testing."""
    for split in ("train", "val", "test"):
        rows = [line.rpartition(" ") for line in (experiment / f"{split}.csv").read_text().splitlines()]
        lines = [f"{path} {label},3\n" if i % 2 else f"{path} {label}\n" for i, (path, _, label) in enumerate(rows)]
        (tmp_path / f"{split}.csv").write_text("".join(lines))
    data = ["DATA.PATH_TO_DATA_DIR", str(tmp_path), "DATA.PATH_PREFIX", str(experiment), "MODEL.NUM_CLASSES", "4"]
    line = fails(capsys, experiment, tmp_path / "run", *data)
    assert "train.csv:2: label '1,3' is not a class index" in line
    assert line.endswith("set MODEL.LOSS_FUNC bce_logit")
    several = [*data, "MODEL.LOSS_FUNC", "bce_logit", "AUG.NUM_SAMPLE", "2"]
    line = fails(capsys, experiment, tmp_path / "run", *several, "MODEL.NUM_CLASSES", "3")
    assert "has label 3 " in line
    run(experiment, tmp_path / "run", *several, "DATA.ENSEMBLE_METHOD", "max", "SOLVER.MAX_EPOCH", "1")
    kinds = {line["_type"]: line for line in stats(tmp_path / "run")}
    assert 0 < kinds["train_epoch"]["loss"] < 1.5
    assert "clip_top1_acc" not in kinds["train_epoch"]
    assert 0 < kinds["val_epoch"]["mAP"] <= 100
    found = results(tmp_path / "run")
    assert found["mAP"] > 0
    assert list(found["per_class_ap"]) == ["0", "1", "2", "3"]
    assert [entry["video"] for entry in found["skipped"]] == ["broken.mp4"]
    saved = read_scores(tmp_path / "run" / "test_scores.parquet")
    assert saved.kind == "sigmoid"
    assert saved.labels.tolist()[:2] == [[1, 0, 0, 0], [0, 1, 0, 1]]


def test_of_a_file_with_two_models_the_config_says_which(experiment, trained, tmp_path, capsys):
    student = torch.load(newest(trained))["model_state"]
    both = tmp_path / "both.pth"
    torch.save(
        {"student": student, "teacher": {name: torch.zeros_like(value) for name, value in student.items()}}, both
    )
    for key in ("TEST.CHECKPOINT_FILE_PATH", "TRAIN.CHECKPOINT_FILE_PATH"):
        said = fails(capsys, experiment, tmp_path / "out", key, str(both), stages=[key.partition(".")[0].lower()])
        assert "both.pth cannot be used: it holds several models, 'student', 'teacher'" in said

    source = ["TEST.CHECKPOINT_FILE_PATH", str(both), "TEST.CHECKPOINT_PART"]
    run(experiment, tmp_path / "student", *source, "student", stages=["test"])
    assert results(tmp_path / "student")["per_class_acc"] == results(trained)["per_class_acc"]
    assert "part: student; not loaded: teacher" in (tmp_path / "student" / "log.txt").read_text()

    source = ["TRAIN.CHECKPOINT_FILE_PATH", str(both), "TRAIN.CHECKPOINT_PART"]
    run(experiment, tmp_path / "teacher", *source, "teacher", "SOLVER.MAX_EPOCH", "1", stages=["train"])
    assert "part: teacher; not loaded: student" in (tmp_path / "teacher" / "log.txt").read_text()

    teach = ["DISTILL.CONFIG", str(trained / "config.yaml"), "DISTILL.CHECKPOINT", str(both)]
    teacher = teacher_from_config(
        load_config(experiment / "config.yaml", [*teach, "DISTILL.CHECKPOINT_PART", "student"])
    )
    assert torch.equal(teacher.head.weight, student["head.weight"])

    dense = ["ATTENTION.JOINT", "dense"]  # which the official layout can hold
    convert(experiment, both, "official", tmp_path / "one.pyth", "--part", "student", *dense)
    assert torch.equal(torch.load(tmp_path / "one.pyth")["model_state"]["model.head.weight"], student["head.weight"])
    said = fails(capsys, experiment, trained, "TEST.CHECKPOINT_PART", "tutor", stages=["test"])
    assert "checkpoint_epoch_00002.pyth cannot be used: no part is called 'tutor'; there are 'model_state'" in said
