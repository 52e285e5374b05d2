"""Training: what a step does, what a run logs, and that an interrupted run reaches the same weights."""

import json
import logging
import math
import shutil
import time
from dataclasses import replace
from functools import partial

import pytest
import torch
from timm.data import Mixup
from timm.utils import ModelEmaV3
from torch import nn

from tests.engine.in_memory import NUM_CLASSES, Loader, SavedPositions, TinyNet, make_videos
from videofib.checkpoint.file import START, Position, TrainingState
from videofib.checkpoint.manager import CheckpointManager, NoCheckpoints, best_checkpoint, find_checkpoints
from videofib.distributed import processes
from videofib.distributed.launch import launch
from videofib.engine.evaluate import evaluate
from videofib.engine.interrupt import InterruptedRun
from videofib.engine.objective import Supervised
from videofib.engine.optim import build_optimizer, lr_at
from videofib.engine.schedule import Schedule
from videofib.engine.step import Recipe, mix_clips
from videofib.engine.train import TrainingError, train
from videofib.tracking.log import close_logging, setup_logging


def constant_lr(epoch, lr=0.05):
    return lr


def make_run(batch_size=4, videos=12, views=1, drop=0.0, shuffle=True, failures=None, method="sgd", **options):
    """A model, a loader, an optimizer and a recipe."""
    model = TinyNet(drop=drop)
    loader = Loader(*make_videos(videos, views), range(videos), batch_size, shuffle=shuffle, failures=failures)
    groups = [{"params": list(model.parameters())}]
    optimizer = build_optimizer(groups, method, lr=0.0, momentum=0.9, nesterov=False)
    criterion = options.pop("criterion", None) or nn.CrossEntropyLoss()
    objective = Supervised(criterion, options.pop("distillation", None))
    recipe = Recipe(**{"lr_at": constant_lr, "objective": objective, **options})
    return model, loader, optimizer, recipe


def weights(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def run_train(model, loader, optimizer, recipe, epochs=2, *, checkpoints=None, validate=dict, **options):
    """Train, and return the weights; options are of ``train`` and of ``Schedule``."""
    of_train = {name: options.pop(name) for name in ("start", "stop") if name in options}
    schedule, checkpoints = Schedule(epochs, **options), checkpoints or NoCheckpoints()
    train(model, loader, optimizer, recipe, schedule, checkpoints=checkpoints, validate=validate, **of_train)
    return weights(model)


@pytest.fixture
def log(tmp_path):
    setup_logging(tmp_path)
    yield tmp_path
    close_logging()


def read_stats(folder):
    return [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]


def test_training_learns():
    model, loader, optimizer, recipe = make_run(batch_size=6, videos=48)
    before = evaluate(model, loader, view_batch_size=8)[0]["top1_acc"]
    run_train(model, loader, optimizer, recipe, epochs=8)
    assert before < 60
    assert evaluate(model, loader, view_batch_size=8)[0]["top1_acc"] > 95


@pytest.mark.parametrize(("checkpoint_steps", "accumulation"), [(0, 1), (1, 1), (2, 2)])
@pytest.mark.parametrize("mixed", [False, True])
def test_an_interrupted_run_reaches_the_same_weights(tmp_path, log, mixed, checkpoint_steps, accumulation):
    def parts():
        mix = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, num_classes=NUM_CLASSES) if mixed else None
        model, loader, optimizer, recipe = make_run(drop=0.5, videos=20, mix=mix, accumulation=accumulation)
        ema = ModelEmaV3(model, decay=0.9)
        return model, loader, optimizer, replace(recipe, ema=ema), ema

    class Killed(CheckpointManager):
        until = None

        def save(self, position):
            super().save(position)
            if (position.epoch, position.step) == self.until:
                raise InterruptedError

    def run(parts, until=None):
        model, loader, optimizer, recipe, ema = parts
        checkpoints = Killed(tmp_path / "kept", TrainingState(model, optimizer, ema=ema.module))
        checkpoints.until = until
        resumed = checkpoints.resume()
        start = resumed.position if resumed else START
        options = {"start": start, "seed": 7, "checkpoint_steps": checkpoint_steps, "log_period": 2}
        run_train(model, loader, optimizer, recipe, epochs=4, checkpoints=checkpoints, **options)
        return (start.epoch, start.step)

    undisturbed = parts()
    run(undisturbed)
    expected = read_stats(log)
    shutil.rmtree(tmp_path / "kept")
    until = (2, {0: 0, 1: 3, 2: 2}[checkpoint_steps])
    with pytest.raises(InterruptedError):
        run(parts(), until)
    torch.rand(3)  # random numbers drawn in between do not matter

    resumed = parts()
    assert run(resumed) == until
    assert torch.equal(weights(resumed[0]), weights(undisturbed[0]))
    assert torch.equal(weights(resumed[4].module), weights(undisturbed[4].module))
    for found, line in zip(read_stats(log)[-7:], expected[-7:], strict=True):  # the figures of epochs continue, too
        assert all(
            found[key] == line[key]
            for key in line
            if key not in ("clips_per_second", "data_wait", "memory_gib", "seconds", "eta")
        )
    for line in read_stats(log):  # an epoch's clips over its seconds, those before it was interrupted among them
        if line["_type"] == "train_epoch":
            assert line["clips_per_second"] * line["seconds"] == pytest.approx(20, abs=0.1)
    other_seed = parts()
    run_train(*other_seed[:4], epochs=4, seed=8)
    assert not torch.equal(weights(other_seed[0]), weights(undisturbed[0]))


def test_a_checkpoint_that_does_not_fit_the_epoch_is_refused():
    with pytest.raises(TrainingError, match=r"from step 3 of an epoch that now has 3; resume with the batch size"):
        run_train(*make_run(), start=Position(0, 3, [{}]))
    with pytest.raises(TrainingError, match=r"cannot be resumed from within an epoch: .*generators"):
        run_train(*make_run(), start=Position(0, 2, [{}]))


def test_another_number_of_processes_resumes_with_the_same_videos(caplog):
    seen = []
    model, loader, optimizer, recipe = make_run(batch_size=2)
    loader.shuffle = False
    model.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    run_train(model, loader, optimizer, recipe, epochs=1, start=Position(0, 4, [{}, {}]))
    assert seen == [2, 2]
    assert "is of 2 process(es), this run of 1" in caplog.text


def test_accumulated_batches_take_the_step_of_one_large_batch():
    # 10 clips: four batches of two, then one more, against a batch of eight and one of two
    accumulated = run_train(*make_run(batch_size=2, videos=10, accumulation=4))
    at_once = run_train(*make_run(batch_size=8, videos=10))
    torch.testing.assert_close(accumulated, at_once, rtol=0, atol=1e-6)
    assert not torch.allclose(accumulated, run_train(*make_run(batch_size=2, videos=10)), atol=1e-3)


@pytest.mark.parametrize("mixed", [False, True])
def test_views_of_a_video_are_clips_of_its_label(log, mixed):
    def mix():
        return Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, num_classes=NUM_CLASSES) if mixed else None

    repeated = make_run(batch_size=4, views=2, shuffle=False, mix=mix())
    alone = make_run(batch_size=8, videos=24, shuffle=False, mix=mix())
    loader = repeated[1]
    alone[1].views, alone[1].labels = loader.views.flatten(0, 1).unsqueeze(1), loader.labels.repeat_interleave(2)
    assert torch.equal(run_train(*repeated), run_train(*alone))
    epochs = [line for line in read_stats(log) if line["_type"] == "train_epoch"]
    for one, other in zip(epochs[:2], epochs[2:], strict=True):
        assert one["loss"] == other["loss"]
        assert one.get("clip_top1_acc") == other.get("clip_top1_acc")
        assert [round(line["clips_per_second"] * line["seconds"], 1) for line in (one, other)] == [24, 24]


def test_the_learning_rate_follows_the_fractional_epoch():
    moments = []
    schedule = partial(lr_at, base_lr=0.1, policy="cosine", max_epoch=2)

    def recorded(epoch):
        moments.append(epoch)
        return schedule(epoch)

    model, loader, optimizer, recipe = make_run(batch_size=3, lr_at=recorded)
    run_train(model, loader, optimizer, recipe)
    assert moments == [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5, 1.75]
    assert optimizer.param_groups[0]["lr"] == pytest.approx(schedule(1.75))


def test_clipping_bounds_the_step():
    model, loader, optimizer, recipe = make_run(batch_size=12, clip_grad_norm=0.01)
    before = weights(model)
    after = run_train(model, loader, optimizer, recipe, epochs=1)
    assert (after - before).norm().item() == pytest.approx(0.05 * 0.01, rel=1e-3)


def test_a_moving_average_follows_the_weights():
    model, loader, optimizer, recipe = make_run(batch_size=12)
    ema = ModelEmaV3(model, decay=0.75)
    before = weights(model)
    after = run_train(model, loader, optimizer, Recipe(recipe.lr_at, recipe.objective, ema=ema), epochs=1)
    torch.testing.assert_close(weights(ema.module), 0.75 * before + 0.25 * after)


def test_bf16_runs_the_model_in_bf16_and_keeps_float32_weights():
    model, loader, optimizer, recipe = make_run(amp_dtype=torch.bfloat16)
    seen = []
    model.head.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    after = run_train(model, loader, optimizer, recipe)
    assert set(seen) == {torch.bfloat16}
    assert after.dtype == torch.float32
    torch.testing.assert_close(after, run_train(*make_run()), rtol=0, atol=0.05)


def test_loss_scaling_does_not_change_the_step():
    scaled = run_train(*make_run(scaler=torch.amp.GradScaler("cpu", init_scale=1024.0), clip_grad_norm=0.1))
    torch.testing.assert_close(scaled, run_train(*make_run(clip_grad_norm=0.1)), rtol=0, atol=1e-6)


def test_a_step_whose_gradients_overflow_is_skipped_and_the_scale_lowered():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    model, loader, optimizer, recipe = make_run(batch_size=12, scaler=scaler)
    before = weights(model)
    assert torch.equal(run_train(model, loader, optimizer, recipe, epochs=1), before)
    assert scaler.get_scale() == 2.0**126


EVERY_OPTIMIZER = pytest.mark.parametrize("method", ["sgd", "adamw", "lamb", "lion"])


@EVERY_OPTIMIZER
@pytest.mark.parametrize("batch", [0, 1])  # also the first of all, when there are no moments yet
def test_a_gradient_that_is_not_finite_is_skipped_and_counted(log, method, batch):
    model, loader, optimizer, recipe = make_run(batch_size=4, shuffle=False, method=method)
    recipe = replace(recipe, ema=ModelEmaV3(model, decay=0.5))
    loader.views[4 * batch + 1].fill_(math.nan)  # one video of one of three batches
    run_train(model, loader, optimizer, recipe, epochs=12)
    lines = [line for line in read_stats(log) if line["_type"] == "train_epoch"]
    assert [line["skipped_steps"] for line in lines] == [1] * 12  # more than max_skipped, but never in a row
    assert all(math.isfinite(line["loss"]) for line in lines)

    expected = make_run(batch_size=4, shuffle=False, method=method)
    expected[1].order = [video for video in range(12) if video // 4 != batch]
    ema = ModelEmaV3(expected[0], decay=0.5)
    assert torch.equal(run_train(*expected[:3], replace(expected[3], ema=ema), epochs=12), weights(model))
    assert torch.equal(weights(recipe.ema.module), weights(ema.module))  # as if the batch had not been


def test_too_many_skipped_steps_in_a_row_end_the_run_and_are_located():
    model, loader, optimizer, recipe = make_run(batch_size=4, shuffle=False, max_skipped=5)
    saved = SavedPositions()
    loader.set_epoch = lambda epoch, step: loader.views.fill_(math.nan) if epoch == 1 else None
    message = r"not finite in 5 step\(s\) in a row, up to epoch 3, step 2 of 3 \(loss nan, learning rate 0\.05\)"
    with pytest.raises(TrainingError, match=message):
        run_train(model, loader, optimizer, recipe, epochs=5, checkpoints=saved)
    assert saved.positions == [Position(1), Position(2)]
    assert weights(model).isfinite().all()


def fp16_scaler():
    return torch.amp.GradScaler("cpu", init_scale=1024.0)


@EVERY_OPTIMIZER
@pytest.mark.parametrize("make_scaler", [lambda: None, fp16_scaler])
def test_after_too_many_skipped_steps_nothing_changes_until_the_run_notices(method, make_scaler):
    def parts(order):
        model, loader, optimizer, recipe = make_run(batch_size=1, shuffle=False, method=method, max_skipped=3)
        loader.order = order
        return model, loader, optimizer, replace(recipe, ema=ModelEmaV3(model, decay=0.5), scaler=make_scaler())

    run = parts(list(range(12)))
    run[1].views[2:5].fill_(math.nan)  # and the batches after these are good ones
    message = r"in 3 step\(s\) in a row, up to epoch 1, step 5 of 12 \(loss nan, learning rate 0\.05\)"
    with pytest.raises(TrainingError, match=message):
        run_train(*run, epochs=1, log_period=12)
    expected = parts([0, 1])
    assert torch.equal(weights(run[0]), run_train(*expected, epochs=1))
    assert torch.equal(weights(run[3].ema.module), weights(expected[3].ema.module))


def test_a_run_that_has_failed_is_not_saved():
    run, saved = make_run(batch_size=1, shuffle=False, max_skipped=3), SavedPositions()
    run[1].views[2:5].fill_(math.nan)
    with pytest.raises(TrainingError, match=r"step 5 of 12"):
        run_train(*run, epochs=1, log_period=12, checkpoint_steps=2, checkpoints=saved)
    assert [(position.epoch, position.step) for position in saved.positions] == [(0, 2), (0, 4)]


class InfiniteSlope(nn.Module):
    def forward(self, logits, labels):
        return logits.abs().mean().sqrt() + (logits * 0).abs().sqrt().sum()  # the slope of sqrt at 0 is infinite


def test_a_finite_loss_may_have_a_gradient_that_is_not():
    model, loader, optimizer, recipe = make_run(criterion=InfiniteSlope(), max_skipped=1)
    before = weights(model)
    with pytest.raises(TrainingError, match=r"up to epoch 1, step 1 of 3 \(loss 0\.\d+"):
        run_train(model, loader, optimizer, recipe)
    assert torch.equal(weights(model), before)


@pytest.mark.parametrize(("asked", "saved_at"), [(2, (0, 2)), (3, (1, 0)), (4, (1, 1))])
def test_a_run_that_is_asked_to_stop_saves_its_position(asked, saved_at):
    undisturbed = make_run(drop=0.5)
    run_train(*undisturbed, epochs=3)
    parts, saved, steps = make_run(drop=0.5), SavedPositions(), []
    parts[0].register_forward_hook(lambda *args: steps.append(1))
    with pytest.raises(InterruptedRun, match="stopped on request after epoch"):
        run_train(*parts, epochs=3, checkpoints=saved, log_period=1, stop=lambda: len(steps) >= asked)
    assert len(steps) == asked
    assert (saved.positions[-1].epoch, saved.positions[-1].step) == saved_at
    run_train(*parts, epochs=3, start=saved.positions[-1])
    assert torch.equal(weights(parts[0]), weights(undisturbed[0]))


def test_a_run_asked_to_stop_between_optimizer_steps_stops_after_the_next_one():
    saved = SavedPositions()
    with pytest.raises(InterruptedRun, match="after epoch 1, step 2 of 6"):
        run_train(*make_run(batch_size=2, accumulation=2), log_period=3, checkpoints=saved, stop=lambda: True)
    assert [(position.epoch, position.step) for position in saved.positions] == [(0, 2)]


def test_workers_end_before_the_last_validation():
    run, closed = make_run(), []
    run[1].closed = False
    run_train(*run, epochs=2, validate=lambda: closed.append(run[1].closed) or {})
    assert closed == [False, True]


def test_saving_and_validating_follow_their_periods_and_the_last_epoch():
    saved, validated = SavedPositions(), []
    run_train(
        *make_run(),
        epochs=5,
        checkpoints=saved,
        checkpoint_period=2,
        validate=lambda: validated.append(len(saved.positions)) or {},
        eval_period=3,
    )
    assert saved.positions == [Position(2), Position(4), Position(5)]
    assert validated == [1, 3]  # after epochs 3 and 5, each time after saving


def run_with_best(folder, parts, accuracies, epochs=None, **options):
    """Resume, train an epoch for each accuracy that validation is to find, and return the epochs that stay saved."""
    model, loader, optimizer, recipe = parts
    checkpoints = CheckpointManager(folder, TrainingState(model, optimizer), metric="top1_acc")
    resumed = checkpoints.resume()
    start = resumed.position if resumed else START
    outcomes = iter(accuracies)
    run_train(
        model,
        loader,
        optimizer,
        recipe,
        epochs=epochs or start.epoch + len(accuracies),
        start=start,
        checkpoints=checkpoints,
        validate=lambda: {"top1_acc": next(outcomes)},
        **options,
    )
    return [int(path.stem.removeprefix("checkpoint_epoch_")) for path in find_checkpoints(folder)]


def test_the_best_epoch_is_kept_whatever_the_period(tmp_path):
    left = run_with_best(tmp_path, make_run(), [10.0, 30.0, 20.0, 25.0, 40.0, 40.0], checkpoint_period=4)
    assert left == [4, 5, 6]
    assert best_checkpoint(tmp_path).name == "checkpoint_epoch_00005.pyth"


def test_a_validation_that_was_cut_off_is_done_first_by_the_resumed_run(tmp_path, log):
    parts = make_run()
    with pytest.raises(StopIteration):
        run_with_best(tmp_path, parts, [10.0, 90.0], epochs=4)  # ends in the validation after epoch 3
    left = run_with_best(tmp_path, parts, [95.0, 80.0], epochs=4)
    assert left == [1, 2, 3, 4]
    assert best_checkpoint(tmp_path).name == "checkpoint_epoch_00003.pyth"
    logged = [(line["epoch"], line["top1_acc"]) for line in read_stats(log) if line["_type"] == "val_epoch"]
    assert logged == [(1, 10), (2, 90), (3, 95), (4, 80)]
    run_with_best(tmp_path, parts, [], epochs=4)  # nothing is left to do
    assert read_stats(log)[-1]["epoch"] == 4
    assert len(read_stats(log)) == 8


def test_figures_are_logged(log):
    run_train(*make_run(batch_size=2), log_period=4, validate=lambda: {"top1_acc": 12.5})
    stats = read_stats(log)
    assert [line["_type"] for line in stats] == ["train_iter", "train_epoch", "val_epoch"] * 2
    step, epoch, val = stats[-3:]
    assert (step["epoch"], step["epochs"], step["step"], step["steps"]) == (2, 2, 4, 6)
    assert step["lr"] == 0.05
    assert step["eta"] == "0:00:00"
    assert 0 < epoch["loss"] < stats[1]["loss"]
    assert 0 <= epoch["clip_top1_acc"] <= 100
    assert val == {"_type": "val_epoch", "epoch": 2, "epochs": 2, "top1_acc": 12.5}


class SlowToCome(Loader):
    def __iter__(self):
        for batch in super().__iter__():
            time.sleep(0.2)
            yield batch


@pytest.mark.parametrize(("kind", "low", "high"), [(Loader, 0, 0.3), (SlowToCome, 0.4, 1)])
def test_the_time_spent_waiting_for_data_is_logged(log, kind, low, high):
    model, loader, optimizer, recipe = make_run()
    loader.__class__ = kind
    model.register_forward_hook(lambda *args: time.sleep(0.05))
    run_train(model, loader, optimizer, recipe, epochs=1, log_period=1)
    *steps, epoch = [line for line in read_stats(log) if line["_type"].startswith("train")]
    assert low <= epoch["data_wait"] <= high
    assert low <= steps[-1]["data_wait"] <= high
    assert 0.05 < epoch["memory_gib"] < 64


def test_replaced_videos_are_counted_and_named(log):
    run_train(*make_run(failures={"v3.mp4": "no video stream", "v5.mp4": "truncated"}), epochs=3)
    lines = [line for line in read_stats(log) if line["_type"] == "train_epoch"]
    assert [line["replaced_videos"] for line in lines] == [2, 2, 2]
    file = log / "unreadable_train.txt"
    said = "epoch 1: 2 unreadable videos were replaced: v3.mp4 (no video stream), and 1 more; all are listed in "
    assert (log / "log.txt").read_text().count(f"{said}{file}\n") == 1
    assert file.read_text() == "v3.mp4: no video stream\nv5.mp4: truncated\n"


def test_mixing_treats_all_frames_of_a_clip_the_same_way():
    zeros_and_ones = torch.tensor([0.0, 1.0])[:, None, None, None, None].expand(2, 3, 5, 8, 8)
    labels = torch.tensor([0, 2])
    torch.manual_seed(0)
    seen = set()
    for _ in range(10):
        cutmix = Mixup(mixup_alpha=0.0, cutmix_alpha=1.0, num_classes=NUM_CLASSES, label_smoothing=0.0)
        clips, soft = mix_clips(cutmix, zeros_and_ones.clone(), labels)
        assert clips.shape == zeros_and_ones.shape
        assert (clips == clips[:, :1, :1]).all()  # the same box in every channel and frame
        mixed = clips[0, 0, 0].mean()
        torch.testing.assert_close(soft[0], torch.stack([1 - mixed, torch.tensor(0.0), mixed]))
        seen.add(round(mixed.item(), 3))
    assert len(seen) > 3


def test_mixing_an_odd_number_of_clips_is_refused():
    with pytest.raises(ValueError, match="must be even; got 3"):
        mix_clips(Mixup(num_classes=NUM_CLASSES), torch.zeros(3, 3, 2, 4, 4), torch.tensor([0, 1, 2]))


def train_part(folder):
    """Six steps whose batches of four, over all processes, are the same for any number of them."""
    setup_logging(folder, processes.rank())
    rank, world = processes.rank(), processes.world_size()
    model, loader, optimizer, recipe = make_run(
        batch_size=4 // world, accumulation=2, shuffle=False, failures={"v3.mp4": "truncated", "v4.mp4": "gone"}
    )
    loader.order = list(range(rank, 12, world))
    run_train(model, loader, optimizer, recipe)
    logging.shutdown()


def test_two_processes_log_the_figures_of_one(tmp_path):
    for count in (1, 2):
        (tmp_path / str(count)).mkdir()
        launch(train_part, (tmp_path / str(count),), processes=count)
    close_logging()
    alone, together = (read_stats(tmp_path / name)[-2] for name in ("1", "2"))
    for key in ("epoch", "loss", "clip_top1_acc", "replaced_videos"):
        assert together[key] == pytest.approx(alone[key], abs=1e-4)
    assert (
        "2 unreadable videos were replaced: v3.mp4 (truncated), and 1 more" in (tmp_path / "2" / "log.txt").read_text()
    )
    assert "v4.mp4" in (tmp_path / "2" / "unreadable_train.txt").read_text()
