"""Sparse attention in a few plain operations, for graphs that other programs run (``torch.export``, ONNX).

A head has up to S segments. The r-th of every head together are one row of keys for each query, gathered by index:

    keys of rank r      k[h, j + shift(r, h)]        h head, j query; clamped where the segment does not reach j
    logits              q · k for each rank, and for each of the P prefix tokens: (B, H, N, S + P)

So a graph has a number of nodes that grows with S, not with heads times segments as in ``gather``, and the largest
tensors are q, k and v and these logits: time and memory are O(N · offsets), and nothing is N x N. The indices are
computed from the S x H shifts, so that no table of them is stored.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from videofib.attention.kernels import dense
from videofib.attention.support import Segment, Support

_NO_SEGMENT = Segment(0, 0, 0)


def attend(q: Tensor, k: Tensor, v: Tensor, support: Support, masking: str, scale: float, dropout_p: float) -> Tensor:
    """See :func:`videofib.attention.sparse_attention`; 16-bit inputs are computed in 32 bits.

    No dropout under ``zero_logit``. Autocast is not switched off here, since that would be a part of the graph. A dense
    support has 2 N - 1 diagonals, and is one operation of torch's own instead.
    """
    if support.is_dense:
        return dense.attend(q, k, v, support, masking, scale, dropout_p)
    dtype, work = q.dtype, torch.float32 if q.dtype in (torch.float16, torch.bfloat16) else q.dtype
    q, k, v = q.to(work) * scale, k.to(work), v.to(work)
    p = support.num_prefix_tokens
    out = _attend_patches(q[:, :, p:], k, v, support, masking == "zero_logit", dropout_p)
    if p:
        weights = torch.softmax(q[:, :, :p] @ k.transpose(-2, -1), dim=-1)
        if dropout_p:
            weights = F.dropout(weights, dropout_p)
        out = torch.cat((weights @ v, out), 2)
    return out.to(dtype)


def _attend_patches(q: Tensor, k: Tensor, v: Tensor, support: Support, zero_logit: bool, dropout_p: float) -> Tensor:
    """Patch queries (B, H, N, D) see their keys among (B, H, P+N, D)."""
    p, total = support.num_prefix_tokens, k.shape[2]
    rows, exists = _rows(support, q.device)  # (S, H·N) and (H, N, S)
    keys, values = (x[:, :, p:].flatten(1, 2) for x in (k, v))  # (B, H·N, D)
    ranks = [(q * keys.index_select(1, row).unflatten(1, q.shape[1:3])).sum(-1, keepdim=True) for row in rows]
    logits = torch.cat(ranks, -1).masked_fill(~exists, float("-inf"))
    if p:
        logits = torch.cat((logits, q @ k[:, :, :p].transpose(-2, -1)), -1)
    weights, masked = _softmax(logits, total if zero_logit else None)
    if dropout_p:
        weights = F.dropout(weights, dropout_p)
    out = weights[..., len(rows) :] @ v[:, :, :p] if p else torch.zeros_like(q)
    for rank, row in enumerate(rows):
        out = out + weights[..., rank : rank + 1] * values.index_select(1, row).unflatten(1, q.shape[1:3])
    return out if masked is None else out + masked * v.sum(2, keepdim=True)


def _softmax(logits: Tensor, num_keys: int | None) -> tuple[Tensor, Tensor | None]:
    """Softmax over the last axis of (B, H, N, S + P), whose -inf are pairs that do not exist.

    With ``num_keys`` (masking ``zero_logit``) all other keys up to that number have logit 0: the first result is by how
    much each weight exceeds that of such a key, which is the second, (B, H, N, 1).
    """
    if num_keys is None:
        return torch.softmax(logits, dim=-1), None
    exists = logits > float("-inf")
    top = logits.amax(-1, keepdim=True).clamp_min(0)
    masked = torch.exp(-top)
    excess = torch.where(exists, torch.exp(logits - top) - masked, 0.0)
    total = excess.sum(-1, keepdim=True) + num_keys * masked
    return excess / total, masked / total


def _rows(support: Support, device: torch.device) -> tuple[Tensor, Tensor]:
    """Which of the H·N keys each query has at each rank, (S, H·N), and whether there is such a pair, (H, N, S)."""
    shifts, starts, stops = (
        torch.tensor(table, device=device).unsqueeze(-1) for table in _tables(support)
    )  # (S, H, 1)
    query = torch.arange(support.num_tokens, device=device)
    head = torch.arange(support.num_heads, device=device).unsqueeze(-1)
    rows = (query + shifts).clamp(0, support.num_tokens - 1) + support.num_tokens * head  # (S, H, N)
    return rows.flatten(1), ((query >= starts) & (query < stops)).permute(1, 2, 0)


def _tables(support: Support) -> tuple[list[list[int]], ...]:
    """Of each rank and head: key - query, the first query, and the one behind the last: three times S x H."""
    heads = [support.segments(head) for head in range(support.num_heads)]
    ranks = max(1, *map(len, heads))
    full = [segments + [_NO_SEGMENT] * (ranks - len(segments)) for segments in heads]
    by_rank = list(zip(*full, strict=True))
    return (
        [[s.key - s.query for s in row] for row in by_rank],
        [[s.query for s in row] for row in by_rank],
        [[s.query + s.length for s in row] for row in by_rank],
    )
