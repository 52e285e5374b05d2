"""What makes a clip a likely one in the eyes of a teacher: losses of clips that are made without any video.

Each is a scalar to minimise. B clips, C T H W channels, frames, height, width; K classes; N patches, D width.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_POINTS = 10  # at which a density is estimated (PSAQ-ViT)
_LEAST = 1e-6  # of a density in a logarithm, of a bandwidth, and of a range


def imbalance(logits: Tensor) -> Tensor:
    """(B, K) -> how far a batch is from equally many clips of each class: the sum of p·log(K·p), p the mean scores.

    The information entropy loss of DAFL (arXiv 1904.01186), shifted so that 0 is balance and log K a single class.
    """
    mean = logits.float().softmax(1).mean(0)
    return (mean * (mean * logits.shape[1]).clamp_min(_LEAST).log()).sum()


def similarity_entropy(tokens: Tensor, points: int = _POINTS) -> Tensor:
    """The differential entropy of the cosine similarities of patches, a mean over sequences; at most log 2.

    PSAQ-ViT (arXiv 2203.02250): attention makes patches of a natural picture alike or not, and those of noise all the
    same. The density of the similarities of all pairs is estimated by Gaussian kernels, with Scott's bandwidth, at
    equally distant points from the least to the greatest; its entropy is the trapezoid rule's. Gradients pass through
    the points and the bandwidth, too.

    Args:
        tokens: (B, N, D) with N at least 3, so that there is more than one pair.
        points: at which the density is estimated.

    Raises:
        ValueError: fewer patches.
    """
    num_patches = tokens.shape[1]
    if num_patches < 3:
        raise ValueError(f"similarities of {num_patches} patches have no density; it takes at least 3")
    unit = F.normalize(tokens.float(), dim=2)
    row, column = torch.triu_indices(num_patches, num_patches, 1, device=tokens.device)
    pairs = (unit @ unit.mT)[:, row, column]
    bandwidth = pairs.std(1, keepdim=True).clamp_min(_LEAST) * pairs.shape[1] ** -0.2
    low, high = pairs.amin(1, keepdim=True), pairs.amax(1, keepdim=True)
    steps = torch.linspace(0, 1, points, device=tokens.device)
    at = low + (high - low).clamp_min(_LEAST) * steps
    offsets = (at[:, :, None] - pairs[:, None, :]) / bandwidth[:, :, None]
    density = (-0.5 * offsets**2).exp().mean(2) / (bandwidth * math.sqrt(2 * math.pi))
    return torch.trapezoid(-density * density.clamp_min(_LEAST).log(), at, dim=1).mean()


def total_variation(clips: Tensor) -> Tensor:
    """(B, C, T, H, W) -> mean difference of neighbouring pixels of a frame, down and across."""
    return clips.diff(dim=3).abs().mean() + clips.diff(dim=4).abs().mean()


def temporal_variation(clips: Tensor) -> Tensor:
    """(B, C, T, H, W) -> mean difference of a pixel from one frame to the next; 0 of a single frame."""
    return clips.diff(dim=2).abs().mean() if clips.shape[2] > 1 else clips.new_zeros(())


def agreement(teacher: Tensor, student: Tensor) -> Tensor:
    """(B, K), (B, K) -> minus the mean difference of their logits: clips are sought that a student does not know yet.

    The adversarial loss of DFAD (arXiv 1912.11006).
    """
    return -(teacher.float() - student.float()).abs().mean()
