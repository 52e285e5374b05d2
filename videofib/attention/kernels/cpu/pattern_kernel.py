"""The CPU kernel over listed pairs: forward and backward on tensors, over loops compiled for head_dim and dtype."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from videofib.attention.kernels.cpu.compiled import compiled, compiling_reported
from videofib.attention.kernels.cpu.emitter import GROUP, LANES
from videofib.attention.kernels.cpu.memory import SMALLEST_POOLED, ResultPool, Workspace
from videofib.attention.kernels.cpu.pattern_loops import make_pattern_backward, make_pattern_forward
from videofib.attention.kernels.cpu.threads import Threads
from videofib.attention.kernels.layout import rows_like


class PatternKernel:
    """``forward`` and ``backward`` on the CPU, and what they reuse from call to call, as ``kernel.CpuKernel``."""

    def __init__(self):
        self._threads, self._results, self._workspace = Threads(), ResultPool(), Workspace()

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        rowptr: Tensor,
        cols: Tensor,
        scale: float,
        key_edges: Sequence[int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Output (B, H, S, D), of q's dtype, and log of the softmax's denominators (B, H, S), of the dtype computed in:
        32 bits for 16-bit inputs. The pairs as in :class:`videofib.attention.pattern.Pattern`.

        With ``key_edges`` k and v are (B, M, D): head h has their rows key_edges[h] to key_edges[h + 1] as its keys,
        which ``cols`` counts from the first of these.
        """
        dtype, (q, k, v) = q.dtype, map(_readable, (q, k, v))
        key_rows, most_keys = _key_rows(q, k, key_edges)
        out, lse = self._rows_like(q), q.new_empty(q.shape[:3])
        longest = most_keys + LANES
        tensors = q, _by_head(k, q), _by_head(v, q), out
        self._run(make_pattern_forward, tensors, lse, (rowptr, cols, key_rows), scale, longest, longest)
        return out.to(dtype), lse

    def backward(
        self,
        d_out: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        lse: Tensor,
        tables: tuple[Tensor, ...],
        scale: float,
        key_edges: Sequence[int] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of q, k and v, from that of the output and what :meth:`forward` returned; the tables are rowptr,
        cols, keyptr, queries and positions."""
        dtype, (q, k, v, out, d_out) = q.dtype, map(_readable, (q, k, v, out, d_out))
        key_rows, most_keys = _key_rows(q, k, key_edges)
        gradients = [self._rows_like(q), *(self._rows_like(k) if k.ndim == 4 else torch.empty_like(k) for _ in "kv")]
        most_pairs = int((tables[0][:, -1] - tables[0][:, 0]).max())
        floats, indices = 2 * _in_lanes(most_pairs + 1), 2 * (max(q.shape[2], most_keys) + GROUP)
        tensors = tuple(_by_head(x, q) for x in (q, k, v, out, d_out, *gradients))
        self._run(make_pattern_backward, tensors, lse, (*tables, key_rows), scale, floats, indices)
        return tuple(x.to(dtype) for x in gradients)

    def _rows_like(self, x: Tensor) -> Tensor:
        size = x.numel() * x.element_size()
        return rows_like(x, None if size < SMALLEST_POOLED else torch.from_numpy(self._results.take(size)))

    def _run(
        self,
        make: Callable,
        tensors: tuple[Tensor, ...],
        lse: Tensor,
        tables: tuple[Tensor, ...],
        scale: float,
        num_floats: int,
        num_indices: int,
    ) -> None:
        batch, heads, _, dim = tensors[0].shape
        lse = lse.numpy()
        addresses = np.array([(x.data_ptr(), *x.stride()[:3]) for x in tensors], np.int64)
        addresses[:, 1:] *= tensors[0].element_size()
        threads = min(self._threads.available(), batch * heads)
        if threads > 1:
            self._threads.use(threads)
        loop = compiled(make, dim, threads > 1)
        direction = "backward" if make is make_pattern_backward else "forward"
        with compiling_reported(loop, f"patterns, head dimension {dim}, {direction}"):
            loop(
                addresses,
                lse,
                *(x.numpy() for x in tables),
                lse.dtype.type(scale),
                *self._workspace.take(threads, num_floats, num_indices, lse.dtype),
            )


def _readable(x: Tensor) -> Tensor:
    """x in a dtype that the loops know, the S rows of a head one after the other."""
    return (x.float() if x.dtype in (torch.float16, torch.bfloat16) else x).contiguous()


def _key_rows(q: Tensor, k: Tensor, key_edges: Sequence[int] | None) -> tuple[Tensor, int]:
    """The loops' ``key_rows``, and the most keys of a head."""
    if key_edges is None:
        return torch.tensor([[0, k.shape[2]]] * q.shape[1]), k.shape[2]
    rows = [[start, stop - start] for start, stop in pairwise(key_edges)]
    return torch.tensor(rows), max(count for _, count in rows)


def _by_head(x: Tensor, q: Tensor) -> Tensor:
    """Rows (B, M, D) of all heads as (B, H, M, D) without a copy: every head begins where they do."""
    return x if x.ndim == 4 else x[:, None].expand(-1, q.shape[1], -1, -1)


def _in_lanes(count: int) -> int:
    """Numbers to keep for ``count``, where whole vectors are written from any of them on."""
    return (count + 2 * LANES - 1) // LANES * LANES
