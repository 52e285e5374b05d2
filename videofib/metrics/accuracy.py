"""Accuracies and average precisions in percent, and how the scores of a video's views become one.

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


def view_subsets(num_views: int, num_crops: int) -> list[list[int]]:
    """Growing subsets of a video's views, to see how accuracy depends on their number; the last has all views.

    Views are ordered as they are read: all S crops of the first clip, then those of the next. First comes one view
    alone, the middle crop of the middle clip; then 1, 2, 3, 5, 10, 20, 30, 50, ... clips with all their crops, spread
    evenly over the T clips: each is the middle one of as many equal parts::

        T = 5, S = 1       1 clip   . . x . .       3 clips  x . x . x
                           2 clips  . x . x .       5 clips  x x x x x

    These are views of *this* test. A test of only t clips would take other ones: where clips are spread, its clips,
    too, reach from the first frame to the last (and a single clip is the middle one).

    Raises:
        ValueError: the number of views is not a multiple of the crops.
    """
    num_clips, rest = divmod(num_views, num_crops)
    if rest or not num_clips:
        raise ValueError(f"{num_views} views are not a multiple of the {num_crops} crops of a clip")
    counts = [digit * 10**power for power in range(len(str(num_clips))) for digit in (1, 2, 3, 5)]
    subsets = [[num_clips // 2 * num_crops + num_crops // 2]]
    for count in [*(count for count in counts if count < num_clips), num_clips]:
        clips = [(2 * part + 1) * num_clips // (2 * count) for part in range(count)]
        subsets.append([clip * num_crops + crop for clip in clips for crop in range(num_crops)])
    return subsets if num_crops > 1 else subsets[1:]  # whose first is the same single view


def confusion_matrix(predicted: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """How often each class (rows) was predicted as each class (columns): classes (B,), (B,) -> int64 (K, K)."""
    return torch.bincount(labels * num_classes + predicted, minlength=num_classes**2).view(num_classes, num_classes)


def most_confused(matrix: Tensor, count: int = 50) -> list[list[int]]:
    """[true class, predicted class, count] of the most frequent mistakes; ties in the order of classes."""
    mistakes = matrix.clone().fill_diagonal_(0).flatten()
    order = mistakes.argsort(descending=True, stable=True)[:count]
    return [[*divmod(cell, len(matrix)), int(mistakes[cell])] for cell in order.tolist() if mistakes[cell]]


def topk_correct(scores: Tensor, labels: Tensor, k: int) -> Tensor:
    """Whether the true class is among the k best: scores (..., K), labels (...) -> bool (...).

    Where there are fewer than k classes, all are among the best. A class tied with the true one counts as better, so
    that a model with the same score for every class gets no credit.
    """
    true_score = scores.gather(-1, labels.unsqueeze(-1))
    not_worse = (~(scores < true_score)).sum(-1)  # counts the true class itself; nan is never right
    return not_worse <= min(k, scores.shape[-1])


def percent(correct: Tensor) -> float | None:
    """The mean of booleans (or fractions, 0 to 1) in percent; None for an empty tensor."""
    return 100.0 * correct.double().mean().item() if correct.numel() else None


def per_class_accuracy(correct: Tensor, labels: Tensor, num_classes: int) -> list[float | None]:
    """Accuracy in percent of each class; None for a class without videos. correct and labels are (B,)."""
    return [percent(correct[labels == label]) for label in range(num_classes)]


def expected_calibration_error(scores: Tensor, correct: Tensor, bins: int = 15) -> float | None:
    """The difference between confidence and accuracy, in percent (Guo et al., arXiv 1706.04599, equation 3).

    Videos are put into bins of equal width by their best score; the mean over videos of the difference between a bin's
    accuracy and its mean confidence. scores (B, K), correct bool (B,). None where scores are not probabilities.
    """
    if not len(scores) or (scores.sum(dim=1) - 1).abs().max() > 1e-3 or scores.min() < 0:
        return None
    confidence = scores.amax(dim=1).double()
    bin_index = (confidence * bins).long().clamp(max=bins - 1)
    surplus = torch.zeros(bins, dtype=torch.float64).index_add_(0, bin_index, correct.double() - confidence)
    return 100.0 * surplus.abs().sum().item() / len(scores)


def average_precisions(scores: Tensor, positive: Tensor) -> list[float | None]:
    """The average precision of each class in percent; None for a class without positives. Both (N, K), positive bool.

    The mean, over the positives of a class, of the precision among all videos with at least their score: the area
    below the curve of precision over recall as steps, like scikit-learn's ``average_precision_score``. Tied videos
    share a rank, so the order of the list does not matter.
    """
    return [_average_precision(*columns) for columns in zip(scores.T, positive.T, strict=True)]


def _average_precision(scores: Tensor, positive: Tensor) -> float | None:
    own = scores[positive]
    if not own.numel():
        return None
    right, found = (_count_not_below(own, values) for values in (own, scores))
    return percent(right.double() / found)


def _count_not_below(limits: Tensor, values: Tensor) -> Tensor:
    """How many of the values are at least each limit."""
    return len(values) - torch.searchsorted(values.sort().values, limits.contiguous())
