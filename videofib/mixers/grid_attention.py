"""Attention among neighbours in time, height and width.

A model's order of tokens decides how a grid's axes are numbered; options are always given as (t, h, w). One number
stands for all three. The same mixer serves attention within frames, (1, h, w), and over time, (t, 1, 1): along an axis
that is too short for a window, the window is as long as the axis.

Where the size is None, it is the one, equal along all axes, whose density is nearest to Fibottention's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

from videofib.attention import Pattern, Support, patterns
from videofib.attention.matching import nearest
from videofib.mixers.mixer import Grid, LayerSpec, Mixer
from videofib.mixers.pattern_attention import PatternAttention

Value = TypeVar("Value")


class GridWindow(PatternAttention):
    """Each token sees those at most ``radius`` steps away along every axis, fewer at borders.

    Args:
        layer: the layer it is built for.
        radius: one number, or three for (t, h, w); None: at Fibottention's density.
        dilation: tokens that make a step, one number or three.

    Raises:
        ValueError: a number out of range.
    """

    def __init__(
        self, layer: LayerSpec, *, radius: int | Sequence[int] | None = None, dilation: int | Sequence[int] = 1
    ):
        steps = _three("dilation", dilation)
        super().__init__(layer, partial(_grid_window, layer, radius, steps))


class AxialTime(PatternAttention):
    """Each token sees the tokens at its place in all frames; it has no options."""

    def __init__(self, layer: LayerSpec):
        super().__init__(layer, partial(_axial_time, layer))


class NeighbourhoodAttention(PatternAttention):
    """Each token sees ``kernel`` neighbours along every axis, as many at borders (arXiv 2204.07143, 2209.15001).

    Args:
        layer: the layer it is built for.
        kernel: one number, or three for (t, h, w); None: at Fibottention's density, odd.
        dilation: distance between neighbours, one number or three.
        causal: whether tokens see no later frames; the window in time then ends at the token.

    Raises:
        ValueError: a number out of range.
    """

    def __init__(
        self,
        layer: LayerSpec,
        *,
        kernel: int | Sequence[int] | None = None,
        dilation: int | Sequence[int] = 1,
        causal: bool = False,
    ):
        steps = _three("dilation", dilation)
        super().__init__(layer, partial(_neighbourhood, layer, kernel, steps, causal))


# patterns for a grid


def _grid_window(layer: LayerSpec, radius: int | Sequence[int] | None, steps: Grid, grid: Grid) -> Pattern:
    if radius is None:
        radius = _nearest(layer, grid, range(1, max(*grid, 2)), partial(_window_density, grid, steps))
    return patterns.grid_window(
        layer.num_heads,
        _ordered(layer, grid),
        radius=_ordered(layer, _three("radius", radius)),
        dilation=_ordered(layer, steps),
        num_prefix_tokens=layer.num_prefix_tokens,
    )


def _axial_time(layer: LayerSpec, grid: Grid) -> Pattern:
    return patterns.grid_window(
        layer.num_heads,
        _ordered(layer, grid),
        radius=_ordered(layer, (grid[0], 0, 0)),
        num_prefix_tokens=layer.num_prefix_tokens,
    )


def _neighbourhood(
    layer: LayerSpec, kernel: int | Sequence[int] | None, steps: Grid, causal: bool, grid: Grid
) -> Pattern:
    if kernel is None:
        kernel = _nearest(layer, grid, range(3, max(*grid, 3) + 1, 2), partial(_kernel_density, grid, steps))
    fitting, fitting_steps = _fitting(grid, _three("kernel", kernel), steps)
    return patterns.neighbourhood(
        layer.num_heads,
        _ordered(layer, grid),
        kernel=_ordered(layer, fitting),
        dilation=_ordered(layer, fitting_steps),
        causal=_ordered(layer, (causal, False, False)),
        num_prefix_tokens=layer.num_prefix_tokens,
    )


def _three(name: str, value: int | Sequence[int]) -> tuple[int, int, int]:
    """One number for every axis, or three as they are."""
    values = (value,) * 3 if isinstance(value, int) else tuple(value)
    if len(values) != 3:
        raise ValueError(f"{name} must be one number, or three for (t, h, w), got {name}={value}")
    return values


def _ordered(layer: LayerSpec, values: Sequence[Value]) -> tuple[Value, ...]:
    """What is given for (t, h, w), in the order of the layer's tokens."""
    by_axis = dict(zip("thw", values, strict=True))
    return tuple(by_axis[axis] for axis in layer.order.split())


# sizes


def _nearest(layer: LayerSpec, grid: Grid, sizes: Iterable[int], density: Callable[[int], float]) -> int:
    """The size whose density is nearest to Fibottention's."""
    return nearest(sizes, density, Support.fibottention(layer.num_heads, math.prod(grid)).density())


def _window_density(grid: Grid, steps: Grid, radius: int) -> float:
    """Of a window that ends at borders: along an axis of length L, L - m pairs are m tokens apart in one direction."""

    def pairs(length: int, step: int) -> int:
        return length + 2 * sum(max(length - m * step, 0) for m in range(1, radius + 1))

    return math.prod(pairs(length, step) / length**2 for length, step in zip(grid, steps, strict=True))


def _kernel_density(grid: Grid, steps: Grid, kernel: int) -> float:
    return math.prod(_fitting(grid, (kernel,) * 3, steps)[0]) / math.prod(grid)


def _fitting(grid: Grid, kernel: Grid, steps: Grid) -> tuple[Grid, Grid]:
    """Kernel and dilation, where they are longer than an axis as long as the axis."""
    pairs = [(min(k, n // min(d, n)), min(d, n)) for k, n, d in zip(kernel, grid, steps, strict=True)]
    (kt, dt), (kh, dh), (kw, dw) = pairs
    return (kt, kh, kw), (dt, dh, dw)


def _mixer(build: type[PatternAttention], paper: str) -> Mixer:
    return Mixer(
        build=build,
        paper=paper,
        multiply_adds=build.multiply_adds,
        needs=frozenset({"grid"}),
        serves=frozenset({"class_token"}),
    )


GRID_WINDOW = _mixer(GridWindow, "arXiv 1802.05751")
AXIAL_TIME = _mixer(AxialTime, "arXiv 1912.12180")
NATTEN = _mixer(NeighbourhoodAttention, "arXiv 2204.07143")
