"""DINO's projection head (arXiv 2104.14294, section 3.1): from features to scores of prototypes.

D width of the features, K prototypes.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import Parameter, init


class PrototypeHead(nn.Module):
    """(..., D) -> (..., K): an MLP of three layers, then the cosine with each of K prototypes.

    The last layer of the published code is a linear layer whose rows are normalised (its ``weight_g`` stays 1); so is
    ``prototypes`` here.

    Args:
        dim, num_prototypes: D, K.
        hidden_dim, bottleneck_dim: widths of the MLP's hidden layers and of its output.
    """

    def __init__(self, dim: int, num_prototypes: int, hidden_dim: int = 2048, bottleneck_dim: int = 256):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, bottleneck_dim),
        )
        for layer in (each for each in self.mlp if isinstance(each, nn.Linear)):
            init.trunc_normal_(layer.weight, std=0.02)
            init.zeros_(layer.bias)
        last = nn.Linear(bottleneck_dim, num_prototypes, bias=False)
        self.prototypes = Parameter(last.weight.detach())

    def forward(self, x: Tensor, *, learns: bool = True) -> Tensor:
        """Args: learns: whether the prototypes get gradients; otherwise they are zero, so that processes agree."""
        prototypes = F.normalize(self.prototypes.float(), dim=1)
        if not learns:
            prototypes = prototypes.detach() + 0.0 * self.prototypes[:1, :1]
        x = F.normalize(self.mlp(x).float(), dim=-1)
        return F.linear(x, prototypes.to(x.dtype))
