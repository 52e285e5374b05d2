"""The patterns of other published attentions that are not diagonals: grids of neighbours, random keys, blocks.

    grid_window     neighbours in time, height and width, as many as there are at a border
    neighbourhood   the same number of neighbours everywhere: the window is moved inwards at a border
    random          every pair with the same probability
    bigbird         a band, random keys and global tokens
    sparse_fixed    the own block, and the last columns of earlier blocks
    cross_diagonal  diagonals from the upper right to the lower left

Tokens of a grid are numbered in the order of its axes, the last one fastest: shape (t, h, w) for the order t h w, and
(h, w, t) for h w t. A head's pairs are numbers query · N + key, as :class:`Pattern` takes them.
"""

from __future__ import annotations

import math
import random as python_random
from collections.abc import Callable, Sequence
from functools import lru_cache, reduce

import torch
from torch import Tensor

from videofib.attention.pattern import Pattern
from videofib.attention.wythoff import fibottention_offsets

_KEPT = 16  # patterns of each kind in memory, so that the layers of a model share them


# grids


@lru_cache(maxsize=_KEPT)
def grid_window(
    num_heads: int,
    shape: tuple[int, ...],
    *,
    radius: tuple[int, ...],
    dilation: tuple[int, ...] | None = None,
    num_prefix_tokens: int = 1,
) -> Pattern:
    """Each token sees those at most ``radius`` steps away along every axis, a step being ``dilation`` tokens.

    At a border there are fewer: the end of a line and the beginning of the next are no neighbours.

    Raises:
        ValueError: not one radius and dilation for each axis, or one out of range.
    """
    dilation = dilation or (1,) * len(shape)
    _check_axes(shape, radius=radius, dilation=dilation)
    if min(radius) < 0 or min(dilation) < 1:
        raise ValueError(f"need radius >= 0 and dilation >= 1, got radius={radius}, dilation={dilation}")

    def axis(length: int, radius: int, dilation: int) -> Tensor:
        i = torch.arange(length, device="cpu")
        distance = (i[:, None] - i).abs()
        return (distance <= radius * dilation) & (distance % dilation == 0)

    masks = [axis(*numbers) for numbers in zip(shape, radius, dilation, strict=True)]
    return Pattern([_pairs_of_grid(masks)] * num_heads, math.prod(shape), num_prefix_tokens)


@lru_cache(maxsize=_KEPT)
def neighbourhood(
    num_heads: int,
    shape: tuple[int, ...],
    *,
    kernel: tuple[int, ...],
    dilation: tuple[int, ...] | None = None,
    causal: tuple[bool, ...] | None = None,
    num_prefix_tokens: int = 1,
) -> Pattern:
    """Neighbourhood attention (arXiv 2204.07143), dilated (2209.15001), for each axis causal if asked.

    Along an axis of length L, with dilation d a token sees those whose coordinates differ by multiples of d. Among
    these, it is number i of n and sees ``kernel`` of them, from max(0, min(i - kernel // 2, n - kernel)) on: the same
    number of keys for every query. A causal axis has the last ``kernel`` up to i, fewer at its beginning.

    Raises:
        ValueError: not one value for each axis, one out of range, or a kernel · dilation above the axis's length.
    """
    dilation, causal = dilation or (1,) * len(shape), causal or (False,) * len(shape)
    _check_axes(shape, kernel=kernel, dilation=dilation, causal=causal)
    if any(k < 1 or d < 1 or k * d > length for length, k, d in zip(shape, kernel, dilation, strict=True)):
        raise ValueError(
            f"need kernel >= 1, dilation >= 1 and kernel * dilation no longer than each axis, got kernel={kernel}, "
            f"dilation={dilation} for a grid of {shape}"
        )

    def axis(length: int, kernel: int, dilation: int, causal: bool) -> Tensor:
        i = torch.arange(length, device="cpu")
        place, residue = i // dilation, i % dilation
        size = (length - 1 - residue) // dilation + 1  # of the token's residue class
        start = place - kernel + 1 if causal else torch.minimum((place - kernel // 2).clamp_min(0), size - kernel)
        steps = place - start[:, None]
        return (residue[:, None] == residue) & (steps >= 0) & (steps < kernel)

    masks = [axis(*numbers) for numbers in zip(shape, kernel, dilation, causal, strict=True)]
    return Pattern([_pairs_of_grid(masks)] * num_heads, math.prod(shape), num_prefix_tokens)


def _pairs_of_grid(masks: Sequence[Tensor]) -> Tensor:
    """From a mask (L, L) for each axis to the pairs that every axis allows."""

    def product(a: tuple[Tensor, int], b: tuple[Tensor, int]) -> tuple[Tensor, int]:
        (pairs, size), (others, length) = a, b
        query = (pairs // size)[:, None] * length + others // length
        key = (pairs % size)[:, None] * length + others % length
        return (query * size * length + key).flatten(), size * length

    return reduce(product, [(_pairs(mask), len(mask)) for mask in masks])[0]


def _pairs(mask: Tensor) -> Tensor:
    return mask.flatten().nonzero().flatten()


def _check_axes(shape: Sequence[int], **values: Sequence[object]) -> None:
    for name, value in values.items():
        if len(value) != len(shape):
            raise ValueError(f"need one {name} for each axis, got {name}={tuple(value)} for a grid of {tuple(shape)}")


# random keys


def random(
    num_heads: int,
    num_tokens: int,
    *,
    keep: float,
    seed: int = 0,
    layer_index: int = 0,
    num_prefix_tokens: int = 1,
) -> Pattern:
    """Every pair of patches is allowed with probability ``keep``, independently, in each head and layer.

    The same numbers give the same pattern, on every machine.

    Raises:
        ValueError: ``keep`` not in (0, 1].
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep must lie in (0, 1], got keep={keep}")

    def head(draw: python_random.Random) -> Tensor:
        if keep == 1:
            return torch.arange(num_tokens**2, device="cpu")
        # the gaps between successes of independent trials have a geometric distribution
        found: list[int] = []
        at = -1
        while True:
            at += 1 + int(math.log(1.0 - draw.random()) / math.log1p(-keep))
            if at >= num_tokens**2:
                return torch.tensor(found, dtype=torch.int64, device="cpu")
            found.append(at)

    return Pattern(_drawn(head, num_heads, seed, layer_index), num_tokens, num_prefix_tokens)


def bigbird(
    num_heads: int,
    num_tokens: int,
    *,
    radius: int,
    num_random: int,
    num_global: int = 0,
    seed: int = 0,
    layer_index: int = 0,
    num_prefix_tokens: int = 1,
) -> Pattern:
    """BigBird (arXiv 2007.14062), token by token: a band, random keys, and global patches.

    Each patch sees ``radius`` patches on either side and itself, and ``num_random`` others drawn for its head and
    layer; the first ``num_global`` patches see all and are seen by all, as prefix tokens do anyway.

    Raises:
        ValueError: a number below 0, more global tokens than tokens.
    """
    if min(radius, num_random) < 0 or not 0 <= num_global <= num_tokens:
        raise ValueError(
            f"need radius >= 0, num_random >= 0 and 0 <= num_global <= {num_tokens} tokens, got radius={radius}, "
            f"num_random={num_random}, num_global={num_global}"
        )
    i = torch.arange(num_tokens, device="cpu")
    mask = (i[:, None] - i).abs() <= radius
    mask[:num_global] = True
    mask[:, :num_global] = True
    fixed = _pairs(mask)

    def head(draw: python_random.Random) -> Tensor:
        found = []
        for query in range(num_global, num_tokens):
            first, last = max(query - radius, num_global), min(query + radius + 1, num_tokens)  # of the band
            others = num_tokens - num_global - (last - first)
            for other in draw.sample(range(others), min(num_random, others)):
                key = num_global + other if num_global + other < first else last + other - (first - num_global)
                found.append(query * num_tokens + key)
        return torch.cat((fixed, torch.tensor(found, dtype=torch.int64, device="cpu")))

    return Pattern(_drawn(head, num_heads, seed, layer_index), num_tokens, num_prefix_tokens)


def _drawn(head: Callable[[python_random.Random], Tensor], num_heads: int, seed: int, layer_index: int) -> list[Tensor]:
    return [head(python_random.Random(f"{seed} {layer_index} {h}")) for h in range(num_heads)]


# blocks and anti-diagonals


@lru_cache(maxsize=_KEPT)
def sparse_fixed(
    num_heads: int,
    num_tokens: int,
    *,
    length: int,
    num_summary: int,
    distinct_heads: bool = False,
    symmetric: bool = False,
    num_prefix_tokens: int = 1,
) -> Pattern:
    """The Sparse Transformer's fixed attention (arXiv 1904.10509, section 4.2), within blocks in both directions.

    Each token sees its own block of ``length`` tokens, and the last ``num_summary`` tokens of every earlier block.

    Args:
        distinct_heads: these last tokens are divided among the heads; where there are fewer than heads, heads take
            them in turn.
        symmetric: each token also sees those that see it.

    Raises:
        ValueError: a length below 1, a number of last tokens that a block does not have.
    """
    if length < 1 or not 1 <= num_summary <= length:
        raise ValueError(f"need 1 <= num_summary <= length, got num_summary={num_summary}, length={length}")
    i = torch.arange(num_tokens, device="cpu")
    block, column = i // length, i % length
    parts = min(num_heads, num_summary) if distinct_heads else 1
    patterns = []
    for part in range(parts):
        first, last = (length - num_summary + num_summary * x // parts for x in (part, part + 1))
        is_summary = (column >= first) & (column < last)
        mask = (block[:, None] == block) | (is_summary & (block[:, None] > block))
        patterns.append(_pairs(mask | mask.T if symmetric else mask))
    return Pattern([patterns[head % parts] for head in range(num_heads)], num_tokens, num_prefix_tokens)


@lru_cache(maxsize=_KEPT)
def cross_diagonal(
    num_heads: int,
    num_tokens: int,
    *,
    w_min: int = 5,
    w_max: int | None = None,
    variant: str = "wythoff",
    num_prefix_tokens: int = 1,
) -> Pattern:
    """Fibottention's offsets from the other diagonal: j sees k where |j + k - (N - 1)| is an offset of the head.

    For the arguments see :func:`fibottention_offsets`.
    """
    i = torch.arange(num_tokens, device="cpu")

    def head(offsets: Sequence[int]) -> Tensor:
        keys = torch.cat([num_tokens - 1 - i + sign * offset for offset in offsets for sign in (1, -1)])
        queries = i.repeat(2 * len(offsets))
        exists = (keys >= 0) & (keys < num_tokens)
        return (queries * num_tokens + keys)[exists]

    rows = fibottention_offsets(num_heads, num_tokens, w_min, w_max, variant)
    return Pattern([head(row) for row in rows], num_tokens, num_prefix_tokens)
