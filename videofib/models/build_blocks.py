"""The blocks of a TimeSformer, by its attention type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from videofib.mixers import Grid, LayerSpec, MixerChoice
from videofib.models.blocks import Block, BlockSpec, DividedBlock, TokenwiseBlock


def build_blocks(
    attention_type: str,
    mixers: MixerChoice,
    layer: LayerSpec,
    spec: BlockSpec,
    drop_path: Sequence[float],
    grids: Sequence[Grid] | None = None,
) -> list[TokenwiseBlock]:
    """The blocks, in order.

    Args:
        attention_type: ``divided_space_time``, ``joint_space_time`` or ``space_only``.
        mixers: of these kinds of attention.
        layer: what the mixers of all blocks have in common.
        spec: what all blocks have in common besides.
        drop_path: of each block, the probability of skipping a residual branch.
        grids: (t, h, w) of the tokens that each block takes; None: that of ``layer``, for all.

    Raises:
        ValueError: a mixer that does not serve such a layer.
    """
    return [
        _block(attention_type, mixers, replace(layer, index=index, grid=grid), spec, rate)
        for index, (rate, grid) in enumerate(zip(drop_path, grids or [layer.grid] * len(drop_path), strict=True))
    ]


def _block(
    attention_type: str, mixers: MixerChoice, layer: LayerSpec, spec: BlockSpec, drop_path: float
) -> TokenwiseBlock:
    if not mixers.mixes(layer.index):
        return TokenwiseBlock(spec, drop_path)
    if attention_type == "joint_space_time":
        return Block(mixers.build("joint", layer), spec, drop_path)
    length, height, width = layer.grid
    spatial = mixers.build("space", replace(layer, grid=(1, height, width)))
    if attention_type == "space_only":
        return Block(spatial, spec, drop_path)
    temporal = mixers.build("time", replace(layer, grid=(length, 1, 1), num_prefix_tokens=0))
    return DividedBlock(
        spatial, temporal, spec, drop_path, order=layer.order, num_prefix_tokens=layer.num_prefix_tokens
    )
