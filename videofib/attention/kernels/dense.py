"""Dense supports: torch's own fused attention, where there is nothing to skip."""

import torch
import torch.nn.functional as F
from torch import Tensor

from videofib.attention import autocast
from videofib.attention.support import Support

_MOST_LOGITS = 1 << 22  # that weighted_rows holds at a time, unless a single row of all heads has more


def attend(q: Tensor, k: Tensor, v: Tensor, support: Support, masking: str, scale: float, dropout_p: float) -> Tensor:
    """See :func:`videofib.attention.sparse_attention`; the maskings do not differ, for no pair is masked."""
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout_p, scale=scale)


def attend_by_autograd(
    q: Tensor, k: Tensor, v: Tensor, support: Support, masking: str, scale: float, dropout_p: float
) -> Tensor:
    """As ``attend``, of operations that torch differentiates in either direction, to any order; O(N²) memory."""
    work = torch.float32 if q.dtype in (torch.float16, torch.bfloat16) else q.dtype
    with autocast.disabled(q.device.type):
        weights = torch.softmax(q.to(work) * scale @ k.to(work).transpose(-2, -1), dim=-1)
        return (F.dropout(weights, dropout_p) @ v.to(work)).to(q.dtype)


def weighted_rows(weights: Tensor, q: Tensor, k: Tensor, scale: float) -> Tensor:
    """See :func:`videofib.attention.weighted_rows`: O(N²) time, and never all rows of weights in memory."""
    out = q.new_zeros(q.shape[:3])
    rows = max(1, _MOST_LOGITS // max(1, out.numel()))
    for some, queries in zip(weights.split(rows, dim=1), q.split(rows, dim=2), strict=True):
        own = torch.softmax(queries * scale @ k.transpose(-2, -1), dim=-1)
        out += torch.einsum("bq,bhqk->bhk", some, own)
    return out
