"""Training ends once validation has found nothing better for a while, also where it was killed on the way."""

import itertools
import json
from functools import partial

import pytest
import torch

from tests.engine.test_train import make_run, run_train
from videofib.checkpoint.best import RECORD
from videofib.checkpoint.file import START, TrainingState
from videofib.checkpoint.manager import CheckpointManager, find_checkpoints, latest_checkpoint
from videofib.distributed import processes
from videofib.distributed.launch import launch
from videofib.engine.interrupt import InterruptedRun
from videofib.engine.schedule import Schedule
from videofib.engine.train import has_work
from videofib.tracking.log import close_logging, setup_logging

# what validation finds after each epoch; equal is not better, and nan is no figure
ACCURACIES = [10.0, 30.0, 30.0, 20.0, 35.0, float("nan"), 35.0, 34.0, 90.0, 91.0]
ENDS = {1: 3, 2: 4, 3: 8, 4: 10, 0: 10}  # patience -> epochs, counted by hand


class Killed(Exception):
    """As SIGKILL: nothing is saved after it."""


def begin(folder, parts, patience, **periods):
    """The schedule of ten epochs, the checkpoints, and the position of the newest."""
    model, _, optimizer, _ = parts
    checkpoints = CheckpointManager(folder, TrainingState(model, optimizer), metric="top1_acc")
    resumed = checkpoints.resume()
    schedule = Schedule(len(ACCURACIES), patience=patience, **periods)
    return schedule, checkpoints, resumed.position if resumed else START


def train_on(folder, parts, patience, *, dies=lambda when, epoch: False, stop=lambda: False, **periods):
    """Resume and train; ``dies`` is asked before and after each validation. Returns the epochs that were validated."""
    schedule, checkpoints, start = begin(folder, parts, patience, **periods)
    validated, record = [], checkpoints.validated

    def validate():
        epoch = latest_validated() + 1
        if dies("before", epoch):
            raise Killed
        return {"top1_acc": ACCURACIES[epoch * schedule.eval_period - 1]}

    def latest_validated():
        return max([start_validations, *(epoch // schedule.eval_period for epoch in validated)])

    def recorded(epoch, figures):
        record(epoch, figures)
        validated.append(epoch)
        if dies("after", epoch):
            raise Killed

    awaiting = start.epoch > 0 and not start.step and checkpoints.awaits_validation(start.epoch)
    start_validations = start.epoch // schedule.eval_period - awaiting
    checkpoints.validated = recorded
    options = {"start": start, "stop": stop, "patience": patience, **periods}
    run_train(*parts, epochs=schedule.epochs, checkpoints=checkpoints, validate=validate, **options)
    return validated


def newest(folder):
    path, content = latest_checkpoint(folder)
    return path.name, torch.cat([value.flatten() for value in content["model_state"].values()])


@pytest.mark.parametrize("patience", ENDS)
def test_it_ends_after_so_many_validations_without_a_better_one(tmp_path, patience):
    assert train_on(tmp_path, make_run(), patience) == list(range(1, ENDS[patience] + 1))
    assert newest(tmp_path)[0] == f"checkpoint_epoch_{ENDS[patience]:05d}.pyth"
    assert train_on(tmp_path / "calm", make_run(), 0) == list(range(1, 11))


def test_validations_count_and_not_epochs_and_the_last_epoch_is_saved_whatever_the_period(tmp_path):
    # after epochs 2, 4, 6, ...: 30, 20, nan, 34
    assert train_on(tmp_path, make_run(), 2, eval_period=2, checkpoint_period=5) == [2, 4, 6]
    saved = [path.name for path in find_checkpoints(tmp_path)]
    assert saved == [f"checkpoint_epoch_{epoch:05d}.pyth" for epoch in (2, 5, 6)]


@pytest.mark.parametrize("period", [1, 3])
def test_a_run_that_is_killed_anywhere_ends_at_the_same_epoch_with_the_same_weights(tmp_path, period):
    patience, last = 3, ENDS[3]
    make = partial(make_run, drop=0.3)
    train_on(tmp_path / "calm", make(), patience, checkpoint_period=period)
    expected = newest(tmp_path / "calm")
    for number, where in enumerate(itertools.product(("before", "after"), range(1, last + 1))):
        folder = tmp_path / str(number)
        with pytest.raises(Killed):
            train_on(folder, make(), patience, dies=lambda *now, where=where: now == where, checkpoint_period=period)
        assert train_on(folder, make(), patience, checkpoint_period=period)[-1:] in ([last], [])
        name, weights = newest(folder)
        assert name == expected[0], where
        assert torch.equal(weights, expected[1]), where
        entries = json.loads((folder / RECORD).read_text())["epochs"]
        assert [entry["epoch"] for entry in entries] == list(range(1, last + 1)), where


def test_a_run_that_ended_early_has_nothing_to_do_and_more_patience_lets_it_train_on(tmp_path):
    train_on(tmp_path, make_run(), 2)
    for patience, work in ((2, False), (1, False), (3, True), (0, True)):
        parts = make_run()
        schedule, checkpoints, start = begin(tmp_path, parts, patience)
        assert has_work(parts[1], schedule, checkpoints, start) is work
    assert train_on(tmp_path, make_run(), 3) == [5, 6, 7, 8]


def test_a_stop_within_an_epoch_is_finished_even_with_less_patience(tmp_path):
    parts = make_run()
    asked = iter([False] * 10 + [True] * 100)
    with pytest.raises(InterruptedRun):
        train_on(tmp_path, parts, 0, stop=lambda: next(asked))
    _, content = latest_checkpoint(tmp_path)
    assert (content["epoch"], content["step"]) == (3, 2)
    assert train_on(tmp_path, make_run(), 1) == [4]


def work(folder):
    """Each process trains and logs; only the first keeps the record of what was best."""
    setup_logging(folder, processes.rank())
    rank, world = processes.rank(), processes.world_size()
    parts = make_run(batch_size=4 // world, shuffle=False)
    parts[1].order = list(range(rank, 12, world))
    validated = train_on(folder / "checkpoints", parts, 2)
    everywhere = processes.all_gather(validated)
    schedule, checkpoints, start = begin(folder / "checkpoints", parts, 2)
    idle = processes.all_gather(has_work(parts[1], schedule, checkpoints, start))
    if processes.is_main():
        (folder / "found.json").write_text(json.dumps([everywhere, idle, start.epoch]))


def test_several_processes_end_together(tmp_path):
    launch(work, (tmp_path,), processes=2)
    close_logging()
    assert json.loads((tmp_path / "found.json").read_text()) == [[[1, 2, 3, 4]] * 2, [False] * 2, 4]
    said = "training ends early, after 4 of 10 epochs: the last 2 validation(s) found nothing better (TRAIN.PATIENCE)"
    assert (tmp_path / "log.txt").read_text().count(said) == 1
