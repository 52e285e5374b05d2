"""Dense supports: torch's own fused attention, where there is nothing to skip."""

import torch.nn.functional as F
from torch import Tensor

from videofib.attention.support import Support


def attend(q: Tensor, k: Tensor, v: Tensor, support: Support, masking: str, scale: float, dropout_p: float) -> Tensor:
    """See :func:`videofib.attention.sparse_attention`; both maskings are the same where no pair is masked."""
    if not support.is_dense:
        raise ValueError(f"backend 'dense' serves dense supports only, got {support}")
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout_p, scale=scale)
