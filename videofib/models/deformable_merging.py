"""Deformable token merging: one token for 2 x 2, sampled where learned offsets point (LIT, arXiv 2105.14217, 3.3).

Axes: b batch, t frames, h w grid of patches, p prefix tokens, d width, k = 4 places of the kernel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from videofib.mixers import Grid, LayerSpec
from videofib.models.blocks import GRID, Memory
from videofib.models.reduction import Reduction, Reductions

SIDE = 2  # of the kernel, and its stride
OFFSET_LR = 0.01  # learning rate of the weights of offsets, over that of all others, as published


def bilinear_samples(maps: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Samples between the tokens of a map, which is 0 outside: (B, D, h, w), y and x (B, n) -> (B, D, n).

    ::

        weight   1 |    . - - - - .         a row of 5 tokens continued by zeros: a sample fades to nothing
                 0 | . '  0 1 2 3 4 ' .     over the token beyond each border
    """
    height, width = maps.shape[2:]
    flat = rearrange(maps, "b d h w -> b d (h w)")
    top, left = y.detach().floor(), x.detach().floor()
    total = maps.new_zeros(())
    for dy in (0, 1):
        for dx in (0, 1):
            row, column = top + dy, left + dx
            weight = (1 - (y - row).abs()) * (1 - (x - column).abs())
            is_inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            index = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
            found = flat.gather(2, index[:, None].expand(-1, flat.shape[1], -1))
            total = total + found * (weight * is_inside)[:, None]
    return total


class DeformableConv(nn.Conv2d):
    """A convolution of 2 x 2 at stride 2 whose four samples lie at learned offsets (arXiv 1703.06211).

    ``conv_offset`` finds the offsets, in tokens, of each window: for place 2u+v of the kernel those in y and in x. They
    have 32 bits, also under autocast, since 16 would not tell neighbouring positions apart.

    Args:
        dim, out_dim: width of the tokens, and of the merged ones.
    """

    def __init__(self, dim: int, out_dim: int):
        super().__init__(dim, out_dim, SIDE, stride=SIDE)
        self.conv_offset = nn.Conv2d(dim, 2 * SIDE * SIDE, SIDE, stride=SIDE)

    def forward(self, maps: Tensor) -> Tensor:  # type: ignore[override]
        """(B, D, h, w) -> (B, out_dim, h/2, w/2), for even h and w."""
        places = SIDE * SIDE
        offsets = self.conv_offset(maps)
        offsets = offsets.to(torch.promote_types(offsets.dtype, torch.float32))
        height, width = offsets.shape[2:]
        y, x = rearrange(offsets, "b (k two) h w -> two b k h w", two=2, k=places)
        rows = torch.arange(SIDE * height, device=maps.device).to(offsets.dtype)
        columns = torch.arange(SIDE * width, device=maps.device).to(offsets.dtype)
        rows = rearrange(rows, "(h u) -> u 1 h 1", u=SIDE).expand(-1, SIDE, -1, width)
        columns = rearrange(columns, "(w v) -> 1 v 1 w", v=SIDE).expand(SIDE, -1, height, -1)
        y, x = y + rows.flatten(0, 1), x + columns.flatten(0, 1)
        sampled = bilinear_samples(maps, y.flatten(1), x.flatten(1))
        sampled = rearrange(sampled, "b d (k h w) -> b (h w) (d k)", k=places, h=height, w=width)
        merged = F.linear(sampled.to(maps.dtype), self.weight.flatten(1), self.bias)
        return rearrange(merged, "b (h w) d -> b d h w", h=height)


class DeformableMerging(Reduction):
    """Half as many tokens along both sides of each frame: deformable convolution, batch norm, GELU.

    Parameters are named as published. Processes have batch statistics of their own, unless the model is converted to
    ``SyncBatchNorm``.

    Args:
        dim: width of the tokens.
        out_dim: of the merged ones; as published twice as wide. None: ``dim``, for models of one width, which is ours.
        order, num_prefix_tokens: how tokens lie; the prefix is left as it is.

    Raises:
        ValueError: prefix tokens beside tokens of another width.
    """

    keeps_places = True

    def __init__(self, dim: int, out_dim: int | None = None, *, order: str = "h w t", num_prefix_tokens: int = 0):
        super().__init__()
        out_dim = out_dim or dim
        if num_prefix_tokens and out_dim != dim:
            raise ValueError(
                f"prefix tokens keep their width, so merging to another one needs num_prefix_tokens=0, got dim={dim}, "
                f"out_dim={out_dim}, num_prefix_tokens={num_prefix_tokens}"
            )
        self.order, self.num_prefix_tokens = order, num_prefix_tokens
        self.dconv = DeformableConv(dim, out_dim)
        self.norm_layer = nn.BatchNorm2d(out_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """All offsets are 0 at first, as published."""
        nn.init.zeros_(self.dconv.conv_offset.weight)
        nn.init.zeros_(self.dconv.conv_offset.bias)

    def grid_after(self, grid: Grid) -> Grid:
        """(t, h/2, w/2).

        Raises:
            ValueError: an odd side.
        """
        length, height, width = grid
        if height % SIDE or width % SIDE:
            raise ValueError(
                f"merging 2 x 2 tokens needs frames of even sides, got (t, h, w) = {tuple(grid)}; change the size of "
                "frames or patches, or merge behind fewer blocks"
            )
        return length, height // SIDE, width // SIDE

    def forward(self, x: Tensor, grid: Grid, memory: Memory) -> tuple[Tensor, Memory]:
        """(b, p+N, d) -> (b, p+N/4, out_dim), and the memory with the smaller grid.

        Raises:
            ValueError: an odd side.
        """
        after = self.grid_after(grid)
        axes, t = dict(zip("thw", grid, strict=True)), grid[0]
        prefix, patches = x[:, : self.num_prefix_tokens], x[:, self.num_prefix_tokens :]
        maps = self.dconv(rearrange(patches, f"b ({self.order}) d -> (b t) d h w", **axes))
        merged = F.gelu(self.norm_layer(maps))
        merged = rearrange(merged, f"(b t) d h w -> b ({self.order}) d", t=t)
        return (torch.cat((prefix, merged), dim=1) if self.num_prefix_tokens else merged), {**memory, GRID: after}

    def multiply_adds(self, grid: Grid) -> int:
        """Of the matrix products of one sequence: 8·N·D for the offsets, N·D·D' for the merged tokens."""
        dim, out_dim = self.dconv.in_channels, self.dconv.out_channels
        return math.prod(grid) * dim * (2 * SIDE * SIDE + out_dim)


def deformable_merging(layer: LayerSpec, grid: Grid, *, after: Sequence[int]) -> Reductions:
    """Deformable merging behind some blocks of a model of one width, frame by frame.

    Args:
        layer: what all blocks have in common.
        grid: (t, h, w) of one sequence of tokens.
        after: indices of blocks, from 0.

    Raises:
        ValueError: blocks that there are not, or odd sides.
    """
    return Reductions(after, partial(_merging, layer), grid=grid, depth=layer.depth)


def _merging(layer: LayerSpec, _: int, grid: Grid) -> DeformableMerging:
    merging = DeformableMerging(layer.dim, order=layer.order, num_prefix_tokens=layer.num_prefix_tokens)
    merging.grid_after(grid)  # an odd side fails now
    return merging
