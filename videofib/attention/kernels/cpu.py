"""Sparse attention on the CPU: compiled loops that touch the pairs of the support and nothing else.

Heads are shared out among as many threads as torch uses. They are torch's own: numba's OpenMP layer finds the library
that torch has loaded, so that the two do not wait for each other. A process forked from one that has used OpenMP must
not enter it again; there, as in data loading workers, one thread does the work.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import lru_cache

import numba
import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from videofib.attention.kernels.cpu_loops import loops
from videofib.attention.support import Support

if numba.config.THREADING_LAYER == "default":
    numba.config.THREADING_LAYER = "threadsafe"  # several Python threads may attend at once
_process = os.getpid()  # the one that may use threads


def attend(q: Tensor, k: Tensor, v: Tensor, support: Support, masking: str, scale: float, dropout_p: float) -> Tensor:
    """See :func:`videofib.attention.sparse_attention`; 16-bit inputs are computed in 32 bits."""
    if q.device.type != "cpu":
        raise ValueError(f"backend 'cpu' works on the CPU only, the tensors are on {q.device}; use 'gather'")
    if dropout_p:
        raise ValueError(f"backend 'cpu' has no dropout (got dropout_p={dropout_p}); use backend 'gather'")
    work = torch.float32 if q.dtype in (torch.float16, torch.bfloat16) else q.dtype
    with torch.autocast("cpu", enabled=False):
        out = _Attention.apply(q.to(work), k.to(work), v.to(work), support, masking == "zero_logit", scale)
    return out.to(q.dtype)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor, support: Support, zero_logit: bool, scale: float) -> Tensor:
        batch, heads, total, dim = q.shape
        q, k, v = _with_plain_rows(q), _with_plain_rows(k), _with_plain_rows(v)
        out, lse = _empty_like(q), torch.empty(batch, heads, total, dtype=q.dtype)
        # read only under zero_logit
        v_sum = v.sum(2).numpy() if zero_logit else np.empty((0, 0, dim), lse.numpy().dtype)
        segments, breaks = _tables(support)
        common = (*map(_flat, (q, k, v, out)), _strides(q, k, v, out), lse.numpy(), segments, breaks)
        options = (support.num_prefix_tokens, lse.numpy().dtype.type(scale), total if zero_logit else 0, v_sum)
        threads = _threads()
        _kernel("forward", dim, threads)(*common, _tasks(batch, heads, threads), *options)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.support, ctx.zero_logit, ctx.scale = support, zero_logit, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out: Tensor):
        q, k, v, out, lse = ctx.saved_tensors
        batch, heads, total, dim = q.shape
        tensors = (q, k, v, out, _with_plain_rows(d_out), *(_empty_like(x) for x in (q, k, v)))
        segments, breaks = _tables(ctx.support)
        common = (*map(_flat, tensors), _strides(*tensors), lse.numpy(), segments, breaks)
        options = (ctx.support.num_prefix_tokens, lse.numpy().dtype.type(ctx.scale), total if ctx.zero_logit else 0)
        threads = _threads()
        _kernel("backward", dim, threads)(*common, _tasks(batch, heads, threads), *options)
        return *tensors[5:], None, None, None


def _with_plain_rows(x: Tensor) -> Tensor:
    """x, or a copy of it if the D numbers of a row do not lie side by side."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _empty_like(x: Tensor) -> Tensor:
    """(B, H, P+N, D) that lies in memory as (B, P+N, H, D), so that putting the heads side by side costs no copy."""
    batch, heads, total, dim = x.shape
    return x.new_empty(batch, total, heads, dim).transpose(1, 2)


def _flat(x: Tensor) -> np.ndarray:
    """The storage of x from its first element to its last, as one row."""
    extent = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return x.detach().as_strided((extent,), (1,)).numpy()


def _strides(*tensors: Tensor) -> np.ndarray:
    return np.array([x.stride()[:3] for x in tensors], np.uint64)


@lru_cache(maxsize=256)
def _tables(support: Support) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """``segments`` and ``breaks`` as the loops take them."""
    first, last, shift, segment_pointer, rows, row_pointer = [], [], [], [0], [], [0]
    for head in range(support.num_heads):
        segments = support.segments(head)
        first += [s.query for s in segments]
        last += [s.query + s.length for s in segments]
        shift += [s.key - s.query for s in segments]
        segment_pointer.append(len(first))
        ends = {end for s in segments for end in (s.query, s.query + s.length)}
        rows += sorted(ends | {0, support.num_tokens})
        row_pointer.append(len(rows))
    first, last, shift, segment_pointer, rows, row_pointer = (
        np.array(numbers, np.int64) for numbers in (first, last, shift, segment_pointer, rows, row_pointer)
    )
    return (first, last, shift, segment_pointer), (rows, row_pointer)


@lru_cache(maxsize=64)
def _tasks(batch: int, heads: int, threads: int) -> np.ndarray:
    """All (batch, head), dealt to the threads like cards: each takes one run of them, and later heads see more keys."""
    tasks = np.array([(b, h) for h in range(heads) for b in range(batch)], np.int64)
    return np.concatenate([tasks[i::threads] for i in range(threads)])


def _threads() -> int:
    return min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS) if os.getpid() == _process else 1


def _kernel(name: str, dim: int, threads: int) -> Callable:
    if threads == 1:
        return getattr(loops(dim), name)
    numba.set_num_threads(threads)  # of the calling Python thread
    return getattr(loops(dim), f"{name}_in_threads")
