"""An MLP whose hidden layer also looks at neighbours on the grid: a depthwise convolution within each frame.

Axes: b batch, t h w grid, p prefix tokens, d width, c hidden width.
"""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn

from videofib.mixers import Grid
from videofib.models.embed import join_prefix


class ConvMlp(nn.Module):
    """fc1, a depthwise convolution, GELU, fc2.

    It is FCViT's (arXiv 2212.12552, section 3), and with ``residual`` that of Shunted Transformers, the
    "detail-specific feed-forward" (arXiv 2111.15193, section 3.2).

    Prefix tokens have no neighbours; for them it is an ordinary MLP.

    Args:
        dim, hidden: d, c.
        order: how patches are laid out, ``"h w t"`` or ``"t h w"``.
        num_prefix_tokens: p.
        kernel: side of the convolution, padded with zeros; odd.
        residual: the convolution is added to its input.
        drop: dropout of the hidden layer and of the output.

    Raises:
        ValueError: an even kernel.
    """

    def __init__(
        self,
        dim: int,
        hidden: int,
        *,
        order: str = "h w t",
        num_prefix_tokens: int = 0,
        kernel: int = 3,
        residual: bool = False,
        drop: float = 0.0,
    ):
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"kernels must be odd, got kernel={kernel}")
        self.order, self.num_prefix_tokens, self.residual = order, num_prefix_tokens, residual
        self.fc1 = nn.Linear(dim, hidden)
        self.dwconv = nn.Conv2d(hidden, hidden, kernel, padding=kernel // 2, groups=hidden)
        self.act = nn.GELU()
        self.drop = nn.Dropout(drop)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor, grid: Grid) -> Tensor:
        """(b, p+N, d) -> (b, p+N, d), N = t·h·w for ``grid`` = (t, h, w)."""
        hidden = self.fc1(x)
        prefix, patches = hidden[:, : self.num_prefix_tokens], hidden[:, self.num_prefix_tokens :]
        convolved = self.convolve(patches, grid)
        hidden = join_prefix(prefix, patches + convolved if self.residual else convolved)
        return self.drop(self.fc2(self.drop(self.act(hidden))))

    def convolve(self, patches: Tensor, grid: Grid) -> Tensor:
        """Each frame by itself: (b, N, c) -> (b, N, c)."""
        axes = dict(zip("thw", grid, strict=True))
        frames = self.dwconv(rearrange(patches, f"b ({self.order}) c -> (b t) c h w", **axes))
        return rearrange(frames, f"(b t) c h w -> b ({self.order}) c", **axes)
