"""Self-attention over a :class:`~videofib.attention.Support`, as a mixer: the base of all whose pairs are fixed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from videofib.attention import ContextGroup, SelfAttention, Support, check_mode
from videofib.mixers.mixer import Grid, LayerSpec


class SupportAttention(SelfAttention):
    """Self-attention whose pairs of query and key depend on the number of tokens alone.

    Args:
        layer: the layer it is built for.
        support: a function that returns the support for N patch tokens.
        masking, backend: see :func:`videofib.attention.sparse_attention`.

    Raises:
        ValueError: no support for the layer's tokens, an unknown name.
    """

    def __init__(
        self, layer: LayerSpec, support: Callable[[int], Support], *, masking: str = "exclude", backend: str = "auto"
    ):
        support(math.prod(layer.grid))  # bad options fail now, not in the first pass
        super().__init__(
            layer.dim,
            layer.num_heads,
            support,
            num_prefix_tokens=layer.num_prefix_tokens,
            qkv_bias=layer.qkv_bias,
            qk_norm=layer.qk_norm,
            attn_drop=layer.attn_drop,
            proj_drop=layer.proj_drop,
            masking=masking,
            backend=backend,
        )
        self.num_patches = math.prod(layer.grid)  # of the clips that the model is built for
        self.context: ContextGroup | None = None

    def share_tokens(self, context: ContextGroup) -> None:
        """From now on ``forward`` takes and returns this process's slice of the P+N tokens.

        Raises:
            ValueError: a mode that does not serve this attention, or fewer heads than processes.
        """
        mode = context.mode
        if not self.is_plain and mode in ("ring", "halo"):
            raise ValueError(
                f"mode {mode!r} of context parallelism computes plain attention only, not {type(self).__name__}; set "
                "mode 'heads' or 'auto'"
            )
        support = self.support_for(self.num_patches)
        check_mode(mode if self.is_plain else "heads", support, context.size, self.backend)
        self.context = context

    @property
    def is_plain(self) -> bool:
        """Whether the layer attends by :func:`videofib.attention.sparse_attention` and nothing else."""
        return type(self).attend is SelfAttention.attend

    def forward(self, x: Tensor, grid: Grid, state: Any = None) -> tuple[Tensor, Any]:  # type: ignore[override]
        """(B, P+N, D) -> (B, P+N, D), or (B, n, D) -> (B, n, D) for the n local tokens; the state is not used."""
        tokens = None
        if self.context is not None:
            tokens = self.context.slice(self.num_prefix_tokens + math.prod(grid))
        return super().forward(x, tokens), state

    def multiply_adds(self, grid: Grid) -> int:
        """Of one sequence: four products of N tokens with D x D weights, and two over the pairs of each head."""
        dim, num_patches = self.proj.in_features, math.prod(grid)
        pairs = self.support_for(num_patches).num_pairs()
        return 4 * (self.num_prefix_tokens + num_patches) * dim**2 + 2 * pairs * (dim // self.num_heads)
