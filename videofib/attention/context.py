"""Context parallelism: attention over a sequence of which each process holds a slice of the tokens.

Everything in a transformer but attention works token by token, so processes that share a sequence of P+N tokens hold
1/R of its activations each. For attention they exchange slices of tokens for heads and back (as DeepSpeed-Ulysses does,
arXiv 2309.14509, section 3), so that the kernels see complete sequences and stay as they are::

                 heads                        heads
              0   1   2                    0   1   2
            +-----------+                +---+-------+
    tokens  |  rank 0   |  all-to-all    | r |       |
            +-----------+  ----------->  | 0 | rank 1|  attend, then back to slices
            |  rank 1   |  <-----------  |   |       |
            +-----------+                +---+-------+

Slices differ by one token at most, whatever P+N; heads are divided by their number of pairs. Axes: b batch, h heads, n
tokens, d width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import torch
import torch.distributed as dist
from einops import rearrange
from torch import Tensor

from videofib.attention import autocast
from videofib.attention.functional import sparse_attention
from videofib.attention.support import Support


class ContextGroup:
    """The processes that share a sequence. Each function below is called by all of them, in the same order.

    Args:
        group: of torch.distributed; None: all processes.
    """

    def __init__(self, group: dist.ProcessGroup | None = None):
        self.group, self.rank, self.size = group, dist.get_rank(group), dist.get_world_size(group)

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
        each, more = divmod(self.total, self.context.size)
        return [each + (rank < more) for rank in range(self.context.size)]

    @property
    def positions(self) -> range:
        """The positions in the sequence of this process's tokens."""
        edges = list(accumulate(self.counts, initial=0))
        return range(edges[self.context.rank], edges[self.context.rank + 1])


def check_heads(num_heads: int, processes: int) -> None:
    """Raise ValueError where there are fewer heads than processes."""
    if processes > num_heads:
        raise ValueError(
            f"{processes} processes cannot share the {num_heads} heads of attention: each needs one; let at most "
            f"{num_heads} processes share a clip"
        )


@torch.compiler.disable  # a compiled graph ends where processes exchange tensors
def context_parallel_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    support: Support,
    tokens: TokenSlice,
    *,
    attend: Callable[..., Tensor] = sparse_attention,
    **options,
) -> Tensor:
    """:func:`sparse_attention` over all tokens of a sequence, of which this process holds the slice ``tokens``.

    Args:
        q, k, v: (B, H, n, D) for the n tokens of the slice; B, H, D and dtype are the same in every process.
        support: for H heads and all P+N tokens.
        attend: what each process computes of its heads: a function with the arguments and the result of
            :func:`sparse_attention`, in which heads exchange nothing.
        options: of ``attend``. Dropout is drawn by each process for its heads.

    Returns:
        (B, H, n, D): the slice of what :func:`sparse_attention` gives.

    Raises:
        ValueError: slices that do not match the support, or fewer heads than processes; the message shows the values.
    """
    _check(q, k, v, support, tokens)
    heads = split_heads(support, tokens.context.size)
    q, k, v = autocast.cast(q.device.type, q, k, v)  # before they are sent
    q, k, v = _TokensToHeads.apply(tokens, heads, q, k, v)
    out = attend(q, k, v, support.for_heads(heads[tokens.context.rank]), **options)
    return _HeadsToTokens.apply(tokens, heads, out)[0]


@lru_cache(maxsize=256)
def split_heads(support: Support, processes: int) -> tuple[range, ...]:
    """Consecutive heads for each process, at least one, such that the largest number of pairs is as small as possible.

    Raises:
        ValueError: fewer heads than processes.
    """
    count = support.num_heads
    check_heads(count, processes)
    pairs = list(accumulate((support.for_heads(range(h, h + 1)).num_pairs() for h in range(count)), initial=0))
    # heads assigned so far -> the most pairs of a process, and the edges between processes
    best: dict[int, tuple[int, tuple[int, ...]]] = {0: (0, (0,))}
    for rank in range(processes):
        best = {
            stop: min(
                (max(most, pairs[stop] - pairs[start]), (*edges, stop))
                for start, (most, edges) in best.items()
                if start < stop
            )
            for stop in range(rank + 1, count + 1)
        }
    edges = best[count][1]
    return tuple(map(range, edges, edges[1:]))


def _check(q: Tensor, k: Tensor, v: Tensor, support: Support, tokens: TokenSlice) -> None:
    if not q.shape == k.shape == v.shape or not q.dtype == k.dtype == v.dtype:
        raise ValueError(
            f"q, k and v must have one shape (B, H, n, D) and dtype, got {tuple(q.shape)}, {tuple(k.shape)}, "
            f"{tuple(v.shape)} and {q.dtype}, {k.dtype}, {v.dtype}"
        )
    expected = (support.num_heads, len(tokens.positions))
    if q.ndim != 4 or tuple(q.shape[1:3]) != expected:
        raise ValueError(
            f"process {tokens.context.rank} of {tokens.context.size} holds {expected[1]} of {tokens.total} tokens, and "
            f"the support has {expected[0]} heads; got q of shape {tuple(q.shape)} (B, H, n, D)"
        )
    if tokens.total != support.num_prefix_tokens + support.num_tokens:
        raise ValueError(
            f"the support is for {support.num_prefix_tokens} + {support.num_tokens} tokens; the processes share "
            f"{tokens.total}"
        )


class _TokensToHeads(torch.autograd.Function):
    """Tensors (B, H, n, D) of the local tokens -> (B, h, P+N, D) of the local heads."""

    @staticmethod
    def forward(ctx, tokens, heads, *tensors):
        ctx.split = tokens, heads
        return _tokens_to_heads(tokens, heads, tensors)

    @staticmethod
    def backward(ctx, *gradients):
        return None, None, *_heads_to_tokens(*ctx.split, gradients)


class _HeadsToTokens(torch.autograd.Function):
    """Tensors (B, h, P+N, D) of the local heads -> (B, H, n, D) of the local tokens."""

    @staticmethod
    def forward(ctx, tokens, heads, *tensors):
        ctx.split = tokens, heads
        return _heads_to_tokens(tokens, heads, tensors)

    @staticmethod
    def backward(ctx, *gradients):
        return None, None, *_tokens_to_heads(*ctx.split, gradients)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        return _summed(x, group)

    @staticmethod
    def backward(ctx, gradient):
        return _summed(gradient, ctx.group), None


# Buffers that are sent are laid out as (tokens, tensors, B, heads, D): slices of tokens are then contiguous, and only
# heads have to be packed.


def _tokens_to_heads(tokens: TokenSlice, heads: Sequence[range], tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    batch, _, count, dim = tensors[0].shape
    each = len(tensors) * batch * dim  # numbers of one token in one head
    send, local_heads = [count * each * len(part) for part in heads], len(heads[tokens.context.rank])
    packed = tensors[0].new_empty(sum(send))
    for buffer, part in zip(packed.split(send), heads, strict=True):
        buffer = buffer.view(count, len(tensors), batch, len(part), dim)
        for index, x in enumerate(tensors):
            buffer[:, index].copy_(rearrange(x[:, part.start : part.stop], "b h n d -> n b h d"))
    full = packed.new_empty(tokens.total, len(tensors), batch, local_heads, dim)
    receive = [n * each * local_heads for n in tokens.counts]
    dist.all_to_all_single(full.view(-1), packed, receive, send, group=tokens.context.group)
    return tuple(rearrange(full, "n tensors b h d -> tensors b h n d"))


def _heads_to_tokens(tokens: TokenSlice, heads: Sequence[range], tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    batch, local_heads, _, dim = tensors[0].shape
    each, count = len(tensors) * batch * dim, len(tokens.positions)
    full = torch.stack([rearrange(x, "b h n d -> n b h d") for x in tensors], dim=1)
    send = [n * each * local_heads for n in tokens.counts]
    receive = [count * each * len(part) for part in heads]
    packed = full.new_empty(sum(receive))
    dist.all_to_all_single(packed, full.view(-1), receive, send, group=tokens.context.group)
    del full
    parts = zip(packed.split(receive), heads, strict=True)
    joined = torch.cat([buffer.view(count, len(tensors), batch, len(part), dim) for buffer, part in parts], dim=3)
    return tuple(rearrange(joined, "n tensors b h d -> tensors b h n d"))


def _summed(x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=group)
    return total
