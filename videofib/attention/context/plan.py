"""Which rows of keys and values a process needs from others for its queries over a sparse support.

A patch query at position i of head h sees the prefix tokens and the patches at i ± o for h's offsets o. So for a slice
of queries, an offset needs the slice shifted by o to either side, and a head the union of these intervals, which the
others know as well: every process computes who sends what, and only rows travel::

    positions      0 .. P |          queries of rank r          |
    head 0         =====     ===[===========================]===          offsets 1 2 3
    head 9         =====  ==========       [       ]      ==========      offsets 27 44

Positions are those of the sequence, prefix tokens first. Axes: H heads, n tokens of a slice, M rows of all heads.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from videofib.attention.context.group import token_edges
from videofib.attention.kernels.ragged import Ragged
from videofib.attention.support import Segment, Support

Interval = tuple[int, int]  # start, stop


@dataclass(frozen=True, eq=False)
class HaloPlan:
    """What process ``rank`` of R sends, receives and then attends to.

    Attributes:
        pairs: its patch queries and the rows that they see.
        sent: for each process, heads and local tokens of the rows that it needs of this one: two (rows,) each, int64.
        received: for each process, which of the M rows those that it sends become: (rows,) each, int64.
    """

    pairs: Ragged
    sent: tuple[tuple[Tensor, Tensor], ...]
    received: tuple[Tensor, ...]


@lru_cache(maxsize=64)
def halo_plan(support: Support, processes: int, rank: int, device: torch.device) -> HaloPlan:
    """The plan of a process, with its index tensors on a device."""
    p, heads = support.num_prefix_tokens, range(support.num_heads)
    edges = token_edges(p + support.num_tokens, processes)
    slices = list(pairwise(edges))
    start, stop = slices[rank]
    needs = [needed_rows(support, slice_) for slice_ in slices]
    rows = _Rows(needs[rank])
    segments = tuple(
        tuple(
            Segment(query - max(start, p), rows.of_head(head, key), length)
            for query, key, length in _clipped(support, head, start, stop)
        )
        for head in heads
    )
    sent, received = [], []
    for other, (first, last) in enumerate(slices):
        ours = [[(a - start, b - start) for a, b in _within(needs[other][head], start, stop)] for head in heads]
        theirs = [[rows.of(head, a, b) for a, b in _within(needs[rank][head], first, last)] for head in heads]
        counts = torch.tensor([sum(b - a for a, b in of_head) for of_head in ours])
        numbers = torch.arange(len(heads)).repeat_interleave(counts)
        sent.append((numbers.to(device), _positions(x for of_head in ours for x in of_head).to(device)))
        received.append(_positions(x for of_head in theirs for x in of_head).to(device))
    pairs = Ragged(max(stop - max(start, p), 0), p, rows.edges, segments)
    return HaloPlan(pairs, tuple(sent), tuple(received))


@lru_cache(maxsize=256)
def halo_rows(support: Support, processes: int) -> tuple[tuple[int, ...], ...]:
    """How many rows of keys, and as many of values, each process sends each other one; none to itself."""
    edges = token_edges(support.num_prefix_tokens + support.num_tokens, processes)
    slices = list(pairwise(edges))
    needs = [needed_rows(support, slice_) for slice_ in slices]

    def count(sender: int, receiver: int) -> int:
        if sender == receiver:
            return 0
        return sum(b - a for intervals in needs[receiver] for a, b in _within(intervals, *slices[sender]))

    return tuple(tuple(count(s, r) for r in range(processes)) for s in range(processes))


def needed_rows(support: Support, positions: Interval) -> list[list[Interval]]:
    """For each head the positions that the patch queries in a slice see, as intervals that neither touch nor overlap.

    The prefix tokens are the beginning of the first one; a slice without patches needs nothing.
    """
    p = support.num_prefix_tokens
    if positions[1] <= p:
        return [[] for _ in range(support.num_heads)]
    return [
        _merged([(0, p), *((key, key + length) for _, key, length in _clipped(support, head, *positions))])
        for head in range(support.num_heads)
    ]


def _clipped(support: Support, head: int, start: int, stop: int) -> list[tuple[int, int, int]]:
    """The segments of a head, as far as their queries lie in a slice: positions of query and key, and length."""
    p, found = support.num_prefix_tokens, []
    for s in support.segments(head):
        first, last = max(s.query + p, start), min(s.query + p + s.length, stop)
        if first < last:
            found.append((first, first - s.query + s.key, last - first))
    return found


def _merged(intervals: Iterable[Interval]) -> list[Interval]:
    merged: list[Interval] = []
    for start, stop in sorted(intervals):
        if start == stop:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = merged[-1][0], max(stop, merged[-1][1])
        else:
            merged.append((start, stop))
    return merged


def _within(intervals: Iterable[Interval], start: int, stop: int) -> list[Interval]:
    """The parts of intervals that lie in a slice."""
    cut = ((max(a, start), min(b, stop)) for a, b in intervals)
    return [(a, b) for a, b in cut if a < b]


def _positions(intervals: Iterable[Interval]) -> Tensor:
    """The numbers in the intervals, one after the other."""
    return torch.cat([torch.zeros(0, dtype=torch.int64), *(torch.arange(a, b) for a, b in intervals)])


class _Rows:
    """Where the needed positions of each head lie among the M rows."""

    def __init__(self, needs: list[list[Interval]]):
        self._starts = [[start for start, _ in intervals] for intervals in needs]
        self._begins = [list(accumulate((b - a for a, b in intervals), initial=0)) for intervals in needs]
        self.edges = tuple(accumulate((begins[-1] for begins in self._begins), initial=0))

    def of_head(self, head: int, position: int) -> int:
        """The row of a needed position, counted from the first of its head."""
        interval = bisect_right(self._starts[head], position) - 1
        return self._begins[head][interval] + position - self._starts[head][interval]

    def of(self, head: int, start: int, stop: int) -> Interval:
        """The rows of positions that lie within one interval."""
        first = self.edges[head] + self.of_head(head, start)
        return first, first + stop - start
