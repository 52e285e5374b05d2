"""Several tasks in one model: a classifier for each, and what the blocks are told about the task of a batch.

B clips, D width, d width of a task's vector, T tasks, K classes of a task.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TASK = "task"  # in the memory that blocks hand on: an ``ActiveTask``
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_VECTOR_EPS = 1e-6


class ActiveTask(NamedTuple):
    """The task of the clips of a forward pass.

    Attributes:
        number: among the model's tasks, from 0.
        vector: (d,), where routers read one.
    """

    number: int
    vector: Tensor | None = None


class TaskVectors(nn.Module):
    """A learned vector of each task, LN(W2 GELU(W1 onehot + b1) + b2), as M3ViT's ``gate_task_represent``.

    Args:
        num_tasks, dim: T, d.
    """

    def __init__(self, num_tasks: int, dim: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(num_tasks, dim), nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=_VECTOR_EPS)

    def forward(self, task: int) -> Tensor:
        """The vector (d,) of a task."""
        onehot = torch.zeros_like(self.fc1.weight[0])
        onehot[task] = 1.0
        return self.norm(self.fc2(F.gelu(self.fc1(onehot))))


class TaskHeads(nn.ModuleDict):
    """A classifier for each task, under its name.

    Args:
        dim: D.
        tasks: name -> K.
    """

    def __init__(self, dim: int, tasks: Mapping[str, int]):
        super().__init__({name: nn.Linear(dim, num_classes) for name, num_classes in tasks.items()})

    def forward(self, features: Tensor, task: str) -> Tensor:
        """(B, D) -> (B, K): the logits of one task; the others' classifiers are not computed."""
        logits = self[task](features)
        if self.training:
            idle = [parameter for name, head in self.items() if name != task for parameter in head.parameters()]
            logits = logits + untouched(idle).to(logits)
        return logits


def untouched(parameters: Iterable[nn.Parameter]) -> Tensor | float:
    """0, with a gradient of 0 for each of these: processes that average gradients expect one of every parameter."""
    return sum((parameter.flatten()[:0].sum() for parameter in parameters), torch.zeros(()))


def check_tasks(tasks: Mapping[str, int]) -> dict[str, int]:
    """Tasks by name, with their numbers of classes.

    Raises:
        ValueError: a name that no module can have, or a task without classes.
    """
    for name, num_classes in tasks.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name) or hasattr(nn.ModuleDict, name):
            raise ValueError(
                f"the name of a task is made of letters, digits, - and _, and is no word of torch, got {name!r}"
            )
        if not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(f"the task {name!r} needs at least one class, got {num_classes!r}")
    return dict(tasks)
