"""Sparse attention on the CPU: compiled loops that touch the pairs of the support and nothing else.

Heads are shared out among as many threads as torch uses. They are torch's own: numba's OpenMP layer finds the library
that torch has loaded, so that the two do not wait for each other. A process forked from one that has used OpenMP must
not enter it again; there, as in data loading workers, one thread does the work.
"""

from __future__ import annotations

import math
import os
import threading
from functools import lru_cache
from typing import ClassVar

import numba
import numpy as np
import torch
from torch import Tensor

from videofib.attention.kernels.cpu_loops import loops, room
from videofib.attention.support import Support

if numba.config.THREADING_LAYER == "default":
    numba.config.THREADING_LAYER = "threadsafe"  # several Python threads may attend at once
_process = os.getpid()  # the one that may use threads

ALIGNMENT = 64  # bytes of a vector register: none should straddle two lines of the cache
LARGE = 1 << 17  # bytes; smaller results are left to malloc
KEEP = 1 << 29  # bytes of unused memory to hold on to, at most


def forward(q: Tensor, k: Tensor, v: Tensor, support: Support, zero_logit: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Output (B, H, P+N, D), of q's dtype, and log of the softmax's denominators (B, H, P+N), of the dtype worked in:
    32 bits for 16-bit inputs. Not recorded by autograd."""
    dtype, (q, k, v) = q.dtype, map(_readable, (q, k, v))
    out, lse = _rows_like(q), q.new_empty(q.shape[:3])
    _run("forward", (q, k, v, out), lse, support, zero_logit, scale)
    return out.to(dtype), lse


def backward(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    support: Support,
    zero_logit: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, from that of the output and what :func:`forward` returned."""
    dtype, (q, k, v, out, d_out) = q.dtype, map(_readable, (q, k, v, out, d_out))
    gradients = [_rows_like(q) for _ in range(3)]
    _run("backward", (q, k, v, out, d_out, *gradients), lse, support, zero_logit, scale)
    return tuple(x.to(dtype) for x in gradients)


def _readable(x: Tensor) -> Tensor:
    """x in a dtype that the loops know, the D numbers of a row side by side."""
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _rows_like(x: Tensor) -> Tensor:
    """(B, H, P+N, D) that lies in memory as (B, P+N, H, D), so that putting the heads side by side costs no copy."""
    batch, heads, total, dim = x.shape
    size = x.numel() * x.element_size()
    memory = x.new_empty(x.numel()) if size < LARGE else torch.from_numpy(_Reused.take(size)).view(x.dtype)
    return memory.view(batch, total, heads, dim).transpose(1, 2)


def _aligned(size: int) -> np.ndarray:
    """``size`` bytes. Of large ones numpy asks for huge pages, of which the system has to clear 512 times fewer."""
    memory = np.empty(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size]


class _Reused(np.ndarray):
    """Memory for a result, used for another one when no tensor refers to it any more: pages fresh from the system
    would cost as much time as the attention itself."""

    free: ClassVar[dict[int, list[np.ndarray]]] = {}  # by size

    @classmethod
    def take(cls, size: int) -> _Reused:
        try:
            memory = cls.free[size].pop()
        except (KeyError, IndexError):
            memory = _aligned(size)
        return memory.view(cls)

    def __del__(self):
        if sum(size * len(unused) for size, unused in list(self.free.items())) > KEEP:
            self.free.clear()
        self.free.setdefault(self.size, []).append(self.base)


def _run(name: str, tensors: tuple[Tensor, ...], lse: Tensor, support: Support, zero_logit: bool, scale: float) -> None:
    batch, heads, total, dim = tensors[0].shape
    size, lse = tensors[0].element_size(), lse.numpy()
    table = np.array([(x.data_ptr(), *x.stride()[:3]) for x in tensors], np.int64)
    table[:, 1:] *= size
    segments, breaks, widest = _tables(support)
    threads = min(_threads(), batch * heads)
    shares = room(total, dim, widest, support.num_prefix_tokens, name == "backward")
    if threads > 1:
        numba.set_num_threads(threads)  # of the calling Python thread
    getattr(loops(dim, threads > 1), name)(
        table,
        lse,
        segments,
        breaks,
        support.num_prefix_tokens,
        lse.dtype.type(scale),
        total if zero_logit else 0,
        *_workspace.take(threads, *shares, lse.dtype),
    )


class _Workspace(threading.local):
    """Memory for what the loops write down meanwhile, each Python thread's own and kept from call to call."""

    def __init__(self):
        self.memory = _aligned(0)

    def take(self, threads: int, numbers: int, places: int, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
        """(threads, numbers) of ``dtype``, (threads, places) of int64; a thread's share begins on a line of its own."""
        line = ALIGNMENT // dtype.itemsize
        numbers = math.ceil(numbers / line) * line
        first, second = threads * numbers * dtype.itemsize, threads * places * 8
        if len(self.memory) < first + second:
            self.memory = _aligned(first + second)
        return (
            self.memory[:first].view(dtype).reshape(threads, numbers),
            self.memory[first : first + second].view(np.int64).reshape(threads, places),
        )


_workspace = _Workspace()


@lru_cache(maxsize=256)
def _tables(support: Support) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...], int]:
    """``segments`` and ``breaks`` as the loops take them, and the segments of the head that has most."""
    first, last, shift, mirror, segment_pointer, rows, row_pointer = [], [], [], [], [0], [], [0]
    for head in range(support.num_heads):
        segments = support.segments(head)
        first += [s.query for s in segments]
        last += [s.query + s.length for s in segments]
        shifts = [s.key - s.query for s in segments]
        shift += shifts
        mirror += [shifts.index(-x) for x in shifts]  # the segment in which key and query have changed places
        segment_pointer.append(len(first))
        ends = {end for s in segments for end in (s.query, s.query + s.length)}
        rows += sorted(ends | {0, support.num_tokens})
        row_pointer.append(len(rows))
    first, last, shift, mirror, segment_pointer, rows, row_pointer = (
        np.array(numbers, np.int64) for numbers in (first, last, shift, mirror, segment_pointer, rows, row_pointer)
    )
    return (first, last, shift, mirror, segment_pointer), (rows, row_pointer), int(np.diff(segment_pointer).max())


def _threads() -> int:
    return min(torch.get_num_threads(), numba.config.NUMBA_NUM_THREADS) if os.getpid() == _process else 1
