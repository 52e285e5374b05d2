"""A reconstruction of lightweight structure-aware attention, LiSA (arXiv 2211.16289), by Fourier transforms.

This is not the published LiSA. Neither its equations nor its code could be read; this is one form that agrees with the
abstract: a set of relative position embeddings that multiply an attention kernel, at log-linear cost in N.

Axes: B batch, H heads, D width of a head, E patterns, N patches, (t, h, w) their grid.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from videofib.mixers.mixer import Grid, LayerSpec, Mixer


class ReconstructedLisa(nn.Module):
    """Attention without a softmax, whose kernel is weighted by patterns of relative positions (a reconstruction).

    With r, s the E patterns of a head, p positions in the grid, and q and k of length 1::

        relation  ρ_i[e] = Σ_j (q_i · k_j) r_e(p_j - p_i)
        output    y_i    = Σ_j Σ_e ρ_i[e] s_e(p_j - p_i) v_j

    Both sums over j are correlations, so that they cost N log N. They are computed with 32 bits, also under autocast:
    transforms of 16 bits exist for few sizes. Prefix tokens receive zeros and reach no patch.

    Args:
        layer: the layer it is built for; the patterns are tables of the differences of two positions in its grid.
        patterns: E.

    Raises:
        ValueError: a width not divisible by the number of heads, no patterns.
    """

    def __init__(self, layer: LayerSpec, *, patterns: int = 4):
        super().__init__()
        heads, dim = layer.num_heads, layer.dim
        if heads < 1 or dim % heads:
            raise ValueError(
                f"dim must be divisible by num_heads, got dim={dim}, num_heads={heads}; set another number of heads"
            )
        if patterns < 1:
            raise ValueError(f"there must be at least one pattern, got patterns={patterns}; set a positive integer")
        self.num_heads, self.num_prefix_tokens = heads, layer.num_prefix_tokens
        self.grid, self.order = layer.grid, layer.order
        self.qkv = nn.Linear(dim, 3 * dim, bias=layer.qkv_bias)
        differences = [2 * length - 1 for length in layer.grid]
        self.rpe_key = nn.Parameter(torch.empty(heads, patterns, *differences))
        self.rpe_value = nn.Parameter(torch.empty(heads, patterns, *differences))
        self.proj = nn.Linear(dim, dim)
        self.proj_drop = nn.Dropout(layer.proj_drop)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Patterns small enough that the sums over N tokens and E patterns do not grow with N and E."""
        std = math.prod(self.grid) ** -0.5
        nn.init.normal_(self.rpe_key, std=std)
        nn.init.normal_(self.rpe_value, std=std * self.rpe_value.shape[1] ** -0.5)

    def no_weight_decay(self) -> set[str]:
        """The tables of relative positions."""
        return {"rpe_key", "rpe_value"}

    def forward(self, x: Tensor, grid: Grid, state: Any = None) -> tuple[Tensor, Any]:
        """(B, P+N, H·D) -> the same; the state is not used.

        Raises:
            ValueError: another grid than that of the layer.
        """
        if tuple(grid) != tuple(self.grid):
            raise ValueError(f"the patterns are tables for the grid (t, h, w) = {self.grid}, got {tuple(grid)}")
        t, h, w = grid
        prefix, patches = x[:, : self.num_prefix_tokens], x[:, self.num_prefix_tokens :]
        layout = f"b ({self.order}) (three heads d) -> three b heads d t h w"
        q, k, v = rearrange(self.qkv(patches), layout, three=3, heads=self.num_heads, t=t, h=h, w=w)
        y = rearrange(self.mix(q, k, v).to(v.dtype), f"b heads d t h w -> b ({self.order}) (heads d)")
        y = self.proj_drop(self.proj(y))
        return torch.cat([torch.zeros_like(prefix, dtype=y.dtype), y], dim=1), state

    def mix(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries, keys and values, each (B, H, D, t, h, w) -> (B, H, D, t, h, w), of at least 32 bits."""
        q, k, v = (x.to(torch.promote_types(x.dtype, torch.float32)) for x in (q, k, v))
        q, k = F.normalize(q, dim=2), F.normalize(k, dim=2)
        relations = [(q * near).sum(2, keepdim=True) for near in correlations(k, self.rpe_key)]
        return sum(
            (relation * near for relation, near in zip(relations, correlations(v, self.rpe_value), strict=True)),
            start=torch.zeros_like(v),
        )

    def multiply_adds(self, grid: Grid) -> int:
        """Of one sequence: four products of the N patches with weights.

        Fourier transforms, of 2·(E+1) maps of each channel on a grid of up to 8·N cells, and products of one number
        with one are not counted, as torch does not count them.
        """
        return 4 * math.prod(grid) * self.proj.in_features**2


def correlations(maps: Tensor, tables: Tensor) -> list[Tensor]:
    """For each pattern e: Σ_j table_e(p_j - p_i) · map(p_j) at every i, with zeros beyond the grid.

    Axes are padded to twice their length, so that no difference of two positions wraps round the grid's end.

    Args:
        maps: (B, H, D, t, h, w).
        tables: (H, E, 2t-1, 2h-1, 2w-1), entry p_j - p_i + (t, h, w) - 1.

    Returns:
        E maps (B, H, D, t, h, w).
    """
    t, h, w = grid = maps.shape[-3:]
    padded = [2 * length if length > 1 else 1 for length in grid]
    axes = (-3, -2, -1)
    centred = F.pad(tables, [n for m, p in zip(grid[::-1], padded[::-1], strict=True) for n in (0, p - (2 * m - 1))])
    centred = torch.roll(centred, [1 - length for length in grid], axes)  # the difference 0 becomes entry 0
    spectra = torch.fft.rfftn(centred.to(maps.dtype), dim=axes).conj()
    spectrum = torch.fft.rfftn(maps, s=padded, dim=axes)
    return [
        torch.fft.irfftn(spectrum * spectra[:, e, None], s=padded, dim=axes)[..., :t, :h, :w]
        for e in range(tables.shape[1])
    ]


MIXER = Mixer(
    build=ReconstructedLisa,
    paper="arXiv 2211.16289",
    multiply_adds=ReconstructedLisa.multiply_adds,
    needs=frozenset({"grid", "fixed_tokens"}),
)
