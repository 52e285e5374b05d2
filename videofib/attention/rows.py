"""``weighted_rows``: where the attention of queries goes, without the matrix of its weights."""

import torch
from torch import Tensor

from videofib.attention.backends import MASKINGS
from videofib.attention.kernels import dense, gather
from videofib.attention.support import Support


@torch.no_grad()
def weighted_rows(
    weights: Tensor, q: Tensor, k: Tensor, support: Support, *, masking: str = "exclude", scale: float | None = None
) -> Tensor:
    """Rows of each head's attention matrix A, weighted and summed: Σ_j weights[j] · A[j, :].

    One product of a vector with A, for every head: with one weight of 1 it is what this query attends to. A row of A
    sums to 1, so the result sums to the sum of the weights. Sparse supports take O(N · offsets) time and memory, dense
    ones O(N²) time; there is never an N x N tensor, and there are no gradients.

    Args:
        weights: (B, P+N), of the queries.
        q, k: (B, H, P+N, D), prefix tokens first; 16 bits are computed in 32.
        support, masking, scale: as for :func:`videofib.attention.sparse_attention`, whose A it is.

    Returns:
        (B, H, P+N): how much of the weights each key receives.

    Raises:
        ValueError: shapes that do not fit, or an unknown masking; the message shows the values.
    """
    if masking not in MASKINGS:
        raise ValueError(f"unknown masking {masking!r}; known: {', '.join(MASKINGS)}")
    expected = (support.num_heads, support.num_prefix_tokens + support.num_tokens)
    if q.ndim != 4 or q.shape != k.shape or q.shape[1:3] != expected or weights.shape != (q.shape[0], q.shape[2]):
        raise ValueError(
            f"the support is for {support.num_heads} heads and {support.num_prefix_tokens} + {support.num_tokens} "
            f"tokens, got weights {tuple(weights.shape)} (B, P+N), q {tuple(q.shape)} and k {tuple(k.shape)} "
            "(B, H, P+N, D)"
        )
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    work = torch.float32 if q.dtype in (torch.float16, torch.bfloat16) else q.dtype
    weights, q, k = weights.to(work), q.to(work), k.to(work)
    if support.is_dense:
        return dense.weighted_rows(weights, q, k, scale)
    return gather.weighted_rows(weights, q, k, support, masking, scale)
