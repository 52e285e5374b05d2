"""Dense supports: torch's own fused attention, where there is nothing to skip."""

import torch.nn.functional as F
from torch import Tensor

from videofib.attention.support import Support


def attend(q: Tensor, k: Tensor, v: Tensor, support: Support, masking: str, scale: float, dropout_p: float) -> Tensor:
    """See :func:`videofib.attention.sparse_attention`; the maskings do not differ, for no pair is masked."""
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout_p, scale=scale)
