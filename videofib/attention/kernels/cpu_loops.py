"""The loops of the CPU kernel, compiled by numba for one head_dim at a time.

A query has few keys (some 20 to 60), found by the same shifts as its neighbours': which shifts of a head stay inside
the sequence changes only at a few rows. Between two such rows one list of addresses, moved on by a row for each query,
serves all.

A head is worked in passes over all its tokens, each reading the rows of one tensor by their shifts: keys, then values;
backward values, keys, queries and gradients of the output. So a cache has to hold windows of one tensor at a time. Rows
of a packed qkv projection lie a multiple of 1 KiB apart, in as many memory pages, and crowd into few sets of a cache.
Unless they are few, they are therefore copied next to each other, into a workspace, by the first that reads them all.

Arguments they share (B batch, H heads, P prefix tokens, N patch tokens, D head_dim, S segments of a head):

    tensors    (tensors, 4) int64: address, then strides of batch, head and token, in bytes
    segments   (first, last, shift, mirror, pointer): segment s lets query i, first[s] <= i < last[s], see key
               i + shift[s]; in segment mirror[s] the two have changed places; head h has those from pointer[h] to
               pointer[h + 1]
    breaks     (row, pointer): for each head the rows where the list of valid segments changes, from 0 to N
    lse        (B, H, P + N): log of the softmax's denominator
    outside    0, or the number of all keys P + N if those outside the support take part with logit 0 (zero_logit)
    number_space, place_space    workspaces: of the tensors' dtype, 64-byte aligned, and of int64; (threads, what
               ``room`` says)
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from numba import njit, prange

from videofib.attention.kernels import cpu_vectors
from videofib.attention.kernels.cpu_vectors import (
    GROUP,
    LANES,
    differentiate,
    dot,
    exponentiate,
    fetch,
    normalise,
    score,
    spread,
    weighted_sum,
)

BLOCK, LONG_BLOCK = 64, 1024  # queries worked one step at a time: forward, and backward, where steps are longer
AHEAD = 4  # rows between asking for one and using it
SHORT = 256  # tokens up to which rows are read as they lie, however far apart
_VECTORS = zlib.crc32(Path(cpu_vectors.__file__).read_bytes())


def _compiled(function: Callable, **options) -> Callable:
    """``function`` compiled at its first call and then kept on disk, where there is a place for it."""
    try:
        return njit(nogil=True, error_model="numpy", cache=True, **options)(function)
    except RuntimeError:  # no folder can be written to
        return njit(nogil=True, error_model="numpy", **options)(function)


@_compiled
def padded(count):
    """Numbers to keep for a list of ``count``, one more, and zeros to the end of a block of lanes."""
    return (count + 1 + 2 * LANES - 1) // LANES * LANES


@_compiled
def line_for(keys):
    """Numbers to keep for a query with so many keys and a sum: whole blocks of lanes."""
    return (keys + LANES) // LANES * LANES


def room(total: int, dim: int, widest: int, num_prefix: int, backward: bool) -> tuple[int, int]:
    """(numbers, places) that one thread needs for heads of ``total`` tokens and at most ``widest`` segments."""
    rows, keys = _rows(total, dim), widest + num_prefix
    places = 2 * padded(max(total, keys))
    if not backward:
        return rows + (2 + max(num_prefix, 1)) * padded(total) + total * line_for(keys), places
    return rows + (LONG_BLOCK + total) * line_for(keys) + 2 * kept_lines(widest, num_prefix) * padded(total), places


@_compiled
def kept_lines(widest, num_prefix):
    """Lines of pairs that the backward pass keeps, and two of constants and rests."""
    return widest + num_prefix + max(num_prefix, 1) + 2


@_compiled
def _rows(total, dim):
    """Numbers in a head's rows, and in a group after them: a row of zeros, one for a sum, and what copying fills up."""
    return ((total + GROUP) * dim + LANES - 1) // LANES * LANES


@_compiled
def row_address(tensors, which, b, h):
    return tensors[which, 0] + b * tensors[which, 1] + h * tensors[which, 2]


@_compiled
def address(numbers, start):
    return np.int64(numbers.ctypes.data) + start * numbers.itemsize


@_compiled
def list_all(places, total, step, sum_place, pad):
    """All tokens, the row for a sum, and rows to fill a group."""
    for token in range(total):
        places[token] = token * step
    places[total] = sum_place
    places[total + 1 : total + 1 + GROUP] = pad


@_compiled
def list_keys(row, segments, h, num_prefix, step, sum_place, pad, places, chosen):
    """The keys of patch query ``row``: those of its segments, which go to ``chosen`` (counted in the head), then
    the prefix tokens, the row for a sum, and rows to fill a group. Returns how many segments."""
    firsts, lasts, shifts, _, pointer = segments
    count = 0
    for s in range(pointer[h], pointer[h + 1]):
        if firsts[s] <= row < lasts[s]:
            places[count] = (num_prefix + row + shifts[s]) * step
            chosen[count] = s - pointer[h]
            count += 1
    for t in range(num_prefix):
        places[count + t] = t * step
    places[count + num_prefix] = sum_place
    places[count + num_prefix + 1 : count + num_prefix + 1 + GROUP] = pad
    return count


@_compiled
def list_kept(spots, count, places, step, mirrors, pointer, num_prefix, row, line, by_query, constants):
    """Turn ``spots``, the segments in which key ``row`` is listed, into where the pairs with its queries are kept, then
    those with prefix tokens, the constant 1 for a row of sums, and 0 to fill a group."""
    for t in range(count):
        spots[t] = mirrors[pointer + spots[t]] * line + places[t] // step
    for t in range(num_prefix):
        spots[count + t] = by_query + t * line + num_prefix + row
    spots[count + num_prefix] = constants + 1
    spots[count + num_prefix + 1 : count + num_prefix + 1 + GROUP] = constants


@_compiled
def move(places, count, distance):
    for t in range(count):
        places[t] += distance


@cache
def loops(dim: int, in_threads: bool) -> SimpleNamespace:
    """``forward`` and ``backward`` for one head_dim, over all heads."""
    variant = 2 * _VECTORS + in_threads  # what compiled code depends on belongs to the key under which it is kept

    def forward(tensors, lse, segments, breaks, num_prefix, scale, outside, number_space, place_space):
        """Output and ``lse`` of every head.

        exclude: out = Σ_S e^(s-m) v / Σ_S e^(s-m). zero_logit, with ``outside`` keys in all: m = max(0, max s),
        out = (Σ_S (e^(s-m) - e^-m) v + e^-m Σ_all v) / (Σ_S e^(s-m) + (outside - |S|) e^-m).
        """
        if variant < 0:
            return
        batch, heads, total = lse.shape
        rows, row_pointer = breaks
        size, line_of_all = _rows(total, dim), padded(total)
        zero, one, lowest = number_space.dtype.type(0), number_space.dtype.type(1), number_space.dtype.type(-3.4e38)
        step, q_step, out_step = dim * number_space.itemsize, tensors[0, 3], tensors[3, 3]
        slots, half = len(number_space), place_space.shape[1] // 2
        # whether keys and values may be read as they lie: what fills a group is row 0 then, which all must see
        direct = (
            not outside
            and num_prefix > 0
            and tensors[1, 3] == tensors[2, 3]
            and (tensors[1, 3] == step or total <= SHORT)
        )
        if direct:
            key_step, sum_place, pad, copied = tensors[1, 3], 0, 0, 0
        else:  # the first query that sees all copies what it reads; if none does, what it finds is written over
            key_step, sum_place, pad, copied = step, (total + 1) * step, total * step, 1
        for slot in prange(slots):
            own, places, chosen = number_space[slot], place_space[slot, :half], place_space[slot, half:]
            copies = address(own, 0)
            factors, tops = own[size : size + line_of_all], own[size + line_of_all : size + 2 * line_of_all]
            weights = own[size + 2 * line_of_all :]
            for head in range(slot, batch * heads, slots):
                b, h = head % batch, head // batch
                q, k, v, out = (
                    row_address(tensors, 0, b, h),
                    row_address(tensors, 1, b, h),
                    row_address(tensors, 2, b, h),
                    row_address(tensors, 3, b, h),
                )

                # keys: logits and their exponentials
                if copied:
                    list_all(places, total, tensors[1, 3], 0, 0)
                    tops[0] = score(dim, q, k, places, total, scale, lowest, weights, 0, copies)
                    own[total * dim : size] = zero
                    k = copies
                list_all(places, total, key_step, sum_place, pad)
                for token in range(copied, num_prefix):  # queries that see all
                    query = q + token * q_step
                    tops[token] = score(dim, query, k, places, total, scale, lowest, weights, token * line_of_all, None)
                for token in range(num_prefix):
                    factors[token] = exponentiate(weights, token * line_of_all, total, tops[token])
                start = max(num_prefix, 1) * line_of_all
                for r in range(row_pointer[h], row_pointer[h + 1] - 1):  # patch queries
                    count = list_keys(rows[r], segments, h, num_prefix, key_step, sum_place, pad, places, chosen)
                    keys = count + num_prefix
                    others = outside - keys  # keys that take part with logit 0, if above 0
                    line = line_for(keys)
                    stop = num_prefix + rows[r + 1]
                    for first in range(num_prefix + rows[r], stop, BLOCK):
                        last = min(first + BLOCK, stop)
                        for i in range(first, last):
                            query, at = q + i * q_step, start + (i - first) * line
                            fetch(step, query + AHEAD * q_step, 0)
                            top = score(dim, query, k, places, keys, scale, lowest, weights, at, None)
                            tops[i] = max(top, zero) if others > 0 else top
                            move(places, count, key_step)
                        for i in range(first, last):
                            factors[i] = exponentiate(weights, start, keys, tops[i])
                            if others > 0:
                                rest = number_space.dtype.type(np.exp(-tops[i]))
                                factors[i] += number_space.dtype.type(others) * rest
                                for t in range(start, start + keys):
                                    weights[t] -= rest
                                weights[start + keys] = rest
                                weights[start + keys + 1 : start + line] = zero
                            start += line
                normalise(factors, tops, total)
                lse[b, h] = tops[:total]

                # values: their weighted sums
                if copied:
                    list_all(places, total, tensors[2, 3], 0, 0)
                    weighted_sum(dim, weights, 0, None, v, places, total, factors[0], out, copies)
                    own[total * dim : size] = zero
                    v = copies
                list_all(places, total, key_step, sum_place, pad)
                for token in range(copied, num_prefix):
                    target = out + token * out_step
                    weighted_sum(
                        dim, weights, token * line_of_all, None, v, places, total, factors[token], target, None
                    )
                if outside:
                    weights[:total] = one
                    weights[total : total + LANES] = zero
                    weighted_sum(dim, weights, 0, None, v, places, total, one, v + sum_place, None)
                start = max(num_prefix, 1) * line_of_all
                for r in range(row_pointer[h], row_pointer[h + 1] - 1):
                    count = list_keys(rows[r], segments, h, num_prefix, key_step, sum_place, pad, places, chosen)
                    keys = count + num_prefix
                    used = keys + 1 if outside > keys else keys
                    for i in range(num_prefix + rows[r], num_prefix + rows[r + 1]):
                        target = out + i * out_step
                        fetch(step, target + AHEAD * out_step, 1)
                        weighted_sum(dim, weights, start, None, v, places, used, factors[i], target, None)
                        move(places, count, key_step)
                        start += line_for(keys)

    def backward(tensors, lse, segments, breaks, num_prefix, scale, outside, number_space, place_space):
        """Gradients of every head. With p the softmax's weights, p0 that of a key outside the support (0 under exclude)
        and g the gradient of out,

            c_ij = p_ij (g_i · v_j - g_i · out_i) scale                              gradient of q_i · k_j
            dq_i = Σ_j c_ij k_j      dk_j = Σ_i c_ij q_i      dv_j = Σ_i (p_ij - p0_i) g_i + Σ_all p0_i g_i

        Passes over values and over keys find p - p0 and c for each query, and keep them; those over queries and over g
        gather the sums of each key, so that no two rows ever add to the same place. Kept, in lines of P + N numbers:

            by_segment   the pair of each query in each segment
            by_key       the pair of each query with each prefix token
            by_query     the pair of each prefix token with each key
            constants    0, 1
            rests        p0 of each query
        """
        if variant < 0:
            return
        batch, heads, total = lse.shape
        rows, row_pointer = breaks
        mirrors, pointer = segments[3], segments[4]
        widest = 0
        for h in range(heads):
            widest = max(widest, pointer[h + 1] - pointer[h])
        size, line, longest = _rows(total, dim), padded(total), line_for(widest + num_prefix)
        lines = kept_lines(widest, num_prefix)
        by_key, by_query = widest * line, (widest + num_prefix) * line
        constants, rests = (lines - 2) * line, (lines - 1) * line
        zero, one, lowest = number_space.dtype.type(0), number_space.dtype.type(1), number_space.dtype.type(-3.4e38)
        step = dim * number_space.itemsize
        sum_place, pad = (total + 1) * step, total * step
        q_step, out_step, g_step = tensors[0, 3], tensors[3, 3], tensors[4, 3]
        dq_step, dk_step, dv_step = tensors[5, 3], tensors[6, 3], tensors[7, 3]
        slots, half = len(number_space), place_space.shape[1] // 2
        for slot in prange(slots):
            own, places, spots = number_space[slot], place_space[slot, :half], place_space[slot, half:]
            copies = address(own, 0)
            p, c = own[size : size + LONG_BLOCK * longest], own[size + LONG_BLOCK * longest :]
            kept_p = own[size + (LONG_BLOCK + total) * longest : size + (LONG_BLOCK + total) * longest + lines * line]
            kept_c = own[size + (LONG_BLOCK + total) * longest + lines * line :]
            for head in range(slot, batch * heads, slots):
                b, h = head % batch, head // batch
                q, k, v, out, g, dq, dk, dv = (
                    row_address(tensors, 0, b, h),
                    row_address(tensors, 1, b, h),
                    row_address(tensors, 2, b, h),
                    row_address(tensors, 3, b, h),
                    row_address(tensors, 4, b, h),
                    row_address(tensors, 5, b, h),
                    row_address(tensors, 6, b, h),
                    row_address(tensors, 7, b, h),
                )

                # values: g_i · v_j
                list_all(places, total, tensors[2, 3], 0, 0)
                score(dim, g, v, places, total, one, zero, kept_c, by_query, copies)
                own[total * dim : size] = zero
                list_all(places, total, step, sum_place, pad)
                for token in range(1, num_prefix):
                    at = by_query + token * line
                    score(dim, g + token * g_step, copies, places, total, one, zero, kept_c, at, None)
                start = 0
                for r in range(row_pointer[h], row_pointer[h + 1] - 1):
                    count = list_keys(rows[r], segments, h, num_prefix, step, sum_place, pad, places, spots)
                    keys = count + num_prefix
                    for i in range(num_prefix + rows[r], num_prefix + rows[r + 1]):
                        fetch(step, g + (i + AHEAD) * g_step, 0)
                        score(dim, g + i * g_step, copies, places, keys, one, zero, c, start, None)
                        move(places, count, step)
                        start += line_for(keys)

                # keys: logits, weights, gradient of queries
                list_all(places, total, tensors[1, 3], 0, 0)
                score(dim, q, k, places, total, scale, lowest, kept_p, by_query, copies)
                own[total * dim : size] = zero
                list_all(places, total, step, sum_place, pad)
                for token in range(num_prefix):  # queries that see all
                    at = by_query + token * line
                    if token > 0:
                        score(dim, q + token * q_step, copies, places, total, scale, lowest, kept_p, at, None)
                    delta = dot(dim, g + token * g_step, out + token * out_step, one)
                    exponentiate(kept_p, at, total, lse[b, h, token])
                    differentiate(kept_p, at, kept_c, at, total, delta, scale)
                    weighted_sum(dim, kept_c, at, None, copies, places, total, one, dq + token * dq_step, None)
                    kept_p[rests + token] = zero
                    for t in range(num_prefix):
                        kept_p[by_key + t * line + token] = kept_p[at + t]
                        kept_c[by_key + t * line + token] = kept_c[at + t]
                start = 0
                for r in range(row_pointer[h], row_pointer[h + 1] - 1):  # patch queries
                    count = list_keys(rows[r], segments, h, num_prefix, step, sum_place, pad, places, spots)
                    keys = count + num_prefix
                    width = line_for(keys)
                    for t in range(keys):
                        spots[t] = spots[t] * line if t < count else by_key + (t - count) * line
                    spots[keys : keys + GROUP] = constants  # written anew below
                    stop = num_prefix + rows[r + 1]
                    for first in range(num_prefix + rows[r], stop, LONG_BLOCK):
                        length = min(LONG_BLOCK, stop - first)
                        for i in range(length):
                            query = q + (first + i) * q_step
                            fetch(step, query + AHEAD * q_step, 0)
                            score(dim, query, copies, places, keys, scale, lowest, p, i * width, None)
                            move(places, count, step)
                        move(places, count, -length * step)
                        for i in range(length):
                            token = first + i
                            fetch(step, out + (token + AHEAD) * out_step, 0)
                            delta = dot(dim, g + token * g_step, out + token * out_step, one)
                            exponentiate(p, i * width, keys, lse[b, h, token])
                            differentiate(p, i * width, c, start + i * width, keys, delta, scale)
                            kept_p[rests + token] = zero
                            if outside > keys:
                                rest = number_space.dtype.type(np.exp(-lse[b, h, token]))
                                kept_p[rests + token] = rest
                                for t in range(keys):
                                    p[i * width + t] -= rest
                        for i in range(length):
                            target, at = dq + (first + i) * dq_step, start + i * width
                            fetch(step, target + AHEAD * dq_step, 1)
                            weighted_sum(dim, c, at, None, copies, places, keys, one, target, None)
                            move(places, count, step)
                        spread(p, 0, width, length, keys, kept_p, first, spots)
                        spread(c, start, width, length, keys, kept_c, first, spots)
                        start += length * width
                kept_p[constants], kept_p[constants + 1] = zero, one if outside else zero
                kept_c[constants], kept_c[constants + 1] = zero, zero
                kept_p[rests + total : rests + total + GROUP] = zero
                for token in range(num_prefix):
                    at = by_key + token * line + total
                    kept_p[at : at + GROUP + 1] = zero
                    kept_c[at : at + GROUP + 1] = zero
                    kept_p[at] = kept_p[constants + 1]

                # queries: gradient of keys
                list_all(places, total, tensors[0, 3], 0, 0)
                weighted_sum(dim, kept_c, by_key, None, q, places, total, one, dk, copies)
                own[total * dim : size] = zero
                list_all(places, total, step, sum_place, pad)
                for token in range(1, num_prefix):  # keys that all see
                    at = by_key + token * line
                    weighted_sum(dim, kept_c, at, None, copies, places, total, one, dk + token * dk_step, None)
                for r in range(row_pointer[h], row_pointer[h + 1] - 1):  # patch keys; queries are found as keys are
                    count = list_keys(rows[r], segments, h, num_prefix, step, sum_place, pad, places, spots)
                    used = count + num_prefix
                    list_kept(
                        spots, count, places, step, mirrors, pointer[h], num_prefix, rows[r], line, by_query, constants
                    )
                    for i in range(num_prefix + rows[r], num_prefix + rows[r + 1]):
                        target = dk + i * dk_step
                        fetch(step, target + AHEAD * dk_step, 1)
                        weighted_sum(dim, kept_c, 0, spots, copies, places, used, one, target, None)
                        move(places, count, step)
                        move(spots, used, 1)

                # gradients of the output: gradient of values, of which all gain what they give as keys outside
                list_all(places, total, g_step, 0, 0)
                weighted_sum(dim, kept_p, rests, None, g, places, total, one, copies + sum_place, copies)
                own[total * dim : (total + 1) * dim] = zero
                if not outside:
                    own[(total + 1) * dim : (total + 2) * dim] = zero
                list_all(places, total, step, sum_place, pad)
                for token in range(num_prefix):
                    at = by_key + token * line
                    weighted_sum(dim, kept_p, at, None, copies, places, total + 1, one, dv + token * dv_step, None)
                for r in range(row_pointer[h], row_pointer[h + 1] - 1):
                    count = list_keys(rows[r], segments, h, num_prefix, step, sum_place, pad, places, spots)
                    used = count + num_prefix
                    list_kept(
                        spots, count, places, step, mirrors, pointer[h], num_prefix, rows[r], line, by_query, constants
                    )
                    for i in range(num_prefix + rows[r], num_prefix + rows[r + 1]):
                        target = dv + i * dv_step
                        fetch(step, target + AHEAD * dv_step, 1)
                        weighted_sum(dim, kept_p, 0, spots, copies, places, used + 1, one, target, None)
                        move(places, count, step)
                        move(spots, used, 1)

    return SimpleNamespace(
        forward=_compiled(forward, parallel=in_threads), backward=_compiled(backward, parallel=in_threads)
    )
