"""The backward loop: for each head a pass over the values, the keys, the queries and the gradients of the output."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import prange

from videofib.attention.kernels.cpu.lists import advance, index_pairs, list_all_rows, list_keys
from videofib.attention.kernels.cpu.vectors import (
    GROUP,
    dot,
    exponentiate,
    prefetch,
    scatter,
    scores,
    softmax_gradient,
    weighted_sum,
)
from videofib.attention.kernels.cpu.workspace import (
    BACKWARD_BLOCK,
    PREFETCH_DISTANCE,
    array_address,
    head_address,
    packed_size,
    padded,
    pair_lines,
    query_width,
)


def make_backward(dim: int, cache_key: int) -> Callable:
    """The loop for one head_dim; ``cache_key`` as in ``compiled``."""

    def backward(tensors, lse, segments, boundaries, num_prefix, scale, all_keys, floats, indices):
        """Gradients of every head; tensors: q, k, v, out, d_out, dq, dk, dv. The arguments are those of ``workspace``.

        With p the softmax's weights, p0 that of a key outside the support (0 under exclude) and g = d_out,

            c_ij = p_ij (g_i · v_j - g_i · out_i) scale                              gradient of q_i · k_j
            dq_i = Σ_j c_ij k_j      dk_j = Σ_i c_ij q_i      dv_j = Σ_i (p_ij - p0_i) g_i + Σ_all p0_i g_i

        The passes over values and keys compute p - p0 and c query by query and scatter them into ``pair_p`` and
        ``pair_c``; those over queries and g gather the sum of each key from there, so that no two rows ever add to the
        same memory. Both hold lines of P + N numbers, from:

            0            the pair of each query in each segment
            by_key       the pair of each query with each prefix token
            by_query     the pair of each prefix token with each key
            constants    0, 1
            masked       p0 of each query
        """
        _ = cache_key  # what a function mentions of its surroundings is a part of its key on disk
        batch, heads, total = lse.shape
        rows, row_pointer = boundaries
        transposed, pointer = segments[3], segments[4]
        most_segments = 0
        for h in range(heads):
            most_segments = max(most_segments, pointer[h + 1] - pointer[h])
        size, line, widest = packed_size(total, dim), padded(total), query_width(most_segments + num_prefix)
        lines = pair_lines(most_segments, num_prefix)
        by_key, by_query = most_segments * line, (most_segments + num_prefix) * line
        constants, masked = (lines - 2) * line, (lines - 1) * line
        zero, one, lowest = floats.dtype.type(0), floats.dtype.type(1), floats.dtype.type(-3.4e38)
        row_size = dim * floats.itemsize
        sum_row, zero_row = (total + 1) * row_size, total * row_size
        q_stride, out_stride, g_stride = tensors[0, 3], tensors[3, 3], tensors[4, 3]
        dq_stride, dk_stride, dv_stride = tensors[5, 3], tensors[6, 3], tensors[7, 3]
        workers, half = len(floats), indices.shape[1] // 2
        for worker in prange(workers):
            own, row_list, index = floats[worker], indices[worker, :half], indices[worker, half:]
            packed = array_address(own)
            p, c = own[size : size + BACKWARD_BLOCK * widest], own[size + BACKWARD_BLOCK * widest :]
            pairs = size + (BACKWARD_BLOCK + total) * widest
            pair_p, pair_c = own[pairs : pairs + lines * line], own[pairs + lines * line :]
            for head in range(worker, batch * heads, workers):
                b, h = head % batch, head // batch
                q, k, v, out, g, dq, dk, dv = (
                    head_address(tensors, 0, b, h),
                    head_address(tensors, 1, b, h),
                    head_address(tensors, 2, b, h),
                    head_address(tensors, 3, b, h),
                    head_address(tensors, 4, b, h),
                    head_address(tensors, 5, b, h),
                    head_address(tensors, 6, b, h),
                    head_address(tensors, 7, b, h),
                )

                # values: g_i · v_j
                list_all_rows(row_list, total, tensors[2, 3], 0, 0)
                scores(dim, g, v, row_list, total, one, zero, pair_c, by_query, packed)
                own[total * dim : size] = zero
                list_all_rows(row_list, total, row_size, sum_row, zero_row)
                for token in range(1, num_prefix):
                    at = by_query + token * line
                    scores(dim, g + token * g_stride, packed, row_list, total, one, zero, pair_c, at, None)
                start = 0
                for r in range(row_pointer[h], row_pointer[h + 1] - 1):
                    count = list_keys(rows[r], segments, h, num_prefix, row_size, sum_row, zero_row, row_list, index)
                    keys = count + num_prefix
                    for i in range(num_prefix + rows[r], num_prefix + rows[r + 1]):
                        prefetch(row_size, g + (i + PREFETCH_DISTANCE) * g_stride, 0)
                        scores(dim, g + i * g_stride, packed, row_list, keys, one, zero, c, start, None)
                        advance(row_list, count, row_size)
                        start += query_width(keys)

                # keys: logits, weights, gradient of queries
                list_all_rows(row_list, total, tensors[1, 3], 0, 0)
                scores(dim, q, k, row_list, total, scale, lowest, pair_p, by_query, packed)
                own[total * dim : size] = zero
                list_all_rows(row_list, total, row_size, sum_row, zero_row)
                for token in range(num_prefix):  # queries that see all
                    at = by_query + token * line
                    if token > 0:
                        query = q + token * q_stride
                        scores(dim, query, packed, row_list, total, scale, lowest, pair_p, at, None)
                    delta = dot(dim, g + token * g_stride, out + token * out_stride, one)
                    exponentiate(pair_p, at, total, lse[b, h, token])
                    softmax_gradient(pair_p, at, pair_c, at, total, delta, scale)
                    weighted_sum(dim, pair_c, at, None, packed, row_list, total, one, dq + token * dq_stride, None)
                    pair_p[masked + token] = zero
                    for t in range(num_prefix):
                        pair_p[by_key + t * line + token] = pair_p[at + t]
                        pair_c[by_key + t * line + token] = pair_c[at + t]
                start = 0
                for r in range(row_pointer[h], row_pointer[h + 1] - 1):  # patch queries
                    count = list_keys(rows[r], segments, h, num_prefix, row_size, sum_row, zero_row, row_list, index)
                    keys = count + num_prefix
                    width = query_width(keys)
                    for t in range(keys):
                        index[t] = index[t] * line if t < count else by_key + (t - count) * line
                    index[keys : keys + GROUP] = constants  # overwritten below
                    stop = num_prefix + rows[r + 1]
                    for first in range(num_prefix + rows[r], stop, BACKWARD_BLOCK):
                        length = min(BACKWARD_BLOCK, stop - first)
                        for i in range(length):
                            query = q + (first + i) * q_stride
                            prefetch(row_size, query + PREFETCH_DISTANCE * q_stride, 0)
                            scores(dim, query, packed, row_list, keys, scale, lowest, p, i * width, None)
                            advance(row_list, count, row_size)
                        advance(row_list, count, -length * row_size)
                        for i in range(length):
                            token = first + i
                            prefetch(row_size, out + (token + PREFETCH_DISTANCE) * out_stride, 0)
                            delta = dot(dim, g + token * g_stride, out + token * out_stride, one)
                            exponentiate(p, i * width, keys, lse[b, h, token])
                            softmax_gradient(p, i * width, c, start + i * width, keys, delta, scale)
                            pair_p[masked + token] = zero
                            if all_keys > keys:
                                masked_weight = floats.dtype.type(np.exp(-lse[b, h, token]))
                                pair_p[masked + token] = masked_weight
                                for t in range(keys):
                                    p[i * width + t] -= masked_weight
                        for i in range(length):
                            target, at = dq + (first + i) * dq_stride, start + i * width
                            prefetch(row_size, target + PREFETCH_DISTANCE * dq_stride, 1)
                            weighted_sum(dim, c, at, None, packed, row_list, keys, one, target, None)
                            advance(row_list, count, row_size)
                        scatter(p, 0, width, length, keys, pair_p, first, index)
                        scatter(c, start, width, length, keys, pair_c, first, index)
                        start += length * width
                pair_p[constants], pair_p[constants + 1] = zero, one if all_keys else zero
                pair_c[constants], pair_c[constants + 1] = zero, zero
                pair_p[masked + total : masked + total + GROUP] = zero
                for token in range(num_prefix):
                    at = by_key + token * line + total
                    pair_p[at : at + GROUP + 1] = zero
                    pair_c[at : at + GROUP + 1] = zero
                    pair_p[at] = pair_p[constants + 1]

                # queries: gradient of keys
                list_all_rows(row_list, total, tensors[0, 3], 0, 0)
                weighted_sum(dim, pair_c, by_key, None, q, row_list, total, one, dk, packed)
                own[total * dim : size] = zero
                list_all_rows(row_list, total, row_size, sum_row, zero_row)
                for token in range(1, num_prefix):  # keys that all see
                    at = by_key + token * line
                    weighted_sum(dim, pair_c, at, None, packed, row_list, total, one, dk + token * dk_stride, None)
                for r in range(row_pointer[h], row_pointer[h + 1] - 1):  # patch keys
                    count = list_keys(rows[r], segments, h, num_prefix, row_size, sum_row, zero_row, row_list, index)
                    used, row, base = count + num_prefix, rows[r], pointer[h]
                    index_pairs(
                        index, count, row_list, row_size, transposed, base, num_prefix, row, line, by_query, constants
                    )
                    for i in range(num_prefix + row, num_prefix + rows[r + 1]):
                        target = dk + i * dk_stride
                        prefetch(row_size, target + PREFETCH_DISTANCE * dk_stride, 1)
                        weighted_sum(dim, pair_c, 0, index, packed, row_list, used, one, target, None)
                        advance(row_list, count, row_size)
                        advance(index, used, 1)

                # gradients of the output: gradient of values, of which all gain what they give as keys outside
                list_all_rows(row_list, total, g_stride, 0, 0)
                weighted_sum(dim, pair_p, masked, None, g, row_list, total, one, packed + sum_row, packed)
                own[total * dim : (total + 1) * dim] = zero
                if not all_keys:
                    own[(total + 1) * dim : (total + 2) * dim] = zero
                list_all_rows(row_list, total, row_size, sum_row, zero_row)
                for token in range(num_prefix):
                    at = by_key + token * line
                    weighted_sum(dim, pair_p, at, None, packed, row_list, total + 1, one, dv + token * dv_stride, None)
                for r in range(row_pointer[h], row_pointer[h + 1] - 1):
                    count = list_keys(rows[r], segments, h, num_prefix, row_size, sum_row, zero_row, row_list, index)
                    used, row, base = count + num_prefix, rows[r], pointer[h]
                    index_pairs(
                        index, count, row_list, row_size, transposed, base, num_prefix, row, line, by_query, constants
                    )
                    for i in range(num_prefix + row, num_prefix + rows[r + 1]):
                        target = dv + i * dv_stride
                        prefetch(row_size, target + PREFETCH_DISTANCE * dv_stride, 1)
                        weighted_sum(dim, pair_p, 0, index, packed, row_list, used + 1, one, target, None)
                        advance(row_list, count, row_size)
                        advance(index, used, 1)

    return backward
