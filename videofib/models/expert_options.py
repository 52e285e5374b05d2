"""The options of a model's experts, as ``TimeSformer(experts={...})`` takes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from videofib.mixers import check_name
from videofib.mixers.options import check_arguments
from videofib.models.blocks import BlockSpec

ROUTINGS = ("shared", "multi_gate", "task_embedding")


@dataclass(frozen=True)
class ExpertOptions:
    """Which blocks have experts, and how tokens choose.

    Attributes:
        num: E, experts of a block.
        top_k: K, experts of a token.
        every: n, so that every n-th block has experts, from block n - 1 on; the others have an MLP.
        ratio: hidden width of an expert / width of tokens; None: the model's ``mlp_ratio`` / K, so that a token takes
            as many multiply-adds as in the MLP.
        routing: ``shared``, one router a block; ``multi_gate``, one for each task; or ``task_embedding``, one that also
            reads a learned vector of the task.
        task_dim: width of that vector.
        per_task: experts from which each task chooses, neighbours whose ranges are spread evenly; None: all.
        noise: standard deviation of the noise on logits in training, times E, as published.
    """

    num: int = 8
    top_k: int = 2
    every: int = 2
    ratio: float | None = None
    routing: str = "shared"
    task_dim: int = 64
    per_task: int | None = None
    noise: float = 0.0

    @classmethod
    def checked(
        cls, options: Mapping[str, Any], dim: int, depth: int, mlp_ratio: float, num_tasks: int
    ) -> ExpertOptions:
        """The options for a model of this width, depth and number of tasks.

        Raises:
            ValueError: an option that there is not, or a value that cannot be; the message shows it.
        """
        known = {name: field.default for name, field in cls.__dataclass_fields__.items()}
        check_arguments("experts", cls.__init__, known, options)
        made = cls(**options)
        check_name("routing of experts", made.routing, ROUTINGS)
        width = made.num if made.per_task is None else made.per_task
        for name, value, least, most in (
            ("num", made.num, 1, None),
            ("per_task", width, 1, made.num),
            ("top_k", made.top_k, 1, width),
            ("every", made.every, 1, depth),
            ("task_dim", made.task_dim, 1, None),
        ):
            if value < least or (most is not None and value > most):
                bounds = f"at least {least}" if most is None else f"from {least} to {most}"
                raise ValueError(f"{name} of experts must be {bounds}, got {name}={value} with {made.num} experts")
        if made.noise < 0:
            raise ValueError(f"noise of experts must not be negative, got noise={made.noise}")
        if made.ratio is None:
            made = replace(made, ratio=mlp_ratio / made.top_k)
        if int(dim * made.ratio) < 1:
            raise ValueError(f"experts need a hidden width of at least 1, got ratio={made.ratio} of width {dim}")
        if num_tasks < 2 and (made.routing != "shared" or made.per_task is not None):
            what = f"routing={made.routing!r}" if made.routing != "shared" else f"per_task={made.per_task}"
            raise ValueError(f"experts with {what} need a model of several tasks, got {num_tasks}; set tasks")
        return made

    def hidden(self, spec: BlockSpec) -> int:
        """F, the hidden width of an expert."""
        ratio = spec.mlp_ratio / self.top_k if self.ratio is None else self.ratio
        return int(spec.dim * ratio)

    def ranges(self, num_tasks: int) -> list[range]:
        """Of each task, the experts from which it chooses; of a model without tasks, all of them."""
        count = max(1, num_tasks)
        if self.per_task is None:
            return [range(self.num)] * count
        starts = [task * (self.num - self.per_task) // (count - 1) for task in range(count)]
        return [range(start, start + self.per_task) for start in starts]

    def in_block(self, index: int) -> bool:
        """Whether the block has experts."""
        return index % self.every == self.every - 1
