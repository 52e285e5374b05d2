"""Training, as a story: epochs, steps, and what is said about them.

B clips of a batch (one process's share, V views of each of its videos), C T H W channels, frames, height, width;
K classes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from tqdm import tqdm

from videofib.checkpoint.retention import BestKeeper
from videofib.distributed import processes
from videofib.distributed.fsdp import gradients_averaged
from videofib.distributed.mesh import data_rank, data_size, one_per_data_rank
from videofib.engine.freezing import learning_mode
from videofib.engine.interrupt import InterruptedRun
from videofib.engine.meter import Meter, peak_memory_gib
from videofib.engine.randomness import generator_states, restore_generators, seed_everything
from videofib.engine.step import Recipe, mix_clips, optimizer_step, set_lr
from videofib.tracking.log import log_stats

logger = logging.getLogger(__name__)


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which epoch and step, and why."""


@dataclass(frozen=True)
class Position:
    """How far a run has come.

    Attributes:
        epoch: epochs done.
        step: batches done of the next epoch, by each process.
        states: where step is not 0, by rank: what a process needs to go on within the epoch. Processes that share
            clips need the same, and count as one.
    """

    epoch: int = 0
    step: int = 0
    states: Sequence[dict] = ()


def train(
    model: nn.Module,
    loader: Iterable[dict],
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    *,
    epochs: int,
    start: Position = Position(),
    seed: int = 0,
    log_period: int = 10,
    save: Callable[[Position], None],
    checkpoint_period: int = 1,
    checkpoint_steps: int = 0,
    validate: Callable[[], dict],
    eval_period: int = 1,
    best: BestKeeper | None = None,
    stop: Callable[[], bool] = lambda: False,
    mesh: DeviceMesh | None = None,
) -> None:
    """Train ``model`` in place, from ``start`` up to ``epochs``.

    A run that goes on from any position that was saved reaches the weights that it would have reached.

    Args:
        model: (B, C, T, H, W) -> logits (B, K), on its device; the same weights in every process, or their shares of
            them (``sharding.shard``).
        loader: batches of this process, with ``sampler.set_epoch(epoch, step)``; equally many in every process.
        seed: all randomness of an epoch follows from (seed, epoch, rank); processes that share clips draw alike.
        save: called in all processes, at the end of an epoch before validation (which may fail).
        checkpoint_period: epochs from save to save.
        checkpoint_steps: batches from save to save within an epoch, as far as the accumulation of gradients allows;
            0: none.
        validate: called in all processes, returns figures to log.
        log_period: steps between lines of figures.
        best: in rank 0 alone, if at all; told of each validation. An epoch that is the best is saved in any case, and
            one that a run was ended before is validated when it goes on.
        stop: asked after each optimizer step; once it says so in any process, the run is saved and ends.
        mesh: of the processes (``distributed.mesh``), as the model and the loader have it.

    Raises:
        TrainingError: too many gradients in a row are not finite, or ``start`` holds no usable state.
        InterruptedRun: ``stop`` said so.
    """
    replica = processes.replicate(model)
    meter = None
    is_unseen = processes.any_process(best is not None and not best.has_seen(start.epoch))
    if is_unseen and start.epoch and not start.step and _is_due(start.epoch - 1, eval_period, epochs):
        _validate(start.epoch, epochs, validate, best)
    for epoch in range(start.epoch, epochs):
        place = start if epoch == start.epoch else Position(epoch)
        loader.sampler.set_epoch(epoch, place.step)  # first, since epochs may differ in length
        meter = _enter_epoch(epoch, epochs, len(loader), place, seed, meter, mesh)
        train_epoch(
            model,
            replica,
            loader,
            optimizer,
            recipe,
            meter,
            log_period=log_period,
            save=save,
            checkpoint_steps=checkpoint_steps,
            stop=stop,
        )
        stats = meter.whole_epoch()
        if processes.is_main():
            log_stats({"_type": "train_epoch", **stats})
        stopping = processes.any_process(stop()) and epoch + 1 < epochs
        saving = stopping or _is_due(epoch, checkpoint_period, epochs)
        if saving:
            save(Position(epoch + 1))
        if stopping:
            processes.barrier()  # the first to end makes the launcher end all, and rank 0 is saving
            raise InterruptedRun(f"stopped on request after epoch {epoch + 1}")
        if _is_due(epoch, eval_period, epochs):
            _validate(epoch + 1, epochs, validate, best, save=None if saving else save)


def train_epoch(
    model: nn.Module,
    replica: nn.Module,
    loader: Iterable[dict],
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    meter: Meter,
    *,
    log_period: int,
    save: Callable[[Position], None],
    checkpoint_steps: int,
    stop: Callable[[], bool],
) -> None:
    """The batches of an epoch that are left, counted by ``meter``.

    ``replica`` is ``model``, wrapped where several processes share the work and each has all weights.
    """
    learning_mode(model)
    device = next(model.parameters()).device
    saved = meter.step
    progress = tqdm(
        meter.timed(loader),
        desc=f"epoch {meter.epoch + 1}/{meter.epochs}",
        total=meter.steps,
        initial=meter.step,
        unit="batch",
        leave=False,
        disable=None if processes.is_main() else True,  # None: quiet where the output is no terminal
    )
    for step, batch in enumerate(progress, start=meter.step):
        clips = rearrange(batch["views"], "videos v c t h w -> (videos v) c t h w").to(device, non_blocking=True)
        labels = batch["labels"].repeat_interleave(batch["views"].shape[1], dim=0).to(device, non_blocking=True)
        targets = labels
        if recipe.mix:
            clips, targets = mix_clips(recipe.mix, clips, labels)

        # the last group of batches is smaller where accumulation does not divide their number: no clip is dropped
        position = step % recipe.accumulation
        group = min(recipe.accumulation, meter.steps - step + position)
        completes_group = position == group - 1
        if position == 0:
            meter.lr = set_lr(optimizer, recipe.lr_at(meter.epoch + step / meter.steps))

        with gradients_averaged(replica, now=completes_group):
            with torch.autocast(device.type, recipe.amp_dtype, enabled=recipe.amp_dtype is not None):
                logits = replica(clips)
                loss = recipe.criterion(logits, targets)
                if recipe.distillation:
                    teacher_loss = recipe.distillation.loss(clips, logits)
                    meter.add_teacher_loss(teacher_loss)
                    loss = recipe.distillation.mix(loss, teacher_loss)
            loss_value = loss.item()
            scaled = recipe.scaler.scale(loss / group) if recipe.scaler else loss / group
            scaled.backward()

        judged = recipe.judge and not recipe.mix  # mixed clips have no one class
        correct = recipe.judge(logits.detach(), labels) if judged else None
        meter.add(loss_value, correct, batch["failures"], len(clips))
        if completes_group:
            meter.add_step(optimizer_step(model, optimizer, recipe))
            where = f"epoch {meter.epoch + 1}, step {step + 1} of {meter.steps}"
            if meter.skipped_in_row == recipe.max_skipped:
                raise TrainingError(
                    f"the gradient was not finite in {meter.skipped_in_row} step(s) in a row, up to {where} (loss "
                    f"{loss_value:.3g}, learning rate {meter.lr:.3g}); {_MEND}"
                )
        progress.set_postfix(
            lr=f"{meter.lr:.2e}",
            loss=f"{loss_value:.3f}",
            clips_s=f"{meter.clips_per_second():.1f}",
            wait=f"{meter.data_wait():.0%}",
            gib=f"{peak_memory_gib():.1f}",
        )
        if (step + 1) % log_period == 0:
            stats = meter.recent()
            if processes.is_main():
                log_stats({"_type": "train_iter", **stats})
        if not completes_group or step + 1 == meter.steps:
            continue
        stopping = processes.any_process(stop())
        if stopping or (checkpoint_steps and step + 1 - saved >= checkpoint_steps):
            state = {"generators": generator_states(), "meter": meter.state()}
            states = one_per_data_rank(processes.all_gather(state), meter.mesh)
            saved = step + 1
            save(Position(meter.epoch, saved, states))
        if stopping:
            processes.barrier()  # likewise
            raise InterruptedRun(f"stopped on request after {where}")


_MEND = "the weights are as before. Lower SOLVER.BASE_LR, warm up longer, or set SOLVER.CLIP_GRAD_L2NORM"


def _enter_epoch(
    epoch: int,
    epochs: int,
    steps: int,
    start: Position,
    seed: int,
    before: Meter | None,
    mesh: DeviceMesh | None,
) -> Meter:
    """Set this process's generators, and give the meter, as they are at ``start`` of an epoch."""
    rank, world = data_rank(mesh), data_size(mesh)
    meter = Meter(steps, start.step, epochs, epoch, before, mesh)
    if start.step >= steps:
        raise TrainingError(
            f"the checkpoint is from step {start.step} of an epoch that now has {steps}; go on with the batch size and "
            "the list of videos it was written with, or remove it"
        )
    if start.step and len(start.states) == world:
        try:
            restore_generators(start.states[rank]["generators"])
            meter.restore(start.states[rank]["meter"])
        except (KeyError, TypeError, ValueError) as error:
            raise TrainingError(f"the checkpoint cannot be gone on from within an epoch: {error}") from error
    else:
        if start.step and processes.is_main():
            logger.warning(
                "the checkpoint within an epoch is of %d process(es), this run of %d: the videos that are left are the "
                "same, but other chance is drawn, and the epoch's figures begin here",
                len(start.states),
                world,
            )
        seed_everything(seed, epoch, rank, *([start.step] if start.step else []))
    return meter


def _validate(
    epoch: int,
    epochs: int,
    validate: Callable[[], dict],
    best: BestKeeper | None,
    save: Callable[[Position], None] | None = None,
) -> None:
    """Validate after so many epochs, log it, and note whether that is the best so far.

    Args:
        save: where this epoch has no checkpoint, writes one if it is the best.
    """
    figures = validate()
    only_as_best = processes.any_process(best is not None and save is not None and best.improves(figures))
    if processes.is_main():
        log_stats({"_type": "val_epoch", "epoch": epoch, "epochs": epochs, **figures})
    if only_as_best:
        save(Position(epoch))
    if best:
        best.note(epoch, figures, only_as_best=only_as_best)


def _is_due(epoch: int, period: int, epochs: int) -> bool:
    return (epoch + 1) % period == 0 or epoch + 1 == epochs
