"""What a training step minimises.

B clips of a batch, C T H W channels, frames, height, width; K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor, nn

from videofib.engine.distill import Distillation


class Outcome(NamedTuple):
    """What an objective finds of a batch.

    Attributes:
        loss: to minimise, a scalar.
        logits: (B, K), which may be judged against the labels; None: nothing to judge.
        parts: scalars whose means over the epoch are logged, some or all of the objective's ``parts``.
    """

    loss: Tensor
    logits: Tensor | None
    parts: dict[str, Tensor]


class Objective:
    """From clips to a loss; what it learns besides the model's weights is part of the model.

    Attributes:
        parts: names of the figures that it may give, the same in every process.
    """

    parts: tuple[str, ...] = ()

    def __call__(self, replica: nn.Module, clips: Tensor, targets: Tensor, batch: Mapping[str, Any]) -> Outcome:
        """The loss of a batch.

        Args:
            replica: the model, wrapped where processes average its gradients.
            clips: (B, C, T, H, W).
            targets: labels, (B,) or (B, K), or soft labels of mixed clips.
            batch: all that the loader gives.
        """
        raise NotImplementedError

    def after_step(self, model: nn.Module, epoch: float, skipped: Tensor) -> None:
        """Called after each optimizer step, at a fractional epoch; ``skipped`` (bool): the weights are as before."""


class Supervised(Objective):
    """Labels, and perhaps a teacher's scores beside them.

    Args:
        criterion: (logits (B, K), labels (B,) or soft labels (B, K)) -> mean loss.
        distillation: a teacher whose scores are a second target.
        added: by the name of a loss of the model's blocks, its weight in the sum.
    """

    def __init__(
        self,
        criterion: nn.Module,
        distillation: Distillation | None = None,
        added: Mapping[str, float] | None = None,
    ):
        self.criterion, self.distillation, self.added = criterion, distillation, dict(added or {})
        self.parts = (*(("teacher_loss",) if distillation else ()), *self.added)

    def __call__(
        self, replica: Callable[..., Any], clips: Tensor, targets: Tensor, batch: Mapping[str, Any]
    ) -> Outcome:
        logits, losses = replica(clips, with_losses=True) if self.added else (replica(clips), {})
        loss, parts = self.criterion(logits, targets), {}
        if self.distillation:
            parts["teacher_loss"] = teacher_loss = self.distillation.loss(clips, logits)
            loss = self.distillation.combine(loss, teacher_loss)
        for name, weight in self.added.items():
            parts[name] = losses[name]
            loss = loss + weight * losses[name]
        return Outcome(loss, logits, parts)
