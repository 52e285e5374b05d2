"""Nyströmformer: softmax attention through a few landmarks (arXiv 2102.03902).

Axes: B batch, H heads, S = P+N tokens, M = P+m landmarks, D width of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videofib.attention.autocast import disabled
from videofib.mixers.linear_attention import LinearAttention, working_dtype
from videofib.mixers.mixer import Grid, LayerSpec, Mixer, check_name

LANDMARKS = 64  # unless there are few patches
INITIAL = ("matrix", "batch")
PRODUCTS_PER_ITERATION = 4  # of M x M matrices


def nystrom_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    num_landmarks: int,
    *,
    num_prefix_tokens: int = 0,
    iterations: int = 6,
    initial: str = "matrix",
    scale: float | None = None,
) -> Tensor:
    """softmax(q k_lᵀ) softmax(q_l k_lᵀ)⁺ softmax(q_l kᵀ) v, equation 13 of the paper.

    It is softmax attention itself where there are no more patches than landmarks.

    Args:
        q, k, v: (B, H, S, D).
        num_landmarks: m, means of as many runs of patches; each prefix token is a landmark besides.
        num_prefix_tokens: P, of S tokens in front.
        iterations, initial: see :func:`pseudo_inverse`.
        scale: of q·k; 1/√D by default.

    Returns:
        (B, H, S, D).
    """
    if q.shape[2] - num_prefix_tokens <= num_landmarks:
        return F.scaled_dot_product_attention(q, k, v, scale=scale)
    q_l, k_l = (landmark_means(x, num_landmarks, num_prefix_tokens) for x in (q, k))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    between = torch.softmax(q_l @ k_l.transpose(-2, -1) * scale, dim=-1)  # (B, H, M, M)
    gathered = F.scaled_dot_product_attention(q_l, k, v, scale=scale)  # (B, H, M, D)
    return F.scaled_dot_product_attention(q, k_l, pseudo_inverse(between, iterations, initial) @ gathered, scale=scale)


def landmark_means(x: Tensor, num_landmarks: int, num_prefix_tokens: int = 0) -> Tensor:
    """The prefix tokens, and means of m runs of patches as equal as can be, shorter ones first.

    11 patches in 4 runs::

        0 1 | 2 3 4 | 5 6 7 | 8 9 10

    (B, H, S, D) -> (B, H, M, D).
    """
    prefix, patches = x[:, :, :num_prefix_tokens], x[:, :, num_prefix_tokens:]
    length, num_longer = divmod(int(patches.shape[2]), num_landmarks)
    num_shorter = num_landmarks - num_longer
    shorter, longer = patches.split([num_shorter * length, num_longer * (length + 1)], dim=2)
    means = [shorter.unflatten(2, (num_shorter, length)).mean(3)]
    if num_longer:
        means.append(longer.unflatten(2, (num_longer, length + 1)).mean(3))
    return torch.cat([prefix, *means], dim=2)


def pseudo_inverse(a: Tensor, iterations: int, initial: str = "matrix") -> Tensor:
    """Moore-Penrose inverse of matrices (B, H, M, M) whose rows sum to 1, by iteration: equation 14 of the paper.

    Args:
        a: what to invert.
        iterations: how often z becomes z/4 (13 - az (15 - az (7 - az))).
        initial: z begins as aᵀ divided by the largest sum of a column, of each ``matrix`` or of all in the ``batch``
            (as published; the output of a sample then depends on the others).
    """
    sums = a.sum(-2, keepdim=True)
    largest = sums.amax((-2, -1), keepdim=True) if initial == "matrix" else sums.amax()
    z, eye = a.transpose(-2, -1) / largest, torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    for _ in range(iterations):
        az = a @ z
        z = z / 4 @ (13 * eye - az @ (15 * eye - az @ (7 * eye - az)))
    return z


class Nystrom(LinearAttention):
    """Softmax attention through the means of runs of patches.

    A run is a piece of the tokens' order: of lines in ``"t h w"``, of patches over time in ``"h w t"``. Prefix tokens
    are landmarks of their own.

    Args:
        layer: the layer it is built for.
        landmarks: m; where a grid has no more patches, the layer computes softmax attention. None: 64, or half the
            patches where these are fewer.
        iterations, initial: see :func:`pseudo_inverse`.
        conv_kernel: None, or the odd size of a depthwise convolution along all tokens, whose output for values is added
            (the published code has 33 and 35 for long sequences).

    Raises:
        ValueError: a number out of range, an unknown name; dropout of attention weights, of which it has no matrix.
    """

    def __init__(
        self,
        layer: LayerSpec,
        *,
        landmarks: int | None = None,
        iterations: int = 6,
        initial: str = "matrix",
        conv_kernel: int | None = None,
    ):
        super().__init__(layer)
        check_name("initial", initial, INITIAL)
        if (landmarks is not None and landmarks < 1) or iterations < 1:
            raise ValueError(
                f"landmarks and iterations must be at least 1, got landmarks={landmarks}, iterations={iterations}"
            )
        if conv_kernel and (conv_kernel < 1 or conv_kernel % 2 == 0):
            raise ValueError(f"conv_kernel must be odd, got conv_kernel={conv_kernel}; None leaves the convolution out")
        self.landmarks, self.iterations, self.initial = landmarks, iterations, initial
        self.conv = None
        if conv_kernel:
            heads, padding = layer.num_heads, conv_kernel // 2
            self.conv = nn.Conv2d(heads, heads, (conv_kernel, 1), padding=(padding, 0), groups=heads, bias=False)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(B, H, S, D) -> (B, H, S, D); in 32 bits also under autocast, for the inverse magnifies what is rounded."""
        work = working_dtype(v)
        with disabled(v.device.type):
            out = nystrom_attention(
                q.to(work),
                k.to(work),
                v.to(work),
                self.landmarks_of(v.shape[2] - self.num_prefix_tokens),
                num_prefix_tokens=self.num_prefix_tokens,
                iterations=self.iterations,
                initial=self.initial,
            ).to(v.dtype)
        return out if self.conv is None else out + self.conv(v)

    def landmarks_of(self, num_patches: int) -> int:
        """m for N patches."""
        return min(LANDMARKS, max(1, int(num_patches) // 2)) if self.landmarks is None else self.landmarks

    def multiply_adds(self, grid: Grid) -> int:
        """Of one sequence: projections, the products of both matrices with S rows, the inverse, and the convolution."""
        dim, tokens = self.proj.in_features, self.sequence(grid)
        conv = 0 if self.conv is None else tokens * dim * self.conv.kernel_size[0]
        patches = tokens - self.num_prefix_tokens
        landmarks = self.landmarks_of(patches)
        if patches <= landmarks:
            return self.projections(grid) + 2 * tokens**2 * dim + conv
        m = self.num_prefix_tokens + landmarks
        inverse = PRODUCTS_PER_ITERATION * self.iterations * m**3 * self.num_heads
        return self.projections(grid) + 4 * tokens * m * dim + 2 * m**2 * dim + inverse + conv

    def extra_repr(self) -> str:
        return (
            f"num_heads={self.num_heads}, landmarks={self.landmarks}, iterations={self.iterations}, "
            f"initial={self.initial!r}"
        )


MIXER = Mixer(
    build=Nystrom,
    paper="arXiv 2102.03902",
    multiply_adds=Nystrom.multiply_adds,
    serves=frozenset({"class_token"}),
)
