"""Which tokens are next to which, on the grid of a clip.

t h w grid, N = t·h·w tokens frame after frame ("t h w"), K neighbours of a token::

    space        o o o       the 8 others of a 3 x 3 square of the same frame
                 o x o
                 o o o       space_time: the 26 others of a 3 x 3 x 3 cube
"""

from __future__ import annotations

from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

from videofib.mixers import Grid

NEIGHBOURS = {"space": 8, "space_time": 26}
NONE = -1  # in a table, where there is no neighbour: beyond the edge of the grid


@lru_cache(maxsize=64)
def neighbour_table(grid: Grid, kind: str, wrap: bool = False) -> Tensor:
    """The neighbours of each token: int64 (N, K), ``NONE`` beyond the edges.

    Args:
        kind: of ``NEIGHBOURS``.
        wrap: a token at an edge has those at the opposite edge for neighbours, as in SelfPatch's released code, where a
            corner of the picture borders on the three others.

    Raises:
        ValueError: an unknown kind.
    """
    if kind not in NEIGHBOURS:
        raise ValueError(f"unknown neighbours {kind!r}; known: {', '.join(NEIGHBOURS)}")
    sizes = torch.tensor(grid, device="cpu")
    positions = torch.tensor(list(product(*map(range, grid))), device="cpu").view(-1, 3)
    steps = [step for step in product((-1, 0, 1), repeat=3) if any(step) and (kind == "space_time" or step[0] == 0)]
    near = positions[:, None] + torch.tensor(steps, device="cpu")  # (N, K, 3)
    inside = ((near >= 0) & (near < sizes)).all(dim=2)
    t, h, w = (near % sizes).unbind(dim=2)
    numbers = (t * grid[1] + h) * grid[2] + w
    return numbers if wrap else numbers.masked_fill(~inside, NONE)


def nearest(x: Tensor, table: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The most similar neighbours of each token, by the cosine of the angle between them.

    Args:
        x: tokens (B, N, D).
        table: of their neighbours, (N, K).
        count: how many.

    Returns:
        (B, N, count): their numbers, and whether there is one: a token at an edge may have fewer. The number is 0 where
        there is none.
    """
    unit = torch.nn.functional.normalize(x.float(), dim=2)
    similarity = torch.stack([(unit * unit[:, column.clamp(min=0)]).sum(2) for column in table.unbind(1)], dim=2)
    best = similarity.masked_fill(table == NONE, -torch.inf).topk(count, dim=2).indices
    numbers = table.expand(len(x), -1, -1).gather(2, best)
    return numbers.clamp(min=0), numbers != NONE
