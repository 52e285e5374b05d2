"""videofib's TimeSformer for ``transformers``, by torch alone: the outputs are those of videofib's own model.

Axes: B batch, C channels, T frames, H W image, t h w grid of patches or tubelets, P prefix tokens, N tokens without
them, D width, K classes. Dropout and stochastic depth are left out.
"""

import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

from .configuration_videofib import SPARSE, VideofibTimesformerConfig
from .wythoff import fibottention_offsets


class DenseAttention(nn.Module):
    """Self-attention over all pairs of tokens: (B, P+N, D) -> (B, P+N, D)."""

    def __init__(self, config: VideofibTimesformerConfig):
        super().__init__()
        dim, head_dim = config.hidden_size, config.hidden_size // config.num_attention_heads
        self.num_heads = config.num_attention_heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=config.qkv_bias)
        self.q_norm = nn.LayerNorm(head_dim, eps=config.layer_norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(head_dim, eps=config.layer_norm_eps) if config.qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))  # (B, P+N, 3, heads, head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        out = self.attend(self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype), v)
        return self.proj(out.transpose(1, 2).flatten(2))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, heads, P+N, head_dim) of each -> the same."""
        return F.scaled_dot_product_attention(q, k, v)


class Fibottention(DenseAttention):
    """Self-attention in which every head looks along its own Fibonacci-spaced diagonals (arXiv 2406.19391).

    Patches j and k see each other where |j - k| is an offset of the head; prefix tokens see all and are seen by all.

    Args:
        num_prefix_tokens: P.
        layer_index: of the block; it seeds the order of heads ``per_layer``.
        w_min, w_max, variant, head_order: see ``fibottention_offsets``, and the shuffle below.
        masking: ``exclude``: softmax over these pairs alone; ``zero_logit``: all other pairs have a logit of 0.
    """

    def __init__(self, config, num_prefix_tokens, layer_index, w_min, w_max, variant, head_order, masking):
        super().__init__(config)
        self.num_prefix_tokens, self.masking = num_prefix_tokens, masking
        self.options = {"w_min": w_min, "w_max": w_max, "variant": variant}
        self.order_seed = {"none": None, "per_layer": layer_index, "first_layer": 0}[head_order]

    def offsets(self, num_tokens: int) -> list[list[int]]:
        """The offsets of every head."""
        rows = fibottention_offsets(self.num_heads, num_tokens, **self.options)
        if self.order_seed is not None:
            random.Random(self.order_seed).shuffle(rows)
        return rows

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        p, dtype = self.num_prefix_tokens, q.dtype
        work = torch.float64 if dtype == torch.float64 else torch.float32
        q, k, v = q.to(work) * q.shape[-1] ** -0.5, k.to(work), v.to(work)
        heads = [
            self.attend_in_head(q[:, head, p:], k[:, head], v[:, head], offsets)
            for head, offsets in enumerate(self.offsets(q.shape[2] - p))
        ]
        patches = torch.stack(heads, dim=1)
        prefix = torch.softmax(q[:, :, :p] @ k.transpose(-2, -1), dim=-1) @ v
        return torch.cat((prefix, patches), dim=2).to(dtype)

    def attend_in_head(self, q: Tensor, k: Tensor, v: Tensor, offsets: list[int]) -> Tensor:
        """Queries (B, N, d) of the patches, scaled; keys and values (B, P+N, d) -> (B, N, d).

        A diagonal is a pair of shifted slices, so time and memory grow with N times the offsets, not with N².
        """
        p, (n, total) = self.num_prefix_tokens, (q.shape[1], k.shape[1])
        diagonals = _diagonals(offsets, n, self_pairs=p == 0)
        columns = [q @ k[:, :p].transpose(-2, -1)]  # (B, N, P), then (B, N, 1) of each diagonal
        for query, key, length in diagonals:
            products = (q[:, query : query + length] * k[:, p + key : p + key + length]).sum(-1, keepdim=True)
            columns.append(F.pad(products, (0, 0, query, n - query - length), value=float("-inf")))
        logits = torch.cat(columns, dim=-1)
        if self.masking == "zero_logit":
            shift = logits.amax(-1, keepdim=True).clamp(min=0.0)  # of the largest logit, those of 0 included
            masked = torch.exp(-shift)
            weights = torch.where(logits == float("-inf"), 0.0, torch.exp(logits - shift) - masked)
            norm = weights.sum(-1, keepdim=True) + total * masked
            weights = weights / norm
            out = weights[..., :p] @ v[:, :p] + masked / norm * v.sum(1, keepdim=True)
        else:
            weights = torch.softmax(logits, dim=-1)
            out = weights[..., :p] @ v[:, :p]
        for column, (query, key, length) in enumerate(diagonals, start=p):
            part = weights[:, query : query + length, column, None] * v[:, p + key : p + key + length]
            out = out + F.pad(part, (0, 0, query, n - query - length))
        return out


def _diagonals(offsets: list[int], n: int, self_pairs: bool) -> list[tuple[int, int, int]]:
    """(query, key, length): patch ``query + i`` sees patch ``key + i`` for 0 <= i < length.

    With ``self_pairs``, a patch that no offset reaches sees itself, since softmax needs one key.
    """
    found = []
    for offset in offsets:
        if offset < n:
            found.append((offset, 0, n - offset))
            if offset:
                found.append((0, offset, n - offset))
    start, stop = max(n - min(offsets), 0), min(min(offsets), n)
    if self_pairs and start < stop:
        found.append((start, start, stop - start))
    return found


class LayerScale(nn.Module):
    """Learned scales of a residual branch."""

    def __init__(self, dim: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict = {"gelu": F.gelu, "gelu_pytorch_tanh": _gelu_tanh, "quick_gelu": _quick_gelu}


class Mlp(nn.Module):
    def __init__(self, config: VideofibTimesformerConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = ACTIVATIONS[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.activation(self.fc1(x)))


class Block(nn.Module):
    """Attention over the tokens, then an MLP; with divided attention over time first.

    Tokens are (B, P+N, D), N = t h w in this order, whatever order joint attention takes them in.
    """

    def __init__(self, config: VideofibTimesformerConfig, index: int):
        super().__init__()
        dim, eps = config.hidden_size, config.layer_norm_eps
        prefix = int(config.class_token) + config.num_registers
        kind = config.attention_type.removeprefix(SPARSE)
        self.num_prefix_tokens = prefix
        self.joint, self.divided = kind == "joint_space_time", kind == "divided_space_time"
        self.patch_first = config.token_order == "hwt"
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=eps), nn.LayerNorm(dim, eps=eps)
        self.attn = _attention(config, "joint" if self.joint else "space", prefix, index)
        self.mlp = Mlp(config)
        self.ls1 = LayerScale(dim) if config.layer_scale else nn.Identity()
        self.ls2 = LayerScale(dim) if config.layer_scale else nn.Identity()
        if self.divided:
            self.temporal_norm1 = nn.LayerNorm(dim, eps=eps)
            self.temporal_attn = _attention(config, "time", 0, index)
            self.temporal_fc = nn.Linear(dim, dim)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        prefix, patches = x[:, : self.num_prefix_tokens], x[:, self.num_prefix_tokens :]
        patches = patches.unflatten(1, (frames, -1))  # (B, t, h·w, D)
        x = torch.cat(self.over_time_and_space(prefix, patches) if self.divided else self.over_all(x, frames), dim=1)
        return x + self.ls2(self.mlp(self.norm2(x)))

    def over_all(self, x: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        """Attention over all tokens, which ``hwt`` orders by patch first."""
        p = self.num_prefix_tokens
        prefix, patches = x[:, :p], x[:, p:]
        swap = self.joint and self.patch_first
        if swap:
            patches = patches.unflatten(1, (frames, -1)).transpose(1, 2).flatten(1, 2)
        x = torch.cat((prefix, patches), dim=1)
        x = x + self.ls1(self.attn(self.norm1(x)))
        prefix, patches = x[:, :p], x[:, p:]
        if swap:
            patches = patches.unflatten(1, (-1, frames)).transpose(1, 2).flatten(1, 2)
        return prefix, patches

    def over_time_and_space(self, prefix: Tensor, patches: Tensor) -> tuple[Tensor, Tensor]:
        """Attention over the frames of a patch, then over the patches of a frame, each with a copy of the prefix."""
        batch, frames, places, _ = patches.shape
        lines = patches.transpose(1, 2).flatten(0, 1)  # (B·h·w, t, D)
        lines = self.temporal_attn(self.temporal_norm1(lines)).unflatten(0, (batch, places)).transpose(1, 2)
        patches = patches + self.temporal_fc(lines)
        x = torch.cat((prefix[:, None].expand(-1, frames, -1, -1), patches), dim=2).flatten(0, 1)
        x = self.ls1(self.attn(self.norm1(x))).unflatten(0, (batch, frames))  # (B, t, P+h·w, D)
        p = self.num_prefix_tokens
        return prefix + x[:, :, :p].mean(1), (patches + x[:, :, p:]).flatten(1, 2)


def _attention(config: VideofibTimesformerConfig, kind: str, num_prefix_tokens: int, index: int) -> DenseAttention:
    options = dict(config.attentions[kind])
    name = options.pop("name")
    if name == "dense":
        return DenseAttention(config)
    if name != "fibottention":
        raise ValueError(f"unknown attention {name!r}; known: dense, fibottention")
    return Fibottention(config, num_prefix_tokens, index, **options)


class PatchEmbed(nn.Module):
    """(B, C, T, H, W) -> (B, t, h, w, D)."""

    def __init__(self, config: VideofibTimesformerConfig):
        super().__init__()
        size = (config.tubelet_size, config.patch_size, config.patch_size)
        self.tubelet_size = config.tubelet_size
        self.proj: nn.Conv2d | nn.Conv3d
        if config.tubelet_size == 1:
            self.proj = nn.Conv2d(config.num_channels, config.hidden_size, size[1:], stride=size[1:])
        else:
            self.proj = nn.Conv3d(config.num_channels, config.hidden_size, size, stride=size)

    def forward(self, video: Tensor) -> Tensor:
        if self.tubelet_size > 1:
            return self.proj(video).permute(0, 2, 3, 4, 1)
        patches = self.proj(video.transpose(1, 2).flatten(0, 1))
        return patches.unflatten(0, (len(video), -1)).permute(0, 1, 3, 4, 2)


class VideofibTimesformerForVideoClassification(PreTrainedModel):
    """Clips ``pixel_values`` (B, T, C, H, W) -> logits (B, K)."""

    config_class = VideofibTimesformerConfig
    main_input_name = "pixel_values"
    base_model_prefix = "videofib"

    def __init__(self, config: VideofibTimesformerConfig):
        super().__init__(config)
        dim = config.hidden_size
        self.single_frames = config.attention_type == f"{SPARSE}space_only"
        self.patch_embed = PatchEmbed(config)
        self.grid = [side // config.patch_size for side in config.image_size]
        length = config.num_frames // config.tubelet_size
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim)) if config.class_token else None
        self.reg_token = nn.Parameter(torch.zeros(1, config.num_registers, dim)) if config.num_registers else None
        self.pos_embed = self.time_embed = None
        if config.position == "learned":
            self.pos_embed = nn.Parameter(torch.zeros(1, int(config.class_token) + self.grid[0] * self.grid[1], dim))
            self.time_embed = None if self.single_frames else nn.Parameter(torch.zeros(1, length, dim))
        elif config.position == "learned_joint":
            tokens = length * self.grid[0] * self.grid[1]
            self.pos_embed = nn.Parameter(torch.zeros(1, int(config.class_token) + tokens, dim))
        self.length = length
        self.norm_pre = nn.LayerNorm(dim, eps=config.layer_norm_eps) if config.pre_norm else nn.Identity()
        self.blocks = nn.ModuleList(Block(config, index) for index in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(dim, eps=config.layer_norm_eps)
        self.head = nn.Linear(dim, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Of layers that are new, such as a classifier for other classes."""
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, return_dict: bool | None = None, **ignored):
        """Classes (B,), or (B, K) of 0 and 1 where a clip may have several, as ``labels`` give a loss, too."""
        logits = self.head(self.features(pixel_values.transpose(1, 2)))
        loss = None
        if labels is not None:
            several = labels.ndim == 2
            loss = (F.binary_cross_entropy_with_logits if several else F.cross_entropy)(
                logits, labels.to(logits.dtype) if several else labels
            )
        if return_dict is False:
            return (logits,) if loss is None else (loss, logits)
        return ImageClassifierOutput(loss=loss, logits=logits)

    def features(self, video: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, D)."""
        patches = self.add_positions(self.patch_embed(video))
        batch, frames = patches.shape[:2]
        x = patches.flatten(0, 1).flatten(1, 2) if self.single_frames else patches.flatten(1, 3)
        prefix = self.prefix()
        num_prefix_tokens = prefix.shape[1]
        x = self.norm_pre(torch.cat((prefix.expand(len(x), -1, -1), x), dim=1))
        for block in self.blocks:
            x = block(x, 1 if self.single_frames else frames)
        if self.single_frames:
            x = x.unflatten(0, (batch, frames)).mean(1)
        return self.norm(x[:, 0] if self.config.pooling == "class_token" else x[:, num_prefix_tokens:].mean(1))

    def prefix(self) -> Tensor:
        """The class token with its position, then the registers: (1, P, D)."""
        tokens = [self.norm.weight.new_zeros(1, 0, self.config.hidden_size)]
        if self.cls_token is not None:
            tokens.append(self.cls_token if self.pos_embed is None else self.cls_token + self.pos_embed[:, :1])
        if self.reg_token is not None:
            tokens.append(self.reg_token)
        return torch.cat(tokens, dim=1)

    def add_positions(self, patches: Tensor) -> Tensor:
        """(B, t, h, w, D) -> the same, with the embeddings of positions and times, resized to these clips."""
        length, height, width, dim = patches.shape[1:]
        if self.pos_embed is None:
            return patches + _sinusoids(length * height * width, dim).to(patches).view(length, height, width, dim)
        space = self.pos_embed[:, int(self.cls_token is not None) :].transpose(1, 2)
        if self.config.position == "learned_joint":
            volume = space.unflatten(2, (self.length, *self.grid))
            if [length, height, width] != [self.length, *self.grid]:
                volume = F.interpolate(volume, size=(length, height, width), mode="nearest")
            return patches + volume.permute(0, 2, 3, 4, 1)
        space = space.unflatten(2, self.grid)
        if [height, width] != list(self.grid):
            space = F.interpolate(space, size=(height, width), mode="nearest")
        patches = patches + space.permute(0, 2, 3, 1)[:, None]
        if self.time_embed is None:
            return patches
        time: Tensor = self.time_embed
        if time.shape[1] != length:
            time = F.interpolate(time.transpose(1, 2), size=length, mode="nearest").transpose(1, 2)
        return patches + time[:, :, None, None]


def _sinusoids(num_tokens: int, dim: int) -> Tensor:
    """The position table of VideoMAE (arXiv 2203.12602), frame after frame: (N, D), float32."""
    position = torch.arange(num_tokens, dtype=torch.float64)[:, None]
    angle = position / 10000.0 ** (2.0 * (torch.arange(dim) // 2).double() / dim)
    return torch.where(torch.arange(dim) % 2 == 1, angle.cos(), angle.sin()).float()
