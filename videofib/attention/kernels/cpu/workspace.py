"""What the loops are given and what they keep: addresses of tensors, and the workspace of each thread.

A head is worked in passes over all its tokens, each reading the rows of one tensor by their shifts: keys, then values;
backward values, keys, queries and gradients of the output. So a cache has to hold windows of one tensor at a time. Rows
of a packed qkv projection lie a multiple of 1 KiB apart, in as many memory pages, and crowd into few sets of a cache.
Unless they are few, they are therefore copied next to each other, into the workspace, by the first query that sees all.

Arguments the loops share (B batch, H heads, P prefix tokens, N patch tokens, D head_dim, S segments of all heads):

    tensors       (tensors, 4) int64: address, then strides of batch, head and token, in bytes
    segments      (first, last, shift, transposed, pointer): segment s lets patch query i, first[s] <= i < last[s],
                  see patch key i + shift[s]; segment transposed[s], counted within the head, holds the same pairs with
                  query and key exchanged. Head h has the segments from pointer[h] to pointer[h + 1]
    boundaries    (row, pointer): for each head the patch rows where its list of valid segments changes, from 0 to N
    lse           (B, H, P + N): log of the softmax's denominator
    all_keys      P + N under zero_logit, where keys outside the support take part with logit 0; 0 under exclude
    floats        workspace (threads, numbers) of the tensors' dtype, each row on a cache line of its own
    indices       workspace (threads, 2 * length) of int64: a row list, and an index or another list
"""

from __future__ import annotations

import numpy as np

from videofib.attention.kernels.cpu.compiled import inlined
from videofib.attention.kernels.cpu.emitter import GROUP, LANES

FORWARD_BLOCK, BACKWARD_BLOCK = 64, 1024  # queries taken through one step before the next; steps backward are longer
PREFETCH_DISTANCE = 4  # rows between prefetching one and using it


def workspace_sizes(total: int, dim: int, most_segments: int, num_prefix: int, backward: bool) -> tuple[int, int]:
    """Numbers and indices that one thread needs for heads of ``total`` tokens and ``most_segments`` at most."""
    rows, keys = packed_size(total, dim), most_segments + num_prefix
    indices = 2 * padded(max(total, keys))
    if not backward:
        return rows + (2 + max(num_prefix, 1)) * padded(total) + total * query_width(keys), indices
    lines = pair_lines(most_segments, num_prefix)
    return rows + (BACKWARD_BLOCK + total) * query_width(keys) + 2 * lines * padded(total), indices


@inlined
def padded(count):
    """Numbers to keep for a list of ``count``, one more, and zeros to the end of a block of lanes."""
    return (count + 1 + 2 * LANES - 1) // LANES * LANES


@inlined
def query_width(keys):
    """Numbers to keep for a query with so many keys and a sum: full blocks of lanes."""
    return (keys + LANES) // LANES * LANES


@inlined
def pair_lines(most_segments, num_prefix):
    """Lines of P + N numbers in which the backward pass keeps its pairs: one of each segment, two of each prefix token
    (one if there is none), one of constants and one of the weights of masked keys."""
    return most_segments + num_prefix + max(num_prefix, 1) + 2


@inlined
def packed_size(total, dim):
    """Numbers in a head's rows, and in a group after them: a row of zeros, one for a sum, and what copying fills up."""
    return ((total + GROUP) * dim + LANES - 1) // LANES * LANES


# addresses


@inlined
def head_address(tensors, which, b, h):
    return tensors[which, 0] + b * tensors[which, 1] + h * tensors[which, 2]


@inlined
def array_address(numbers):
    return np.int64(numbers.ctypes.data)
