"""The forward loop: for each head a pass over the keys, for the softmax's weights, then one over the values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import prange

from videofib.attention.kernels.cpu.lists import advance, list_all_rows, list_keys
from videofib.attention.kernels.cpu.vectors import LANES, exponentiate, normalise, prefetch, scores, weighted_sum
from videofib.attention.kernels.cpu.workspace import (
    FORWARD_BLOCK,
    PREFETCH_DISTANCE,
    array_address,
    head_address,
    packed_size,
    padded,
    query_width,
)

SHORT = 256  # tokens up to which rows are read as they lie, however far apart


def make_forward(dim: int, cache_key: int) -> Callable:
    """The loop for one head_dim; ``cache_key`` as in ``compiled``."""

    def forward(tensors, lse, segments, boundaries, num_prefix, scale, all_keys, floats, indices):
        """Output and ``lse`` of every head; tensors: q, k, v, out. The arguments are those of ``workspace``.

        exclude: out = Σ_S e^(s-m) v / Σ_S e^(s-m). zero_logit, with ``all_keys`` taking part: m = max(0, max s),
        out = (Σ_S (e^(s-m) - e^-m) v + e^-m Σ_all v) / (Σ_S e^(s-m) + (all_keys - |S|) e^-m).
        """
        _ = cache_key  # what a function mentions of its surroundings is a part of its key on disk
        batch, heads, total = lse.shape
        rows, row_pointer = boundaries
        size, prefix_width = packed_size(total, dim), padded(total)
        zero, one, lowest = floats.dtype.type(0), floats.dtype.type(1), floats.dtype.type(-3.4e38)
        row_size, q_stride, out_stride = dim * floats.itemsize, tensors[0, 3], tensors[3, 3]
        workers, half = len(floats), indices.shape[1] // 2
        # whether keys and values may be read as they lie: what fills a group is row 0 then, which all must see
        direct = (
            not all_keys
            and num_prefix > 0
            and tensors[1, 3] == tensors[2, 3]
            and (tensors[1, 3] == row_size or total <= SHORT)
        )
        if direct:
            key_stride, sum_row, zero_row, packing = tensors[1, 3], 0, 0, 0
        else:  # the first query that sees all packs what it reads; if there is none, its results are overwritten
            key_stride, sum_row, zero_row, packing = row_size, (total + 1) * row_size, total * row_size, 1
        for worker in prange(workers):
            own, row_list, chosen = floats[worker], indices[worker, :half], indices[worker, half:]
            packed = array_address(own)
            sums, maxima = own[size : size + prefix_width], own[size + prefix_width : size + 2 * prefix_width]
            weights = own[size + 2 * prefix_width :]
            for head in range(worker, batch * heads, workers):
                b, h = head % batch, head // batch
                q, k, v, out = (
                    head_address(tensors, 0, b, h),
                    head_address(tensors, 1, b, h),
                    head_address(tensors, 2, b, h),
                    head_address(tensors, 3, b, h),
                )

                # keys: logits and their exponentials
                if packing:
                    list_all_rows(row_list, total, tensors[1, 3], 0, 0)
                    maxima[0] = scores(dim, q, k, row_list, total, scale, lowest, weights, 0, packed)
                    own[total * dim : size] = zero
                    k = packed
                list_all_rows(row_list, total, key_stride, sum_row, zero_row)
                for token in range(packing, num_prefix):  # queries that see all
                    query, at = q + token * q_stride, token * prefix_width
                    maxima[token] = scores(dim, query, k, row_list, total, scale, lowest, weights, at, None)
                for token in range(num_prefix):
                    sums[token] = exponentiate(weights, token * prefix_width, total, maxima[token])
                start = max(num_prefix, 1) * prefix_width
                for r in range(row_pointer[h], row_pointer[h + 1] - 1):  # patch queries
                    count = list_keys(rows[r], segments, h, num_prefix, key_stride, sum_row, zero_row, row_list, chosen)
                    keys = count + num_prefix
                    others = all_keys - keys  # keys that take part with logit 0, if above 0
                    width = query_width(keys)
                    stop = num_prefix + rows[r + 1]
                    for first in range(num_prefix + rows[r], stop, FORWARD_BLOCK):
                        last = min(first + FORWARD_BLOCK, stop)
                        for i in range(first, last):
                            query, at = q + i * q_stride, start + (i - first) * width
                            prefetch(row_size, query + PREFETCH_DISTANCE * q_stride, 0)
                            largest = scores(dim, query, k, row_list, keys, scale, lowest, weights, at, None)
                            maxima[i] = max(largest, zero) if others > 0 else largest
                            advance(row_list, count, key_stride)
                        for i in range(first, last):
                            sums[i] = exponentiate(weights, start, keys, maxima[i])
                            if others > 0:
                                masked_weight = floats.dtype.type(np.exp(-maxima[i]))
                                sums[i] += floats.dtype.type(others) * masked_weight
                                for t in range(start, start + keys):
                                    weights[t] -= masked_weight
                                weights[start + keys] = masked_weight
                                weights[start + keys + 1 : start + width] = zero
                            start += width
                normalise(sums, maxima, total)
                lse[b, h] = maxima[:total]

                # values: their weighted sums
                if packing:
                    list_all_rows(row_list, total, tensors[2, 3], 0, 0)
                    weighted_sum(dim, weights, 0, None, v, row_list, total, sums[0], out, packed)
                    own[total * dim : size] = zero
                    v = packed
                list_all_rows(row_list, total, key_stride, sum_row, zero_row)
                for token in range(packing, num_prefix):
                    at, target = token * prefix_width, out + token * out_stride
                    weighted_sum(dim, weights, at, None, v, row_list, total, sums[token], target, None)
                if all_keys:
                    weights[:total] = one
                    weights[total : total + LANES] = zero
                    weighted_sum(dim, weights, 0, None, v, row_list, total, one, v + sum_row, None)
                start = max(num_prefix, 1) * prefix_width
                for r in range(row_pointer[h], row_pointer[h + 1] - 1):
                    count = list_keys(rows[r], segments, h, num_prefix, key_stride, sum_row, zero_row, row_list, chosen)
                    keys = count + num_prefix
                    used = keys + 1 if all_keys > keys else keys
                    for i in range(num_prefix + rows[r], num_prefix + rows[r + 1]):
                        target = out + i * out_stride
                        prefetch(row_size, target + PREFETCH_DISTANCE * out_stride, 1)
                        weighted_sum(dim, weights, start, None, v, row_list, used, sums[i], target, None)
                        advance(row_list, count, key_stride)
                        start += query_width(keys)

    return forward
