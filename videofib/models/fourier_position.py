"""Positions of any grid as a learned map of sines and cosines (XCiT, arXiv 2106.09681).

Axes: h w grid of patches, D width, F features of an axis.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

NUM_FEATURES = 32  # of each axis
TEMPERATURE = 1e4  # the longest wavelength, in units of the shortest
EPSILON = 1e-6  # of the division by the height or the width


class FourierPosition(nn.Module):
    """Embeddings of the positions of a frame's patches: (h, w) -> (1, D, h, w), for any (h, w).

    Rows and columns, from 1, are scaled such that the last one is 2π. F/2 frequencies give each a sine and a cosine,
    side by side; a 1x1 convolution of the 2F features, the row's first, is the embedding. Parameters are named as
    published.

    Args:
        dim: D.
        num_features: F, even.

    Raises:
        ValueError: an odd number of features.
    """

    def __init__(self, dim: int, num_features: int = NUM_FEATURES):
        super().__init__()
        if num_features < 2 or num_features % 2:
            raise ValueError(f"num_features must be even, for pairs of sine and cosine; got {num_features}")
        self.num_features = num_features
        self.token_projection = nn.Conv2d(2 * num_features, dim, kernel_size=1)

    def forward(self, height: int, width: int) -> Tensor:
        weight = self.token_projection.weight
        rows, columns = (self._features(size, weight.device) for size in (height, width))
        rows = rows.T[:, :, None].expand(-1, -1, width)
        columns = columns.T[:, None].expand(-1, height, -1)
        return self.token_projection(torch.cat((rows, columns))[None].to(weight.dtype))

    def _features(self, size: int, device: torch.device) -> Tensor:
        """Sines and cosines of each position of an axis, in 32 bits: (size, F)."""
        position = torch.arange(1, size + 1, device=device, dtype=torch.float32) / (size + EPSILON) * 2 * math.pi
        exponents = torch.arange(0, self.num_features, 2, device=device, dtype=torch.float32) / self.num_features
        angles = position[:, None] / TEMPERATURE**exponents
        return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)
