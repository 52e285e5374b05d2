"""What a training step minimises where each batch is of one of several tasks.

B clips of a batch, C T H W channels, frames, height, width; K classes of its task.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from videofib.engine.objective import Objective, Outcome, Supervised
from videofib.engine.step import is_top1


class TaskLosses(Objective):
    """The loss of the task that ``batch["task"]`` names, times its weight.

    Its mean over the batches of the task, before the weight, is logged as ``loss_<task>``, and their accuracy in
    percent as ``clip_top1_acc_<task>``; losses of the model's blocks over the batches of all tasks.

    Args:
        objectives: of each task, on logits that ``replica(clips, task=name)`` gives.
        weights: of each task.
        judged: whether clips have one class each, so that accuracy can be said.
    """

    def __init__(self, objectives: Mapping[str, Supervised], weights: Mapping[str, float], judged: bool = True):
        self.objectives, self.weights, self.judged = dict(objectives), dict(weights), judged
        own = [f"loss_{task}" for task in self.objectives]
        own += [f"clip_top1_acc_{task}" for task in self.objectives if judged]
        self.parts = (*own, *dict.fromkeys(part for each in self.objectives.values() for part in each.parts))

    def __call__(self, replica: nn.Module, clips: Tensor, targets: Tensor, batch: Mapping[str, Any]) -> Outcome:
        task = batch["task"]
        loss, logits, parts = self.objectives[task](partial(replica, task=task), clips, targets, batch)
        parts[f"loss_{task}"] = loss
        if self.judged and logits is not None:
            parts[f"clip_top1_acc_{task}"] = 100.0 * is_top1(logits.detach(), targets).float().mean()
        return Outcome(self.weights[task] * loss, None, parts)
