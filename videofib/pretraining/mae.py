"""VideoMAE (arXiv 2203.12602): predict the pixels of tubes that the encoder does not see.

    clip -> embedding -> visible tokens -> encoder -> decoder with mask tokens -> pixels of the masked tokens

Axes: B clips, C T H W channels, frames, height, width; t h w grid, N tokens, n visible ones, k visible places of a
frame; P prefix tokens; D width of the encoder, d of the decoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from videofib.engine.objective import Objective, Outcome
from videofib.mixers import MIXERS, Grid, LayerSpec
from videofib.mixers.dense_attention import DenseAttention
from videofib.models.blocks import Block, BlockSpec
from videofib.models.embed import sinusoid_positions
from videofib.models.patch_embed import ConvStem
from videofib.models.stack import Stack
from videofib.models.timesformer import TimeSformer
from videofib.pretraining.encoder import without_classifier
from videofib.pretraining.pixels import pixel_targets
from videofib.pretraining.tubes import draw_visible, num_visible, others, take, tokens_of


class MaskedAutoencoder(nn.Module):
    """(B, C, T, H, W) and visible places (B, k) -> mean squared error of the masked tokens' pixels.

    **Sparse attention in the encoder.** Offsets are distances in the sequence that the encoder gets, n = t·k visible
    tokens in the model's token order: the clip is treated as one with the grid (t, 1, k). Of Fibottention's support
    for N tokens, at a ratio of 90 % only a tenth of each query's keys would be visible, and most heads would see the
    class token alone; over the shortened sequence each head has as many neighbours as in a clip of that length. In the
    order "h w t" the frames of a patch lie side by side, and tubes are visible in full, so offsets below t within a
    patch mean in pre-training what they mean in fine-tuning, and longer ones lead to other visible patches. The window
    follows the length, w_max = n // 3, unless it is set.

    Args:
        encoder: a TimeSformer with joint attention; its classifier is removed.
        decoder_dim, decoder_depth, decoder_num_heads: size of the decoder, a transformer with dense attention and fixed
            positions; by default half the encoder's width and heads, and 4 blocks, as published.
        normalise: normalise the pixels of each token (:func:`pixel_targets`).

    Raises:
        ValueError: an encoder that cannot work on a part of the tokens, or sizes that do not fit; the message shows
            them.
    """

    def __init__(
        self,
        encoder: TimeSformer,
        *,
        decoder_dim: int | None = None,
        decoder_depth: int = 4,
        decoder_num_heads: int | None = None,
        normalise: bool = True,
    ):
        super().__init__()
        check_encoder(encoder)
        self.encoder = without_classifier(encoder)
        self.normalise = normalise
        dim = encoder.norm.normalized_shape[0]
        embedding = encoder.patch_embed
        self.patch_size, self.tubelet_size = embedding.patch_size, embedding.tubelet_size
        pixels = embedding.in_chans * self.tubelet_size * self.patch_size**2
        self.decoder = PixelDecoder(
            dim,
            decoder_dim or dim // 2,
            decoder_depth,
            decoder_num_heads or max(1, encoder.num_heads // 2),
            pixels,
            grid=encoder.grid,
            order=encoder.order,
        )

    @property
    def blocks(self) -> list[nn.Module]:
        """All blocks, as what shards a model asks for them."""
        return [*self.encoder.blocks, *self.decoder.blocks]

    def no_weight_decay(self) -> set[str]:
        return {f"encoder.{name}" for name in self.encoder.no_weight_decay()} | {"decoder.mask_token"}

    def encode(self, video: Tensor, places: Tensor) -> Tensor:
        """The visible tokens after the encoder's last norm: (B, C, T, H, W) and (B, k) -> (B, t·k, D).

        Raises:
            ValueError: blocks that return another number of tokens.
        """
        encoder, grid = self.encoder, self.encoder.patch_embed.grid_of(video)
        num_prefix = encoder.num_prefix_tokens
        x = encoder.norm_pre(encoder.embed(video))
        visible = take(x[:, num_prefix:], tokens_of(places, grid, encoder.order))
        x = torch.cat((x[:, :num_prefix], visible), dim=1)
        y = encoder.norm(encoder.blocks(x, (grid[0], 1, places.shape[1])))
        if y.shape != x.shape:
            raise ValueError(f"the encoder makes {y.shape[1]} of {x.shape[1]} tokens; the decoder needs each of them")
        return y[:, num_prefix:]

    def forward(self, video: Tensor, places: Tensor) -> Tensor:
        grid, order = self.encoder.patch_embed.grid_of(video), self.encoder.order
        masked = others(places, grid[1] * grid[2])
        predicted = self.decoder(self.encode(video, places), places, masked, grid)
        with torch.no_grad():
            targets = pixel_targets(video, self.patch_size, self.tubelet_size, order, normalise=self.normalise)
            targets = take(targets, tokens_of(masked, grid, order))
        return (predicted.float() - targets).square().mean()


class PixelDecoder(nn.Module):
    """Visible tokens and mask tokens -> pixels of the masked tokens, through a few dense blocks.

    Args:
        encoder_dim, dim, depth, num_heads, pixels: D, d, blocks, heads, values of a token.
        grid, order: of the clips that it is made for; it takes others, too.

    Raises:
        ValueError: a width that is not divisible by the heads.
    """

    def __init__(self, encoder_dim: int, dim: int, depth: int, num_heads: int, pixels: int, *, grid: Grid, order: str):
        super().__init__()
        if depth < 1 or num_heads < 1 or dim % num_heads:
            raise ValueError(
                f"the decoder needs a block, and its width to be divisible by its heads; got decoder_depth={depth}, "
                f"decoder_dim={dim}, decoder_num_heads={num_heads}"
            )
        self.order = order
        self.embed = nn.Linear(encoder_dim, dim, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        spec = BlockSpec(dim, 4.0, 0.0, 1e-6, None)
        layer = LayerSpec(dim, num_heads, 0, grid, order=order, depth=depth)
        self.blocks = Stack(Block(DenseAttention(layer), spec, 0.0) for _ in range(depth))
        self.norm = spec.norm()
        self.pixels = nn.Linear(dim, pixels)
        self._initialise(dim)

    def _initialise(self, dim: int) -> None:
        """As the models' own weights: the std of 0.02 is for a width of 768."""
        std = 0.02 * (768 / dim) ** 0.5
        nn.init.trunc_normal_(self.mask_token, std=std)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor, places: Tensor, masked: Tensor, grid: Grid) -> Tensor:
        """(B, t·k, D), with the visible and the masked places of a frame -> (B, t·(h·w - k), pixels)."""
        length, height, width = grid
        table = sinusoid_positions(length * height * width, self.mask_token.shape[2], x.device)  # frame after frame
        axes = dict(zip("thw", grid, strict=True))
        table = rearrange(table[0], f"(t h w) d -> ({self.order}) d", **axes)
        x = self.embed(x)
        x = x + table[tokens_of(places, grid, self.order)].to(x.dtype)
        masks = self.mask_token + table[tokens_of(masked, grid, self.order)]
        x = self.blocks(torch.cat((x, masks.to(x.dtype)), dim=1), grid)
        return self.pixels(self.norm(x[:, -masks.shape[1] :]))


def check_encoder(encoder: TimeSformer) -> None:
    """Raise ValueError where a model cannot work on the visible tokens alone, in one line."""
    needs_all = {
        f"attention_type={encoder.attention_type!r}": encoder.attention_type != "joint_space_time",
        f"local_interaction={encoder.local_interaction!r}": encoder.local_interaction != "none",
        "stem='conv', whose patches overlap,": isinstance(encoder.patch_embed, ConvStem),
        "pooling='class_attention'": encoder.pooling == "class_attention",
    }
    for mixer in encoder.mixers.used():
        needs_all[f"the mixer {mixer!r}"] = not MIXERS[mixer].needs.isdisjoint({"grid", "fixed_tokens"})
    if found := [what for what, broken in needs_all.items() if broken]:
        raise ValueError(
            f"a masked autoencoder's encoder sees the visible tokens alone, and {found[0]} needs all tokens of a clip; "
            "use joint_space_time attention with a mixer such as 'dense' or 'fibottention', and nothing else that "
            "mixes neighbouring patches"
        )


class MaskedPixels(Objective):
    """The objective of a :class:`MaskedAutoencoder`, with tube masks drawn for each clip.

    Args:
        model: whose patches are masked.
        mask_ratio: fraction of the patches of a frame.

    Raises:
        ValueError: a ratio that masks nothing or everything.
    """

    def __init__(self, model: MaskedAutoencoder, mask_ratio: float = 0.9):
        self.grid_of, self.mask_ratio = model.encoder.patch_embed.grid_of, mask_ratio
        _, height, width = model.encoder.grid
        num_visible(height * width, mask_ratio)

    def __call__(self, replica: nn.Module, clips: Tensor, targets: Tensor, batch: Mapping[str, Any]) -> Outcome:
        _, height, width = self.grid_of(clips)
        places = draw_visible(len(clips), height * width, self.mask_ratio).to(clips.device)
        return Outcome(replica(clips, places), None, {})
