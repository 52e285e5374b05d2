"""What a masked autoencoder predicts: the pixels of each token, normalised.

Axes: B clips, C channels, T H W frames, height, width; t h w grid; p pixels of a tubelet in one channel.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

_EPS = 1e-6


def pixel_targets(video: Tensor, patch_size: int, tubelet_size: int, order: str, *, normalise: bool = True) -> Tensor:
    """The pixels of each token: (B, C, T, H, W) -> (B, N, p·C), float32, tokens in ``order``, p = frames·rows·columns.

    Normalised as in VideoMAE's code: each channel of each tubelet has mean 0 and (unbiased) standard deviation 1, so
    that how a clip as such was normalised does not matter.

    Args:
        normalise: otherwise the values are those of the clip.
    """
    layout = f"b ({order}) (f y x) c"
    sizes = {"f": tubelet_size, "y": patch_size, "x": patch_size}
    pixels = rearrange(video.float(), f"b c (t f) (h y) (w x) -> {layout}", **sizes)
    if normalise:
        spread = pixels.var(dim=2, keepdim=True, unbiased=True).sqrt()
        pixels = (pixels - pixels.mean(dim=2, keepdim=True)) / (spread + _EPS)
    return torch.flatten(pixels, 2)
