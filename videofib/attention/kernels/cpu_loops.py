"""The loops of the CPU kernel, compiled by numba for one head_dim at a time.

A query has few keys (some 20 to 60), found by the same shifts as its neighbours': which shifts of a head stay inside
the sequence changes only at a few rows. Between two such rows one list of addresses, moved on by a row for each query,
serves all. Queries are worked in blocks of BLOCK, one step at a time (logits, exponentials, weighted sum of values), so
that a step's rows, keys or values, are still in the nearest cache when the next query asks for them.

Rows of a packed qkv projection lie a multiple of 1 KiB apart, in as many memory pages, and crowd into few sets of a
cache. Unless they are few, each head's rows are therefore first copied next to each other, into a workspace.

Arguments they share (B batch, H heads, P prefix tokens, N patch tokens, D head_dim, S segments of a head):

    tensors    (tensors, 4) int64: address, then strides of batch, head and token, in bytes
    segments   (first, last, shift, pointer): segment s lets query i, first[s] <= i < last[s], see key i + shift[s];
               head h has those from pointer[h] to pointer[h + 1]
    breaks     (row, pointer): for each head the rows where the list of valid segments changes, from 0 to N
    lse        (B, H, P + N): log of the softmax's denominator
    outside    0, or the number of all keys P + N if those outside the support take part with logit 0 (zero_logit)
    number_space, place_space    workspaces: of the tensors' dtype and of int64, (threads, what ``room`` says)
    numbers    (threads, numbers_needed) workspace of the tensors' dtype, 64-byte aligned
    places     (threads, placesneeded) workspace, int64
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
    copy,
    differentiate,
    dot,
    exponentiate,
    fetch,
    score,
    weighted_sum,
)

BLOCK = 64  # queries
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


def room(total: int, dim: int, widest: int, num_prefix: int, backward: bool) -> tuple[int, int]:
    """(numbers, places) that one thread needs for heads of ``total`` tokens and at most ``widest`` segments."""
    rows = _rows(total, dim)
    lists = max(BLOCK * padded(widest + num_prefix), padded(total))
    places = 2 * padded(max(total, widest + num_prefix))
    if not backward:
        return 2 * rows + lists + BLOCK, places
    return 4 * rows + 2 * lists + 2 * (widest + 2 * num_prefix + 2) * padded(total), places


@_compiled
def _rows(total, dim):
    """Numbers in a head's rows, a row of zeros after them and one for a sum; whole blocks of lanes."""
    return ((total + 2) * dim + LANES - 1) // LANES * LANES


@_compiled
def pack(tensors, which, b, h, total, dim, numbers, start):
    """Copy the rows of a head next to each other, two rows of zeros after them; returns their address."""
    source = tensors[which, 0] + b * tensors[which, 1] + h * tensors[which, 2]
    stride, step = tensors[which, 3], dim * numbers.itemsize
    rows = numbers.ctypes.data + start * numbers.itemsize
    for token in range(total):
        fetch(step, source + 2 * AHEAD * stride, 0)
        copy(step, source, rows + token * step)
        source += stride
    numbers[start + total * dim : start + (total + 2) * dim] = 0
    return rows


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
        size = _rows(total, dim)
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
        for slot in prange(slots):
            own, places, chosen = number_space[slot], place_space[slot, :half], place_space[slot, half:]
            factors, weights = own[2 * size : 2 * size + BLOCK], own[2 * size + BLOCK :]
            for head in range(slot, batch * heads, slots):
                b, h = head % batch, head // batch
                q = tensors[0, 0] + b * tensors[0, 1] + h * tensors[0, 2]
                out = tensors[3, 0] + b * tensors[3, 1] + h * tensors[3, 2]
                if direct:
                    k = tensors[1, 0] + b * tensors[1, 1] + h * tensors[1, 2]
                    v = tensors[2, 0] + b * tensors[2, 1] + h * tensors[2, 2]
                    key_step, sum_place, pad = tensors[1, 3], 0, 0
                else:
                    k = pack(tensors, 1, b, h, total, dim, own, 0)
                    v = pack(tensors, 2, b, h, total, dim, own, size)
                    key_step, sum_place, pad = step, (total + 1) * step, total * step

                list_all(places, total, key_step, sum_place, pad)
                if outside:
                    weights[:total] = one
                    weights[total : total + LANES] = zero
                    weighted_sum(dim, weights, 0, None, v, places, total, one, v + sum_place)
                for token in range(num_prefix):  # queries that see all
                    top = score(dim, q + token * q_step, k, places, total, scale, lowest, weights, 0)
                    denominator = exponentiate(weights, 0, total, top)
                    weighted_sum(dim, weights, 0, None, v, places, total, one / denominator, out + token * out_step)
                    lse[b, h, token] = top + np.log(denominator)

                for r in range(row_pointer[h], row_pointer[h + 1] - 1):  # patch queries
                    count = list_keys(rows[r], segments, h, num_prefix, key_step, sum_place, pad, places, chosen)
                    keys = count + num_prefix
                    others = outside - keys  # keys that take part with logit 0, if above 0
                    line = padded(keys)
                    stop = num_prefix + rows[r + 1]
                    for first in range(num_prefix + rows[r], stop, BLOCK):
                        length = min(BLOCK, stop - first)
                        for i in range(length):
                            query = q + (first + i) * q_step
                            fetch(step, query + AHEAD * q_step, 0)
                            top = score(dim, query, k, places, keys, scale, lowest, weights, i * line)
                            lse[b, h, first + i] = max(top, zero) if others > 0 else top
                            move(places, count, key_step)
                        for i in range(length):
                            top = lse[b, h, first + i]
                            denominator = exponentiate(weights, i * line, keys, top)
                            if others > 0:
                                rest = number_space.dtype.type(np.exp(-top))
                                denominator += number_space.dtype.type(others) * rest
                                for t in range(keys):
                                    weights[i * line + t] -= rest
                                weights[i * line + keys] = rest
                                for t in range(keys + 1, keys + GROUP):
                                    weights[i * line + t] = zero
                            factors[i] = one / denominator
                            lse[b, h, first + i] = top + np.log(denominator)
                        move(places, count, -length * key_step)
                        for i in range(length):
                            target = out + (first + i) * out_step
                            fetch(step, target + AHEAD * out_step, 1)
                            used = keys + 1 if others > 0 else keys
                            weighted_sum(dim, weights, i * line, None, v, places, used, factors[i], target)
                            move(places, count, key_step)

    def backward(tensors, lse, segments, breaks, num_prefix, scale, outside, number_space, place_space):
        """Gradients of every head. With p the softmax's weights, p0 that of a key outside the support (0 under exclude)
        and g the gradient of out,

            c_ij = p_ij (g_i · v_j - g_i · out_i) scale                              gradient of q_i · k_j
            dq_i = Σ_j c_ij k_j      dk_j = Σ_i c_ij q_i      dv_j = Σ_i (p_ij - p0_i) g_i + Σ_all p0_i g_i

        A first pass goes over the queries and keeps p - p0 and c; a second goes over the keys and gathers their sums,
        so that no two rows ever add to the same place. What is kept, in lines of P + N numbers:

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
        size, line, lists = _rows(total, dim), padded(total), BLOCK * padded(widest + num_prefix)
        lists = max(lists, line)
        lines = widest + 2 * num_prefix + 2
        by_key, by_query = widest * line, (widest + num_prefix) * line
        constants, rests = (lines - 2) * line, (lines - 1) * line
        zero, one, lowest = number_space.dtype.type(0), number_space.dtype.type(1), number_space.dtype.type(-3.4e38)
        step = dim * number_space.itemsize
        slots, half = len(number_space), place_space.shape[1] // 2
        for slot in prange(slots):
            own, places, spots = number_space[slot], place_space[slot, :half], place_space[slot, half:]
            p, c = own[4 * size : 4 * size + lists], own[4 * size + lists : 4 * size + 2 * lists]
            kept_p = own[4 * size + 2 * lists : 4 * size + 2 * lists + lines * line]
            kept_c = own[4 * size + 2 * lists + lines * line :]
            for head in range(slot, batch * heads, slots):
                b, h = head % batch, head // batch
                out, dq, dk, dv = (
                    tensors[3, 0] + b * tensors[3, 1] + h * tensors[3, 2],
                    tensors[5, 0] + b * tensors[5, 1] + h * tensors[5, 2],
                    tensors[6, 0] + b * tensors[6, 1] + h * tensors[6, 2],
                    tensors[7, 0] + b * tensors[7, 1] + h * tensors[7, 2],
                )
                out_step, dq_step, dk_step, dv_step = tensors[3, 3], tensors[5, 3], tensors[6, 3], tensors[7, 3]
                q = pack(tensors, 0, b, h, total, dim, own, 0)
                k = pack(tensors, 1, b, h, total, dim, own, size)
                v = pack(tensors, 2, b, h, total, dim, own, 2 * size)
                g = pack(tensors, 4, b, h, total, dim, own, 3 * size)
                kept_p[constants], kept_p[constants + 1] = zero, one if outside else zero
                kept_c[constants], kept_c[constants + 1] = zero, zero

                list_all(places, total, step, (total + 1) * step, total * step)
                for token in range(num_prefix):  # queries that see all
                    at = by_query + token * line
                    score(dim, q + token * step, k, places, total, scale, lowest, kept_p, at)
                    score(dim, g + token * step, v, places, total, one, zero, kept_c, at)
                    delta = dot(dim, g + token * step, out + token * out_step, one)
                    exponentiate(kept_p, at, total, lse[b, h, token])
                    differentiate(kept_p, kept_c, at, total, delta, scale)
                    weighted_sum(dim, kept_c, at, None, k, places, total, one, dq + token * dq_step)
                    kept_p[rests + token] = zero
                    for t in range(num_prefix):
                        kept_p[by_key + t * line + token] = kept_p[at + t]
                        kept_c[by_key + t * line + token] = kept_c[at + t]

                for r in range(row_pointer[h], row_pointer[h + 1] - 1):  # patch queries
                    count = list_keys(
                        rows[r], segments, h, num_prefix, step, (total + 1) * step, total * step, places, spots
                    )
                    keys = count + num_prefix
                    width = padded(keys)
                    stop = num_prefix + rows[r + 1]
                    for first in range(num_prefix + rows[r], stop, BLOCK):
                        length = min(BLOCK, stop - first)
                        for i in range(length):
                            score(dim, q + (first + i) * step, k, places, keys, scale, lowest, p, i * width)
                            move(places, count, step)
                        move(places, count, -length * step)
                        for i in range(length):
                            score(dim, g + (first + i) * step, v, places, keys, one, zero, c, i * width)
                            move(places, count, step)
                        move(places, count, -length * step)
                        for i in range(length):
                            token = first + i
                            fetch(step, out + (token + AHEAD) * out_step, 0)
                            delta = dot(dim, g + token * step, out + token * out_step, one)
                            exponentiate(p, i * width, keys, lse[b, h, token])
                            differentiate(p, c, i * width, keys, delta, scale)
                            kept_p[rests + token] = zero
                            if outside > keys:
                                rest = number_space.dtype.type(np.exp(-lse[b, h, token]))
                                kept_p[rests + token] = rest
                                for t in range(keys):
                                    p[i * width + t] -= rest
                        for i in range(length):
                            target = dq + (first + i) * dq_step
                            fetch(step, target + AHEAD * dq_step, 1)
                            weighted_sum(dim, c, i * width, None, k, places, keys, one, target)
                            move(places, count, step)
                        for t in range(keys):
                            at = (spots[t] * line if t < count else by_key + (t - count) * line) + first
                            for i in range(length):
                                kept_p[at + i] = p[i * width + t]
                                kept_c[at + i] = c[i * width + t]

                list_all(places, total, step, (total + 1) * step, total * step)
                if outside:  # what all values gain
                    kept_p[rests + total : rests + total + GROUP] = zero
                    weighted_sum(dim, kept_p, rests, None, g, places, total, one, g + (total + 1) * step)
                for token in range(num_prefix):  # keys that all see
                    at = by_key + token * line
                    kept_p[at + total : at + total + GROUP + 1] = zero
                    kept_c[at + total : at + total + GROUP + 1] = zero
                    kept_p[at + total] = kept_p[constants + 1]
                    weighted_sum(dim, kept_c, at, None, q, places, total + 1, one, dk + token * dk_step)
                    weighted_sum(dim, kept_p, at, None, g, places, total + 1, one, dv + token * dv_step)

                for r in range(row_pointer[h], row_pointer[h + 1] - 1):  # patch keys; queries are found as keys are
                    count = list_keys(
                        rows[r], segments, h, num_prefix, step, (total + 1) * step, total * step, places, spots
                    )
                    used = count + num_prefix + 1
                    for t in range(count):
                        spots[t] = mirrors[pointer[h] + spots[t]] * line + places[t] // step
                    for t in range(num_prefix):
                        spots[count + t] = by_query + t * line + num_prefix + rows[r]
                    spots[used - 1] = constants + 1
                    spots[used : used + GROUP] = constants
                    stop = num_prefix + rows[r + 1]
                    for first in range(num_prefix + rows[r], stop, BLOCK):
                        length = min(BLOCK, stop - first)
                        for i in range(length):
                            target = dk + (first + i) * dk_step
                            fetch(step, target + AHEAD * dk_step, 1)
                            weighted_sum(dim, kept_c, 0, spots, q, places, used - 1, one, target)
                            move(places, count, step)
                            move(spots, used - 1, 1)
                        move(places, count, -length * step)
                        move(spots, used - 1, -length)
                        for i in range(length):
                            target = dv + (first + i) * dv_step
                            fetch(step, target + AHEAD * dv_step, 1)
                            weighted_sum(dim, kept_p, 0, spots, g, places, used, one, target)
                            move(places, count, step)
                            move(spots, used - 1, 1)

    return SimpleNamespace(
        forward=_compiled(forward, parallel=in_threads), backward=_compiled(backward, parallel=in_threads)
    )
