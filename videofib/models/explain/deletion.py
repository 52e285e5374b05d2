"""The deletion curve (Petsiuk et al., RISE, arXiv 1806.07421, section 4.1): how the probability of a class falls as
the parts of a clip are removed, those with the most heat first. The lower the area under it, the more the prediction
depends on what the heat shows. As a control, parts are removed in random orders.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from videofib.mixers import Grid

_AT_ONCE = 32  # clips of a forward pass


@torch.no_grad()
def deletion_curve(
    probability: Callable[[Tensor], Tensor], clip: Tensor, order: Tensor, grid: Grid, fractions: Sequence[float]
) -> Tensor:
    """Probabilities (S,) after S fractions of the space-time patches have got the clip's mean colour.

    Args:
        probability: clips (B, C, T, H, W) -> (B,).
        clip: (C, T, H, W); its size a multiple of the grid's.
        order: (N,) a permutation of the patches, frame after frame (t·h·w), the first to be removed first.
        grid: (t, h, w).
        fractions: of N, each in [0, 1].

    Raises:
        ValueError: a grid that does not divide the clip.
    """
    shape = clip.shape[1:]
    if any(size % cells for size, cells in zip(shape, grid, strict=True)):
        raise ValueError(f"a grid {grid} does not divide clips of {tuple(shape)}, frames x height x width")
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    cells = rank.view(grid)
    for axis in range(3):
        cells = cells.repeat_interleave(shape[axis] // grid[axis], dim=axis)
    mean = clip.mean(dim=(1, 2, 3), keepdim=True)
    counts = [round(fraction * len(order)) for fraction in fractions]
    found = []
    for first in range(0, len(counts), _AT_ONCE):
        some = [torch.where(cells < count, mean, clip) for count in counts[first : first + _AT_ONCE]]
        found.append(probability(torch.stack(some)))
    return torch.cat(found)


def area(fractions: Sequence[float], values: Tensor) -> float:
    """The area under a curve, by trapezoids."""
    return torch.trapezoid(values.double().cpu(), torch.tensor(fractions, dtype=torch.float64)).item()
