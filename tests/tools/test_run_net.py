"""The tools, end to end on real encoded clips: train, resume, test, in one process and in several."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from videofib.checkpoint.file import find_checkpoints, load_checkpoint
from videofib.config import load_config
from videofib.metrics.scores import read_scores
from videofib.prep.encode import write_video
from videofib.run.main import main
from videofib.run.parts import teacher_from_config
from videofib.tracking.log import close_logging

ROOT = Path(__file__).parents[2]
CLASSES = ["red", "green", "blue"]
SPLITS = {"train": 12, "val": 3, "test": 5}

CONFIG = {
    "LOG_PERIOD": 2,
    "TRAIN": {"BATCH_SIZE": 4},
    "TEST": {"BATCH_SIZE": 12, "NUM_ENSEMBLE_VIEWS": 2, "NUM_SPATIAL_CROPS": 3},
    "DATA": {
        "NUM_FRAMES": 2,
        "SAMPLING_RATE": 4,
        "TRAIN_JITTER_SCALES": [36, 44],
        "TRAIN_CROP_SIZE": 32,
        "TEST_CROP_SIZE": 32,
    },
    "DATA_LOADER": {"NUM_WORKERS": 0},
    "MODEL": {"NUM_CLASSES": 3},
    "TIMESFORMER": {
        "ATTENTION_TYPE": "joint_space_time",
        "PATCH_SIZE": 16,
        "EMBED_DIM": 24,
        "DEPTH": 1,
        "NUM_HEADS": 2,
        "DROP_PATH_RATE": 0.0,
    },
    "ATTENTION": {"JOINT": "fibottention"},
    "FIBOTTENTION": {"W_MIN": 2},
    "SOLVER": {
        "OPTIMIZING_METHOD": "sgd",  # AdamW would blow up the rounding that tells processes apart
        "BASE_LR": 0.03,
        "LR_POLICY": "cosine",
        "MAX_EPOCH": 2,
        "WARMUP_EPOCHS": 0.5,
    },
}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """A config file beside a data folder: small clips whose colour is their class, and a text file named .mp4."""
    folder = tmp_path_factory.mktemp("experiment")
    rng = np.random.default_rng(0)
    for split, count in SPLITS.items():
        lines = []
        for i in range(count):
            frames = rng.integers(0, 60, (16, 48, 64, 3), dtype=np.uint8)
            frames[..., i % 3] += 150
            write_video(folder / f"{split} {i}.mp4", frames, 30)
            lines.append(f"{split} {i}.mp4 {i % 3}\n")
        if split == "test":
            (folder / "broken.mp4").write_text("this is no video\n" * 100)
            lines.append("broken.mp4 2\n")
        (folder / f"{split}.csv").write_text("".join(lines))
    (folder / "classes.txt").write_text("\n".join(CLASSES) + "\n")
    config = {**CONFIG, "DATA": {**CONFIG["DATA"], "PATH_TO_DATA_DIR": str(folder)}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="module", autouse=True)
def _threads_stay_the_same():
    """Weights are equal to the last bit for one number of threads only, which else follows that of data workers."""
    before = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _handlers_end_with_the_test():
    yield
    close_logging()


def run(experiment, out, *overrides, stages=None):
    main(stages, ["--cfg", str(experiment / "config.yaml"), "OUTPUT_DIR", str(out), *overrides])


def fails(capsys, experiment, out, *overrides, stages=None):
    """Run something that must fail; returns the one line that is said about it."""
    with pytest.raises(SystemExit) as caught:
        run(experiment, out, *overrides, stages=stages)
    assert caught.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


@pytest.fixture(scope="module")
def trained(experiment):
    """The folder of a run that trained two epochs and tested, all in this process."""
    run(experiment, experiment / "trained")
    return experiment / "trained"


def weights(run_folder, epoch=2):
    state = load_checkpoint(run_folder / "checkpoints" / f"checkpoint_epoch_{epoch:05d}.pyth")["model_state"]
    return torch.cat([value.flatten() for value in state.values()])


def newest(run_folder):
    return run_folder / "checkpoints" / "checkpoint_epoch_00002.pyth"


def results(run_folder):
    return json.loads((run_folder / "test_results.json").read_text())


def test_a_run_trains_tests_and_writes_everything_down(trained):
    assert sorted(file.name for file in (trained / "checkpoints").iterdir()) == [
        "best.json",
        "checkpoint_epoch_00001.pyth",
        "checkpoint_epoch_00002.pyth",
    ]
    assert yaml.safe_load((trained / "config.yaml").read_text())["SOLVER"]["BASE_LR"] == 0.03
    stats = [json.loads(line) for line in (trained / "stats.jsonl").read_text().splitlines()]
    kinds = [line["_type"] for line in stats]
    assert kinds == ["train_iter", "train_epoch", "val_epoch"] * 2 + ["test_final"]
    assert "going on" not in (trained / "log.txt").read_text()


def test_the_test_names_the_unreadable_video_and_counts_it_as_wrong(trained):
    found = results(trained)
    (skipped,) = found["skipped"]
    assert skipped["video"] == "broken.mp4"
    assert skipped["reason"]
    assert (found["num_videos"], found["num_views"]) == (6, 6)
    assert list(found["per_class_acc"]) == CLASSES
    assert found["per_class_acc"]["blue"] <= 50.0
    assert found["top5_acc"] == pytest.approx(100 * 5 / 6)
    assert "1 unreadable videos were counted as wrong: broken.mp4" in (trained / "log.txt").read_text()
    saved = read_scores(trained / "test_scores.parquet")
    assert saved.ids == [*(f"test {i}.mp4" for i in range(5)), "broken.mp4"]
    assert saved.paths == [str(trained.parent / name) for name in saved.ids]
    assert saved.failures == {"broken.mp4": skipped["reason"]}
    assert (saved.num_views, saved.num_crops, saved.class_names, saved.kind) == (6, 3, CLASSES, "softmax")
    np.testing.assert_allclose(saved.scores[:5].sum(1), 1, atol=1e-5)
    assert [views for views, _, _ in found["accuracy_by_views"]] == [1, 3, 6]
    assert not (trained / "test_parts").exists()


def test_an_interrupted_run_resumes_to_the_same_weights(experiment, trained, tmp_path):
    random_parts = ["TIMESFORMER.DROP_PATH_RATE", "0.3", "AUG.ENABLE", "True", "MIXUP.ENABLE", "True"]
    run(experiment, tmp_path / "whole", *random_parts, "TRAIN.EMA_DECAY", "0.9", stages=["train"])
    (tmp_path / "cut" / "checkpoints").mkdir(parents=True)
    first = "checkpoints/checkpoint_epoch_00001.pyth"
    shutil.copy(tmp_path / "whole" / first, tmp_path / "cut" / first)
    (tmp_path / "cut" / "checkpoints" / "checkpoint_epoch_00002.pyth").write_bytes(b"half a file")
    workers = ["DATA_LOADER.NUM_WORKERS", "2"]  # and what a sample is does not depend on who prepares it
    run(experiment, tmp_path / "cut", *random_parts, *workers, "TRAIN.EMA_DECAY", "0.9", stages=["train"])
    log = (tmp_path / "cut" / "log.txt").read_text()
    assert "checkpoint_epoch_00002.pyth is damaged" in log
    assert "1 of 2 epochs are done" in log
    assert torch.equal(weights(tmp_path / "cut"), weights(tmp_path / "whole"))
    assert not torch.equal(weights(tmp_path / "cut"), weights(trained))


@pytest.fixture(scope="module")
def trained_by_two(experiment):
    """The same run by the script in two processes of its own making, training alone."""
    out = experiment / "trained by two"
    command = [sys.executable, ROOT / "tools" / "train_net.py", "--cfg", experiment / "config.yaml"]
    done = subprocess.run(
        [
            *command,
            "--opts",
            "OUTPUT_DIR",
            out,
            "NUM_GPUS",
            "2",
            "DATA_LOADER.NUM_WORKERS",
            "1",
            "TENSORBOARD.ENABLE",
            "True",
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "json_stats: {" in done.stdout
    assert "wait=" not in done.stderr + done.stdout  # no progress bar where nobody watches
    return out


def test_two_processes_train_to_what_one_does(trained, trained_by_two):
    torch.testing.assert_close(weights(trained_by_two), weights(trained), rtol=0, atol=1e-5)
    assert not (trained_by_two / "test_results.json").exists()
    assert "2 process(es)" in (trained_by_two / "log.txt").read_text()


def test_a_run_ends_with_a_report_which_cannot_make_it_fail(experiment, trained, trained_by_two, tmp_path, capsys):
    page = (trained / "report.html").read_text()
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


def test_the_record_tells_the_command_also_where_processes_were_spawned(trained, trained_by_two):
    found = json.loads((trained_by_two / "environment.json").read_text())
    assert "train_net.py --cfg" in found["command"]
    assert found["processes"] == 2
    assert len(list((trained_by_two / "tensorboard").iterdir())) == 1  # of one process
    assert json.loads((trained / "environment.json").read_text())["packages"]["torch"]


def test_torchrun_trains_to_the_same(experiment, trained_by_two, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, ROOT / "tools" / "train_net.py", "--cfg", experiment / "config.yaml", "OUTPUT_DIR", tmp_path]
    environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(weights(tmp_path), weights(trained_by_two), rtol=0, atol=1e-6)
    assert "2 process(es)" in (tmp_path / "log.txt").read_text()


def test_sharded_weights_train_test_and_go_on_as_whole_ones(experiment, trained, tmp_path):
    sharded = ["TRAIN.STRATEGY", "fsdp", "TRAIN.SHARDED_CHECKPOINTS", "True", "NUM_GPUS", "2"]
    command = [sys.executable, ROOT / "tools" / "run_net.py", "--cfg", experiment / "config.yaml", *sharded]
    done = subprocess.run([*command, "OUTPUT_DIR", tmp_path], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    kept = tmp_path / "checkpoints"
    assert [path.name for path in find_checkpoints(kept)] == [
        "checkpoint_epoch_00001.dcp",
        "checkpoint_epoch_00002.dcp",
    ]
    found, expected = (json.loads((out / "stats.jsonl").read_text().splitlines()[2]) for out in (tmp_path, trained))
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


def test_leaving_the_unreadable_video_out_changes_the_denominator(experiment, trained, tmp_path):
    source = trained / "checkpoints" / "checkpoint_epoch_00001.pyth"
    run(experiment, tmp_path, "TEST.CHECKPOINT_FILE_PATH", str(source), "TEST.UNREADABLE", "exclude", stages=["test"])
    found = results(tmp_path)
    assert (found["num_videos"], len(found["skipped"]), found["top5_acc"]) == (5, 1, 100.0)
    assert found["checkpoint"] == str(source)


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
    stats = [json.loads(line) for line in (tmp_path / "stats.jsonl").read_text().splitlines()]
    told = [line["top1_acc"] for line in stats if line["_type"] == "val_epoch"]
    best = 1 + told.index(max(told))
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
    stats = [json.loads(line) for line in (tmp_path / "student" / "stats.jsonl").read_text().splitlines()]
    assert all(line["teacher_loss"] > 0 for line in stats if line["_type"] == "train_epoch")
    assert weights(tmp_path / "student").numel() < weights(trained).numel()  # the teacher is in no checkpoint
    for change, message in [
        (["DATA.NUM_FRAMES", "4"], "config.yaml and 4 here; make them the same"),
        (["DATA.TRAIN_CROP_SIZE", "16"], "but DATA.TRAIN_CROP_SIZE is 32 in "),
        (["DISTILL.CONFIG", str(tmp_path / "none.yaml")], "no config file at "),
        (["DISTILL.CHECKPOINT", str(tmp_path / "none.pyth")], "no checkpoint at "),
        (["DISTILL.CONFIG", str(tmp_path / "student" / "config.yaml")], "cannot be used"),
    ]:
        assert message in fails(capsys, experiment, tmp_path / "out", *small, *change, stages=["train"])


def test_a_run_whose_clips_grow_goes_on_from_within_an_epoch(experiment, tmp_path):
    cycle = ["MULTIGRID.LONG_CYCLE", "True", "MULTIGRID.LONG_CYCLE_FACTORS", "[[0.5, 1.0], [1.0, 1.0]]"]
    options = [*cycle, "TRAIN.CHECKPOINT_STEPS", "1", "TIMESFORMER.DROP_RATE", "0.2", "LOG_PERIOD", "1"]
    run(experiment, tmp_path / "whole", *options, stages=["train"])
    stats = [json.loads(line) for line in (tmp_path / "whole" / "stats.jsonl").read_text().splitlines()]
    steps = [(line["epoch"], line["step"], line["steps"]) for line in stats if line["_type"] == "train_iter"]
    assert steps == [(1, 1, 1), (2, 1, 3), (2, 2, 3), (2, 3, 3)]  # of 12 videos: 8 in a batch, then 4
    for left in ("checkpoint_epoch_00001_step_000002.pyth", "checkpoint_epoch_00001.pyth"):
        (tmp_path / left / "checkpoints").mkdir(parents=True)
        shutil.copy(tmp_path / "whole" / "checkpoints" / left, tmp_path / left / "checkpoints" / left)
        run(experiment, tmp_path / left, *options, stages=["train"])
        assert torch.equal(weights(tmp_path / left), weights(tmp_path / "whole"))


def test_each_stage_can_be_turned_off(experiment, tmp_path, capsys):
    said = fails(capsys, experiment, tmp_path, "TRAIN.ENABLE", "False", "TEST.ENABLE", "False")
    assert "nothing to do" in said
    assert "no checkpoint in" in fails(capsys, experiment, tmp_path, "TRAIN.ENABLE", "False")


def test_what_a_user_can_mend_is_said_in_one_line(experiment, trained, tmp_path, capsys):
    (tmp_path / "a file").touch()
    bad = tmp_path / "bad.pyth"
    bad.write_bytes(b"no checkpoint")
    for overrides, message in [
        (["SOLVER.BASE", "1"], "unknown key SOLVER.BASE on the command line; the nearest known key is SOLVER.BASE_LR"),
        (["MODEL.NUM_CLASSES", "4"], "classes.txt names 3 classes, but MODEL.NUM_CLASSES is 4"),
        (["DATA.PATH_TO_DATA_DIR", str(tmp_path)], "no train split"),
        (["TIMESFORMER.NUM_HEADS", "5"], "the config describes no model"),
        (["TRAIN.CHECKPOINT_FILE_PATH", str(bad)], "bad.pyth is damaged"),
        (["TRAIN.FREEZE", "['*']"], "TRAIN.FREEZE: nothing is left to learn"),
        (["TRAIN.MIXED_PRECISION", "True", "TRAIN.MIXED_PRECISION_DTYPE", "fp16"], "fp16 needs a GPU"),
        (["OUTPUT_DIR", str(tmp_path / "a file")], "cannot write to OUTPUT_DIR"),
        (["OUTPUT_DIR", str(trained), "TRAIN.AUTO_RESUME", "False"], "checkpoints of another run"),
        (
            ["SOLVER.BASE_LR", "1e30", "SOLVER.WARMUP_EPOCHS", "0", "SOLVER.MAX_SKIPPED_STEPS", "2"],
            "not finite in 2 step(s) in a row, up to epoch 1, step 3 of 3",
        ),
    ]:
        assert message in fails(capsys, experiment, tmp_path / "out", *overrides, stages=["train"])


def convert(monkeypatch, experiment, weights, to, out, *overrides):
    words = ["--cfg", experiment / "config.yaml", "--weights", weights, "--to", to, "--out", out, *overrides]
    tool = str(ROOT / "tools" / "convert_weights.py")
    monkeypatch.setattr(sys, "argv", [tool, *map(str, words)])
    runpy.run_path(tool, run_name="__main__")


@pytest.mark.parametrize(("to", "name"), [("official", "model.pyth"), ("huggingface", "model")])
def test_converted_weights_test_the_same_and_can_be_trained_on(
    experiment, trained, tmp_path, to, name, capsys, monkeypatch
):
    convert(monkeypatch, experiment, newest(trained), to, tmp_path / name)
    said = capsys.readouterr().out
    assert "21 of 21 tensors loaded as they are" in said
    assert "models attend densely, this one with {'joint': 'fibottention'" in said
    source = str(tmp_path / name)

    run(experiment, tmp_path / "same", "TEST.CHECKPOINT_FILE_PATH", source, stages=["test"])
    found, expected = results(tmp_path / "same"), results(trained)
    assert found["checkpoint"] == source
    assert found["per_class_acc"] == expected["per_class_acc"]
    same, before = (read_scores(folder / "test_scores.parquet") for folder in (tmp_path / "same", trained))
    np.testing.assert_array_equal(same.scores, before.scores)

    larger = ["DATA.NUM_FRAMES", "4", "DATA.TRAIN_CROP_SIZE", "48", "DATA.TEST_CROP_SIZE", "48"]
    larger += ["DATA.TRAIN_JITTER_SCALES", "[48, 52]", "TRAIN.CHECKPOINT_FILE_PATH", source]
    run(experiment, tmp_path / "larger", *larger)
    log = (tmp_path / "larger" / "log.txt").read_text()
    assert "resized: pos_embed: 1x5x24 -> 1x10x24, bicubic from 2x2 to 3x3" in log
    assert "resized: time_embed: 1x2x24 -> 1x4x24, nearest" in log
    assert results(tmp_path / "larger")["epoch"] == 2


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


def test_a_conversion_that_cannot_be_is_told_in_one_line(experiment, trained, tmp_path, monkeypatch):
    for weights, overrides, message in [
        (tmp_path / "gone.pyth", [], "no checkpoint at"),
        (newest(trained), ["TIMESFORMER.NUM_REGISTERS", "2"], "cannot hold a model with registers"),
        (newest(trained), ["TIMESFORMER.EMBED_DIM", "48"], "another model's"),
        (newest(trained), ["TIMESFORMER.EMBED_DIMS", "48"], "unknown key"),
    ]:
        with pytest.raises(SystemExit, match=f"^error: .*{message}"):
            convert(monkeypatch, experiment, weights, "official", tmp_path / "out.pyth", *overrides)
    assert not (tmp_path / "out.pyth").exists()


def test_labels_beyond_the_number_of_classes_are_named(experiment, tmp_path, capsys):
    (tmp_path / "train.csv").write_text("".join(f"train {i}.mp4 {i}\n" for i in range(5)))
    shutil.copy(experiment / "val.csv", tmp_path)
    where = ["DATA.PATH_TO_DATA_DIR", str(tmp_path), "DATA.PATH_PREFIX", str(experiment)]
    said = fails(capsys, experiment, tmp_path / "out", *where, stages=["train"])
    assert "the train split has label 4 (train 4.mp4), so MODEL.NUM_CLASSES must be at least 5; it is 3" in said


def test_lists_that_name_no_real_files_are_found_at_once(experiment, tmp_path, capsys):
    said = fails(capsys, experiment, tmp_path / "out", "DATA.PATH_PREFIX", str(tmp_path), stages=["train"])
    assert f"none of the first 12 videos of the train split exist, such as {tmp_path}/train 0.mp4" in said


def test_an_error_in_every_process_is_said_once(experiment, tmp_path):
    command = [sys.executable, ROOT / "tools" / "test_net.py", "--cfg", experiment / "config.yaml", "--num_shards", "1"]
    done = subprocess.run(
        [*command, "OUTPUT_DIR", tmp_path, "NUM_GPUS", "2"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if "error: " in line]
    assert said == [f"error: no checkpoint in {tmp_path}/checkpoints; train first, or set TEST.CHECKPOINT_FILE_PATH"]


def test_flips_of_classes_that_are_mirror_images_are_warned_of(experiment, tmp_path, capsys):
    for split in ("train", "val"):
        shutil.copy(experiment / f"{split}.csv", tmp_path)
    (tmp_path / "classes.txt").write_text("go left\ngo right\nstay\n")
    data = ["DATA.PATH_TO_DATA_DIR", str(tmp_path), "DATA.PATH_PREFIX", str(experiment)]
    with pytest.raises(SystemExit):
        run(experiment, tmp_path / "run", *data, "TRAIN.CHECKPOINT_FILE_PATH", "nowhere.pyth", stages=["train"])
    assert "'go left' and 'go right'; set DATA.RANDOM_FLIP False" in "".join(capsys.readouterr())


def test_videos_of_several_classes(experiment, tmp_path, capsys):
    """Every other video is of class 3 beside its colour, which training, validation and testing take in."""
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
    stats = [json.loads(line) for line in (tmp_path / "run" / "stats.jsonl").read_text().splitlines()]
    kinds = {entry["_type"]: entry for entry in stats}
    assert 0 < kinds["train_epoch"]["loss"] < 1.5
    assert "clip_top1_acc" not in kinds["train_epoch"]
    assert 0 < kinds["val_epoch"]["mAP"] <= 100
    results = json.loads((tmp_path / "run" / "test_results.json").read_text())
    assert results["mAP"] > 0
    assert list(results["per_class_ap"]) == ["0", "1", "2", "3"]
    assert [entry["video"] for entry in results["skipped"]] == ["broken.mp4"]
    saved = read_scores(tmp_path / "run" / "test_scores.parquet")
    assert saved.kind == "sigmoid"
    assert saved.labels.tolist()[:2] == [[1, 0, 0, 0], [0, 1, 0, 1]]
