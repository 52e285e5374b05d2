"""Transformer blocks over space-time tokens (TimeSformer, arXiv 2102.05095, section 3).

Axes: b batch, t frames (or tubelets), h w patch grid, p prefix tokens, d width. Tokens are (b, p + N, d): the prefix
(class token, registers), then the patches in ``order``, "h w t" (the frames of one patch side by side, as published)
or "t h w" (frame after frame).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from einops import rearrange, reduce, repeat
from timm.layers import DropPath, LayerScale, Mlp
from timm.layers.activations import QuickGELU
from torch import Tensor, nn

from videofib.mixers import Grid
from videofib.models.embed import join_prefix

ACTIVATIONS: dict[str, Any] = {  # of the MLPs
    "gelu": nn.GELU,
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),  # ViViT's
    "quick_gelu": QuickGELU,  # x·sigmoid(1.702·x), CLIP's
}

# What the blocks of one forward pass hand on to each other: under the name of a mixer, such as "attn", its state; under
# LOSSES, what a block adds to the loss; and where tokens were reduced (``models/reduction.py``), under GRID their
# (t, h, w), and under SIZES how many patches each stands for, (B, N). An input and an output, never an attribute, so
# that a block computed again in the backward pass sees the same; tensors, or tuples, lists and dicts of them.
Memory = dict[str, Any]
LOSSES, GRID, SIZES = "losses", "grid", "sizes"


def add_losses(memory: Memory, losses: Mapping[str, Tensor]) -> Memory:
    """The memory with these scalars added to those of the same names that earlier blocks left."""
    total = dict(memory.get(LOSSES, {}))
    for name, loss in losses.items():
        total[name] = total[name] + loss if name in total else loss
    return {**memory, LOSSES: total}


@dataclass(frozen=True)
class BlockSpec:
    """What all blocks of a model have in common, besides their mixers.

    Attributes:
        dim: token width.
        mlp_ratio: hidden width of the MLP / ``dim``.
        drop: dropout within the MLP.
        norm_eps: epsilon of the layer norms.
        activation: of the MLP, of ``ACTIVATIONS``.
        layer_scale: initial value of the learned scales of the residual branches (CaiT, arXiv 2103.17239, section 2);
            None: no scales.
        local: makes the branch of each block that mixes neighbouring patches, in front of the MLP; None: no such
            branch.
        make_mlp: makes the MLP of a block, a module ``mlp(x, memory) -> (y, memory)`` over tokens (b, p+N, d).
    """

    dim: int
    mlp_ratio: float
    drop: float
    norm_eps: float
    layer_scale: float | None
    activation: str = "gelu"
    local: Callable[[BlockSpec], nn.Module] | None = None
    make_mlp: Callable[[BlockSpec], nn.Module] | None = None

    def mlp(self) -> nn.Module:
        return DenseMlp(self) if self.make_mlp is None else self.make_mlp(self)

    def norm(self) -> nn.Module:
        return nn.LayerNorm(self.dim, eps=self.norm_eps)

    def scale(self) -> nn.Module:
        return nn.Identity() if self.layer_scale is None else LayerScale(self.dim, self.layer_scale)


class DenseMlp(Mlp):
    """The MLP of a vision transformer: all tokens through the same two layers.

    Args:
        spec: its width, activation and dropout.
    """

    def __init__(self, spec: BlockSpec):
        super().__init__(
            spec.dim, int(spec.dim * spec.mlp_ratio), act_layer=ACTIVATIONS[spec.activation], drop=spec.drop
        )

    def forward(self, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:  # type: ignore[override]
        return super().forward(x), memory


class NoBranch(nn.Module):
    """Adds nothing."""

    def forward(self, x: Tensor, grid: Grid, drop_path: nn.Module) -> Tensor:
        return x


class AllTokensStay(nn.Module):
    """No reduction of tokens (``models/reduction.py``)."""

    keeps_places = True

    def forward(self, x: Tensor, grid: Grid, memory: Memory) -> tuple[Tensor, Memory]:
        return x, memory


class TokenwiseBlock(nn.Module):
    """An MLP alone, token by token: a block without attention (LIT, arXiv 2105.14217, section 3.1).

    Args:
        spec: sizes and rates.
        drop_path: probability of skipping a residual branch, for each sample (stochastic depth).
    """

    def __init__(self, spec: BlockSpec, drop_path: float):
        super().__init__()
        self._add_mlp(spec, drop_path)

    def _add_mlp(self, spec: BlockSpec, drop_path: float) -> None:
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.reduction: nn.Module = AllTokensStay()  # between the mixer and the MLP, as token merging reduces
        self.local = NoBranch() if spec.local is None else spec.local(spec)
        self.norm2 = spec.norm()
        self.mlp = spec.mlp()
        self.ls2 = spec.scale()

    def mixers(self) -> dict[str, nn.Module]:
        """The mixers of this block, under their names as submodules."""
        return {}

    def forward(self, x: Tensor, grid: Grid, memory: Memory) -> tuple[Tensor, Memory]:
        """(b, p+N, d) -> (b, p+N, d), and what the next block is handed; N = t·h·w for ``grid`` = (t, h, w).

        A reduction within the block returns fewer tokens, and hands on their grid.

        With context parallelism x holds the local tokens only.
        """
        return self.without_mixer(x, grid, memory)

    def without_mixer(self, x: Tensor, grid: Grid, memory: Memory) -> tuple[Tensor, Memory]:
        """x and what all other branches add to it."""
        x, memory = self.reduction(x, grid, memory)
        x = self.local(x, memory.get(GRID, grid), self.drop_path)
        y, memory = self.mlp(self.norm2(x), memory)
        return x + self.drop_path(self.ls2(y)), memory


class Block(TokenwiseBlock):
    """A mixer over all tokens of its input, then an MLP: joint space-time and space-only attention.

    Args:
        attn: the mixer (:mod:`videofib.mixers`), over the prefix and the patches.
        spec, drop_path: as for :class:`TokenwiseBlock`.
    """

    def __init__(self, attn: nn.Module, spec: BlockSpec, drop_path: float):
        nn.Module.__init__(self)
        self.norm1 = spec.norm()  # in front of the MLP: optimizers' states are kept in the order of parameters
        self.attn = attn
        self.ls1 = spec.scale()
        self._add_mlp(spec, drop_path)

    def mixers(self) -> dict[str, nn.Module]:
        return {"attn": self.attn}

    def forward(self, x: Tensor, grid: Grid, memory: Memory) -> tuple[Tensor, Memory]:
        y, state = self.attn(self.norm1(x), grid, memory.get("attn"))
        return self.without_mixer(x + self.drop_path(self.ls1(y)), grid, {**memory, "attn": state})


class DividedBlock(Block):
    """Attention over time (one patch position through all frames), then over space (one frame), then an MLP.

    The prefix takes no part in temporal attention; for spatial attention each frame gets a copy of it, and the
    copies' updates are averaged. The temporal branch has no scale of its own: ``temporal_fc`` is one.

    Args:
        attn, temporal_attn: the mixers over the prefix and the patches of a frame, and over the frames of a patch.
        spec, drop_path: as for :class:`Block`.
        order, num_prefix_tokens: the layout of the tokens.
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
    ):
        super().__init__(attn, spec, drop_path)
        self.order, self.num_prefix_tokens = order, num_prefix_tokens
        self.temporal_norm1 = spec.norm()
        self.temporal_attn = temporal_attn
        self.temporal_fc = nn.Linear(spec.dim, spec.dim)

    def mixers(self) -> dict[str, nn.Module]:
        return {"attn": self.attn, "temporal_attn": self.temporal_attn}

    def forward(self, x: Tensor, grid: Grid, memory: Memory) -> tuple[Tensor, Memory]:
        """(b, p+N, d) -> (b, p+N, d), and what the next block is handed."""
        axes = dict(zip("thw", grid, strict=True))  # not b, which may be 0
        num_prefix = self.num_prefix_tokens
        prefix, patches = x[:, :num_prefix], x[:, num_prefix:]

        lines = rearrange(patches, f"b ({self.order}) d -> (b h w) t d", **axes)
        lines, state = self.temporal_attn(self.temporal_norm1(lines), (axes["t"], 1, 1), memory.get("temporal_attn"))
        memory = {**memory, "temporal_attn": state}
        lines = self.drop_path(lines)
        patches = patches + self.temporal_fc(rearrange(lines, f"(b h w) t d -> b ({self.order}) d", **axes))

        frames = rearrange(patches, f"b ({self.order}) d -> (b t) (h w) d", **axes)
        frames = join_prefix(repeat(prefix, "b p d -> (b t) p d", t=axes["t"]), frames)
        frames, state = self.attn(self.norm1(frames), (1, axes["h"], axes["w"]), memory.get("attn"))
        memory = {**memory, "attn": state}
        frames = self.drop_path(self.ls1(frames))
        prefix = prefix + reduce(frames[:, :num_prefix], "(b t) p d -> b p d", "mean", t=axes["t"])
        patches = patches + rearrange(frames[:, num_prefix:], f"(b t) (h w) d -> b ({self.order}) d", **axes)

        return self.without_mixer(join_prefix(prefix, patches), grid, memory)
