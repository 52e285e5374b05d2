"""What each head gives to its block, and what the model says without some heads.

Axes: B clips, r sequences of a clip (its frames, or its lines over time), P prefix tokens, N patches of a sequence, C =
H·D the heads side by side, L layers, U sets of removed heads, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from videofib.models.heads.layers import HeadLayer
from videofib.models.timesformer import TimeSformer

Head = tuple[int, int]  # a layer, in the list of layers, and a row of it


class HeadOutputs(nn.Module):
    """Clips -> the pooled outputs of all heads in front of the output projections, and the logits: (B, Σ C + K).

    Outputs are pooled as the model pools: the class token's where features come from it and it is in the sequence,
    otherwise the mean of the patches; then the mean of a clip's frames or lines. Each layer's heads are in its order.

    Args:
        model: in evaluation mode, not compiled.
        layers: of that model, see :func:`~videofib.models.heads.layers.head_layers`.
        patches: take the mean of the patches in any case. A class token sees all patches in every head, so that only
            patches' outputs depend on the pairs that a head sees in the same layer.
    """

    def __init__(self, model: TimeSformer, layers: Sequence[HeadLayer], *, patches: bool = False):
        super().__init__()
        self.model, self.layers = model, list(layers)
        self.from_class_token = model.pooling == "class_token" and not patches

    @torch.no_grad()
    def forward(self, video: Tensor) -> Tensor:
        found: dict[str, Tensor] = {}
        with ExitStack() as stack:
            for layer in self.layers:
                stack.enter_context(self._kept(layer, video.shape[0], found))
            logits = self.model(video)
        return torch.cat([*(found[layer.name] for layer in self.layers), logits], dim=1)

    def split(self, outputs: Tensor) -> tuple[list[Tensor], Tensor]:
        """(..., Σ C + K) -> (..., C) of each layer, and logits (..., K)."""
        widths = [layer.width for layer in self.layers]
        *features, logits = outputs.split([*widths, outputs.shape[-1] - sum(widths)], dim=-1)
        return features, logits

    @contextmanager
    def _kept(self, layer: HeadLayer, batch: int, found: dict[str, Tensor]) -> Iterator[None]:
        patches: list[int] = []

        def note(mixer: nn.Module, arguments: tuple) -> None:
            patches[:] = [math.prod(arguments[1])]

        def keep(proj: nn.Module, arguments: tuple) -> None:
            x = rearrange(arguments[0], "(b r) n (h d) -> b r n h d", b=batch, h=layer.num_heads)[..., layer.order, :]
            if self.from_class_token and x.shape[2] > patches[0]:
                x = x[:, :, 0].mean(1)
            else:
                x = x[:, :, -patches[0] :].mean((1, 2))
            found[layer.name] = x.flatten(1)

        handles = [layer.mixer.register_forward_pre_hook(note), layer.proj.register_forward_pre_hook(keep)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class Ablated(nn.Module):
    """Clips -> the logits without each of U sets of heads: (B, U, K), by U forward passes.

    Args:
        model, layers: as of :class:`HeadOutputs`.
        sets: the heads of each.
    """

    def __init__(self, model: TimeSformer, layers: Sequence[HeadLayer], sets: Sequence[Sequence[Head]]):
        super().__init__()
        self.model, self.layers, self.sets = model, list(layers), [list(heads) for heads in sets]

    @torch.no_grad()
    def forward(self, video: Tensor) -> Tensor:
        found = []
        for heads in self.sets:
            with without_heads(self.layers, heads):
                found.append(self.model(video))
        return torch.stack(found, dim=1)


@contextmanager
def without_heads(layers: Sequence[HeadLayer], heads: Sequence[Head]) -> Iterator[None]:
    """Within the block the outputs of these heads are zero, which is what zero columns of ``proj.weight`` would do."""
    kept: dict[int, Tensor] = {}
    for index, row in heads:
        proj = layers[index].proj
        mask = kept.setdefault(index, torch.ones(proj.in_features, dtype=torch.bool, device=proj.weight.device))
        mask[layers[index].columns(row)] = False

    def hook(mask: Tensor) -> Any:
        return lambda proj, arguments: (arguments[0].masked_fill(~mask, 0.0), *arguments[1:])

    handles = [layers[index].proj.register_forward_pre_hook(hook(mask)) for index, mask in kept.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
