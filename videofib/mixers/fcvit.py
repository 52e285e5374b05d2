"""FCViT's mixer: a global context, weighted by each token's similarity to it, and depthwise convolutions (2212.12552).

Axes: b batch, t h w grid, n = t·h·w, p prefix tokens, d width.
"""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from videofib.mixers.global_context import GlobalContext
from videofib.mixers.mixer import Grid, LayerSpec, Mixer

SPATIAL_KERNEL, SPATIAL_REDUCTION = 3, 8  # of the published code's spatial attention


class FCViT(nn.Module):
    """Two times a global context and a depthwise convolution (section 3)::

        x = x + GlobalContext(x);  x = gelu(bottleneck(convolution(x)))
        x = x + GlobalContext(x);  x = gelu(bottleneck(convolution(x)))

    The context is that of all tokens of the grid: of the clip in joint attention, of a frame or of a line over time in
    divided attention. Convolutions have kernels (time_kernel, kernel, kernel), padded with zeros; frames see each other
    by the context alone where ``time_kernel`` is 1. Axes on which the layer has a single token get a kernel of 1, so a
    mixer for lines over time has kernels (time_kernel, 1, 1), and one for frames those of the published code.

    Prefix tokens have no place on the grid: they neither mix nor are mixed, and their output is zero.

    Args:
        layer: the layer it is built for.
        kernel: of the convolutions along h and w; odd.
        second_kernel: of the second one; None: the same.
        time_kernel: of both along t; odd.
        groups, reduction, compete, weighted: of :class:`GlobalContext`.
        context: False leaves it out.
        twice: False leaves the second line out.
        bottleneck: the width of the bottlenecks is d / bottleneck, but not less than ``min_width``.
        min_width: see ``bottleneck``.
        spatial_attention: multiply the output by a weight from 0 to 1 for each number, as the published code can.

    Raises:
        ValueError: an even kernel, a width that does not divide into groups.
    """

    def __init__(
        self,
        layer: LayerSpec,
        *,
        kernel: int = 11,
        second_kernel: int | None = None,
        time_kernel: int = 1,
        groups: int = 8,
        reduction: int = 8,
        compete: bool = True,
        weighted: bool = True,
        context: bool = True,
        twice: bool = True,
        bottleneck: int = 8,
        min_width: int = 16,
        spatial_attention: bool = False,
    ):
        super().__init__()
        if bottleneck < 1 or min_width < 1:
            raise ValueError(f"bottleneck and min_width must be 1 or more, got {bottleneck} and {min_width}")
        if context and weighted and groups * math.prod(layer.grid) == 1:
            raise ValueError(f"groups={groups} and one token have no spread of similarities; set groups to 2 or more")
        if not context and layer.grid[0] > 1 and time_kernel == 1:
            raise ValueError("without a context, time_kernel=1 keeps frames apart; set time_kernel to 3 or more")
        self.num_prefix_tokens, self.order, self.twice = layer.num_prefix_tokens, layer.order, twice
        dim, width = layer.dim, max(layer.dim // bottleneck, min_width)

        def parts(side: int) -> tuple[GlobalContext | None, nn.Conv2d | nn.Conv3d, nn.Sequential]:
            return (
                GlobalContext(dim, groups, reduction, compete=compete, weighted=weighted) if context else None,
                depthwise(dim, *kernel_for(layer.grid, time_kernel, side)),
                nn.Sequential(nn.Conv2d(dim, width, 1), nn.GELU(), nn.Conv2d(width, dim, 1)),
            )

        self.gc1, self.dw1, self.fc1 = parts(kernel)
        if twice:
            self.gc2, self.dw2, self.fc2 = parts(second_kernel or kernel)
        self.spatial_att = SpatialAttention(dim) if spatial_attention else None

    def reset_parameters(self) -> None:
        """Similarities enter as they are: scales 1, shifts 0. All else keeps its initial values."""
        for module in self.children():
            if isinstance(module, GlobalContext):
                module.reset_parameters()

    def forward(self, x: Tensor, grid: Grid, state: Any = None) -> tuple[Tensor, Any]:
        """(B, P+N, D) -> (B, P+N, D), zero for the prefix; the state is not used."""
        num_prefix, axes = self.num_prefix_tokens, dict(zip("thw", grid, strict=True))
        frames = rearrange(x[:, num_prefix:], f"b ({self.order}) d -> (b t) d h w", **axes)
        frames = self.mix(frames, grid[0], self.gc1, self.dw1, self.fc1)
        if self.twice:
            frames = self.mix(frames, grid[0], self.gc2, self.dw2, self.fc2)
        if self.spatial_att is not None:
            frames = self.spatial_att(frames)
        y = rearrange(frames, f"(b t) d h w -> b ({self.order}) d", **axes)
        return F.pad(y, (0, 0, num_prefix, 0)), state

    @staticmethod
    def mix(frames: Tensor, t: int, context: nn.Module | None, convolution: nn.Module, bottleneck: nn.Module) -> Tensor:
        """One line of the mechanism: (b·t, d, h, w) -> (b·t, d, h, w)."""
        if context is not None:
            h, w = frames.shape[2:]
            update = context(rearrange(frames, "(b t) d h w -> b d (t h w)", t=t))
            frames = frames + rearrange(update, "b d (t h w) -> (b t) d h w", t=t, h=h, w=w)
        if isinstance(convolution, nn.Conv3d):
            clips = convolution(rearrange(frames, "(b t) d h w -> b d t h w", t=t))
            frames = rearrange(clips, "b d t h w -> (b t) d h w")
        else:
            frames = convolution(frames)
        return F.gelu(bottleneck(frames))

    def multiply_adds(self, grid: Grid) -> int:
        """Of one sequence: a weight of a convolution acts on every token, and one of a linear layer once."""
        num_tokens = math.prod(grid)
        total = 0
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                total += num_tokens * module.weight.numel()
            elif isinstance(module, nn.Linear):
                total += module.weight.numel()
            elif isinstance(module, GlobalContext) and module.weighted:
                total += num_tokens * module.dim
        return total


class SpatialAttention(nn.Module):
    """x · sigmoid of a small network: depthwise convolution, 1 x 1 convolutions with GELU between (published code).

    Args:
        dim: d.
        kernel: of the convolution; odd.
        reduction: the hidden width is d / reduction.
    """

    def __init__(self, dim: int, kernel: int = SPATIAL_KERNEL, reduction: int = SPATIAL_REDUCTION):
        super().__init__()
        hidden = dim // reduction
        if not hidden:
            raise ValueError(f"spatial attention needs embed_dim >= {reduction}, got embed_dim={dim}")
        layers = [depthwise(dim, 1, kernel), nn.Conv2d(dim, hidden, 1), nn.GELU(), nn.Conv2d(hidden, dim, 1)]
        self.spatial_att = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """(b, d, h, w) -> (b, d, h, w)."""
        return x * self.spatial_att(x).sigmoid()


def kernel_for(grid: Grid, time_kernel: int, kernel: int) -> tuple[int, int]:
    """The sides of the kernel along t, and along h and w: 1 along axes without neighbours.

    Raises:
        ValueError: even sides, whose output would be shifted by half a token.
    """
    if min(time_kernel, kernel) < 1 or time_kernel % 2 == 0 or kernel % 2 == 0:
        raise ValueError(f"kernels must be odd and positive, got kernel={kernel}, time_kernel={time_kernel}")
    is_line = grid[0] > 1 and grid[1] == grid[2] == 1
    return time_kernel if grid[0] > 1 else 1, 1 if is_line else kernel


def depthwise(dim: int, time_side: int, side: int) -> nn.Conv2d | nn.Conv3d:
    """A convolution of each channel that keeps the grid; 2-D, with the published shape, where it sees one frame."""
    if time_side == 1:
        return nn.Conv2d(dim, dim, side, padding=side // 2, groups=dim)
    padding = (time_side // 2, side // 2, side // 2)
    return nn.Conv3d(dim, dim, (time_side, side, side), padding=padding, groups=dim)


MIXER = Mixer(
    build=FCViT,
    paper="arXiv 2212.12552",
    multiply_adds=FCViT.multiply_adds,
    needs=frozenset({"grid"}),
)
