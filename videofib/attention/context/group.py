"""Processes that share a sequence: which tokens each of them holds, and sums over all tokens.

Slices follow one another in order of rank, prefix tokens first, and differ by one token at most, whatever P+N.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch
import torch.distributed as dist
from torch import Tensor

CONTEXT_MODES = ("auto", "heads", "ring", "halo")


class ContextGroup:
    """The processes that share a sequence. Each function below is called by all of them, in the same order.

    Args:
        group: of torch.distributed; None: all processes.
        mode: what attention exchanges, one of ``CONTEXT_MODES``; see :mod:`videofib.attention.context`.

    Raises:
        ValueError: an unknown mode.
    """

    def __init__(self, group: dist.ProcessGroup | None = None, mode: str = "auto"):
        if mode not in CONTEXT_MODES:
            raise ValueError(f"unknown mode of context parallelism {mode!r}; known: {', '.join(CONTEXT_MODES)}")
        self.group, self.rank, self.size = group, dist.get_rank(group), dist.get_world_size(group)
        self.mode = mode

    def __deepcopy__(self, memo: dict) -> ContextGroup:
        return self  # the copy of a model exchanges tokens with the same processes

    def slice(self, total: int) -> TokenSlice:
        """This process's slice of ``total`` = P+N tokens.

        Raises:
            ValueError: fewer tokens than processes.
        """
        if total < self.size:
            raise ValueError(f"{total} tokens cannot be shared by {self.size} processes")
        return TokenSlice(self, total)

    @torch.compiler.disable
    def sum(self, x: Tensor) -> Tensor:
        """The sum over processes of tensors of one shape.

        Its gradient is the sum of the processes' gradients: that of the sum of their losses. Where all of them compute
        the same loss from the result, that is R times the loss, of which each process computes the part of its local
        tokens; averaging over processes, as data parallel training does anyway, gives the loss's gradient. What comes
        after the sum, such as a classifier, has the same gradient in every process, which averaging leaves unchanged.
        """
        return _Sum.apply(x, self.group)


@dataclass(frozen=True)
class TokenSlice:
    """A process's slice of ``total`` = P+N tokens, prefix tokens first; slices follow one another in order of rank."""

    context: ContextGroup
    total: int

    @property
    def counts(self) -> list[int]:
        """The number of tokens in the slice of each process."""
        return token_counts(self.total, self.context.size)

    @property
    def positions(self) -> range:
        """The positions in the sequence of this process's tokens."""
        edges = token_edges(self.total, self.context.size)
        return range(edges[self.context.rank], edges[self.context.rank + 1])


def token_counts(total: int, processes: int) -> list[int]:
    """The number of tokens in the slice of each process."""
    each, more = divmod(total, processes)
    return [each + (rank < more) for rank in range(processes)]


def token_edges(total: int, processes: int) -> list[int]:
    """Where slices begin, and where the last one ends: R + 1 positions."""
    return list(accumulate(token_counts(total, processes), initial=0))


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        return _summed(x, group)

    @staticmethod
    def backward(ctx, gradient):
        return _summed(gradient, ctx.group), None


def _summed(x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=group)
    return total
