"""The inner loops of the CPU kernel, compiled by numba for one head_dim at a time.

All tensors come as flat 1-D views of their storage with strides in elements, so that the slices of a packed qkv
projection are read where they lie. A query has few keys (some 20 to 60), so its row is three short passes over them,
each of which becomes vector code: logits, exponentials, weighted sum of values. Which shifts of a head stay inside the
sequence changes only at a few rows; between two such rows one list of segments serves all queries.

Rows of a packed projection lie a multiple of 1 KiB apart and so crowd into few sets of a cache; each head's rows are
therefore first copied next to each other. Places in the flat arrays are unsigned, for numba tests signed ones for
being negative, and no array is ever sliced in an inner loop, for numba counts references to slices.

Common arguments (B batch, H heads, P prefix tokens, N patch tokens, D head_dim, S segments of a head):

    strides    (tensors, 3) uint64: of batch, head and token, tensors in the order of the arguments
    segments   (first, last, shift, pointer): segment s lets query i, first[s] <= i < last[s], see key i + shift[s];
               head h has those from pointer[h] to pointer[h + 1]
    breaks     (row, pointer): for each head the rows where the list of valid segments changes, from 0 to N
    tasks      (n, 2) int64: batch and head
    lse        (B, H, P + N): log of the softmax's denominator
    outside    0, or the number of all keys P + N if those outside the support take part with logit 0 (zero_logit)
"""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import numpy as np
from llvmlite import ir
from numba import njit, prange, types, uint64
from numba.extending import intrinsic

# sums in any order, so that they become vector code; unlike fastmath=True this keeps NaN and infinity what they are
FAST = {"reassoc", "contract", "arcp", "nsz"}


@intrinsic
def _float_of_bits(typingctx, bits):
    """The float32 that an int32's bits spell."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), codegen


@njit(nogil=True, fastmath=FAST, cache=True)
def exp_of_nonpositive(x):
    """exp of a float32 x <= 0; below -87 the result is that of -87, 1.6e-38. Unlike math.exp it becomes vector code.

    exp(x) = 2^n · e^r, n the integer next to x / ln 2, e^r by its Taylor polynomial, |r| <= ln(2) / 2.
    """
    x = np.float32(-87.0) if x < np.float32(-87.0) else x  # lets NaN through
    n = np.floor(x * np.float32(1.4426950408889634) + np.float32(0.5))
    r = (x - n * np.float32(0.693359375)) + n * np.float32(2.12194440e-4)  # ln 2 in two parts, to lose no digits
    e = np.float32(1 / 5040)
    e = e * r + np.float32(1 / 720)
    e = e * r + np.float32(1 / 120)
    e = e * r + np.float32(1 / 24)
    e = e * r + np.float32(1 / 6)
    e = e * r + np.float32(0.5)
    e = e * r + np.float32(1.0)
    e = e * r + np.float32(1.0)
    return e * _float_of_bits((np.int32(n) + np.int32(127)) << np.int32(23))


@njit(nogil=True, fastmath=FAST, cache=True)
def exp_all(x, count, top):
    """x[t] = exp(x[t] - top) for t < count, where no x[t] is above top; returns their sum."""
    total = x.dtype.type(0)
    if x.itemsize == 4:
        for t in range(count):
            x[t] = exp_of_nonpositive(x[t] - top)
            total += x[t]
    else:
        for t in range(count):
            x[t] = np.exp(x[t] - top)
            total += x[t]
    return total


@njit(nogil=True, cache=True)
def keys_of(row, firsts, lasts, shifts, begin, end, num_prefix, dim, chosen, places):
    """The keys of patch query ``row``, in a head whose segments are begin..end-1, then the prefix tokens.

    Writes which segments hold the query to ``chosen`` and where all its keys' rows begin to ``places``; returns how
    many segments they are.
    """
    count = 0
    for s in range(begin, end):
        if firsts[s] <= row < lasts[s]:
            chosen[count] = s
            places[count] = uint64((num_prefix + row + shifts[s]) * dim)
            count += 1
    for t in range(num_prefix):
        places[count + t] = uint64(t * dim)
    return count


@cache
def loops(dim: int) -> SimpleNamespace:
    """``forward`` and ``backward`` for one head_dim; each compiled at its first call and then kept on disk."""

    @njit(nogil=True, fastmath=FAST, inline="always")
    def dot(x, i, y, j, zero):
        total = zero
        for d in range(dim):
            total += x[i + uint64(d)] * y[j + uint64(d)]
        return total

    @njit(nogil=True, fastmath=FAST, inline="always")
    def larger(x, y):
        return x if x > y else y

    @njit(nogil=True, fastmath=FAST, inline="always")
    def dots(x, i, y, places, count, scale, result, zero, lowest):
        """result[t] = scale · x[i:] · y[places[t]:] for t < count, four at a time so that x is loaded less often.

        Returns the largest."""
        t, top = 0, lowest
        while t + 4 <= count:
            j0, j1, j2, j3 = places[t], places[t + 1], places[t + 2], places[t + 3]
            s0, s1, s2, s3 = zero, zero, zero, zero
            for d in range(dim):
                u = uint64(d)
                a = x[i + u]
                s0 += a * y[j0 + u]
                s1 += a * y[j1 + u]
                s2 += a * y[j2 + u]
                s3 += a * y[j3 + u]
            s0, s1, s2, s3 = s0 * scale, s1 * scale, s2 * scale, s3 * scale
            result[t], result[t + 1], result[t + 2], result[t + 3] = s0, s1, s2, s3
            top = larger(top, larger(larger(s0, s1), larger(s2, s3)))
            t += 4
        while t < count:
            s0 = dot(x, i, y, places[t], zero) * scale
            result[t] = s0
            top = larger(top, s0)
            t += 1
        return top

    @njit(nogil=True, fastmath=FAST, inline="always")
    def add(acc, w, x, i):
        for d in range(dim):
            acc[d] += w * x[i + uint64(d)]

    @njit(nogil=True, fastmath=FAST, inline="always")
    def add_all(acc, weights, x, places, count):
        """acc += Σ weights[t] x[places[t]:], four at a time so that acc is loaded and stored less often."""
        t = 0
        while t + 4 <= count:
            j0, j1, j2, j3 = places[t], places[t + 1], places[t + 2], places[t + 3]
            w0, w1, w2, w3 = weights[t], weights[t + 1], weights[t + 2], weights[t + 3]
            for d in range(dim):
                u = uint64(d)
                acc[d] += w0 * x[j0 + u] + w1 * x[j1 + u] + w2 * x[j2 + u] + w3 * x[j3 + u]
            t += 4
        while t < count:
            add(acc, weights[t], x, places[t])
            t += 1

    @njit(nogil=True, fastmath=FAST)
    def pack(x, start, stride, total, rows):
        """Copy ``total`` rows of x side by side."""
        for token in range(total):
            for d in range(dim):
                rows[uint64(token * dim + d)] = x[start + uint64(token) * stride + uint64(d)]

    @njit(nogil=True, fastmath=FAST, inline="always")
    def put(x, i, acc, w):
        for d in range(dim):
            x[i + uint64(d)] = acc[d] * w

    @njit(nogil=True, fastmath=FAST, inline="always")
    def fill(acc, value):
        for d in range(dim):
            acc[d] = value

    @njit(nogil=True, fastmath=FAST, cache=True, error_model="numpy")
    def forward(q, k, v, out, strides, lse, segments, breaks, tasks, num_prefix, scale, outside, v_sum):
        """Output and lse of the heads in ``tasks``."""
        firsts, lasts, shifts, segment_pointer = segments
        rows, row_pointer = breaks
        total = lse.shape[2]
        size = max(total, len(firsts) + num_prefix)
        weights, acc = np.empty(size, q.dtype), np.empty(dim, q.dtype)
        places, chosen = np.empty(size, np.uint64), np.empty(len(firsts), np.int64)
        ks, vs = np.empty(total * dim, q.dtype), np.empty(total * dim, q.dtype)
        zero, one, lowest = q.dtype.type(0), q.dtype.type(1), q.dtype.type(-3.4e38)
        sq, so, step = strides[0, 2], strides[3, 2], uint64(dim)
        for task in range(len(tasks)):
            b, h = uint64(tasks[task, 0]), uint64(tasks[task, 1])
            q0, o0 = b * strides[0, 0] + h * strides[0, 1], b * strides[3, 0] + h * strides[3, 1]
            pack(k, b * strides[1, 0] + h * strides[1, 1], strides[1, 2], total, ks)
            pack(v, b * strides[2, 0] + h * strides[2, 1], strides[2, 2], total, vs)

            if num_prefix:  # queries that see all
                for j in range(total):
                    places[j] = uint64(j) * step
            for token in range(num_prefix):
                top = dots(q, q0 + uint64(token) * sq, ks, places, total, scale, weights, zero, lowest)
                denominator = exp_all(weights, total, top)
                fill(acc, zero)
                add_all(acc, weights, vs, places, total)
                put(out, o0 + uint64(token) * so, acc, one / denominator)
                lse[b, h, token] = top + np.log(denominator)

            begin, end = segment_pointer[h], segment_pointer[h + uint64(1)]
            for r in range(row_pointer[h], row_pointer[h + uint64(1)] - 1):  # patch queries
                count = keys_of(rows[r], firsts, lasts, shifts, begin, end, num_prefix, dim, chosen, places)
                keys = count + num_prefix
                for token in range(num_prefix + rows[r], num_prefix + rows[r + 1]):
                    top = dots(q, q0 + uint64(token) * sq, ks, places, keys, scale, weights, zero, lowest)
                    if outside:
                        top = larger(top, zero)
                    denominator = exp_all(weights, keys, top)
                    fill(acc, zero)
                    if outside:
                        rest = q.dtype.type(np.exp(-top))
                        denominator += q.dtype.type(outside - keys) * rest
                        for t in range(keys):
                            weights[t] -= rest
                        for d in range(dim):
                            acc[d] = rest * v_sum[b, h, d]
                    add_all(acc, weights, vs, places, keys)
                    put(out, o0 + uint64(token) * so, acc, one / denominator)
                    lse[b, h, token] = top + np.log(denominator)
                    for t in range(count):
                        places[t] += step

    @njit(nogil=True, fastmath=FAST, cache=True, error_model="numpy")
    def backward(q, k, v, out, g, dq, dk, dv, strides, lse, segments, breaks, tasks, num_prefix, scale, outside):
        """Gradients of the heads in ``tasks``. With p the softmax's weights, p0 that of a key outside the support
        (0 under exclude) and g the gradient of out,

            c_ij = p_ij (g_i · v_j - g_i · out_i) scale                              gradient of q_i · k_j
            dq_i = Σ_j c_ij k_j      dk_j = Σ_i c_ij q_i      dv_j = Σ_i (p_ij - p0_i) g_i + Σ_all p0_i g_i

        A first pass goes over the queries and keeps p - p0 and c, segment by segment; a second goes over the keys and
        gathers their sums, so that no two rows ever add to the same place.
        """
        firsts, lasts, shifts, segment_pointer = segments
        rows, row_pointer = breaks
        total = lse.shape[2]
        zero, one, lowest = q.dtype.type(0), q.dtype.type(1), q.dtype.type(-3.4e38)
        widest = 1
        for h in range(len(segment_pointer) - 1):
            widest = max(widest, segment_pointer[h + 1] - segment_pointer[h])
        size = max(total, widest + num_prefix)
        p, c = np.empty(size, q.dtype), np.empty(size, q.dtype)
        acc_a, acc_b, shared = np.empty(dim, q.dtype), np.empty(dim, q.dtype), np.empty(dim, q.dtype)
        places, chosen = np.empty(size, np.uint64), np.empty(widest, np.int64)
        qs, ks = np.empty(total * dim, q.dtype), np.empty(total * dim, q.dtype)
        vs, gs = np.empty(total * dim, q.dtype), np.empty(total * dim, q.dtype)
        kept_p, kept_c = np.empty((widest, total), q.dtype), np.empty((widest, total), q.dtype)
        prefix_p, prefix_c = np.empty((num_prefix, total), q.dtype), np.empty((num_prefix, total), q.dtype)
        prefix_dk, prefix_dv = np.empty((num_prefix, dim), q.dtype), np.empty((num_prefix, dim), q.dtype)
        so, sdq, sdk, sdv, step = strides[3, 2], strides[5, 2], strides[6, 2], strides[7, 2], uint64(dim)
        for task in range(len(tasks)):
            b, h = uint64(tasks[task, 0]), uint64(tasks[task, 1])
            pack(q, b * strides[0, 0] + h * strides[0, 1], strides[0, 2], total, qs)
            pack(k, b * strides[1, 0] + h * strides[1, 1], strides[1, 2], total, ks)
            pack(v, b * strides[2, 0] + h * strides[2, 1], strides[2, 2], total, vs)
            pack(g, b * strides[4, 0] + h * strides[4, 1], strides[4, 2], total, gs)
            o0, dq0 = b * strides[3, 0] + h * strides[3, 1], b * strides[5, 0] + h * strides[5, 1]
            dk0, dv0 = b * strides[6, 0] + h * strides[6, 1], b * strides[7, 0] + h * strides[7, 1]
            prefix_dk[:], prefix_dv[:], shared[:] = zero, zero, zero

            if num_prefix:  # queries that see all
                for j in range(total):
                    places[j] = uint64(j) * step
            for t in range(num_prefix):
                token = uint64(t)
                dots(qs, token * step, ks, places, total, scale, p, zero, lowest)
                dots(gs, token * step, vs, places, total, one, c, zero, lowest)
                delta = dot(gs, token * step, out, o0 + token * so, zero)
                exp_all(p, total, lse[b, h, token])
                for j in range(total):
                    c[j] = p[j] * (c[j] - delta) * scale
                    prefix_p[t, j], prefix_c[t, j] = p[j], c[j]
                fill(acc_a, zero)
                add_all(acc_a, c, ks, places, total)
                put(dq, dq0 + token * sdq, acc_a, one)

            begin, end = segment_pointer[h], segment_pointer[h + uint64(1)]
            for r in range(row_pointer[h], row_pointer[h + uint64(1)] - 1):  # patch queries
                count = keys_of(rows[r], firsts, lasts, shifts, begin, end, num_prefix, dim, chosen, places)
                keys = count + num_prefix
                for row in range(num_prefix + rows[r], num_prefix + rows[r + 1]):
                    token = uint64(row)
                    dots(qs, token * step, ks, places, keys, scale, p, zero, lowest)
                    dots(gs, token * step, vs, places, keys, one, c, zero, lowest)
                    delta = dot(gs, token * step, out, o0 + token * so, zero)
                    exp_all(p, keys, lse[b, h, token])
                    for t in range(keys):
                        c[t] = p[t] * (c[t] - delta) * scale
                    fill(acc_a, zero)
                    add_all(acc_a, c, ks, places, keys)
                    put(dq, dq0 + token * sdq, acc_a, one)
                    if outside:
                        rest = q.dtype.type(np.exp(-lse[b, h, token]))
                        for t in range(keys):
                            p[t] -= rest
                        add(shared, rest, gs, token * step)
                    for t in range(count):
                        kept_p[chosen[t] - begin, token], kept_c[chosen[t] - begin, token] = p[t], c[t]
                        places[t] += step
                    for t in range(num_prefix):
                        a, w = c[count + t], p[count + t]
                        for d in range(dim):
                            u = uint64(d)
                            prefix_dk[t, d] += a * qs[token * step + u]
                            prefix_dv[t, d] += w * gs[token * step + u]

            for token in range(total):  # keys
                count = 0
                if token < num_prefix:
                    for d in range(dim):
                        acc_a[d], acc_b[d] = prefix_dk[token, d], prefix_dv[token, d] + shared[d]
                else:
                    for d in range(dim):
                        acc_a[d], acc_b[d] = zero, shared[d]
                    for s in range(begin, end):
                        row = token - shifts[s]
                        if firsts[s] <= row - num_prefix < lasts[s]:
                            places[count] = uint64(row) * step
                            p[count], c[count] = kept_p[s - begin, row], kept_c[s - begin, row]
                            count += 1
                for t in range(num_prefix):
                    places[count] = uint64(t) * step
                    p[count], c[count] = prefix_p[t, token], prefix_c[t, token]
                    count += 1
                add_all(acc_a, c, qs, places, count)
                add_all(acc_b, p, gs, places, count)
                put(dk, dk0 + uint64(token) * sdk, acc_a, one)
                put(dv, dv0 + uint64(token) * sdv, acc_b, one)

    @njit(nogil=True, parallel=True, cache=True)
    def forward_in_threads(q, k, v, out, strides, lse, segments, breaks, tasks, num_prefix, scale, outside, v_sum):
        for i in prange(len(tasks)):
            one = tasks[i : i + 1]
            forward(q, k, v, out, strides, lse, segments, breaks, one, num_prefix, scale, outside, v_sum)

    @njit(nogil=True, parallel=True, cache=True)
    def backward_in_threads(
        q, k, v, out, g, dq, dk, dv, strides, lse, segments, breaks, tasks, num_prefix, scale, outside
    ):
        for i in prange(len(tasks)):
            one = tasks[i : i + 1]
            backward(q, k, v, out, g, dq, dk, dv, strides, lse, segments, breaks, one, num_prefix, scale, outside)

    return SimpleNamespace(
        forward=forward,
        backward=backward,
        forward_in_threads=forward_in_threads,
        backward_in_threads=backward_in_threads,
    )
