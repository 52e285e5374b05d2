"""From frames to tokens: patches with their positions behind prefix tokens, and resizing of learned embeddings.

Axes: B batch, C channels, T frames, H W image, t h w grid of patches or tubelets, P prefix tokens, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from videofib.mixers import Grid
from videofib.models.fourier_position import FourierPosition
from videofib.models.patch_embed import STEMS, check_tubelets

POSITIONS = ("learned", "learned_joint", "sinusoid", "fourier")


class ClipEmbedding(nn.Module):
    """From clips to tokens: prefix tokens, then patches in the model's order, each with its position.

    A base class, not a submodule, since published checkpoints name its parameters as the model's own (``cls_token``,
    ``pos_embed``).

    Args:
        img_size, patch_size, in_chans, num_frames, tubelet_size, embed_dim, num_registers, drop_rate: as for
            :class:`~videofib.models.TimeSformer`.
        order: how the t·h·w patches are laid out, "h w t" or "t h w".
        single_frames: each frame is a sequence of its own, without a time.
        class_token: whether there is a class token; it comes first, the registers after it.
        stem: how patches become tokens, one of ``STEMS``.
        position: ``learned``, ``learned_joint``, the fixed table ``sinusoid``, or ``fourier``.

    Attributes:
        grid: (t, h, w) of the clips that the model is built for.
        num_prefix_tokens: P.

    Raises:
        ValueError: sizes that do not divide.
    """

    positions: Tensor  # of the fixed table

    def __init__(
        self,
        img_size: int | tuple[int, int],
        patch_size: int,
        in_chans: int,
        num_frames: int,
        tubelet_size: int,
        embed_dim: int,
        *,
        order: str,
        single_frames: bool,
        class_token: bool,
        num_registers: int,
        stem: str,
        position: str,
        drop_rate: float,
    ):
        super().__init__()
        height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
        self.patch_embed = STEMS[stem]((height, width), patch_size, in_chans, embed_dim, tubelet_size)
        check_tubelets(num_frames, tubelet_size)
        self.grid = (num_frames // tubelet_size, *self.patch_embed.grid_size)
        self.order, self.single_frames = order, single_frames
        self.num_prefix_tokens = int(class_token) + num_registers
        length, patches = self.grid[0], self.grid[1] * self.grid[2]
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim)) if class_token else None
        self.reg_token = nn.Parameter(torch.zeros(1, num_registers, embed_dim)) if num_registers else None
        self.joint_positions = position == "learned_joint"
        self.pos_embed = self.time_embed = None
        self.fourier = FourierPosition(embed_dim) if position == "fourier" else None
        if position == "sinusoid":
            self.register_buffer("positions", sinusoid_positions(length * patches, embed_dim), persistent=False)
            self.register_load_state_dict_post_hook(_compute_positions)
        elif self.joint_positions:
            if single_frames:
                raise ValueError(
                    "position='learned_joint' has an embedding for each token of a clip, and space_only attention sees "
                    "one frame at a time; set position='learned'"
                )
            self.pos_embed = nn.Parameter(torch.zeros(1, int(class_token) + length * patches, embed_dim))
        else:
            if self.fourier is None:
                self.pos_embed = nn.Parameter(torch.zeros(1, int(class_token) + patches, embed_dim))
            if not single_frames:
                self.time_embed = nn.Parameter(torch.zeros(1, length, embed_dim))
        self.pos_drop, self.time_drop = nn.Dropout(drop_rate), nn.Dropout(drop_rate)

    def reset_embeddings(self, std: float, position_std: float | None) -> None:
        """Draw prefix tokens with ``std``, and embeddings of positions and times with ``position_std``.

        None: as published, positions with ``std`` and times zero. A fixed table is computed again.
        """
        for token in (self.cls_token, self.reg_token):
            if token is not None:
                nn.init.trunc_normal_(token, std=std)
        if self.pos_embed is not None:
            nn.init.trunc_normal_(self.pos_embed, std=position_std or std)
        if self.time_embed is not None and position_std:
            nn.init.trunc_normal_(self.time_embed, std=position_std)
        elif self.time_embed is not None:
            nn.init.zeros_(self.time_embed)
        if hasattr(self, "positions"):
            _compute_positions(self)

    def embed(self, video: Tensor) -> Tensor:
        """(B, C, T, H, W) -> (B, P+N, D); single frames: (B·t, P+h·w, D)."""
        layout = "(b t) (h w) d" if self.single_frames else f"b ({self.order}) d"
        patches = self._add_positions(self.patch_embed(video))
        return self._add_prefix(rearrange(patches, f"b t h w d -> {layout}"))

    def _add_positions(self, patches: Tensor) -> Tensor:
        """(B, t, h, w, D) -> the same, with the embeddings of each token's position and time added."""
        length, height, width = patches.shape[1:4]
        if self.fourier is not None:
            embed = self.fourier(height, width)
            return self._add_times(self.pos_drop(patches + rearrange(embed, "1 d h w -> 1 1 h w d")))
        if self.pos_embed is None:
            table = self._sinusoids(length * height * width)
            return self.pos_drop(patches + table.unflatten(1, (length, height, width)))
        embed = self.pos_embed[:, 0 if self.cls_token is None else 1 :]
        if self.joint_positions:
            embed = resize_volume(embed, self.grid, (length, height, width))
            return self.pos_drop(patches + embed.unflatten(1, (length, height, width)))
        embed = resize_grid(embed, self.patch_embed.grid_size, (height, width))
        return self._add_times(self.pos_drop(patches + rearrange(embed, "1 (h w) d -> 1 1 h w d", h=height)))

    def _add_times(self, patches: Tensor) -> Tensor:
        if self.time_embed is None:
            return patches
        return self.time_drop(patches + resize_time(self.time_embed, patches.shape[1])[:, :, None, None])

    def _sinusoids(self, num_tokens: int) -> Tensor:
        """The fixed position table (1, N, D), frame after frame."""
        table = self.positions
        if table.shape[1] == num_tokens:
            return table
        return sinusoid_positions(num_tokens, table.shape[2], table.device).to(table.dtype)

    def _add_prefix(self, patches: Tensor) -> Tensor:
        """(B, N, D) -> (B, P+N, D): the class token with its position, then the registers, then the patches."""
        tokens: list[Tensor] = [] if self.reg_token is None else [self.reg_token]
        if self.cls_token is not None:
            tokens.insert(0, self.cls_token if self.pos_embed is None else self.cls_token + self.pos_embed[:, :1])
        if not tokens:
            return patches
        prefix = torch.cat(tokens, dim=1)
        return join_prefix(self.pos_drop(prefix.expand(patches.shape[0], -1, -1)), patches)


def _compute_positions(model: ClipEmbedding, _: object = None) -> None:
    """Compute the fixed table, which no state dict holds: a model built on the meta device has none."""
    table, weight = model.positions, next(model.patch_embed.parameters())
    model.positions = sinusoid_positions(table.shape[1], table.shape[2]).to(weight.device, weight.dtype)


def resize_grid(embed: Tensor, old: tuple[int, int], new: tuple[int, int], mode: str = "nearest") -> Tensor:
    """Resize a 2-D grid of position embeddings: (1, h·w, D) -> (1, h'·w', D).

    Args:
        mode: ``nearest``, as TimeSformer's model does for frames of another size, or ``bicubic``, with antialiasing,
            as is usual for fine-tuning at another resolution (arXiv 2010.11929, section 3.2).
    """
    if old == new:
        return embed
    grid = rearrange(embed, "1 (h w) d -> 1 d h w", h=old[0], w=old[1])
    grid = F.interpolate(grid, size=new, mode=mode, antialias=mode == "bicubic")
    return rearrange(grid, "1 d h w -> 1 (h w) d")


def resize_volume(embed: Tensor, old: Grid, new: Grid) -> Tensor:
    """Resize the embeddings of all tokens, frame after frame: (1, t·h·w, D) -> (1, t'·h'·w', D), by ``nearest``."""
    if old == new:
        return embed
    volume = rearrange(embed, "1 (t h w) d -> 1 d t h w", t=old[0], h=old[1], w=old[2])
    return rearrange(F.interpolate(volume, size=new, mode="nearest"), "1 d t h w -> 1 (t h w) d")


def resize_time(embed: Tensor, length: int, mode: str = "nearest") -> Tensor:
    """Resize time embeddings: (1, t, D) -> (1, t', D), by ``nearest``, as TimeSformer does, or ``linear``."""
    if embed.shape[1] == length:
        return embed
    line = F.interpolate(rearrange(embed, "1 t d -> 1 d t"), size=length, mode=mode)
    return rearrange(line, "1 d t -> 1 t d")


def sinusoid_positions(num_tokens: int, dim: int, device: torch.device | None = None) -> Tensor:
    """The fixed position table of VideoMAE (arXiv 2203.12602): (1, N, D), sines in even columns, cosines in odd ones.

    Positions count all tokens of a clip, frame after frame ("t h w").
    """
    position = torch.arange(num_tokens, dtype=torch.float64, device=device)[:, None]
    pair = torch.arange(dim, device=device) // 2
    angle = position / 10000.0 ** (2.0 * pair.double() / dim)
    odd = torch.arange(dim, device=device) % 2 == 1
    return torch.where(odd, angle.cos(), angle.sin()).to(torch.get_default_dtype())[None]


def join_prefix(prefix: Tensor, tokens: Tensor) -> Tensor:
    """(1 or B, P, D) and (B, N, D) -> (B, P+N, D)."""
    return torch.cat((prefix.expand(tokens.shape[0], -1, -1), tokens), dim=1)
