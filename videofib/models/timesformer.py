"""TimeSformer (arXiv 2102.05095) whose space-time attention may be Fibottention (arXiv 2406.19391).

Axes: B batch, C channels, T frames, H W image, t h w grid of patches or tubelets, P prefix tokens, N tokens without
them, D width, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from einops import reduce
from torch import Tensor, nn

from videofib.attention import ContextGroup
from videofib.mixers import LayerSpec, MixerChoice, check_name
from videofib.models.blocks import ACTIVATIONS, LOSSES, BlockSpec, DividedBlock, Memory
from videofib.models.build_blocks import build_blocks
from videofib.models.build_reductions import build_reductions
from videofib.models.class_attention import ClassAttentionPooling
from videofib.models.deformable_merging import OFFSET_LR
from videofib.models.embed import POSITIONS, ClipEmbedding
from videofib.models.intermediates import FORMATS, Layout, check_maps, taken_blocks
from videofib.models.local_interaction import KERNELS, NORMS, LocalBranch
from videofib.models.merging import counting_patches, merge_tokens
from videofib.models.patch_embed import STEMS
from videofib.models.recompute import RECOMPUTE
from videofib.models.recovery import Recoveries
from videofib.models.slicing import AllTokens, SlicedTokens, check_slicing
from videofib.models.stack import Outputs, Stack

ATTENTION_TYPES = ("divided_space_time", "joint_space_time", "space_only")
TOKEN_ORDERS = {"hwt": "h w t", "thw": "t h w"}
POOLINGS = ("class_token", "mean", "class_attention")
CHOICES = {
    "attention_type": ATTENTION_TYPES,
    "token_order": TOKEN_ORDERS,
    "pooling": POOLINGS,
    "stem": STEMS,
    "position": POSITIONS,
    "local_interaction": ("none", *KERNELS),
    "local_norm": NORMS,
    "activation": ACTIVATIONS,
    "recompute": RECOMPUTE,
}
SIZES = {  # of the ViT family (arXiv 2010.11929, table 1, and 2012.12877, table 1)
    "tiny": dict(embed_dim=192, depth=12, num_heads=3),
    "small": dict(embed_dim=384, depth=12, num_heads=6),
    "base": dict(embed_dim=768, depth=12, num_heads=12),
    "large": dict(embed_dim=1024, depth=24, num_heads=16),
}


class TimeSformer(ClipEmbedding):
    """Video transformer: (B, C, T, H, W) -> logits (B, K).

    With dense attention and the defaults its parameters, their names and its outputs are those of the published
    TimeSformer. ``TimeSformer(**SIZES["small"])`` is another size.

    Args:
        img_size: frame size in pixels, one number or (height, width); for clips of other sizes the position
            embedding is resized in 2-D.
        patch_size, in_chans, num_classes: pixels along a patch, C, K; ``num_classes=0`` returns the features (B, D).
        num_frames: T; for clips of other lengths the time embedding is resized in 1-D.
        tubelet_size: frames a token covers; T must be a multiple.
        embed_dim, depth, num_heads, mlp_ratio, qkv_bias: size of the transformer, as in timm.
        qk_norm: layer norms over each head's queries and keys.
        layer_scale: initial value of learned scales of the residual branches; None: no scales.
        norm_eps: epsilon of all layer norms.
        pre_norm: a layer norm in front of the blocks, as in CLIP.
        drop_rate, attn_drop_rate, drop_path_rate: dropout of tokens and MLPs, of attention weights, and stochastic
            depth, growing linearly to this rate in the last block.
        class_token: whether there is a class token, in front of the patches unless ``pooling="class_attention"``.
        num_registers: tokens without a position, behind the class token (arXiv 2309.16588); like it they see all
            tokens and are seen by all.
        pooling: the features are the ``class_token``, or the ``mean`` of the patches, or by ``class_attention`` a class
            token that is not in the blocks: it joins after them and reads the patches through two blocks of its own, as
            in CaiT (arXiv 2103.17239, section 3). The last norm comes after.
        stem: ``linear``, one projection of each patch, or ``conv``, XCiT's strided convolutions.
        position: ``learned`` position and time embeddings, ``learned_joint``, one embedding for each token of the clip,
            as in ViViT (arXiv 2103.15691, section 3), the fixed ``sinusoid`` table of VideoMAE, or ``fourier``, XCiT's
            learned map of sines and cosines, beside learned time embeddings.
        local_interaction: XCiT's convolutions over neighbouring patches, a branch of every block in front of its MLP:
            ``none``, in ``space``, in ``time``, or in ``space_time``.
        local_norm: between these convolutions: ``batch``, as published, ``layer`` or ``none``.
        activation: of the MLPs: ``gelu``, ``gelu_tanh`` (its approximation, as in ViViT's weights), or ``quick_gelu``,
            as in CLIP's.
        attention_type: ``divided_space_time``, ``joint_space_time`` or ``space_only`` (each frame separately, features
            averaged over frames).
        space_attention, time_attention, joint_attention: names in :data:`videofib.mixers.MIXERS`, one for all blocks or
            a list of one for each; the first two are used by divided attention (the first also by space-only), the
            third by joint attention, over all t·h·w tokens. A block whose name is ``none`` has an MLP alone.
        mixer_options: for the name of a mixer its options, such as ``{"fibottention": {"w_min": 5}}``; those of mixers
            that the model does not use have no effect.
        token_order: how joint tokens are laid out, and so along Fibottention's diagonals: ``hwt`` puts the frames of a
            patch side by side, as published; ``thw`` puts frame after frame. Dense attention is the same in both.
        position_init_std: standard deviation of initial position and time embeddings; by default as published, 0.02
            (more in narrow models) and zero. When training from scratch, with 0.5 a model learns positions and times
            sooner.
        gradient_checkpointing: recompute blocks in the backward pass, to save memory.
        recompute: what is recomputed, see :mod:`videofib.models.recompute`.
        recompute_every: n, to recompute every n-th block only.
        attention_backend: see :func:`videofib.attention.sparse_attention`.
        slimming: options of :func:`~videofib.models.slimming.token_slimming`, ``{"after": [3, 7], "ratio": 0.5}``:
            behind blocks 3 and 7, soft tokens replace the patches, half as many each time (SiT).
        deformable_merging: ``{"after": [3]}``: behind block 3 one patch replaces 2 x 2, sampled where learned offsets
            point (LIT).
        merging: options of :func:`~videofib.models.merging.merge_tokens`, ``{"tokens": 16}``: in each block, so many
            patches merge with others, without weights (ToMe).

    Raises:
        ValueError: sizes that do not divide, unknown names, a mixer that cannot serve such a model; the message shows
            the values.
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
        stem: str = "linear",
        position: str = "learned",
        local_interaction: str = "none",
        local_norm: str = "batch",
        activation: str = "gelu",
        attention_type: str = "divided_space_time",
        space_attention: str | Sequence[str] = "dense",
        time_attention: str | Sequence[str] = "dense",
        joint_attention: str | Sequence[str] = "dense",
        mixer_options: Mapping[str, Mapping[str, object]] | None = None,
        token_order: str = "hwt",
        position_init_std: float | None = None,
        gradient_checkpointing: bool = False,
        recompute: str = "block",
        recompute_every: int = 1,
        attention_backend: str = "auto",
        slimming: Mapping[str, Any] | None = None,
        deformable_merging: Mapping[str, Any] | None = None,
        merging: Mapping[str, Any] | None = None,
    ):
        _check_choices(
            attention_type=attention_type,
            token_order=token_order,
            pooling=pooling,
            stem=stem,
            position=position,
            local_interaction=local_interaction,
            local_norm=local_norm,
            activation=activation,
            recompute=recompute,
        )
        _check_numbers(num_registers, recompute_every, position_init_std)
        if pooling != "mean" and not class_token:
            raise ValueError(f"pooling={pooling!r} needs class_token=True; without one set pooling='mean'")
        super().__init__(
            img_size,
            patch_size,
            in_chans,
            num_frames,
            tubelet_size,
            embed_dim,
            order=TOKEN_ORDERS[token_order],
            single_frames=attention_type == "space_only",
            class_token=class_token and pooling != "class_attention",
            num_registers=num_registers,
            stem=stem,
            position=position,
            drop_rate=drop_rate,
        )
        self.attention_type, self.pooling, self.num_frames = attention_type, pooling, num_frames
        self.token_order, self.position_init_std = token_order, position_init_std
        self.position, self.activation, self.local_interaction = position, activation, local_interaction
        self.num_heads, self.drop_rates = num_heads, (drop_rate, attn_drop_rate)
        names = {
            "divided_space_time": {"space": space_attention, "time": time_attention},
            "joint_space_time": {"joint": joint_attention},
            "space_only": {"space": space_attention},
        }[attention_type]
        self.mixers = MixerChoice(names, mixer_options or {}, depth)
        self.tokens: AllTokens | SlicedTokens = AllTokens(self.num_prefix_tokens, pooling)
        self.norm_pre = nn.LayerNorm(embed_dim, eps=norm_eps) if pre_norm else nn.Identity()
        layer = LayerSpec(
            embed_dim,
            num_heads,
            self.num_prefix_tokens,
            self.grid,
            order=self.order,
            depth=depth,
            pooling=pooling,
            qkv_bias=qkv_bias,
            qk_norm=norm_eps if qk_norm else None,
            attn_drop=attn_drop_rate,
            proj_drop=drop_rate,
            backend=attention_backend,
        )
        self.reductions = build_reductions(
            attention_type, self.mixers, layer, local_interaction, slimming, deformable_merging, merging
        )
        self.recovery: Recoveries | None = None  # for training alone, see ``recovery.recover_tokens``
        local = partial(
            LocalBranch,
            order=self.order,
            num_prefix_tokens=self.num_prefix_tokens,
            axes=local_interaction,
            norm=local_norm,
        )
        branch = None if local_interaction == "none" else local
        spec = BlockSpec(embed_dim, mlp_ratio, drop_rate, norm_eps, layer_scale, activation, branch)
        rates = torch.linspace(0, drop_path_rate, depth, device="cpu").tolist()
        blocks = build_blocks(attention_type, self.mixers, layer, spec, rates, self.reductions.grids)
        self.blocks = Stack(blocks, recompute if gradient_checkpointing else None, recompute_every)
        self.class_attention = ClassAttentionPooling(layer, spec) if pooling == "class_attention" else None
        self.norm = nn.LayerNorm(embed_dim, eps=norm_eps)
        self.head = nn.Linear(embed_dim, num_classes) if num_classes else nn.Identity()
        self._initialise()
        if merging:
            merge_tokens(self, **merging)

    def reset_parameters(self) -> None:
        """Give all parameters and buffers initial values again, those of a new model under the same seed.

        A model built on the meta device becomes usable by ``model.to_empty(device=...)`` and this.
        """
        for module in self.modules():  # what torch's own layers draw when they are built
            reset = getattr(module, "reset_parameters", None)
            is_leaf = next(module.children(), None) is None or isinstance(module, nn.Conv2d)  # which may be deformable
            if reset is not None and is_leaf:
                reset()
        self._initialise()

    def _initialise(self) -> None:
        """Initialise as the published code does, with temporal attention silent (``temporal_fc`` zero).

        The published std of 0.02 is for a width of 768. It grows as 1/√width below that, so that a narrow model
        starts with activations of the same size, and learns sooner (seen at width 64, one seed).
        """
        std = 0.02 * (768 / self.norm.normalized_shape[0]) ** 0.5
        self.reset_embeddings(std, self.position_init_std)
        if self.class_attention is not None:
            nn.init.trunc_normal_(self.class_attention.cls_token, std=std)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for block in self.blocks:
            if isinstance(block, DividedBlock):
                nn.init.zeros_(block.temporal_fc.weight)
        for mixer in self.blocks.mixers().values():
            if hasattr(mixer, "reset_parameters"):
                mixer.reset_parameters()
        self.reductions.reset_parameters()

    def attention_settings(self) -> dict[str, object]:
        """The mixers and their options as given; empty where all attention is dense."""
        settings = self.mixers.settings()
        if settings and self.attention_type == "joint_space_time":
            settings["token_order"] = self.token_order
        return settings

    def no_weight_decay(self) -> set[str]:
        """Parameters an optimizer should not decay, besides the one-dimensional ones."""
        names = {"cls_token", "reg_token", "pos_embed", "time_embed"}
        if self.class_attention is not None:
            names.add("class_attention.cls_token")
        for prefix, mixer in self.blocks.mixers().items():
            if hasattr(mixer, "no_weight_decay"):
                names |= {f"blocks.{prefix}.{name}" for name in mixer.no_weight_decay()}
        return names | {f"reductions.{name}" for name in self.reductions.no_weight_decay()}

    def lr_scales(self) -> dict[str, float]:
        """Parameters whose learning rate is a fraction of that of all others: the weights of learned offsets."""
        return {name: OFFSET_LR for name, _ in self.named_parameters() if name.endswith(".conv_offset.weight")}

    @property
    def num_layers(self) -> int:
        """The number of the last layer, which ``layer_of`` gives for what comes after the blocks."""
        return len(self.blocks) + 1

    def layer_of(self, name: str) -> int:
        """The layer of a parameter: 0 in front of the blocks, then the blocks from 1 on, then ``num_layers``."""
        part, _, rest = name.partition(".")
        if part in ("blocks", "reductions"):
            return 1 + int(rest.partition(".")[0])
        return self.num_layers if part in ("class_attention", "norm", "head", "recovery") else 0

    def share_tokens(self, context: ContextGroup) -> None:
        """From now on each process of ``context`` computes its slice of the tokens of every clip (context parallelism).

        All processes must get the same clips; all return the same logits, and each holds the activations of its slice.
        Gradients are to be averaged over processes, as in data parallel training; see :meth:`ContextGroup.sum`.

        Raises:
            ValueError: attention that is not joint, a mixer or pooling that needs all tokens, dropout, or fewer heads
                than processes.
        """
        check_slicing(self.attention_type, self.mixers, self.drop_rates, self.pooling, self.local_interaction)
        if self.first_reduction() is not None:
            raise ValueError(
                "processes that share tokens cannot reduce them, which needs all tokens of a clip; leave out slimming, "
                "deformable_merging and merging, or let one process compute each clip"
            )
        for mixer in self.blocks.mixers().values():
            mixer.share_tokens(context)
        self.tokens = SlicedTokens(context, self.num_prefix_tokens, self.pooling)

    def first_reduction(self) -> int | None:
        """The index of the first block that returns fewer tokens than patches; None: all blocks return all."""
        behind = min(map(int, self.reductions), default=None)
        return self.blocks.first_placeless() if behind is None else behind

    def forward(self, video: Tensor, *, with_losses: bool = False, recover: bool = False) -> Any:
        """(B, C, T, H, W) -> (B, K).

        With ``with_losses`` also what the blocks add to the loss, by name: (logits, {name: scalar}). With ``recover``
        also as many tokens as at first, of each block that ``recovery`` names: (logits, [(B, N, D), ...]).
        """
        if recover:
            assert self.recovery is not None  # whoever asks has added it
            features, kept = self.forward_intermediates(video, self.recovery.indices, output_fmt="NLC")
            return self.head(features), self.recovery(kept)
        features, output = self._features(video)
        logits = self.head(features)
        return (logits, output.memory.get(LOSSES, {})) if with_losses else logits

    def forward_features(self, video: Tensor) -> Tensor:
        """(B, C, T, H, W) -> the pooled and normalised features (B, D)."""
        return self._features(video)[0]

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCTHW",
        intermediates_only: bool = False,
    ) -> list | tuple[Tensor, list]:
        """What blocks return, in the manner of timm's models.

        Args:
            x: clips (B, C, T, H, W).
            indices: of the blocks, counted from the end below 0; a number: so many last ones; None: all.
            return_prefix_tokens: give pairs (patches, prefix) instead of patches; the prefix is (B, P, D), and with
                space-only attention, where each frame has one, (B, t·P, D).
            norm: apply the last norm to each token.
            stop_early: compute no block after the last of ``indices``; the features are then of that block.
            output_fmt: of the patches: ``NCTHW``, feature maps (B, D, t, h, w), or ``NLC``, tokens (B, t·h·w, D),
                frame after frame whatever the model's token order is. Maps behind deformable merging are smaller; soft
                and merged tokens are no maps.
            intermediates_only: return the intermediates alone.

        Returns:
            The features (B, D), as of :meth:`forward_features`, and for each of ``indices``, in their order, the
            patches that this block returns. A model without prefix tokens gives no pairs.

        Raises:
            ValueError: no such block or format, maps of tokens without places, or processes share the tokens of a
                clip.
        """
        check_name("output_fmt", output_fmt, FORMATS)
        wanted = taken_blocks(len(self.blocks), indices)
        self.tokens.check_all()
        placeless = self.blocks.first_placeless()
        check_maps(wanted, output_fmt, self.reductions.first_placeless() if placeless is None else placeless)
        features, output = self._features(x, wanted, 1 + max(wanted) if stop_early else None)
        length, found = self.patch_embed.grid_of(x)[0], []
        for index in wanted:
            grid, tokens = output.grids[index], output.kept[index]
            own = (length, *grid[1:]) if self.single_frames else grid
            layout = Layout(own, self.num_prefix_tokens, self.order, self.single_frames)
            found.append(layout.split(self.norm(tokens) if norm else tokens, output_fmt))
        pairs = return_prefix_tokens and self.num_prefix_tokens
        intermediates = found if pairs else [patches for patches, _ in found]
        return intermediates if intermediates_only else (features, intermediates)

    def _features(
        self, video: Tensor, wanted: Sequence[int] = (), stop: int | None = None, memory: Memory | None = None
    ) -> tuple[Tensor, Outputs]:
        """The features, after the first ``stop`` blocks, and what the blocks return."""
        grid = self.patch_embed.grid_of(video)
        self.mixers.check_grid(self.grid, grid)
        x = self.norm_pre(self.tokens.take(self.embed(video)))
        own = (1, *grid[1:]) if self.single_frames else grid
        output = self.blocks.outputs(x, own, wanted, stop=stop, memory=memory, reductions=self.reductions)
        x = counting_patches(output.x, output.memory, self.num_prefix_tokens) if self.pooling == "mean" else output.x
        if self.single_frames:
            x = reduce(x, "(b t) n d -> b n d", "mean", t=grid[0])
        if self.class_attention is not None:
            return self.norm(self.class_attention(x[:, self.num_prefix_tokens :])), output
        return self.norm(self.tokens.pool(x, math.prod(grid))), output


def _check_choices(**settings: str) -> None:
    for setting, value in settings.items():
        check_name(setting, value, CHOICES[setting])


def _check_numbers(num_registers: int, recompute_every: int, position_init_std: float | None) -> None:
    if num_registers < 0:
        raise ValueError(f"num_registers must not be negative, got num_registers={num_registers}")
    if recompute_every < 1:
        raise ValueError(f"recompute_every must be at least 1, got recompute_every={recompute_every}")
    if position_init_std is not None and not position_init_std > 0:
        raise ValueError(f"position_init_std must be above 0 or None, got position_init_std={position_init_std}")
