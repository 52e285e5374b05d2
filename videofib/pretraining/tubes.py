"""Tube masks (VideoMAE, arXiv 2203.12602, section 3.3): the same patches are masked in all frames of a clip.

::

    frame 0      frame 1      frame 2        # masked, · visible: the k visible places of a frame make k tubes
    # # · #      # # · #      # # · #
    # # # ·      # # # ·      # # # ·

Axes: B clips, t h w grid, N = t·h·w tokens, k visible places of a frame, n = t·k visible tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from videofib.mixers import Grid


def num_visible(places: int, ratio: float) -> int:
    """How many of the h·w places of a frame stay visible.

    Raises:
        ValueError: none, or all of them.
    """
    visible = places - round(ratio * places)
    if not 0 < visible < places:
        raise ValueError(
            f"mask_ratio={ratio} masks {places - visible} of the {places} patches of a frame; some must be masked and "
            "some visible: set another ratio, larger frames or smaller patches"
        )
    return visible


def draw_visible(batch: int, places: int, ratio: float) -> Tensor:
    """Draw the visible places of each clip: int64 (B, k), rising, on the CPU.

    They come from torch's generator of the CPU, whose state a checkpoint holds, so that a run that is resumed within an
    epoch draws the same masks.
    """
    order = torch.rand(batch, places, device="cpu").argsort(dim=1)
    return order[:, : num_visible(places, ratio)].sort(dim=1).values


def tokens_of(places: Tensor, grid: Grid, order: str) -> Tensor:
    """The tokens of all frames at some places: (B, k) -> (B, t·k), rising, where tokens lie in ``order``.

    They are laid out as the tokens of a clip with the grid (t, 1, k) in the same order.
    """
    length, height, width = grid
    frames = torch.arange(length, device=places.device)
    if order == "h w t":
        return (places[:, :, None] * length + frames).flatten(1)
    return (frames[:, None] * height * width + places[:, None, :]).flatten(1)


def others(places: Tensor, count: int) -> Tensor:
    """The places that are not among these: (B, k) -> (B, count - k), rising."""
    left = torch.ones(len(places), count, dtype=torch.bool, device=places.device).scatter(1, places, False)
    return left.int().argsort(dim=1, descending=True, stable=True)[:, : count - places.shape[1]]


def take(x: Tensor, tokens: Tensor) -> Tensor:
    """Some tokens of each clip: (B, N, D) and (B, n) -> (B, n, D)."""
    return x.gather(1, tokens[:, :, None].expand(-1, -1, x.shape[2]))
