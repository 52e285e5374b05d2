"""SkipAt (arXiv 2301.02240): blocks that compute no attention, but map the branch of the block before to their own.

With Z the branch of attention, which a block adds to its tokens, and Phi a small network of the block ::

    a computing block   Z_l = mixer(norm1(x))
    a skipped block     Z_l = Phi_l(Z_l-1) for patches; prefix tokens have those of the last computing block
    both                x = x + Z_l,  x = x + MLP(norm2(x))

A skipped block has neither a mixer nor the norm in front of it. Z is handed on as the block computes it: before its
scale and before drop path, so that a sample whose branch is dropped still feeds the next block.

Divided attention hands on two branches. That over time is a line of frames for each patch, mapped along t and
handed on in front of ``temporal_fc``; that within frames has a copy of the prefix in each frame, which is averaged
where it is added, as in a computing block.

Axes: b batch, t h w grid, p prefix tokens, N = t·h·w, d width, c hidden width.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from videofib.mixers import MIXERS, Grid, LayerSpec, MixerChoice, check_name
from videofib.models.across_blocks import AcrossBlocks
from videofib.models.blocks import Block, BlockSpec, DividedBlock, Memory, TokenwiseBlock
from videofib.models.build_blocks import build_block, layers_of
from videofib.models.embed import join_prefix

SOURCES = ("previous", "released")
BRANCHES = "skip_attention"  # in the memory: by the name of a mixer, the branch that the next skipped block maps


class SkipAttention(AcrossBlocks):
    """Which blocks skip attention, and what they compute instead.

    Args:
        blocks: indices of the skipped ones, from 0; the published networks of 12 blocks skip 3 to 8.
        source: what a skipped block behind a computing one maps: ``previous``, that block's branch, as in the paper's
            equations; ``released``, as in the released code, where only the prefix is of that block, and patches are
            what the skipped block before returned. They differ if computing blocks lie between skipped ones.
        kernel: side of Phi's convolution, odd: along rows and columns, and along frames in attention over time.
        time_kernel: of joint attention, frames that the convolution spans, odd; None: 1, frame by frame.
        ratio: c / d of Phi.

    Raises:
        ValueError: no block, blocks named twice or out of order, an unknown source, an even kernel.
    """

    def __init__(
        self,
        *,
        blocks: Sequence[int],
        source: str = "previous",
        kernel: int = 5,
        time_kernel: int | None = None,
        ratio: float = 2.0,
    ):
        self.blocks = tuple(blocks)
        if not self.blocks or self.blocks != tuple(sorted(set(self.blocks))):
            raise ValueError(f"skip_attention names blocks in ascending order, each once, got blocks={blocks}")
        check_name("source of skip_attention", source, SOURCES)
        if ratio <= 0:
            raise ValueError(f"the hidden layer of skip_attention must have a width above 0, got ratio={ratio}")
        self.source, self.kernel, self.time_kernel, self.ratio = source, kernel, time_kernel, ratio

    def check(self, attention_type: str, mixers: MixerChoice, layer: LayerSpec) -> None:
        shown, depth = list(self.blocks), layer.depth
        if not 0 <= self.blocks[0] <= self.blocks[-1] < depth:
            raise ValueError(f"skip_attention skips blocks {shown}, and the model has blocks 0 to {depth - 1}")
        if without := [index for index in self.blocks if not mixers.mixes(index)]:
            raise ValueError(f"block {without[0]} has no attention to skip: its mixer is 'none'; skip another")
        mixing = [index for index in range(depth) if mixers.mixes(index)]
        if mixing[0] in self.blocks:
            raise ValueError(
                f"block {mixing[0]} cannot skip its attention, since no block before it computes any; skip_attention "
                f"skips {shown}, skip later blocks"
            )
        if mixing[-1] in self.blocks and layer.pooling == "class_token":
            raise ValueError(
                f"the class token sees no patches in a skipped block, so what block {mixing[-1]} maps would not reach "
                f"the features; skip_attention skips {shown}, let a block behind them compute attention, or set "
                "pooling='mean'"
            )
        if stateful := [name for name in mixers.used() if "state" in MIXERS[name].needs]:
            raise ValueError(
                f"{stateful[0]!r} needs what every block before it computes, and skip_attention skips some"
            )
        if self.time_kernel is not None and attention_type != "joint_space_time":
            raise ValueError(
                f"time_kernel={self.time_kernel} is for joint_space_time attention, got attention_type="
                f"{attention_type}; leave it out"
            )

    def block(
        self, attention_type: str, mixers: MixerChoice, layer: LayerSpec, spec: BlockSpec, drop_path: float
    ) -> TokenwiseBlock:
        follower = next((index for index in range(layer.index + 1, layer.depth) if mixers.mixes(index)), None)
        feeds = follower in self.blocks
        if layer.index in self.blocks:
            later = self.source == "released" and layer.index < self.blocks[-1]
            return self._skipped(attention_type, layer, spec, drop_path, hands_on=feeds or later)
        if not feeds:
            return build_block(attention_type, mixers, layer, spec, drop_path)
        patches = self.source == "previous" or layer.index < self.blocks[0]
        return build_block(
            *(attention_type, mixers, layer, spec, drop_path),
            plain=partial(SourceBlock, num_prefix_tokens=layer.num_prefix_tokens, patches=patches),
            divided=partial(DividedSourceBlock, patches=patches),
        )

    def _skipped(
        self, attention_type: str, layer: LayerSpec, spec: BlockSpec, drop_path: float, *, hands_on: bool
    ) -> TokenwiseBlock:
        def network(layer: LayerSpec, kernel: Grid) -> SkipNetwork:
            prefix = layer.num_prefix_tokens
            return SkipNetwork(layer.dim, order=layer.order, num_prefix_tokens=prefix, kernel=kernel, ratio=self.ratio)

        side = self.kernel
        if attention_type == "joint_space_time":
            length = 1 if self.time_kernel is None else self.time_kernel
            return SkippedBlock(network(layer, (length, side, side)), spec, drop_path, hands_on=hands_on)
        in_frames, over_time = layers_of(layer)
        spatial = network(in_frames, (1, side, side))
        if attention_type == "space_only":
            return SkippedBlock(spatial, spec, drop_path, hands_on=hands_on)
        return DividedSkippedBlock(
            spatial,
            network(over_time, (side, 1, 1)),
            spec,
            drop_path,
            order=layer.order,
            num_prefix_tokens=layer.num_prefix_tokens,
            hands_on=hands_on,
        )

    def check_slices(self) -> None:
        raise ValueError(
            "processes that share tokens cannot skip attention, since other processes have some of the neighbours that "
            f"skipped blocks convolve, got skip_attention={list(self.blocks)}; set None"
        )

    def settings(self) -> dict[str, object]:
        return {"skip_attention": list(self.blocks), "skip_source": self.source}


class SkipNetwork(nn.Module):
    """Phi of section 3.2: linear, GELU, depthwise convolution, GELU, linear, then efficient channel attention.

    Channel attention (ECA, arXiv 1910.03151) multiplies each channel by sigmoid(w * mean), where the mean is over all
    patches of the sequence, in 32 bits at least, and w a convolution over three neighbouring channels.

    Args:
        dim: d.
        order: how patches are laid out, ``"h w t"`` or ``"t h w"``.
        num_prefix_tokens: p; these rows are returned as they are.
        kernel: of the convolution over (t, h, w), padded with zeros; odd. Where t's is 1, frame by frame.
        ratio: c / d.

    Raises:
        ValueError: an even kernel.
    """

    def __init__(
        self,
        dim: int,
        *,
        order: str = "h w t",
        num_prefix_tokens: int = 0,
        kernel: Grid = (1, 5, 5),
        ratio: float = 2.0,
    ):
        super().__init__()
        if any(size < 1 or size % 2 == 0 for size in kernel):
            raise ValueError(f"a kernel must have odd sizes over (t, h, w), so that it has a centre; got {kernel}")
        self.order, self.num_prefix_tokens, self.kernel = order, num_prefix_tokens, kernel
        hidden = int(dim * ratio)
        self.fc1 = nn.Linear(dim, hidden)
        self.layout, sizes = _convolved_axes(kernel)
        convolution: Any = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[len(sizes) - 1]
        self.dwconv = convolution(hidden, hidden, sizes, padding=tuple(size // 2 for size in sizes), groups=hidden)
        self.fc2 = nn.Linear(hidden, dim)
        self.eca = nn.Conv1d(1, 1, 3, padding=1, bias=False)
        self.act = nn.GELU()

    def forward(self, branch: Tensor, grid: Grid) -> Tensor:
        """(b, p+N, d) -> (b, p+N, d), N = t·h·w for ``grid`` = (t, h, w)."""
        axes = dict(zip("thw", grid, strict=True))
        prefix, patches = branch[:, : self.num_prefix_tokens], branch[:, self.num_prefix_tokens :]
        hidden = rearrange(self.act(self.fc1(patches)), f"b ({self.order}) c -> {self.layout}", **axes)
        hidden = rearrange(self.act(self.dwconv(hidden)), f"{self.layout} -> b ({self.order}) c", **axes)
        patches = self.fc2(hidden)
        mean = patches.mean(dim=1, keepdim=True, dtype=torch.promote_types(patches.dtype, torch.float32))
        patches = patches * self.eca(mean.to(self.eca.weight.dtype)).sigmoid()
        return join_prefix(prefix, patches) if self.num_prefix_tokens else patches

    def multiply_adds(self, grid: Grid) -> int:
        """Of one sequence: two linear layers, the depthwise convolution, and the one over channels."""
        dim, hidden = self.fc1.in_features, self.fc1.out_features
        patches, taps = grid[0] * grid[1] * grid[2], self.kernel[0] * self.kernel[1] * self.kernel[2]
        return patches * hidden * (2 * dim + taps) + 3 * dim


class SourceBlock(Block):
    """A block that computes attention, and hands on its branch.

    Args:
        attn, spec, drop_path: as for :class:`Block`.
        num_prefix_tokens: p.
        patches: False: hand on the prefix alone, before the patches that an earlier block handed on.
    """

    def __init__(
        self, attn: nn.Module, spec: BlockSpec, drop_path: float, *, num_prefix_tokens: int, patches: bool = True
    ):
        super().__init__(attn, spec, drop_path)
        self.num_prefix_tokens, self.hands_on_patches = num_prefix_tokens, patches

    def branch(self, x: Tensor, grid: Grid, memory: Memory) -> tuple[Tensor, Memory]:
        y, memory = super().branch(x, grid, memory)
        kept = y if self.hands_on_patches else _with_prefix_of(y, memory, self.num_prefix_tokens)
        return y, _handed_on(memory, "attn", kept)


class DividedSourceBlock(DividedBlock):
    """The same of divided attention.

    Args:
        attn, temporal_attn, spec, drop_path, order, num_prefix_tokens: as for :class:`DividedBlock`.
        patches: as for :class:`SourceBlock`.
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
        patches: bool = True,
    ):
        super().__init__(attn, temporal_attn, spec, drop_path, order=order, num_prefix_tokens=num_prefix_tokens)
        self.hands_on_patches = patches

    def branch(self, x: Tensor, grid: Grid, memory: Memory) -> tuple[Tensor, Memory]:
        y, memory = super().branch(x, grid, memory)
        kept = y if self.hands_on_patches else _with_prefix_of(y, memory, self.num_prefix_tokens)
        return y, _handed_on(memory, "attn", kept)

    def temporal_branch(self, lines: Tensor, grid: Grid, memory: Memory) -> tuple[Tensor, Memory]:
        y, memory = super().temporal_branch(lines, grid, memory)
        return y, _handed_on(memory, "temporal_attn", y) if self.hands_on_patches else memory


class SkippedBlock(Block):
    """A block that maps the branch of an earlier one instead of computing attention.

    Args:
        skip: maps the branch.
        spec, drop_path: as for :class:`TokenwiseBlock`.
        hands_on: whether a later block maps what this one returns.
    """

    def __init__(self, skip: SkipNetwork, spec: BlockSpec, drop_path: float, *, hands_on: bool):
        nn.Module.__init__(self)
        self.skip, self.hands_on = skip, hands_on
        self.ls1 = spec.scale()
        self._add_mlp(spec, drop_path)

    def mixers(self) -> dict[str, nn.Module]:
        return {}

    def branch(self, x: Tensor, grid: Grid, memory: Memory) -> tuple[Tensor, Memory]:
        return _mapped(self.skip, "attn", grid, memory, hands_on=self.hands_on)


class DividedSkippedBlock(DividedBlock):
    """The same of divided attention, with a network along time and one within frames.

    Args:
        skip, temporal_skip: map the branch within frames, and that over time.
        spec, drop_path, order, num_prefix_tokens: as for :class:`DividedBlock`.
        hands_on: as for :class:`SkippedBlock`.
    """

    def __init__(
        self,
        skip: SkipNetwork,
        temporal_skip: SkipNetwork,
        spec: BlockSpec,
        drop_path: float,
        *,
        order: str,
        num_prefix_tokens: int,
        hands_on: bool,
    ):
        nn.Module.__init__(self)
        self.order, self.num_prefix_tokens, self.hands_on = order, num_prefix_tokens, hands_on
        self.skip = skip
        self.ls1 = spec.scale()
        self._add_mlp(spec, drop_path)
        self.temporal_skip = temporal_skip
        self.temporal_fc = nn.Linear(spec.dim, spec.dim)

    def mixers(self) -> dict[str, nn.Module]:
        return {}

    def branch(self, x: Tensor, grid: Grid, memory: Memory) -> tuple[Tensor, Memory]:
        return _mapped(self.skip, "attn", grid, memory, hands_on=self.hands_on)

    def temporal_branch(self, lines: Tensor, grid: Grid, memory: Memory) -> tuple[Tensor, Memory]:
        return _mapped(self.temporal_skip, "temporal_attn", grid, memory, hands_on=self.hands_on)


def _mapped(network: nn.Module, name: str, grid: Grid, memory: Memory, *, hands_on: bool) -> tuple[Tensor, Memory]:
    """What a network makes of the branch of this name, and the memory, which then has its result or neither."""
    y = network(memory[BRANCHES][name], grid)
    if hands_on:
        return y, _handed_on(memory, name, y)
    rest = {other: branch for other, branch in memory[BRANCHES].items() if other != name}
    return y, {**memory, BRANCHES: rest}


def _handed_on(memory: Memory, name: str, branch: Tensor) -> Memory:
    return {**memory, BRANCHES: {**memory.get(BRANCHES, {}), name: branch}}


def _with_prefix_of(y: Tensor, memory: Memory, num_prefix_tokens: int) -> Tensor:
    """The prefix of y in front of the patches that an earlier block handed on."""
    return join_prefix(y[:, :num_prefix_tokens], memory[BRANCHES]["attn"][:, num_prefix_tokens:])


def _convolved_axes(kernel: Grid) -> tuple[str, tuple[int, ...]]:
    """The layout of what is convolved, and the kernel's size along its axes: of lines, of frames, or of clips."""
    length, height, width = kernel
    if length == 1:
        return "(b t) c h w", (height, width)
    if height == width == 1:
        return "(b h w) c t", (length,)
    return "b c t h w", kernel
