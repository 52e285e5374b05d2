"""The inner loops of the CPU kernel, compiled by numba for one head_dim at a time.

All tensors come as flat 1-D views of their storage with strides in elements, so that the slices of a packed qkv
projection are read where they lie. A query has few keys (some 20 to 60), so its row is three short passes over them,
each of which becomes vector code: logits, exponentials, weighted sum of values. Which shifts of a head stay inside the
sequence changes only at a few rows; between two such rows one list of segments serves all queries.

Common arguments (B batch, H heads, P prefix tokens, N patch tokens, D head_dim, S segments of a head):

    strides    (tensors, 3) int64: of batch, head and token, tensors in the order of the arguments
    segments   (first, last, shift, pointer): segment s lets query i, first[s] <= i < last[s], see key i + shift[s];
               head h has those from pointer[h] to pointer[h + 1]
    breaks     (row, pointer): for each head the rows where the list of valid segments changes, from 0 to N
    tasks      (n, 4) int64: batch, head, first row, last row; the prefix rows go with row 0
    lse        (B, H, P + N): log of the softmax's denominator
    outside    0, or the number of all keys P + N if those outside the support take part with logit 0 (zero_logit)
"""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic


@intrinsic
def _float_of_bits(typingctx, bits):
    """The float32 that an int32's bits spell."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), codegen


@njit(nogil=True, fastmath=True, cache=True)
def exp_of_nonpositive(x):
    """exp of a float32 x <= 0; below -87 the result is that of -87, 1.6e-38. Unlike math.exp it becomes vector code.

    exp(x) = 2^n · e^r, n the integer next to x / ln 2, e^r by its Taylor polynomial, |r| <= ln(2) / 2.
    """
    x = max(x, np.float32(-87.0))
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


@njit(nogil=True, fastmath=True, cache=True)
def _exp_all(x, count, top):
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
def _valid(first, last, row, chosen):
    """Write the segments that hold query ``row`` to ``chosen``; returns how many they are."""
    count = 0
    for s in range(len(first)):
        if first[s] <= row < last[s]:
            chosen[count] = s
            count += 1
    return count


@cache
def loops(dim: int) -> SimpleNamespace:
    """``forward`` and ``backward`` for one head_dim; each compiled at its first call and then kept on disk."""

    @njit(nogil=True, fastmath=True, inline="always")
    def dot(x, y, zero):
        total = zero
        for d in range(dim):
            total += x[d] * y[d]
        return total

    @njit(nogil=True, fastmath=True, inline="always")
    def add(acc, w, x):
        for d in range(dim):
            acc[d] += w * x[d]

    @njit(nogil=True, fastmath=True, inline="always")
    def weighted_sum(acc, weights, x, places, count):
        """acc += Σ weights[t] x[places[t]], four rows at a time so that acc is loaded and stored less often."""
        t = 0
        while t + 4 <= count:
            i0, i1, i2, i3 = places[t], places[t + 1], places[t + 2], places[t + 3]
            w0, w1, w2, w3 = weights[t], weights[t + 1], weights[t + 2], weights[t + 3]
            x0, x1, x2, x3 = x[i0 : i0 + dim], x[i1 : i1 + dim], x[i2 : i2 + dim], x[i3 : i3 + dim]
            for d in range(dim):
                acc[d] += w0 * x0[d] + w1 * x1[d] + w2 * x2[d] + w3 * x3[d]
            t += 4
        while t < count:
            add(acc, weights[t], x[places[t] : places[t] + dim])
            t += 1

    @njit(nogil=True, fastmath=True, inline="always")
    def dots(x, y, places, count, scale, result, zero):
        """result[t] = scale · x · y[places[t]] for t < count."""
        for t in range(count):
            result[t] = dot(x, y[places[t] : places[t] + dim], zero) * scale

    @njit(nogil=True, fastmath=True, cache=True)
    def forward(q, k, v, out, strides, lse, segments, breaks, tasks, num_prefix, scale, outside, v_sum):
        firsts, lasts, shifts, segment_pointer = segments
        rows, row_pointer = breaks
        total = lse.shape[2]
        size = max(total, len(firsts) + num_prefix)
        weights, zero = np.empty(size, q.dtype), q.dtype.type(0)
        at_k, at_v, chosen = np.empty(size, np.int64), np.empty(size, np.int64), np.empty(len(firsts) + 1, np.int64)
        acc = np.empty(dim, q.dtype)
        sq, sk, sv, so = strides[0, 2], strides[1, 2], strides[2, 2], strides[3, 2]
        for b, h, start, stop in tasks:
            q0, k0 = b * strides[0, 0] + h * strides[0, 1], b * strides[1, 0] + h * strides[1, 1]
            v0, o0 = b * strides[2, 0] + h * strides[2, 1], b * strides[3, 0] + h * strides[3, 1]
            if start == 0:
                for j in range(total):
                    at_k[j], at_v[j] = k0 + j * sk, v0 + j * sv
                for token in range(num_prefix):
                    dots(q[q0 + token * sq : q0 + token * sq + dim], k, at_k, total, scale, weights, zero)
                    top = weights[:total].max()
                    denominator = _exp_all(weights, total, top)
                    acc[:] = zero
                    weighted_sum(acc, weights, v, at_v, total)
                    out[o0 + token * so : o0 + token * so + dim] = acc / denominator
                    lse[b, h, token] = top + np.log(denominator)
            here = slice(segment_pointer[h], segment_pointer[h + 1])
            first, last, shift = firsts[here], lasts[here], shifts[here]
            for r in range(row_pointer[h], row_pointer[h + 1] - 1):
                low, high = max(start, rows[r]), min(stop, rows[r + 1])
                if low >= high:
                    continue
                count = _valid(first, last, low, chosen)
                keys = count + num_prefix
                for t in range(keys):  # of the row before the first; each row moves them one token on
                    token = num_prefix + low - 1 + shift[chosen[t]] if t < count else t - count
                    at_k[t], at_v[t] = k0 + token * sk, v0 + token * sv
                for token in range(num_prefix + low, num_prefix + high):
                    for t in range(count):
                        at_k[t] += sk
                        at_v[t] += sv
                    dots(q[q0 + token * sq : q0 + token * sq + dim], k, at_k, keys, scale, weights, zero)
                    top = weights[0]
                    for t in range(1, keys):
                        top = max(top, weights[t])
                    if outside:
                        top = max(top, zero)
                    denominator = _exp_all(weights, keys, top)
                    acc[:] = zero
                    if outside:
                        rest = q.dtype.type(np.exp(-top))
                        denominator += (outside - keys) * rest
                        for t in range(keys):
                            weights[t] -= rest
                        add(acc, rest, v_sum[b, h])
                    weighted_sum(acc, weights, v, at_v, keys)
                    o = out[o0 + token * so : o0 + token * so + dim]
                    for d in range(dim):
                        o[d] = acc[d] / denominator
                    lse[b, h, token] = top + np.log(denominator)

    @njit(nogil=True, fastmath=True, cache=True)
    def backward(
        q, k, v, out, g, dq, dk, dv, strides, lse, segments, breaks, tasks, num_prefix, scale, outside
    ):  # fmt: skip
        """Gradients; a task is a whole head. With p the softmax's weights, p0 that of a key outside the support
        (0 under exclude) and g the gradient of out,

            c_ij = p_ij (g_i · v_j - g_i · out_i)                                      gradient of logit ij
            dq_i = scale Σ_j c_ij k_j    dk_j = scale Σ_i c_ij q_i    dv_j = Σ_i (p_ij - p0_i) g_i + Σ_all p0_i g_i

        A first pass goes over the queries and keeps p - p0 and c, segment by segment; a second goes over the keys and
        gathers their sums, so that no two rows ever add to the same place.
        """
        firsts, lasts, shifts, segment_pointer = segments
        rows, row_pointer = breaks
        total = lse.shape[2]
        num_patch = total - num_prefix
        zero = q.dtype.type(0)
        widest = 1
        for h in range(len(segment_pointer) - 1):
            widest = max(widest, segment_pointer[h + 1] - segment_pointer[h])
        size = max(total, widest + num_prefix)
        p, c = np.empty(size, q.dtype), np.empty(size, q.dtype)
        at_a, at_b, chosen = np.empty(size, np.int64), np.empty(size, np.int64), np.empty(widest + 1, np.int64)
        kept_p, kept_c = np.empty((widest, num_patch), q.dtype), np.empty((widest, num_patch), q.dtype)
        prefix_p, prefix_c = np.empty((num_prefix, total), q.dtype), np.empty((num_prefix, total), q.dtype)
        acc_a, acc_b, shared = np.empty(dim, q.dtype), np.empty(dim, q.dtype), np.empty(dim, q.dtype)
        prefix_dk, prefix_dv = np.empty((num_prefix, dim), q.dtype), np.empty((num_prefix, dim), q.dtype)
        base, step = np.empty(8, np.int64), strides[:, 2]
        for b, h, _, _ in tasks:
            for x in range(8):
                base[x] = b * strides[x, 0] + h * strides[x, 1]
            prefix_dk[:], prefix_dv[:], shared[:] = zero, zero, zero

            for token in range(num_prefix):  # queries that see all
                for j in range(total):
                    at_a[j], at_b[j] = base[1] + j * step[1], base[2] + j * step[2]
                i = base[0] + token * step[0]
                dots(q[i : i + dim], k, at_a, total, scale, prefix_p[token], zero)
                i, j = base[4] + token * step[4], base[3] + token * step[3]
                gi = g[i : i + dim]
                delta = dot(gi, out[j : j + dim], zero)
                dots(gi, v, at_b, total, q.dtype.type(1), prefix_c[token], zero)
                for j in range(total):
                    prefix_p[token, j] = np.exp(prefix_p[token, j] - lse[b, h, token])
                    prefix_c[token, j] = prefix_p[token, j] * (prefix_c[token, j] - delta) * scale
                acc_a[:] = zero
                weighted_sum(acc_a, prefix_c[token], k, at_a, total)
                i = base[5] + token * step[5]
                dq[i : i + dim] = acc_a

            here = slice(segment_pointer[h], segment_pointer[h + 1])
            first, last, shift = firsts[here], lasts[here], shifts[here]
            for r in range(row_pointer[h], row_pointer[h + 1] - 1):  # patch queries
                count = _valid(first, last, rows[r], chosen)
                keys = count + num_prefix
                for t in range(keys):
                    token = num_prefix + rows[r] - 1 + shift[chosen[t]] if t < count else t - count
                    at_a[t], at_b[t] = base[1] + token * step[1], base[2] + token * step[2]
                for row in range(rows[r], rows[r + 1]):
                    token = num_prefix + row
                    for t in range(count):
                        at_a[t] += step[1]
                        at_b[t] += step[2]
                    i = base[0] + token * step[0]
                    qi = q[i : i + dim]
                    i, j = base[4] + token * step[4], base[3] + token * step[3]
                    gi = g[i : i + dim]
                    delta, lse_i = dot(gi, out[j : j + dim], zero), lse[b, h, token]
                    dots(qi, k, at_a, keys, scale, p, zero)
                    dots(gi, v, at_b, keys, q.dtype.type(1), c, zero)
                    _exp_all(p, keys, lse_i)
                    for t in range(keys):
                        c[t] = p[t] * (c[t] - delta) * scale
                    acc_a[:] = zero
                    weighted_sum(acc_a, c, k, at_a, keys)
                    i = base[5] + token * step[5]
                    o = dq[i : i + dim]
                    for d in range(dim):
                        o[d] = acc_a[d]
                    if outside:
                        rest = q.dtype.type(np.exp(-lse_i))
                        for t in range(keys):
                            p[t] -= rest
                        add(shared, rest, gi)
                    for t in range(count):
                        kept_p[chosen[t], row] = p[t]
                        kept_c[chosen[t], row] = c[t]
                    for t in range(num_prefix):
                        add(prefix_dk[t], c[count + t], qi)
                        add(prefix_dv[t], p[count + t], gi)

            for token in range(total):  # keys
                acc_a[:], acc_b[:] = zero, shared
                count = 0
                if token < num_prefix:
                    acc_a[:], acc_b[:] = prefix_dk[token], shared + prefix_dv[token]
                else:
                    for s in range(len(first)):
                        row = token - num_prefix - shift[s]
                        if first[s] <= row < last[s]:
                            at_a[count] = base[0] + (num_prefix + row) * step[0]
                            at_b[count] = base[4] + (num_prefix + row) * step[4]
                            p[count], c[count] = kept_p[s, row], kept_c[s, row]
                            count += 1
                for t in range(num_prefix):
                    at_a[count] = base[0] + t * step[0]
                    at_b[count] = base[4] + t * step[4]
                    p[count], c[count] = prefix_p[t, token], prefix_c[t, token]
                    count += 1
                weighted_sum(acc_a, c, q, at_a, count)
                weighted_sum(acc_b, p, g, at_b, count)
                i, j = base[6] + token * step[6], base[7] + token * step[7]
                x, y = dk[i : i + dim], dv[j : j + dim]
                for d in range(dim):
                    x[d] = acc_a[d]
                    y[d] = acc_b[d]

    return SimpleNamespace(forward=forward, backward=backward)
