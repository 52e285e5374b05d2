"""BiXT: latents and patches attend to each other, by one matrix of logits (arXiv 2402.12138, section 3.2).

Each side makes one reference, which is query and key in one, and a value. With references R and values V::

    S = R_latents R_patchesᵀ / √d                        of each head, (M, N)
    latents' = softmax over patches (S)  V_patches
    patches' = softmax over latents (Sᵀ) V_latents

so that a patch sees latents only, and a latent patches only; time and memory are linear in N. As a mixer, the latents
are the prefix tokens. Axes: B batch, M latents, N patches, H heads, D_l, D_p widths of a latent and a patch, D_a inner
width, d = D_a / H.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from videofib.mixers.mixer import Grid, LayerSpec, Mixer


class CrossAttention(nn.Module):
    """Attention between latents and patches, in both directions or from the latents alone; published parameter names.

    Logits are computed once for each direction and never kept, so memory is O(M + N).

    Args:
        dim_latents, dim_patches, dim_attn: D_l, D_p and D_a.
        num_heads: H; must divide ``dim_attn``.
        rv_bias: whether the projections to references and values have a bias.
        attn_drop, proj_drop: dropout of attention weights and of the outputs, in training.
        one_sided: latents attend to patches, and patches are not updated, as in a model's last layer; the latents
            then have no values.

    Raises:
        ValueError: ``dim_attn`` not divisible by ``num_heads``.
    """

    def __init__(
        self,
        dim_latents: int,
        dim_patches: int,
        dim_attn: int,
        num_heads: int,
        *,
        rv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        one_sided: bool = False,
    ):
        super().__init__()
        if num_heads < 1 or dim_attn % num_heads:
            raise ValueError(
                f"the width of attention must be divisible by num_heads, got {dim_attn} and num_heads={num_heads}"
            )
        self.num_heads, self.attn_drop, self.one_sided = num_heads, attn_drop, one_sided
        if one_sided:
            self.r_latents = nn.Linear(dim_latents, dim_attn, bias=rv_bias)
        else:
            self.rv_latents = nn.Linear(dim_latents, 2 * dim_attn, bias=rv_bias)
            self.proj_pat = nn.Linear(dim_attn, dim_patches)
        self.rv_patches = nn.Linear(dim_patches, 2 * dim_attn, bias=rv_bias)
        self.proj_lat = nn.Linear(dim_attn, dim_latents)
        self.proj_drop = nn.Dropout(proj_drop)

    def reset_parameters(self) -> None:
        """The published initial values: Xavier's uniform weights, zero biases."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, latents: Tensor, patches: Tensor) -> tuple[Tensor, Tensor | None]:
        """Latents (B or 1, M, D_l) and patches (B, N, D_p) -> updates of both; one-sided, None for the patches."""
        latents = latents.expand(patches.shape[0], -1, -1)  # fused kernels do not broadcast
        r_patches, v_patches = self._heads(self.rv_patches(patches), 2)
        if self.one_sided:
            (r_latents,) = self._heads(self.r_latents(latents), 1)
            return self._attended(r_latents, r_patches, v_patches, self.proj_lat), None
        r_latents, v_latents = self._heads(self.rv_latents(latents), 2)
        return (
            self._attended(r_latents, r_patches, v_patches, self.proj_lat),
            self._attended(r_patches, r_latents, v_latents, self.proj_pat),
        )

    def _heads(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(B, n, parts·D_a) -> ``parts`` tensors (B, H, n, d), references first."""
        return tuple(rearrange(x, "b n (parts h d) -> parts b h n d", parts=parts, h=self.num_heads))

    def _attended(self, queries: Tensor, keys: Tensor, values: Tensor, proj: nn.Linear) -> Tensor:
        """(B, H, n, d) and twice (B, H, m, d) -> (B, n, D), projected."""
        dropout_p = self.attn_drop if self.training else 0.0
        out = F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout_p)
        return self.proj_drop(proj(rearrange(out, "b h n d -> b n (h d)")))


class Bixt(CrossAttention):
    """Prefix tokens as latents: they attend to the patches, and the patches to them; it has no options.

    Prefix tokens exchange nothing among themselves, and patches only through them. The mechanism is as published; the
    block around it is ours: prefix and patches share its norms and MLP, where the paper's has its own for each side and
    self-attention among latents (:class:`videofib.models.latent_block.LatentBlock`).

    Args:
        layer: the layer it is built for; its ``qkv_bias`` is that of references and values.

    Raises:
        ValueError: a width not divisible by the number of heads, no prefix tokens, or ``qk_norm``.
    """

    def __init__(self, layer: LayerSpec):
        if layer.num_prefix_tokens < 1:
            raise ValueError(
                f"bixt mixes through prefix tokens, got num_prefix_tokens={layer.num_prefix_tokens}; give the model a "
                "class token or registers"
            )
        if layer.qk_norm is not None:
            raise ValueError(
                f"bixt has references instead of queries and keys, which are not normalised, got qk_norm="
                f"{layer.qk_norm}; leave qk_norm out"
            )
        super().__init__(
            layer.dim,
            layer.dim,
            layer.dim,
            layer.num_heads,
            rv_bias=layer.qkv_bias,
            attn_drop=layer.attn_drop,
            proj_drop=layer.proj_drop,
        )
        self.num_prefix_tokens = layer.num_prefix_tokens

    def forward(self, x: Tensor, grid: Grid, state: Any = None) -> tuple[Tensor, Any]:  # type: ignore[override]
        """(B, P+N, D) -> (B, P+N, D); neither the grid nor the state is used."""
        latents, patches = x[:, : self.num_prefix_tokens], x[:, self.num_prefix_tokens :]
        return torch.cat(super().forward(latents, patches), dim=1), state

    def multiply_adds(self, grid: Grid) -> int:
        """Of one sequence: three products of P+N tokens with D x D weights, and two over P·N pairs for each side.

        The paper counts the logits once, for both sides; they are computed twice, so that no N x P matrix is kept.
        """
        dim, latents, patches = self.proj_lat.in_features, self.num_prefix_tokens, math.prod(grid)
        return 3 * (latents + patches) * dim**2 + 4 * latents * patches * dim


MIXER = Mixer(
    build=Bixt,
    paper="arXiv 2402.12138",
    multiply_adds=Bixt.multiply_adds,
    needs=frozenset({"prefix"}),
    serves=frozenset({"class_token"}),
)
