"""Which mixers of a model have attention heads, and what identifies a head.

A head is an interval of D of the C = H·D inputs of a mixer's output projection ``proj``; behind it heads are mixed.
Where supports differ, a head is identified by its offsets, since ``head_order`` puts them at another index in each
block.

Axes: t h w grid of tokens, N = t·h·w, H heads, D width of a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from videofib.attention import SelfAttention
from videofib.mixers import Grid
from videofib.mixers.pattern_attention import PatternAttention
from videofib.models.timesformer import TimeSformer

_MOST_OFFSETS = 4  # that a label shows
_MOST_PAIRS = 1 << 28  # numbers of an explicit mask, H·N²


@dataclass(frozen=True)
class HeadLayer:
    """A mixer with heads.

    Attributes:
        name: of the module in the stack, such as ``0.attn``.
        block: from 0.
        axis: ``space-time``, ``time`` or ``space``.
        mixer: the module.
        grid: (t, h, w) of one sequence of its tokens.
        order: the index of each head in the module; heads are listed by their offsets, so that a row of one block is
            that of another whatever ``head_order`` is.
        labels: of each head in that order, such as ``1: 1 2 3 5``, its index (from 1) and offsets; index alone where
            all heads see all tokens, or there are no offsets.
        offsets: of each head in that order; empty where there are none.
    """

    name: str
    block: int
    axis: str
    mixer: nn.Module
    grid: Grid
    order: tuple[int, ...]
    labels: tuple[str, ...]
    offsets: tuple[tuple[int, ...], ...]

    @property
    def proj(self) -> nn.Linear:
        """The output projection, whose inputs are the heads side by side."""
        return cast(nn.Linear, self.mixer.proj)

    @property
    def num_heads(self) -> int:
        return len(self.order)

    @property
    def width(self) -> int:
        """C."""
        return self.proj.in_features

    def columns(self, row: int) -> slice:
        """Of ``proj``'s inputs, those of a head."""
        dim = self.width // self.num_heads
        return slice(self.order[row] * dim, (self.order[row] + 1) * dim)


def head_layers(model: nn.Module, grid: Grid | None = None) -> list[HeadLayer]:
    """The mixers with heads, block by block; of divided attention that over time first, as it is computed.

    Mixers without heads, or whose output has none side by side (``afno``, ``tost``, ``rsa``, …), are left out.

    Args:
        grid: (t, h, w) of the clips, by default of those that the model is built for.

    Raises:
        ValueError: no TimeSformer, one whose tokens several processes share, or no mixer with heads; the message names
            the mixers.
    """
    if not isinstance(model, TimeSformer):
        raise ValueError(f"heads are those of a TimeSformer, got {type(model).__name__}")
    model.tokens.check_all()
    t, h, w = model.grid if grid is None else grid
    grids = {
        "time": (t, 1, 1),
        "space": (1, h, w),
        "space-time": (t, h, w),
    }
    found, without = [], set()
    for name, mixer in sorted(model.blocks.mixers().items(), key=_computed_first):
        if not _has_heads(mixer):
            without.add(type(mixer).__name__)
            continue
        if name.endswith("temporal_attn"):
            axis = "time"
        else:
            axis = "space-time" if model.attention_type == "joint_space_time" else "space"
        found.append(_layer(name, axis, mixer, grids[axis]))
    if not found:
        raise ValueError(
            f"no block has attention heads side by side in front of an output projection: its mixers are "
            f"{', '.join(sorted(without)) or 'none'}"
        )
    return found


def pair_overlap(layer: HeadLayer) -> Tensor | None:
    """The Jaccard index of the pairs of patches that two heads see, in both / in either: (H, H); None: not fixed pairs.

    Pairs with prefix tokens, which all heads see, do not count.
    """
    if isinstance(layer.mixer, SelfAttention):
        support = layer.mixer.support_for(math.prod(layer.grid))
        if support.is_dense:
            return torch.ones(layer.num_heads, layer.num_heads, dtype=torch.float64)
        n = support.num_tokens
        pairs = [{d: (n - d) * (2 if d else 1) for d in row if d < n} for row in layer.offsets]
        both = torch.tensor([[sum(a[d] for d in a.keys() & b.keys()) for b in pairs] for a in pairs])
    elif isinstance(layer.mixer, PatternAttention):
        pattern = layer.mixer.pattern_for(layer.grid)
        if pattern.num_heads * pattern.num_tokens**2 > _MOST_PAIRS:
            return None
        p = pattern.num_prefix_tokens
        masks = pattern.to_mask()[list(layer.order), p:, p:].flatten(1)
        both = torch.tensor([[int((a & b).sum()) for b in masks] for a in masks])
    else:
        return None
    own = both.diagonal()
    either = own[:, None] + own[None, :] - both
    return both.double() / either.clamp(min=1)


def _has_heads(mixer: nn.Module) -> bool:
    heads, proj = getattr(mixer, "num_heads", None), getattr(mixer, "proj", None)
    return isinstance(heads, int) and isinstance(proj, nn.Linear) and proj.in_features % heads == 0


def _computed_first(item: tuple[str, nn.Module]) -> tuple[int, bool]:
    block, _, name = item[0].partition(".")
    return int(block), name != "temporal_attn"


def _layer(name: str, axis: str, mixer: nn.Module, grid: Grid) -> HeadLayer:
    heads = cast(int, mixer.num_heads)
    order, offsets = list(range(heads)), []
    if isinstance(mixer, SelfAttention):
        support = mixer.support_for(math.prod(grid))
        if not support.is_dense:
            order.sort(key=lambda head: tuple(support.offsets[head]))
            offsets = [tuple(support.offsets[head]) for head in order]
    labels = [str(head + 1) for head in order]
    if offsets:
        labels = [f"{label}: {_shown(row)}" for label, row in zip(labels, offsets, strict=True)]
    return HeadLayer(name, int(name.partition(".")[0]), axis, mixer, grid, tuple(order), tuple(labels), tuple(offsets))


def _shown(row: tuple[int, ...]) -> str:
    if not row:
        return "no offset"
    return " ".join(map(str, row)) if len(row) <= _MOST_OFFSETS else " ".join([*map(str, row[:3]), "…", str(row[-1])])
