"""The blocks of a TimeSformer, by its attention type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from torch import nn

from videofib.mixers import LayerSpec, MixerChoice
from videofib.models.blocks import Block, BlockSpec, DividedBlock, TokenwiseBlock


class MakeBlock(Protocol):
    """Makes the block of index ``layer.index``; :func:`build_block` is one."""

    def __call__(
        self, attention_type: str, mixers: MixerChoice, layer: LayerSpec, spec: BlockSpec, drop_path: float
    ) -> TokenwiseBlock: ...


def build_blocks(
    attention_type: str,
    mixers: MixerChoice,
    layer: LayerSpec,
    spec: BlockSpec,
    drop_path: Sequence[float],
    make: MakeBlock | None = None,
) -> list[TokenwiseBlock]:
    """The blocks, in order.

    Args:
        attention_type: ``divided_space_time``, ``joint_space_time`` or ``space_only``.
        mixers: of these kinds of attention.
        layer: what the mixers of all blocks have in common.
        spec: what all blocks have in common besides.
        drop_path: of each block, the probability of skipping a residual branch.
        make: makes each of them; None: each computes its own attention.

    Raises:
        ValueError: a mixer that does not serve such a layer.
    """
    make = make or build_block
    return [
        make(attention_type, mixers, replace(layer, index=index), spec, rate) for index, rate in enumerate(drop_path)
    ]


def build_block(
    attention_type: str,
    mixers: MixerChoice,
    layer: LayerSpec,
    spec: BlockSpec,
    drop_path: float,
    *,
    build: Callable[[str, LayerSpec], nn.Module] | None = None,
    plain: Callable[..., Block] = Block,
    divided: Callable[..., DividedBlock] = DividedBlock,
) -> TokenwiseBlock:
    """One block, or an MLP alone where no mixer is chosen for it.

    Args:
        attention_type, mixers, layer, spec, drop_path: as for :func:`build_blocks`, of this block.
        build: makes the mixer of a kind of attention for its layer; None: as ``mixers`` says.
        plain, divided: the kinds of block, called as these classes are.
    """
    if not mixers.mixes(layer.index):
        return TokenwiseBlock(spec, drop_path)
    build = build or mixers.build
    if attention_type == "joint_space_time":
        return plain(build("joint", layer), spec, drop_path)
    in_frames, over_time = layers_of(layer)
    spatial = build("space", in_frames)
    if attention_type == "space_only":
        return plain(spatial, spec, drop_path)
    return divided(
        spatial,
        build("time", over_time),
        spec,
        drop_path,
        order=layer.order,
        num_prefix_tokens=layer.num_prefix_tokens,
    )


def layers_of(layer: LayerSpec) -> tuple[LayerSpec, LayerSpec]:
    """The layers of attention within frames, and over time, which sees no prefix."""
    length, height, width = layer.grid
    return replace(layer, grid=(1, height, width)), replace(layer, grid=(length, 1, 1), num_prefix_tokens=0)
