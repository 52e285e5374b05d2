"""The CPU kernel: forward and backward on tensors, over loops compiled for their head_dim and dtype."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from videofib.attention.kernels.cpu.backward import make_backward
from videofib.attention.kernels.cpu.compiled import compiled, compiling_reported
from videofib.attention.kernels.cpu.forward import make_forward
from videofib.attention.kernels.cpu.lists import pair_tables
from videofib.attention.kernels.cpu.memory import SMALLEST_POOLED, ResultPool, Workspace
from videofib.attention.kernels.cpu.threads import Threads
from videofib.attention.kernels.cpu.workspace import workspace_sizes
from videofib.attention.kernels.layout import rows_like
from videofib.attention.support import Support


class CpuKernel:
    """``forward`` and ``backward`` on the CPU, and what they reuse from call to call: threads, memory of results, and a
    workspace for each Python thread. Heads are distributed over the threads. Any number of Python threads may call one
    instance at once. Memory that is unused stays with the instance until it goes.
    """

    def __init__(self):
        self._threads, self._results, self._workspace = Threads(), ResultPool(), Workspace()

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, support: Support, masking: str, scale: float
    ) -> tuple[Tensor, Tensor]:
        """Output (B, H, P+N, D), of q's dtype, and log of the softmax's denominators (B, H, P+N), of the dtype computed
        in: 32 bits for 16-bit inputs. Not recorded by autograd."""
        dtype, (q, k, v) = q.dtype, map(_readable, (q, k, v))
        out, lse = self._rows_like(q), q.new_empty(q.shape[:3])
        self._run(make_forward, (q, k, v, out), lse, support, masking, scale)
        return out.to(dtype), lse

    def backward(
        self,
        d_out: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        support: Support,
        masking: str,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of q, k and v, from that of the output and what :meth:`forward` returned."""
        dtype, (q, k, v, out, d_out) = q.dtype, map(_readable, (q, k, v, out, d_out))
        gradients = [self._rows_like(q) for _ in range(3)]
        self._run(make_backward, (q, k, v, out, d_out, *gradients), lse, support, masking, scale)
        return tuple(x.to(dtype) for x in gradients)

    def _rows_like(self, x: Tensor) -> Tensor:
        size = x.numel() * x.element_size()
        return rows_like(x, None if size < SMALLEST_POOLED else torch.from_numpy(self._results.take(size)))

    def _run(
        self, make: Callable, tensors: tuple[Tensor, ...], lse: Tensor, support: Support, masking: str, scale: float
    ) -> None:
        batch, heads, total, dim = tensors[0].shape
        lse = lse.numpy()
        table = np.array([(x.data_ptr(), *x.stride()[:3]) for x in tensors], np.int64)
        table[:, 1:] *= tensors[0].element_size()
        segments, boundaries, most_segments = pair_tables(support)
        num_prefix = support.num_prefix_tokens
        sizes = workspace_sizes(total, dim, most_segments, num_prefix, make is make_backward)
        threads = min(self._threads.available(), batch * heads)
        if threads > 1:
            self._threads.use(threads)
        loop = compiled(make, dim, threads > 1)
        direction = "backward" if make is make_backward else "forward"
        with compiling_reported(loop, f"head dimension {dim}, {direction}"):
            loop(
                table,
                lse,
                segments,
                boundaries,
                num_prefix,
                lse.dtype.type(scale),
                total if masking == "zero_logit" else 0,
                *self._workspace.take(threads, *sizes, lse.dtype),
            )


def _readable(x: Tensor) -> Tensor:
    """x in a dtype that the loops know, the D numbers of a row next to each other."""
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()
