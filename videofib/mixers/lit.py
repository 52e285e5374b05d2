"""Dense attention with a learned bias for each offset between patches, as in LIT's later stages (arXiv 2105.14217).

Axes: b batch, p prefix tokens, t h w grid of the N patches, H heads, D width.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from videofib.mixers.biased_attention import BiasedAttention
from videofib.mixers.mixer import Grid, LayerSpec, Mixer

TABLE_STD = 0.02  # of the initial biases


class RelativePositionAttention(BiasedAttention):
    """Self-attention whose logits are q·k/√d plus a bias b[head, offset of the query from the key].

    ``relative_position_bias_table`` has a row for each of (2t-1)(2h-1)(2w-1) offsets, and a column for each head; with
    one frame it is the published table, so published weights load (``relative_position_index``, which is computed
    here, left out). Pairs with a prefix token have no bias. It has no options.

    Raises:
        ValueError: a width that the heads do not divide.
    """

    def __init__(self, layer: LayerSpec):
        super().__init__(layer)
        self.grid, self.order = layer.grid, layer.order
        offsets = math.prod(2 * size - 1 for size in layer.grid)
        self.relative_position_bias_table = nn.Parameter(torch.empty(offsets, layer.num_heads))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw small biases from a truncated normal distribution."""
        nn.init.trunc_normal_(self.relative_position_bias_table, std=TABLE_STD)

    def no_weight_decay(self) -> set[str]:
        """The table, whose rows are biases."""
        return {"relative_position_bias_table"}

    def bias(self) -> Tensor:
        """(1, H, p+N, p+N), to be added to the logits; zero for pairs with a prefix token."""
        table = self.relative_position_bias_table
        bias = rearrange(F.embedding(offset_rows(self.grid, self.order, table.device), table), "q k H -> 1 H q k")
        return F.pad(bias, (self.num_prefix_tokens, 0, self.num_prefix_tokens, 0))

    def forward(self, x: Tensor, grid: Grid, state: Any = None) -> tuple[Tensor, Any]:
        """(b, p+N, D) -> (b, p+N, D); the state is not used.

        Raises:
            ValueError: another grid than that of the table.
        """
        if tuple(grid) != tuple(self.grid):
            raise ValueError(f"the table of biases is for (t, h, w) = {self.grid} tokens, got {grid}")
        return self.attend(x, self.bias()), state


def offset_rows(grid: Grid, order: str, device: torch.device) -> Tensor:
    """(N, N): the row of the table for each query (row) and key (column).

    Offsets (dt, dy, dx) of a query from a key lie in the table as in an array of that shape::

        row = ((dt + t-1) · (2h-1) + dy + h-1) · (2w-1) + dx + w-1

    This is linear in the positions, so it is a difference of two numbers, plus that of the last patch.
    """
    t, h, w = (torch.arange(size, device=device) for size in grid)
    number = (t[:, None, None] * (2 * len(h) - 1) + h[:, None]) * (2 * len(w) - 1) + w
    number = rearrange(number, f"t h w -> ({order})")
    return number[:, None] - number + number[-1]


MIXER = Mixer(
    build=RelativePositionAttention,
    paper="arXiv 2105.14217",
    multiply_adds=RelativePositionAttention.multiply_adds,
    needs=frozenset({"grid", "fixed_tokens"}),
    serves=frozenset({"class_token"}),
)
