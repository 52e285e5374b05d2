"""Supports of other published sparse patterns, where offsets alone describe them: constructors of ``Support``.

    window      0 .. radius, times a dilation              Longformer (arXiv 2004.05150)
    dilated     the same with a dilation for each head
    strided     0 .. radius and every multiple of stride   Sparse Transformer (arXiv 1904.10509), both directions
    shared      one set of offsets for all heads
    axial_time  the same place in every frame              (tokens in the order t h w)

Offsets know nothing of lines and frames; patterns that do are in ``patterns``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from videofib.attention.matching import chosen
from videofib.attention.wythoff import fibottention_offsets

S = TypeVar("S", bound="Diagonals")  # Support


class Diagonals:
    """The constructors, each of a support for N = ``num_tokens`` patches behind ``num_prefix_tokens``.

    In place of the number that fixes the cost, ``matching="fibottention"`` takes the one whose density is nearest to
    that of Fibottention with as many heads and tokens, for comparisons at equal cost.
    """

    def __init__(self, offsets: tuple[Sequence[int], ...], num_tokens: int, num_prefix_tokens: int = 1):
        raise NotImplementedError  # Support is made of these

    @classmethod
    def window(
        cls: type[S],
        num_heads: int,
        num_tokens: int,
        *,
        radius: int | None = None,
        dilation: int = 1,
        include_self: bool = True,
        num_prefix_tokens: int = 1,
        matching: str | None = None,
    ) -> S:
        """Every head sees ``radius`` tokens on either side, ``dilation`` apart, and itself unless told otherwise.

        Raises:
            ValueError: a radius below 0, a dilation below 1; neither a radius nor ``matching``.
        """
        return cls.dilated(
            num_tokens,
            radius=radius,
            dilations=(dilation,) * num_heads,
            include_self=include_self,
            num_prefix_tokens=num_prefix_tokens,
            matching=matching,
        )

    @classmethod
    def dilated(
        cls: type[S],
        num_tokens: int,
        *,
        dilations: Sequence[int],
        radius: int | None = None,
        include_self: bool = True,
        num_prefix_tokens: int = 1,
        matching: str | None = None,
    ) -> S:
        """As :meth:`window`, with one dilation for each head.

        Raises:
            ValueError: a radius below 0, a dilation below 1; neither a radius nor ``matching``.
        """
        if any(dilation < 1 for dilation in dilations):
            raise ValueError(f"dilations must be at least 1, got {tuple(dilations)}")
        if radius is None:
            options = {"dilations": tuple(dilations), "include_self": include_self}
            radius = chosen(cls, "dilated", "radius", matching, num_tokens, len(dilations), **options)
        if radius < 0:
            raise ValueError(f"radius must not be negative, got radius={radius}")
        first = 0 if include_self else 1
        rows = tuple(range(first * d, min(radius * d + 1, num_tokens), d) for d in dilations)
        return cls(tuple(tuple(row) for row in rows), num_tokens, num_prefix_tokens)

    @classmethod
    def strided(
        cls: type[S],
        num_heads: int,
        num_tokens: int,
        *,
        stride: int | None = None,
        radius: int = 0,
        split_heads: bool = False,
        num_prefix_tokens: int = 1,
        matching: str | None = None,
    ) -> S:
        """Every head sees the tokens within ``radius`` and those a multiple of ``stride`` away, in both directions.

        Args:
            split_heads: heads 1, 3, 5, … see only the former, heads 2, 4, 6, … only the latter and themselves, as in
                the Sparse Transformer's two-dimensional factorisation.

        Raises:
            ValueError: a stride below 1, a radius below 0, fewer than two heads to split; neither a stride nor
                ``matching``.
        """
        if split_heads and num_heads < 2:
            raise ValueError(f"split_heads needs at least two heads, got num_heads={num_heads}; set split_heads=False")
        if stride is None:
            options = {"num_heads": num_heads, "radius": radius, "split_heads": split_heads}
            stride = chosen(cls, "strided", "stride", matching, num_tokens, num_heads, **options)
        if stride < 1 or radius < 0:
            raise ValueError(f"need stride >= 1 and radius >= 0, got stride={stride}, radius={radius}")
        near, far = range(min(radius + 1, num_tokens)), range(0, num_tokens, stride)
        both = tuple(sorted({*near, *far}))
        rows = [tuple((near, far)[head % 2]) if split_heads else both for head in range(num_heads)]
        return cls(tuple(rows), num_tokens, num_prefix_tokens)

    @classmethod
    def shared(
        cls: type[S],
        num_heads: int,
        num_tokens: int,
        *,
        offsets: Sequence[int] | None = None,
        w_min: int = 5,
        variant: str = "wythoff",
        num_prefix_tokens: int = 1,
    ) -> S:
        """Every head has the same offsets: those given, or those of Fibottention's head 1 with the window ``w_min``.

        Raises:
            ValueError: offsets that are negative, none at all, a window or variant out of range.
        """
        if offsets is None:
            offsets = fibottention_offsets(1, num_tokens, w_min=1, w_max=w_min, variant=variant)[0]
        elif not offsets:
            raise ValueError("offsets must name at least one distance between tokens, got none")
        return cls((tuple(sorted(set(offsets))),) * num_heads, num_tokens, num_prefix_tokens)

    @classmethod
    def axial_time(cls: type[S], num_heads: int, grid: tuple[int, int, int], *, num_prefix_tokens: int = 1) -> S:
        """Every token sees the tokens at its place in all frames; grid (t, h, w), tokens in the order t h w."""
        t, h, w = grid
        return cls((tuple(range(0, t * h * w, h * w)),) * num_heads, t * h * w, num_prefix_tokens)
