"""FCViT's global context: the mean token, mapped, given to each token by its similarity to it (arXiv 2212.12552).

Axes: b batch, n tokens, d width; g groups of c = d/g channels.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from videofib.attention import autocast

EPSILON = 1e-5  # added to the standard deviation of similarities


class GlobalContext(nn.Module):
    """The mean token, mapped, and given to every token by its similarity to that mean (section 3).

    For token p and group of channels n, with the mean g::

        s[n, p] = <x[n, p], g[n]> / √c, standardised over all n and p of a sample
        y[n, p] = (s[n, p]·scale[n] + shift[n]) · f(g)[n]

    Args:
        dim: d.
        groups: g.
        reduction: the hidden width of f is d / reduction.
        compete: f is the larger of two linear maps, then a linear map; else a linear map, GELU, and a linear map.
        weighted: False: y is f(g) for all tokens.

    Raises:
        ValueError: a width that is no multiple of ``groups`` and ``reduction``.
    """

    def __init__(self, dim: int, groups: int, reduction: int, *, compete: bool, weighted: bool):
        super().__init__()
        for name, value in {"groups": groups, "reduction": reduction}.items():
            if value < 1 or dim % value:
                raise ValueError(
                    f"embed_dim must be a multiple of {name}, got embed_dim={dim}, {name}={value}; set {name} to a "
                    "divisor of embed_dim"
                )
        self.dim, self.groups, self.compete, self.weighted = dim, groups, compete, weighted
        hidden = dim // reduction
        if weighted:
            self.rescale_weight = nn.Parameter(torch.ones(groups))
            self.rescale_bias = nn.Parameter(torch.zeros(groups))
        if compete:
            self.fc1, self.fc2 = nn.Linear(dim, 2 * hidden), nn.Linear(hidden, dim)
        else:
            self.fc = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

    def reset_parameters(self) -> None:
        if self.weighted:
            nn.init.ones_(self.rescale_weight)
            nn.init.zeros_(self.rescale_bias)

    def forward(self, x: Tensor) -> Tensor:
        """(b, d, n) -> (b, d, n), what is to be added."""
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        mean = exact.mean(2)  # (b, d)
        context = self.context_of(mean.to(x.dtype))
        if not self.weighted:
            return context.to(x.dtype).unsqueeze(2).expand_as(x)
        with autocast.disabled(x.device.type):  # similarities differ by less than 16 bits resolve
            update = self.similarity(exact, mean).unsqueeze(2) * rearrange(context, "b (g c) -> b g c 1", g=self.groups)
        return rearrange(update, "b g c n -> b (g c) n").to(x.dtype)

    def context_of(self, mean: Tensor) -> Tensor:
        """f: (b, d) -> (b, d)."""
        if not self.compete:
            return self.fc(mean)
        first, second = self.fc1(mean).chunk(2, -1)
        return self.fc2(torch.maximum(first, second))

    def similarity(self, x: Tensor, mean: Tensor) -> Tensor:
        """Standardised, scaled and shifted: (b, d, n) and (b, d) -> (b, g, n)."""
        x = rearrange(x, "b (g c) n -> b g c n", g=self.groups)
        mean = rearrange(mean, "b (g c) -> b g c", g=self.groups)
        similarity = torch.einsum("bgcn,bgc->bgn", x, mean) * x.shape[2] ** -0.5
        deviation, centre = torch.std_mean(similarity, (1, 2), keepdim=True)  # unbiased, as published
        similarity = (similarity - centre) / (deviation + EPSILON)
        return similarity * self.rescale_weight[:, None] + self.rescale_bias[:, None]
