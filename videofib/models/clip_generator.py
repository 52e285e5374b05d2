"""A generator of clips: from a latent vector and a class to pixels.

The decoder of DAFL (arXiv 1904.01186) and DFAD (arXiv 1912.11006) in three dimensions: a linear map to a coarse grid,
then convolutions, each after the grid has become finer, the last at full size. Batch norms use the statistics of the
batch alone, so that there are no buffers.

Axes: B batch, L latent, C channels, T frames, H W height, width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEAK = 0.2


class ClipGenerator(nn.Module):
    """(B, L) and classes (B,) -> clips (B, C, T, H, W), normalised as a model takes them.

    The values of pixels are those of pictures, from 0 to 1 before they are normalised, so no clip explodes.

    Args:
        num_classes: K; a latent is multiplied by the embedding of its class.
        shape: (C, T, H, W).
        mean, std: of each channel, by which clips are normalised.
        latent_dim: L.
        width: channels at half the size; twice as many at the coarser grids.
    """

    def __init__(
        self,
        num_classes: int,
        shape: Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        latent_dim: int = 128,
        width: int = 16,
    ):
        super().__init__()
        channels, frames, height, across = shape
        self.sizes = [
            (-(-frames // 2), -(-height // 8), -(-across // 8)),
            (-(-frames // 2), -(-height // 4), -(-across // 4)),
            (frames, -(-height // 2), -(-across // 2)),
            (frames, height, across),
        ]
        first = torch.Size(self.sizes[0])
        self.embed = nn.Embedding(num_classes, latent_dim)
        self.project = nn.Linear(latent_dim, 2 * width * first.numel())
        self.unflatten = nn.Unflatten(1, (2 * width, *first))
        self.norm = nn.BatchNorm3d(2 * width, track_running_stats=False)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv3d(before, after, 3, padding=1),
                nn.BatchNorm3d(after, track_running_stats=False),
                nn.LeakyReLU(_LEAK),
            )
            for before, after in pairwise((2 * width, 2 * width, width))
        )
        self.to_pixels = nn.Conv3d(width, channels, 3, padding=1)
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1, 1), persistent=False)

    def forward(self, latents: Tensor, labels: Tensor) -> Tensor:
        x = self.norm(self.unflatten(self.project(latents * self.embed(labels))))
        for size, block in zip(self.sizes[1:-1], self.blocks, strict=True):
            x = block(F.interpolate(x, size))
        return (self.to_pixels(F.interpolate(x, self.sizes[-1])).sigmoid() - self.mean) / self.std
