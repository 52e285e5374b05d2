"""Which rows each row pairs with: tables of the support, and the lists that the loops make from them as they run.

A query has few keys (some 20 to 60), at the same shifts as its neighbours' keys: which shifts of a head stay inside the
sequence changes at a few rows only. Between two such rows one list serves all queries, advanced by a row for each.

A row list holds the addresses of rows, in bytes from where the first row of a head begins.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from videofib.attention.kernels.cpu.compiled import inlined
from videofib.attention.kernels.cpu.vectors import GROUP
from videofib.attention.support import Support


@lru_cache(maxsize=256)
def pair_tables(support: Support) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...], int]:
    """``segments`` and ``boundaries`` as the loops take them, and the most segments of a head."""
    first, last, shift, transposed, segment_pointer, rows, row_pointer = [], [], [], [], [0], [], [0]
    for head in range(support.num_heads):
        segments = support.segments(head)
        first += [s.query for s in segments]
        last += [s.query + s.length for s in segments]
        shifts = [s.key - s.query for s in segments]
        shift += shifts
        transposed += [shifts.index(-x) for x in shifts]
        segment_pointer.append(len(first))
        ends = {end for s in segments for end in (s.query, s.query + s.length)}
        rows += sorted(ends | {0, support.num_tokens})
        row_pointer.append(len(rows))
    first, last, shift, transposed, segment_pointer, rows, row_pointer = (
        np.array(numbers, np.int64) for numbers in (first, last, shift, transposed, segment_pointer, rows, row_pointer)
    )
    return (first, last, shift, transposed, segment_pointer), (rows, row_pointer), int(np.diff(segment_pointer).max())


@inlined
def list_all_rows(row_list, total, stride, sum_row, zero_row):
    """All tokens, the row for a sum, and rows of zeros to fill a group."""
    for token in range(total):
        row_list[token] = token * stride
    row_list[total] = sum_row
    row_list[total + 1 : total + 1 + GROUP] = zero_row


@inlined
def list_keys(row, segments, h, num_prefix, stride, sum_row, zero_row, row_list, chosen):
    """The keys of patch query ``row``: those of its segments, which go to ``chosen`` (counted in the head), then
    the prefix tokens, the row for a sum, and rows of zeros to fill a group. Returns how many segments.

    As the support is symmetric, these are also the queries of patch key ``row``."""
    firsts, lasts, shifts, _, pointer = segments
    count = 0
    for s in range(pointer[h], pointer[h + 1]):
        if firsts[s] <= row < lasts[s]:
            row_list[count] = (num_prefix + row + shifts[s]) * stride
            chosen[count] = s - pointer[h]
            count += 1
    for t in range(num_prefix):
        row_list[count + t] = t * stride
    row_list[count + num_prefix] = sum_row
    row_list[count + num_prefix + 1 : count + num_prefix + 1 + GROUP] = zero_row
    return count


@inlined
def index_pairs(index, count, row_list, row_size, transposed, pointer, num_prefix, row, line, by_query, constants):
    """Turn ``index``, the segments in which key ``row`` is listed, into where the values of the pairs with its queries
    are kept, then those of the pairs with prefix tokens, the constant 1 for a row of sums, and 0 to fill a group."""
    for t in range(count):
        index[t] = transposed[pointer + index[t]] * line + row_list[t] // row_size
    for t in range(num_prefix):
        index[count + t] = by_query + t * line + num_prefix + row
    index[count + num_prefix] = constants + 1
    index[count + num_prefix + 1 : count + num_prefix + 1 + GROUP] = constants


@inlined
def advance(numbers, count, step):
    for t in range(count):
        numbers[t] += step
