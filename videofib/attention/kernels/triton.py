"""Sparse attention on a GPU: a Triton program works BLOCK rows of one head, GROUP diagonals at a time.

Shapes: B batch, H heads, P prefix tokens, N patch tokens, T = P + N, D head_dim, padded to a power of two in registers.

    q, k, v            (B, H, T, D) with any strides: slices of a packed projection are read where they lie
    out, dq, dk, dv    (B, H, T, D) that lie in memory as (B, T, H, D), so that merging the heads costs no copy
    lse                (B, H, T) float32: log of the softmax's denominator, masked keys included

The pairs of patch rows are a list of steps (first, last, base, stride): patch row i, first <= i < last, pairs with the
token base + stride · i. A diagonal has stride 1, a prefix token stride 0. The mask is symmetric, so the list of a
query's keys is also the list of a key's queries: every gradient is gathered, without atomics, the same bits each time.

A prefix row pairs with all tokens. Its programs belong to the same launch, the first of their head. They hold that one
row in all BLOCK lanes, lane i pairs it with the tokens i, i + BLOCK, i + 2 · BLOCK, ..., and the lanes are summed
in the end: the same loop, with steps that need no list. In long sequences each of a row's programs has CHUNK of the
tokens; its result is partial.

What makes it fast. Tensor cores have nothing to multiply here; time goes into reading neighbouring rows, which caches
hold, and into issuing instructions. So GROUP steps are loaded together, as a (GROUP, BLOCK, D) tile: several loads are
in flight, and the sums are rescaled once for all. A wide BLOCK finds more of its rows in the first cache. A program's
own rows are loaded once, with scale and log2(e) folded in, for exponentials are exp2. q, k and v have one set of
strides and so one address calculation, in 32 bits wherever a head fits. Consecutive programs work on the same head, so
that its keys and values are read from memory once.
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

from videofib.attention.kernels import TRITON_DTYPES
from videofib.attention.kernels.layout import rows_like
from videofib.attention.support import Support

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # on the CPU; triton, too, reads it once, when it sees a kernel
CHUNK = 2048  # tokens of one program of a prefix row; in sequences up to this length there is nothing to merge
WIDE = 2**31  # elements; a head that spans as many is addressed with 64 bits
# BLOCK, GROUP, warps: those that fit into registers at D = 64. With at most half as many (row, step) pairs as threads,
# Triton reads what belongs to a pair, such as lse, in each thread that needs it, and no step waits for shared memory.
CONFIGS = [(16, 2, 4), (32, 2, 4), (32, 2, 8), (64, 2, 8), (64, 2, 16), (128, 1, 8)]
SMALLEST_BLOCK = tl.constexpr(min(block for block, _, _ in CONFIGS))
LOG2_E = tl.constexpr(math.log2(math.e))
LN_2 = tl.constexpr(math.log(2))


def forward(q: Tensor, k: Tensor, v: Tensor, support: Support, masking: str, scale: float) -> tuple[Tensor, Tensor]:
    """Output (B, H, T, D), in the dtype of q, and lse (B, H, T)."""
    q, k, v = _with_equal_strides(q, k, v)
    batch, heads, total, _ = q.shape
    prefix = support.num_prefix_tokens
    out, lse = rows_like(q), q.new_empty(batch, heads, total, dtype=torch.float32)
    v_sum = v.sum(2, dtype=torch.float32).contiguous() if masking == "zero_logit" else None
    partial = _partial_rows(out, prefix)
    partial_lse = lse if partial is out else lse.new_empty(len(partial), batch, heads, prefix)
    _launch(_forward, support, masking, scale, q, k, v, v_sum, out, lse, partial, partial_lse)
    if partial is not out:
        weights = partial_lse.softmax(0)  # of the partial results of a prefix row
        out[:, :, :prefix] = (weights[..., None] * partial.transpose(2, 3)).sum(0)
        lse[:, :, :prefix] = partial_lse.logsumexp(0)
    return out, lse


def backward(
    d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor,
    support: Support, masking: str, scale: float,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """dq, dk and dv, each (B, H, T, D) in the dtype of q; ``out`` and ``lse`` as ``forward`` returned them.

    With p the softmax's weights, p0 = exp(-lse) that of each masked key (0 if there is none), and g = d_out,

        c_ij = p_ij (g_i · v_j - delta_i)    delta_i = g_i · out_i    for the pairs of the support
        dq_i = scale Σ_j c_ij k_j    dk_j = scale Σ_i c_ij q_i    dv_j = Σ_i (p_ij - p0_i) g_i + Σ_all p0_i g_i
    """
    q, k, v = _with_equal_strides(q, k, v)
    batch, heads, _, dim = q.shape
    prefix = support.num_prefix_tokens
    d_out, out = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (d_out, out))
    dq, dk, dv, delta = rows_like(q), rows_like(q), rows_like(q), torch.empty_like(lse)
    partial_q, partial_k, partial_v = (_partial_rows(x, prefix) for x in (dq, dk, dv))
    blocks = triton.cdiv(support.num_tokens, SMALLEST_BLOCK.value) if masking == "zero_logit" else 0
    masked_partial = lse.new_zeros(batch, heads, blocks, dim)  # Σ p0_i g_i of each block of queries
    _launch(_backward_queries, support, masking, scale, q, k, v, d_out, out, lse, delta, masked_partial, dq, partial_q)
    masked = masked_partial.sum(2) if masking == "zero_logit" else masked_partial
    _launch(_backward_keys, support, masking, scale, q, k, v, d_out, lse, delta, masked, dk, dv, partial_k, partial_v)
    for gradient, partial in ((dq, partial_q), (dk, partial_k), (dv, partial_v)):
        if partial is not gradient:
            gradient[:, :, :prefix] = partial.sum(0).transpose(1, 2)
    return dq, dk, dv


# numbers that differ between calls; a kernel is compiled once for all their values
_jit = triton.jit(do_not_specialize=("batch", "heads", "patches", "size"))


@triton.jit
def _program(pointer, heads, prefix, patches, CHUNK: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr):
    """What this program works on.

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
def _pairs(
    steps, n, end, i, dense, chunk, total,
    CHUNK: tl.constexpr, INDEX: tl.constexpr, BLOCK: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """The tokens that the lanes pair with in steps n to n + GROUP - 1, and which pairs exist: both (GROUP, BLOCK)."""
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
def _load(x, token, stride, valid, D: tl.constexpr):
    """Rows of x in float32, (..., D padded), 0 where not ``valid``."""
    d = tl.arange(0, triton.next_power_of_2(D))
    at, mask = tl.expand_dims(token, -1) * stride + d, tl.expand_dims(valid, -1) & (d < D)
    return tl.load(x + at, mask, other=0.0).to(tl.float32)


@triton.jit
def _load_row(x, row, D: tl.constexpr):
    """One row of x (..., D), (D padded,)."""
    d = tl.arange(0, triton.next_power_of_2(D))
    return tl.load(x + row * D + d, d < D, other=0.0)


@triton.jit
def _store(
    x, partial, acc, b, h, heads, batch, prefix, total, token, dense, chunk, D: tl.constexpr, CHUNK: tl.constexpr
):
    """Store the lanes' rows in x (B, T, H, D); of a prefix row, the sum of the lanes in ``partial`` (C, B, P, H, D),
    which is x itself if there is one chunk."""
    d = tl.arange(0, triton.next_power_of_2(D))
    if dense:
        rows = tl.where(total > CHUNK, prefix, total)
        row = (chunk * batch + b) * rows + tl.max(token, 0)
        tl.store(partial + (row * heads + h) * D + d, tl.sum(acc, 0), d < D)
    else:
        at = ((b * total + token) * heads + h)[:, None] * D + d[None, :]
        tl.store(x + at, acc, (token < total)[:, None] & (d < D)[None, :])


@_jit
def _forward_kernel(
    q, k, v, v_sum, out, lse, partial, partial_lse,
    steps, pointer, num_masked, batch, heads, prefix, patches, stride_b, stride_h, stride_t, scale, scale_log2, size,
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
        others = tl.load(num_masked + h * total + token, token < total, other=0)
        top = tl.where(others > 0, 0.0, top)
    denominator = tl.zeros_like(top)
    acc = tl.zeros_like(query)
    for n in range(begin, end, GROUP):
        tokens, valid = _pairs(steps, n, end, i, dense, chunk, total, CHUNK, INDEX, BLOCK, GROUP)
        keys, values = _load(k, tokens, stride_t, valid, D), _load(v, tokens, stride_t, valid, D)
        logits = tl.where(valid, tl.sum(query[None, :, :] * keys, 2), float("-inf"))
        raised = tl.maximum(top, tl.max(logits, 0))
        level = tl.where(raised == float("-inf"), 0.0, raised)  # no key yet: -inf - -inf would be NaN
        shrink, weights = tl.exp2(top - level), tl.exp2(logits - level[None, :])
        denominator = denominator * shrink + tl.sum(weights, 0)
        if ZERO_LOGIT:  # what a key weighs more than a masked one
            weights -= tl.where(valid & (others > 0)[None, :], tl.exp2(-level)[None, :], 0.0)
        acc = acc * shrink[:, None] + tl.sum(weights[:, :, None] * values, 0)
        top = raised

    if dense:  # rescale the lanes to one maximum, so that they can be summed
        highest = tl.max(top, 0)
        shrink = tl.exp2(top - highest)
        summed = tl.sum(denominator * shrink, 0)
        acc *= (shrink / summed)[:, None]
        row = ((chunk * batch + b) * heads + h) * tl.where(total > CHUNK, prefix, total) + tl.max(token, 0)
        tl.store(partial_lse + row, (highest + tl.log2(summed)) * LN_2)
    else:
        if ZERO_LOGIT:
            masked_weight = tl.where(others > 0, tl.exp2(-top), 0.0)
            denominator += others * masked_weight
            acc += masked_weight[:, None] * _load_row(v_sum, b * heads + h, D)[None, :]
        acc /= denominator[:, None]
        tl.store(lse + token, (top + tl.log2(denominator)) * LN_2, token < total)
    _store(out, partial, acc, b, h, heads, batch, prefix, total, token, dense, chunk, D, CHUNK)


@_jit
def _backward_queries_kernel(
    q, k, v, g, out, lse, delta, masked_partial, dq, partial,
    steps, pointer, num_masked, batch, heads, prefix, patches, stride_b, stride_h, stride_t, scale, scale_log2, size,
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
        others = tl.load(num_masked + h * total + token, here, other=0)
        masked_weight = tl.where(others > 0, tl.exp2(-level), 0.0)
        d = tl.arange(0, triton.next_power_of_2(D))
        row = (b * heads + h) * tl.cdiv(patches, SMALLEST_BLOCK) + tl.min(i, 0) // BLOCK
        mask = (d < D) & (not dense)  # for a prefix row no key is masked
        tl.store(masked_partial + row * D + d, tl.sum(masked_weight[:, None] * d_out, 0), mask)
    acc = tl.zeros_like(query)
    for n in range(begin, end, GROUP):
        tokens, valid = _pairs(steps, n, end, i, dense, chunk, total, CHUNK, INDEX, BLOCK, GROUP)
        keys, values = _load(k, tokens, stride_t, valid, D), _load(v, tokens, stride_t, valid, D)
        logits = tl.where(valid, tl.sum(query[None, :, :] * keys, 2), float("-inf"))
        d_logits = tl.exp2(logits - level[None, :]) * (tl.sum(d_out[None, :, :] * values, 2) - d_own[None, :])
        acc += tl.sum(d_logits[:, :, None] * keys, 0)
    _store(dq, partial, acc * scale, b, h, heads, batch, prefix, total, token, dense, chunk, D, CHUNK)


@_jit
def _backward_keys_kernel(
    q, k, v, g, lse, delta, masked, dk, dv, partial_k, partial_v,
    steps, pointer, num_masked, batch, heads, prefix, patches, stride_b, stride_h, stride_t, scale, scale_log2, size,
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
        tokens, valid = _pairs(steps, n, end, i, dense, chunk, total, CHUNK, INDEX, BLOCK, GROUP)
        queries, d_out = _load(q, tokens, stride_t, valid, D), _load(g, tokens, heads * D, valid, D)
        level = tl.load(lse + tokens, valid, other=0.0) * LOG2_E
        logits = tl.where(valid, tl.sum(key[None, :, :] * queries, 2), float("-inf"))
        weights = tl.exp2(logits - level)
        d_logits = weights * (tl.sum(value[None, :, :] * d_out, 2) - tl.load(delta + tokens, valid, other=0.0))
        if ZERO_LOGIT:
            others = tl.load(num_masked + h * total + tokens, valid, other=0)
            weights -= tl.where(others > 0, tl.exp2(-level), 0.0)
        acc_k += tl.sum(d_logits[:, :, None] * queries, 0)
        acc_v += tl.sum(weights[:, :, None] * d_out, 0)
    if ZERO_LOGIT:  # of a prefix row, its first lane alone adds the gradient that all keys have in common
        adds = ((not dense) | ((i == 0) & (chunk == 0))).to(tl.float32)
        acc_v += adds[:, None] * _load_row(masked, b * heads + h, D)[None, :]
    _store(dk, partial_k, acc_k * scale, b, h, heads, batch, prefix, total, token, dense, chunk, D, CHUNK)
    _store(dv, partial_v, acc_v, b, h, heads, batch, prefix, total, token, dense, chunk, D, CHUNK)


def _tuned(kernel):
    """The kernel with the block sizes that are fastest where it runs; as it is where it is interpreted."""
    if INTERPRETED:
        return kernel
    configs = [triton.Config({"BLOCK": block, "GROUP": group}, num_warps=warps) for block, group, warps in CONFIGS]
    reset = [name for name in kernel.arg_names if name == "masked_partial"]
    return triton.autotune(configs, key=["D", "size", "ZERO_LOGIT"], reset_to_zero=reset)(kernel)


_forward, _backward_queries, _backward_keys = map(
    _tuned, (_forward_kernel, _backward_queries_kernel, _backward_keys_kernel)
)


def _launch(kernel, support: Support, masking: str, scale: float, q: Tensor, *tensors: Tensor | None) -> None:
    batch, heads, total, dim = q.shape
    prefix, patches = support.num_prefix_tokens, support.num_tokens

    def grid(meta):
        return (batch * heads * (prefix * triton.cdiv(total, CHUNK) + triton.cdiv(patches, meta["BLOCK"])),)

    sizes = (batch, heads, prefix, patches, *q.stride()[:3], scale, scale * LOG2_E.value, triton.next_power_of_2(total))
    index = tl.int64 if total * max(q.stride(2), heads * dim) >= WIDE else tl.int32
    fixed = {"BLOCK": 32, "GROUP": 4} if INTERPRETED else {}
    with torch.cuda.device(q.device) if q.is_cuda else nullcontext():
        kernel[grid](
            q, *tensors, *_tables(support, q.device), *sizes, masking == "zero_logit", dim, CHUNK, index, **fixed
        )


@lru_cache(maxsize=256)
def _tables(support: Support, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """int32: all heads' steps, (S, 4); where each head's begin, (H + 1); the masked keys of each query, (H, T)."""
    prefix, patches = support.num_prefix_tokens, support.num_tokens
    steps, pointer = [], [0]
    num_masked = torch.zeros(support.num_heads, prefix + patches, dtype=torch.int32)
    for head in range(support.num_heads):
        segments = support.segments(head)
        steps += [(0, patches, t, 0) for t in range(prefix)]
        steps += [(s.query, s.query + s.length, prefix + s.key - s.query, 1) for s in segments]
        pointer.append(len(steps))
        num_masked[head, prefix:] = patches
        for s in segments:
            num_masked[head, prefix + s.query : prefix + s.query + s.length] -= 1
    steps = torch.tensor(steps or [(0, 0, 0, 0)], dtype=torch.int32)
    return steps.to(device), torch.tensor(pointer, dtype=torch.int32, device=device), num_masked.to(device)


def _with_equal_strides(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v, copied if their strides differ or the D numbers of a row are not next to each other."""
    if not (q.is_cuda or INTERPRETED):
        raise ValueError(f"backend 'triton' needs CUDA tensors, got them on {q.device}; on the CPU use backend 'cpu'")
    if q.dtype not in TRITON_DTYPES:
        raise ValueError(f"backend 'triton' works in {', '.join(map(str, TRITON_DTYPES))}, got {q.dtype}; use 'gather'")
    if q.stride() == k.stride() == v.stride() and q.stride(-1) == 1:
        return q, k, v
    return q.contiguous(), k.contiguous(), v.contiguous()


def _partial_rows(x: Tensor, prefix: int) -> Tensor:
    """Memory for partial results of x's prefix rows, (C, B, P, H, D); x itself if there is one chunk or no such row."""
    batch, heads, total, dim = x.shape
    chunks = triton.cdiv(total, CHUNK)
    return x if chunks == 1 or prefix == 0 else x.new_empty(chunks, batch, prefix, heads, dim, dtype=torch.float32)
