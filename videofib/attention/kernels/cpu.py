"""Sparse attention on the CPU: compiled loops that touch the pairs of the support and nothing else.

Work is cut by rows (forward) or heads (backward) and run in Python threads, as many as torch uses; the loops hold no
lock of the interpreter. Threads of OpenMP would do as well until a process forks: a child that enters OpenMP after its
parent did is killed, and data loaders fork.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from videofib.attention.kernels.cpu_loops import loops
from videofib.attention.support import Support

ROWS = 256  # patch rows of one piece of work, where there is enough of it
_pools: dict[int, ThreadPoolExecutor] = {}
os.register_at_fork(after_in_child=_pools.clear)  # the parent's threads do not exist in the child


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
        run = loops(dim).forward
        _in_threads(lambda part: run(*common, part, *options), _row_tasks(batch, heads, support.num_tokens))
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
        run = loops(dim).backward
        _in_threads(lambda part: run(*common, part, *options), _head_tasks(batch, heads, ctx.support.num_tokens))
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
def _row_tasks(batch: int, heads: int, num_tokens: int) -> np.ndarray:
    starts = range(0, num_tokens, ROWS)
    return np.array(
        [(b, h, s, min(s + ROWS, num_tokens)) for b in range(batch) for h in range(heads) for s in starts], np.int64
    )


@lru_cache(maxsize=64)
def _head_tasks(batch: int, heads: int, num_tokens: int) -> np.ndarray:
    return np.array([(b, h, 0, num_tokens) for b in range(batch) for h in range(heads)], np.int64)


def _in_threads(run: Callable[[np.ndarray], None], tasks: np.ndarray) -> None:
    """Call ``run`` on parts of ``tasks`` until all are done, in as many threads as torch uses, this one among them."""
    threads = min(torch.get_num_threads(), len(tasks))
    if threads == 1:
        run(tasks)
        return
    # every n-th task, for later heads see more keys; several parts a thread, for threads are interrupted
    parts = min(len(tasks), 4 * threads)
    waiting = [tasks[i::parts] for i in range(parts)]

    def work() -> None:
        while True:
            try:
                part = waiting.pop()
            except IndexError:
                return
            run(part)

    if threads not in _pools:
        _pools[threads] = ThreadPoolExecutor(threads - 1, "sparse_attention")
    others = [_pools[threads].submit(work) for _ in range(threads - 1)]
    work()
    for other in others:
        other.result()
