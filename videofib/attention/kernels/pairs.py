"""Attention over listed pairs in plain PyTorch: the rows of each pair are gathered by index.

    queries, keys   (E,)   row of the pair's query and key among the H·S rows of q, k and v
    logits          (B, E) one number a pair; softmax and sum go over the pairs of each query

Time and memory are O(E · D), on any device, and every operation is one that autograd differentiates to any order.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from videofib.attention import autocast
from videofib.attention.pattern import Pattern


def attend(q: Tensor, k: Tensor, v: Tensor, pattern: Pattern, scale: float, dropout_p: float) -> Tensor:
    """See :func:`videofib.attention.pattern_attention`; 16-bit inputs are computed in 32 bits."""
    work = torch.float32 if q.dtype in (torch.float16, torch.bfloat16) else q.dtype
    queries, keys = _rows(pattern, q.device)
    with autocast.disabled(q.device.type):
        rows_q, rows_k, rows_v = (x.to(work).flatten(1, 2) for x in (q, k, v))  # (B, H·S, D)
        logits = (rows_q.index_select(1, queries) * rows_k.index_select(1, keys)).sum(-1) * scale
        weights = F.dropout(_softmax(logits, queries, rows_q.shape[1]), dropout_p)
        out = torch.zeros_like(rows_q).index_add(1, queries, weights.unsqueeze(-1) * rows_v.index_select(1, keys))
    return out.view(q.shape).to(q.dtype)


def _softmax(logits: Tensor, queries: Tensor, num_rows: int) -> Tensor:
    """Softmax of (B, E) over the pairs of each query."""
    shape = logits.shape[0], num_rows  # the batch of an exported graph may vary
    largest = logits.new_full(shape, float("-inf"))
    largest = largest.scatter_reduce(1, queries.expand_as(logits), logits.detach(), "amax")
    weights = (logits - largest.index_select(1, queries)).exp()
    return weights / logits.new_zeros(shape).index_add(1, queries, weights).index_select(1, queries)


def _rows(pattern: Pattern, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which of the H·S rows is each pair's query, and which its key: (E,) each, by head and query."""
    rowptr, cols = pattern.on(device)
    total, num_pairs = pattern.num_prefix_tokens + pattern.num_tokens, pattern.num_pairs()
    counts = rowptr.diff()  # (H, S)
    rows = torch.arange(pattern.num_heads * total, device=device)
    queries = rows.repeat_interleave(counts.flatten(), output_size=num_pairs)
    heads, of_head = queries // total, counts.sum(1)
    first = rowptr[:, 0] - (of_head.cumsum(0) - of_head)  # heads may share their part of cols
    return queries, cols[torch.arange(num_pairs, device=device) + first[heads]] + heads * total
