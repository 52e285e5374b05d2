"""Attention scores as a feature map: a small convolutional network over each row (arXiv 2410.04798).

Axes: B batch, H heads, n some of the queries, N keys, (t, h, w) their grid, M channels between the convolutions, C = 2H
channels in front of them (H without a bias), A axes along which distances are measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import TypeAlias, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from videofib.mixers.mixer import Grid, LayerSpec

Convolution: TypeAlias = nn.Conv2d | nn.Conv3d


class ScoreConvolution(nn.Module):
    """What DAPE V2 makes of the scores S of a row; parameters are named as published.

    With convolutions along the keys of one query, zeros beyond the last, and the bias B of a subclass, none here::

        S' = S + B + conv(LeakyReLU(conv([S, B])))     C -> M -> H channels

    The bias of the last convolution is one number for a whole row: softmax cancels it, save beside prefix tokens.

    Args:
        layer: its heads, its grid and the order of its tokens.
        width: M.
        kernel: extent along the keys in their order, where a kernel runs past the end of one line of the grid into
            the next.
        grid_kernel: None, or an extent (t, h, w): then a row is laid out as a clip, which is convolved, and distances
            are those along each axis, whose biases are added up. It is 1 along axes on which the layer has a single
            token.
        causal: clear what the convolutions see of later keys, as published.
        zero_init: start from the scores (and the bias) alone.

    Raises:
        ValueError: an even kernel, a width below 1.
    """

    channels_per_head = 1

    def __init__(
        self,
        layer: LayerSpec,
        *,
        width: int = 32,
        kernel: int = 3,
        grid_kernel: tuple[int, int, int] | None = None,
        causal: bool = False,
        zero_init: bool = False,
    ):
        super().__init__()
        if width < 1:
            raise ValueError(f"there must be channels between the convolutions, got width={width}; set it to 1 or more")
        if grid_kernel is not None and len(grid_kernel) != 3:
            raise ValueError(f"a grid_kernel has three extents (t, h, w), got grid_kernel={grid_kernel}; set three")
        if any(size < 1 or size % 2 == 0 for size in grid_kernel or (kernel,)):
            raise ValueError(f"extents must be odd, got kernel={kernel}, grid_kernel={grid_kernel}; set odd numbers")
        self.num_heads, self.order, self.layer_grid = layer.num_heads, layer.order, layer.grid
        self.width, self.over_grid, self.causal, self.zero_init = width, grid_kernel is not None, causal, zero_init
        convolution: Callable[[int, int], Convolution]
        if grid_kernel is None:
            convolution = partial(nn.Conv2d, kernel_size=(1, kernel), padding=(0, kernel // 2))
        else:
            t, h, w = (size if length > 1 else 1 for size, length in zip(grid_kernel, layer.grid, strict=True))
            convolution = partial(nn.Conv3d, kernel_size=(t, h, w), padding=(t // 2, h // 2, w // 2))
        self.mlp2 = nn.Sequential(
            convolution(self.channels_per_head * layer.num_heads, width),
            nn.LeakyReLU(),
            convolution(width, layer.num_heads),
        )
        self.build_bias()
        self.reset_parameters()

    def build_bias(self) -> None:
        """Create the parameters and buffers of the bias; ``reset_parameters`` gives them values."""

    @property
    def convolutions(self) -> tuple[Convolution, Convolution]:
        """The first and the last of ``mlp2``."""
        return cast("tuple[Convolution, Convolution]", (self.mlp2[0], self.mlp2[2]))

    def reset_parameters(self) -> None:
        """Convolutions as torch initialises them, or the last with zeros."""
        first, last = self.convolutions
        first.reset_parameters()
        last.reset_parameters()
        if self.zero_init:
            for parameter in last.parameters():
                nn.init.zeros_(parameter)

    def no_weight_decay(self) -> set[str]:
        """Parameters of the position bias."""
        return set()

    def forward(self, scores: Tensor, first: int, grid: Grid) -> Tensor:
        """(B, H, n, N) of the n queries from ``first`` on -> the same; a causal softmax must still mask later keys."""
        maps, bias = scores, self.position_bias(scores, first, grid)
        if bias is not None:
            bias = bias.to(scores.dtype)
            maps = torch.cat([scores, bias.expand(len(scores), -1, -1, -1)], dim=1)
            scores = scores + bias
        if self.causal:
            maps = maps.tril(first)
        return scores + self.convolve(maps, grid)

    def position_bias(self, scores: Tensor, first: int, grid: Grid) -> Tensor | None:
        """B of the n queries of the scores (B, H, n, N), (H, n, N); None where there is none."""
        return None

    def distances(self, scores: Tensor, first: int, grid: Grid) -> Tensor:
        """Between the n queries and all keys along each axis, 0 to later ones where causal: (A, n, N)."""
        lengths = grid if self.over_grid else (math.prod(grid),)
        numbers = [torch.arange(length, dtype=scores.dtype, device=scores.device) for length in lengths]
        positions = torch.stack(torch.meshgrid(*numbers, indexing="ij"))
        if self.over_grid:
            axes = [axis for axis, length in enumerate(grid) if length > 1] or [0]
            positions = rearrange(positions[axes], f"a t h w -> a ({self.order})")
        distances = (positions[:, first : first + scores.shape[2], None] - positions[:, None]).abs()
        return distances.tril(first) if self.causal else distances

    def convolve(self, maps: Tensor, grid: Grid) -> Tensor:
        """(B, C, n, N) -> (B, H, n, N), each query by itself."""
        rows, (t, h, w) = maps.shape[2], grid
        if self.over_grid:
            maps = rearrange(maps, f"b c n ({self.order}) -> (b n) c t h w", t=t, h=h, w=w)
        first, last = self.convolutions
        maps = convolved(self.mlp2[1](convolved(maps, first)), last)
        if self.over_grid:
            maps = rearrange(maps, f"(b n) c t h w -> b c n ({self.order})", n=rows)
        return maps

    def numbers_per_score(self) -> float:
        """Held for every score, about: channels in front of the convolutions, and twice those between them."""
        return self.channels_per_head + 2 * self.width / self.num_heads

    def multiply_adds(self, grid: Grid) -> int:
        """Of all N queries of one sequence: the convolutions, and the products within the bias."""
        return math.prod(grid) ** 2 * sum(layer.weight.numel() for layer in self.convolutions)


def convolved(maps: Tensor, convolution: Convolution) -> Tensor:
    """Convolved in the type of the maps, which is wider than the weights' where these have 16 bits."""
    operation = F.conv2d if isinstance(convolution, nn.Conv2d) else F.conv3d
    weight, bias = (parameter.to(maps.dtype) for parameter in convolution.parameters())
    return operation(maps, weight, bias, padding=convolution.padding)
