"""Training, as a story: epochs, steps, and the figures that are logged.

B clips of a batch (of one process: V views of each of its videos), C T H W channels, frames, height, width;
K classes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NoReturn

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from tqdm import tqdm

from videofib.checkpoint.file import START, Position
from videofib.distributed import processes
from videofib.distributed.fsdp import gradients_averaged
from videofib.distributed.mesh import data_rank, data_size, one_per_data_rank
from videofib.engine.freezing import set_train_mode
from videofib.engine.interrupt import InterruptedRun
from videofib.engine.meter import Meter
from videofib.engine.optim import start_momentum
from videofib.engine.randomness import generator_states, restore_generators, seed_everything
from videofib.engine.schedule import Checkpoints, Schedule, awaits_validation, ends_early
from videofib.engine.shared_batches import BatchLoader
from videofib.engine.step import Recipe, mix_clips, optimizer_step, set_lr
from videofib.tracking.log import log_stats

logger = logging.getLogger(__name__)


class TrainingError(RuntimeError):
    """Training cannot continue; the message says at which epoch and step, and why."""


def train(
    model: nn.Module,
    loader: BatchLoader,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    schedule: Schedule,
    *,
    checkpoints: Checkpoints,
    validate: Callable[[], dict],
    start: Position = START,
    stop: Callable[[], bool] = lambda: False,
    mesh: DeviceMesh | None = None,
) -> None:
    """Train ``model`` in place, from ``start`` up to ``schedule.epochs``, or until ``schedule.patience`` is exhausted.

    A run resumed from any position that was saved reaches the weights that it would have reached undisturbed.

    Args:
        model: what the recipe's objective trains, usually (B, C, T, H, W) -> logits (B, K), on its device; the same
            weights in every process, or their shards (``distributed.fsdp``).
        loader: batches of this process, with ``sampler.set_epoch(epoch, step)`` and ``close()``; equally many in every
            process.
        checkpoints: saves the run at the end of an epoch before validation (which may fail), and is given what
            validation found.
        validate: called in all processes, returns figures to log; it may raise InterruptedRun, in all of them.
        stop: asked where figures are logged or the run is saved, and at the end of an epoch; by a single process at
            every optimizer step. Once it is true in any process, the run is saved and ends.
        mesh: of the processes (``distributed.mesh``), as the model and the loader have it.

    Raises:
        TrainingError: too many gradients in a row are not finite, or ``start`` holds no usable state.
        InterruptedRun: ``stop`` was true.
    """
    replica = processes.replicate(model)
    start_momentum(optimizer)
    meter = None
    if awaits_validation(start, schedule, checkpoints):
        _validate(start.epoch, schedule, validate, checkpoints)
    if ends_early(start, schedule, checkpoints):
        _log_early_end(start.epoch, schedule)
        return
    for epoch in range(start.epoch, schedule.epochs):
        position = start if epoch == start.epoch else Position(epoch)
        loader.sampler.set_epoch(epoch, position.step)  # first, since epochs may differ in length
        meter = _start_epoch(model, schedule, len(loader), position, meter, mesh, recipe.objective.parts)
        train_epoch(model, replica, loader, optimizer, recipe, schedule, meter, checkpoints, stop)
        if epoch + 1 == schedule.epochs:
            loader.close()  # its workers have nothing to do in the last validation
        _check_gradients(meter, recipe)
        stats = meter.epoch_figures()
        if processes.is_main():
            log_stats({"_type": "train_epoch", **stats})
        stopping = processes.any_process(stop()) and epoch + 1 < schedule.epochs
        if stopping or schedule.saves_after(epoch + 1):
            checkpoints.save(Position(epoch + 1))
        if stopping:
            _interrupt(f"epoch {epoch + 1}")
        if schedule.validates_after(epoch + 1):
            saved = schedule.saves_after(epoch + 1)
            _validate(epoch + 1, schedule, validate, checkpoints, saved=saved)
            if ends_early(Position(epoch + 1), schedule, checkpoints):
                if not saved:
                    checkpoints.save(Position(epoch + 1))
                _log_early_end(epoch + 1, schedule)
                return


def has_work(loader: BatchLoader, schedule: Schedule, checkpoints: Checkpoints, start: Position) -> bool:
    """Whether ``train`` would do anything from this position on; all processes call it, and get the same answer.

    Raises:
        TrainingError: it would have to begin at a step that the epoch does not have.
    """
    if start.epoch < schedule.epochs:
        loader.sampler.set_epoch(start.epoch, start.step)
        _check_step(start, len(loader))
        return awaits_validation(start, schedule, checkpoints) or not ends_early(start, schedule, checkpoints)
    return awaits_validation(start, schedule, checkpoints)


def _log_early_end(epochs_done: int, schedule: Schedule) -> None:
    if processes.is_main():
        logger.info(
            "training ends early, after %d of %d epochs: the last %d validation(s) found nothing better "
            "(TRAIN.PATIENCE)",
            *(epochs_done, schedule.epochs, schedule.patience),
        )


def train_epoch(
    model: nn.Module,
    replica: nn.Module,
    loader: BatchLoader,
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    schedule: Schedule,
    meter: Meter,
    checkpoints: Checkpoints,
    stop: Callable[[], bool],
) -> None:
    """Train on the batches of an epoch that are left, counted by ``meter``.

    The host waits for the device only where figures are logged and where the run is saved, and asks there whether to
    stop. ``replica`` is ``model``, wrapped where several processes share the work and each has all weights.
    """
    set_train_mode(model)
    device = next(model.parameters()).device
    saved, asking = meter.step, False
    alone = processes.world_size() == 1  # several would have to wait for each other to agree
    progress = tqdm(
        meter.timed(loader),
        desc=f"epoch {meter.epoch + 1}/{meter.epochs}",
        total=meter.steps,
        initial=meter.step,
        unit="batch",
        leave=False,
        disable=None if processes.is_main() else True,  # None: where the output is not a terminal
    )
    for step, batch in enumerate(progress, start=meter.step):
        clips, labels = _to_device(batch, device)
        targets = labels
        if recipe.mix:
            clips, targets = mix_clips(recipe.mix, clips, labels)

        # the last group of batches is smaller where accumulation does not divide their number: no clip is dropped
        index = step % recipe.accumulation
        group = min(recipe.accumulation, meter.steps - step + index)
        completes_group = index == group - 1
        if index == 0:
            meter.lr = set_lr(optimizer, recipe.lr_at(meter.epoch + step / meter.steps))

        with gradients_averaged(replica, now=completes_group):
            with torch.autocast(device.type, recipe.amp_dtype, enabled=recipe.amp_dtype is not None):
                loss, logits, parts = recipe.objective(replica, clips, targets, batch)
            scaled = recipe.scaler.scale(loss / group) if recipe.scaler else loss / group
            scaled.backward()

        judge = None if recipe.mix or logits is None else recipe.judge  # mixed clips have no one class
        correct = judge(logits.detach(), labels) if judge else None
        meter.add(loss, correct, batch["failures"], len(clips), parts)
        if completes_group:
            grad_norm, skipped = optimizer_step(model, optimizer, recipe, meter.has_failed)
            recipe.objective.after_step(model, meter.epoch + (step + 1) / meter.steps, skipped)
            meter.add_step(grad_norm, skipped, loss, recipe.max_skipped)
        if (step + 1) % schedule.log_period == 0:
            _log_recent(meter, recipe, progress)
            asking = True
        saving = schedule.checkpoint_steps > 0 and step + 1 - saved >= schedule.checkpoint_steps
        if completes_group and step + 1 < meter.steps and (asking or saving or (alone and stop())):
            saved = _save_within_epoch(meter, recipe, checkpoints, stop, saving=saving) or saved
            asking = False


def _to_device(batch: dict, device: torch.device) -> tuple[Tensor, Tensor]:
    """Clips (B, C, T, H, W) and labels (B, ...) of all views of a batch."""
    clips = rearrange(batch["views"], "videos v c t h w -> (videos v) c t h w")
    labels = batch["labels"].repeat_interleave(batch["views"].shape[1], dim=0)
    if device.type == "cuda" and not labels.is_cuda:
        labels = labels.pin_memory()  # copies from pageable memory wait for the device
    return clips.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def _log_recent(meter: Meter, recipe: Recipe, progress: tqdm) -> None:
    _check_gradients(meter, recipe)
    stats = meter.recent_figures()
    progress.set_postfix(
        lr=f"{stats['lr']:.2e}",
        loss=f"{stats['loss']:.3f}",
        clips_s=f"{stats['clips_per_second']:.1f}",
        wait=f"{stats['data_wait']:.0%}",
        gib=f"{stats['memory_gib']:.1f}",
    )
    if processes.is_main():
        log_stats({"_type": "train_iter", **stats})


def _save_within_epoch(
    meter: Meter, recipe: Recipe, checkpoints: Checkpoints, stop: Callable[[], bool], *, saving: bool
) -> int | None:
    """Save the run if ``saving``, or if it is asked to stop; returns the batches done if it was saved.

    Raises:
        InterruptedRun: it was asked to stop.
    """
    stopping = processes.any_process(stop())
    if not stopping and not saving:
        return None
    _check_gradients(meter, recipe)
    state = {"generators": generator_states(), "meter": meter.state()}
    states = one_per_data_rank(processes.all_gather(state), meter.mesh)
    checkpoints.save(Position(meter.epoch, meter.step, states))
    if stopping:
        _interrupt(f"epoch {meter.epoch + 1}, step {meter.step} of {meter.steps}")
    return meter.step


def _check_gradients(meter: Meter, recipe: Recipe) -> None:
    """Raise TrainingError where too many gradients in a row were not finite."""
    if (failure := meter.failure()) is None:
        return
    step, loss = failure
    group_start = (step - 1) - (step - 1) % recipe.accumulation
    raise TrainingError(
        f"the gradient was not finite in {recipe.max_skipped} step(s) in a row, up to epoch {meter.epoch + 1}, step "
        f"{step} of {meter.steps} (loss {loss:.3g}, learning rate "
        f"{recipe.lr_at(meter.epoch + group_start / meter.steps):.3g}); the weights are as before. Lower "
        "SOLVER.BASE_LR, warm up longer, or set SOLVER.CLIP_GRAD_L2NORM"
    )


def _start_epoch(
    model: nn.Module,
    schedule: Schedule,
    steps: int,
    start: Position,
    before: Meter | None,
    mesh: DeviceMesh | None,
    parts: Sequence[str],
) -> Meter:
    """Set this process's random state as it is at ``start`` of an epoch, and return the meter as it is there."""
    rank, world = data_rank(mesh), data_size(mesh)
    device = next(model.parameters()).device
    meter = Meter(steps, start.step, schedule.epochs, start.epoch, device, parts=parts, before=before, mesh=mesh)
    _check_step(start, steps)
    if start.step and len(start.states) == world:
        try:
            restore_generators(start.states[rank]["generators"])
            meter.restore(start.states[rank]["meter"])
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise TrainingError(
                f"the checkpoint cannot be resumed from within an epoch: {error}; move it away to resume from the one "
                "before"
            ) from error
    else:
        if start.step and processes.is_main():
            logger.warning(
                "the checkpoint within an epoch is of %d process(es), this run of %d: the videos that are left are the "
                "same, but they are augmented from another random state, and the epoch's figures start here",
                len(start.states),
                world,
            )
        seed_everything(schedule.seed, start.epoch, rank, *([start.step] if start.step else []))
    return meter


def _check_step(start: Position, steps: int) -> None:
    if start.step >= steps:
        raise TrainingError(
            f"the checkpoint is from step {start.step} of an epoch that now has {steps}; resume with the batch size "
            "and the list of videos it was written with, or remove it"
        )


def _validate(
    epochs_done: int,
    schedule: Schedule,
    validate: Callable[[], dict],
    checkpoints: Checkpoints,
    *,
    saved: bool = True,
) -> None:
    try:
        figures = validate()
    except InterruptedRun:  # the resumed run validates the epoch from the beginning
        if not saved:
            checkpoints.save(Position(epochs_done))
        _interrupt(f"epoch {epochs_done}, before it was validated")
    if processes.is_main():
        log_stats({"_type": "val_epoch", "epoch": epochs_done, "epochs": schedule.epochs, **figures})
    checkpoints.validated(epochs_done, figures)


def _interrupt(where: str) -> NoReturn:
    processes.barrier()  # the launcher ends all processes when the first one ends, and rank 0 may still be saving
    raise InterruptedRun(f"stopped on request after {where} and saved; run the same command to resume")
