"""Context parallelism: attention over a sequence of which every process holds a slice of the tokens.

Everything in a transformer but attention works token by token, so processes that share a sequence of P+N tokens hold
1/R of its activations each. For attention they exchange slices of tokens for heads and back (as DeepSpeed-Ulysses does,
arXiv 2309.14509, section 3), so that the kernels see whole sequences and need not know::

                 heads                        heads
              0   1   2                    0   1   2
            +-----------+                +---+-------+
    tokens  |  rank 0   |  all-to-all    | r |       |
            +-----------+  ----------->  | 0 | rank 1|  attend, and all the way back
            |  rank 1   |  <-----------  |   |       |
            +-----------+                +---+-------+

Slices differ by one token at most, whatever P+N; heads are dealt by their number of pairs. Axes: b batch, h heads, n
tokens, d width of a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate

import torch
import torch.distributed as dist
from einops import rearrange
from torch import Tensor

from videofib.attention import op
from videofib.attention.functional import sparse_attention
from videofib.attention.support import Support


class ContextGroup:
    """The processes that share a sequence; every one of them takes each step below, and in the same order.

    Args:
        group: of torch.distributed; None: all processes.
    """

    def __init__(self, group: dist.ProcessGroup | None = None):
        self.group, self.rank, self.size = group, dist.get_rank(group), dist.get_world_size(group)

    def __deepcopy__(self, memo: dict) -> ContextGroup:
        return self  # the copy of a model talks to the same processes

    def shard(self, total: int) -> TokenShard:
        """How ``total`` = P+N tokens are shared.

        Raises:
            ValueError: fewer tokens than processes.
        """
        if total < self.size:
            raise ValueError(f"{total} tokens cannot be shared by {self.size} processes")
        return TokenShard(self, total)

    @torch.compiler.disable
    def sum(self, x: Tensor) -> Tensor:
        """The sum over processes of tensors of one shape.

        Its gradient is the sum of the processes' gradients: that of the sum of their losses. Where all of them compute
        the same loss from the result, that is R times the loss, of which each process finds the part of its own tokens;
        averaging over processes, as data parallel training does anyway, gives the loss's gradient. What comes after
        the sum, such as a classifier, has the same gradient in every process, which averaging leaves as it is.
        """
        return _Sum.apply(x, self.group)


@dataclass(frozen=True)
class TokenShard:
    """This process's slice of ``total`` tokens, prefix tokens first."""

    context: ContextGroup
    total: int

    @property
    def counts(self) -> list[int]:
        """The number of tokens of each process."""
        each, more = divmod(self.total, self.context.size)
        return [each + (rank < more) for rank in range(self.context.size)]

    @property
    def own(self) -> range:
        """The tokens of this process."""
        edges = list(accumulate(self.counts, initial=0))
        return range(edges[self.context.rank], edges[self.context.rank + 1])


@torch.compiler.disable  # a compiler's graphs end where processes meet
def context_parallel_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    support: Support,
    shard: TokenShard,
    **options,
) -> Tensor:
    """:func:`sparse_attention` over all tokens of a sequence, of which this process holds the slice ``shard.own``.

    Args:
        q, k, v: (B, H, n, D) for the n tokens of the slice, alike in all else in every process.
        support: for H heads and all P+N tokens.
        options: of :func:`sparse_attention`. Dropout is drawn by each process for its heads.

    Returns:
        (B, H, n, D): the slice of what :func:`sparse_attention` gives.

    Raises:
        ValueError: slices that do not fit the support, or fewer heads than processes; the message shows the values.
    """
    _check(q, k, v, support, shard)
    heads = share_heads(support, shard.context.size)
    q, k, v = op.autocast(q.device.type, q, k, v)  # before they travel
    q, k, v = _TokensToHeads.apply(shard, heads, q, k, v)
    out = sparse_attention(q, k, v, support.for_heads(heads[shard.context.rank]), **options)
    return _HeadsToTokens.apply(shard, heads, out)[0]


@lru_cache(maxsize=256)
def share_heads(support: Support, ranks: int) -> tuple[range, ...]:
    """Neighbouring heads for each process, at least one, so that the most pairs any has to do are as few as can be.

    Raises:
        ValueError: fewer heads than processes.
    """
    count = support.num_heads
    if ranks > count:
        raise ValueError(
            f"{ranks} processes cannot share the {count} heads of attention: each needs one; let fewer processes share "
            "a clip"
        )
    pairs = list(accumulate((support.for_heads(range(h, h + 1)).num_pairs() for h in range(count)), initial=0))
    best = {0: (0, (0,))}  # heads dealt -> the most pairs of a process, and the edges of the processes' heads
    for rank in range(ranks):
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


def _check(q: Tensor, k: Tensor, v: Tensor, support: Support, shard: TokenShard) -> None:
    if not q.shape == k.shape == v.shape or not q.dtype == k.dtype == v.dtype:
        raise ValueError(
            f"q, k and v must have one shape (B, H, n, D) and dtype, got {tuple(q.shape)}, {tuple(k.shape)}, "
            f"{tuple(v.shape)} and {q.dtype}, {k.dtype}, {v.dtype}"
        )
    expected = (support.num_heads, len(shard.own))
    if q.ndim != 4 or tuple(q.shape[1:3]) != expected:
        raise ValueError(
            f"process {shard.context.rank} of {shard.context.size} holds {expected[1]} of {shard.total} tokens, and "
            f"the support has {expected[0]} heads; got q of shape {tuple(q.shape)} (B, H, n, D)"
        )
    if shard.total != support.num_prefix_tokens + support.num_tokens:
        raise ValueError(
            f"the support is for {support.num_prefix_tokens} + {support.num_tokens} tokens; shared are {shard.total}"
        )


class _TokensToHeads(torch.autograd.Function):
    """Tensors (B, H, n, D), this process's tokens, -> (B, h, P+N, D), its heads."""

    @staticmethod
    def forward(ctx, shard, heads, *tensors):
        ctx.shared = shard, heads
        return _tokens_to_heads(shard, heads, tensors)

    @staticmethod
    def backward(ctx, *gradients):
        return None, None, *_heads_to_tokens(*ctx.shared, gradients)


class _HeadsToTokens(torch.autograd.Function):
    """Tensors (B, h, P+N, D), this process's heads, -> (B, H, n, D), its tokens."""

    @staticmethod
    def forward(ctx, shard, heads, *tensors):
        ctx.shared = shard, heads
        return _heads_to_tokens(shard, heads, tensors)

    @staticmethod
    def backward(ctx, *gradients):
        return None, None, *_tokens_to_heads(*ctx.shared, gradients)


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, group):
        ctx.group = group
        return _summed(x, group)

    @staticmethod
    def backward(ctx, gradient):
        return _summed(gradient, ctx.group), None


# What travels lies in memory as (tokens, tensors, B, heads, D): then slices of tokens follow each other as they are,
# and only heads have to be packed.


def _tokens_to_heads(shard: TokenShard, heads: Sequence[range], tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    batch, _, tokens, dim = tensors[0].shape
    each = len(tensors) * batch * dim  # numbers a token has in a head
    send, own = [tokens * each * len(part) for part in heads], len(heads[shard.context.rank])
    packed = tensors[0].new_empty(sum(send))
    for room, part in zip(packed.split(send), heads, strict=True):
        room = room.view(tokens, len(tensors), batch, len(part), dim)
        for place, x in enumerate(tensors):
            room[:, place].copy_(rearrange(x[:, part.start : part.stop], "b h n d -> n b h d"))
    whole = packed.new_empty(shard.total, len(tensors), batch, own, dim)
    receive = [count * each * own for count in shard.counts]
    dist.all_to_all_single(whole.view(-1), packed, receive, send, group=shard.context.group)
    return tuple(rearrange(whole, "n tensors b h d -> tensors b h n d"))


def _heads_to_tokens(shard: TokenShard, heads: Sequence[range], tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    batch, own, _, dim = tensors[0].shape
    each, tokens = len(tensors) * batch * dim, len(shard.own)
    whole = torch.stack([rearrange(x, "b h n d -> n b h d") for x in tensors], dim=1)
    send, receive = [count * each * own for count in shard.counts], [tokens * each * len(part) for part in heads]
    packed = whole.new_empty(sum(receive))
    dist.all_to_all_single(packed, whole.view(-1), receive, send, group=shard.context.group)
    del whole
    pieces = zip(packed.split(receive), heads, strict=True)
    joined = torch.cat([room.view(tokens, len(tensors), batch, len(part), dim) for room, part in pieces], dim=3)
    return tuple(rearrange(joined, "n tensors b h d -> tensors b h n d"))


def _summed(x: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total, group=group)
    return total
