"""The ground truth of attention rollout: every layer's matrix, from explicit masks, multiplied out. O(N²) memory.

Axes as in :mod:`.rollout`; M = P+N, all tokens of a clip, patches frame after frame.
"""

from __future__ import annotations

from typing import cast

import torch
from einops import rearrange
from torch import Tensor, nn

from videofib.attention import SelfAttention
from videofib.mixers import Grid
from videofib.models.blocks import Block, DividedBlock
from videofib.models.explain.rollout import checked, inputs_of_mixers


@torch.no_grad()
def dense_rollout(model: nn.Module, video: Tensor) -> Tensor:
    """Shares of the patches (B, t, h, w), as ``attention_rollout(model, video).heat``."""
    model = checked(model)
    with inputs_of_mixers(model) as inputs:
        model(video)
    grid, prefix = model.patch_embed.grid_of(video), model.num_prefix_tokens
    length, height, width = grid
    product = None
    for block in [block for block in model.blocks if isinstance(block, Block)]:
        layers = [_matrix(block.attn, inputs)]
        if isinstance(block, DividedBlock):
            layers = [_time(_matrix(block.temporal_attn, inputs), grid, prefix), _space(layers[0], grid, prefix)]
        for layer in layers:
            layer = (layer + torch.eye(layer.shape[-1], dtype=layer.dtype)) / 2
            product = layer if product is None else layer @ product
    assert product is not None
    rows = product[:, 0] if model.tokens.pooling == "class_token" else product[:, prefix:].mean(1)
    if model.single_frames:
        return rearrange(rows[:, prefix:], "(b t) (h w) -> b t h w", t=length, h=height) / length
    order = "t h w" if model.attention_type == "divided_space_time" else model.order
    return rearrange(rows[:, prefix:], f"b ({order}) -> b t h w", t=length, h=height, w=width)


def _matrix(mixer: nn.Module, inputs: dict[nn.Module, Tensor]) -> Tensor:
    """The mean over heads of the attention matrices of a layer: (S, M, M)."""
    layer, x = cast(SelfAttention, mixer), inputs[mixer]
    q, k, _ = rearrange(layer.qkv(x), "b n (three h d) -> three b h n d", three=3, h=layer.num_heads)
    logits = layer.q_norm(q) @ layer.k_norm(k).transpose(-2, -1) * q.shape[-1] ** -0.5
    mask = layer.support_for(x.shape[1] - layer.num_prefix_tokens).to_mask()
    logits = logits.masked_fill(~mask, float("-inf") if layer.masking == "exclude" else 0.0)
    return logits.softmax(-1).mean(1)


def _time(lines: Tensor, grid: Grid, prefix: int) -> Tensor:
    """Attention of each line of t tokens (B·h·w, t, t) as a matrix over all tokens (B, M, M)."""
    length, height, width = grid
    lines = rearrange(lines, "(b p) s u -> b p s u", p=height * width)
    index = torch.arange(length * height * width).view(length, -1)  # of patch p in frame s
    matrix = torch.zeros(lines.shape[0], prefix + index.numel(), prefix + index.numel(), dtype=lines.dtype)
    matrix[:, torch.arange(prefix), torch.arange(prefix)] = 1
    for position in range(height * width):
        at = prefix + index[:, position]
        matrix[:, at[:, None], at[None, :]] = lines[:, position]
    return matrix


def _space(frames: Tensor, grid: Grid, prefix: int) -> Tensor:
    """Attention within each frame (B·t, P+h·w, P+h·w) as a matrix over all tokens (B, M, M)."""
    length, height, width = grid
    frames = rearrange(frames, "(b t) i j -> b t i j", t=length)
    total = prefix + length * height * width
    matrix = torch.zeros(frames.shape[0], total, total, dtype=frames.dtype)
    for frame in range(length):
        own = prefix + frame * height * width + torch.arange(height * width)
        at = torch.cat((torch.arange(prefix), own))
        matrix[:, at[:prefix, None], at[None, :]] += frames[:, frame, :prefix] / length
        matrix[:, own[:, None], at[None, :]] = frames[:, frame, prefix:]
    return matrix
