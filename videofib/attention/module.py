"""The attention layer of a transformer block."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from videofib.attention.backends import BACKENDS, MASKINGS
from videofib.attention.context import TokenSlice, context_parallel_attention
from videofib.attention.functional import sparse_attention
from videofib.attention.rows import weighted_rows
from videofib.attention.support import Support


class SelfAttention(nn.Module):
    """Multi-head self-attention over a support; parameters named as timm's and TimeSformer's (qkv, proj).

    Args:
        dim: token width C.
        num_heads: H; must divide ``dim``.
        support: a :class:`Support`, which fixes the number of tokens, or a function that returns the support for N
            patch tokens, so that the layer takes any N.
        num_prefix_tokens: P, tokens in front of the patches, as in the support.
        qkv_bias: whether the qkv projection has a bias.
        qk_norm: None, or the epsilon of layer norms over each head's queries and keys (arXiv 2302.05442, section 2).
        attn_drop, proj_drop: dropout of the attention weights and of the output, in training.
        masking, backend: see :func:`sparse_attention`.

    Raises:
        ValueError: ``dim`` not divisible by ``num_heads``, a support for another number of heads or prefix tokens, an
            unknown name.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        support: Support | Callable[[int], Support],
        *,
        num_prefix_tokens: int = 1,
        qkv_bias: bool = True,
        qk_norm: float | None = None,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        masking: str = "exclude",
        backend: str = "auto",
    ):
        super().__init__()
        if num_heads < 1 or dim % num_heads:
            raise ValueError(f"dim must be divisible by num_heads, got dim={dim}, num_heads={num_heads}")
        if isinstance(support, Support) and (support.num_heads, support.num_prefix_tokens) != (
            num_heads,
            num_prefix_tokens,
        ):
            raise ValueError(
                f"the layer has num_heads={num_heads}, num_prefix_tokens={num_prefix_tokens}; the support is {support}"
            )
        if masking not in MASKINGS:
            raise ValueError(f"unknown masking {masking!r}; known: {', '.join(MASKINGS)}")
        if backend not in ("auto", *BACKENDS):
            raise ValueError(f"unknown backend {backend!r}; known: auto, {', '.join(BACKENDS)}")
        self.num_heads, self.num_prefix_tokens = num_heads, num_prefix_tokens
        self.support, self.masking, self.backend, self.attn_drop = support, masking, backend, attn_drop
        self._supports: dict[int, Support] = {}
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.q_norm = nn.Identity() if qk_norm is None else nn.LayerNorm(dim // num_heads, eps=qk_norm)
        self.k_norm = nn.Identity() if qk_norm is None else nn.LayerNorm(dim // num_heads, eps=qk_norm)
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def support_for(self, num_tokens: int) -> Support:
        """The support used for N patch tokens."""
        if isinstance(self.support, Support):
            return self.support
        if torch.compiler.is_compiling():  # N is a constant of the graph, and tracing must not change the cache
            return self.support(num_tokens)
        if num_tokens not in self._supports:
            self._supports[num_tokens] = self.support(num_tokens)
        return self._supports[num_tokens]

    def forward(self, x: Tensor, tokens: TokenSlice | None = None) -> Tensor:
        """(B, P+N, C) -> (B, P+N, C).

        With context parallelism x holds the local ``tokens`` of the sequence: (B, n, C) -> (B, n, C).
        """
        total = x.shape[1] if tokens is None else tokens.total
        attend = self.attend
        if tokens is not None:
            own = {} if type(self).attend is SelfAttention.attend else {"attend": attend}
            attend = partial(context_parallel_attention, tokens=tokens, **own)
        q, k, v = self._projected(x)
        out = attend(
            q,
            k,
            v,
            self.support_for(total - self.num_prefix_tokens),
            masking=self.masking,
            dropout_p=self.attn_drop if self.training else 0.0,
            backend=self.backend,
        )
        return self.proj_drop(self.proj(rearrange(out, "b h n d -> b n (h d)")))

    def attend(self, q: Tensor, k: Tensor, v: Tensor, support: Support, **options: Any) -> Tensor:
        """What the layer does with queries, keys and values: :func:`sparse_attention`, unless a subclass differs."""
        return sparse_attention(q, k, v, support, **options)

    def weighted_rows(self, x: Tensor, weights: Tensor) -> Tensor:
        """Rows of each head's attention matrix, weighted by (B, P+N) and summed: (B, P+N, C) -> (B, H, P+N).

        See :func:`videofib.attention.weighted_rows`.
        """
        q, k, _ = self._projected(x)
        support = self.support_for(x.shape[1] - self.num_prefix_tokens)
        return weighted_rows(weights, q, k, support, masking=self.masking)

    def _projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, P+N, C) -> queries, keys and values (B, H, P+N, D), normalised where the layer does so."""
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.num_heads)
        # under CUDA's autocast layer norms return 32 bits, and v has 16
        return self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype), v

    def extra_repr(self) -> str:
        if isinstance(self.support, Support):
            shown = repr(self.support)
        else:
            shown = getattr(self.support, "__name__", None) or repr(self.support)
        return (
            f"num_heads={self.num_heads}, support={shown}, num_prefix_tokens={self.num_prefix_tokens}, "
            f"masking={self.masking!r}, backend={self.backend!r}"
        )
