"""TimeSformer (arXiv 2102.05095) whose space-time attention may be Fibottention (arXiv 2406.19391).

Axes: B batch, C channels, T frames, H W image, h w patch grid, N tokens without the class token, D width, K classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from videofib.attention import SelfAttention, Support
from videofib.models.blocks import NORM_EPS, Block, DividedBlock
from videofib.models.embed import PatchEmbed, join_class_token, resize_grid, resize_time

ATTENTION_TYPES = ("divided_space_time", "joint_space_time", "space_only")
TOKEN_ORDERS = {"hwt": "h w t", "thw": "t h w"}
ATTENTIONS = ("dense", "fibottention")
FIBOTTENTION_SETTINGS = ("w_min", "w_max", "variant", "head_order", "masking")


class TimeSformer(nn.Module):
    """Video transformer: (B, C, T, H, W) -> logits (B, K).

    With dense attention its parameters, their names and its outputs are those of the published TimeSformer.

    Args:
        img_size: frame size in pixels, one number or (height, width); other sizes work, too, with the position
            embedding resized in 2-D.
        patch_size, in_chans, num_classes: P, C, K; ``num_classes=0`` returns the features (B, D).
        num_frames: T; other lengths work, too, with the time embedding resized in 1-D.
        embed_dim, depth, num_heads, mlp_ratio, qkv_bias: size of the transformer, as in timm.
        drop_rate, attn_drop_rate, drop_path_rate: dropout of tokens and MLPs, of attention weights, and stochastic
            depth, growing linearly to this rate in the last block.
        attention_type: ``divided_space_time``, ``joint_space_time`` or ``space_only`` (frames on their own,
            features averaged over them).
        space_attention, time_attention, joint_attention: ``dense`` or ``fibottention``; the first two serve divided
            attention (the first also space-only), the third joint attention, where Fibottention runs over all
            T·h·w tokens.
        fibottention: keywords of :meth:`Support.fibottention` (w_min, w_max, variant, head_order) and ``masking``.
        token_order: how joint tokens are laid along Fibottention's diagonals: ``hwt`` puts the frames of a patch side
            by side, as published; ``thw`` puts frame after frame. Without Fibottention it changes nothing.
        position_init_std: standard deviation that position and time embeddings start with; by default as published,
            0.02 (more in narrow models) and zero. Trained from scratch, 0.5 finds sooner that places and times matter.
        gradient_checkpointing: recompute blocks in the backward pass, for memory.
        attention_backend: see :func:`videofib.attention.sparse_attention`.

    Raises:
        ValueError: sizes that do not divide, unknown names; the message shows them.
    """

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        in_chans: int = 3,
        num_classes: int = 400,
        num_frames: int = 8,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        attention_type: str = "divided_space_time",
        space_attention: str = "dense",
        time_attention: str = "dense",
        joint_attention: str = "dense",
        fibottention: Mapping[str, object] | None = None,
        token_order: str = "hwt",
        position_init_std: float | None = None,
        gradient_checkpointing: bool = False,
        attention_backend: str = "auto",
    ):
        super().__init__()
        _check_name("attention_type", attention_type, ATTENTION_TYPES)
        _check_name("token_order", token_order, TOKEN_ORDERS)
        if position_init_std is not None and not position_init_std > 0:
            raise ValueError(f"position_init_std must be above 0 or None, got position_init_std={position_init_std}")
        self.attention_type = attention_type
        self.order = TOKEN_ORDERS[token_order]
        self.position_init_std = position_init_std
        self.gradient_checkpointing = gradient_checkpointing
        size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        self.patch_embed = PatchEmbed(size, patch_size, in_chans, embed_dim)
        grid = self.patch_embed.grid_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid[0] * grid[1], embed_dim))
        self.pos_drop = nn.Dropout(drop_rate)
        if attention_type != "space_only":
            self.time_embed = nn.Parameter(torch.zeros(1, num_frames, embed_dim))
            self.time_drop = nn.Dropout(drop_rate)

        fibottention = dict(fibottention or {})
        for key in fibottention:
            _check_name("fibottention setting", key, FIBOTTENTION_SETTINGS)
        masking = fibottention.pop("masking", "exclude")

        def attention(kind: str, layer: int, num_prefix_tokens: int = 1) -> SelfAttention:
            return SelfAttention(
                embed_dim,
                num_heads,
                _support(kind, num_heads, layer, num_prefix_tokens, fibottention),
                num_prefix_tokens=num_prefix_tokens,
                qkv_bias=qkv_bias,
                attn_drop=attn_drop_rate,
                proj_drop=drop_rate,
                masking=masking,
                backend=attention_backend if kind == "fibottention" else "auto",
            )

        def block(layer: int, drop_path: float) -> Block:
            common = dict(dim=embed_dim, mlp_ratio=mlp_ratio, drop=drop_rate, drop_path=drop_path)
            if attention_type == "divided_space_time":
                spatial, temporal = attention(space_attention, layer), attention(time_attention, layer, 0)
                return DividedBlock(spatial, temporal, order=self.order, **common)
            return Block(
                attention(space_attention if attention_type == "space_only" else joint_attention, layer), **common
            )

        rates = torch.linspace(0, drop_path_rate, depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(block(layer, rate) for layer, rate in enumerate(rates))
        self.norm = nn.LayerNorm(embed_dim, eps=NORM_EPS)
        self.head = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as published, temporal attention silent in every block but the first.

        The published std of 0.02 belongs to a width of 768. It grows as 1/√width below that, so that a narrow model
        starts with activations of the same size, and learns sooner (seen at width 64, one seed).
        """
        std = 0.02 * (768 / self.norm.normalized_shape[0]) ** 0.5
        nn.init.trunc_normal_(self.cls_token, std=std)
        nn.init.trunc_normal_(self.pos_embed, std=self.position_init_std or std)
        if self.position_init_std and self.attention_type != "space_only":
            nn.init.trunc_normal_(self.time_embed, std=self.position_init_std)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.attention_type == "divided_space_time":
            for block in self.blocks[1:]:
                nn.init.zeros_(block.temporal_fc.weight)

    def no_weight_decay(self) -> set[str]:
        """Parameters an optimizer should not decay, besides the one-dimensional ones."""
        return {"cls_token", "pos_embed", "time_embed"}

    def forward(self, video: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, K)."""
        return self.head(self.forward_features(video))

    def forward_features(self, video: Tensor) -> Tensor:
        """(B, C, T, H, W) -> the normalised class token (B, D)."""
        patches = self.patch_embed(video)  # (B, T, h, w, D)
        batch, *grid = patches.shape[:-1]
        x = self._add_position(rearrange(patches, "b t h w d -> (b t) (h w) d"), grid)
        if self.attention_type != "space_only":
            x = self._add_time(x, batch, grid)
        for block in self.blocks:
            if self.gradient_checkpointing and self.training:
                x = checkpoint(block, x, tuple(grid), use_reentrant=False)
            else:
                x = block(x, tuple(grid))
        if self.attention_type == "space_only":
            x = reduce(x, "(b t) n d -> b n d", "mean", b=batch)
        return self.norm(x)[:, 0]

    def _add_position(self, frames: Tensor, grid: list[int]) -> Tensor:
        """(B·T, h·w, D) -> (B·T, 1 + h·w, D), class token in front."""
        position = resize_grid(self.pos_embed[:, 1:], self.patch_embed.grid_size, (grid[1], grid[2]))
        x = join_class_token(self.cls_token, frames)
        return self.pos_drop(x + join_class_token(self.pos_embed[:, :1], position))

    def _add_time(self, frames: Tensor, batch: int, grid: list[int]) -> Tensor:
        """(B·T, 1 + h·w, D) -> (B, 1 + N, D), one class token a video, patches in ``order``."""
        axes = dict(zip("thw", grid, strict=True), b=batch)
        cls_token = rearrange(frames[:, :1], "(b t) 1 d -> b t 1 d", b=batch)[:, 0]
        patches = rearrange(frames[:, 1:], "(b t) n d -> (b n) t d", b=batch)
        patches = self.time_drop(patches + resize_time(self.time_embed, grid[0]))
        return join_class_token(cls_token, rearrange(patches, f"(b h w) t d -> b ({self.order}) d", **axes))


def _support(
    kind: str, num_heads: int, layer: int, num_prefix_tokens: int, fibottention: Mapping[str, object]
) -> partial:
    """A function from the number of patch tokens to the support of one block's attention."""
    _check_name("attention", kind, ATTENTIONS)
    if kind == "dense":
        return partial(Support.dense, num_heads, num_prefix_tokens=num_prefix_tokens)
    return partial(
        Support.fibottention, num_heads, num_prefix_tokens=num_prefix_tokens, layer_index=layer, **fibottention
    )


def _check_name(what: str, name: str, known) -> None:
    if name not in known:
        raise ValueError(f"unknown {what} {name!r}; known: {', '.join(known)}")
