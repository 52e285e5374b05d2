"""How different the attention maps of two heads are: the Jensen-Shannon divergence of what a query attends to.

Axes: B clips, r sequences of a clip, s some of them, n = P+N tokens of a sequence, Q some of its queries, C width, H
heads, L layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from videofib.attention import SelfAttention
from videofib.models.heads.layers import HeadLayer
from videofib.models.timesformer import TimeSformer

_SEQUENCES, _QUERIES = 4, 16  # of a clip, and of a sequence: evenly spaced


class MapDivergence(nn.Module):
    """Clips -> the divergence of each two heads' maps, in bits from 0 to 1, the mean over queries: (B, L, H, H).

    0: the two heads attend alike; 1: they attend to nothing in common. Sixteen evenly spaced queries of each sequence,
    with class token and registers, and at most four sequences of a clip. NaN for layers without maps over a support
    (see :func:`has_maps`).

    Args:
        model, layers: as of :class:`~videofib.models.heads.outputs.HeadOutputs`; all layers have as many heads.
    """

    def __init__(self, model: TimeSformer, layers: Sequence[HeadLayer]):
        super().__init__()
        self.model, self.layers = model, list(layers)

    @torch.no_grad()
    def forward(self, video: Tensor) -> Tensor:
        inputs: dict[str, Tensor] = {}

        def keep(name: str):
            return lambda mixer, arguments: inputs.__setitem__(name, arguments[0])

        handles = [layer.mixer.register_forward_pre_hook(keep(layer.name)) for layer in self.layers]
        try:
            self.model(video)
        finally:
            for handle in handles:
                handle.remove()
        return torch.stack([self._of(layer, inputs[layer.name], len(video)) for layer in self.layers], dim=1)

    @staticmethod
    def _of(layer: HeadLayer, x: Tensor, batch: int) -> Tensor:
        if not has_maps(layer):
            return x.new_full((batch, layer.num_heads, layer.num_heads), float("nan"))
        mixer = cast(SelfAttention, layer.mixer)
        x = rearrange(x, "(b r) n c -> b r n c", b=batch)
        x = x[:, _spaced(x.shape[1], _SEQUENCES)]
        prefix = mixer.num_prefix_tokens
        queries = [*range(prefix), *(prefix + i for i in _spaced(x.shape[2] - prefix, _QUERIES))]
        found = []
        for clip in x:  # a clip at a time: its tokens are repeated for each query
            rows = attention_rows(mixer, clip, queries)[:, :, list(layer.order)]
            found.append(jensen_shannon(rows))
        return torch.stack(found)


def has_maps(layer: HeadLayer) -> bool:
    """Whether a layer's attention is a softmax over a support, whose maps can be compared."""
    return isinstance(layer.mixer, SelfAttention)


def attention_rows(mixer: SelfAttention, x: Tensor, queries: Sequence[int]) -> Tensor:
    """What each of Q queries attends to, in each head: (s, n, C) -> (s, Q, H, n), of sum 1."""
    chosen = torch.eye(x.shape[1], device=x.device)[list(queries)]
    weights = repeat(chosen, "q n -> (s q) n", s=len(x))
    rows = mixer.weighted_rows(repeat(x, "s n c -> (s q) n c", q=len(queries)), weights)
    return rearrange(rows, "(s q) h n -> s q h n", q=len(queries))


def jensen_shannon(rows: Tensor) -> Tensor:
    """The divergence of each two heads in bits, the mean over sequences and queries: (s, Q, H, n) -> (H, H).

    JS(a, b) = S((a + b) / 2) - (S(a) + S(b)) / 2 with the entropy S (Lin, IEEE Trans. Inf. Theory 37, 1991).
    """
    rows = rows.double()

    def entropy(p: Tensor) -> Tensor:
        return -torch.xlogy(p, p).sum(-1) / torch.log(p.new_tensor(2.0))

    own = entropy(rows)  # s Q H
    found = []
    for head in range(rows.shape[2]):
        middle = entropy((rows[:, :, head : head + 1] + rows) / 2)
        found.append((middle - (own[:, :, head : head + 1] + own) / 2).mean((0, 1)))
    return torch.stack(found).clamp(min=0.0)


def _spaced(count: int, wanted: int) -> list[int]:
    wanted = min(count, wanted)
    return [i * count // wanted for i in range(wanted)]
