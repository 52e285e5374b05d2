"""BiXT's block: latents and patches attend to each other, then latents to themselves (arXiv 2402.12138, section 3).

    latents ──┬─ cross-attention ── MLP ── self-attention ── MLP ──
    patches ──┴─ cross-attention ── MLP ───────────────────────────

Each side has its own norms and MLP, so in a layer latents pass two MLPs and patches one. In a model's last block the
attention is one-sided: patches are not updated, and features are the mean of the latents.

Axes: B batch, M latents, N patches, D_l, D_p the widths of a latent and a patch.
"""

from __future__ import annotations

from timm.layers import DropPath, Mlp
from torch import Tensor, nn

from videofib.mixers.bixt import CrossAttention
from videofib.models.blocks import ACTIVATIONS, Block, BlockSpec


class CrossBlock(nn.Module):
    """Cross-attention between latents and patches, then an MLP on each side; published parameter names.

    Args:
        attn: the attention; if it is one-sided, there is neither attention's output nor MLP for patches.
        latents, patches: sizes and rates of the norms and MLPs of each side.
        drop_path: probability of skipping a residual branch, for each sample (stochastic depth).
    """

    def __init__(self, attn: CrossAttention, latents: BlockSpec, patches: BlockSpec, drop_path: float):
        super().__init__()
        self.norm1_lat, self.norm1_pat = latents.norm(), patches.norm()
        self.attn = attn
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.ls1_lat, self.norm2_lat, self.mlp_lat, self.ls2_lat = _mlp_branch(latents)
        if not attn.one_sided:
            self.ls1_pat, self.norm2_pat, self.mlp_pat, self.ls2_pat = _mlp_branch(patches)

    def forward(self, latents: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (B or 1, M, D_l) and patches (B, N, D_p) -> (B, M, D_l) and (B, N, D_p)."""
        for_latents, for_patches = self.attn(self.norm1_lat(latents), self.norm1_pat(patches))
        latents = latents + self.drop_path(self.ls1_lat(for_latents))
        latents = latents + self.drop_path(self.ls2_lat(self.mlp_lat(self.norm2_lat(latents))))
        if for_patches is not None:
            patches = patches + self.drop_path(self.ls1_pat(for_patches))
            patches = patches + self.drop_path(self.ls2_pat(self.mlp_pat(self.norm2_pat(patches))))
        return latents, patches


class LatentBlock(nn.Module):
    """A block of BiXT; published parameter names.

    Args:
        cross: between latents and patches.
        own: of the latents alone: a mixer of M tokens without a prefix, in a block.
    """

    def __init__(self, cross: CrossBlock, own: Block):
        super().__init__()
        self.cross_attention_latents_token = cross
        self.self_attention_latents = own

    def forward(self, latents: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (B or 1, M, D_l) and patches (B, N, D_p) -> both; one-sided, the patches are returned as they are."""
        latents, patches = self.cross_attention_latents_token(latents, patches)
        latents, _ = self.self_attention_latents(latents, (1, 1, latents.shape[1]), {})
        return latents, patches


def _mlp_branch(spec: BlockSpec) -> tuple[nn.Module, nn.Module, nn.Module, nn.Module]:
    """The scale of the branch of attention; norm, MLP and scale of the branch after it."""
    mlp = Mlp(spec.dim, int(spec.dim * spec.mlp_ratio), act_layer=ACTIVATIONS[spec.activation], drop=spec.drop)
    return spec.scale(), spec.norm(), mlp, spec.scale()
