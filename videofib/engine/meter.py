"""What is counted while training, and the lines of figures made of it.

What the device computes is summed on the device, so that the host need not wait for it. It is read when a line of
figures is due, when a checkpoint is written, and at the end of an epoch.
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from videofib.distributed import processes
from videofib.distributed.mesh import data_size, one_per_data_rank
from videofib.tracking.log import log_unreadable

# Sums on the device; "recent" ones start from zero with each line of figures.
_LOSSES = ("loss", "recent_loss", "grad_norm")  # the last one is that of the last step
_COUNTS = (
    *("batches", "recent_batches"),  # whose loss is finite
    *("correct", "skipped", "skipped_in_row"),  # clips; optimizer steps
)
_FAILURE = ("failed_at", "failed_loss")  # batches done when too many steps in a row had been skipped; 0: not yet
_ON_HOST = ("judged", "failures")
_EARLIER_PARTS = {"teacher_loss": "taught"}  # a part and its count, in checkpoints of earlier versions
_SPEED = ("clips", "waited")  # checkpoints of earlier versions lack them: then the epoch's speed is not known


class Meter:
    """Sums over an epoch and since the last line of figures.

    A figure is a total over a total, each over all processes: their losses by their batches, clips by seconds.

    Args:
        steps, epochs: batches of an epoch, epochs of the run.
        step, epoch: how many of them are done.
        device: of the model.
        parts: names of parts of the loss, whose means are figures of the epoch.
        before: the meter of the epoch before.
        mesh: of the processes (``distributed.mesh``); those that share clips count the same.
    """

    def __init__(
        self,
        steps: int,
        step: int,
        epochs: int,
        epoch: int,
        device: torch.device,
        *,
        parts: Sequence[str] = (),
        before: Meter | None = None,
        mesh: DeviceMesh | None = None,
    ) -> None:
        self.steps, self.step, self.epochs, self.epoch, self.mesh = steps, step, epochs, epoch, mesh
        self.first_step, self.started = step, time.perf_counter()
        # float64: sums of float32 losses, and counts, as exact as on the host
        self.parts = tuple(parts)
        names = (*_LOSSES, *_COUNTS, *_FAILURE, *self.parts, *map(_count_of, self.parts))
        self._sums = {name: torch.zeros((), dtype=torch.float64, device=device) for name in names}
        self.judged = 0  # clips that were judged right or wrong
        self.failures: list[tuple[str, str]] = []
        self.reported: set[str] = before.reported if before else set()  # unreadable videos that the log has named
        self.seconds = 0.0  # spent on the epoch before this process resumed it
        self.clips = 0  # of the epoch, in this process and in that which it resumes
        self.waited = 0.0  # seconds, for batches; likewise
        self.lr = 0.0  # of the last step
        self._first_of_process = before is None
        self._first_done: float | None = None  # when the first batch of this meter was
        if before:
            self._sums["skipped_in_row"].copy_(before._sums["skipped_in_row"])

    @property
    def has_failed(self) -> Tensor:
        """Whether too many steps in a row were skipped, as a bool on the device."""
        return self._sums["failed_at"] > 0

    def timed(self, batches: Iterable[dict]) -> Iterator[dict]:
        """The batches, while the time that the host waits for them is counted."""
        start = time.perf_counter()
        for batch in batches:
            self.waited += time.perf_counter() - start
            yield batch
            start = time.perf_counter()

    def add(
        self,
        loss: Tensor,
        correct: Tensor | None,
        failures: list,
        clips: int,
        parts: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Count a batch.

        Args:
            loss: a scalar; one that is not finite is left out of the mean.
            correct: bool (B,), or None where clips have no one class.
            parts: of the loss, scalars likewise.
        """
        self.step += 1
        if self._first_done is None:
            self._first_done = time.perf_counter()
        self._add_finite(loss, ("loss", "batches"), ("recent_loss", "recent_batches"))
        for name, part in (parts or {}).items():
            self._add_finite(part, (name, _count_of(name)))
        if correct is not None:
            self._sums["correct"] += correct.sum()
            self.judged += len(correct)
        self.failures += failures
        self.clips += clips

    def add_step(self, grad_norm: Tensor, skipped: Tensor, loss: Tensor, max_skipped: int) -> None:
        """Count an optimizer step.

        Args:
            grad_norm, skipped, loss: of the step, scalars; the loss is that of its last batch.
            max_skipped: so many skipped steps in a row make the run fail.
        """
        sums = self._sums
        sums["grad_norm"].copy_(grad_norm)
        sums["skipped"] += skipped
        sums["skipped_in_row"].add_(1).mul_(skipped)
        fails = sums["skipped_in_row"] == max_skipped
        sums["failed_at"].masked_fill_(fails, self.step)
        sums["failed_loss"].copy_(torch.where(fails, loss.detach().double(), sums["failed_loss"]))

    def failure(self) -> tuple[int, float] | None:
        """(batches done, loss) when the run failed, None where it has not. Waits for the device."""
        sums = self._read()
        return (int(sums["failed_at"]), sums["failed_loss"]) if sums["failed_at"] else None

    def state(self) -> dict[str, Any]:
        """The sums of this process, for a run that is resumed later. Waits for the device."""
        sums = self._read()
        return {
            **{name: sums[name] for name in _LOSSES},
            **{name: int(sums[name]) for name in _COUNTS},
            "parts": {name: (sums[name], int(sums[_count_of(name)])) for name in self.parts},
            **{name: getattr(self, name) for name in (*_ON_HOST, *_SPEED)},
            "seconds": self.seconds + self._elapsed(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from ``state``."""
        for name in (*_LOSSES, *_COUNTS):
            self._sums[name].fill_(state[name])
        earlier = {name: (state[name], state[count]) for name, count in _EARLIER_PARTS.items() if count in state}
        for name, (total, count) in {**earlier, **state.get("parts", {})}.items():
            if name in self.parts:
                self._sums[name].fill_(total)
                self._sums[_count_of(name)].fill_(count)
        for name in (*_ON_HOST, "seconds"):
            setattr(self, name, state[name])
        for name in _SPEED:
            setattr(self, name, state.get(name, math.nan))

    def recent_figures(self) -> dict:
        """A line of figures of the batches since the last one. Waits for the device, and for all processes."""
        sums = self._read()
        totals = self._totals(sums)
        self._sums["recent_loss"].zero_()
        self._sums["recent_batches"].zero_()
        return {
            "epoch": self.epoch + 1,
            "epochs": self.epochs,
            "step": self.step,
            "steps": self.steps,
            "lr": self.lr,
            "loss": _ratio(totals["recent_loss"], totals["recent_batches"]),
            "grad_norm": sums["grad_norm"],
            "data_wait": totals["waited"] / totals["seconds"],
            "memory_gib": peak_memory_gib(),
            "clips_per_second": self._clips_per_second(totals),
            "eta": self._eta(),
        }

    def _eta(self) -> str | None:
        """The time that the rest of the run takes; None after a process's first batch, which waits for compilers."""
        done, seconds = self.step - self.first_step, self._elapsed()
        if self._first_of_process and self._first_done is not None:
            done, seconds = done - 1, time.perf_counter() - self._first_done
        if not done:
            return None
        left = (self.epochs - self.epoch) * self.steps - self.step
        return str(timedelta(seconds=round(left * seconds / done)))

    def epoch_figures(self) -> dict:
        """The line of figures of the epoch; the log names videos that were replaced, each once a run."""
        sums = self._read()
        totals = self._totals(sums)
        loss = _ratio(totals["loss"], totals["batches"])
        stats = {"epoch": self.epoch + 1, "epochs": self.epochs, "lr": self.lr, "loss": loss}
        stats |= {name: totals[name] / totals[_count_of(name)] for name in self.parts if totals[_count_of(name)]}
        if totals["judged"]:
            stats["clip_top1_acc"] = 100.0 * totals["correct"] / totals["judged"]
        gathered = one_per_data_rank(processes.all_gather(self.failures), self.mesh)
        replaced = [failure for failures in gathered for failure in failures]
        new = {name: reason for name, reason in replaced if name not in self.reported}
        self.reported.update(new)
        if new and processes.is_main():
            log_unreadable(f"epoch {self.epoch + 1}", "replaced", new, "unreadable_train.txt", append=True)
        return {
            **stats,
            "replaced_videos": len(replaced),
            "skipped_steps": int(sums["skipped"]),
            "data_wait": totals["waited"] / totals["seconds"],
            "memory_gib": peak_memory_gib(),
            "clips_per_second": self._clips_per_second(totals),
            "seconds": totals["seconds"] / processes.world_size(),
        }

    def _totals(self, sums: dict[str, float]) -> dict[str, float]:
        """The sums, and what is counted on the host, over all processes. All call it, and wait for each other."""
        own = {**sums, "seconds": self.seconds + self._elapsed()}
        own |= {name: float(getattr(self, name)) for name in ("judged", *_SPEED)}
        return dict(zip(own, processes.total(list(own.values())), strict=True))

    def _clips_per_second(self, totals: dict[str, float]) -> float:
        """All clips of the epoch so far, over the time that it took; processes work at the same time."""
        return totals["clips"] / totals["seconds"] * data_size(self.mesh)

    def _add_finite(self, value: Tensor, *sums: tuple[str, str]) -> None:
        """Add a scalar to pairs (total, count), where it is finite."""
        value = value.detach().double()
        finite = value.isfinite()
        value = value.masked_fill(~finite, 0.0)
        for total, count in sums:
            self._sums[total] += value
            self._sums[count] += finite

    def _read(self) -> dict[str, float]:
        """The sums, at the cost of waiting for the device once."""
        return dict(zip(self._sums, torch.stack(list(self._sums.values())).tolist(), strict=True))

    def _elapsed(self) -> float:
        return time.perf_counter() - self.started


def _count_of(part: str) -> str:
    """The sum that counts the batches whose part of the loss is finite."""
    return f"batches with {part}"


def peak_memory_gib() -> float:
    """The peak memory of this process: of its tensors on a GPU, else of everything."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def _ratio(total: float, count: float) -> float:
    return total / count if count else math.nan
