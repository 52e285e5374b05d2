"""Dense supports: torch's own fused attention, where there is nothing to skip."""

import torch
import torch.nn.functional as F
from torch import Tensor

from videofib.attention import autocast
from videofib.attention.support import Support


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
