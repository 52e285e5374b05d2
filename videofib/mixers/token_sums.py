"""The base of mixers whose tokens learn of one another through sums over all tokens, and through nothing else.

Axes: B batch, P prefix tokens, N patch tokens, n local tokens, D width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from videofib.attention import ContextGroup
from videofib.mixers.mixer import Grid, LayerSpec


class TokenSums(nn.Module):
    """A mixer that computes sums over tokens, which processes that each hold a slice of them add up.

    Subclasses define ``mix``, and call ``summed`` once for each set of sums.

    Args:
        layer: the layer it is built for.
        mix_prefix: whether prefix tokens take part like patches; if not, they are left out of all sums, and the mixer
            returns zero for them.

    Raises:
        ValueError: ``dim`` not divisible by ``num_heads``, or norms over queries and keys, of which there are none.
    """

    def __init__(self, layer: LayerSpec, mix_prefix: bool):
        super().__init__()
        if layer.num_heads < 1 or layer.dim % layer.num_heads:
            raise ValueError(
                f"the width must be divisible by the number of heads, got embed_dim={layer.dim}, "
                f"num_heads={layer.num_heads}"
            )
        if layer.qk_norm is not None:
            raise ValueError(
                f"{type(self).__name__} normalises channels over tokens itself and has no norms of each head's queries "
                "and keys; set qk_norm=False"
            )
        self.num_heads, self.num_prefix_tokens, self.mix_prefix = layer.num_heads, layer.num_prefix_tokens, mix_prefix
        self.context: ContextGroup | None = None

    def mix(self, x: Tensor, total: int) -> Tensor:
        """(B, n, D) -> (B, n, D) for the n local ones of ``total`` tokens."""
        raise NotImplementedError

    def share_tokens(self, context: ContextGroup) -> None:
        """From now on ``forward`` takes and returns this process's slice of the P+N tokens."""
        self.context = context

    def summed(self, sums: Tensor) -> Tensor:
        """Sums over the local tokens -> sums over all tokens, in every process."""
        return sums if self.context is None else self.context.sum(sums)

    def forward(self, x: Tensor, grid: Grid, state: Any = None) -> tuple[Tensor, Any]:
        """(B, P+N, D) -> (B, P+N, D), or (B, n, D) -> (B, n, D) for the n local tokens; the state is not used."""
        num_patches = math.prod(grid)
        if self.mix_prefix:
            return self.mix(x, self.num_prefix_tokens + num_patches), state
        num_prefix = self._local_prefix(num_patches)
        y = self.mix(x[:, num_prefix:], num_patches)
        return torch.cat((y.new_zeros(x[:, :num_prefix].shape), y), dim=1), state

    def num_mixed(self, grid: Grid) -> int:
        """The number of tokens of a sequence that take part."""
        return math.prod(grid) + (self.num_prefix_tokens if self.mix_prefix else 0)

    def _local_prefix(self, num_patches: int) -> int:
        """The number of prefix tokens in front of the local patches; it may be more than there are local tokens."""
        if self.context is None:
            return self.num_prefix_tokens
        start = self.context.slice(self.num_prefix_tokens + num_patches).positions.start
        return max(self.num_prefix_tokens - start, 0)


def at_least_single(x: Tensor) -> Tensor:
    """``x`` in 32 bits if it has 16: sums over many tokens need them."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
