"""The blocks of a transformer as one module: tokens and a memory go from each block to the next."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import islice
from typing import Any, NamedTuple

from torch import Tensor, nn

from videofib.mixers import Grid
from videofib.models.blocks import GRID, AllTokensStay, Memory, TokenwiseBlock
from videofib.models.recompute import recomputed


class Outputs(NamedTuple):
    """What a stack of blocks returns.

    Attributes:
        x: the tokens after the last block, (B, P+N, D).
        memory: what it hands on.
        kept: by the index of a block, the tokens after it, and after its reduction, where there is one.
        grids: (t, h, w) of these.
    """

    x: Tensor
    memory: Memory
    kept: dict[int, Tensor]
    grids: dict[int, Grid]


class Stack(nn.ModuleList):
    """Blocks, of which each takes the tokens and the memory that the one before returned.

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

    def first_placeless(self) -> int | None:
        """The index of the first block within which tokens lose their places (``reduction.py``); None: none."""
        lost = (i for i, block in enumerate(self) if not getattr(block, "reduction", AllTokensStay()).keeps_places)
        return next(lost, None)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(B, P+N, D) -> (B, P+N, D) with N = t·h·w for ``grid`` = (t, h, w)."""
        return self.outputs(x, grid).x

    def outputs(
        self,
        x: Tensor,
        grid: Grid,
        indices: Collection[int] = (),
        *,
        stop: int | None = None,
        memory: Memory | None = None,
        reductions: nn.ModuleDict | None = None,
    ) -> Outputs:
        """What the blocks return.

        Args:
            x: (B, P+N, D) with N = t·h·w for ``grid`` = (t, h, w).
            indices: of blocks whose tokens are kept.
            stop: how many blocks are computed; None: all.
            memory: what the first block is handed; None: nothing.
            reductions: by the index of a block, what reduces the tokens after it (``models/reduction.py``). They are
                not modules of the stack, so that the blocks keep their names.
        """
        memory, kept, grids = memory or {}, {}, {}
        reductions = nn.ModuleDict() if reductions is None else reductions
        for index, block in enumerate(islice(self, stop)):
            if self.recompute and self.training and index % self.recompute_every == 0:
                x, memory = recomputed(block, x, grid, memory, recompute=self.recompute)
            else:
                x, memory = block(x, grid, memory)
            grid = memory.get(GRID, grid)
            if str(index) in reductions:
                x, memory = reductions[str(index)](x, grid, memory)
                grid = memory.get(GRID, grid)
            if index in indices:
                kept[index], grids[index] = x, grid
        return Outputs(x, memory, kept, grids)
