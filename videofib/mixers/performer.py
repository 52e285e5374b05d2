"""Performer: softmax attention estimated by random features, which never form its matrix (arXiv 2009.14794, FAVOR+).

Axes: B batch, H heads, S = P+N tokens, D width of a head, M random features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from videofib.attention.autocast import disabled
from videofib.mixers.linear_attention import LinearAttention, working_dtype
from videofib.mixers.mixer import Grid, LayerSpec, Mixer, check_name

KERNELS = ("softmax", "relu")
SOFTMAX_EPSILON, RELU_EPSILON = 1e-4, 1e-3  # added to features, so that no denominator is zero; as published
LARGEST_SEED = 2**62


def softmax_features(x: Tensor, projection: Tensor, *, of_keys: bool) -> Tensor:
    """Positive features φ with E[φ(q)·φ(k)] ∝ exp(q·k / √D): section 2.4 and lemma 1 of the paper.

    Exponents are shifted so that none is positive: those of a query by their largest, those of all keys of a head by
    one number. Both cancel out in attention, but for the epsilon. No gradient passes through them.

    Args:
        x: queries or keys (B, H, S, D).
        projection: (M, D).
        of_keys: whether they are keys.

    Returns:
        (B, H, S, M).
    """
    x = x * x.shape[-1] ** -0.25
    exponents = x @ projection.T
    largest = exponents.detach().amax((-2, -1) if of_keys else -1, keepdim=True)
    shifted = exponents - x.square().sum(-1, keepdim=True) / 2 - largest
    return len(projection) ** -0.5 * (shifted.exp() + SOFTMAX_EPSILON)


def relu_features(x: Tensor, projection: Tensor) -> Tensor:
    """Features of the paper's generalised attention with a ReLU: (B, H, S, D) -> (B, H, S, M)."""
    return torch.relu(x * x.shape[-1] ** -0.25 @ projection.T) + RELU_EPSILON


def attention_by_features(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Each token's mean of all values, weighted by φ(q)·φ(k): equation 4 of the paper.

    Features of queries and keys (B, H, S, M), values (B, H, S, D) -> (B, H, S, D).
    """
    sums = k.sum(2).unsqueeze(-1)  # (B, H, M, 1)
    return q @ (k.transpose(-2, -1) @ v) / (q @ sums)


def orthogonal_rows(num_features: int, width: int, seed: int) -> Tensor:
    """(M, D) normal rows, orthogonal to each other within each D of them: section 2.4 of the paper.

    The directions are those of random orthogonal bases, the lengths those of independent normal vectors.
    """
    generator = torch.Generator().manual_seed(seed)
    num_bases = -(-num_features // width)
    bases, r = torch.linalg.qr(torch.randn(num_bases, width, width, generator=generator, device="cpu"))
    # the signs that LAPACK chooses favour some directions
    bases = bases * r.diagonal(dim1=1, dim2=2).sign().unsqueeze(1)
    lengths = torch.randn(num_features, width, generator=generator, device="cpu").norm(dim=1, keepdim=True)
    return bases.transpose(1, 2).reshape(-1, width)[:num_features] * lengths


@torch.library.custom_op("videofib::redrawn", mutates_args=())
def redrawn(projection: Tensor, seed: Tensor, interval: int) -> Tensor:
    """A copy of a projection (M, D), or, for one seed in ``interval``, another that the seed determines.

    It depends on its arguments alone, so a block that is computed again in the backward pass, with the same random
    numbers, has the same projection, whether or not the first pass has stored it.
    """
    number = int(seed)
    if number % interval:
        return projection.clone()
    num_features, width = projection.shape
    return orthogonal_rows(num_features, width, number).to(projection)


@redrawn.register_fake
def _(projection: Tensor, seed: Tensor, interval: int) -> Tensor:
    return torch.empty_like(projection)


class Performer(LinearAttention):
    """Attention by random features of queries and keys. Prefix tokens take part like any others.

    The random projection is a buffer, one for all heads, and so part of checkpoints.

    Args:
        layer: the layer it is built for.
        features: M, by default D·ln D rounded down (266 for heads of width 64).
        kernel: ``softmax``: an estimate of softmax attention; ``relu``: features of a ReLU instead.
        redraw_interval: in training, a forward pass draws a new projection with probability 1 / ``redraw_interval``;
            None never does.

    Raises:
        ValueError: an unknown name, a number out of range; dropout of attention weights, of which it has no matrix.
    """

    projection_matrix: Tensor

    def __init__(
        self,
        layer: LayerSpec,
        *,
        features: int | None = None,
        kernel: str = "softmax",
        redraw_interval: int | None = 1000,
    ):
        super().__init__(layer)
        check_name("kernel", kernel, KERNELS)
        width = layer.dim // layer.num_heads
        features = features or max(1, int(width * math.log(width)))
        if features < 1 or (redraw_interval or 1) < 1:
            raise ValueError(
                "features and redraw_interval must be at least 1, or None, got "
                f"features={features}, redraw_interval={redraw_interval}"
            )
        self.kernel, self.redraw_interval = kernel, redraw_interval
        self.register_buffer("projection_matrix", torch.empty(features, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the projection."""
        num_features, width = self.projection_matrix.shape
        self.projection_matrix.copy_(orthogonal_rows(num_features, width, int(new_seed())))

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, H, S, D) -> (B, H, S, D); in 32 bits also under autocast, for the exponentials' sake."""
        work = working_dtype(v)
        projection = self._projection().to(work)
        with disabled(v.device.type):
            if self.kernel == "relu":
                q, k = relu_features(q.to(work), projection), relu_features(k.to(work), projection)
            else:
                q = softmax_features(q.to(work), projection, of_keys=False)
                k = softmax_features(k.to(work), projection, of_keys=True)
            return attention_by_features(q, k, v.to(work)).to(v.dtype)

    def _projection(self) -> Tensor:
        if not (self.training and self.redraw_interval):
            return self.projection_matrix
        projection = torch.ops.videofib.redrawn(self.projection_matrix, new_seed(), self.redraw_interval)
        self.projection_matrix.copy_(projection)
        return projection

    def multiply_adds(self, grid: Grid) -> int:
        """Of one sequence: projections, features of queries and keys, their products with values, denominators."""
        dim, features = self.proj.in_features, len(self.projection_matrix)
        return self.projections(grid) + self.sequence(grid) * features * (4 * dim + self.num_heads)

    def extra_repr(self) -> str:
        return (
            f"num_heads={self.num_heads}, features={len(self.projection_matrix)}, kernel={self.kernel!r}, "
            f"redraw_interval={self.redraw_interval}"
        )


def new_seed() -> Tensor:
    """A random number on the CPU, so that using it waits for no other device."""
    return torch.randint(LARGEST_SEED, (), device="cpu")


MIXER = Mixer(
    build=Performer,
    paper="arXiv 2009.14794",
    multiply_adds=Performer.multiply_adds,
    serves=frozenset({"class_token"}),
)
