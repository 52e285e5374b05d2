"""How results lie in memory."""

from torch import Tensor


def rows_like(x: Tensor, memory: Tensor | None = None) -> Tensor:
    """An uninitialised (B, H, P+N, D) that lies in memory as (B, P+N, H, D), so that merging the heads costs no copy.

    Args:
        x: whose shape, dtype and device the result has.
        memory: as many bytes, contiguous, to use; by default they are allocated.
    """
    batch, heads, total, dim = x.shape
    shape = batch, total, heads, dim
    return (x.new_empty(shape) if memory is None else memory.view(x.dtype).view(shape)).transpose(1, 2)
