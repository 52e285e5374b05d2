"""Runs of several tasks: each has its own data, classes, loss and results, and one model has them all."""

import json

import pytest
import torch

import videofib
from tests.commands import call
from tests.experiment import CLASSES, newest, results, run, stats, weights
from videofib.checkpoint.file import CheckpointError, load_checkpoint
from videofib.commands import predict, profile
from videofib.config import ConfigError
from videofib.data.loading.task_loader import TaskLoader, spread
from videofib.run.tasks import joined_figures

SPEEDS = ["slow", "fast"]
EXPERTS = ("EXPERTS.NUM", 4, "EXPERTS.EVERY", 1, "EXPERTS.ROUTING", "multi_gate")


@pytest.fixture(scope="module")
def tasks(experiment, tmp_path_factory):
    """Overrides for two tasks: the colour of a clip, and a second label of most of the same clips."""
    folder = tmp_path_factory.mktemp("speed")
    for split, count in {"train": 9, "val": 3, "test": 4}.items():
        rows = [f"{experiment / f'{split} {i}.mp4'} {i % 2}\n" for i in range(count)]
        (folder / f"{split}.csv").write_text("".join(rows))
    (folder / "classes.txt").write_text("\n".join(SPEEDS) + "\n")
    return (
        *("TASKS.NAMES", '["colour", "speed"]', "TASKS.DATA_DIRS", json.dumps([str(experiment), str(folder)])),
        *("TASKS.NUM_CLASSES", "[3, 2]", "DATA.PATH_TO_DATA_DIR", "", "MODEL.NUM_CLASSES", 400),
    )


@pytest.fixture(scope="module")
def finished(experiment, tasks, tmp_path_factory):
    return run(experiment, tmp_path_factory.mktemp("tasks") / "run", *tasks, *EXPERTS, "EXPERTS.Z_LOSS", 0.001)


def test_batches_are_spread_evenly_over_an_epoch():
    assert spread({"a": 4, "b": 2}) == list("abaaba")
    assert spread({"a": 3, "b": 3}) == list("ababab")
    assert spread({"a": 1, "b": 0, "c": 2}) == list("cac")


class Batches:
    """A loader of numbered batches."""

    def __init__(self, count):
        self.count, self.sampler, self.step, self.epoch = count, self, 0, 0

    def set_epoch(self, epoch, step=0):
        self.epoch, self.step = epoch, step

    def __len__(self):
        return self.count

    def __iter__(self):
        return iter([{"batch": (self.epoch, number)} for number in range(self.step, self.count)])


@pytest.mark.parametrize("step", range(8))
def test_an_epoch_resumes_with_the_very_next_batch(step):
    loader = TaskLoader({"a": Batches(5), "b": Batches(3)})
    loader.set_epoch(4)
    complete = list(loader)
    assert len(complete) == len(loader) == 8
    loader = TaskLoader({"a": Batches(5), "b": Batches(3)})
    loader.set_epoch(4, step)
    assert list(loader) == complete[step:]


def test_each_task_is_trained_validated_and_tested_on_its_own_data(finished):
    epoch = stats(finished, "train_epoch")[-1]
    assert {"loss_colour", "loss_speed", "clip_top1_acc_colour", "clip_top1_acc_speed", "balance", "z"} <= epoch.keys()
    assert "clip_top1_acc" not in epoch
    validation = stats(finished, "val_epoch")[-1]
    assert validation["num_videos_colour"] == validation["num_videos_speed"] == 3
    assert validation["top1_acc"] == pytest.approx((validation["top1_acc_colour"] + validation["top1_acc_speed"]) / 2)
    found = results(finished)
    assert found["tasks"] == ["colour", "speed"]
    assert (found["num_videos_colour"], found["num_videos_speed"]) == (6, 4)
    for task, names in (("colour", CLASSES), ("speed", SPEEDS)):
        own = results(finished / "tasks" / task)
        assert own["class_names"] == names
        assert own["top1_acc"] == found[f"top1_acc_{task}"]
        assert (finished / "tasks" / task / "test_scores.parquet").is_file()


def test_the_checkpoint_names_the_classes_of_each_task(finished):
    content = load_checkpoint(newest(finished))
    assert content["tasks"] == {"colour": CLASSES, "speed": SPEEDS}
    assert content["classes"] is None
    best = json.loads((finished / "checkpoints" / "best.json").read_text())
    assert best["metric"] == "top1_acc"
    assert [entry["figure"] for entry in best["epochs"]] == [line["top1_acc"] for line in stats(finished, "val_epoch")]


def test_one_task_of_a_run_is_loaded_and_predicts(finished, experiment):
    clip = experiment / "test 0.mp4"
    for task, names in (("colour", CLASSES), ("speed", SPEEDS)):
        saved = videofib.load(finished, task=task)
        assert list(saved.classes) == names
        assert {name for name, _ in saved.predict(clip)} == set(names)
        assert saved.features(clip).shape == (24,)
        scores = dict(saved.predict(clip, top=3))
        done = call(predict.main, [clip, "--model", finished, "--task", task, "--device", "cpu"], check=True).stdout
        assert max(scores, key=scores.get) in done
        with pytest.raises(CheckpointError, match="several tasks cannot be saved into a folder"):
            saved.save_pretrained(finished / "saved")
    with pytest.raises(ConfigError, match="has the tasks colour, speed: name one"):
        videofib.load(finished)
    with pytest.raises(ConfigError, match="has the tasks colour, speed: no task 'sped'"):
        videofib.load(finished, task="sped")


def test_a_model_of_one_task_has_no_other(trained):
    with pytest.raises(ConfigError, match="has one task without a name: no task 'colour'"):
        videofib.load(trained, task="colour")


def test_the_cost_is_that_of_one_task(finished):
    done = call(profile.main, ["--cfg", finished / "config.yaml"], check=True)
    assert "multiply-adds of a clip" in done.stdout


def test_a_run_interrupted_within_an_epoch_reaches_the_same_weights(experiment, tasks, finished, tmp_path, monkeypatch):
    monkeypatch.setattr("videofib.engine.train._save_within_epoch", _stop_after(2))
    with pytest.raises(SystemExit):
        run(experiment, tmp_path / "out", *tasks, *EXPERTS, "EXPERTS.Z_LOSS", 0.001, stages=["train"])
    monkeypatch.undo()
    run(experiment, tmp_path / "out", *tasks, *EXPERTS, "EXPERTS.Z_LOSS", 0.001, stages=["train"])
    assert torch.equal(weights(tmp_path / "out"), weights(finished))


def _stop_after(steps):
    """Saves the run within its first epoch and ends it, as a signal at that moment does."""
    from videofib.engine import train

    save = train._save_within_epoch

    def stopping(meter, recipe, checkpoints, stop, *, saving):
        return save(meter, recipe, checkpoints, lambda: meter.step >= steps, saving=saving)

    return stopping


def test_tasks_that_changed_are_refused(experiment, tasks, finished, tmp_path):
    other = [word.replace('"speed"', '"pace"') if isinstance(word, str) else word for word in tasks]
    done = call(lambda argv: run(experiment, finished, *other, *EXPERTS, "SOLVER.MAX_EPOCH", 3, stages=["train"]), [])
    assert done.returncode == 2
    log = (finished / "log.txt").read_text() if (finished / "log.txt").is_file() else done.stderr + done.stdout
    assert "was trained on the tasks [colour, speed], this run has [colour, pace]" in log


def test_figures_of_tasks_are_joined():
    joined = joined_figures(
        {"a": {"top1_acc": 50.0, "skipped": [], "loss": 2.0}, "b": {"top1_acc": 100.0, "loss": None}}
    )
    assert joined == {"top1_acc_a": 50.0, "loss_a": 2.0, "top1_acc_b": 100.0, "top1_acc": 75.0}
