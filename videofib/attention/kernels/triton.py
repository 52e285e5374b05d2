"""Sparse attention on a GPU: a Triton program works BLOCK rows of one head, GROUP diagonals at a time.

Shapes: B batch, H heads, P prefix tokens, N patch tokens, T = P + N, D head_dim, padded to a power of two in registers.

    q, k, v            (B, H, T, D) with any strides: slices of a packed projection are read where they lie
    out, dq, dk, dv    (B, H, T, D) that lie in memory as (B, T, H, D), so that merging the heads costs no copy
    lse                (B, H, T) float32: log of the softmax's denominator, outside keys included

What patch rows meet is a list of steps (first, last, base, stride): patch row i, first <= i < last, meets the token
base + stride · i. A diagonal has stride 1, a prefix token stride 0. The mask is symmetric, so the list of a query's
keys is also the list of a key's queries: every gradient is gathered, without atomics, the same bits each time.

A prefix row meets all tokens. Its programs belong to the same launch, the first of their head. They hold that one row
in all BLOCK lanes, lane i meets the tokens i, i + BLOCK, i + 2 · BLOCK, ..., and the lanes are added up at the end:
the same loop, with steps that need no list. In long sequences each of a row's programs has CHUNK of the tokens.

What speed rests on. Tensor cores have nothing to multiply here; time goes into reading neighbouring rows, which caches
hold, and into issuing instructions. So GROUP steps are loaded together, as a (GROUP, BLOCK, D) tile: several loads are
in flight, and the sums are rescaled once for all. A wide BLOCK finds more of its rows in the first cache. A program's
own rows are loaded once, with scale and log2(e) folded in, for exponentials are exp2. q, k and v have one set of
strides and so one address calculation, in 32 bits wherever a head fits. Consecutive programs work the same head, so
that its keys and values come from memory once.
"""

from __future__ import annotations

import math
import os
from contextlib import nullcontext
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from videofib.attention.support import Support

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # on the CPU; triton, too, asks once, when it meets a kernel
CHUNK = 2048  # tokens that one program of a prefix row meets; up to so many there is nothing to merge
WIDE = 2**31  # a head that reaches so far, in elements, is addressed with 64 bits
DTYPES = (torch.float16, torch.bfloat16, torch.float32)
# BLOCK, GROUP, warps: those that fit into registers at D = 64. With at most half as many (row, step) pairs as threads,
# Triton reads what belongs to a pair, such as lse, in each thread that needs it, and no step waits for shared memory.
CONFIGS = [(16, 2, 4), (32, 2, 4), (32, 2, 8), (64, 2, 8), (64, 2, 16), (128, 1, 8)]
SMALLEST_BLOCK = tl.constexpr(min(block for block, _, _ in CONFIGS))
LOG2_E = tl.constexpr(math.log2(math.e))
LN_2 = tl.constexpr(math.log(2))


def forward(q: Tensor, k: Tensor, v: Tensor, support: Support, zero_logit: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Output (B, H, T, D), in the dtype of q, and lse (B, H, T)."""
    q, k, v = _with_equal_strides(q, k, v)
    batch, heads, total, _ = q.shape
    prefix = support.num_prefix_tokens
    out, lse = _empty_like(q), q.new_empty(batch, heads, total, dtype=torch.float32)
    v_sum = v.sum(2, dtype=torch.float32).contiguous() if zero_logit else None
    parts = _parts(out, prefix)
    parts_lse = lse if parts is out else lse.new_empty(len(parts), batch, heads, prefix)
    _launch(_forward, support, zero_logit, scale, q, k, v, v_sum, out, lse, parts, parts_lse)
    if parts is not out:
        share = parts_lse.softmax(0)  # of each part in the denominator of its prefix row
        out[:, :, :prefix] = (share[..., None] * parts.transpose(2, 3)).sum(0)
        lse[:, :, :prefix] = parts_lse.logsumexp(0)
    return out, lse


def backward(
    d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    support: Support, zero_logit: bool, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """dq, dk and dv, each (B, H, T, D) in the dtype of q; ``out`` and ``lse`` as ``forward`` returned them.

    With p the softmax's weights, p0 = exp(-lse) that of each key outside (0 if there is none), and g = d_out,

        c_ij = p_ij (g_i · v_j - delta_i)    delta_i = g_i · out_i    for the pairs of the support
        dq_i = scale Σ_j c_ij k_j    dk_j = scale Σ_i c_ij q_i    dv_j = Σ_i (p_ij - p0_i) g_i + Σ_all p0_i g_i
    """
    q, k, v = _with_equal_strides(q, k, v)
    batch, heads, _, dim = q.shape
    prefix = support.num_prefix_tokens
    d_out, out = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (d_out, out))
    dq, dk, dv, delta = _empty_like(q), _empty_like(q), _empty_like(q), torch.empty_like(lse)
    parts_q, parts_k, parts_v = (_parts(x, prefix) for x in (dq, dk, dv))
    blocks = triton.cdiv(support.num_tokens, SMALLEST_BLOCK.value) if zero_logit else 0
    shared = lse.new_zeros(batch, heads, blocks, dim)  # Σ p0_i g_i of each block of queries
    _launch(_backward_queries, support, zero_logit, scale, q, k, v, d_out, out, lse, delta, shared, dq, parts_q)
    if zero_logit:
        shared = shared.sum(2)
    _launch(_backward_keys, support, zero_logit, scale, q, k, v, d_out, lse, delta, shared, dk, dv, parts_k, parts_v)
    for gradient, parts in ((dq, parts_q), (dk, parts_k), (dv, parts_v)):
        if parts is not gradient:
            gradient[:, :, :prefix] = parts.sum(0).transpose(1, 2)
    return dq, dk, dv


# numbers that vary between calls, compiled once for all values
_jit = triton.jit(do_not_specialize=("batch", "heads", "patches", "size"))


@triton.jit
def _program(pointer, heads, prefix, patches, CHUNK: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr):
    """Which part of the work this program has.

    Returns b and h; ``dense``, whether it has a prefix row; the chunk of that row's tokens; the token and the patch
    index of each lane, (BLOCK,); and the range of steps.
    """
    chunks = tl.cdiv(prefix + patches, CHUNK)
    programs = prefix * chunks + tl.cdiv(patches, BLOCK)  # of a head
    b, h = tl.program_id(0) // programs // heads, tl.program_id(0) // programs % heads
    part = tl.program_id(0) % programs
    dense = part < prefix * chunks
    chunk = tl.where(dense, part % chunks, 0)
    i = tl.where(dense, 0, part - prefix * chunks) * BLOCK + tl.arange(0, BLOCK)
    token = tl.where(dense, part // chunks, prefix + i)
    # chosen, not branched to: Triton 3.4 and 3.5 fail on loops whose bounds come out of branches
    begin = tl.where(dense, 0, tl.load(pointer + h))
    blocks = tl.cdiv(tl.minimum(prefix + patches - chunk * CHUNK, CHUNK), BLOCK)
    end = tl.where(dense, blocks, tl.load(pointer + h + 1))
    return b.to(tl.int64), h.to(tl.int64), dense, chunk, token.to(INDEX), i, begin, end


@triton.jit
def _meet(
    steps, n, end, i, dense, chunk, total,
    CHUNK: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """The tokens that the lanes meet in steps n to n + GROUP - 1, and whether they do: both (GROUP, BLOCK)."""
    n += tl.arange(0, GROUP)
    here = chunk * CHUNK + n * BLOCK
    listed = (n < end) & (not dense)  # of a prefix row, nothing is read from the list
    last = tl.where(dense & (n < end), total - here, 0)
    first = tl.load(steps + 4 * n, listed, other=0)[:, None]
    last = tl.load(steps + 4 * n + 1, listed, other=last)[:, None]
    base = tl.load(steps + 4 * n + 2, listed, other=here)[:, None]
    stride = tl.load(steps + 4 * n + 3, listed, other=1)[:, None]
    return (base + stride * i[None, :]).to(INDEX), (first <= i[None, :]) & (i[None, :] < last)


@triton.jit
def _load(x, token, stride, met, D: tl.constexpr):
    """Rows of x in float32, (..., D padded), 0 where not ``met``."""
    d = tl.arange(0, triton.next_power_of_2(D))
    at, mask = tl.expand_dims(token, -1) * stride + d, tl.expand_dims(met, -1) & (d < D)
    return tl.load(x + at, mask, other=0.0).to(tl.float32)


@triton.jit
def _load_row(x, row, D: tl.constexpr):
    """One row of x (..., D), (D padded,)."""
    d = tl.arange(0, triton.next_power_of_2(D))
    return tl.load(x + row * D + d, d < D, other=0.0)


@triton.jit
def _store(x, parts, acc, b, h, heads, batch, prefix, total, token, dense, chunk, D: tl.constexpr, CHUNK: tl.constexpr):
    """Rows of the lanes into x (B, T, H, D); of a prefix row, the sum of the lanes into parts (C, B, P, H, D), which is
    x itself if there is one chunk."""
    d = tl.arange(0, triton.next_power_of_2(D))
    if dense:
        rows = tl.where(total > CHUNK, prefix, total)
        row = (chunk * batch + b) * rows + tl.max(token, 0)
        tl.store(parts + (row * heads + h) * D + d, tl.sum(acc, 0), d < D)
    else:
        at = ((b * total + token) * heads + h)[:, None] * D + d[None, :]
        tl.store(x + at, acc, (token < total)[:, None] & (d < D)[None, :])


@_jit
def _forward_kernel(
    q, k, v, v_sum, out, lse, parts, parts_lse,
    steps, pointer, outside, batch, heads, prefix, patches, stride_b, stride_h, stride_t, scale, scale_log2, size,
    ZERO_LOGIT: tl.constexpr, D: tl.constexpr, CHUNK: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    total = prefix + patches
    b, h, dense, chunk, token, i, begin, end = _program(pointer, heads, prefix, patches, CHUNK, INDEX, BLOCK)
    at = b * stride_b + h * stride_h
    q, k, v, lse = q + at, k + at, v + at, lse + (b * heads + h) * total

    query = _load(q, token, stride_t, token < total, D) * scale_log2  # logits in units of log 2
    top = tl.full((BLOCK,), float("-inf"), tl.float32)  # largest logit so far
    if ZERO_LOGIT:
        others = tl.load(outside + h * total + token, token < total, other=0)
        top = tl.where(others > 0, 0.0, top)
    denominator = tl.zeros_like(top)
    acc = tl.zeros_like(query)
    for n in range(begin, end, GROUP):
        met, valid = _meet(steps, n, end, i, dense, chunk, total, CHUNK, INDEX, BLOCK, GROUP)
        keys, values = _load(k, met, stride_t, valid, D), _load(v, met, stride_t, valid, D)
        logits = tl.where(valid, tl.sum(query[None, :, :] * keys, 2), float("-inf"))
        raised = tl.maximum(top, tl.max(logits, 0))
        level = tl.where(raised == float("-inf"), 0.0, raised)  # no key yet: -inf - -inf would be NaN
        shrink, weights = tl.exp2(top - level), tl.exp2(logits - level[None, :])
        denominator = denominator * shrink + tl.sum(weights, 0)
        if ZERO_LOGIT:  # what a key weighs more than it would outside
            weights -= tl.where(valid & (others > 0)[None, :], tl.exp2(-level)[None, :], 0.0)
        acc = acc * shrink[:, None] + tl.sum(weights[:, :, None] * values, 0)
        top = raised

    if dense:  # bring the lanes to one level, so that they can be added up
        highest = tl.max(top, 0)
        share = tl.exp2(top - highest)
        whole = tl.sum(denominator * share, 0)
        acc *= (share / whole)[:, None]
        rows = tl.where(total > CHUNK, prefix, total)
        tl.store(
            parts_lse + ((chunk * batch + b) * heads + h) * rows + tl.max(token, 0), (highest + tl.log2(whole)) * LN_2
        )
    else:
        if ZERO_LOGIT:
            rest = tl.where(others > 0, tl.exp2(-top), 0.0)
            denominator += others * rest
            acc += rest[:, None] * _load_row(v_sum, b * heads + h, D)[None, :]
        acc /= denominator[:, None]
        tl.store(lse + token, (top + tl.log2(denominator)) * LN_2, token < total)
    _store(out, parts, acc, b, h, heads, batch, prefix, total, token, dense, chunk, D, CHUNK)


@_jit
def _backward_queries_kernel(
    q, k, v, g, out, lse, delta, shared_parts, dq, parts,
    steps, pointer, outside, batch, heads, prefix, patches, stride_b, stride_h, stride_t, scale, scale_log2, size,
    ZERO_LOGIT: tl.constexpr, D: tl.constexpr, CHUNK: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    total = prefix + patches
    b, h, dense, chunk, token, i, begin, end = _program(pointer, heads, prefix, patches, CHUNK, INDEX, BLOCK)
    at, at_plain, at_stats = b * stride_b + h * stride_h, (b * total * heads + h) * D, (b * heads + h) * total
    q, k, v, g, out = q + at, k + at, v + at, g + at_plain, out + at_plain
    here = token < total

    query = _load(q, token, stride_t, here, D) * scale_log2
    d_out = _load(g, token, heads * D, here, D)
    d_own = tl.sum(d_out * _load(out, token, heads * D, here, D), 1)
    tl.store(delta + at_stats + token, d_own, here)
    level = tl.load(lse + at_stats + token, here, other=0.0) * LOG2_E
    if ZERO_LOGIT:
        others = tl.load(outside + h * total + token, here, other=0)
        rest = tl.where(others > 0, tl.exp2(-level), 0.0)
        d = tl.arange(0, triton.next_power_of_2(D))
        row = (b * heads + h) * tl.cdiv(patches, SMALLEST_BLOCK) + tl.min(i, 0) // BLOCK
        mask = (d < D) & (not dense)  # a prefix row leaves no key out
        tl.store(shared_parts + row * D + d, tl.sum(rest[:, None] * d_out, 0), mask)
    acc = tl.zeros_like(query)
    for n in range(begin, end, GROUP):
        met, valid = _meet(steps, n, end, i, dense, chunk, total, CHUNK, INDEX, BLOCK, GROUP)
        keys, values = _load(k, met, stride_t, valid, D), _load(v, met, stride_t, valid, D)
        logits = tl.where(valid, tl.sum(query[None, :, :] * keys, 2), float("-inf"))
        d_logits = tl.exp2(logits - level[None, :]) * (tl.sum(d_out[None, :, :] * values, 2) - d_own[None, :])
        acc += tl.sum(d_logits[:, :, None] * keys, 0)
    _store(dq, parts, acc * scale, b, h, heads, batch, prefix, total, token, dense, chunk, D, CHUNK)


@_jit
def _backward_keys_kernel(
    q, k, v, g, lse, delta, shared, dk, dv, parts_k, parts_v,
    steps, pointer, outside, batch, heads, prefix, patches, stride_b, stride_h, stride_t, scale, scale_log2, size,
    ZERO_LOGIT: tl.constexpr, D: tl.constexpr, CHUNK: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
):  # fmt: skip
    total = prefix + patches
    b, h, dense, chunk, token, i, begin, end = _program(pointer, heads, prefix, patches, CHUNK, INDEX, BLOCK)
    at, at_stats = b * stride_b + h * stride_h, (b * heads + h) * total
    q, k, v, g, lse, delta = q + at, k + at, v + at, g + (b * total * heads + h) * D, lse + at_stats, delta + at_stats
    here = token < total

    key = _load(k, token, stride_t, here, D) * scale_log2
    value = _load(v, token, stride_t, here, D)
    acc_k, acc_v = tl.zeros_like(key), tl.zeros_like(value)
    for n in range(begin, end, GROUP):
        met, valid = _meet(steps, n, end, i, dense, chunk, total, CHUNK, INDEX, BLOCK, GROUP)
        queries, d_out = _load(q, met, stride_t, valid, D), _load(g, met, heads * D, valid, D)
        level = tl.load(lse + met, valid, other=0.0) * LOG2_E
        logits = tl.where(valid, tl.sum(key[None, :, :] * queries, 2), float("-inf"))
        weights = tl.exp2(logits - level)
        d_logits = weights * (tl.sum(value[None, :, :] * d_out, 2) - tl.load(delta + met, valid, other=0.0))
        if ZERO_LOGIT:
            others = tl.load(outside + h * total + met, valid, other=0)
            weights -= tl.where(others > 0, tl.exp2(-level), 0.0)
        acc_k += tl.sum(d_logits[:, :, None] * queries, 0)
        acc_v += tl.sum(weights[:, :, None] * d_out, 0)
    if ZERO_LOGIT:  # of a prefix row, its first lane alone adds what all keys share
        ours = ((not dense) | ((i == 0) & (chunk == 0))).to(tl.float32)
        acc_v += ours[:, None] * _load_row(shared, b * heads + h, D)[None, :]
    _store(dk, parts_k, acc_k * scale, b, h, heads, batch, prefix, total, token, dense, chunk, D, CHUNK)
    _store(dv, parts_v, acc_v, b, h, heads, batch, prefix, total, token, dense, chunk, D, CHUNK)


def _tuned(kernel):
    """The kernel with the block sizes that are fastest where it runs; interpreted, with those that show most."""
    if INTERPRETED:
        return kernel
    configs = [triton.Config({"BLOCK": block, "GROUP": group}, num_warps=warps) for block, group, warps in CONFIGS]
    reset = [name for name in kernel.arg_names if name == "shared_parts"]
    return triton.autotune(configs, key=["D", "size", "ZERO_LOGIT"], reset_to_zero=reset)(kernel)


_forward, _backward_queries, _backward_keys = map(
    _tuned, (_forward_kernel, _backward_queries_kernel, _backward_keys_kernel)
)


def _launch(kernel, support: Support, zero_logit: bool, scale: float, q: Tensor, *tensors: Tensor | None):
    batch, heads, total, dim = q.shape
    prefix, patches = support.num_prefix_tokens, support.num_tokens

    def grid(meta):
        return (batch * heads * (prefix * triton.cdiv(total, CHUNK) + triton.cdiv(patches, meta["BLOCK"])),)

    sizes = (batch, heads, prefix, patches, *q.stride()[:3], scale, scale * LOG2_E.value, triton.next_power_of_2(total))
    index = tl.int64 if total * max(q.stride(2), heads * dim) >= WIDE else tl.int32
    fixed = {"BLOCK": 32, "GROUP": 4} if INTERPRETED else {}
    with torch.cuda.device(q.device) if q.is_cuda else nullcontext():
        kernel[grid](q, *tensors, *_tables(support, q.device), *sizes, zero_logit, dim, CHUNK, index, **fixed)


@lru_cache(maxsize=256)
def _tables(support: Support, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """int32: all heads' steps, (S, 4); where each head's begin, (H + 1); how many keys a query does not see, (H, T)."""
    prefix, patches = support.num_prefix_tokens, support.num_tokens
    steps, pointer = [], [0]
    outside = torch.zeros(support.num_heads, prefix + patches, dtype=torch.int32)
    for head in range(support.num_heads):
        segments = support.segments(head)
        steps += [(0, patches, t, 0) for t in range(prefix)]
        steps += [(s.query, s.query + s.length, prefix + s.key - s.query, 1) for s in segments]
        pointer.append(len(steps))
        outside[head, prefix:] = patches
        for s in segments:
            outside[head, prefix + s.query : prefix + s.query + s.length] -= 1
    steps = torch.tensor(steps or [(0, 0, 0, 0)], dtype=torch.int32)
    return steps.to(device), torch.tensor(pointer, dtype=torch.int32, device=device), outside.to(device)


def _with_equal_strides(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v, copied if their strides differ or the D numbers of a row do not lie side by side."""
    if not (q.is_cuda or INTERPRETED):
        raise ValueError(f"backend 'triton' needs CUDA tensors, got them on {q.device}; on the CPU use backend 'cpu'")
    if q.dtype not in DTYPES:
        raise ValueError(f"backend 'triton' works in {', '.join(map(str, DTYPES))}, got {q.dtype}; use 'gather'")
    if q.stride() == k.stride() == v.stride() and q.stride(-1) == 1:
        return q, k, v
    return q.contiguous(), k.contiguous(), v.contiguous()


def _empty_like(x: Tensor) -> Tensor:
    """(B, H, T, D) that lies in memory as (B, T, H, D)."""
    batch, heads, total, dim = x.shape
    return x.new_empty(batch, total, heads, dim).transpose(1, 2)


def _parts(x: Tensor, prefix: int) -> Tensor:
    """Where the parts of x's prefix rows go, (C, B, P, H, D); x itself if there is one part of each or no such row."""
    batch, heads, total, dim = x.shape
    chunks = triton.cdiv(total, CHUNK)
    return x if chunks == 1 or prefix == 0 else x.new_empty(chunks, batch, prefix, heads, dim, dtype=torch.float32)
