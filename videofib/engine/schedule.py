"""How long a run lasts, and what happens at the end of its epochs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from videofib.checkpoint.file import Position


@dataclass(frozen=True)
class Schedule:
    """How long a run lasts, and what happens when.

    Attributes:
        epochs: of the run.
        seed: all randomness of an epoch follows from (seed, epoch, data rank).
        log_period: steps between lines of figures.
        eval_period: epochs between validations; the last epoch is validated in any case. 0: no validation.
        checkpoint_period: epochs between checkpoints; the last epoch is saved in any case.
        checkpoint_steps: batches between checkpoints within an epoch, as far as the accumulation of gradients allows;
            0: none.
        patience: validations in a row without a better figure, after which training ends; 0: all epochs are trained.
    """

    epochs: int
    seed: int = 0
    log_period: int = 10
    eval_period: int = 1
    checkpoint_period: int = 1
    checkpoint_steps: int = 0
    patience: int = 0

    def validates_after(self, epochs_done: int) -> bool:
        return self.eval_period > 0 and (epochs_done % self.eval_period == 0 or epochs_done == self.epochs)

    def saves_after(self, epochs_done: int) -> bool:
        return epochs_done % self.checkpoint_period == 0 or epochs_done == self.epochs


class Checkpoints(Protocol):
    """What training asks of ``checkpoint.manager``; all processes call it."""

    def save(self, position: Position) -> object: ...

    def awaits_validation(self, epoch: int) -> bool: ...

    def validated(self, epoch: int, figures: dict) -> None: ...

    def validations_since_best(self) -> int: ...


def ends_early(position: Position, schedule: Schedule, checkpoints: Checkpoints) -> bool:
    """Whether the run ends at this position before its last epoch, since its patience is exhausted; all call it."""
    if not schedule.patience or position.step or position.epoch == schedule.epochs:
        return False
    return checkpoints.validations_since_best() >= schedule.patience


def awaits_validation(start: Position, schedule: Schedule, checkpoints: Checkpoints) -> bool:
    """Whether the run ended after it saved an epoch and before it validated that."""
    at_epoch_end = start.epoch > 0 and not start.step and schedule.validates_after(start.epoch)
    return at_epoch_end and checkpoints.awaits_validation(start.epoch)
