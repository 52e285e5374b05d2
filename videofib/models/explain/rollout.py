"""Attention rollout (Abnar & Zuidema, arXiv 2005.00928, section 3): through which tokens the features were reached.

With A the mean of a layer's attention matrices over its heads, a token is half its own, through the residual
connection, and half what it attends to: Ã = (A + I) / 2, whose rows sum to 1. The rollout of L layers is Ã_L ··· Ã_1,
and its row of the class token says how much each token of the input contributes to it. Only this row is needed, so a
vector passes backwards from layer to layer, v <- v Ã, over the pairs of each head's support alone; there is no N x N
tensor. Where features are the mean of the patches, v starts as 1/N on each of them.

Divided attention is two layers, time and space. A frame's copy of the prefix attends within its frame, and the copies
are averaged, so that a prefix token's row is the mean of its rows in the t frames.

Rollout knows the weights of attention alone: neither values nor MLPs, and no class. :mod:`.reference` multiplies the
matrices out.

Axes: B batch, T frames, t h w grid of tokens, P prefix tokens, N = t·h·w, H heads, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import cast

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor, nn

from videofib.attention import SelfAttention
from videofib.mixers import Grid
from videofib.models.blocks import Block, DividedBlock
from videofib.models.intermediates import Layout
from videofib.models.timesformer import TimeSformer


@dataclass(frozen=True)
class Rollout:
    """What attention says of clips.

    Attributes:
        heat: (B, t, h, w), the share of each patch; with ``prefix`` these sum to 1.
        prefix: (B,) the share that stays with prefix tokens.
        heads: (B, H, t, h, w): what each head of the last block attends to, from where the features come: the class
            token, or the mean of the patches. In divided attention these are the heads of attention within frames.
        logits: (B, K), of the same forward pass.
    """

    heat: Tensor
    prefix: Tensor
    heads: Tensor
    logits: Tensor


@torch.no_grad()
def attention_rollout(model: nn.Module, video: Tensor) -> Rollout:
    """The rollout of clips (B, C, T, H, W) through all blocks of a model in evaluation mode.

    Raises:
        ValueError: a model without attention over a support, or one whose tokens several processes share.
    """
    model = checked(model)
    with inputs_of_mixers(model) as inputs:
        logits = model(video)
    grid = model.patch_embed.grid_of(video)
    layout = Layout(grid, model.num_prefix_tokens, model.order, model.single_frames)
    own = (1, *grid[1:]) if model.single_frames else grid  # of one sequence of tokens
    like = logits.new_empty(0, dtype=torch.promote_types(logits.dtype, torch.float32))
    vector = _start(model, own, grid[0] if model.single_frames else 1, video.shape[0], like)
    heads = None
    for block in reversed([block for block in model.blocks if isinstance(block, Block)]):  # others mix nothing
        vector, rows = _through(block, vector, own, inputs)
        heads = rows if heads is None else heads
    assert heads is not None  # a model has blocks that mix
    heat, prefix = layout.split(vector[..., None], "NCTHW")
    return Rollout(heat[:, 0], prefix.sum(dim=(1, 2)), layout.split(heads.mT, "NCTHW")[0], logits)


def _through(block: Block, vector: Tensor, grid: Grid, inputs: dict[nn.Module, Tensor]) -> tuple[Tensor, Tensor]:
    """One block backwards: v Ã of (S, P+N), and what each head attends to, Σ v A: (S, H, P+N)."""
    if not isinstance(block, DividedBlock):
        rows = _rows(block.attn, inputs, vector)
        return _half(vector, rows), rows
    axes, order, prefix = dict(zip("thw", grid, strict=True)), block.order, block.num_prefix_tokens
    patches = rearrange(vector[:, prefix:], f"b ({order}) -> (b t) (h w)", **axes)
    copies = repeat(vector[:, :prefix] / axes["t"], "b p -> (b t) p", t=axes["t"])
    found = _rows(block.attn, inputs, torch.cat((copies, patches), dim=1))  # (b t) heads (p + h w)
    rows = torch.cat(
        (
            reduce(found[..., :prefix], "(b t) heads p -> b heads p", "sum", t=axes["t"]),
            rearrange(found[..., prefix:], f"(b t) heads (h w) -> b heads ({order})", **axes),
        ),
        dim=-1,
    )
    vector = _half(vector, rows)
    lines = rearrange(vector[:, prefix:], f"b ({order}) -> (b h w) t", **axes)
    lines = _half(lines, _rows(block.temporal_attn, inputs, lines))
    return torch.cat((vector[:, :prefix], rearrange(lines, f"(b h w) t -> b ({order})", **axes)), dim=1), rows


def _rows(mixer: nn.Module, inputs: dict[nn.Module, Tensor], vector: Tensor) -> Tensor:
    return cast(SelfAttention, mixer).weighted_rows(inputs[mixer], vector)


def _half(vector: Tensor, rows: Tensor) -> Tensor:
    """v (A + I) / 2 from v and Σ v A of each head."""
    return (vector + rows.mean(dim=1)) / 2


def _start(model: TimeSformer, grid: Grid, frames: int, batch: int, like: Tensor) -> Tensor:
    """Where the features come from, as a vector over the tokens of each sequence: (B·frames, P+N), summing to 1 a clip.

    Args:
        grid: (t, h, w) of one sequence.
        frames: sequences of a clip, over which features are averaged.
        like: of the dtype, on the device.
    """
    prefix, patches = model.num_prefix_tokens, math.prod(grid)
    vector = like.new_zeros(batch * frames, prefix + patches)
    if model.tokens.pooling == "class_token":
        vector[:, 0] = 1 / frames
    else:
        vector[:, prefix:] = 1 / (frames * patches)
    return vector


@contextmanager
def inputs_of_mixers(model: TimeSformer) -> Iterator[dict[nn.Module, Tensor]]:
    """The normalised tokens that each mixer gets in a forward pass within the block."""
    found: dict[nn.Module, Tensor] = {}

    def keep(mixer: nn.Module, arguments: tuple) -> None:
        found[mixer] = arguments[0].detach()

    handles = [mixer.register_forward_pre_hook(keep) for mixer in model.blocks.mixers().values()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def checked(model: nn.Module) -> TimeSformer:
    """The model, if its attention can be rolled out.

    Raises:
        ValueError: as :func:`attention_rollout`.
    """
    if obstacle := _obstacle(model):
        raise ValueError(f"{obstacle}; Grad-CAM serves this model")
    assert isinstance(model, TimeSformer)
    model.tokens.check_all()
    return model


def has_rollout(model: nn.Module) -> bool:
    """Whether the attention of a model can be rolled out."""
    return not _obstacle(model)


def _obstacle(model: nn.Module) -> str:
    """Why it cannot, or nothing."""
    if not isinstance(model, TimeSformer):
        return f"attention rollout needs a TimeSformer, got {type(model).__name__}"
    if model.class_attention is not None:
        return "attention rollout does not pass through pooling='class_attention'"
    if model.first_reduction() is not None:
        return "attention rollout follows each patch through all blocks, and this model reduces its tokens"
    if model.local_interaction != "none":
        return f"attention rollout knows attention alone, and there is local_interaction={model.local_interaction!r}"
    for name, mixer in model.blocks.mixers().items():
        if not isinstance(mixer, SelfAttention):
            return f"attention rollout needs attention over a support, and blocks.{name} is {type(mixer).__name__}"
    return ""
