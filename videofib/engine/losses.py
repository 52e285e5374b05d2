"""The losses of clips, as training averages them and as validation reports them.

B clips, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CrossEntropy(nn.Module):
    """The loss of clips of one class each: −log of the softmax score of that class.

    Args:
        label_smoothing: ε of the target (1 − ε) · one-hot + ε / K (arXiv 1512.00567, section 7).
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.label_smoothing = label_smoothing

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean over clips: logits (B, K), class indices (B,) or soft labels (B, K) -> a scalar."""
        return F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)

    def each(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of each clip, without label smoothing: logits (B, K), class indices (B,) -> (B,)."""
        return F.cross_entropy(logits, labels, reduction="none")


class BinaryCrossEntropy(nn.Module):
    """The loss of clips that may have several classes: the mean over classes of the binary cross-entropy."""

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean over clips: logits (B, K), targets (B, K) of 0 and 1 -> a scalar."""
        return F.binary_cross_entropy_with_logits(logits, targets)

    def each(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The loss of each clip: logits (B, K), targets (B, K) -> (B,)."""
        return F.binary_cross_entropy_with_logits(logits, targets, reduction="none").mean(dim=1)


def view_losses(loss: CrossEntropy | BinaryCrossEntropy, logits: Tensor, labels: Tensor) -> Tensor:
    """The loss of each video, the mean over its views: logits (B, V, K), labels (B,) or (B, K) -> (B,)."""
    by_view = [loss.each(view, labels) for view in logits.unbind(dim=1)]
    return torch.stack(by_view).mean(dim=0)
