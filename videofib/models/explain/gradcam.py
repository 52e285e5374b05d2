"""Grad-CAM (Selvaraju et al., arXiv 1610.02391, section 3) over the space-time tokens of a transformer, or the last
feature map of a convolutional network.

With A the feature map and y the logit of a class, the weight of channel d is the mean of ∂y/∂A_d over all positions
(equation 1), and the heat is ReLU(Σ_d weight_d · A_d) (equation 2).

Axes: B batch, T frames, t h w grid of tokens or of the feature map, P prefix tokens, N = t·h·w, D channels, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from videofib.models.intermediates import Layout
from videofib.models.timesformer import TimeSformer


@dataclass(frozen=True)
class _Layer:
    """Where the feature map is: what a module gets, or, with ``after``, returns."""

    module: nn.Module
    to_map: Callable[[Tensor, Any], Tensor]  # what is there, and what comes beside it -> (B, D, t, h, w)
    after: bool = False


def grad_cam(model: nn.Module, video: Tensor, classes: Tensor, *, block: int | None = None) -> tuple[Tensor, Tensor]:
    """The heat of clips for a class of each, by a model in evaluation mode.

    Args:
        video: (B, C, T, H, W).
        classes: (B,) indices of classes.
        block: of a TimeSformer, the block that takes these tokens, counted from 0, or from the end below 0; the number
            of blocks means what the last one returns. By default the last tokens whose patches have an influence on
            the logits: those that the last block takes, or, where features are the mean of the patches, returns.

    Returns:
        Heat (B, t, h, w), 0 or more, in no unit, and the logits (B, K).

    Raises:
        ValueError: a model without such a feature map, no such block, or one behind which patches have no influence.
    """
    layer = _layer(model, video, block)
    kept: list[Tensor] = []
    beside: list[Any] = []

    def take(found: tuple) -> tuple:
        """Cut the graph here, so that the gradient with respect to what is found can be computed."""
        first, *rest = found
        paths = list(first) if isinstance(first, list) else [first]  # of SlowFast, whose slow one comes first
        paths[0] = paths[0].detach().requires_grad_()
        kept.append(paths[0])
        beside.extend(rest)
        return (paths if isinstance(first, list) else paths[0], *rest)

    if layer.after:
        handle = layer.module.register_forward_hook(lambda module, arguments, out: take(out))
    else:
        handle = layer.module.register_forward_pre_hook(lambda module, arguments: take(arguments))
    with torch.enable_grad():
        try:
            logits = model(video)
        finally:
            handle.remove()
        score = logits.gather(1, classes.to(logits.device)[:, None]).sum()
        (gradient,) = torch.autograd.grad(score, kept[0])
    features, gradient = layer.to_map(kept[0].detach(), beside), layer.to_map(gradient, beside)
    weights = gradient.mean(dim=(2, 3, 4), keepdim=True)
    return (weights * features).sum(dim=1).relu(), logits.detach()


def last_block(model: TimeSformer) -> int:
    """The default of :func:`grad_cam`'s ``block``, as a number from 0."""
    if (first := model.first_reduction()) is not None:
        return first  # behind it there are fewer tokens than patches
    if model.tokens.pooling != "class_token":
        return len(model.blocks)
    return max(int(name.partition(".")[0]) for name in model.blocks.mixers())  # later blocks show it no patches


def _layer(model: nn.Module, video: Tensor, block: int | None) -> _Layer:
    if isinstance(model, TimeSformer):
        model.tokens.check_all()
        return _tokens(model, video, block)
    if block is not None:
        raise ValueError(f"a block can be chosen of a TimeSformer alone, got {type(model).__name__}; leave block out")
    module = getattr(model, "takes_last_map", None)
    if not isinstance(module, nn.Module):
        raise ValueError(f"Grad-CAM serves TimeSformer and the baselines, got {type(model).__name__}")
    return _Layer(module, _map)


def _tokens(model: TimeSformer, video: Tensor, block: int | None) -> _Layer:
    depth, last = len(model.blocks), last_block(model)
    if block is not None and not -depth <= block <= depth:
        raise ValueError(f"no block {block} in a model of {depth}; name {-depth} to {last}")
    block = last if block is None else block % depth if block < 0 else block
    if block > last and model.first_reduction() is not None:
        raise ValueError(f"block {block} has fewer tokens than there are patches; name {-depth} to {last}")
    if block > last:
        raise ValueError(
            f"patches that the last block returns have no influence on the class token; name {-depth} to {last}"
        )
    layout = Layout(model.patch_embed.grid_of(video), model.num_prefix_tokens, model.order, model.single_frames)
    return _Layer(
        model.blocks[min(block, depth - 1)],
        lambda tokens, beside: layout.split(tokens, "NCTHW")[0],
        after=block == depth,
    )


def _map(found: Tensor, beside: list[Any]) -> Tensor:
    """A feature map as it is; tokens (B, 1+N, D), a class token first, beside their grid (t, h, w) as one."""
    if found.ndim == 5:
        return found
    return found[:, 1:].mT.unflatten(2, tuple(beside[0]))
