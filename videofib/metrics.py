"""Accuracies and average precisions, in percent, and how the views of one video become one score.

B videos, V views each, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor


def ensemble_views(view_scores: Tensor, method: str = "sum") -> Tensor:
    """Reduce view scores (B, V, K) to video scores (B, K).

    Args:
        view_scores: softmax scores or logits, one row a view.
        method: ``sum`` takes the mean over views (which ranks classes as their sum does), ``max`` the maximum.
    """
    if method == "sum":
        return view_scores.mean(dim=1)
    if method == "max":
        return view_scores.amax(dim=1)
    raise ValueError(f"method must be 'sum' or 'max', got {method!r}")


def topk_correct(scores: Tensor, labels: Tensor, k: int) -> Tensor:
    """Whether the true class is among the k best: scores (..., K), labels (...) -> bool (...).

    Fewer than k classes are all among the best. A class tied with the true one counts as better, so that a model
    that says the same of every class is not credited for it.
    """
    true_score = scores.gather(-1, labels.unsqueeze(-1))
    not_worse = (~(scores < true_score)).sum(-1)  # the true class itself is one of them; nan is never right
    return not_worse <= min(k, scores.shape[-1])


def percent(correct: Tensor) -> float | None:
    """The mean of True and False (or of shares, 0 to 1) in percent; None where there is nothing to count."""
    return 100.0 * correct.double().mean().item() if correct.numel() else None


def per_class_accuracy(correct: Tensor, labels: Tensor, num_classes: int) -> list[float | None]:
    """Accuracy in percent of each class; None for a class without videos. correct and labels are (B,)."""
    return [percent(correct[labels == label]) for label in range(num_classes)]


def average_precisions(scores: Tensor, positive: Tensor) -> list[float | None]:
    """The average precision of each class in percent; None for a class without positives. Both (N, K), positive bool.

    The mean, over the positives of a class, of the precision among all videos that score as high as it or higher: the
    area below the curve of precision over recall as steps, as scikit-learn's ``average_precision_score``. Tied videos
    share a rank, so that their order in the list does not matter.
    """
    return [_average_precision(*columns) for columns in zip(scores.T, positive.T, strict=True)]


def _average_precision(scores: Tensor, positive: Tensor) -> float | None:
    own = scores[positive]
    if not own.numel():
        return None
    right, found = (_count_not_below(own, values) for values in (own, scores))
    return percent(right.double() / found)


def _count_not_below(limits: Tensor, values: Tensor) -> Tensor:
    """How many of the values are at least as large as each limit."""
    return len(values) - torch.searchsorted(values.sort().values, limits.contiguous())
