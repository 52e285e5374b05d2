"""Efficient attention: values are summed over all tokens into one context per feature of keys (arXiv 1812.01243).

Axes: B batch, H heads, S = P+N tokens, D and E the widths of a head's keys and values.
"""

from __future__ import annotations

from torch import Tensor

from videofib.mixers.linear_attention import LinearAttention
from videofib.mixers.mixer import Grid, LayerSpec, Mixer


def efficient_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """ρ_q(q) (ρ_k(k)ᵀ v), ρ_q the softmax over features and ρ_k that over tokens: section 3.2 of the paper.

    Args:
        q, k: (B, H, S, D); they are not scaled.
        v: (B, H, S, E).

    Returns:
        (B, H, S, E).
    """
    contexts = k.softmax(dim=-2).transpose(-2, -1) @ v  # (B, H, D, E)
    return q.softmax(dim=-1) @ contexts


class EfficientAttention(LinearAttention):
    """Every head has D contexts, weighted means of all values, and a token receives its own mixture of them.

    Prefix tokens take part like any others.

    Args:
        layer: the layer it is built for.
        key_width, value_width: of all heads together; by default that of tokens, so that weights of softmax attention
            load. The paper's contexts are cheaper for narrow keys.

    Raises:
        ValueError: a width not divisible by the number of heads; dropout of attention weights, of which it has none.
    """

    def __init__(self, layer: LayerSpec, *, key_width: int | None = None, value_width: int | None = None):
        super().__init__(layer, key_width=key_width, value_width=value_width)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, H, S, D) and (B, H, S, E) -> (B, H, S, E)."""
        return efficient_attention(q, k, v)

    def multiply_adds(self, grid: Grid) -> int:
        """Of one sequence: projections, and two products of S tokens with contexts (D, E) of each head."""
        key_width, _, value_width = self.widths
        return self.projections(grid) + 2 * self.sequence(grid) * key_width * value_width // self.num_heads

    def extra_repr(self) -> str:
        key_width, _, value_width = self.widths
        return f"num_heads={self.num_heads}, key_width={key_width}, value_width={value_width}"


MIXER = Mixer(
    build=EfficientAttention,
    paper="arXiv 1812.01243",
    multiply_adds=EfficientAttention.multiply_adds,
    serves=frozenset({"class_token"}),
)
