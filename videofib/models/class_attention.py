"""A class token that joins behind the blocks and reads the patches (CaiT, arXiv 2103.17239, section 3).

Axes: B batch, n tokens, the class token first, N patches, D width, h heads, d width of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from timm.layers import Mlp
from torch import Tensor, nn

from videofib.mixers import LayerSpec
from videofib.models.blocks import ACTIVATIONS, BlockSpec
from videofib.models.embed import join_prefix

NUM_BLOCKS = 2  # as in CaiT, XCiT and ToST


class ClassAttention(nn.Module):
    """Attention of the class token to itself and all patches: (B, n, D) -> (B, 1, D).

    Args:
        layer: the width, the heads, the bias and the dropout of the projections; their names are those of a ViT.

    Raises:
        ValueError: a width that is not divisible by the number of heads.
    """

    def __init__(self, layer: LayerSpec):
        super().__init__()
        if layer.num_heads < 1 or layer.dim % layer.num_heads:
            raise ValueError(
                f"the width must be divisible by the number of heads, got embed_dim={layer.dim}, "
                f"num_heads={layer.num_heads}"
            )
        self.num_heads, self.attn_drop = layer.num_heads, layer.attn_drop
        self.qkv = nn.Linear(layer.dim, 3 * layer.dim, bias=layer.qkv_bias)
        self.proj = nn.Linear(layer.dim, layer.dim)
        self.proj_drop = nn.Dropout(layer.proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.num_heads)
        dropout = self.attn_drop if self.training else 0.0
        out = F.scaled_dot_product_attention(q[:, :, :1], k, v, dropout_p=dropout)
        return self.proj_drop(self.proj(rearrange(out, "b h one d -> b one (h d)")))


class ClassAttentionBlock(nn.Module):
    """Class attention, then an MLP on the class token, as in XCiT's and ToST's code: (B, n, D) -> (B, n, D).

    In two respects that code goes beyond the paper: the norm in front of the MLP replaces the tokens instead of feeding
    a branch only, and the patches are doubled where the class token receives the MLP's output.

    Args:
        layer: of the attention.
        spec: of the rest.
        tokens_norm: whether the second norm is of all tokens or of the class token alone.

    Raises:
        ValueError: see :class:`ClassAttention`.
    """

    def __init__(self, layer: LayerSpec, spec: BlockSpec, *, tokens_norm: bool = True):
        super().__init__()
        self.tokens_norm = tokens_norm
        self.norm1 = spec.norm()
        self.attn = ClassAttention(layer)
        self.ls1 = spec.scale()
        self.norm2 = spec.norm()
        self.mlp = Mlp(spec.dim, int(spec.dim * spec.mlp_ratio), act_layer=ACTIVATIONS[spec.activation], drop=spec.drop)
        self.ls2 = spec.scale()

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        x = x + self.ls1(torch.cat((self.attn(normed), normed[:, 1:]), dim=1))
        x = self.norm2(x) if self.tokens_norm else torch.cat((self.norm2(x[:, :1]), x[:, 1:]), dim=1)
        return x + torch.cat((self.ls2(self.mlp(x[:, :1])), x[:, 1:]), dim=1)


class ClassAttentionPooling(nn.Module):
    """Features of a class token that reads the patches through class-attention blocks: (B, N, D) -> (B, D).

    Args:
        layer, spec, tokens_norm: as for :class:`ClassAttentionBlock`.
        num_blocks: the number of blocks.
    """

    def __init__(self, layer: LayerSpec, spec: BlockSpec, *, num_blocks: int = NUM_BLOCKS, tokens_norm: bool = True):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, layer.dim))
        blocks = [ClassAttentionBlock(layer, spec, tokens_norm=tokens_norm) for _ in range(num_blocks)]
        self.blocks = nn.Sequential(*blocks)

    def forward(self, patches: Tensor) -> Tensor:
        return self.blocks(join_prefix(self.cls_token, patches))[:, 0]
