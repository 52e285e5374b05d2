"""The tokens that the blocks of a transformer return, in layouts that do not depend on its own.

Axes: B batch, t h w grid of patches or tubelets, P prefix tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from einops import rearrange
from torch import Tensor

from videofib.mixers import Grid

FORMATS = {"NCTHW": "b d t h w", "NLC": "b (t h w) d"}  # as timm writes its NCHW and NLC


def taken_blocks(depth: int, indices: int | Sequence[int] | None) -> list[int]:
    """The blocks, counted from 0, that ``indices`` name: a number for the last ones, None for all.

    Raises:
        ValueError: none, or one that there is not.
    """
    if indices is None:
        return list(range(depth))
    if isinstance(indices, int):
        if not 0 < indices <= depth:
            raise ValueError(f"indices={indices} asks for the last {indices} blocks of {depth}; name 1 to {depth}")
        return list(range(depth - indices, depth))
    if not indices:
        raise ValueError("indices names no block; None means all")
    for index in indices:
        if not -depth <= index < depth:
            raise ValueError(f"no block {index} in a model of {depth}; name {-depth} to {depth - 1}")
    return [index % depth for index in indices]


def check_maps(indices: Sequence[int], output_fmt: str, first_placeless: int | None) -> None:
    """Raise ValueError where feature maps are asked for of tokens without places.

    Args:
        indices: of the blocks.
        output_fmt: of ``FORMATS``.
        first_placeless: the index of the first block behind which tokens have no place; None: they always have one.
    """
    if output_fmt == "NLC" or first_placeless is None:
        return
    if without := [index for index in indices if index >= first_placeless]:
        raise ValueError(
            f"the tokens of block {without[0]} are no feature map, since tokens have no places behind block "
            f"{first_placeless}; set output_fmt='NLC', or indices below {first_placeless}"
        )


@dataclass(frozen=True)
class Layout:
    """How the tokens of a model's clips lie between its blocks.

    Attributes:
        grid: (t, h, w) of the clips.
        num_prefix_tokens: P.
        order: of the patches, "h w t" or "t h w".
        single_frames: each frame is a sequence of its own, with a prefix of its own.
    """

    grid: Grid
    num_prefix_tokens: int
    order: str
    single_frames: bool

    def split(self, tokens: Tensor, output_fmt: str) -> tuple[Tensor, Tensor]:
        """Tokens between blocks -> the patches in a format of ``FORMATS``, and the prefix (B, P, D) or (B, t·P, D)."""
        length, height, width = self.grid
        prefix, patches = tokens[:, : self.num_prefix_tokens], tokens[:, self.num_prefix_tokens :]
        layout = "(b t) (h w) d" if self.single_frames else f"b ({self.order}) d"
        patches = rearrange(patches, f"{layout} -> {FORMATS[output_fmt]}", t=length, h=height, w=width)
        if self.single_frames:
            prefix = rearrange(prefix, "(b t) p d -> b (t p) d", t=length)
        return patches.contiguous(), prefix
