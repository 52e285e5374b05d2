"""TimeSformer (arXiv 2102.05095) whose space-time attention may be Fibottention (arXiv 2406.19391).

Axes: B batch, C channels, T frames, H W image, t h w grid of patches or tubelets, P prefix tokens, N tokens without
them, D width, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from videofib.attention import ContextGroup, SelfAttention, Support
from videofib.models.blocks import Block, DividedBlock
from videofib.models.context import OwnTokens, check_sharing
from videofib.models.embed import (
    PatchEmbed,
    check_tubelets,
    join_prefix,
    resize_grid,
    resize_time,
    sinusoid_positions,
)
from videofib.models.recompute import RECOMPUTE, recomputed

ATTENTION_TYPES = ("divided_space_time", "joint_space_time", "space_only")
TOKEN_ORDERS = {"hwt": "h w t", "thw": "t h w"}
ATTENTIONS = ("dense", "fibottention")
FIBOTTENTION_SETTINGS = ("w_min", "w_max", "variant", "head_order", "masking")
POSITIONS = ("learned", "sinusoid")
POOLINGS = ("class_token", "mean")
SIZES = {  # of the ViT family (arXiv 2010.11929, table 1, and 2012.12877, table 1)
    "tiny": dict(embed_dim=192, depth=12, num_heads=3),
    "small": dict(embed_dim=384, depth=12, num_heads=6),
    "base": dict(embed_dim=768, depth=12, num_heads=12),
    "large": dict(embed_dim=1024, depth=24, num_heads=16),
}


class TimeSformer(nn.Module):
    """Video transformer: (B, C, T, H, W) -> logits (B, K).

    With dense attention and the defaults its parameters, their names and its outputs are those of the published
    TimeSformer. ``TimeSformer(**SIZES["small"])`` is another size.

    Args:
        img_size: frame size in pixels, one number or (height, width); other sizes work, too, with the position
            embedding resized in 2-D.
        patch_size, in_chans, num_classes: pixels along a patch, C, K; ``num_classes=0`` returns the features (B, D).
        num_frames: T; other lengths work, too, with the time embedding resized in 1-D.
        tubelet_size: frames a token covers; T must be a multiple.
        embed_dim, depth, num_heads, mlp_ratio, qkv_bias: size of the transformer, as in timm.
        qk_norm: layer norms over each head's queries and keys.
        layer_scale: what learned scales of the residual branches start with; None: no scales.
        norm_eps: epsilon of all layer norms.
        pre_norm: a layer norm in front of the blocks, as CLIP has.
        drop_rate, attn_drop_rate, drop_path_rate: dropout of tokens and MLPs, of attention weights, and stochastic
            depth, growing linearly to this rate in the last block.
        class_token: whether a class token stands in front of the patches.
        num_registers: tokens without a place, behind the class token (arXiv 2309.16588); like it they see all tokens
            and are seen by all.
        pooling: the features are the ``class_token``, or the ``mean`` of the patches; the last norm comes after.
        position: ``learned`` position and time embeddings, or the fixed ``sinusoid`` table of VideoMAE.
        attention_type: ``divided_space_time``, ``joint_space_time`` or ``space_only`` (frames on their own,
            features averaged over them).
        space_attention, time_attention, joint_attention: ``dense`` or ``fibottention``; the first two serve divided
            attention (the first also space-only), the third joint attention, where Fibottention runs over all
            t·h·w tokens.
        fibottention: keywords of :meth:`Support.fibottention` (w_min, w_max, variant, head_order) and ``masking``.
        token_order: how joint tokens are laid along Fibottention's diagonals: ``hwt`` puts the frames of a patch side
            by side, as published; ``thw`` puts frame after frame. Without Fibottention it changes nothing.
        position_init_std: standard deviation that position and time embeddings start with; by default as published,
            0.02 (more in narrow models) and zero. Trained from scratch, 0.5 finds sooner that places and times matter.
        gradient_checkpointing: recompute blocks in the backward pass, for memory.
        recompute: what of them, see :mod:`videofib.models.recompute`.
        recompute_every: n, to recompute every n-th block only.
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
        tubelet_size: int = 1,
        embed_dim: int = 768,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        qkv_bias: bool = True,
        qk_norm: bool = False,
        layer_scale: float | None = None,
        norm_eps: float = 1e-6,
        pre_norm: bool = False,
        drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.1,
        class_token: bool = True,
        num_registers: int = 0,
        pooling: str = "class_token",
        position: str = "learned",
        attention_type: str = "divided_space_time",
        space_attention: str = "dense",
        time_attention: str = "dense",
        joint_attention: str = "dense",
        fibottention: Mapping[str, object] | None = None,
        token_order: str = "hwt",
        position_init_std: float | None = None,
        gradient_checkpointing: bool = False,
        recompute: str = "block",
        recompute_every: int = 1,
        attention_backend: str = "auto",
    ):
        super().__init__()
        _check_name("attention_type", attention_type, ATTENTION_TYPES)
        _check_name("token_order", token_order, TOKEN_ORDERS)
        _check_name("pooling", pooling, POOLINGS)
        _check_name("position", position, POSITIONS)
        _check_name("recompute", recompute, RECOMPUTE)
        if recompute_every < 1:
            raise ValueError(f"recompute_every must be at least 1, got recompute_every={recompute_every}")
        if position_init_std is not None and not position_init_std > 0:
            raise ValueError(f"position_init_std must be above 0 or None, got position_init_std={position_init_std}")
        if pooling == "class_token" and not class_token:
            raise ValueError("pooling='class_token' needs class_token=True; pooling='mean' does without")
        if num_registers < 0:
            raise ValueError(f"num_registers must not be negative, got num_registers={num_registers}")
        self.attention_type, self.pooling, self.num_frames = attention_type, pooling, num_frames
        self.order = TOKEN_ORDERS[token_order]
        self.position_init_std = position_init_std
        self.drop_rates = (drop_rate, attn_drop_rate)
        self.gradient_checkpointing = gradient_checkpointing
        self.recompute, self.recompute_every = recompute, recompute_every
        self.num_prefix_tokens = int(class_token) + num_registers
        self.context: ContextGroup | None = None

        size = (img_size, img_size) if isinstance(img_size, int) else tuple(img_size)
        self.patch_embed = PatchEmbed(size, patch_size, in_chans, embed_dim, tubelet_size)
        check_tubelets(num_frames, tubelet_size)
        length, patches = num_frames // tubelet_size, self.patch_embed.grid_size[0] * self.patch_embed.grid_size[1]
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if class_token else None
        self.reg_token = nn.Parameter(torch.zeros(1, num_registers, embed_dim)) if num_registers else None
        self.pos_embed = self.time_embed = None
        if position == "sinusoid":
            self.register_buffer("positions", sinusoid_positions(length * patches, embed_dim), persistent=False)
        else:
            self.pos_embed = nn.Parameter(torch.zeros(1, int(class_token) + patches, embed_dim))
            if attention_type != "space_only":
                self.time_embed = nn.Parameter(torch.zeros(1, length, embed_dim))
        self.pos_drop, self.time_drop = nn.Dropout(drop_rate), nn.Dropout(drop_rate)
        self.norm_pre = nn.LayerNorm(embed_dim, eps=norm_eps) if pre_norm else nn.Identity()

        fibottention = dict(fibottention or {})
        for key in fibottention:
            _check_name("fibottention setting", key, FIBOTTENTION_SETTINGS)
        places = {
            "divided_space_time": {"space": space_attention, "time": time_attention},
            "joint_space_time": {"joint": joint_attention, "token_order": token_order},
            "space_only": {"space": space_attention},
        }[attention_type]
        self._sparse = {**places, **fibottention} if "fibottention" in places.values() else {}
        masking = fibottention.pop("masking", "exclude")

        def attention(kind: str, layer: int, num_prefix_tokens: int) -> SelfAttention:
            return SelfAttention(
                embed_dim,
                num_heads,
                _support(kind, num_heads, layer, num_prefix_tokens, fibottention),
                num_prefix_tokens=num_prefix_tokens,
                qkv_bias=qkv_bias,
                qk_norm=norm_eps if qk_norm else None,
                attn_drop=attn_drop_rate,
                proj_drop=drop_rate,
                masking=masking,
                backend=attention_backend if kind == "fibottention" else "auto",
            )

        def block(layer: int, drop_path: float) -> Block:
            spatial = joint_attention if attention_type == "joint_space_time" else space_attention
            attn = attention(spatial, layer, self.num_prefix_tokens)
            common = dict(
                mlp_ratio=mlp_ratio, drop=drop_rate, drop_path=drop_path, norm_eps=norm_eps, layer_scale=layer_scale
            )
            if attention_type == "divided_space_time":
                return DividedBlock(attn, attention(time_attention, layer, 0), embed_dim, order=self.order, **common)
            return Block(attn, embed_dim, **common)

        rates = torch.linspace(0, drop_path_rate, depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(block(layer, rate) for layer, rate in enumerate(rates))
        self.norm = nn.LayerNorm(embed_dim, eps=norm_eps)
        self.head = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as the published code does, with temporal attention silent (``temporal_fc`` zero).

        The published std of 0.02 belongs to a width of 768. It grows as 1/√width below that, so that a narrow model
        starts with activations of the same size, and learns sooner (seen at width 64, one seed).
        """
        std = 0.02 * (768 / self.norm.normalized_shape[0]) ** 0.5
        for token in (self.cls_token, self.reg_token):
            if token is not None:
                nn.init.trunc_normal_(token, std=std)
        if self.pos_embed is not None:
            nn.init.trunc_normal_(self.pos_embed, std=self.position_init_std or std)
        if self.time_embed is not None and self.position_init_std:
            nn.init.trunc_normal_(self.time_embed, std=self.position_init_std)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.attention_type == "divided_space_time":
            for block in self.blocks:
                nn.init.zeros_(block.temporal_fc.weight)

    def attention_settings(self) -> dict[str, object]:
        """Where attention is Fibottention, and its settings as given; empty where all attention is dense."""
        return dict(self._sparse)

    def no_weight_decay(self) -> set[str]:
        """Parameters an optimizer should not decay, besides the one-dimensional ones."""
        return {"cls_token", "reg_token", "pos_embed", "time_embed"}

    @property
    def num_layers(self) -> int:
        """The number of the last layer, which ``layer_of`` gives for the final norm and the classifier."""
        return len(self.blocks) + 1

    def layer_of(self, name: str) -> int:
        """The layer of a parameter: 0 in front of the blocks, then the blocks from 1 on, then ``num_layers``."""
        part, _, rest = name.partition(".")
        if part == "blocks":
            return 1 + int(rest.partition(".")[0])
        return self.num_layers if part in ("norm", "head") else 0

    def share_tokens(self, context: ContextGroup) -> None:
        """Let the processes of ``context`` share the tokens of every clip from now on (context parallelism).

        All must be given the same clips; all return the same logits, and each holds its slice of the activations.
        Gradients are to be averaged over processes, as for data parallel training; see :meth:`ContextGroup.sum`.

        Raises:
            ValueError: attention that is not joint, dropout, or fewer heads than processes.
        """
        check_sharing(self.attention_type, self.drop_rates, self.blocks[0].attn.num_heads, context.size)
        self.context = context

    def forward(self, video: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, K)."""
        return self.head(self.forward_features(video))

    def forward_features(self, video: Tensor) -> Tensor:
        """(B, C, T, H, W) -> the pooled and normalised features (B, D)."""
        grid = self.patch_embed.grid_of(video)
        own = self.context and OwnTokens(self.context, self.num_prefix_tokens, grid, self.order, video.device)
        x = self._embed(video) if own is None else self._embed_own(video, grid, own)
        where = (grid,) if own is None else (grid, own.shard)
        for layer, block in enumerate(self.blocks):
            if self.gradient_checkpointing and self.training and layer % self.recompute_every == 0:
                x = recomputed(block, x, *where, recompute=self.recompute)
            else:
                x = block(x, *where)
        if own is not None:
            return self.norm(own.pool(x, self.pooling))
        if self.attention_type == "space_only":
            x = reduce(x, "(b t) n d -> b n d", "mean", b=len(video))
        pooled = x[:, 0] if self.pooling == "class_token" else x[:, self.num_prefix_tokens :].mean(1)
        return self.norm(pooled)

    def _embed(self, video: Tensor) -> Tensor:
        """(B, C, T, H, W) -> tokens as the blocks take them, (B, P+N, D); space-only: (B·t, P+h·w, D)."""
        layout = "(b t) (h w) d" if self.attention_type == "space_only" else f"b ({self.order}) d"
        patches = self._add_positions(self.patch_embed(video))
        return self.norm_pre(self._add_prefix(rearrange(patches, f"b t h w d -> {layout}")))

    def _embed_own(self, video: Tensor, grid: tuple[int, int, int], own: OwnTokens) -> Tensor:
        """(B, C, T, H, W) -> (B, n, D): those rows of ``_embed`` that are this process's, and no others on the way."""
        patches = self.patch_embed(video, own.places)
        t, h, w = own.places
        if self.pos_embed is None:
            patches = patches + self._sinusoids(grid)[:, (t * grid[1] + h) * grid[2] + w]
        else:
            patches = patches + self._places(grid[1:])[:, h * grid[2] + w]
            if self.time_embed is not None:
                patches = patches + resize_time(self.time_embed, grid[0])[:, t]
        return self.norm_pre(self._add_prefix(patches, own.prefix))

    def _add_positions(self, patches: Tensor) -> Tensor:
        """(B, t, h, w, D) -> the same, each token told its place and time."""
        length, *grid = patches.shape[1:4]
        if self.pos_embed is None:
            return self.pos_drop(patches + self._sinusoids((length, *grid)).unflatten(1, (length, *grid)))
        patches = self.pos_drop(patches + rearrange(self._places(grid), "1 (h w) d -> 1 1 h w d", h=grid[0]))
        if self.time_embed is None:
            return patches
        return self.time_drop(patches + resize_time(self.time_embed, length)[:, :, None, None])

    def _sinusoids(self, grid: tuple[int, int, int]) -> Tensor:
        """The fixed position table (1, t·h·w, D), frame after frame."""
        table, count = self.positions, math.prod(grid)
        if table.shape[1] == count:
            return table
        return sinusoid_positions(count, table.shape[2], table.device).to(table.dtype)

    def _places(self, grid: Sequence[int]) -> Tensor:
        """The learned position embedding of the patches, for a grid of h by w: (1, h·w, D)."""
        places = self.pos_embed[:, 0 if self.cls_token is None else 1 :]
        return resize_grid(places, self.patch_embed.grid_size, tuple(grid))

    def _add_prefix(self, patches: Tensor, which: slice = slice(None)) -> Tensor:
        """(B, N, D) -> (B, P+N, D): the class token with its position, then the registers; ``which`` of them."""
        tokens = [] if self.reg_token is None else [self.reg_token]
        if self.cls_token is not None:
            tokens.insert(0, self.cls_token if self.pos_embed is None else self.cls_token + self.pos_embed[:, :1])
        if not tokens:
            return patches
        prefix = torch.cat(tokens, dim=1)[:, which]
        return join_prefix(self.pos_drop(prefix.expand(patches.shape[0], -1, -1)), patches)


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
