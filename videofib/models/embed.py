"""From frames to tokens: patch embedding, and resizing of learned position and time embeddings.

Axes: B batch, C channels, T frames, H W image, h w patch grid, D width.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class PatchEmbed(nn.Module):
    """Cut every frame into patches and project each to D: (B, C, T, H, W) -> (B, T, h, w, D)."""

    def __init__(self, img_size: tuple[int, int], patch_size: int, in_chans: int, embed_dim: int):
        super().__init__()
        check_divisible(img_size, patch_size)
        self.patch_size, self.in_chans = patch_size, in_chans
        self.grid_size = (img_size[0] // patch_size, img_size[1] // patch_size)
        self.proj = nn.Conv2d(in_chans, embed_dim, kernel_size=patch_size, stride=patch_size)

    def forward(self, video: Tensor) -> Tensor:
        if video.ndim != 5 or video.shape[1] != self.in_chans:
            raise ValueError(f"input must be (B, {self.in_chans}, T, H, W), got shape {tuple(video.shape)}")
        check_divisible(tuple(video.shape[-2:]), self.patch_size)
        batch = video.shape[0]
        patches = self.proj(rearrange(video, "b c t h w -> (b t) c h w"))
        return rearrange(patches, "(b t) d h w -> b t h w d", b=batch)


def check_divisible(img_size: tuple[int, int], patch_size: int) -> None:
    """Raise ValueError where patches do not tile the frame."""
    height, width = img_size
    if height % patch_size or width % patch_size or not height or not width:
        raise ValueError(f"frames of {height}x{width} pixels do not divide into patches of {patch_size}x{patch_size}")


def resize_grid(embed: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Resize a 2-D grid of position embeddings: (1, h·w, D) -> (1, h'·w', D), nearest as TimeSformer does."""
    if old == new:
        return embed
    grid = rearrange(embed, "1 (h w) d -> 1 d h w", h=old[0], w=old[1])
    return rearrange(F.interpolate(grid, size=new, mode="nearest"), "1 d h w -> 1 (h w) d")


def resize_time(embed: Tensor, num_frames: int) -> Tensor:
    """Resize time embeddings: (1, T, D) -> (1, T', D), nearest as TimeSformer does."""
    if embed.shape[1] == num_frames:
        return embed
    line = rearrange(embed, "1 t d -> 1 d t")
    return rearrange(F.interpolate(line, size=num_frames, mode="nearest"), "1 d t -> 1 t d")


def join_class_token(cls_token: Tensor, tokens: Tensor) -> Tensor:
    """(1 or B, 1, D) and (B, N, D) -> (B, 1+N, D)."""
    return torch.cat((cls_token.expand(tokens.shape[0], -1, -1), tokens), dim=1)
