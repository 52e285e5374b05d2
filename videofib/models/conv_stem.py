"""A patch embedding of small strided convolutions (XCiT, arXiv 2106.09681).

Axes: B batch, C channels, T frames, H W image, h w grid of patches, D width.
"""

from __future__ import annotations

from itertools import pairwise

from einops import rearrange
from torch import Tensor, nn

from videofib.models.embed import check_divisible


class ConvStem(nn.Module):
    """log2(patch_size) convolutions of 3x3 with stride 2, frame by frame: (B, C, T, H, W) -> (B, T, h, w, D).

    Each is followed by a batch norm, and all but the last then by a GELU; each doubles the width, up to D. Parameters
    are named as published.

    Args:
        patch_size: a power of two; published are 16 and 8.
        in_chans, embed_dim: C, D.

    Raises:
        ValueError: another patch size, or a width that cannot be halved often enough.
    """

    def __init__(self, patch_size: int, in_chans: int, embed_dim: int):
        super().__init__()
        depth = patch_size.bit_length() - 1
        if patch_size < 2 or patch_size != 2**depth:
            raise ValueError(f"patch_size must be a power of two, for convolutions with stride 2; got {patch_size}")
        if embed_dim % (patch_size // 2):
            raise ValueError(
                f"the width of the first of {depth} convolutions is embed_dim / {patch_size // 2}, got "
                f"embed_dim={embed_dim}, which does not divide"
            )
        self.patch_size = patch_size
        widths = [in_chans, *(embed_dim >> halvings for halvings in reversed(range(depth)))]
        layers: list[nn.Module] = []
        for narrow, wide in pairwise(widths):
            conv = nn.Conv2d(narrow, wide, kernel_size=3, stride=2, padding=1, bias=False)
            layers += [nn.Sequential(conv, nn.BatchNorm2d(wide)), nn.GELU()]
        self.proj = nn.Sequential(*layers[:-1])

    def forward(self, video: Tensor) -> Tensor:
        check_divisible((video.shape[3], video.shape[4]), self.patch_size)
        patches = self.proj(rearrange(video, "b c t h w -> (b t) c h w"))
        return rearrange(patches, "(b t) d h w -> b t h w d", t=video.shape[2])  # not b, which may be 0
