"""Attention of a process's queries over rows of keys, of which each head has its own: what a halo exchange collects.

The rows of all heads lie one after the other, (B, M, D), those of head h from ``edges[h]`` on::

    k, v    | P | keys of head 0 | P | keys of head 1, which are more | P | ...
            0                    edges[1]                             edges[2]

Every query sees the first P of its head, the prefix tokens, and each segment pairs consecutive queries with consecutive
rows, as in ``gather``, which this is for queries and keys of different numbers. Both implementations are

    attend(q, k, v, pairs, scale) -> out, lse
    gradients(d_out, q, k, v, out, lse, pairs, scale) -> dq, dk, dv

with q, out, dq (B, H, Q, D), lse (B, H, Q) and k, v, dk, dv (B, M, D). ``Ragged.tables`` are the pairs as lists for the
CPU kernel; plain PyTorch takes the segments.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from videofib.attention.pattern import pair_tables
from videofib.attention.support import Segment


@dataclass(frozen=True, eq=False)
class Ragged:
    """Which queries see which rows.

    Attributes:
        num_queries: Q, of every head.
        num_prefix_tokens: P, the first rows of each head.
        edges: where the rows of each head begin, and where the last ones end: H + 1 numbers.
        segments: of each head: query ``query + i`` sees row ``key + i``, counted from the head's first.
    """

    num_queries: int
    num_prefix_tokens: int
    edges: tuple[int, ...]
    segments: tuple[tuple[Segment, ...], ...]

    @cached_property
    def counts(self) -> Tensor:
        """How many keys each query sees: (H, Q), int64."""
        counts = torch.full((len(self.segments), self.num_queries), self.num_prefix_tokens)
        for head, segments in enumerate(self.segments):
            for s in segments:
                counts[head, s.query : s.query + s.length] += 1
        return counts

    @cached_property
    def tables(self) -> tuple[Tensor, ...]:
        """``rowptr``, ``cols``, ``keyptr``, ``queries`` and ``positions`` as of a pattern, for as many keys as the head
        with the most has."""
        most = max(stop - start for start, stop in pairwise(self.edges))
        numbers = [self._numbers(segments, most) for segments in self.segments]
        return pair_tables(numbers, list(range(len(numbers))), self.num_queries, most)

    def _numbers(self, segments: tuple[Segment, ...], num_keys: int) -> Tensor:
        """The sorted pairs of a head, query · num_keys + row."""
        prefix = torch.arange(self.num_queries)[:, None] * num_keys + torch.arange(self.num_prefix_tokens)
        first = (s.query * num_keys + s.key + torch.arange(s.length) * (num_keys + 1) for s in segments)
        return torch.cat((prefix.flatten(), *first)).sort().values


def attend(q: Tensor, k: Tensor, v: Tensor, pairs: Ragged, scale: float) -> tuple[Tensor, Tensor]:
    """Output, of q's dtype, and log of the softmax's denominators; 16-bit inputs are computed in 32 bits."""
    work = torch.promote_types(q.dtype, torch.float32)
    out, lse = torch.empty_like(q), q.new_empty(q.shape[:3], dtype=work)
    for head, qh, kh, vh in _heads(pairs, q.to(work) * scale, k.to(work), v.to(work)):
        logits = _products(qh, kh, pairs, head, float("-inf"))
        lse[:, head] = logits.logsumexp(0)
        weights = logits.sub_(lse[:, head]).exp_()
        oh, p = torch.zeros_like(qh), pairs.num_prefix_tokens
        for row, s in enumerate(pairs.segments[head]):
            oh[:, _queries(s)].addcmul_(weights[row, :, _queries(s), None], vh[:, _keys(s)])
        out[:, head] = oh + torch.einsum("pbq,bpd->bqd", weights[len(pairs.segments[head]) :], vh[:, :p])
    return out, lse


def gradients(
    d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, pairs: Ragged, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v, of their dtypes."""
    work = lse.dtype
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    d_out, delta = d_out.to(work), (d_out.to(work) * out.to(work)).sum(-1)
    for head, qh, kh, vh in _heads(pairs, q.to(work) * scale, k.to(work), v.to(work)):
        gh, p, count = d_out[:, head], pairs.num_prefix_tokens, len(pairs.segments[head])
        weights = _products(qh, kh, pairs, head, float("-inf")).sub_(lse[:, head]).exp_()
        d_logits = _products(gh, vh, pairs, head, 0.0).sub_(delta[:, head]).mul_(weights)
        dqh = torch.einsum("pbq,bpd->bqd", d_logits[count:], kh[:, :p])
        dkh, dvh = torch.zeros_like(kh), torch.zeros_like(vh)
        dkh[:, :p] = torch.einsum("pbq,bqd->bpd", d_logits[count:], qh)
        dvh[:, :p] = torch.einsum("pbq,bqd->bpd", weights[count:], gh)
        for row, s in enumerate(pairs.segments[head]):
            i, j, d = _queries(s), _keys(s), d_logits[row, :, _queries(s), None]
            dqh[:, i].addcmul_(d, kh[:, j])
            dkh[:, j].addcmul_(d, qh[:, i])
            dvh[:, j].addcmul_(weights[row, :, i, None], gh[:, i])
        rows = slice(pairs.edges[head], pairs.edges[head + 1])
        dq[:, head], dk[:, rows], dv[:, rows] = dqh * scale, dkh, dvh
    return dq, dk, dv


def _heads(pairs: Ragged, q: Tensor, k: Tensor, v: Tensor) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Of each head its number, queries (B, Q, D), keys and values."""
    for head in range(q.shape[1]):
        rows = slice(pairs.edges[head], pairs.edges[head + 1])
        yield head, q[:, head], k[:, rows], v[:, rows]


def _products(x: Tensor, y: Tensor, pairs: Ragged, head: int, missing: float) -> Tensor:
    """Products of rows x (B, Q, D) with the rows y that they see: (segments + P, B, Q), ``missing`` where none is."""
    segments = pairs.segments[head]
    products = x.new_full((len(segments) + pairs.num_prefix_tokens, *x.shape[:2]), missing)
    for row, s in enumerate(segments):
        products[row, :, _queries(s)] = (x[:, _queries(s)] * y[:, _keys(s)]).sum(-1)
    products[len(segments) :] = torch.einsum("bqd,bpd->pbq", x, y[:, : pairs.num_prefix_tokens])
    return products


def _queries(s: Segment) -> slice:
    return slice(s.query, s.query + s.length)


def _keys(s: Segment) -> slice:
    return slice(s.key, s.key + s.length)
