"""Attention over pairs that are neither neighbours nor diagonals: random keys, blocks and anti-diagonals.

Where the number that fixes the cost is None, it is the one whose density is nearest to that of Fibottention with as
many heads and tokens.
"""

from __future__ import annotations

import math
from functools import partial

from videofib.attention import Pattern, Support, patterns
from videofib.mixers.mixer import Grid, LayerSpec, Mixer
from videofib.mixers.pattern_attention import PatternAttention


class RandomAttention(PatternAttention):
    """Every pair with the same probability, drawn once for each head and layer: the baseline of the paper's tables.

    Args:
        layer: the layer it is built for.
        keep: the probability; None: Fibottention's density.
        seed: another seed, other pairs.

    Raises:
        ValueError: a probability out of range.
    """

    def __init__(self, layer: LayerSpec, *, keep: float | None = None, seed: int = 0):
        super().__init__(layer, partial(_random, layer, keep, seed))


class BigBird(PatternAttention):
    """A band, random keys drawn once for each head and layer, and global patches (arXiv 2007.14062).

    Args:
        layer: the layer it is built for.
        radius: of the band, on either side.
        num_random: random keys of a query; None: at Fibottention's density.
        num_global: patches, the first ones in the layer's order, that see all and are seen by all.
        seed: another seed, other random keys.

    Raises:
        ValueError: a number out of range.
    """

    def __init__(
        self,
        layer: LayerSpec,
        *,
        radius: int = 1,
        num_random: int | None = None,
        num_global: int = 0,
        seed: int = 0,
    ):
        super().__init__(layer, partial(_bigbird, layer, radius, num_random, num_global, seed))


class SparseFixed(PatternAttention):
    """The own block, and the last tokens of every earlier block (arXiv 1904.10509, section 4.2).

    Args:
        layer: the layer it is built for.
        length: of a block; None: at Fibottention's density, or as near as blocks come.
        num_summary: last tokens of a block that later blocks see.
        distinct_heads, symmetric: see :func:`videofib.attention.patterns.sparse_fixed`.

    Raises:
        ValueError: a number out of range.
    """

    def __init__(
        self,
        layer: LayerSpec,
        *,
        length: int | None = None,
        num_summary: int = 1,
        distinct_heads: bool = False,
        symmetric: bool = False,
    ):
        super().__init__(layer, partial(_sparse_fixed, layer, length, num_summary, distinct_heads, symmetric))


class CrossDiagonal(PatternAttention):
    """Fibottention's offsets from the diagonal between upper right and lower left (arXiv 2406.19391).

    Args:
        layer: the layer it is built for.
        w_min, w_max, variant: see :meth:`videofib.attention.Support.fibottention`.

    Raises:
        ValueError: a window out of range, an unknown name.
    """

    def __init__(self, layer: LayerSpec, *, w_min: int = 5, w_max: int | None = None, variant: str = "wythoff"):
        super().__init__(layer, partial(_cross_diagonal, layer, w_min, w_max, variant))


# patterns for a grid


def _random(layer: LayerSpec, keep: float | None, seed: int, grid: Grid) -> Pattern:
    num_tokens = math.prod(grid)
    return patterns.random(
        layer.num_heads,
        num_tokens,
        keep=Support.fibottention(layer.num_heads, num_tokens).density() if keep is None else keep,
        seed=seed,
        layer_index=layer.index,
        num_prefix_tokens=layer.num_prefix_tokens,
    )


def _bigbird(layer: LayerSpec, radius: int, num_random: int | None, num_global: int, seed: int, grid: Grid) -> Pattern:
    num_tokens = math.prod(grid)
    if num_random is None:  # what band, and rows and columns of global patches, leave of Fibottention's keys a query
        keys = Support.fibottention(layer.num_heads, num_tokens).density() * num_tokens
        num_random = max(0, round(keys - (2 * radius + 1) - 2 * num_global))
    return patterns.bigbird(
        layer.num_heads,
        num_tokens,
        radius=radius,
        num_random=num_random,
        num_global=num_global,
        seed=seed,
        layer_index=layer.index,
        num_prefix_tokens=layer.num_prefix_tokens,
    )


def _sparse_fixed(
    layer: LayerSpec, length: int | None, num_summary: int, distinct_heads: bool, symmetric: bool, grid: Grid
) -> Pattern:
    num_tokens = math.prod(grid)
    if length is None:
        target = Support.fibottention(layer.num_heads, num_tokens).density()
        seen = num_summary / (min(layer.num_heads, num_summary) if distinct_heads else 1) * (2 if symmetric else 1)
        lengths = range(num_summary, max(num_summary, num_tokens) + 1)
        length = min(lengths, key=lambda length: abs(_block_density(num_tokens, length, seen) - target))
    return patterns.sparse_fixed(
        layer.num_heads,
        num_tokens,
        length=length,
        num_summary=num_summary,
        distinct_heads=distinct_heads,
        symmetric=symmetric,
        num_prefix_tokens=layer.num_prefix_tokens,
    )


def _block_density(num_tokens: int, length: int, seen: float) -> float:
    """Of blocks, the last one perhaps shorter, and ``seen`` pairs of a token with each earlier block."""
    blocks, rest = divmod(num_tokens, length)
    earlier = length * blocks * (blocks - 1) // 2 + rest * blocks
    return (blocks * length**2 + rest**2 + seen * earlier) / num_tokens**2


def _cross_diagonal(layer: LayerSpec, w_min: int, w_max: int | None, variant: str, grid: Grid) -> Pattern:
    return patterns.cross_diagonal(
        layer.num_heads,
        math.prod(grid),
        w_min=w_min,
        w_max=w_max,
        variant=variant,
        num_prefix_tokens=layer.num_prefix_tokens,
    )


def _mixer(build: type[PatternAttention], paper: str) -> Mixer:
    return Mixer(build=build, paper=paper, multiply_adds=build.multiply_adds, serves=frozenset({"class_token"}))


RANDOM = _mixer(RandomAttention, "arXiv 2406.19391")
BIGBIRD = _mixer(BigBird, "arXiv 2007.14062")
SPARSE_FIXED = _mixer(SparseFixed, "arXiv 1904.10509")
CROSS_DIAGONAL = _mixer(CrossDiagonal, "arXiv 2406.19391")
