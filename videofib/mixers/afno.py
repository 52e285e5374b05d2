"""AFNO, the adaptive Fourier neural operator: a shared MLP over the frequencies of the token grid (arXiv 2111.13587).

Axes: b batch, t h w grid, p prefix tokens, d width; k blocks of c = d/k channels, r the factor of the hidden width, f
frequencies of the half axis. The parts of complex numbers lie side by side: (…, 2c) is (real parts, imaginary parts).
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from videofib.attention import autocast
from videofib.mixers.mixer import Grid, LayerSpec, Mixer

INITIAL_STD = 0.02  # of all weights and biases


class AFNO(nn.Module):
    """A Fourier transform over the grid, the same small complex MLP for every frequency, and back (section 4).

    Per block of channels, for the transformed tokens Z (equations of section 4, "block-diagonal structure", "weight
    sharing" and "soft-thresholding")::

        U = relu(Z·W1 + B1)     of real and imaginary parts separately
        V = softshrink(U·W2 + B2, threshold)     likewise
        y = inverse(V) + x

    The transform covers t, h and w, and keeps half of the frequencies of w, as those of real numbers come in conjugate
    pairs: a grid (1, h, w) is the published 2-D form, (1, 1, w) the 1-D form. Lines over time, (t, 1, 1), are the 1-D
    form too: half of the frequencies of t. All transforms are circular: the last frame is next to the first.

    Prefix tokens have no place on the grid: they neither mix nor are mixed, and their output is zero.

    Everything is computed in 32 bits, also under autocast: there is no transform of 16-bit numbers for all sizes.

    Args:
        layer: the layer it is built for.
        num_blocks: k. Channels of different blocks do not mix.
        factor: r.
        threshold: parts of V nearer to zero than this become zero, and others shrink by it.
        kept_modes: how many frequencies of the half axis, from 0, are computed; the others become zero. None: all.
            The published code counts them from a fraction of n//2 + 1, n being t·h·w.
        residual: adds x, as published; the block around the mixer adds its own input besides.
        bias: B1 and B2, the same for all frequencies: an impulse at the grid's first token and those next to it.

    Raises:
        ValueError: a width that is no multiple of ``num_blocks``, an option out of range.
    """

    def __init__(
        self,
        layer: LayerSpec,
        *,
        num_blocks: int = 8,
        factor: int = 1,
        threshold: float = 0.01,
        kept_modes: int | None = None,
        residual: bool = True,
        bias: bool = True,
    ):
        super().__init__()
        if num_blocks < 1 or layer.dim % num_blocks:
            raise ValueError(
                f"embed_dim must be a multiple of num_blocks, got embed_dim={layer.dim}, num_blocks={num_blocks}; "
                "set num_blocks to a divisor of embed_dim"
            )
        if factor < 1 or (kept_modes is not None and kept_modes < 1):
            raise ValueError(f"factor and kept_modes must be 1 or more, got factor={factor}, kept_modes={kept_modes}")
        if threshold < 0:
            raise ValueError(f"threshold must be 0 or more, got threshold={threshold}")
        self.num_prefix_tokens, self.order = layer.num_prefix_tokens, layer.order
        self.num_blocks, self.threshold, self.kept_modes, self.residual = num_blocks, threshold, kept_modes, residual
        width = layer.dim // num_blocks
        hidden = width * factor
        self.w1 = nn.Parameter(torch.empty(2, num_blocks, width, hidden))  # real and imaginary parts
        self.w2 = nn.Parameter(torch.empty(2, num_blocks, hidden, width))
        self.b1 = nn.Parameter(torch.empty(2, num_blocks, hidden)) if bias else None
        self.b2 = nn.Parameter(torch.empty(2, num_blocks, width)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The published initial values: normal weights and biases."""
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=INITIAL_STD)

    def no_weight_decay(self) -> set[str]:
        return {"b1", "b2"} if self.b1 is not None else set()

    def forward(self, x: Tensor, grid: Grid, state: Any = None) -> tuple[Tensor, Any]:
        """(B, P+N, D) -> (B, P+N, D), zero for the prefix; the state is not used."""
        num_prefix, axes = self.num_prefix_tokens, dict(zip("thw", grid, strict=True))
        with autocast.disabled(x.device.type):
            tokens = x[:, num_prefix:].to(torch.promote_types(x.dtype, torch.float32))
            patches = rearrange(tokens, f"b ({self.order}) d -> b t h w d", **axes)
            y = rearrange(self.filter(patches), f"b t h w d -> b ({self.order}) d")
            if self.residual:
                y = y + tokens
        return F.pad(y.to(x.dtype), (0, 0, num_prefix, 0)), state

    def filter(self, x: Tensor) -> Tensor:
        """The mixed patches, without the residual: (b, t, h, w, d) -> (b, t, h, w, d)."""
        dims = transformed_axes(x.shape[1:4])
        spectrum = torch.fft.rfftn(x, dim=dims, norm="ortho")  # complex; the last of dims is f long
        num_modes = spectrum.shape[dims[-1]]
        kept = min(self.kept_modes or num_modes, num_modes)
        mixed = self.mix_channels(spectrum.narrow(dims[-1], 0, kept))
        if kept < num_modes:
            dropped = spectrum.narrow(dims[-1], kept, num_modes - kept)
            mixed = torch.cat([mixed, torch.zeros_like(dropped)], dims[-1])
        return torch.fft.irfftn(mixed, s=[x.shape[dim] for dim in dims], dim=dims, norm="ortho")

    def mix_channels(self, spectrum: Tensor) -> Tensor:
        """The MLP over the channels of every frequency: complex (b, t, h, f, d) -> (b, t, h, f, d)."""
        axes = dict(zip("bthf", spectrum.shape[:4], strict=True))
        parts = torch.view_as_real(spectrum)
        z = rearrange(parts, "b t h f (k c) part -> k (b t h f) (part c)", k=self.num_blocks)
        u = F.relu(complex_linear(z, self.w1, self.b1))
        v = F.softshrink(complex_linear(u, self.w2, self.b2), self.threshold)
        parts = rearrange(v, "k (b t h f) (part c) -> b t h f (k c) part", part=2, **axes)
        return torch.view_as_complex(parts.contiguous())

    def multiply_adds(self, grid: Grid) -> int:
        """Of one sequence: four real products for a complex one. The Fourier transforms are not counted."""
        axis = transformed_axes(grid)[-1] - 1
        num_modes = grid[axis] // 2 + 1
        num_frequencies = math.prod(grid) // grid[axis] * min(self.kept_modes or num_modes, num_modes)
        return num_frequencies * 2 * (self.w1.numel() + self.w2.numel())


def transformed_axes(grid: Grid | torch.Size) -> tuple[int, ...]:
    """Which axes of (b, t, h, w, d) the transform covers; the last one is the half axis."""
    return (1,) if grid[1] == grid[2] == 1 else (1, 2, 3)


def complex_linear(z: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Z·W + B of complex numbers, written as one real product.

    Args:
        z: (k, n, 2c).
        weight: (2, k, c, o), real and imaginary parts.
        bias: (2, k, o), or None.

    Returns:
        (k, n, 2o).
    """
    real, imaginary = weight.to(z.dtype)
    rows = [torch.cat([real, imaginary], -1), torch.cat([-imaginary, real], -1)]  # i·i = -1
    product = z @ torch.cat(rows, -2)
    return product if bias is None else product + rearrange(bias.to(z.dtype), "part k o -> k 1 (part o)")


MIXER = Mixer(
    build=AFNO,
    paper="arXiv 2111.13587",
    multiply_adds=AFNO.multiply_adds,
    needs=frozenset({"grid"}),
)
