"""Local patch interaction: two depthwise convolutions over neighbouring patches (XCiT, arXiv 2106.09681, section 3).

Axes: B batch, t h w grid of patches, P prefix tokens, N = t·h·w, D width.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from videofib.mixers import Grid, check_name
from videofib.models.blocks import BlockSpec

NORMS = ("batch", "layer", "none")
KERNELS = {"space": (1, 3, 3), "time": (3, 1, 1), "space_time": (3, 3, 3)}  # over (t, h, w)


class LocalPatchInteraction(nn.Module):
    """convolution -> GELU -> norm -> convolution, each channel by itself: (B, P+N, D) -> (B, P+N, D), to be added.

    Parameters are named as published (conv1, bn, conv2).

    Args:
        dim: D.
        order: how the patches are laid out, "h w t" or "t h w".
        num_prefix_tokens: P; these tokens have no neighbours, so the result is zero for them.
        kernel: of the convolutions over (t, h, w), odd numbers. As published (1, 3, 3), frame by frame, by 2-D
            convolutions; (3, 1, 1) is over time and (3, 3, 3) over both, by 3-D ones.
        norm: between the convolutions: ``batch``, as published, over all patches of the batch (processes have
            statistics of their own unless the model is converted to ``SyncBatchNorm``; with gradient checkpointing the
            running ones are updated twice); ``layer``, over each patch's channels; or ``none``.

    Raises:
        ValueError: an even kernel, an unknown norm.
    """

    def __init__(
        self,
        dim: int,
        *,
        order: str,
        num_prefix_tokens: int = 0,
        kernel: tuple[int, int, int] = (1, 3, 3),
        norm: str = "batch",
    ):
        super().__init__()
        check_name("norm", norm, NORMS)
        if any(size < 1 or size % 2 == 0 for size in kernel):
            raise ValueError(
                f"a kernel must have odd sizes over (t, h, w), so that it has a centre; got kernel={kernel}"
            )
        self.order, self.num_prefix_tokens, self.frame_by_frame = order, num_prefix_tokens, kernel[0] == 1
        self.conv1, self.conv2 = _depthwise(dim, kernel), _depthwise(dim, kernel)
        self.act = nn.GELU()
        self.bn: nn.Module = nn.Identity()
        if norm == "batch":
            self.bn = nn.BatchNorm2d(dim) if self.frame_by_frame else nn.BatchNorm3d(dim)
        elif norm == "layer":
            self.bn = ChannelNorm(dim)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, P+N, D) -> (B, P+N, D) for patches of ``grid`` = (t, h, w)."""
        axes = dict(zip("thw", grid, strict=True))  # not b, which may be 0
        patches = x[:, self.num_prefix_tokens :]
        layout = "(b t) d h w" if self.frame_by_frame else "b d t h w"
        patches = rearrange(patches, f"b ({self.order}) d -> {layout}", **axes)
        patches = self.conv2(self.bn(self.act(self.conv1(patches))))
        patches = rearrange(patches, f"{layout} -> b ({self.order}) d", **axes)
        return torch.cat((patches.new_zeros(x[:, : self.num_prefix_tokens].shape), patches), dim=1)


class LocalBranch(nn.Module):
    """The residual branch of a block: x + scale(interaction(norm(x))) (XCiT, arXiv 2106.09681, figure 2).

    Args:
        spec: of the block.
        order, num_prefix_tokens: the layout of the tokens.
        axes: over which patches are neighbours, one of ``KERNELS``.
        norm: as for :class:`LocalPatchInteraction`.
    """

    def __init__(self, spec: BlockSpec, *, order: str, num_prefix_tokens: int, axes: str, norm: str):
        super().__init__()
        self.norm, self.scale = spec.norm(), spec.scale()
        self.interaction = LocalPatchInteraction(
            spec.dim, order=order, num_prefix_tokens=num_prefix_tokens, kernel=KERNELS[axes], norm=norm
        )

    def forward(self, x: Tensor, grid: Grid, drop_path: nn.Module) -> Tensor:
        """(B, P+N, D) -> (B, P+N, D)."""
        return x + drop_path(self.scale(self.interaction(self.norm(x), grid)))


class ChannelNorm(nn.LayerNorm):
    """A layer norm over the channels of (B, D, ...)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


def inflate_kernel(weight: Tensor, length: int) -> Tensor:
    """The kernel over time and space that sees what a 2-D one sees: (D, 1, h, w) -> (D, 1, length, h, w).

    It has the 2-D kernel at its centre and zeros before and after, as for inflated networks (arXiv 2103.15691, section
    3.4, "central frame").

    Raises:
        ValueError: an even length.
    """
    if length < 1 or length % 2 == 0:
        raise ValueError(f"a kernel must have an odd length, so that it has a centre; got length={length}")
    inflated = weight.new_zeros(*weight.shape[:2], length, *weight.shape[2:])
    inflated[:, :, length // 2] = weight
    return inflated


def _depthwise(dim: int, kernel: tuple[int, int, int]) -> nn.Conv2d | nn.Conv3d:
    (length, height, width), (before, above, left) = kernel, (size // 2 for size in kernel)
    if length == 1:
        return nn.Conv2d(dim, dim, (height, width), padding=(above, left), groups=dim)
    return nn.Conv3d(dim, dim, kernel, padding=(before, above, left), groups=dim)
