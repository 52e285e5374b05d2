"""Training, as a story: epochs, steps, and what is said about them.

B clips of a batch (one process's share, V views of each of its videos), C T H W channels, frames, height, width;
K classes.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from tqdm import tqdm

from videofib import distributed
from videofib.logging import log_stats
from videofib.metrics import percent, topk_correct

logger = logging.getLogger(__name__)

Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which epoch and step, and why."""


@dataclass(frozen=True)
class Recipe:
    """How one optimizer step is made.

    Attributes:
        lr_at: learning rate at a fractional epoch.
        criterion: (logits (B, K), labels (B,) or soft labels (B, K)) -> mean loss.
        accumulation: batches whose gradients make one optimizer step.
        clip_grad_norm: largest L2 norm of the gradient; 0 leaves it as it is.
        amp_dtype: bfloat16 or float16 for mixed precision, None for full precision.
        scaler: keeps float16 gradients from vanishing; needed with float16 only.
        mix: mixup or cutmix, (images (B, C, H, W), labels (B,)) -> (images, soft labels (B, K)), as timm's Mixup.
        ema: called ``ema.update(model)`` after every step, as timm's ModelEmaV3.
    """

    lr_at: Callable[[float], float]
    criterion: nn.Module
    accumulation: int = 1
    clip_grad_norm: float = 0.0
    amp_dtype: torch.dtype | None = None
    scaler: torch.amp.GradScaler | None = None
    mix: Mix | None = None
    ema: nn.Module | None = None


def train(
    model: nn.Module,
    loader: Iterable[dict],
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    *,
    epochs: int,
    first_epoch: int = 0,
    seed: int = 0,
    log_period: int = 10,
    save: Callable[[int], None],
    checkpoint_period: int = 1,
    validate: Callable[[], dict],
    eval_period: int = 1,
) -> None:
    """Train ``model`` in place, from ``first_epoch`` (counted from 0) up to ``epochs``.

    Args:
        model: (B, C, T, H, W) -> logits (B, K), on its device; the same weights in every process.
        loader: batches of this process, with ``sampler.set_epoch``; equally many in every process.
        seed: all randomness of an epoch follows from (seed, epoch, rank), so that a run that was interrupted
            reaches the weights it would have reached.
        save: called with the number of epochs done, in rank 0 only, before validation (which may fail).
        validate: called in all processes, returns figures to log.
        log_period: steps between lines of figures.

    Raises:
        TrainingError: the loss or the gradient is not finite.
    """
    replica = distributed.replicate(model)
    for epoch in range(first_epoch, epochs):
        seed_everything(seed, epoch, distributed.rank())
        loader.sampler.set_epoch(epoch)
        stats = train_epoch(model, replica, loader, optimizer, recipe, epoch, epochs, log_period)
        if distributed.is_main():
            log_stats({"_type": "train_epoch", **stats})
        if _is_due(epoch, checkpoint_period, epochs) and distributed.is_main():
            save(epoch + 1)
        if _is_due(epoch, eval_period, epochs):
            figures = validate()
            if distributed.is_main():
                log_stats({"_type": "val_epoch", "epoch": epoch + 1, "epochs": epochs, **figures})


def train_epoch(
    model: nn.Module,
    replica: nn.Module,
    loader: Iterable[dict],
    optimizer: torch.optim.Optimizer,
    recipe: Recipe,
    epoch: int,
    epochs: int,
    log_period: int,
) -> dict:
    """One pass over the loader; ``replica`` is ``model``, wrapped where several processes share the work."""
    model.train()
    device = next(model.parameters()).device
    meter = _Meter(steps=len(loader), epoch=epoch, epochs=epochs)
    progress = tqdm(
        loader,
        desc=f"epoch {epoch + 1}/{epochs}",
        unit="batch",
        leave=False,
        disable=None if distributed.is_main() else True,  # None: quiet where the output is no terminal
    )
    for step, batch in enumerate(progress):
        clips = rearrange(batch["views"], "videos v c t h w -> (videos v) c t h w").to(device, non_blocking=True)
        labels = batch["labels"].repeat_interleave(batch["views"].shape[1]).to(device, non_blocking=True)
        targets = labels
        if recipe.mix:
            clips, targets = mix_clips(recipe.mix, clips, labels)

        # the last group of batches is smaller where accumulation does not divide their number: no clip is dropped
        position = step % recipe.accumulation
        group = min(recipe.accumulation, len(loader) - step + position)
        completes_group = position == group - 1
        if position == 0:
            lr = set_lr(optimizer, recipe.lr_at(epoch + step / len(loader)))

        with nullcontext() if completes_group or replica is model else replica.no_sync():
            with torch.autocast(device.type, recipe.amp_dtype, enabled=recipe.amp_dtype is not None):
                logits = replica(clips)
                loss = recipe.criterion(logits, targets)
            loss_value = loss.item()
            where = f"epoch {epoch + 1}, step {step + 1} of {len(loader)} (learning rate {lr:.3g})"
            if not math.isfinite(loss_value):
                raise TrainingError(f"the loss is {loss_value} at {where}; {_MEND}")
            scaled = recipe.scaler.scale(loss / group) if recipe.scaler else loss / group
            scaled.backward()

        correct = None if recipe.mix else topk_correct(logits.detach(), labels, 1)  # mixed clips have no one class
        meter.add(loss_value, correct, batch["failures"], len(clips))
        if completes_group:
            meter.grad_norm = optimizer_step(model, optimizer, recipe, where)
        progress.set_postfix(lr=f"{lr:.2e}", loss=f"{loss_value:.3f}", clips_s=f"{meter.clips_per_second():.1f}")
        if (step + 1) % log_period == 0:
            stats = meter.recent(lr, step + 1)
            if distributed.is_main():
                log_stats({"_type": "train_iter", **stats})
    return meter.whole_epoch(lr)


def optimizer_step(model: nn.Module, optimizer: torch.optim.Optimizer, recipe: Recipe, where: str) -> float:
    """Clip, check and apply the gradients; returns their L2 norm before clipping."""
    if recipe.scaler:
        recipe.scaler.unscale_(optimizer)
    grad_norm = nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_grad_norm or math.inf).item()
    if recipe.scaler:
        recipe.scaler.step(optimizer)  # leaves out a step whose float16 gradients overflowed, and scales less
        recipe.scaler.update()
    elif math.isfinite(grad_norm):
        optimizer.step()
    else:
        raise TrainingError(f"the gradient is {grad_norm} at {where}; {_MEND}")
    optimizer.zero_grad(set_to_none=True)
    if recipe.ema:
        recipe.ema.update(model)
    return grad_norm


def mix_clips(mix: Mix, clips: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Mix clips (B, C, T, H, W) pairwise: the same share or the same box in all frames of a clip.

    The first is paired with the last, and so on: of an odd number of videos in two views the middle one meets itself.

    Raises:
        ValueError: an odd number of clips.
    """
    if len(clips) % 2:
        raise ValueError(f"mixup pairs the clips of a batch, so their number must be even; got {len(clips)}")
    images = rearrange(clips, "b c t h w -> b (c t) h w")
    images, soft_labels = mix(images, labels)
    return rearrange(images, "b (c t) h w -> b c t h w", c=clips.shape[1]), soft_labels


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> float:
    """Give all parameter groups this learning rate, and return it."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    return lr


def seed_everything(*key: int) -> None:
    """Seed Python, NumPy and PyTorch (all devices) from a few integers, such as (seed, epoch, rank)."""
    state = int(np.random.SeedSequence(key).generate_state(1)[0])
    random.seed(state)
    np.random.seed(state)
    torch.manual_seed(state)


_MEND = "nothing was saved from it. Lower SOLVER.BASE_LR, warm up longer, or set SOLVER.CLIP_GRAD_L2NORM"


def _is_due(epoch: int, period: int, epochs: int) -> bool:
    return (epoch + 1) % period == 0 or epoch + 1 == epochs


class _Meter:
    """Sums over an epoch and since the last line of figures; means are taken over all processes."""

    def __init__(self, steps: int, epoch: int, epochs: int) -> None:
        self.steps, self.epoch, self.epochs = steps, epoch, epochs
        self.started = time.perf_counter()
        self.losses: list[float] = []
        self.logged = 0  # losses that a line of figures has covered
        self.correct: list[Tensor] = []
        self.failures: list[tuple[str, str]] = []
        self.clips = 0
        self.grad_norm = 0.0

    def add(self, loss: float, correct: Tensor | None, failures: list, clips: int) -> None:
        self.losses.append(loss)
        if correct is not None:
            self.correct.append(correct)
        self.failures += failures
        self.clips += clips

    def clips_per_second(self) -> float:
        return self.clips * distributed.world_size() / (time.perf_counter() - self.started)

    def recent(self, lr: float, step: int) -> dict:
        (loss,) = distributed.mean([float(np.mean(self.losses[self.logged :]))])
        self.logged = len(self.losses)
        left = (self.epochs - self.epoch) * self.steps - step
        seconds = left * (time.perf_counter() - self.started) / step
        return {
            "epoch": self.epoch + 1,
            "epochs": self.epochs,
            "step": step,
            "steps": self.steps,
            "lr": lr,
            "loss": loss,
            "grad_norm": self.grad_norm,
            "clips_per_second": self.clips_per_second(),
            "eta": str(timedelta(seconds=round(seconds))),
        }

    def whole_epoch(self, lr: float) -> dict:
        (loss,) = distributed.mean([float(np.mean(self.losses))])
        stats = {"epoch": self.epoch + 1, "epochs": self.epochs, "lr": lr, "loss": loss}
        if self.correct:
            (stats["clip_top1_acc"],) = distributed.mean([percent(torch.cat(self.correct))])
        replaced = [failure for failures in distributed.all_gather(self.failures) for failure in failures]
        if replaced and distributed.is_main():
            names = "; ".join(f"{name} ({reason})" for name, reason in sorted(set(map(tuple, replaced))))
            logger.warning("epoch %d: %d unreadable videos were replaced: %s", self.epoch + 1, len(replaced), names)
        return {
            **stats,
            "replaced_videos": len(replaced),
            "clips_per_second": self.clips_per_second(),
            "seconds": time.perf_counter() - self.started,
        }
