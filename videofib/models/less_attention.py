"""LaViT's less-attention (arXiv 2406.00427) in a model: first blocks compute scores, the others transform them.

Attention over time and attention within frames each have scores of their own, handed from block to block as the state
of their mixers (``mixers/less_attention.py``). Every layer that transforms scores has two N x N matrices and
multiplies each head's N x N scores by both. So it serves short sequences: the frames of a patch, or the patches of a
frame where there are few. Where that would cost more than attention does, the model is refused.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from torch import Tensor, nn

from videofib.mixers import Grid, LayerSpec, MixerChoice, check_name
from videofib.mixers.less_attention import (
    HandingAttention,
    LessAttention,
    diagonality,
    less_attention_multiply_adds,
)
from videofib.models.across_blocks import AcrossBlocks
from videofib.models.blocks import Block, BlockSpec, DividedBlock, Memory, TokenwiseBlock, add_losses
from videofib.models.build_blocks import build_block, layers_of

DIAGONALITY = "diagonality"  # the name of the loss
SIGNS = ("none", "intended", "printed")


class LessAttentionBlocks(AcrossBlocks):
    """How many blocks compute scores.

    Args:
        time, space: k of attention over time, and within frames: the first k blocks compute scores, and those behind
            them transform the scores of the block before; None: all blocks compute them.
        diagonality: the loss that blocks which transform scores add in training, see
            :func:`~videofib.mixers.less_attention.diagonality`: of their softmax, as a mean over maps, rows and
            layers; with the ``intended`` or the ``printed`` sign, or ``none``.

    Raises:
        ValueError: neither ``time`` nor ``space``, a number below 1, an unknown name.
    """

    def __init__(self, *, time: int | None = None, space: int | None = None, diagonality: str = "none"):
        self.computing = {kind: k for kind, k in (("time", time), ("space", space)) if k is not None}
        if not self.computing or min(self.computing.values()) < 1:
            raise ValueError(
                "less_attention needs the number of blocks that compute scores, at least 1, for time, space or both; "
                f"got time={time}, space={space}"
            )
        check_name("diagonality of less_attention", diagonality, SIGNS)
        self.diagonality = diagonality

    def check(self, attention_type: str, mixers: MixerChoice, layer: LayerSpec) -> None:
        if attention_type == "joint_space_time":
            tokens = _tokens(layer)
            dearer = _less(tokens, layer) > _attention(tokens, layer)
            raise ValueError(
                "less_attention is for divided_space_time and space_only attention, got attention_type="
                f"{attention_type}{f', where it would be {_compared(tokens, layer)}' if dearer else ''}; set another "
                "attention_type, or skip_attention"
            )
        in_frames, over_time = layers_of(layer)
        for kind, k in self.computing.items():
            if kind not in mixers.names:
                raise ValueError(
                    f"less_attention has {kind}={k}, and {attention_type} attention has none over {kind}; leave it out"
                )
            if other := [name for name in mixers.names[kind] if name != "dense"]:
                raise ValueError(
                    f"less_attention transforms the scores of dense attention in every block, got {kind}_attention="
                    f"{other[0]!r}; set 'dense'"
                )
            if k >= layer.depth:
                raise ValueError(
                    f"less_attention has {kind}={k}, and the model {layer.depth} blocks, so that none would transform "
                    "scores; set a lower number, or leave it out"
                )
            tokens = _tokens(in_frames if kind == "space" else over_time)
            if _less(tokens, layer) > _attention(tokens, layer):
                raise ValueError(
                    f"less_attention over {kind} would be {_compared(tokens, layer)}; use fewer or larger patches, or "
                    f"leave {kind} out"
                )

    def block(
        self, attention_type: str, mixers: MixerChoice, layer: LayerSpec, spec: BlockSpec, drop_path: float
    ) -> TokenwiseBlock:
        def build(kind: str, of_kind: LayerSpec) -> nn.Module:
            k = self.computing.get(kind, layer.depth)
            if layer.index < k - 1 or kind not in self.computing:
                return mixers.build(kind, of_kind)
            return HandingAttention(of_kind) if layer.index == k - 1 else LessAttention(of_kind)

        if self.diagonality == "none":
            return build_block(attention_type, mixers, layer, spec, drop_path, build=build)
        layers = sum(layer.depth - k for k in self.computing.values())
        loss: dict[str, Any] = dict(printed=self.diagonality == "printed", weight=1 / layers)
        return build_block(
            *(attention_type, mixers, layer, spec, drop_path),
            build=build,
            plain=partial(DiagonalBlock, **loss),
            divided=partial(DiagonalDividedBlock, **loss),
        )

    def check_grid(self, built: Grid, grid: Grid) -> None:
        fixed = {"time": slice(0, 1), "space": slice(1, 3)}
        if any(grid[fixed[kind]] != built[fixed[kind]] for kind in self.computing):
            raise ValueError(
                f"less_attention takes only clips of the size that the model is built for, (t, h, w) = {built} tokens, "
                f"got {grid}; set img_size and num_frames for these clips"
            )

    def check_slices(self) -> None:
        raise ValueError("processes cannot share the tokens of a clip whose blocks have less_attention; set None")

    def settings(self) -> dict[str, object]:
        return {"less_attention": dict(self.computing)}


class DiagonalBlock(Block):
    """A block that adds the diagonality of its maps to the loss in training, where it transforms scores.

    Args:
        attn, spec, drop_path: as for :class:`Block`.
        printed: the sign of the diagonal as printed.
        weight: of this layer in the mean over layers.
    """

    def __init__(self, attn: nn.Module, spec: BlockSpec, drop_path: float, *, printed: bool, weight: float):
        super().__init__(attn, spec, drop_path)
        self.add_loss = partial(_with_loss, printed=printed, weight=weight)

    def branch(self, x: Tensor, grid: Grid, memory: Memory) -> tuple[Tensor, Memory]:
        y, memory = super().branch(x, grid, memory)
        return y, self.add_loss(self.attn, memory, "attn")


class DiagonalDividedBlock(DividedBlock):
    """The same of divided attention.

    Args:
        attn, temporal_attn, spec, drop_path, order, num_prefix_tokens: as for :class:`DividedBlock`.
        printed, weight: as for :class:`DiagonalBlock`.
    """

    def __init__(
        self,
        attn: nn.Module,
        temporal_attn: nn.Module,
        spec: BlockSpec,
        drop_path: float,
        *,
        order: str,
        num_prefix_tokens: int,
        printed: bool,
        weight: float,
    ):
        super().__init__(attn, temporal_attn, spec, drop_path, order=order, num_prefix_tokens=num_prefix_tokens)
        self.add_loss = partial(_with_loss, printed=printed, weight=weight)

    def branch(self, x: Tensor, grid: Grid, memory: Memory) -> tuple[Tensor, Memory]:
        y, memory = super().branch(x, grid, memory)
        return y, self.add_loss(self.attn, memory, "attn")

    def temporal_branch(self, lines: Tensor, grid: Grid, memory: Memory) -> tuple[Tensor, Memory]:
        y, memory = super().temporal_branch(lines, grid, memory)
        return y, self.add_loss(self.temporal_attn, memory, "temporal_attn")


def _with_loss(mixer: nn.Module, memory: Memory, name: str, *, printed: bool, weight: float) -> Memory:
    """The memory with the loss of the scores that the mixer has just left there: a mean over maps and rows."""
    if not isinstance(mixer, LessAttention) or not mixer.training:
        return memory
    maps = memory[name].softmax(-1)
    return add_losses(memory, {DIAGONALITY: weight * diagonality(maps, printed=printed).mean() / maps.shape[-1]})


def _tokens(layer: LayerSpec) -> int:
    return layer.num_prefix_tokens + math.prod(layer.grid)


def _less(tokens: int, layer: LayerSpec) -> int:
    return less_attention_multiply_adds(tokens, layer.dim, layer.num_heads)


def _attention(tokens: int, layer: LayerSpec) -> int:
    return 4 * tokens * layer.dim**2 + 2 * tokens**2 * layer.dim


def _compared(tokens: int, layer: LayerSpec) -> str:
    """The costs of a layer, in words."""
    heads = layer.num_heads
    return (
        f"dearer than attention: {_less(tokens, layer) / 1e6:.1f} M multiply-adds a sequence instead of "
        f"{_attention(tokens, layer) / 1e6:.1f} M, as {heads} heads multiply their scores of {tokens} x {tokens} "
        f"tokens by two matrices (2·{heads}·{tokens}³)"
    )
