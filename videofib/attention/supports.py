"""The supports of other published sparse patterns, where offsets alone describe them.

    window    0 .. radius, times a dilation            Longformer (arXiv 2004.05150), Sparse Transformer's local heads
    dilated   the same with a dilation for each head
    strided   0 .. radius and every multiple of stride Sparse Transformer (arXiv 1904.10509), both directions
    shared    one set of offsets for all heads
    axial_time  the same place in every frame          (tokens in the order t h w)

Offsets know nothing of lines and frames; patterns that do are in ``patterns``. :func:`nearest` chooses the parameter of
a pattern so that its density is that of another, for comparisons at equal cost.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from videofib.attention.support import Support
from videofib.attention.wythoff import fibottention_offsets

Value = TypeVar("Value")


def window(
    num_heads: int,
    num_tokens: int,
    *,
    radius: int,
    dilation: int = 1,
    include_self: bool = True,
    num_prefix_tokens: int = 1,
) -> Support:
    """Every head sees ``radius`` tokens on either side, ``dilation`` apart, and itself unless told otherwise.

    Raises:
        ValueError: a radius below 0, a dilation below 1.
    """
    return dilated(
        num_tokens,
        radius=radius,
        dilations=(dilation,) * num_heads,
        include_self=include_self,
        num_prefix_tokens=num_prefix_tokens,
    )


def dilated(
    num_tokens: int,
    *,
    radius: int,
    dilations: Sequence[int],
    include_self: bool = True,
    num_prefix_tokens: int = 1,
) -> Support:
    """As :func:`window`, with one dilation for each head.

    Raises:
        ValueError: a radius below 0, a dilation below 1.
    """
    if radius < 0:
        raise ValueError(f"radius must not be negative, got radius={radius}")
    if any(dilation < 1 for dilation in dilations):
        raise ValueError(f"dilations must be at least 1, got {tuple(dilations)}")
    first = 0 if include_self else 1
    rows = tuple(range(first * d, min(radius * d + 1, num_tokens), d) for d in dilations)
    return Support(tuple(tuple(row) for row in rows), num_tokens, num_prefix_tokens)


def strided(
    num_heads: int,
    num_tokens: int,
    *,
    stride: int,
    radius: int = 0,
    split_heads: bool = False,
    num_prefix_tokens: int = 1,
) -> Support:
    """Every head sees the tokens within ``radius`` and those a multiple of ``stride`` away, in both directions.

    Args:
        split_heads: heads 1, 3, 5, … see only the former, heads 2, 4, 6, … only the latter and themselves, as in the
            Sparse Transformer's two-dimensional factorisation.

    Raises:
        ValueError: a stride below 1, a radius below 0, fewer than two heads to split.
    """
    if stride < 1 or radius < 0:
        raise ValueError(f"need stride >= 1 and radius >= 0, got stride={stride}, radius={radius}")
    if split_heads and num_heads < 2:
        raise ValueError(f"split_heads needs at least two heads, got num_heads={num_heads}; set split_heads=False")
    near, far = range(min(radius + 1, num_tokens)), range(0, num_tokens, stride)
    both = tuple(sorted({*near, *far}))
    rows = [tuple((near, far)[head % 2]) if split_heads else both for head in range(num_heads)]
    return Support(tuple(rows), num_tokens, num_prefix_tokens)


def shared(
    num_heads: int,
    num_tokens: int,
    *,
    offsets: Sequence[int] | None = None,
    w_min: int = 5,
    variant: str = "wythoff",
    num_prefix_tokens: int = 1,
) -> Support:
    """Every head has the same offsets: those given, or those of Fibottention's head 1 with the window ``w_min``.

    Raises:
        ValueError: offsets that are negative, none at all, a window or variant out of range.
    """
    if offsets is None:
        offsets = fibottention_offsets(1, num_tokens, w_min=1, w_max=w_min, variant=variant)[0]
    elif not offsets:
        raise ValueError("offsets must name at least one distance between tokens, got none")
    return Support((tuple(sorted(set(offsets))),) * num_heads, num_tokens, num_prefix_tokens)


def axial_time(num_heads: int, grid: tuple[int, int, int], *, num_prefix_tokens: int = 1) -> Support:
    """Every token sees the tokens at its place in all frames; grid (t, h, w), tokens in the order t h w."""
    t, h, w = grid
    return Support((tuple(range(0, t * h * w, h * w)),) * num_heads, t * h * w, num_prefix_tokens)


def fibottention_density(num_heads: int, num_tokens: int) -> float:
    """The density of Fibottention's patch pairs with the windows of the paper."""
    return Support.fibottention(num_heads, num_tokens).density()


def nearest(values: Iterable[Value], density: Callable[[Value], float], target: float) -> Value:
    """The value whose density is nearest to ``target``; of two equally near, the earlier one.

    Args:
        values: in the order of rising density, at least one.
        density: of a value; called for few of them.
    """
    values = list(values)
    after = bisect_left(values, target, key=density)
    around = values[max(after - 1, 0) : after + 1]
    return min(around, key=lambda value: abs(density(value) - target))
