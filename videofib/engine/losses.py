"""The losses of clips, as training averages them and as validation reports them.

B clips, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CrossEntropy(nn.Module):
    """The loss of clips of one class each: −log of the softmax score q of that class.

    With weights w the loss of a clip with target p is −Σ_c w_c p_c log q_c, whether p is one class, smoothed or mixed.
    The mean is over the clips: unlike torch's of class indices, which divides by the sum of their weights, it is the
    same for any division of a batch over processes and accumulated batches.

    Args:
        label_smoothing: ε of the target (1 − ε) · one-hot + ε / K (arXiv 1512.00567, section 7).
        weights: (K,), on the device of the logits; None: all classes count the same.
    """

    weights: Tensor | None

    def __init__(self, label_smoothing: float = 0.0, weights: Tensor | None = None) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing
        self.register_buffer("weights", weights)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean over clips: logits (B, K), class indices (B,) or soft labels (B, K) -> a scalar."""
        if self.weights is None:
            return F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        return self._each(logits, targets, self.label_smoothing).mean()

    def each(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of each clip, without label smoothing: logits (B, K), class indices (B,) -> (B,)."""
        return self._each(logits, labels, 0.0)

    def _each(self, logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        logits = _exact(logits)
        weights = None if self.weights is None else self.weights.to(logits.dtype)
        return F.cross_entropy(logits, targets, weights, reduction="none", label_smoothing=smoothing)


class BinaryCrossEntropy(nn.Module):
    """The loss of clips that may have several classes: the mean over classes of the binary cross-entropy.

    Args:
        weights: (K,), on the device of the logits, by which the loss of each class counts where a clip has it; None: as
            much as where it does not.
    """

    weights: Tensor | None

    def __init__(self, weights: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("weights", weights)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean over clips: logits (B, K), targets (B, K) of 0 and 1 -> a scalar."""
        if self.weights is None:
            return F.binary_cross_entropy_with_logits(logits, targets)
        return self.each(logits, targets).mean()

    def each(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of each clip: logits (B, K), targets (B, K) -> (B,)."""
        logits = _exact(logits)
        weights = None if self.weights is None else self.weights.to(logits.dtype)
        by_class = F.binary_cross_entropy_with_logits(logits, targets, reduction="none", pos_weight=weights)
        return by_class.mean(dim=1)


def balanced_weights(counts: Tensor) -> Tensor:
    """Weights with which all classes count the same in a sum over the training videos, and whose mean over these is 1.

    w_c = N / (C · n_c) of N videos, n_c of class c, and C classes that have any; 1 for a class that has none, which
    counts in soft targets and in validation alone.

    Args:
        counts: (K,), n_c.

    Returns:
        (K,) float64.
    """
    total, present = counts.sum().double(), counts > 0
    return torch.where(present, total / (present.sum() * counts.clamp(min=1)), 1.0)


def balanced_positive_weights(counts: Tensor, num_videos: int) -> Tensor:
    """Weights with which the videos that have a class count as much, together, as those that do not.

    w_c = (N − n_c) / n_c; 1 for a class that no video has, or every one, since nothing then balances it.

    Args:
        counts: (K,), how many of the ``num_videos`` have each class.

    Returns:
        (K,) float64.
    """
    without = num_videos - counts.double()
    return torch.where((counts > 0) & (without > 0), without / counts.clamp(min=1), 1.0)


def _exact(logits: Tensor) -> Tensor:
    """Logits of 16 bits in 32."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def view_losses(loss: CrossEntropy | BinaryCrossEntropy, logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of each video, the mean over its views: logits (B, V, K), labels (B,) or (B, K) -> (B,)."""
    by_view = [loss.each(view, labels) for view in logits.unbind(dim=1)]
    return torch.stack(by_view).mean(dim=0)
