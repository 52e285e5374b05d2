"""The loops over listed pairs: forward by query, backward by query and then by key, so that no two threads add to one
row.

Arguments they share (B batch, H heads, S tokens):

    tensors         (tensors, 4) int64: address, then strides of batch, head and token, in bytes; queries, outputs
                    and their gradient have the same stride of a token, as have keys and values (a single token has any)
    lse             (B, H, S): log of the softmax's denominator
    rowptr, cols    the pairs by query, as in :class:`videofib.attention.pattern.Pattern`
    key_rows        (H, 2): the first row of each head's keys, counted from where the strides say that the head begins,
                    and their number: heads may have different numbers of keys, and there may be more than queries
    floats, indices workspace, a row for each thread: see ``pattern_kernel``
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import prange

from videofib.attention.kernels.cpu.compiled import inlined
from videofib.attention.kernels.cpu.emitter import GROUP
from videofib.attention.kernels.cpu.vectors import dot, exponentiate, scores, softmax_gradient, weighted_sum
from videofib.attention.kernels.cpu.workspace import head_address


@inlined
def list_rows(row_list, tokens, start, count, stride):
    """Where the rows of ``count`` tokens begin, counted in bytes; the last group is filled up with the first row."""
    for t in range(count):
        row_list[t] = tokens[start + t] * stride
    for t in range(count, count + GROUP):
        row_list[t] = row_list[0]


def make_pattern_forward(dim: int, cache_key: int) -> Callable:
    """The loop for one head_dim; ``cache_key`` as in ``compiled``."""

    def pattern_forward(tensors, lse, rowptr, cols, key_rows, scale, floats, indices):
        """Output and ``lse`` of every head; tensors: q, k, v, out."""
        _ = cache_key  # what a function mentions of its surroundings is a part of its key on disk
        batch, heads, total = lse.shape
        one, lowest = floats.dtype.type(1), floats.dtype.type(-3.4e38)
        stride, key_stride, out_stride = tensors[0, 3], tensors[1, 3], tensors[3, 3]
        workers = len(floats)
        for worker in prange(workers):
            weights, row_list = floats[worker], indices[worker]
            for head in range(worker, batch * heads, workers):
                b, h = head % batch, head // batch
                first_key = key_rows[h, 0]
                q, k, v, out = (
                    head_address(tensors, 0, b, h),
                    head_address(tensors, 1, b, h) + first_key * key_stride,
                    head_address(tensors, 2, b, h) + first_key * key_stride,
                    head_address(tensors, 3, b, h),
                )
                for i in range(total):
                    count = rowptr[h, i + 1] - rowptr[h, i]
                    list_rows(row_list, cols, rowptr[h, i], count, key_stride)
                    largest = scores(dim, q + i * stride, k, row_list, count, scale, lowest, weights, 0, None)
                    norm = exponentiate(weights, 0, count, largest)
                    target = out + i * out_stride
                    weighted_sum(dim, weights, 0, None, v, row_list, count, one / norm, target, None)
                    lse[b, h, i] = largest + np.log(norm)

    return pattern_forward


def make_pattern_backward(dim: int, cache_key: int) -> Callable:
    """The loop for one head_dim; ``cache_key`` as in ``compiled``."""

    def pattern_backward(tensors, lse, rowptr, cols, keyptr, queries, positions, key_rows, scale, floats, indices):
        """Gradients of every head; tensors: q, k, v, out, d_out, dq, dk, dv.

        By query i: weights p = e^(s - lse), and d s = p (d_out_i · v_j - d_out_i · out_i), kept for all pairs;
        d q_i = Σ_j d s k_j. By key j: d k_j = Σ_i d s q_i, d v_j = Σ_i p d_out_i.
        """
        _ = cache_key
        batch, heads, total = lse.shape
        zero, one, lowest = floats.dtype.type(0), floats.dtype.type(1), floats.dtype.type(-3.4e38)
        stride, key_stride = tensors[0, 3], tensors[1, 3]
        dq_stride, dk_stride = tensors[5, 3], tensors[6, 3]
        workers, half, width = len(floats), floats.shape[1] // 2, indices.shape[1] // 2
        for worker in prange(workers):
            weights, d_logits = floats[worker, :half], floats[worker, half:]
            row_list, chosen = indices[worker, :width], indices[worker, width:]
            for head in range(worker, batch * heads, workers):
                b, h = head % batch, head // batch
                first_key = key_rows[h, 0]
                q, k, v, out = (
                    head_address(tensors, 0, b, h),
                    head_address(tensors, 1, b, h) + first_key * key_stride,
                    head_address(tensors, 2, b, h) + first_key * key_stride,
                    head_address(tensors, 3, b, h),
                )
                d_out, dq, dk, dv = (
                    head_address(tensors, 4, b, h),
                    head_address(tensors, 5, b, h),
                    head_address(tensors, 6, b, h) + first_key * dk_stride,
                    head_address(tensors, 7, b, h) + first_key * dk_stride,
                )
                first, pairs = rowptr[h, 0], rowptr[h, total] - rowptr[h, 0]
                for i in range(total):
                    start, count, row = rowptr[h, i], rowptr[h, i + 1] - rowptr[h, i], i * stride
                    at = start - first
                    list_rows(row_list, cols, start, count, key_stride)
                    scores(dim, q + row, k, row_list, count, scale, lowest, weights, at, None)
                    exponentiate(weights, at, count, lse[b, h, i])
                    scores(dim, d_out + row, v, row_list, count, one, zero, d_logits, at, None)
                    delta = dot(dim, d_out + row, out + row, one)
                    softmax_gradient(weights, at, d_logits, at, count, delta, scale)
                    weighted_sum(dim, d_logits, at, None, k, row_list, count, one, dq + i * dq_stride, None)
                weights[pairs], d_logits[pairs] = zero, zero  # what fills up the last group of a key's pairs
                for j in range(key_rows[h, 1]):
                    start, count = keyptr[h, j], keyptr[h, j + 1] - keyptr[h, j]
                    list_rows(row_list, queries, start, count, stride)
                    chosen[:count] = positions[start : start + count]
                    chosen[count : count + GROUP] = pairs
                    weighted_sum(dim, d_logits, 0, chosen, q, row_list, count, one, dk + j * dk_stride, None)
                    weighted_sum(dim, weights, 0, chosen, d_out, row_list, count, one, dv + j * dk_stride, None)

    return pattern_backward
