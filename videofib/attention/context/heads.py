"""The exchange of tokens for heads and back, as DeepSpeed-Ulysses does it (arXiv 2309.14509, section 3).

The kernels see complete sequences, of some heads, and stay as they are::

                 heads                        heads
              0   1   2                    0   1   2
            +-----------+                +---+-------+
    tokens  |  rank 0   |  all-to-all    | r |       |
            +-----------+  ----------->  | 0 | rank 1|  attend, then back to slices
            |  rank 1   |  <-----------  |   |       |
            +-----------+                +---+-------+

Heads are divided by their number of pairs. Axes: b batch, h heads, n tokens, d width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import accumulate

import torch
import torch.distributed as dist
from einops import rearrange
from torch import Tensor

from videofib.attention.context.group import TokenSlice
from videofib.attention.support import Support


def attend_by_heads(
    q: Tensor, k: Tensor, v: Tensor, support: Support, tokens: TokenSlice, attend: Callable[..., Tensor], **options
) -> Tensor:
    """``attend`` of complete sequences: (B, H, n, D) of the local tokens -> (B, H, n, D).

    Args:
        q, k, v, support, tokens, attend, options: see :func:`context_parallel_attention`.

    Raises:
        ValueError: fewer heads than processes.
    """
    heads = split_heads(support, tokens.context.size)
    q, k, v = _TokensToHeads.apply(tokens, heads, q, k, v)
    out = attend(q, k, v, support.for_heads(heads[tokens.context.rank]), **options)
    return _HeadsToTokens.apply(tokens, heads, out)[0]


def check_heads(num_heads: int, processes: int) -> None:
    """Raise ValueError where there are fewer heads than processes."""
    if processes > num_heads:
        raise ValueError(
            f"{processes} processes cannot share the {num_heads} heads of attention: each needs one; let at most "
            f"{num_heads} processes share a clip, or set mode 'ring' for dense attention, 'halo' for a sparse one"
        )


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
