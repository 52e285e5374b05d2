"""Biases of distances that DAPE V2 convolves with the scores: ALiBi, Kerple and FIRE (arXiv 2410.04798).

Axes: H heads, n some of the queries, N keys, A axes along which distances are measured; biases of axes are added up.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from videofib.mixers.mixer import Grid
from videofib.mixers.score_convolution import ScoreConvolution

LEAST_KERPLE = 0.01  # of both parameters of a Kerple bias
FIRE_SCALE, FIRE_EPSILON = 0.1, 1e-6  # the initial c, and what keeps the quotient finite


class AlibiConvolution(ScoreConvolution):
    """With B = -slope · distance, whose slopes are fixed: 2^(-8/H), 2^(-16/H), … for a power of two."""

    channels_per_head = 2
    slopes: Tensor

    def build_bias(self) -> None:
        self.register_buffer("slopes", torch.empty(self.num_heads))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        with torch.no_grad():
            self.slopes.copy_(torch.tensor(alibi_slopes(self.num_heads)))

    def position_bias(self, scores: Tensor, first: int, grid: Grid) -> Tensor:
        return -self.slopes[:, None, None] * self.distances(scores, first, grid).sum(0)


class KerpleConvolution(ScoreConvolution):
    """With B = -p log(1 + a · distance), learned for each head, p and a at least ``LEAST_KERPLE``."""

    channels_per_head = 2

    def build_bias(self) -> None:
        self.bias_p = nn.Parameter(torch.empty(self.num_heads, 1, 1))
        self.bias_a = nn.Parameter(torch.empty(self.num_heads, 1, 1))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        nn.init.uniform_(self.bias_p, LEAST_KERPLE, 2)
        nn.init.uniform_(self.bias_a, LEAST_KERPLE, 1)

    def no_weight_decay(self) -> set[str]:
        return {"bias_p", "bias_a"}

    def position_bias(self, scores: Tensor, first: int, grid: Grid) -> Tensor:
        p, a = (at_least(LEAST_KERPLE, x) for x in (self.bias_p, self.bias_a))
        return -p * sum(torch.log1p(a * distance) for distance in self.distances(scores, first, grid))


class FireConvolution(ScoreConvolution):
    """With B an MLP of log(1 + |c| · distance) / log(1 + |c| · longest), H of its outputs.

    The longest distance is that of the query, or L where this is larger; L is initially half the length of an axis.
    """

    channels_per_head = 2
    init_L: Tensor

    def build_bias(self) -> None:
        self.mlp = nn.Sequential(nn.Linear(1, self.width), nn.LeakyReLU(), nn.Linear(self.width, self.num_heads))
        self.c, self.L_multiplier = nn.Parameter(torch.empty(())), nn.Parameter(torch.empty(()))
        self.register_buffer("init_L", torch.empty(()))

    def reset_parameters(self) -> None:
        super().reset_parameters()
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                layer.reset_parameters()
        length = max(self.layer_grid) if self.over_grid else math.prod(self.layer_grid)
        nn.init.constant_(self.c, FIRE_SCALE)
        nn.init.constant_(self.init_L, length // 2)
        nn.init.ones_(self.L_multiplier)

    def no_weight_decay(self) -> set[str]:
        return {"c", "L_multiplier"}

    def position_bias(self, scores: Tensor, first: int, grid: Grid) -> Tensor:
        distances, scale = self.distances(scores, first, grid), self.c.abs()
        longest = torch.maximum(distances.amax(-1, keepdim=True), (self.L_multiplier * self.init_L).abs())
        shares = torch.log1p(scale * distances) / (torch.log1p(scale * longest) + FIRE_EPSILON)
        biases = self.mlp(shares[..., None].to(self.c.dtype))
        return rearrange(biases.sum(0), "n keys heads -> heads n keys")

    def numbers_per_score(self) -> float:
        return super().numbers_per_score() + 2 * self.axes(self.layer_grid) * self.width / self.num_heads

    def multiply_adds(self, grid: Grid) -> int:
        pairs = self.axes(grid) * math.prod(grid) ** 2
        return super().multiply_adds(grid) + pairs * self.width * (1 + self.num_heads)

    def axes(self, grid: Grid) -> int:
        """A."""
        return max(1, sum(length > 1 for length in grid)) if self.over_grid else 1


BIASES: dict[str, type[ScoreConvolution]] = {
    "none": ScoreConvolution,
    "alibi": AlibiConvolution,
    "kerple": KerpleConvolution,
    "fire": FireConvolution,
}


def alibi_slopes(heads: int) -> list[float]:
    """Falling geometrically; between two powers of two, those of the lower and every other of the higher."""
    power = 2 ** int(math.log2(heads))
    slopes = [2 ** (-8 * (head + 1) / power) for head in range(power)]
    return slopes + [2 ** (-4 * (2 * head + 1) / power) for head in range(heads - power)]


def at_least(bound: float, x: Tensor) -> Tensor:
    """Clamped, with the gradient of x: the published code clamps the weights themselves."""
    return x + (x.clamp_min(bound) - x).detach()
