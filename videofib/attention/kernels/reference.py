"""The ground truth: dense logits, a dense mask, a softmax. Slow, O(N²) memory, and obviously right."""

import torch
import torch.nn.functional as F
from torch import Tensor

from videofib.attention.support import Support


def attend(q: Tensor, k: Tensor, v: Tensor, support: Support, masking: str, scale: float, dropout_p: float) -> Tensor:
    """See :func:`videofib.attention.sparse_attention`."""
    mask = support.to_mask(q.device)
    logits = q @ k.transpose(-2, -1) * scale
    logits = logits.masked_fill(~mask, float("-inf") if masking == "exclude" else 0.0)
    weights = F.dropout(torch.softmax(logits, dim=-1), dropout_p)
    return weights @ v
