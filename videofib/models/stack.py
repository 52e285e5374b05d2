"""The blocks of a transformer as one module: tokens and the mixers' state go from each block to the next."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from videofib.models.recompute import recomputed


class Stack(nn.ModuleList):
    """Blocks, each called as ``block(x, grid, state) -> (x, state)``.

    Args:
        blocks: in order.
        recompute: what the backward pass computes again, see :mod:`videofib.models.recompute`; None: nothing.
        recompute_every: n, to recompute every n-th block only.
    """

    def __init__(self, blocks: Iterable[nn.Module] = (), recompute: str | None = None, recompute_every: int = 1):
        super().__init__(blocks)
        self.recompute, self.recompute_every = recompute, recompute_every

    def forward(self, x: Tensor, grid: tuple[int, int, int]) -> Tensor:
        """(B, P+N, D) -> (B, P+N, D) with N = t·h·w for ``grid`` = (t, h, w)."""
        state = None
        for index, block in enumerate(self):
            if self.recompute and self.training and index % self.recompute_every == 0:
                x, state = recomputed(block, x, grid, state, recompute=self.recompute)
            else:
                x, state = block(x, grid, state)
        return x
