"""What is counted while training, and the lines of figures made of it."""

from __future__ import annotations

import logging
import math
import resource
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from videofib.distributed import processes
from videofib.distributed.mesh import data_size, one_per_data_rank

logger = logging.getLogger(__name__)


class Meter:
    """Sums over an epoch and since the last line of figures; means are taken over all processes.

    Args:
        steps, epochs: batches of an epoch, epochs of the run.
        step, epoch: how many of them are done.
        before: the meter of the epoch before.
        mesh: of the processes (``distributed.mesh``); those that share clips count the same.
    """

    def __init__(
        self,
        steps: int,
        step: int,
        epochs: int,
        epoch: int,
        before: Meter | None = None,
        mesh: DeviceMesh | None = None,
    ) -> None:
        self.mesh = mesh
        self.steps, self.step, self.epochs, self.epoch = steps, step, epochs, epoch
        self.first_step, self.started = step, time.perf_counter()
        self.loss = self.recent_loss = 0.0  # sums over batches
        self.batches = self.recent_batches = 0
        self.teacher_loss = 0.0  # sum over batches, the part of the loss that a teacher gives
        self.taught = 0  # batches
        self.correct = self.judged = 0  # clips
        self.failures: list[tuple[str, str]] = []
        self.skipped = 0  # optimizer steps, for a gradient that is not finite
        self.skipped_in_row = before.skipped_in_row if before else 0
        self.named: set[str] = before.named if before else set()  # unreadable videos that the log has told of
        self.seconds = 0.0  # before this process went on with the epoch
        self.clips = 0  # in this process
        self.waited = 0.0  # seconds, for batches
        self.grad_norm = self.lr = 0.0  # of the last step

    def timed(self, batches: Iterable[dict]) -> Iterator[dict]:
        """The batches, while counting the time that is spent on waiting for them."""
        start = time.perf_counter()
        for batch in batches:
            self.waited += time.perf_counter() - start
            yield batch
            start = time.perf_counter()

    def add(self, loss: float, correct: Tensor | None, failures: list, clips: int) -> None:
        """Count a batch. correct: bool (B,), or None where clips have no one class."""
        self.step += 1
        if math.isfinite(loss):
            self.loss, self.recent_loss = self.loss + loss, self.recent_loss + loss
            self.batches, self.recent_batches = self.batches + 1, self.recent_batches + 1
        if correct is not None:
            self.correct += int(correct.sum())
            self.judged += len(correct)
        self.failures += failures
        self.clips += clips

    def add_teacher_loss(self, loss: Tensor) -> None:
        """Count what the teacher says of a batch; loss: a scalar."""
        if math.isfinite(value := loss.item()):
            self.teacher_loss, self.taught = self.teacher_loss + value, self.taught + 1

    def add_step(self, grad_norm: float) -> None:
        """Count an optimizer step, which was skipped if the gradient is not finite."""
        self.grad_norm = grad_norm
        if math.isfinite(grad_norm):
            self.skipped_in_row = 0
        else:
            self.skipped, self.skipped_in_row = self.skipped + 1, self.skipped_in_row + 1

    def state(self) -> dict[str, Any]:
        """The sums of this process, for a run that goes on later."""
        return {name: getattr(self, name) for name in _SUMS} | {"seconds": self.seconds + self._elapsed()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from ``state``."""
        for name in (*_SUMS, "seconds"):
            setattr(self, name, state[name])

    def clips_per_second(self) -> float:
        """Over all processes, since this one began."""
        return self.clips * data_size(self.mesh) / self._elapsed()

    def data_wait(self) -> float:
        """The share of this process's time that went into waiting for data: near 0 where the loader keeps up."""
        return self.waited / self._elapsed()

    def recent_figures(self) -> dict:
        """A line of figures of the batches since the last one."""
        (loss,) = processes.mean([_ratio(self.recent_loss, self.recent_batches)])
        self.recent_loss, self.recent_batches = 0.0, 0
        left = (self.epochs - self.epoch) * self.steps - self.step
        seconds = left * self._elapsed() / (self.step - self.first_step)
        return {
            "epoch": self.epoch + 1,
            "epochs": self.epochs,
            "step": self.step,
            "steps": self.steps,
            "lr": self.lr,
            "loss": loss,
            "grad_norm": self.grad_norm,
            "data_wait": self.data_wait(),
            "memory_gib": peak_memory_gib(),
            "clips_per_second": self.clips_per_second(),
            "eta": str(timedelta(seconds=round(seconds))),
        }

    def epoch_figures(self) -> dict:
        """The line of figures of the epoch; videos that were replaced are told in the log, each once a run."""
        (loss,) = processes.mean([_ratio(self.loss, self.batches)])
        stats = {"epoch": self.epoch + 1, "epochs": self.epochs, "lr": self.lr, "loss": loss}
        if self.taught:
            (stats["teacher_loss"],) = processes.mean([_ratio(self.teacher_loss, self.taught)])
        if self.judged:
            (stats["clip_top1_acc"],) = processes.mean([100.0 * self.correct / self.judged])
        told = one_per_data_rank(processes.all_gather(self.failures), self.mesh)
        replaced = [failure for failures in told for failure in failures]
        new = {name: reason for name, reason in replaced if name not in self.named}
        self.named.update(new)
        if new and processes.is_main():
            names = "; ".join(f"{name} ({reason})" for name, reason in sorted(new.items()))
            logger.warning("epoch %d: %d unreadable videos were replaced: %s", self.epoch + 1, len(new), names)
        return {
            **stats,
            "replaced_videos": len(replaced),
            "skipped_steps": self.skipped,
            "data_wait": self.data_wait(),
            "memory_gib": peak_memory_gib(),
            "clips_per_second": self.clips_per_second(),
            "seconds": self.seconds + self._elapsed(),
        }

    def _elapsed(self) -> float:
        return time.perf_counter() - self.started


def peak_memory_gib() -> float:
    """The most that this process has held: on a GPU by its tensors, else in all."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def _ratio(total: float, count: int) -> float:
    return total / count if count else math.nan


_SUMS = (
    *("loss", "recent_loss", "batches", "recent_batches", "correct", "judged", "failures"),
    *("teacher_loss", "taught"),
    *("skipped", "skipped_in_row", "grad_norm"),
)
