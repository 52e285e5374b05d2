"""The blocks of a transformer as one module: tokens and the mixers' state go from each block to the next."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import islice
from typing import Any

from torch import Tensor, nn

from videofib.mixers import Grid
from videofib.models.blocks import TokenwiseBlock
from videofib.models.recompute import recomputed


class Stack(nn.ModuleList):
    """Blocks, of which each takes the tokens and the state that the one before returned.

    Args:
        blocks: in order.
        recompute: what the backward pass computes again, see :mod:`videofib.models.recompute`; None: nothing.
        recompute_every: n, to recompute every n-th block only.
    """

    def __init__(self, blocks: Iterable[TokenwiseBlock] = (), recompute: str | None = None, recompute_every: int = 1):
        super().__init__(blocks)
        self.recompute, self.recompute_every = recompute, recompute_every

    def mixers(self) -> dict[str, Any]:
        """The mixers of all blocks, under their names as submodules, such as ``0.attn``."""
        blocks = [block for block in self if isinstance(block, TokenwiseBlock)]
        return {f"{i}.{name}": mixer for i, block in enumerate(blocks) for name, mixer in block.mixers().items()}

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, P+N, D) -> (B, P+N, D) with N = t·h·w for ``grid`` = (t, h, w)."""
        return self.outputs(x, grid, ())[0]

    def outputs(
        self, x: Tensor, grid: Grid, indices: Collection[int], *, stop: int | None = None
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """What ``forward`` returns, and by their indices what these blocks return.

        Args:
            stop: how many blocks are computed; None: all.
        """
        state, kept = None, {}
        for index, block in enumerate(islice(self, stop)):
            if self.recompute and self.training and index % self.recompute_every == 0:
                x, state = recomputed(block, x, grid, state, recompute=self.recompute)
            else:
                x, state = block(x, grid, state)
            if index in indices:
                kept[index] = x
        return x, kept
